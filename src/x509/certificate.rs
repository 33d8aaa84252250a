//! Certificates as a CA returned them: parsed once, then only read.

use crate::clock::Timestamp;

/// From when until when a certificate holds (RFC 5280 §4.1.2.5), both inclusive.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Validity {
    pub not_before: Timestamp,
    pub not_after: Timestamp,
}

/// One parsed X.509 certificate. Cheap to clone.
#[derive(Clone)]
pub struct Certificate {
    _todo: (),
}

#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    #[error("not a certificate: {0}")]
    Unreadable(String),
}

impl Certificate {
    pub fn from_der(_der: Vec<u8>) -> Result<Self, CertificateError> {
        todo!()
    }
    pub fn der(&self) -> &[u8] {
        todo!()
    }
    pub fn validity(&self) -> Validity {
        todo!()
    }
    /// Lower-case hex, without separators or leading zero byte.
    pub fn serial_number(&self) -> String {
        todo!()
    }
    /// RFC 4514 text of the subject, for people.
    pub fn subject(&self) -> String {
        todo!()
    }
    /// RFC 4514 text of the issuer, for people.
    pub fn issuer(&self) -> String {
        todo!()
    }
    /// `dns:`, `ip:`, `uri:` and `email:` names, for people.
    pub fn names(&self) -> Vec<String> {
        todo!()
    }
    pub fn public_key_info(&self) -> &[u8] {
        todo!()
    }
    pub fn is_ca(&self) -> bool {
        todo!()
    }
    pub fn is_self_signed(&self) -> bool {
        todo!()
    }
    /// Whether `issuer`'s name is our issuer and its key made our signature.
    pub fn is_signed_by(&self, _issuer: &Self) -> bool {
        todo!()
    }
    /// SHA-256 over the DER.
    pub fn fingerprint(&self) -> [u8; 32] {
        todo!()
    }
}

impl std::fmt::Debug for Certificate {
    fn fmt(&self, _f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        todo!()
    }
}
