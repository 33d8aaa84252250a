//! What the unit tests of this folder and of those above share.

use std::time::Duration;

use super::request::CertificateSpec;
use super::volume::{IssuerRef, PodRef};
use crate::x509::{
    BasicConstraints, DistinguishedName, KeyAlgorithm, KeyUsages, NameConstraints, Template,
};

/// A request for a certificate without names that lasts `seconds`.
pub(crate) fn spec(seconds: u64) -> CertificateSpec {
    CertificateSpec {
        issuer: cluster_issuer("ca"),
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

/// One of certmount's own issuers.
pub(crate) fn cluster_issuer(name: &str) -> IssuerRef {
    IssuerRef {
        group: IssuerRef::BUILT_IN_GROUP.to_owned(),
        kind: "ClusterIssuer".to_owned(),
        name: name.to_owned(),
    }
}

/// A pod of the uid `uid-1`.
pub(crate) fn pod(namespace: &str, name: &str, service_account: &str) -> PodRef {
    PodRef {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        uid: "uid-1".to_owned(),
        service_account: service_account.to_owned(),
    }
}
