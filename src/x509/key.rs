//! Private keys: made on the node, zeroized when dropped, never printed.

use std::fmt;

use zeroize::Zeroizing;

/// The kind and size of a key.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum KeyAlgorithm {
    EcdsaP256,
    EcdsaP384,
    EcdsaP521,
    Ed25519,
    Rsa2048,
    Rsa3072,
    Rsa4096,
    Rsa8192,
}

impl KeyAlgorithm {
    /// Whether making a key takes long enough to be done one at a time, off the async threads.
    pub fn is_slow(self) -> bool {
        matches!(self, Self::Rsa2048 | Self::Rsa3072 | Self::Rsa4096 | Self::Rsa8192)
    }
}

/// How a private key is written.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum KeyEncoding {
    /// `BEGIN RSA PRIVATE KEY` (RFC 8017 A.1.2), RSA only.
    Pkcs1,
    /// `BEGIN PRIVATE KEY` (RFC 5208), every algorithm.
    Pkcs8,
    /// `BEGIN EC PRIVATE KEY` (RFC 5915), ECDSA only.
    Sec1,
}

/// A private key. Has no `Clone` and no `Serialize`; `Debug` shows the algorithm only.
pub struct PrivateKey {
    _todo: (),
}

/// Why a key could not be made, read or written.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error("the key cannot be read: {0}")]
    Unreadable(String),
}

impl PrivateKey {
    /// Makes a new key. RSA takes tens of milliseconds to seconds: keep it off async threads.
    pub fn generate(_algorithm: KeyAlgorithm) -> Result<Self, KeyError> {
        todo!()
    }
    /// Reads one PEM key: PKCS#8, PKCS#1 or SEC1.
    pub fn from_pem(_pem: &[u8]) -> Result<Self, KeyError> {
        todo!()
    }
    pub fn from_pkcs8_der(_der: &[u8]) -> Result<Self, KeyError> {
        todo!()
    }
    pub fn algorithm(&self) -> KeyAlgorithm {
        todo!()
    }
    /// The DER SubjectPublicKeyInfo (RFC 5280 §4.1.2.7).
    pub fn public_key_info(&self) -> &[u8] {
        todo!()
    }
    /// PKCS#8 v1 DER.
    pub fn pkcs8_der(&self) -> &[u8] {
        todo!()
    }
    pub fn to_pem(&self, _encoding: KeyEncoding) -> Result<Zeroizing<String>, KeyError> {
        todo!()
    }
    /// The DER of the encoding, without PEM armour.
    pub fn to_der(&self, _encoding: KeyEncoding) -> Result<Zeroizing<Vec<u8>>, KeyError> {
        todo!()
    }
    /// `BEGIN ENCRYPTED PRIVATE KEY` (RFC 5958): PBES2, PBKDF2-HMAC-SHA-256, AES-256-CBC.
    pub fn to_encrypted_pem(&self, _password: &str) -> Result<Zeroizing<String>, KeyError> {
        todo!()
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, _f: &mut fmt::Formatter<'_>) -> fmt::Result {
        todo!()
    }
}
