//! Private keys: made on the node, zeroized when dropped, never printed.
//!
//! Whatever form a key is read from, it is kept and handed out as PKCS#8 version 1, because OpenSSL
//! 3.0 and others refuse version 2. The cryptography is all aws-lc-rs.

use std::fmt;

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der, PublicKeyX509Der};
use aws_lc_rs::error::Unspecified;
use aws_lc_rs::rand::{SecureRandom as _, SystemRandom};
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P384_SHA384_ASN1_SIGNING, ECDSA_P521_SHA512_ASN1_SIGNING,
    EcdsaKeyPair, EcdsaSigningAlgorithm, Ed25519KeyPair, KeyPair as _, RSA_PKCS1_SHA256,
    RsaKeyPair,
};
use der::asn1::{BitStringRef, ObjectIdentifier, OctetStringRef};
use der::oid::db::rfc5912 as oids;
use der::oid::db::rfc8410::ID_ED_25519;
use der::{Decode as _, Encode as _, Sequence};
use pkcs8::PrivateKeyInfoRef;
use pkcs8::pkcs5::pbes2;
use rustls_pki_types::{AlgorithmIdentifier, alg_id};
use zeroize::Zeroizing;

use super::pem::{self, PemError};

/// The kind and size of a key.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum KeyAlgorithm {
    /// ECDSA on NIST P-256, signing with SHA-256
    EcdsaP256,
    /// ECDSA on NIST P-384, signing with SHA-384
    EcdsaP384,
    /// ECDSA on NIST P-521, signing with SHA-512
    EcdsaP521,
    /// Ed25519 (RFC 8410)
    Ed25519,
    /// RSA of 2048 bits, signing with PKCS#1 v1.5 and SHA-256, as all sizes do
    Rsa2048,
    /// RSA of 3072 bits
    Rsa3072,
    /// RSA of 4096 bits
    Rsa4096,
    /// RSA of 8192 bits
    Rsa8192,
}

impl KeyAlgorithm {
    /// Whether making a key takes long enough to be done one at a time, and signing with it too long
    /// for async threads.
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
    algorithm: KeyAlgorithm,
    pair: KeyPair,
    pkcs8: Zeroizing<Vec<u8>>,
    public_key_info: Vec<u8>,
}

/// Why a key could not be made, read or written.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The text holds no key.
    #[error(
        "no private key found; expected a PEM block that begins with BEGIN PRIVATE KEY, BEGIN RSA PRIVATE KEY or BEGIN EC PRIVATE KEY"
    )]
    Missing,
    /// The key has a passphrase.
    #[error("the private key is encrypted; give it without a passphrase")]
    Encrypted,
    /// The PEM text around the key is damaged.
    #[error("the private key cannot be read")]
    Pem(#[source] PemError),
    /// Not a key, or one whose parts do not belong together.
    #[error("the private key cannot be read: {0}")]
    Unreadable(&'static str),
    /// A key of a kind or size that is not used here.
    #[error(
        "the private key is {0}; use ECDSA P-256, P-384 or P-521, Ed25519, or RSA of 2048, 3072, 4096 or 8192 bits"
    )]
    Unsupported(String),
    /// The encoding exists for other algorithms only.
    #[error("{algorithm} keys have no {encoding} encoding; use PKCS8")]
    Encoding {
        /// The key's.
        algorithm: KeyAlgorithm,
        /// The one asked for.
        encoding: KeyEncoding,
    },
    /// A key without a password where it must have one.
    #[error("the password is empty; give one, or write the key unencrypted")]
    EmptyPassword,
    /// The cryptographic library failed.
    #[error("the cryptographic library failed to {0}")]
    Library(&'static str),
}

impl PrivateKey {
    /// Makes a new key. RSA takes tens of milliseconds to seconds: keep it off async threads.
    ///
    /// # Errors
    ///
    /// Only if the machine gives no randomness or no memory.
    pub fn generate(algorithm: KeyAlgorithm) -> Result<Self, KeyError> {
        let pair = match algorithm {
            KeyAlgorithm::EcdsaP256 => {
                EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).map(KeyPair::Ecdsa)
            }
            KeyAlgorithm::EcdsaP384 => {
                EcdsaKeyPair::generate(&ECDSA_P384_SHA384_ASN1_SIGNING).map(KeyPair::Ecdsa)
            }
            KeyAlgorithm::EcdsaP521 => {
                EcdsaKeyPair::generate(&ECDSA_P521_SHA512_ASN1_SIGNING).map(KeyPair::Ecdsa)
            }
            KeyAlgorithm::Ed25519 => Ed25519KeyPair::generate().map(KeyPair::Ed25519),
            KeyAlgorithm::Rsa2048 => RsaKeyPair::generate(KeySize::Rsa2048).map(KeyPair::Rsa),
            KeyAlgorithm::Rsa3072 => RsaKeyPair::generate(KeySize::Rsa3072).map(KeyPair::Rsa),
            KeyAlgorithm::Rsa4096 => RsaKeyPair::generate(KeySize::Rsa4096).map(KeyPair::Rsa),
            KeyAlgorithm::Rsa8192 => RsaKeyPair::generate(KeySize::Rsa8192).map(KeyPair::Rsa),
        };
        Self::new(algorithm, pair.map_err(|Unspecified| KeyError::Library("make a key"))?)
    }

    /// Reads the first key of a PEM text: PKCS#8, PKCS#1 or SEC1, unencrypted.
    ///
    /// # Errors
    ///
    /// No key, an encrypted or damaged one, or one of an algorithm that is not used here.
    pub fn from_pem(text: &[u8]) -> Result<Self, KeyError> {
        for block in pem::blocks(text) {
            let block = block.map_err(KeyError::Pem)?;
            let read = match block.label {
                b"PRIVATE KEY" => Self::from_pkcs8_der,
                b"RSA PRIVATE KEY" => Self::from_pkcs1_der,
                b"EC PRIVATE KEY" => Self::from_sec1_der,
                b"ENCRYPTED PRIVATE KEY" => return Err(KeyError::Encrypted),
                _ => continue,
            };
            // The headers of RFC 1421, which OpenSSL's old format still uses.
            if block.body.trim_ascii_start().starts_with(b"Proc-Type:") {
                return Err(KeyError::Encrypted);
            }
            return read(&block.decode().map_err(KeyError::Pem)?);
        }
        Err(KeyError::Missing)
    }

    /// Reads a PKCS#8 key of version 1 (RFC 5208) or 2 (RFC 5958).
    ///
    /// # Errors
    ///
    /// A damaged key, or one of an algorithm that is not used here.
    pub fn from_pkcs8_der(der: &[u8]) -> Result<Self, KeyError> {
        let info = PrivateKeyInfoRef::try_from(der)
            .map_err(|_| KeyError::Unreadable("it is not PKCS#8"))?;
        let algorithm = info.algorithm.oid;
        match (algorithm, info.algorithm.parameters_oid()) {
            (oids::ID_EC_PUBLIC_KEY, Ok(curve)) => {
                Self::from_ecdsa(curve, info.private_key.as_bytes())
            }
            (oids::RSA_ENCRYPTION, _) => Self::from_pkcs1_der(info.private_key.as_bytes()),
            (ID_ED_25519, _) => {
                let pair = Ed25519KeyPair::from_pkcs8(der).map_err(|_| INCONSISTENT)?;
                Self::new(KeyAlgorithm::Ed25519, KeyPair::Ed25519(pair))
            }
            _ => Err(KeyError::Unsupported(format!("of algorithm {algorithm}"))),
        }
    }

    fn from_pkcs1_der(der: &[u8]) -> Result<Self, KeyError> {
        let pair =
            RsaKeyPair::from_der(der).map_err(|rejected| match rejected.to_string().as_str() {
                "TooSmall" => KeyError::Unsupported("RSA of less than 2048 bits".to_owned()),
                "TooLarge" => KeyError::Unsupported("RSA of more than 8192 bits".to_owned()),
                _ => INCONSISTENT,
            })?;
        let algorithm = match pair.public_modulus_len() * 8 {
            2048 => KeyAlgorithm::Rsa2048,
            3072 => KeyAlgorithm::Rsa3072,
            4096 => KeyAlgorithm::Rsa4096,
            8192 => KeyAlgorithm::Rsa8192,
            bits => return Err(KeyError::Unsupported(format!("RSA of {bits} bits"))),
        };
        Self::new(algorithm, KeyPair::Rsa(pair))
    }

    fn from_sec1_der(der: &[u8]) -> Result<Self, KeyError> {
        let key =
            EcPrivateKey::from_der(der).map_err(|_| KeyError::Unreadable("it is not SEC1"))?;
        let curve = key.parameters.ok_or(KeyError::Unreadable("it does not name its curve"))?;
        Self::from_ecdsa(curve, der)
    }

    fn from_ecdsa(curve: ObjectIdentifier, sec1: &[u8]) -> Result<Self, KeyError> {
        let (algorithm, _, signing) = CURVES
            .into_iter()
            .find(|(_, known, _)| *known == curve)
            .ok_or_else(|| KeyError::Unsupported(format!("ECDSA on curve {curve}")))?;
        let pair = EcdsaKeyPair::from_private_key_der(signing, sec1).map_err(|_| INCONSISTENT)?;
        Self::new(algorithm, KeyPair::Ecdsa(pair))
    }

    fn new(algorithm: KeyAlgorithm, pair: KeyPair) -> Result<Self, KeyError> {
        let encode = || {
            let (pkcs8, public_key): (_, PublicKeyX509Der<'_>) = match &pair {
                KeyPair::Ecdsa(pair) => (
                    Zeroizing::new(pair.to_pkcs8v1()?.as_ref().to_vec()),
                    pair.public_key().as_der()?,
                ),
                KeyPair::Ed25519(pair) => (
                    Zeroizing::new(pair.to_pkcs8v1()?.as_ref().to_vec()),
                    pair.public_key().as_der()?,
                ),
                KeyPair::Rsa(pair) => {
                    let pkcs8: Pkcs8V1Der<'_> = pair.as_der()?;
                    (Zeroizing::new(pkcs8.as_ref().to_vec()), pair.public_key().as_der()?)
                }
            };
            Ok((pkcs8, public_key.as_ref().to_vec()))
        };
        let (pkcs8, public_key_info) =
            encode().map_err(|Unspecified| KeyError::Library("encode a key"))?;
        Ok(Self { algorithm, pair, pkcs8, public_key_info })
    }

    /// The kind and size.
    pub fn algorithm(&self) -> KeyAlgorithm {
        self.algorithm
    }

    /// The DER SubjectPublicKeyInfo (RFC 5280 §4.1.2.7).
    pub fn public_key_info(&self) -> &[u8] {
        &self.public_key_info
    }

    /// PKCS#8 v1 DER.
    pub fn pkcs8_der(&self) -> &[u8] {
        &self.pkcs8
    }

    /// One PEM block of the encoding, ending in a newline.
    ///
    /// # Errors
    ///
    /// The encoding does not exist for the key's algorithm.
    pub fn to_pem(&self, encoding: KeyEncoding) -> Result<Zeroizing<String>, KeyError> {
        let label = match encoding {
            KeyEncoding::Pkcs1 => "RSA PRIVATE KEY",
            KeyEncoding::Pkcs8 => "PRIVATE KEY",
            KeyEncoding::Sec1 => "EC PRIVATE KEY",
        };
        Ok(Zeroizing::new(pem::encode(label, &self.to_der(encoding)?)))
    }

    /// The DER of the encoding, without PEM armour.
    ///
    /// # Errors
    ///
    /// The encoding does not exist for the key's algorithm.
    pub fn to_der(&self, encoding: KeyEncoding) -> Result<Zeroizing<Vec<u8>>, KeyError> {
        if encoding == KeyEncoding::Pkcs8 {
            return Ok(self.pkcs8.clone());
        }
        let info = self.info();
        let inner = info.private_key.as_bytes();
        match (encoding, &self.pair) {
            (KeyEncoding::Pkcs1, KeyPair::Rsa(_)) => Ok(Zeroizing::new(inner.to_vec())),
            (KeyEncoding::Sec1, KeyPair::Ecdsa(_)) => {
                // PKCS#8 names the curve outside of the key; on its own the key has to name it.
                let key = EcPrivateKey::from_der(inner).expect("aws-lc writes RFC 5915");
                let key = EcPrivateKey { parameters: info.algorithm.parameters_oid().ok(), ..key };
                Ok(Zeroizing::new(key.to_der().expect("its parts were DER")))
            }
            _ => Err(KeyError::Encoding { algorithm: self.algorithm, encoding }),
        }
    }

    /// `BEGIN ENCRYPTED PRIVATE KEY` (RFC 5958): PBES2, PBKDF2-HMAC-SHA-256, AES-256-CBC.
    ///
    /// # Errors
    ///
    /// An empty password.
    pub fn to_encrypted_pem(&self, password: &str) -> Result<Zeroizing<String>, KeyError> {
        if password.is_empty() {
            return Err(KeyError::EmptyPassword);
        }
        let encrypted = pbes2::Parameters::generate_pbkdf2_sha256_aes256cbc(
            PBKDF2_ITERATIONS,
            &random::<16>()?,
            random()?,
        )
        .map_err(pkcs8::Error::from)
        .and_then(|parameters| self.info().encrypt_with_params(parameters, password))
        .map_err(|_| KeyError::Library("encrypt a key"))?;
        Ok(Zeroizing::new(pem::encode("ENCRYPTED PRIVATE KEY", encrypted.as_bytes())))
    }

    fn info(&self) -> PrivateKeyInfoRef<'_> {
        PrivateKeyInfoRef::try_from(self.pkcs8_der()).expect("aws-lc writes PKCS#8")
    }

    /// The signature over `message`, in the form that X.509 carries.
    pub(super) fn sign(&self, message: &[u8]) -> Result<Vec<u8>, KeyError> {
        let signature = match &self.pair {
            KeyPair::Ecdsa(pair) => pair
                .sign(&SystemRandom::new(), message)
                .map(|signature| signature.as_ref().to_vec()),
            KeyPair::Ed25519(pair) => {
                pair.try_sign(message).map(|signature| signature.as_ref().to_vec())
            }
            KeyPair::Rsa(pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), message, &mut signature)
                    .map(|()| signature)
            }
        };
        signature.map_err(|Unspecified| KeyError::Library("sign"))
    }

    /// The public half without its algorithm: a point, an RSAPublicKey, or the bytes of Ed25519.
    pub(super) fn public_key_bytes(&self) -> &[u8] {
        match &self.pair {
            KeyPair::Ecdsa(pair) => pair.public_key().as_ref(),
            KeyPair::Ed25519(pair) => pair.public_key().as_ref(),
            KeyPair::Rsa(pair) => pair.public_key().as_ref(),
        }
    }

    /// The AlgorithmIdentifier of [`PrivateKey::sign`]'s signatures, without its SEQUENCE header.
    pub(super) fn signature_identifier(&self) -> AlgorithmIdentifier {
        match self.algorithm {
            KeyAlgorithm::EcdsaP256 => alg_id::ECDSA_SHA256,
            KeyAlgorithm::EcdsaP384 => alg_id::ECDSA_SHA384,
            KeyAlgorithm::EcdsaP521 => alg_id::ECDSA_SHA512,
            KeyAlgorithm::Ed25519 => alg_id::ED25519,
            KeyAlgorithm::Rsa2048
            | KeyAlgorithm::Rsa3072
            | KeyAlgorithm::Rsa4096
            | KeyAlgorithm::Rsa8192 => alg_id::RSA_PKCS1_SHA256,
        }
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PrivateKey").field("algorithm", &self.algorithm).finish_non_exhaustive()
    }
}

impl fmt::Display for KeyAlgorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::EcdsaP256 => "ECDSA P-256",
            Self::EcdsaP384 => "ECDSA P-384",
            Self::EcdsaP521 => "ECDSA P-521",
            Self::Ed25519 => "Ed25519",
            Self::Rsa2048 => "RSA 2048",
            Self::Rsa3072 => "RSA 3072",
            Self::Rsa4096 => "RSA 4096",
            Self::Rsa8192 => "RSA 8192",
        })
    }
}

impl fmt::Display for KeyEncoding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pkcs1 => "PKCS1",
            Self::Pkcs8 => "PKCS8",
            Self::Sec1 => "SEC1",
        })
    }
}

/// Bytes from the operating system's generator.
pub(super) fn random<const N: usize>() -> Result<[u8; N], KeyError> {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).map_err(|_| KeyError::Library("get random bytes"))?;
    Ok(bytes)
}

enum KeyPair {
    Ecdsa(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
    Rsa(RsaKeyPair),
}

/// ECPrivateKey (RFC 5915 §3).
#[derive(Sequence)]
struct EcPrivateKey<'a> {
    version: u8,
    private_key: &'a OctetStringRef,
    #[asn1(context_specific = "0", tag_mode = "EXPLICIT", optional = "true")]
    parameters: Option<ObjectIdentifier>,
    #[asn1(context_specific = "1", tag_mode = "EXPLICIT", optional = "true")]
    public_key: Option<BitStringRef<'a>>,
}

const INCONSISTENT: KeyError =
    KeyError::Unreadable("it is damaged, or its parts do not belong together");

const CURVES: [(KeyAlgorithm, ObjectIdentifier, &EcdsaSigningAlgorithm); 3] = [
    (KeyAlgorithm::EcdsaP256, oids::SECP_256_R_1, &ECDSA_P256_SHA256_ASN1_SIGNING),
    (KeyAlgorithm::EcdsaP384, oids::SECP_384_R_1, &ECDSA_P384_SHA384_ASN1_SIGNING),
    (KeyAlgorithm::EcdsaP521, oids::SECP_521_R_1, &ECDSA_P521_SHA512_ASN1_SIGNING),
];

/// 10 ms of work on a node's core: what a publish can wait for, and fifty times OpenSSL's default.
const PBKDF2_ITERATIONS: u32 = 100_000;

#[cfg(test)]
mod tests {
    use pkcs8::EncryptedPrivateKeyInfoRef;
    use proptest::prelude::*;

    use super::super::fixture::ALGORITHMS;
    use super::*;

    #[test]
    fn every_encoding_is_read_back_as_the_same_key() {
        for algorithm in ALGORITHMS {
            let key = PrivateKey::generate(algorithm).unwrap();
            assert_eq!(key.algorithm(), algorithm);
            for encoding in [KeyEncoding::Pkcs1, KeyEncoding::Pkcs8, KeyEncoding::Sec1] {
                let exists = match encoding {
                    KeyEncoding::Pkcs1 => algorithm == KeyAlgorithm::Rsa2048,
                    KeyEncoding::Pkcs8 => true,
                    KeyEncoding::Sec1 => CURVES.iter().any(|(known, ..)| *known == algorithm),
                };
                match key.to_pem(encoding) {
                    Ok(pem) if exists => {
                        let read = PrivateKey::from_pem(pem.as_bytes()).unwrap();
                        assert_eq!(read.pkcs8_der(), key.pkcs8_der());
                        assert_eq!(read.public_key_info(), key.public_key_info());
                    }
                    Err(KeyError::Encoding { .. }) if !exists => {}
                    result => panic!("{algorithm} {encoding}: {result:?}"),
                }
            }
        }
    }

    #[test]
    fn a_missing_encoding_names_one_that_exists() {
        let key = PrivateKey::generate(KeyAlgorithm::Ed25519).unwrap();
        let error = key.to_pem(KeyEncoding::Pkcs1).unwrap_err().to_string();
        assert_eq!(error, "Ed25519 keys have no PKCS1 encoding; use PKCS8");
    }

    #[test]
    fn version_2_keys_become_version_1() {
        let pair = Ed25519KeyPair::generate().unwrap();
        let version_2 = pair.to_pkcs8().unwrap();
        let key = PrivateKey::from_pkcs8_der(version_2.as_ref()).unwrap();
        assert_eq!(key.pkcs8_der(), pair.to_pkcs8v1().unwrap().as_ref());
        assert_eq!(key.pkcs8_der().len(), 48);
    }

    #[test]
    fn an_encrypted_key_opens_with_its_password_only() {
        let key = PrivateKey::generate(KeyAlgorithm::EcdsaP256).unwrap();
        let pem = key.to_encrypted_pem("pässword").unwrap();
        let block = pem::blocks(pem.as_bytes()).next().unwrap().unwrap();
        assert_eq!(block.label, b"ENCRYPTED PRIVATE KEY");
        let der = block.decode().unwrap();
        let encrypted = EncryptedPrivateKeyInfoRef::try_from(&der[..]).unwrap();
        assert_eq!(encrypted.decrypt("pässword").unwrap().as_bytes(), key.pkcs8_der());
        encrypted.decrypt("password").unwrap_err();
        assert!(matches!(PrivateKey::from_pem(pem.as_bytes()), Err(KeyError::Encrypted)));
        assert!(matches!(key.to_encrypted_pem(""), Err(KeyError::EmptyPassword)));
        assert_ne!(*key.to_encrypted_pem("pässword").unwrap(), *pem);
    }

    #[test]
    fn parts_that_do_not_belong_together_are_refused() {
        let [mine, theirs] = [(); 2].map(|()| {
            PrivateKey::generate(KeyAlgorithm::EcdsaP256)
                .unwrap()
                .to_der(KeyEncoding::Sec1)
                .unwrap()
        });
        let [mine, theirs] = [&mine, &theirs].map(|der| EcPrivateKey::from_der(der).unwrap());
        let mixed = EcPrivateKey { public_key: theirs.public_key, ..mine };
        let pem = pem::encode("EC PRIVATE KEY", &mixed.to_der().unwrap());
        let error = PrivateKey::from_pem(pem.as_bytes()).unwrap_err();
        assert!(matches!(error, KeyError::Unreadable(_)), "{error}");
    }

    #[test]
    fn nothing_of_a_key_is_printed() {
        let key = PrivateKey::generate(KeyAlgorithm::EcdsaP256).unwrap();
        assert_eq!(format!("{key:?}"), "PrivateKey { algorithm: EcdsaP256, .. }");
    }

    proptest! {
        #[test]
        fn no_damage_panics(at in 0..200usize, byte: u8) {
            let key = PrivateKey::generate(KeyAlgorithm::EcdsaP256).unwrap();
            for encoding in [KeyEncoding::Pkcs8, KeyEncoding::Sec1] {
                let mut der = key.to_der(encoding).unwrap();
                let at = at % der.len();
                der[at] = byte;
                for label in ["PRIVATE KEY", "EC PRIVATE KEY", "RSA PRIVATE KEY"] {
                    if let Ok(read) = PrivateKey::from_pem(pem::encode(label, &der).as_bytes()) {
                        read.sign(b"message").unwrap();
                        read.to_der(KeyEncoding::Sec1).unwrap();
                    }
                }
            }
        }
    }
}
