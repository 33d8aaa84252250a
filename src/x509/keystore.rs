//! PKCS#12 (RFC 7292) and JKS keystores and truststores.
//!
//! A keystore holds the key with its chain under one alias, and the trust anchors as trusted
//! certificates, so that one file is enough for a server that verifies its clients. Aliases of
//! trust anchors are `ca`, `ca-2` and so on.
//!
//! The library that writes PKCS#12 does not zeroize its copies of key and password; ours are.

mod jks;

use p12_keystore::{
    Certificate as Pkcs12Certificate, EncryptionAlgorithm, KeyStore, KeyStoreEntry, MacAlgorithm,
    PrivateKey as Pkcs12Key, PrivateKeyChain,
};
use zeroize::Zeroizing;

use super::{Bundle, Certificate, KeyError};

pub use jks::{jks_keystore, jks_truststore};

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

/// Why a keystore cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("the keystore cannot be written: {0}")]
pub struct KeystoreError(pub String);

/// Key, leaf and intermediates under `alias`, and the trust anchors.
///
/// # Errors
///
/// An empty password or alias, or characters in them that PKCS#12 cannot say (beyond the Basic
/// Multilingual Plane). Java opens PKCS#12 with ASCII passwords only; others open the rest.
pub fn pkcs12_keystore(
    bundle: &Bundle,
    alias: &str,
    password: &str,
    profile: Pkcs12Profile,
) -> Result<Zeroizing<Vec<u8>>, KeystoreError> {
    check(Some(alias), password)?;
    let chain = [bundle.leaf()].into_iter().chain(bundle.intermediates());
    let chain = chain.map(pkcs12_certificate).collect::<Result<Vec<_>, _>>()?;
    let key = Pkcs12Key::from_der(bundle.key().pkcs8_der()).map_err(failed)?;
    // Any value will do that ties the key to its leaf.
    let local_key_id = bundle.leaf().fingerprint();
    let entry = PrivateKeyChain::new(&local_key_id[..], key, chain);
    let mut store = KeyStore::new();
    store.add_entry(alias, KeyStoreEntry::PrivateKeyChain(entry));
    add_anchors(&mut store, bundle.trust_anchors(), alias)?;
    write(&store, password, profile).map(Zeroizing::new)
}

/// The trust anchors only.
///
/// # Errors
///
/// As [`pkcs12_keystore`].
pub fn pkcs12_truststore(
    anchors: &[Certificate],
    password: &str,
    profile: Pkcs12Profile,
) -> Result<Vec<u8>, KeystoreError> {
    check(None, password)?;
    let mut store = KeyStore::new();
    add_anchors(&mut store, anchors, "")?;
    write(&store, password, profile)
}

/// How often a password is hashed, for each encryption and for the integrity check.
///
/// As much as Java's keytool does by default. A volume waits 3 to 5 ms for it; more would not help,
/// because the file lies next to the key in clear and most passwords are `changeit`.
const ITERATIONS: u32 = 10_000;

fn write(
    store: &KeyStore,
    password: &str,
    profile: Pkcs12Profile,
) -> Result<Vec<u8>, KeystoreError> {
    let (encryption, mac) = match profile {
        Pkcs12Profile::LegacyDes => {
            (EncryptionAlgorithm::PbeWithShaAnd3KeyTripleDesCbc, MacAlgorithm::HmacSha1)
        }
        // Named for RC4, but writes RC2 (pbeWithSHAAnd40BitRC2-CBC), as it should.
        Pkcs12Profile::LegacyRc2 => {
            (EncryptionAlgorithm::PbeWithShaAnd40BitRc4Cbc, MacAlgorithm::HmacSha1)
        }
        Pkcs12Profile::Modern2023 => {
            (EncryptionAlgorithm::PbeWithHmacSha256AndAes256, MacAlgorithm::HmacSha256)
        }
    };
    store
        .writer(password)
        .encryption_algorithm(encryption)
        .encryption_iterations(ITERATIONS)
        .mac_algorithm(mac)
        .mac_iterations(ITERATIONS)
        .write()
        .map_err(failed)
}

fn add_anchors(
    store: &mut KeyStore,
    anchors: &[Certificate],
    key_alias: &str,
) -> Result<(), KeystoreError> {
    for (alias, anchor) in anchor_aliases(key_alias).zip(anchors) {
        store.add_entry(&alias, KeyStoreEntry::Certificate(pkcs12_certificate(anchor)?));
    }
    Ok(())
}

/// `ca`, `ca-2`, `ca-3` and so on, without the one that the key has.
fn anchor_aliases(key_alias: &str) -> impl Iterator<Item = String> {
    let aliases = (1..).map(|n| if n == 1 { "ca".to_owned() } else { format!("ca-{n}") });
    aliases.filter(move |alias| !alias.eq_ignore_ascii_case(key_alias))
}

fn pkcs12_certificate(certificate: &Certificate) -> Result<Pkcs12Certificate, KeystoreError> {
    Pkcs12Certificate::from_der(certificate.der()).map_err(failed)
}

/// Far beyond what anybody types, and within the two bytes that JKS has for its length, even when
/// it grows in lower case.
const LONGEST_ALIAS: usize = 1024;

/// Java refuses to open what has no password, and finds nothing without an alias.
fn check(alias: Option<&str>, password: &str) -> Result<(), KeystoreError> {
    if password.is_empty() {
        return Err(KeystoreError("its password is empty; give one".to_owned()));
    }
    if alias.is_some_and(|alias| alias.is_empty() || alias.len() > LONGEST_ALIAS) {
        return Err(KeystoreError(format!(
            "its alias is empty or longer than {LONGEST_ALIAS} bytes; give another"
        )));
    }
    let in_plane = |text: &str| text.chars().all(|c| c != '\0' && u32::from(c) <= 0xffff);
    if !in_plane(password) || !in_plane(alias.unwrap_or_default()) {
        return Err(KeystoreError(
            "its alias or password has a character that keystores cannot hold; use plain letters"
                .to_owned(),
        ));
    }
    Ok(())
}

fn failed(error: p12_keystore::error::Error) -> KeystoreError {
    KeystoreError(error.to_string())
}

impl From<KeyError> for KeystoreError {
    fn from(error: KeyError) -> Self {
        Self(error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use p12_keystore::Pkcs12ImportPolicy;

    use super::super::KeyAlgorithm;
    use super::super::fixture::*;
    use super::*;

    const PROFILES: [Pkcs12Profile; 3] =
        [Pkcs12Profile::LegacyDes, Pkcs12Profile::LegacyRc2, Pkcs12Profile::Modern2023];

    #[test]
    fn a_keystore_holds_key_chain_and_anchors() {
        let bundle = bundle(KeyAlgorithm::EcdsaP256);
        for profile in PROFILES {
            let der = pkcs12_keystore(&bundle, "web", "changeit", profile).unwrap();
            let store =
                KeyStore::from_pkcs12(&der, "changeit", Pkcs12ImportPolicy::Strict).unwrap();
            let Some(KeyStoreEntry::PrivateKeyChain(entry)) = store.entry("web") else {
                panic!("no key under its alias: {store:?}");
            };
            assert_eq!(entry.key().as_der(), bundle.key().pkcs8_der());
            let chain: Vec<_> = entry.certs().iter().map(Pkcs12Certificate::as_der).collect();
            assert_eq!(chain, [bundle.leaf().der(), bundle.intermediates()[0].der()]);
            let Some(KeyStoreEntry::Certificate(anchor)) = store.entry("ca") else {
                panic!("no anchor: {store:?}");
            };
            assert_eq!(anchor.as_der(), bundle.trust_anchors()[0].der());
        }
    }

    #[test]
    fn a_key_named_ca_does_not_lose_the_anchor() {
        let bundle = bundle(KeyAlgorithm::EcdsaP256);
        let der = pkcs12_keystore(&bundle, "ca", "changeit", Pkcs12Profile::Modern2023).unwrap();
        let store = KeyStore::from_pkcs12(&der, "changeit", Pkcs12ImportPolicy::Strict).unwrap();
        assert!(matches!(store.entry("ca"), Some(KeyStoreEntry::PrivateKeyChain(_))));
        assert!(matches!(store.entry("ca-2"), Some(KeyStoreEntry::Certificate(_))));
    }

    #[test]
    fn what_java_could_not_open_is_refused() {
        let bundle = bundle(KeyAlgorithm::EcdsaP256);
        let profile = Pkcs12Profile::Modern2023;
        for (alias, password) in [("web", ""), ("", "changeit"), ("web", "🔑"), ("🔑", "changeit")]
        {
            pkcs12_keystore(&bundle, alias, password, profile).unwrap_err();
            jks_keystore(&bundle, alias, password).unwrap_err();
        }
        pkcs12_truststore(bundle.trust_anchors(), "", profile).unwrap_err();
        jks_truststore(bundle.trust_anchors(), "").unwrap_err();
    }
}
