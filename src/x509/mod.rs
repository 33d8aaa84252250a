//! Keys, certification requests, certificates, chains and their encodings.
//!
//! The only part of certmount that touches x509-cert, x509-parser and the keys of aws-lc-rs. Everything that comes
//! from a CA is parsed here once, and only [`Bundle::new`] makes something that may be written
//! into a volume.

mod bundle;
mod certificate;
mod chain;
mod digest;
mod extension;
#[cfg(test)]
pub(crate) mod fixture;
mod jose;
mod key;
mod keystore;
mod name;
mod name_constraints;
mod pem;
mod sign;
mod usage;

pub use bundle::{Bundle, BundleError, Issued, MOST_TRUST_ANCHORS};
pub use certificate::{Certificate, CertificateError, SignatureError, Validity};
pub use digest::sha256;
pub use jose::Jwk;
pub use key::{KeyAlgorithm, KeyEncoding, KeyError, PrivateKey};
pub use keystore::{
    KeystoreError, Pkcs12Profile, jks_keystore, jks_truststore, pkcs12_keystore, pkcs12_truststore,
};
pub use name::{DistinguishedName, GeneralName, NameError};
pub use name_constraints::{NameConstraints, NameNotAllowed, NameSubtree};
pub use pem::{PemError, certificates_from_pem, chain_to_pem};
pub use sign::{
    AuthorityInformation, CertificateAuthority, CertificationRequest, SignError,
    acme_challenge_certificate, self_sign,
};
pub use usage::{ExtendedKeyUsage, KeyUsage, KeyUsages, UsageError};

/// What a certificate shall say, apart from its key, serial number, issuer and validity.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Template {
    /// The subject; empty when the names below say it all (RFC 5280 §4.1.2.6).
    pub subject: DistinguishedName,
    /// The subject alternative names, in the order asked for, without duplicates.
    pub subject_alt_names: Vec<GeneralName>,
    /// Key usage and extended key usage.
    pub usages: KeyUsages,
    /// Whether the certificate may itself sign others, and how long a chain may follow it.
    pub basic_constraints: BasicConstraints,
    /// Which names a CA may sign; of no effect where the certificate is none.
    pub name_constraints: NameConstraints,
}

/// RFC 5280 §4.2.1.9.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum BasicConstraints {
    /// Not a CA.
    EndEntity,
    /// A CA, with the number of intermediates that may follow.
    Ca {
        /// `None`: any number.
        path_len: Option<u8>,
    },
}
