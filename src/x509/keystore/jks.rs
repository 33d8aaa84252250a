//! JKS, Java's own format before it took to PKCS#12.
//!
//! Defined by `sun.security.provider.JavaKeyStore` and `KeyProtector` of the JDK, which still read
//! it. Its encryption is a stream of SHA-1 hashes: it keeps nobody out who has the file.

use aws_lc_rs::digest::{Context, SHA1_FOR_LEGACY_USE_ONLY};
use der::asn1::{AnyRef, OctetStringRef};
use der::oid::ObjectIdentifier;
use der::{Encode as _, Sequence};
use x509_cert::spki::AlgorithmIdentifierRef;
use zeroize::Zeroizing;

use super::super::key::random;
use super::{Bundle, Certificate, KeystoreError, anchor_aliases, check};

/// Key, leaf and intermediates under `alias`, and the trust anchors.
///
/// The alias is made lower-case, because Java looks for no other.
///
/// # Errors
///
/// An empty password or alias, or characters in them that JKS cannot say (beyond the Basic
/// Multilingual Plane).
pub fn jks_keystore(
    bundle: &Bundle,
    alias: &str,
    password: &str,
) -> Result<Zeroizing<Vec<u8>>, KeystoreError> {
    check(Some(alias), password)?;
    let password = Password::new(password);
    let chain: Vec<_> = [bundle.leaf()].into_iter().chain(bundle.intermediates()).collect();
    let mut store = Store::new(1 + bundle.trust_anchors().len());
    store.begin_entry(PRIVATE_KEY, alias, bundle.leaf());
    store.bytes(&password.protect(bundle.key().pkcs8_der(), random()?));
    store.number(chain.len());
    chain.into_iter().for_each(|certificate| store.certificate(certificate));
    store.anchors(bundle.trust_anchors(), alias);
    Ok(Zeroizing::new(store.finish(&password)))
}

/// The trust anchors only.
///
/// # Errors
///
/// As [`jks_keystore`].
pub fn jks_truststore(anchors: &[Certificate], password: &str) -> Result<Vec<u8>, KeystoreError> {
    check(None, password)?;
    let mut store = Store::new(anchors.len());
    store.anchors(anchors, "");
    Ok(store.finish(&Password::new(password)))
}

/// A file as it is written.
struct Store(Vec<u8>);

impl Store {
    fn new(entries: usize) -> Self {
        let mut store = Self([MAGIC, VERSION].concat());
        store.number(entries);
        store
    }

    fn anchors(&mut self, anchors: &[Certificate], key_alias: &str) {
        for (alias, anchor) in anchor_aliases(key_alias).zip(anchors) {
            self.begin_entry(TRUSTED_CERTIFICATE, &alias, anchor);
            self.certificate(anchor);
        }
    }

    /// The entry's time of creation is the certificate's first second: Java only shows it.
    fn begin_entry(&mut self, kind: &[u8], alias: &str, certificate: &Certificate) {
        self.0.extend_from_slice(kind);
        self.text(&alias.to_lowercase());
        let created = certificate.validity().not_before.as_millisecond();
        self.0.extend_from_slice(&created.to_be_bytes());
    }

    fn certificate(&mut self, certificate: &Certificate) {
        self.text("X.509");
        self.bytes(certificate.der());
    }

    /// UTF-8 after a length of two bytes. Java's is modified, but not for what [`check`] let in.
    fn text(&mut self, text: &str) {
        let length = u16::try_from(text.len()).expect("aliases are bounded by `check`");
        self.0.extend_from_slice(&length.to_be_bytes());
        self.0.extend_from_slice(text.as_bytes());
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.number(bytes.len());
        self.0.extend_from_slice(bytes);
    }

    fn number(&mut self, number: usize) {
        let number = u32::try_from(number).expect("keystores are far below 4 GiB");
        self.0.extend_from_slice(&number.to_be_bytes());
    }

    /// Ends with a hash over all of it, keyed by the password.
    fn finish(mut self, password: &Password) -> Vec<u8> {
        let digest = password.hash(&[WHITENER, &self.0]);
        self.0.extend_from_slice(&digest);
        self.0
    }
}

/// A password as Java hashes it: UTF-16, big-endian.
struct Password(Zeroizing<Vec<u8>>);

impl Password {
    fn new(text: &str) -> Self {
        // Sized beforehand: a buffer that grows leaves copies behind.
        let mut bytes = Zeroizing::new(Vec::with_capacity(text.len() * 2));
        bytes.extend(text.encode_utf16().flat_map(u16::to_be_bytes));
        Self(bytes)
    }

    /// The key under a stream of hashes that begins with the salt, then a hash of the key itself.
    fn protect(&self, key: &[u8], salt: [u8; 20]) -> Vec<u8> {
        let mut protected = salt.to_vec();
        let mut stream = salt;
        for block in key.chunks(stream.len()) {
            stream = self.hash(&[&stream]);
            protected.extend(block.iter().zip(stream).map(|(byte, mask)| byte ^ mask));
        }
        protected.extend(self.hash(&[key]));
        let info = EncryptedPrivateKeyInfo {
            algorithm: AlgorithmIdentifierRef {
                oid: KEY_PROTECTOR,
                parameters: Some(AnyRef::NULL),
            },
            data: OctetStringRef::new(&protected).expect("keys are of some KiB"),
        };
        info.to_der().expect("keys are of some KiB")
    }

    fn hash(&self, parts: &[&[u8]]) -> [u8; 20] {
        let mut context = Context::new(&SHA1_FOR_LEGACY_USE_ONLY);
        context.update(&self.0);
        parts.iter().for_each(|part| context.update(part));
        context.finish().as_ref().try_into().expect("SHA-1 has 20 bytes")
    }
}

/// EncryptedPrivateKeyInfo (RFC 5958 §3).
#[derive(Sequence)]
struct EncryptedPrivateKeyInfo<'a> {
    algorithm: AlgorithmIdentifierRef<'a>,
    data: &'a OctetStringRef,
}

const MAGIC: &[u8] = &[0xfe, 0xed, 0xfe, 0xed];
const VERSION: &[u8] = &[0, 0, 0, 2];
const PRIVATE_KEY: &[u8] = &[0, 0, 0, 1];
const TRUSTED_CERTIFICATE: &[u8] = &[0, 0, 0, 2];
const WHITENER: &[u8] = b"Mighty Aphrodite";
const KEY_PROTECTOR: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.42.2.17.1.1");
