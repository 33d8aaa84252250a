//! What the unit tests of this module share.

use std::time::Duration;

use crate::spec::request::CertificateSpec;
use crate::spec::volume::IssuerRef;
use crate::x509::{
    BasicConstraints, DistinguishedName, KeyAlgorithm, KeyUsages, NameConstraints, Template,
};

/// A request for a certificate that lasts `seconds`.
pub(crate) fn spec(seconds: u64) -> CertificateSpec {
    CertificateSpec {
        issuer: IssuerRef {
            group: "certmount.dev".to_owned(),
            kind: "ClusterIssuer".to_owned(),
            name: "ca".to_owned(),
        },
        template: Template {
            subject: DistinguishedName::default(),
            subject_alt_names: Vec::new(),
            usages: KeyUsages::default(),
            basic_constraints: BasicConstraints::EndEntity,
            name_constraints: NameConstraints::default(),
        },
        duration: Duration::from_secs(seconds),
        key_algorithm: KeyAlgorithm::EcdsaP256,
        renew_before: None,
        reuse_private_key: false,
    }
}
