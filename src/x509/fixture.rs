//! What several tests of this folder need.

use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::clock::Timestamp;

pub(super) const ALGORITHMS: [KeyAlgorithm; 5] = [
    KeyAlgorithm::EcdsaP256,
    KeyAlgorithm::EcdsaP384,
    KeyAlgorithm::EcdsaP521,
    KeyAlgorithm::Ed25519,
    KeyAlgorithm::Rsa2048,
];

pub(super) fn now() -> Timestamp {
    "2026-03-01T12:00:00Z".parse().unwrap()
}

/// What is asked for where it is certified by [`validity`].
pub(super) const LIFETIME: Duration = Duration::from_secs(24 * 3600);

/// From an hour ago until in a day.
pub(super) fn validity() -> Validity {
    let hour = Duration::from_secs(3600);
    Validity { not_before: now() - hour, not_after: now() + 24 * hour }
}

pub(super) fn key(algorithm: KeyAlgorithm) -> Arc<PrivateKey> {
    Arc::new(PrivateKey::generate(algorithm).unwrap())
}

/// An end entity of the dns names, for servers and clients.
pub(super) fn template(dns_names: &[&str]) -> Template {
    Template {
        subject: DistinguishedName::default(),
        subject_alt_names: dns_names.iter().map(|name| GeneralName::dns(name).unwrap()).collect(),
        usages: KeyUsages::parse(["digital signature", "server auth", "client auth"]).unwrap(),
        basic_constraints: BasicConstraints::EndEntity,
        name_constraints: NameConstraints::default(),
    }
}

/// A CA of any path length.
pub(crate) fn ca_template(subject: &str) -> Template {
    Template {
        subject: DistinguishedName::from_rfc4514(subject).unwrap(),
        subject_alt_names: Vec::new(),
        usages: KeyUsages::default(),
        basic_constraints: BasicConstraints::Ca { path_len: None },
        name_constraints: NameConstraints::default(),
    }
}

/// A self-signed CA.
pub(super) fn root(subject: &str, algorithm: KeyAlgorithm) -> CertificateAuthority {
    let key = key(algorithm);
    let certificate =
        self_sign(&ca_template(subject), &key, validity(), &AuthorityInformation::default());
    CertificateAuthority::new(vec![certificate.unwrap()], Vec::new(), key).unwrap()
}

/// A CA signed by `parent`.
pub(super) fn intermediate(subject: &str, parent: &CertificateAuthority) -> CertificateAuthority {
    let key = key(KeyAlgorithm::EcdsaP256);
    let certificate = sign(parent, &ca_template(subject), &key);
    let chain = [&[certificate], parent.intermediates()].concat();
    CertificateAuthority::new(chain, parent.trust_anchors().to_vec(), key).unwrap()
}

pub(super) fn sign(
    ca: &CertificateAuthority,
    template: &Template,
    key: &PrivateKey,
) -> Certificate {
    let information = AuthorityInformation::default();
    ca.sign(template, key.public_key_info(), validity(), &information).unwrap()
}

/// What an issuer with `ca` answers.
pub(super) fn issue(ca: &CertificateAuthority, template: &Template, key: &PrivateKey) -> Issued {
    Issued {
        chain: [&[sign(ca, template, key)], ca.intermediates()].concat(),
        trust_anchors: ca.trust_anchors().to_vec(),
    }
}

/// A bundle for `web.example` with one intermediate.
pub(super) fn bundle(algorithm: KeyAlgorithm) -> Bundle {
    let ca = intermediate("CN=intermediate", &root("CN=root", KeyAlgorithm::EcdsaP256));
    let (key, template) = (key(algorithm), template(&["web.example"]));
    let issued = issue(&ca, &template, &key);
    Bundle::new(key, issued, &template, LIFETIME, now()).unwrap()
}
