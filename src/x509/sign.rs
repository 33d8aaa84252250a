//! Making certification requests (PKCS#10, RFC 2986) and signing certificates (RFC 5280).
//!
//! What is signed is put together from DER parts as they are: a CA's name goes into what it signs
//! byte by byte, whatever its string types and repeated attributes.

use std::sync::Arc;
use std::time::Duration;

use der::asn1::{AnyRef, BitStringRef, GeneralizedTime, UintRef, UtcTime};
use der::{Decode as _, Encode, Sequence, Tag};
use x509_cert::attr::{Attribute, Attributes};
use x509_cert::ext::Extensions;
use x509_cert::request::ExtensionReq;
use x509_cert::time::Time;

use super::extension::{
    acme_identifier, certificate_extensions, constraints, key_identifier, subject_alt_names,
};
use super::{
    BasicConstraints, Certificate, CertificateError, DistinguishedName, GeneralName, KeyAlgorithm,
    KeyError, KeyUsage, KeyUsages, NameConstraints, NameNotAllowed, PrivateKey, Template, Validity,
    chain, key, pem,
};
use crate::clock::Timestamp;

/// A PKCS#10 request, signed by the key that it names.
#[derive(Clone, Debug)]
pub struct CertificationRequest {
    der: Vec<u8>,
}

/// Where verifiers of a certificate find more (RFC 5280 §4.2.1.13, §4.2.2.1).
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct AuthorityInformation {
    /// URLs of the CA's revocation list.
    pub crl_distribution_points: Vec<String>,
    /// URLs of the CA's OCSP responders.
    pub ocsp_servers: Vec<String>,
    /// URLs of the CA's own certificate.
    pub issuing_certificate_urls: Vec<String>,
}

/// A CA certificate with its key and the chain above it, checked to fit.
#[derive(Debug)]
pub struct CertificateAuthority {
    certificate: Certificate,
    intermediates: Vec<Certificate>,
    trust_anchors: Vec<Certificate>,
    key: Arc<PrivateKey>,
    key_identifier: Vec<u8>,
    /// Its own and those of all CAs above it.
    name_constraints: Vec<NameConstraints>,
}

/// Why something cannot be signed, or a CA cannot sign.
#[derive(Debug, thiserror::Error)]
pub enum SignError {
    /// There is no CA certificate.
    #[error("the CA has no certificate; put the signing CA first, then those above it")]
    NoCertificate,
    /// The key belongs to another certificate.
    #[error(
        "the CA's private key does not belong to its certificate {subject:?}; the signing CA has to be the first certificate"
    )]
    KeyMismatch {
        /// The certificate's subject.
        subject: String,
    },
    /// Its basic constraints do not make the certificate a CA.
    #[error("the certificate {subject:?} is not a CA; its basic constraints do not say CA:TRUE")]
    NotACa {
        /// The certificate's subject.
        subject: String,
    },
    /// It has a key usage extension without `cert sign`.
    #[error(
        "the CA {subject:?} may not sign certificates; its key usage does not include cert sign"
    )]
    MayNotSign {
        /// The CA's subject.
        subject: String,
    },
    /// It has no name that a certificate could point to.
    #[error("the CA has an empty subject; what it signs would have no issuer")]
    NoSubject,
    /// The roots given are not above it.
    #[error("the CA {subject:?} does not lead to any of the root certificates given")]
    UnknownRoot {
        /// The CA's subject.
        subject: String,
    },
    /// Its path length constraint is used up.
    #[error(
        "the CA {subject:?} may not sign other CAs that deep; its path length constraint is {path_len}"
    )]
    PathTooLong {
        /// The CA's subject.
        subject: String,
        /// The constraint.
        path_len: u8,
    },
    /// Its name constraints, or those of a CA above it, do not allow a name.
    #[error("the CA {subject:?} may not sign this")]
    NameNotAllowed {
        /// The CA's subject.
        subject: String,
        /// The name, and what is allowed.
        #[source]
        refused: NameNotAllowed,
    },
    /// Not a value that the certificate can hold.
    #[error("{0} cannot be put into a certificate")]
    Unencodable(&'static str),
    /// Signing failed.
    #[error("signing failed")]
    Key(#[from] KeyError),
    /// What was signed could not be read back.
    #[error("the signed certificate cannot be read")]
    Certificate(#[from] CertificateError),
}

impl CertificationRequest {
    /// Asks for the subject and names of `template`, and for a CA with its constraints if it is
    /// one; usages are for the issuer to set.
    ///
    /// # Errors
    ///
    /// Only if signing fails.
    pub fn new(template: &Template, key: &PrivateKey) -> Result<Self, SignError> {
        let mut attributes = Attributes::new();
        let mut extensions = Vec::new();
        if !template.subject_alt_names.is_empty() {
            extensions.push(subject_alt_names(template)?);
        }
        if template.basic_constraints != BasicConstraints::EndEntity {
            extensions.extend(constraints(template)?);
        }
        if !extensions.is_empty() {
            Attribute::try_from(ExtensionReq(extensions))
                .and_then(|attribute| attributes.insert(attribute))
                .map_err(|_| SignError::Unencodable("names of that size"))?;
        }
        let subject = template.subject.to_der();
        let info = CertificationRequestInfo {
            version: 0,
            subject: any(&subject)?,
            public_key_info: any(key.public_key_info())?,
            attributes,
        };
        Ok(Self { der: signed(&info, key)? })
    }

    /// The DER CertificationRequest.
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    /// `BEGIN CERTIFICATE REQUEST`
    pub fn to_pem(&self) -> String {
        pem::encode("CERTIFICATE REQUEST", &self.der)
    }
}

impl CertificateAuthority {
    /// `chain`: the signing CA first, then what is above it in any order; `anchors`: more
    /// certificates, of which the roots become trust anchors.
    ///
    /// Refuses a key that is not the CA's and a certificate that may not sign.
    ///
    /// # Errors
    ///
    /// What of the above is not as it should be. Validity is for the caller to look at.
    pub fn new(
        chain: Vec<Certificate>,
        anchors: Vec<Certificate>,
        key: Arc<PrivateKey>,
    ) -> Result<Self, SignError> {
        let certificate = chain.first().ok_or(SignError::NoCertificate)?.clone();
        let subject = || certificate.subject();
        if certificate.public_key_info() != key.public_key_info() {
            return Err(SignError::KeyMismatch { subject: subject() });
        }
        if !certificate.is_ca() {
            return Err(SignError::NotACa { subject: subject() });
        }
        let usages = &certificate.usages().key;
        if !usages.is_empty() && !usages.contains(&KeyUsage::CertSign) {
            return Err(SignError::MayNotSign { subject: subject() });
        }
        if certificate.subject_der() == EMPTY_NAME {
            return Err(SignError::NoSubject);
        }
        let pool = [&chain[1..], &anchors].concat();
        let above = chain::above(&certificate, &pool);
        let is_root = certificate.is_self_signed();
        let mut trust_anchors = if is_root { vec![certificate.clone()] } else { Vec::new() };
        trust_anchors.extend(pool.into_iter().filter(Certificate::is_self_signed));
        let mut intermediates = if is_root { Vec::new() } else { vec![certificate.clone()] };
        intermediates.extend(above);
        if trust_anchors.is_empty() {
            trust_anchors.extend(intermediates.last().cloned());
        } else if chain::anchors(&certificate, &intermediates, &trust_anchors).next().is_none() {
            return Err(SignError::UnknownRoot { subject: subject() });
        }
        let key_identifier = match certificate.subject_key_identifier() {
            Some(identifier) => identifier.to_vec(),
            None => key_identifier(certificate.public_key_info())?.to_vec(),
        };
        let trust_anchors = chain::deduplicated(trust_anchors);
        // Verifiers that look at what a root says are obeyed too.
        let root = chain::anchors(&certificate, &intermediates, &trust_anchors).next();
        let above = std::iter::once(&certificate).chain(&intermediates).chain(root);
        let mut name_constraints: Vec<_> =
            above.filter_map(|ca| ca.name_constraints().cloned()).collect();
        name_constraints.dedup();
        Ok(Self {
            certificate,
            intermediates,
            trust_anchors,
            key,
            key_identifier,
            name_constraints,
        })
    }

    /// The signing CA's own certificate.
    pub fn certificate(&self) -> &Certificate {
        &self.certificate
    }

    /// The kind of the key that it signs with.
    pub fn key_algorithm(&self) -> KeyAlgorithm {
        self.key.algorithm()
    }

    /// What belongs between a leaf and the trust anchor: the signing CA unless it is a root, then on.
    pub fn intermediates(&self) -> &[Certificate] {
        &self.intermediates
    }

    /// The roots given, or else the top-most certificate.
    pub fn trust_anchors(&self) -> &[Certificate] {
        &self.trust_anchors
    }

    /// Signs a certificate for `public_key_info`, with a random serial number. `validity` is taken
    /// as it is: the caller has cut it to the CA's own. A CA is besides given the usages `cert sign`
    /// and `crl sign`.
    ///
    /// # Errors
    ///
    /// What cannot be encoded, a CA below one whose path length constraint forbids it, a name that
    /// the name constraints of this CA or one above it do not allow, or a failed signature.
    pub fn sign(
        &self,
        template: &Template,
        public_key_info: &[u8],
        validity: Validity,
        information: &AuthorityInformation,
    ) -> Result<Certificate, SignError> {
        self.check_path_length(template.basic_constraints)?;
        self.check_names(template)?;
        let extensions = certificate_extensions(
            template,
            public_key_info,
            Some(&self.key_identifier),
            information,
        )?;
        sign_certificate(
            self.certificate.subject_der(),
            &template.subject.to_der(),
            public_key_info,
            validity,
            extensions,
            &self.key,
        )
    }

    fn check_names(&self, template: &Template) -> Result<(), SignError> {
        let mut refused = self.name_constraints.iter().map(|names| names.check(template));
        refused.try_for_each(|checked| checked).map_err(|refused| SignError::NameNotAllowed {
            subject: self.certificate.subject(),
            refused,
        })
    }

    fn check_path_length(&self, below: BasicConstraints) -> Result<(), SignError> {
        let (BasicConstraints::Ca { path_len: Some(limit) }, BasicConstraints::Ca { path_len }) =
            (self.certificate.basic_constraints(), below)
        else {
            return Ok(());
        };
        match path_len {
            Some(path_len) if path_len < limit => Ok(()),
            _ => {
                Err(SignError::PathTooLong { subject: self.certificate.subject(), path_len: limit })
            }
        }
    }
}

/// A certificate signed by its own key; an empty subject becomes the first name, or `certmount`.
///
/// # Errors
///
/// As [`CertificateAuthority::sign`].
pub fn self_sign(
    template: &Template,
    key: &PrivateKey,
    validity: Validity,
    information: &AuthorityInformation,
) -> Result<Certificate, SignError> {
    let mut template = template.clone();
    if template.subject.is_empty() {
        let name = template.subject_alt_names.first().map(GeneralName::value);
        let named = name.is_some_and(|name| template.subject.push("CN", &name).is_ok());
        if !named {
            template.subject.push("CN", "certmount").expect("a short ASCII name");
        }
    }
    let subject = template.subject.to_der();
    let public_key_info = key.public_key_info();
    let identifier = key_identifier(public_key_info)?;
    let extensions =
        certificate_extensions(&template, public_key_info, Some(&identifier), information)?;
    sign_certificate(&subject, &subject, public_key_info, validity, extensions, key)
}

/// The certificate that answers a TLS-ALPN-01 challenge (RFC 8737 §3): for `name` alone, signed by
/// `key`, with the SHA-256 of the key authorization in a critical extension.
///
/// # Errors
///
/// A name that cannot be encoded, or a failed signature.
pub fn acme_challenge_certificate(
    name: GeneralName,
    key_authorization: &[u8; 32],
    key: &PrivateKey,
    validity: Validity,
) -> Result<Certificate, SignError> {
    let template = Template {
        subject: DistinguishedName::default(),
        subject_alt_names: vec![name],
        usages: KeyUsages::default(),
        basic_constraints: BasicConstraints::EndEntity,
        name_constraints: NameConstraints::default(),
    };
    let extensions = vec![subject_alt_names(&template)?, acme_identifier(key_authorization)?];
    let subject = template.subject.to_der();
    sign_certificate(&subject, &subject, key.public_key_info(), validity, extensions, key)
}

/// TBSCertificate (RFC 5280 §4.1) of version 3.
#[derive(Sequence)]
struct TbsCertificate<'a> {
    #[asn1(context_specific = "0", tag_mode = "EXPLICIT")]
    version: u8,
    serial_number: UintRef<'a>,
    signature: AnyRef<'a>,
    issuer: AnyRef<'a>,
    validity: TimeSpan,
    subject: AnyRef<'a>,
    public_key_info: AnyRef<'a>,
    #[asn1(context_specific = "3", tag_mode = "EXPLICIT")]
    extensions: Extensions,
}

#[derive(Sequence)]
struct TimeSpan {
    not_before: Time,
    not_after: Time,
}

/// CertificationRequestInfo (RFC 2986 §4.1).
#[derive(Sequence)]
struct CertificationRequestInfo<'a> {
    version: u8,
    subject: AnyRef<'a>,
    public_key_info: AnyRef<'a>,
    #[asn1(context_specific = "0", tag_mode = "IMPLICIT")]
    attributes: Attributes,
}

/// What certificates and certification requests have in common: something signed.
#[derive(Sequence)]
struct Signed<'a> {
    content: AnyRef<'a>,
    algorithm: AnyRef<'a>,
    signature: BitStringRef<'a>,
}

const VERSION_3: u8 = 2;

/// A SEQUENCE of nothing.
const EMPTY_NAME: &[u8] = &[0x30, 0];

fn sign_certificate(
    issuer: &[u8],
    subject: &[u8],
    public_key_info: &[u8],
    validity: Validity,
    extensions: Extensions,
    key: &PrivateKey,
) -> Result<Certificate, SignError> {
    if validity.not_before > validity.not_after {
        return Err(SignError::Unencodable("a validity that ends before it begins"));
    }
    let serial_number = serial_number()?;
    let algorithm = key.signature_identifier();
    let tbs = TbsCertificate {
        version: VERSION_3,
        serial_number: UintRef::new(&serial_number).map_err(|_| UNENCODABLE)?,
        signature: AnyRef::new(Tag::Sequence, &algorithm).map_err(|_| UNENCODABLE)?,
        issuer: any(issuer)?,
        validity: TimeSpan {
            not_before: time(validity.not_before)?,
            not_after: time(validity.not_after)?,
        },
        subject: any(subject)?,
        public_key_info: any(public_key_info)?,
        extensions,
    };
    Ok(Certificate::from_der(signed(&tbs, key)?)?)
}

fn signed(content: &impl Encode, key: &PrivateKey) -> Result<Vec<u8>, SignError> {
    let content = content.to_der().map_err(|_| UNENCODABLE)?;
    let signature = key.sign(&content)?;
    let algorithm = key.signature_identifier();
    let encode = || {
        let algorithm = AnyRef::new(Tag::Sequence, &algorithm)?;
        let signature = BitStringRef::from_bytes(&signature)?;
        Signed { content: AnyRef::from_der(&content)?, algorithm, signature }.to_der()
    };
    encode().map_err(|_| UNENCODABLE)
}

const UNENCODABLE: SignError = SignError::Unencodable("so much");

/// 158 random bits in 20 bytes, positive and of constant length (RFC 5280 §4.1.2.2).
fn serial_number() -> Result<[u8; 20], KeyError> {
    let mut bytes: [u8; 20] = key::random()?;
    bytes[0] = bytes[0] & 0x7f | 0x40;
    Ok(bytes)
}

/// UTCTime through the year 2049, GeneralizedTime from then on (RFC 5280 §4.1.2.5).
fn time(timestamp: Timestamp) -> Result<Time, SignError> {
    let encode = |since_epoch| match UtcTime::from_unix_duration(since_epoch) {
        Ok(time) => Ok(Time::UtcTime(time)),
        Err(_) => GeneralizedTime::from_unix_duration(since_epoch).map(Time::GeneralTime),
    };
    let seconds = u64::try_from(timestamp.as_second()).ok();
    let time = seconds.and_then(|seconds| encode(Duration::from_secs(seconds)).ok());
    time.ok_or(SignError::Unencodable("a time before 1970"))
}

fn any(der: &[u8]) -> Result<AnyRef<'_>, SignError> {
    AnyRef::from_der(der).map_err(|_| UNENCODABLE)
}

#[cfg(test)]
mod tests;
