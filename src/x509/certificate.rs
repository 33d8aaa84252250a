//! Certificates as a CA returned them: parsed once, then only read.

use std::fmt;
use std::net::IpAddr;
use std::ops::Range;
use std::sync::{Arc, LazyLock, OnceLock};

use aws_lc_rs::digest;
use data_encoding::HEXLOWER;
use der::asn1::{AnyRef, BitStringRef};
use der::oid::ObjectIdentifier;
use der::{Decode as _, Reader as _, SliceReader};
use rustls_pki_types::SignatureVerificationAlgorithm;
use x509_parser::extensions::{GeneralName as ParsedName, ParsedExtension};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::pem::PemError;
use super::{
    BasicConstraints, DistinguishedName, ExtendedKeyUsage, GeneralName, KeyUsage, KeyUsages,
    NameConstraints,
};
use crate::clock::Timestamp;

/// From when until when a certificate holds (RFC 5280 §4.1.2.5), both inclusive.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Validity {
    /// The first second.
    pub not_before: Timestamp,
    /// The last second.
    pub not_after: Timestamp,
}

/// One parsed X.509 certificate. Cheap to clone; equal if the same bytes.
#[derive(Clone)]
pub struct Certificate(Arc<Parsed>);

/// Why bytes are not a certificate.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// Larger than any that is useful.
    #[error("a certificate of {size} bytes; the most that is read is {MAX_SIZE}")]
    TooLarge {
        /// Its size in bytes.
        size: usize,
    },
    /// Not DER, or not a certificate, or one of its extensions is malformed.
    #[error("not a certificate: {0}")]
    Unreadable(String),
    /// The PEM text around a certificate is damaged.
    #[error("not a certificate")]
    Pem(#[source] PemError),
    /// One of several cannot be read.
    #[error("certificate {ordinal} of the PEM text cannot be read")]
    Nth {
        /// Counted from 1.
        ordinal: usize,
        /// Why.
        source: Box<Self>,
    },
}

/// Why a certificate does not count as signed by another; the nearest miss last.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, thiserror::Error)]
pub enum SignatureError {
    /// The names differ.
    #[error("no certificate of that issuer is there")]
    OtherIssuer,
    /// The names fit, but another key made the signature.
    #[error("the signature is not by the key of that issuer's certificate")]
    Invalid,
    /// Such as SHA-1.
    #[error("the signature's algorithm is obsolete or unknown")]
    UnsupportedAlgorithm,
}

impl Certificate {
    /// Reads one DER certificate (RFC 5280 §4.1), with nothing after it.
    ///
    /// # Errors
    ///
    /// More than 64 KiB, or anything else than a well-formed certificate.
    pub fn from_der(der: Vec<u8>) -> Result<Self, CertificateError> {
        if der.len() > MAX_SIZE {
            return Err(CertificateError::TooLarge { size: der.len() });
        }
        Parsed::new(der.into_boxed_slice()).map(|parsed| Self(Arc::new(parsed)))
    }

    /// The bytes it was read from.
    pub fn der(&self) -> &[u8] {
        &self.0.der
    }

    /// From when until when it holds.
    pub fn validity(&self) -> Validity {
        self.0.validity
    }

    /// Lower-case hex, without separators or leading zero byte.
    pub fn serial_number(&self) -> String {
        let bytes = self.serial_number_bytes();
        HEXLOWER.encode(match bytes {
            [0, rest @ ..] if !rest.is_empty() => rest,
            _ => bytes,
        })
    }

    /// The content of the serial number's DER INTEGER, as ACME renewal information (RFC 9773 §4.1)
    /// wants it.
    pub fn serial_number_bytes(&self) -> &[u8] {
        self.0.slice(&self.0.serial_number)
    }

    /// RFC 4514 text of the subject, for people.
    pub fn subject(&self) -> String {
        name_text(self.subject_der())
    }

    /// RFC 4514 text of the issuer, for people.
    pub fn issuer(&self) -> String {
        name_text(self.issuer_der())
    }

    /// `dns:`, `ip:`, `uri:` and `email:` names, for people; other kinds as `other:`.
    pub fn names(&self) -> Vec<String> {
        let names = self.0.subject_alt_names.iter().map(ToString::to_string);
        names.chain(self.0.other_names.iter().cloned()).collect()
    }

    /// The subject alternative names of the four kinds that can be asked for, in its own order.
    pub fn subject_alt_names(&self) -> &[GeneralName] {
        &self.0.subject_alt_names
    }

    /// What to call it in a message: the subject, or else its first name.
    pub(super) fn label(&self) -> String {
        match self.subject() {
            subject if subject.is_empty() => self.names().into_iter().next().unwrap_or_default(),
            subject => subject,
        }
    }

    /// Subject alternative names of further kinds, for people.
    pub(super) fn other_names(&self) -> &[String] {
        &self.0.other_names
    }

    /// The DER SubjectPublicKeyInfo (RFC 5280 §4.1.2.7).
    pub fn public_key_info(&self) -> &[u8] {
        self.0.slice(&self.0.public_key_info)
    }

    /// Key usages and extended key usages; empty where the extension is missing.
    pub fn usages(&self) -> &KeyUsages {
        &self.0.usages
    }

    /// Whether it is a CA, and how long a chain may follow.
    pub fn basic_constraints(&self) -> BasicConstraints {
        self.0.basic_constraints
    }

    /// Whether its basic constraints make it a CA (RFC 5280 §4.2.1.9).
    pub fn is_ca(&self) -> bool {
        self.0.basic_constraints != BasicConstraints::EndEntity
    }

    /// Which names the certificates below it may hold (RFC 5280 §4.2.1.10), if it says.
    pub fn name_constraints(&self) -> Option<&NameConstraints> {
        self.0.name_constraints.as_deref()
    }

    /// RFC 5280 §4.2.1.2.
    pub fn subject_key_identifier(&self) -> Option<&[u8]> {
        self.0.subject_key_identifier.as_ref().map(|range| self.0.slice(range))
    }

    /// RFC 5280 §4.2.1.1.
    pub fn authority_key_identifier(&self) -> Option<&[u8]> {
        self.0.authority_key_identifier.as_ref().map(|range| self.0.slice(range))
    }

    /// Whether it is signed by its own key.
    ///
    /// Many a root is signed with an algorithm that nobody verifies any more, and nobody needs to:
    /// there the names and key identifiers decide.
    pub fn is_self_signed(&self) -> bool {
        *self.0.self_signed.get_or_init(|| match self.check_signed_by(self) {
            Ok(()) => true,
            Err(SignatureError::UnsupportedAlgorithm) => {
                let authority = self.authority_key_identifier();
                authority.is_none() || authority == self.subject_key_identifier()
            }
            Err(SignatureError::OtherIssuer | SignatureError::Invalid) => false,
        })
    }

    /// Whether `issuer`'s name is our issuer and its key made our signature.
    ///
    /// Names are compared byte by byte, as Go and rustls do.
    pub fn is_signed_by(&self, issuer: &Self) -> bool {
        self.check_signed_by(issuer).is_ok()
    }

    pub(super) fn check_signed_by(&self, issuer: &Self) -> Result<(), SignatureError> {
        if self.issuer_der() != issuer.subject_der() {
            return Err(SignatureError::OtherIssuer);
        }
        self.0.check_signature(issuer.public_key_info())
    }

    /// SHA-256 over the DER.
    pub fn fingerprint(&self) -> [u8; 32] {
        let digest = digest::digest(&digest::SHA256, self.der());
        digest.as_ref().try_into().expect("SHA-256 has 32 bytes")
    }

    /// The DER Name of the subject.
    pub(super) fn subject_der(&self) -> &[u8] {
        self.0.slice(&self.0.subject)
    }

    fn issuer_der(&self) -> &[u8] {
        self.0.slice(&self.0.issuer)
    }
}

impl PartialEq for Certificate {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.der() == other.der()
    }
}

impl Eq for Certificate {}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate")
            .field("subject", &self.subject())
            .field("names", &self.names())
            .field("serial_number", &self.serial_number())
            .finish_non_exhaustive()
    }
}

/// What the accessors need. Positions instead of copies: a node holds a few for each volume.
struct Parsed {
    der: Box<[u8]>,
    signed: Range<usize>,
    signature_identifier: Range<usize>,
    signature: Range<usize>,
    serial_number: Range<usize>,
    issuer: Range<usize>,
    subject: Range<usize>,
    public_key_info: Range<usize>,
    subject_key_identifier: Option<Range<usize>>,
    authority_key_identifier: Option<Range<usize>>,
    validity: Validity,
    basic_constraints: BasicConstraints,
    name_constraints: Option<Box<NameConstraints>>,
    usages: KeyUsages,
    subject_alt_names: Box<[GeneralName]>,
    other_names: Box<[String]>,
    self_signed: OnceLock<bool>,
}

impl Parsed {
    fn new(der: Box<[u8]>) -> Result<Self, CertificateError> {
        let (rest, certificate) = X509Certificate::from_der(&der)
            .map_err(|error| CertificateError::Unreadable(error.to_string()))?;
        if !rest.is_empty() {
            return Err(unreadable("bytes follow it"));
        }
        let tbs = &certificate.tbs_certificate;
        if tbs.signature != certificate.signature_algorithm {
            return Err(unreadable("it names two signature algorithms"));
        }
        let signed = position(&der, tbs.as_ref());
        let (signature_identifier, signature) =
            after_signed(&der, signed.end).map_err(|_| unreadable("its signature is malformed"))?;
        let mut parsed = Self {
            signature_identifier,
            signature,
            serial_number: position(&der, tbs.raw_serial()),
            issuer: position(&der, tbs.issuer.as_raw()),
            subject: position(&der, tbs.subject.as_raw()),
            public_key_info: position(&der, tbs.subject_pki.raw),
            subject_key_identifier: None,
            authority_key_identifier: None,
            validity: Validity {
                not_before: timestamp(tbs.validity.not_before.timestamp()),
                not_after: timestamp(tbs.validity.not_after.timestamp()),
            },
            basic_constraints: BasicConstraints::EndEntity,
            name_constraints: None,
            usages: KeyUsages::default(),
            subject_alt_names: Box::default(),
            other_names: Box::default(),
            self_signed: OnceLock::new(),
            signed,
            der: Box::default(),
        };
        parsed.read_extensions(&der, &certificate)?;
        drop(certificate);
        Ok(Self { der, ..parsed })
    }

    fn read_extensions(
        &mut self,
        der: &[u8],
        certificate: &X509Certificate<'_>,
    ) -> Result<(), CertificateError> {
        let extensions = certificate.extensions();
        for (index, extension) in extensions.iter().enumerate() {
            if extensions[..index].iter().any(|earlier| earlier.oid == extension.oid) {
                return Err(unreadable("it holds an extension twice"));
            }
            match extension.parsed_extension() {
                ParsedExtension::AuthorityKeyIdentifier(identifier) => {
                    let identifier = identifier.key_identifier.as_ref();
                    self.authority_key_identifier = identifier.map(|id| position(der, id.0));
                }
                ParsedExtension::SubjectKeyIdentifier(identifier) => {
                    self.subject_key_identifier = Some(position(der, identifier.0));
                }
                ParsedExtension::KeyUsage(usage) => {
                    for (bit, known) in KeyUsage::ALL.into_iter().enumerate() {
                        if usage.flags >> bit & 1 == 1 {
                            self.usages.push_key(known);
                        }
                    }
                }
                ParsedExtension::ExtendedKeyUsage(_) => {
                    let usages = Vec::<ObjectIdentifier>::from_der(extension.value)
                        .map_err(|_| unreadable("its extended key usages are malformed"))?;
                    for oid in usages {
                        self.usages.push_extended(ExtendedKeyUsage::from_oid(oid));
                    }
                }
                ParsedExtension::SubjectAlternativeName(names) => {
                    let (known, other) = sort_names(&names.general_names);
                    self.subject_alt_names = known.into_boxed_slice();
                    self.other_names = other.into_boxed_slice();
                }
                ParsedExtension::BasicConstraints(constraints) if constraints.ca => {
                    let path_len = constraints.path_len_constraint;
                    let path_len = path_len.map(|length| u8::try_from(length).unwrap_or(u8::MAX));
                    self.basic_constraints = BasicConstraints::Ca { path_len };
                }
                ParsedExtension::NameConstraints(constraints) => {
                    let constraints = NameConstraints::from_parsed(
                        constraints.permitted_subtrees.as_deref(),
                        constraints.excluded_subtrees.as_deref(),
                    );
                    let malformed = || unreadable("its name constraints are malformed");
                    self.name_constraints = Some(Box::new(constraints.ok_or_else(malformed)?));
                }
                ParsedExtension::ParseError { .. } => {
                    let oid = extension.oid.to_id_string();
                    if EXTENSIONS_READ.contains(&oid.as_str()) {
                        return Err(unreadable(&format!("its extension {oid} is malformed")));
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn slice(&self, range: &Range<usize>) -> &[u8] {
        &self.der[range.clone()]
    }

    fn check_signature(&self, public_key_info: &[u8]) -> Result<(), SignatureError> {
        let key = AnyRef::from_der(public_key_info).and_then(|info| {
            info.sequence(|reader| {
                Ok::<_, der::Error>((AnyRef::decode(reader)?, BitStringRef::decode(reader)?))
            })
        });
        let (key_identifier, key) = key.map_err(|_| SignatureError::Invalid)?;
        let signature_identifier = self.slice(&self.signature_identifier);
        // Which algorithm fits a P-256 key depends on both identifiers: ECDSA's hash and curve are
        // free of each other.
        let algorithm = VERIFICATION_ALGORITHMS.iter().find(|algorithm| {
            algorithm.signature_alg_id().as_ref() == signature_identifier
                && algorithm.public_key_alg_id().as_ref() == key_identifier.value()
        });
        algorithm
            .ok_or(SignatureError::UnsupportedAlgorithm)?
            .verify_signature(
                key.as_bytes().ok_or(SignatureError::Invalid)?,
                self.slice(&self.signed),
                self.slice(&self.signature),
            )
            .map_err(|_| SignatureError::Invalid)
    }
}

/// The most that is read of one certificate, in bytes.
const MAX_SIZE: usize = 64 * 1024;

/// Key identifiers, key usages, alternative names, basic and name constraints: malformed, they make
/// the certificate useless. Others are for verifiers to judge.
const EXTENSIONS_READ: [&str; 7] =
    ["2.5.29.14", "2.5.29.15", "2.5.29.17", "2.5.29.19", "2.5.29.30", "2.5.29.35", "2.5.29.37"];

/// rustls' own list: what it would accept of a peer is accepted of a CA, and nothing else.
static VERIFICATION_ALGORITHMS: LazyLock<&[&dyn SignatureVerificationAlgorithm]> =
    LazyLock::new(|| {
        rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms.all
    });

/// Where the signature's AlgorithmIdentifier (without its header) and value are.
fn after_signed(der: &[u8], start: usize) -> Result<(Range<usize>, Range<usize>), der::Error> {
    let mut reader = SliceReader::new(&der[start..])?;
    let identifier = AnyRef::decode(&mut reader)?;
    let signature = BitStringRef::decode(&mut reader)?;
    reader.finish()?;
    Ok((position(der, identifier.value()), position(der, signature.raw_bytes())))
}

/// Where `part`, a slice of `whole`, lies in it.
fn position(whole: &[u8], part: &[u8]) -> Range<usize> {
    if part.is_empty() {
        return 0..0;
    }
    let start = part.as_ptr().addr() - whole.as_ptr().addr();
    start..start + part.len()
}

/// The well-known "never" (RFC 5280 §4.1.2.5, the last second of the year 9999) is a day more than
/// a [`Timestamp`] can say.
fn timestamp(seconds: i64) -> Timestamp {
    Timestamp::from_second(seconds).unwrap_or(Timestamp::MAX)
}

fn sort_names(names: &[ParsedName<'_>]) -> (Vec<GeneralName>, Vec<String>) {
    let mut known = Vec::new();
    let mut other = Vec::new();
    for name in names {
        match name {
            ParsedName::DNSName(name) => known.push(GeneralName::Dns(name.to_ascii_lowercase())),
            ParsedName::RFC822Name(name) => known.push(GeneralName::Email((*name).to_owned())),
            ParsedName::URI(name) => known.push(GeneralName::Uri((*name).to_owned())),
            ParsedName::IPAddress(bytes) => match ip_address(bytes) {
                Some(ip) => known.push(GeneralName::Ip(ip)),
                None => other.push(format!("other:ip {}", HEXLOWER.encode(bytes))),
            },
            ParsedName::OtherName(oid, _) => other.push(format!("other:{oid}")),
            ParsedName::DirectoryName(name) => {
                other.push(format!("other:directory name {}", name_text(name.as_raw())));
            }
            ParsedName::RegisteredID(oid) => other.push(format!("other:registered id {oid}")),
            ParsedName::X400Address(_) | ParsedName::EDIPartyName(_) | ParsedName::Invalid(..) => {
                other.push("other:unreadable".to_owned());
            }
        }
    }
    (known, other)
}

fn ip_address(bytes: &[u8]) -> Option<IpAddr> {
    <[u8; 4]>::try_from(bytes)
        .map(IpAddr::from)
        .or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from))
        .ok()
}

fn name_text(der: &[u8]) -> String {
    match DistinguishedName::from_der(der) {
        Ok(name) => name.to_string(),
        Err(_) => format!("#{}", HEXLOWER.encode(der)),
    }
}

fn unreadable(reason: &str) -> CertificateError {
    CertificateError::Unreadable(reason.to_owned())
}

#[cfg(test)]
mod tests;
