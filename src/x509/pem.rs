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

#[cfg(test)]
mod tests {
    use super::super::KeyAlgorithm;
    use super::super::fixture::*;
    use super::*;

    #[test]
    fn certificates_are_found_among_other_things() {
        let bundle = bundle(KeyAlgorithm::EcdsaP256);
        let [first, second] = [bundle.leaf(), &bundle.intermediates()[0]];
        let key = bundle.key().to_pem(super::super::KeyEncoding::Pkcs8).unwrap();
        let [one, two] = [first, second].map(|certificate| chain_to_pem([certificate]));
        let indented = two.replace('\n', "\r\n  ");
        for text in [
            chain_to_pem([first, second]),
            format!("Bag Attributes\n  x: y\n{one}\n\nsubject=CN=b\n{}{two}", *key),
            format!("\u{feff}{one}{indented}"),
            format!("{}{}", one.trim_end(), two.trim_end()),
        ] {
            let read = certificates_from_pem(text.as_bytes()).unwrap();
            assert_eq!(read, [first.clone(), second.clone()], "{text}");
        }
        assert_eq!(certificates_from_pem(b"").unwrap(), []);
        assert_eq!(certificates_from_pem(key.as_bytes()).unwrap(), []);
    }

    #[test]
    fn lines_are_of_64_characters_and_end_in_a_newline() {
        let pem = chain_to_pem([bundle(KeyAlgorithm::EcdsaP256).leaf()]);
        let lines: Vec<_> = pem.lines().collect();
        assert_eq!(lines[0], "-----BEGIN CERTIFICATE-----");
        assert_eq!(lines[1].len(), 64);
        assert!(pem.ends_with("-----END CERTIFICATE-----\n"));
    }

    #[test]
    fn what_is_wrong_is_said_with_its_place() {
        let good = chain_to_pem([bundle(KeyAlgorithm::EcdsaP256).leaf()]);
        for (bad, reason) in [
            ("-----BEGIN CERTIFICATE-----\nMA==\n", "no matching END line"),
            ("-----BEGIN CERTIFICATE", "no matching END line"),
            ("-----BEGIN CERTIFICATE-----\nMA==\n-----END KEY-----\n", "no matching END line"),
            ("-----BEGIN CERTIFICATE-----\nM*==\n-----END CERTIFICATE-----\n", "not base64"),
            ("-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n", "not a certificate"),
        ] {
            let error = certificates_from_pem(format!("{good}{bad}").as_bytes()).unwrap_err();
            assert_eq!(error.to_string(), "certificate 2 of the PEM text cannot be read");
            let causes =
                std::iter::successors(Some(&error as &dyn std::error::Error), |e| e.source());
            assert!(causes.map(ToString::to_string).any(|cause| cause.contains(reason)), "{bad}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_text_panics(text in "(-----(BEGIN|END) (CERTIFICATE|X)?-----|[A-Za-z=\n -]{0,9}){0,9}") {
            let _ = certificates_from_pem(text.as_bytes());
            let _ = super::super::PrivateKey::from_pem(text.as_bytes());
        }
    }
}
