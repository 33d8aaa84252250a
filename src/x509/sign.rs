//! Making certification requests (PKCS#10, RFC 2986) and signing certificates (RFC 5280).

use std::sync::Arc;

use super::{Certificate, PrivateKey, Template, Validity};

/// A PKCS#10 request, signed by the key that it names.
#[derive(Clone, Debug)]
pub struct CertificationRequest {
    der: Vec<u8>,
}

/// Where verifiers of a certificate find more (RFC 5280 §4.2.1.13, §4.2.2.1).
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct AuthorityInformation {
    pub crl_distribution_points: Vec<String>,
    pub ocsp_servers: Vec<String>,
    pub issuing_certificate_urls: Vec<String>,
}

/// A CA certificate with its key and the chain above it, checked to fit.
#[derive(Debug)]
pub struct CertificateAuthority {
    _todo: (),
}

#[derive(Debug, thiserror::Error)]
pub enum SignError {
    #[error("{0}")]
    Unusable(String),
}

impl CertificationRequest {
    /// Asks for the subject and names of `template`; usages are for the issuer to set.
    pub fn new(_template: &Template, _key: &PrivateKey) -> Result<Self, SignError> {
        todo!()
    }
    pub fn der(&self) -> &[u8] {
        &self.der
    }
    pub fn to_pem(&self) -> String {
        todo!()
    }
}

impl CertificateAuthority {
    /// `chain`: the signing CA first, then what is above it in any order; `anchors`: more
    /// certificates, of which the roots become trust anchors.
    ///
    /// Refuses a key that is not the CA's and a certificate that may not sign.
    pub fn new(
        _chain: Vec<Certificate>,
        _anchors: Vec<Certificate>,
        _key: Arc<PrivateKey>,
    ) -> Result<Self, SignError> {
        todo!()
    }
    pub fn certificate(&self) -> &Certificate {
        todo!()
    }
    /// What belongs between a leaf and the trust anchor: the signing CA unless it is a root, then on.
    pub fn intermediates(&self) -> &[Certificate] {
        todo!()
    }
    pub fn trust_anchors(&self) -> &[Certificate] {
        todo!()
    }
    /// Signs a certificate for `public_key_info`, with a random serial number. `validity` is taken
    /// as it is: the caller has cut it to the CA's own.
    pub fn sign(
        &self,
        _template: &Template,
        _public_key_info: &[u8],
        _validity: Validity,
        _information: &AuthorityInformation,
    ) -> Result<Certificate, SignError> {
        todo!()
    }
}

/// A certificate signed by its own key; an empty subject becomes the first name, or `certmount`.
pub fn self_sign(
    _template: &Template,
    _key: &PrivateKey,
    _validity: Validity,
    _information: &AuthorityInformation,
) -> Result<Certificate, SignError> {
    todo!()
}
