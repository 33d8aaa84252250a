//! PKCS#12 (RFC 7292) and JKS keystores and truststores.

use zeroize::Zeroizing;

use super::{Bundle, Certificate};

/// Which algorithms a PKCS#12 file uses; names as in cert-manager.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Pkcs12Profile {
    /// 3DES and SHA-1: for Java 8 and old Windows.
    LegacyDes,
    /// RC2-40 and SHA-1: what cert-manager's csi-driver writes; OpenSSL 3 refuses it.
    LegacyRc2,
    /// AES-256 and SHA-256.
    Modern2023,
}

#[derive(Debug, thiserror::Error)]
#[error("the keystore cannot be written: {0}")]
pub struct KeystoreError(pub String);

/// Key, leaf and intermediates under `alias`, and the trust anchors.
pub fn pkcs12_keystore(
    _bundle: &Bundle,
    _alias: &str,
    _password: &str,
    _profile: Pkcs12Profile,
) -> Result<Zeroizing<Vec<u8>>, KeystoreError> {
    todo!()
}

/// The trust anchors only.
pub fn pkcs12_truststore(
    _anchors: &[Certificate],
    _password: &str,
    _profile: Pkcs12Profile,
) -> Result<Vec<u8>, KeystoreError> {
    todo!()
}

pub fn jks_keystore(
    _bundle: &Bundle,
    _alias: &str,
    _password: &str,
) -> Result<Zeroizing<Vec<u8>>, KeystoreError> {
    todo!()
}

pub fn jks_truststore(_anchors: &[Certificate], _password: &str) -> Result<Vec<u8>, KeystoreError> {
    todo!()
}
