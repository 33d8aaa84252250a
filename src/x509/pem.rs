//! PEM (RFC 7468).

use super::{Certificate, CertificateError};

/// The certificates one after the other, each ending in a newline.
pub fn chain_to_pem<'a>(_certificates: impl IntoIterator<Item = &'a Certificate>) -> String {
    todo!()
}

/// All certificates of a PEM text; other blocks and text between blocks are passed over.
pub fn certificates_from_pem(_pem: &[u8]) -> Result<Vec<Certificate>, CertificateError> {
    todo!()
}
