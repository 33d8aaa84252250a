//! The extensions of what certmount signs (RFC 5280 §4.2).

use aws_lc_rs::digest;
use der::asn1::{AnyRef, BitStringRef, Ia5String, OctetString};
use der::oid::{AssociatedOid, ObjectIdentifier, db::rfc5280};
use der::{Decode as _, Encode};
use x509_cert::ext::pkix::crl::dp::DistributionPoint;
use x509_cert::ext::pkix::name::{DistributionPointName, GeneralName as EncodableName};
use x509_cert::ext::pkix::{
    AccessDescription, AuthorityInfoAccessSyntax, AuthorityKeyIdentifier,
    BasicConstraints as EncodableConstraints, CrlDistributionPoints,
    ExtendedKeyUsage as EncodableUsages, KeyUsage as EncodableUsage, KeyUsages as UsageBit,
    SubjectAltName, SubjectKeyIdentifier,
};
use x509_cert::ext::{Extension, Extensions};

use super::{AuthorityInformation, BasicConstraints, GeneralName, KeyUsage, SignError, Template};

/// All extensions of a certificate for `public_key_info`, signed by the key that
/// `authority_key_identifier` names.
pub(super) fn certificate_extensions(
    template: &Template,
    public_key_info: &[u8],
    authority_key_identifier: Option<&[u8]>,
    information: &AuthorityInformation,
) -> Result<Extensions, SignError> {
    let mut extensions = Extensions::new();
    if let Some(usage) = key_usage(template) {
        extensions.push(extension(true, &usage)?);
    }
    if !template.usages.extended.is_empty() {
        let usages = template.usages.extended.iter().map(|usage| usage.oid()).collect();
        extensions.push(extension(false, &EncodableUsages(usages))?);
    }
    extensions.extend(constraints(template)?);
    let identifier = octets(&key_identifier(public_key_info)?)?;
    extensions.push(extension(false, &SubjectKeyIdentifier(identifier))?);
    if let Some(identifier) = authority_key_identifier {
        let key_identifier = Some(octets(identifier)?);
        let identifier = AuthorityKeyIdentifier { key_identifier, ..Default::default() };
        extensions.push(extension(false, &identifier)?);
    }
    if !template.subject_alt_names.is_empty() {
        extensions.push(subject_alt_names(template)?);
    }
    extensions.extend(authority_information(information)?);
    Ok(extensions)
}

/// Whether it is a CA, and which names that may sign; verifiers must understand both.
pub(super) fn constraints(template: &Template) -> Result<Vec<Extension>, SignError> {
    let mut constraints = vec![extension(true, &basic_constraints(template.basic_constraints))?];
    if template.basic_constraints != BasicConstraints::EndEntity {
        let names = template.name_constraints.to_encodable().map_err(|_| UNENCODABLE_NAME)?;
        if let Some(names) = names {
            constraints.push(extension(true, &names)?);
        }
    }
    Ok(constraints)
}

/// Critical if and only if the subject is empty (RFC 5280 §4.2.1.6).
pub(super) fn subject_alt_names(template: &Template) -> Result<Extension, SignError> {
    let names = template.subject_alt_names.iter().map(GeneralName::to_encodable);
    let names = names.collect::<Result<_, _>>().map_err(|_| UNENCODABLE_NAME)?;
    extension(template.subject.is_empty(), &SubjectAltName(names))
}

/// What proves a TLS-ALPN-01 challenge (RFC 8737 §3): critical.
pub(super) fn acme_identifier(key_authorization: &[u8; 32]) -> Result<Extension, SignError> {
    let authorization = octets(key_authorization)?;
    let value = authorization.to_der().and_then(OctetString::new);
    let extn_value = value.map_err(|_| SignError::Unencodable("an extension of that size"))?;
    Ok(Extension { extn_id: ID_PE_ACME_IDENTIFIER, critical: true, extn_value })
}

const ID_PE_ACME_IDENTIFIER: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.1.31");

/// The left-most 160 bits of the key's SHA-256 (RFC 7093 §2).
pub(super) fn key_identifier(public_key_info: &[u8]) -> Result<[u8; 20], SignError> {
    let key = AnyRef::from_der(public_key_info).and_then(|info| {
        info.sequence(|reader| {
            AnyRef::decode(reader)?;
            BitStringRef::decode(reader)
        })
    });
    let key = key.map_err(|_| SignError::Unencodable("a malformed public key"))?;
    let digest = digest::digest(&digest::SHA256, key.raw_bytes());
    Ok(*digest.as_ref().first_chunk().expect("SHA-256 has 32 bytes"))
}

const UNENCODABLE_NAME: SignError = SignError::Unencodable("a name that is not ASCII");

/// What was asked for; a CA may besides sign certificates and revocation lists.
fn key_usage(template: &Template) -> Option<EncodableUsage> {
    let asked = template.usages.key.iter().copied();
    let ca: &[KeyUsage] = match template.basic_constraints {
        BasicConstraints::Ca { .. } => &[KeyUsage::CertSign, KeyUsage::CrlSign],
        BasicConstraints::EndEntity => &[],
    };
    let bits = asked.chain(ca.iter().copied()).map(|usage| match usage {
        KeyUsage::DigitalSignature => UsageBit::DigitalSignature,
        KeyUsage::ContentCommitment => UsageBit::NonRepudiation,
        KeyUsage::KeyEncipherment => UsageBit::KeyEncipherment,
        KeyUsage::DataEncipherment => UsageBit::DataEncipherment,
        KeyUsage::KeyAgreement => UsageBit::KeyAgreement,
        KeyUsage::CertSign => UsageBit::KeyCertSign,
        KeyUsage::CrlSign => UsageBit::CRLSign,
        KeyUsage::EncipherOnly => UsageBit::EncipherOnly,
        KeyUsage::DecipherOnly => UsageBit::DecipherOnly,
    });
    bits.map(Into::into).reduce(|all, bit: der::flagset::FlagSet<_>| all | bit).map(EncodableUsage)
}

fn basic_constraints(constraints: BasicConstraints) -> EncodableConstraints {
    match constraints {
        BasicConstraints::EndEntity => {
            EncodableConstraints { ca: false, path_len_constraint: None }
        }
        BasicConstraints::Ca { path_len: path_len_constraint } => {
            EncodableConstraints { ca: true, path_len_constraint }
        }
    }
}

fn authority_information(information: &AuthorityInformation) -> Result<Vec<Extension>, SignError> {
    let AuthorityInformation { crl_distribution_points, ocsp_servers, issuing_certificate_urls } =
        information;
    let mut extensions = Vec::new();
    if !crl_distribution_points.is_empty() {
        // One point with all its URLs: they are places of one list (RFC 5280 §4.2.1.13).
        let urls = crl_distribution_points.iter().map(|url| uri(url)).collect::<Result<_, _>>()?;
        let points = CrlDistributionPoints(vec![DistributionPoint {
            distribution_point: Some(DistributionPointName::FullName(urls)),
            reasons: None,
            crl_issuer: None,
        }]);
        extensions.push(extension(false, &points)?);
    }
    let describe = |access_method: ObjectIdentifier, url: &String| {
        Ok(AccessDescription { access_method, access_location: uri(url)? })
    };
    let ocsp = ocsp_servers.iter().map(|url| describe(rfc5280::ID_AD_OCSP, url));
    let issuers =
        issuing_certificate_urls.iter().map(|url| describe(rfc5280::ID_AD_CA_ISSUERS, url));
    let access = ocsp.chain(issuers).collect::<Result<Vec<_>, SignError>>()?;
    if !access.is_empty() {
        extensions.push(extension(false, &AuthorityInfoAccessSyntax(access))?);
    }
    Ok(extensions)
}

fn uri(url: &str) -> Result<EncodableName, SignError> {
    let url = Ia5String::new(url).map_err(|_| SignError::Unencodable("a URL that is not ASCII"))?;
    Ok(EncodableName::UniformResourceIdentifier(url))
}

fn octets(bytes: &[u8]) -> Result<OctetString, SignError> {
    OctetString::new(bytes).map_err(|_| SignError::Unencodable("a key identifier of that size"))
}

fn extension<T: AssociatedOid + Encode>(critical: bool, value: &T) -> Result<Extension, SignError> {
    let value = value.to_der().and_then(OctetString::new);
    let extn_value = value.map_err(|_| SignError::Unencodable("an extension of that size"))?;
    Ok(Extension { extn_id: T::OID, critical, extn_value })
}
