//! Which files a volume holds, and what is in each.

use std::fmt;

use zeroize::Zeroizing;

use super::values::ValueError;
use crate::x509::{
    Bundle, Certificate, KeyEncoding, KeyError, KeystoreError, Pkcs12Profile, PrivateKey,
    chain_to_pem, jks_keystore, jks_truststore, pkcs12_keystore, pkcs12_truststore,
};

/// The files of a volume: names checked and different from each other.
#[derive(Debug, Default)]
pub struct FileLayout {
    files: Vec<(FileName, FileContent)>,
}

/// A plain file name: not empty, no `/`, not `.`, no leading `..`, no blanks at its ends, no
/// control characters, at most 255 bytes. Joined to a directory it names something in it, and
/// never one of the atomic writer's own entries, which all start with `..`.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct FileName(String);

/// A password that every keystore can have: not empty, no NUL, and no character beyond the Basic
/// Multilingual Plane. Prints nothing, zeroized.
pub struct Password(Zeroizing<String>);

/// What one file holds.
#[derive(Debug)]
pub enum FileContent {
    /// PEM: the leaf, then the intermediates.
    CertificateChain,
    /// PEM: the leaf and the intermediates, then the private key.
    CertificateChainThenKey(KeyEncoding),
    /// DER: the leaf.
    CertificateDer,
    /// PEM, PBES2: the private key under a password.
    EncryptedPrivateKey(Password),
    /// PEM: the leaf, the intermediates, then the trust anchor that they end in.
    FullChain,
    /// PEM: the intermediates.
    Intermediates,
    /// JKS: the private key with its chain.
    JksKeystore {
        /// The name of the entry.
        alias: String,
        /// Of the store.
        password: Password,
    },
    /// JKS: the trust anchors.
    JksTruststore {
        /// Of the store.
        password: Password,
    },
    /// PEM: the private key, then the leaf and the intermediates.
    KeyThenCertificateChain(KeyEncoding),
    /// PEM: the leaf alone.
    Leaf,
    /// PKCS#12: the private key with its chain, and the trust anchors.
    Pkcs12Keystore {
        /// The name of the entry.
        alias: String,
        /// Of the store.
        password: Password,
        /// The algorithms.
        profile: Pkcs12Profile,
    },
    /// PKCS#12: the trust anchors.
    Pkcs12Truststore {
        /// Of the store.
        password: Password,
        /// The algorithms.
        profile: Pkcs12Profile,
    },
    /// PEM: the private key.
    PrivateKey(KeyEncoding),
    /// DER: the private key.
    PrivateKeyDer(KeyEncoding),
    /// PEM: the trust anchors; empty where the issuer does not say them.
    TrustAnchors,
}

/// The bytes of each file, ready to be written. Zeroized when dropped; `Debug` prints names only.
#[derive(Default)]
pub struct Payload(pub Vec<(FileName, Zeroizing<Vec<u8>>)>);

/// A bundle that cannot be written in the forms asked for.
#[derive(Debug, thiserror::Error)]
#[error("{file}: {reason}")]
pub struct RenderError {
    /// The file that cannot be made.
    pub file: String,
    /// Why not.
    pub reason: String,
}

impl FileLayout {
    /// Adds a file.
    ///
    /// # Errors
    ///
    /// When there is a file of that name already.
    pub fn insert(&mut self, name: FileName, content: FileContent) -> Result<(), ValueError> {
        if self.names().any(|taken| *taken == name) {
            return Err("is the name of another file of this volume too".into());
        }
        self.files.push((name, content));
        Ok(())
    }

    /// The names, in the order the files were added.
    pub fn names(&self) -> impl Iterator<Item = &FileName> {
        self.files.iter().map(|(name, _)| name)
    }

    /// Whether [`FileLayout::render`] takes milliseconds, as what is under a password does.
    pub fn takes_long(&self) -> bool {
        self.files.iter().any(|(_, content)| content.has_password())
    }

    /// Writes `bundle` in every form asked for.
    ///
    /// # Errors
    ///
    /// When a key or keystore cannot be written in a form, with the file's name.
    pub fn render(&self, bundle: &Bundle) -> Result<Payload, RenderError> {
        let file = |(name, content): &(FileName, FileContent)| {
            let bytes = content
                .render(bundle)
                .map_err(|error| RenderError { file: name.0.clone(), reason: error.to_string() })?;
            Ok((name.clone(), bytes))
        };
        self.files.iter().map(file).collect::<Result<_, _>>().map(Payload)
    }
}

impl FileContent {
    fn has_password(&self) -> bool {
        match self {
            Self::EncryptedPrivateKey(_)
            | Self::JksKeystore { .. }
            | Self::JksTruststore { .. }
            | Self::Pkcs12Keystore { .. }
            | Self::Pkcs12Truststore { .. } => true,
            Self::CertificateChain
            | Self::CertificateChainThenKey(_)
            | Self::CertificateDer
            | Self::FullChain
            | Self::Intermediates
            | Self::KeyThenCertificateChain(_)
            | Self::Leaf
            | Self::PrivateKey(_)
            | Self::PrivateKeyDer(_)
            | Self::TrustAnchors => false,
        }
    }

    fn render(&self, bundle: &Bundle) -> Result<Zeroizing<Vec<u8>>, FormError> {
        let key = bundle.key();
        let bytes = match self {
            Self::CertificateChain => chain_pem(bundle),
            Self::CertificateChainThenKey(encoding) => {
                concat(&chain_pem(bundle), &key_pem(key, *encoding)?)
            }
            Self::CertificateDer => bundle.leaf().der().to_vec().into(),
            Self::EncryptedPrivateKey(password) => text(key.to_encrypted_pem(password.expose())?),
            Self::FullChain => {
                let chain = || std::iter::once(bundle.leaf()).chain(bundle.intermediates());
                let anchor = chain().last().and_then(|last| anchor_of(last, bundle));
                pem(chain().chain(anchor))
            }
            Self::Intermediates => pem(bundle.intermediates()),
            Self::JksKeystore { alias, password } => {
                jks_keystore(bundle, alias, password.expose())?
            }
            Self::JksTruststore { password } => {
                jks_truststore(bundle.trust_anchors(), password.expose())?.into()
            }
            Self::KeyThenCertificateChain(encoding) => {
                concat(&key_pem(key, *encoding)?, &chain_pem(bundle))
            }
            Self::Leaf => pem([bundle.leaf()]),
            Self::Pkcs12Keystore { alias, password, profile } => {
                pkcs12_keystore(bundle, alias, password.expose(), *profile)?
            }
            Self::Pkcs12Truststore { password, profile } => {
                pkcs12_truststore(bundle.trust_anchors(), password.expose(), *profile)?.into()
            }
            Self::PrivateKey(encoding) => key_pem(key, *encoding)?,
            Self::PrivateKeyDer(encoding) => key.to_der(*encoding)?,
            Self::TrustAnchors => pem(bundle.trust_anchors()),
        };
        Ok(bytes)
    }
}

/// Why one form cannot be made.
#[derive(Debug, thiserror::Error)]
enum FormError {
    #[error(transparent)]
    Key(#[from] KeyError),
    #[error(transparent)]
    Keystore(#[from] KeystoreError),
}

fn chain_pem(bundle: &Bundle) -> Zeroizing<Vec<u8>> {
    pem(std::iter::once(bundle.leaf()).chain(bundle.intermediates()))
}

fn pem<'a>(certificates: impl IntoIterator<Item = &'a Certificate>) -> Zeroizing<Vec<u8>> {
    chain_to_pem(certificates).into_bytes().into()
}

fn key_pem(key: &PrivateKey, encoding: KeyEncoding) -> Result<Zeroizing<Vec<u8>>, KeyError> {
    key.to_pem(encoding).map(text)
}

/// The bytes of a secret text, without a copy that stays behind.
fn text(mut text: Zeroizing<String>) -> Zeroizing<Vec<u8>> {
    std::mem::take(&mut *text).into_bytes().into()
}

fn concat(first: &[u8], second: &[u8]) -> Zeroizing<Vec<u8>> {
    // One allocation of the right size: growing would leave pieces of the key in freed memory.
    let mut both = Zeroizing::new(Vec::with_capacity(first.len() + second.len()));
    both.extend_from_slice(first);
    both.extend_from_slice(second);
    both
}

/// The trust anchor above `last`, unless `last` is one itself.
fn anchor_of<'a>(last: &Certificate, bundle: &'a Bundle) -> Option<&'a Certificate> {
    let anchors = bundle.trust_anchors();
    if anchors.iter().any(|anchor| anchor.der() == last.der()) {
        return None;
    }
    anchors.iter().find(|anchor| last.is_signed_by(anchor))
}

impl FileName {
    /// The name as it was asked for.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<&str> for FileName {
    type Error = ValueError;
    fn try_from(name: &str) -> Result<Self, ValueError> {
        /// NAME_MAX.
        const LONGEST: usize = 255;
        let refused = if name.is_empty() {
            "must not be empty"
        } else if name.len() > LONGEST {
            "is longer than 255 bytes"
        } else if name.contains('/') {
            "must be a plain file name, without '/'"
        } else if name == "." || name.starts_with("..") {
            "must not be '.' nor start with '..'"
        } else if name.trim() != name {
            "has blanks at its start or end"
        } else if name.contains(char::is_control) {
            "holds a control character"
        } else {
            return Ok(Self(name.to_owned()));
        };
        Err(refused.into())
    }
}

impl Password {
    /// Takes a password as it is, with any blanks around it.
    ///
    /// # Errors
    ///
    /// When some kind of keystore could not have it.
    pub fn new(password: &str) -> Result<Self, ValueError> {
        if password.is_empty() {
            return Err("is an empty password".into());
        }
        if !fits_keystores(password) {
            return Err("is a password with a character that keystores cannot hold".into());
        }
        Ok(Self(Zeroizing::new(password.to_owned())))
    }

    /// Whether it was made with `echo` where `printf` was meant.
    pub(super) fn ends_with_line_break(&self) -> bool {
        self.0.ends_with('\n')
    }

    fn expose(&self) -> &str {
        &self.0
    }
}

/// Whether UTF-16 without surrogates or NUL can say `text`, which is what PKCS#12 and JKS have.
pub(super) fn fits_keystores(text: &str) -> bool {
    text.chars().all(|c| c != '\0' && u32::from(c) <= 0xffff)
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password")
    }
}

impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(name, _)| name.as_str())).finish()
    }
}

impl fmt::Display for FileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests;
