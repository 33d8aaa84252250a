//! Which files a volume holds, and what is in each.

use zeroize::Zeroizing;

use crate::x509::{Bundle, KeyEncoding, Pkcs12Profile};

/// The files of a volume: names checked and different from each other.
#[derive(Debug, Default)]
pub struct FileLayout {
    files: Vec<(FileName, FileContent)>,
}

/// A plain file name: no `/`, no leading `..`, at most 255 bytes.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct FileName(String);

/// A password for a keystore: prints nothing, zeroized.
pub struct Password(Zeroizing<String>);

/// What one file holds.
#[derive(Debug)]
pub enum FileContent {
    /// Leaf, then intermediates.
    CertificateChain,
    /// The trust anchors.
    TrustAnchors,
    PrivateKey(KeyEncoding),
    // … the spec module adds the other forms.
    Pkcs12Keystore {
        alias: String,
        password: Password,
        profile: Pkcs12Profile,
    },
}

/// The bytes of each file, ready to be written. Zeroized when dropped.
#[derive(Default)]
pub struct Payload(pub Vec<(FileName, Zeroizing<Vec<u8>>)>);

/// A bundle that cannot be written in the forms asked for.
#[derive(Debug, thiserror::Error)]
#[error("{file}: {reason}")]
pub struct RenderError {
    pub file: String,
    pub reason: String,
}

impl FileLayout {
    /// Writes `bundle` in every form asked for.
    pub fn render(&self, _bundle: &Bundle) -> Result<Payload, RenderError> {
        let _ = &self.files;
        todo!()
    }
}

impl FileName {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Password {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let _ = &self.0;
        f.write_str("Password")
    }
}
