//! From attributes to the certificate that is wanted.

use std::borrow::Cow;
use std::time::Duration;

use super::reader::{Reader, is_dns_subdomain};
use super::{CertificateSpec, RenewBefore};
use crate::spec::attributes::{Name, Prefix};
use crate::spec::values::{self, ValueError};
use crate::spec::volume::IssuerRef;
use crate::x509::{
    BasicConstraints, DistinguishedName, GeneralName, KeyAlgorithm, KeyUsage, KeyUsages,
    NameConstraints, Template,
};

/// Reads everything that decides what the certificate says and when it is renewed.
pub(super) fn certificate(reader: &mut Reader<'_>) -> CertificateSpec {
    let issuer = issuer(reader);
    let template = template(reader, &issuer);
    let duration = duration(reader);
    CertificateSpec {
        issuer,
        template,
        duration,
        key_algorithm: key_algorithm(reader),
        renew_before: renew_before(reader, duration),
        reuse_private_key: reader.flag(Name::ReusePrivateKey),
    }
}

fn issuer(reader: &mut Reader<'_>) -> IssuerRef {
    if !reader.has(Name::IssuerName) {
        reader.refuse(Name::IssuerName, " is required: it names the issuer that is to sign");
    }
    let name = reader.parse(Name::IssuerName, issuer_name).unwrap_or_default();
    let kind = reader.parse(Name::IssuerKind, issuer_kind).unwrap_or_else(|| "Issuer".into());
    let group = reader.parse(Name::IssuerGroup, issuer_group).unwrap_or_else(|| {
        let group = match reader.prefix_of(Name::IssuerName) {
            Prefix::Certmount => IssuerRef::BUILT_IN_GROUP,
            Prefix::CertManager => "cert-manager.io",
        };
        group.to_owned()
    });
    if group == IssuerRef::BUILT_IN_GROUP && !["Issuer", "ClusterIssuer"].contains(&kind.as_str()) {
        reader
            .refuse(Name::IssuerKind, " must be Issuer or ClusterIssuer for issuers of certmount");
    }
    IssuerRef { group, kind, name }
}

/// A Kubernetes object's name, or a signer's such as `example.com/serving`.
fn issuer_name(text: &str) -> Result<String, ValueError> {
    let signer = |(domain, path): (&str, &str)| is_dns_subdomain(domain) && is_dns_subdomain(path);
    match is_dns_subdomain(text) || text.split_once('/').is_some_and(signer) {
        true => Ok(text.to_owned()),
        false => Err("is not the name of an issuer: it has lower-case letters, digits, '-' and \
                      '.' only"
            .into()),
    }
}

fn issuer_kind(text: &str) -> Result<String, ValueError> {
    match text.len() <= 63 && text.bytes().all(|b| b.is_ascii_alphanumeric()) {
        true => Ok(text.to_owned()),
        false => Err("is not a kind, such as Issuer or ClusterIssuer".into()),
    }
}

fn issuer_group(text: &str) -> Result<String, ValueError> {
    match is_dns_subdomain(text) {
        true => Ok(text.to_owned()),
        false => Err("is not an API group, such as certmount.dev".into()),
    }
}

fn template(reader: &mut Reader<'_>, issuer: &IssuerRef) -> Template {
    let is_ca = reader.flag(Name::IsCa);
    let template = Template {
        subject: subject(reader),
        subject_alt_names: subject_alt_names(reader),
        usages: usages(reader, is_ca),
        basic_constraints: basic_constraints(reader, is_ca),
        name_constraints: NameConstraints::default(),
    };
    let anonymous = template.subject.is_empty() && template.subject_alt_names.is_empty();
    if !reader.problems.is_empty() {
        // Names may be missing because they are wrong.
    } else if is_ca && template.subject.is_empty() {
        // RFC 5280 §4.1.2.6.
        reader.refuse(Name::IsCa, " needs a subject: give common-name or literal-subject");
    } else if anonymous && issuer.group == IssuerRef::BUILT_IN_GROUP {
        reader.problems.add(
            "the certificate would name nobody: give dns-names, ip-sans, uri-sans, email-sans, \
             common-name or literal-subject",
        );
    }
    template
}

/// In the order in which Go writes them, and so cert-manager.
const SUBJECT: [(Name, &str); 9] = [
    (Name::Countries, "C"),
    (Name::Organizations, "O"),
    (Name::OrganizationalUnits, "OU"),
    (Name::Localities, "L"),
    (Name::Provinces, "ST"),
    (Name::StreetAddresses, "STREET"),
    (Name::PostalCodes, "postalCode"),
    (Name::CommonName, "CN"),
    (Name::SerialNumber, "SERIALNUMBER"),
];

fn subject(reader: &mut Reader<'_>) -> DistinguishedName {
    if let Some(text) = reader.text(Name::LiteralSubject) {
        let beside = SUBJECT.iter().filter(|(name, _)| reader.has(*name));
        let ignored: Vec<_> = beside.map(|(name, _)| name.attribute().name).collect();
        if !ignored.is_empty() {
            let ignored = ignored.join(", ");
            reader.warn(format_args!("literal-subject takes the place of {ignored}"));
        }
        return DistinguishedName::from_rfc4514(&text).unwrap_or_else(|error| {
            reader.refuse(Name::LiteralSubject, format_args!(": {error}"));
            DistinguishedName::default()
        });
    }
    let mut subject = DistinguishedName::default();
    for (name, attribute) in SUBJECT {
        let values = match name {
            Name::CommonName | Name::SerialNumber => {
                reader.text(name).into_iter().map(Cow::into_owned).collect()
            }
            _ => reader.csv(name),
        };
        if let Err(error) = subject.push_all(attribute, values.iter().map(String::as_str)) {
            reader.refuse(name, format_args!(": {error}"));
        }
    }
    subject
}

fn subject_alt_names(reader: &mut Reader<'_>) -> Vec<GeneralName> {
    let mut names = reader.each(Name::DnsNames, GeneralName::dns);
    names.extend(reader.each(Name::EmailSans, GeneralName::email));
    names.extend(reader.each(Name::IpSans, GeneralName::ip));
    names.extend(reader.each(Name::UriSans, GeneralName::uri));
    names
}

fn usages(reader: &mut Reader<'_>, is_ca: bool) -> KeyUsages {
    const DEFAULT: [KeyUsage; 2] = [KeyUsage::DigitalSignature, KeyUsage::KeyEncipherment];
    let mut usages = match reader.text(Name::KeyUsages) {
        None => KeyUsages { key: DEFAULT.into(), ..KeyUsages::default() },
        Some(text) => match KeyUsages::parse(values::list(&text)) {
            Ok(usages) if usages == KeyUsages::default() => {
                reader.refuse(Name::KeyUsages, " names no usage");
                usages
            }
            Ok(usages) => usages,
            Err(error) => {
                reader.refuse(Name::KeyUsages, format_args!(": {error}"));
                KeyUsages::default()
            }
        },
    };
    // RFC 5280 §4.2.1.3: a CA's key usage says so.
    if is_ca && !usages.key.contains(&KeyUsage::CertSign) {
        usages.key.push(KeyUsage::CertSign);
    }
    usages
}

fn basic_constraints(reader: &mut Reader<'_>, is_ca: bool) -> BasicConstraints {
    let path_len = reader.parse(Name::MaxPathLen, |text| {
        text.parse().map_err(|_| "must be a number from 0 to 255".into())
    });
    if is_ca {
        return BasicConstraints::Ca { path_len };
    }
    if path_len.is_some() {
        reader.refuse(Name::MaxPathLen, " is for CAs: it needs is-ca: \"true\"");
    }
    BasicConstraints::EndEntity
}

fn duration(reader: &mut Reader<'_>) -> Duration {
    const DEFAULT: Duration = Duration::from_secs(90 * 24 * 60 * 60);
    // Certificates count in seconds.
    const SHORTEST: Duration = Duration::from_secs(1);
    let given = reader.parse(Name::Duration, |text| match values::duration(text)? {
        short if short < SHORTEST => Err("is too short: at least 1s".into()),
        duration => Ok(duration),
    });
    given.unwrap_or(DEFAULT)
}

fn renew_before(reader: &mut Reader<'_>, duration: Duration) -> Option<RenewBefore> {
    reader.parse(Name::RenewBefore, |text| {
        if let Some(percent) = text.strip_suffix('%') {
            return match percent.parse() {
                Ok(percent @ 1..=99) => Ok(RenewBefore::Percent(percent)),
                _ => Err("must be a duration such as \"240h\", or from \"1%\" to \"99%\"".into()),
            };
        }
        match values::duration(text)? {
            before if before < duration => Ok(RenewBefore::Duration(before)),
            _ => Err("must be less than the certificate's duration".into()),
        }
    })
}

fn key_algorithm(reader: &mut Reader<'_>) -> KeyAlgorithm {
    let (default, sizes) = reader.one_of(Name::KeyAlgorithm, &KEYS).unwrap_or(KEYS[0].1);
    if sizes.is_empty() {
        if reader.has(Name::KeySize) {
            reader.refuse(Name::KeySize, " must not be given: Ed25519 keys have one size");
        }
        return default;
    }
    reader.one_of(Name::KeySize, sizes).unwrap_or(default)
}

/// What is used where no size is given, and all sizes.
type Sizes = (KeyAlgorithm, &'static [(&'static str, KeyAlgorithm)]);

const KEYS: [(&str, Sizes); 3] = [
    (
        "RSA",
        (
            KeyAlgorithm::Rsa2048,
            &[
                ("2048", KeyAlgorithm::Rsa2048),
                ("3072", KeyAlgorithm::Rsa3072),
                ("4096", KeyAlgorithm::Rsa4096),
                ("8192", KeyAlgorithm::Rsa8192),
            ],
        ),
    ),
    (
        "ECDSA",
        (
            KeyAlgorithm::EcdsaP256,
            &[
                ("256", KeyAlgorithm::EcdsaP256),
                ("384", KeyAlgorithm::EcdsaP384),
                ("521", KeyAlgorithm::EcdsaP521),
            ],
        ),
    ),
    ("Ed25519", (KeyAlgorithm::Ed25519, &[])),
];
