//! PEM (RFC 7468): written strictly, read as leniently as other tools write it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use der::pem::LineEnding;
use zeroize::Zeroizing;

use super::{Certificate, CertificateError};

/// The certificates one after the other, each ending in a newline.
pub fn chain_to_pem<'a>(certificates: impl IntoIterator<Item = &'a Certificate>) -> String {
    certificates.into_iter().map(|certificate| encode("CERTIFICATE", certificate.der())).collect()
}

/// All certificates of a PEM text; other blocks and text between blocks are passed over.
///
/// A text without certificates gives none: whether that is an error is for the caller to say.
///
/// # Errors
///
/// A certificate block that is cut off, is not base64, or holds something else. The error says
/// which one, counted from 1.
pub fn certificates_from_pem(pem: &[u8]) -> Result<Vec<Certificate>, CertificateError> {
    let mut certificates = Vec::new();
    for block in blocks(pem) {
        let parsed = match block {
            Ok(block) if block.label == b"CERTIFICATE" => block
                .decode()
                .map_err(CertificateError::Pem)
                .and_then(|der| Certificate::from_der(der.to_vec())),
            Ok(_) => continue,
            Err(error) => Err(CertificateError::Pem(error)),
        };
        certificates.push(parsed.map_err(|source| CertificateError::Nth {
            ordinal: certificates.len() + 1,
            source: Box::new(source),
        })?);
    }
    Ok(certificates)
}

/// Why a PEM text cannot be read.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum PemError {
    /// A block begins but does not end.
    #[error("a PEM block has no matching END line; the text was cut off")]
    Unterminated,
    /// What is between the BEGIN and END lines is not base64.
    #[error("a PEM block is not base64")]
    NotBase64,
}

/// One block, its body not yet decoded.
pub(super) struct Block<'a> {
    pub(super) label: &'a [u8],
    pub(super) body: &'a [u8],
}

impl Block<'_> {
    /// The DER within, which may be a secret.
    pub(super) fn decode(&self) -> Result<Zeroizing<Vec<u8>>, PemError> {
        let mut base64 = Zeroizing::new(Vec::with_capacity(self.body.len()));
        base64.extend(self.body.iter().filter(|byte| !byte.is_ascii_whitespace()));
        let mut der = Zeroizing::new(vec![0; base64::decoded_len_estimate(base64.len())]);
        let length = STANDARD.decode_slice(&*base64, &mut der).map_err(|_| PemError::NotBase64)?;
        der.truncate(length);
        Ok(der)
    }
}

/// The blocks of a text, in order. Ends after the first error.
pub(super) fn blocks(text: &[u8]) -> impl Iterator<Item = Result<Block<'_>, PemError>> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let (_, after) = split_once(rest, b"-----BEGIN ")?;
        rest = b"";
        let block = read_block(after).map(|(block, after)| {
            rest = after;
            block
        });
        Some(block.ok_or(PemError::Unterminated))
    })
}

/// Reads from the label of a BEGIN line to the end of the matching END line.
fn read_block(text: &[u8]) -> Option<(Block<'_>, &[u8])> {
    let (label, text) = split_once(text, b"-----")?;
    let (body, text) = split_once(text, b"-----END ")?;
    let text = text.strip_prefix(label)?.strip_prefix(b"-----")?;
    Some((Block { label, body }, text))
}

pub(super) fn split_once<'a>(text: &'a [u8], separator: &[u8]) -> Option<(&'a [u8], &'a [u8])> {
    let at = text.windows(separator.len()).position(|window| window == separator)?;
    Some((&text[..at], &text[at + separator.len()..]))
}

/// One block that ends in a newline.
pub(super) fn encode(label: &str, der: &[u8]) -> String {
    der::pem::encode_string(label, LineEnding::LF, der)
        .expect("a label of ours and a body that fits in memory always encode")
}
