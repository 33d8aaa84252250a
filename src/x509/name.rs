//! Distinguished names (RFC 4514) and subject alternative names (RFC 5280 §4.2.1.6).

use std::fmt::{self, Write as _};
use std::net::IpAddr;

use data_encoding::HEXLOWER;
use der::asn1::{Any, Ia5String};
use der::oid::ObjectIdentifier;
use der::{Decode as _, Encode as _, Tag, Tagged as _};
use idna::uts46::{AsciiDenyList, DnsLength, Hyphens, Uts46};
use x509_cert::attr::AttributeTypeAndValue;
use x509_cert::ext::pkix::name::GeneralName as EncodableName;
use x509_cert::name::{RdnSequence, RelativeDistinguishedName};

/// A distinguished name: RDNs in encoding order, values as asked for. May hold an attribute type
/// several times and several attributes in one RDN.
///
/// `Display` gives RFC 4514 text, which [`DistinguishedName::from_rfc4514`] reads back.
#[derive(Clone, Default, Eq, PartialEq)]
pub struct DistinguishedName(RdnSequence);

/// A checked subject alternative name. `Display` puts its kind before it: `dns:web.example`.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum GeneralName {
    /// A-labels, lower case, a wildcard only as the whole left-most label.
    Dns(String),
    /// An address of the form local@domain (RFC 822 addr-spec, ASCII).
    Email(String),
    /// An IPv4 or IPv6 address.
    Ip(IpAddr),
    /// An absolute URI.
    Uri(String),
}

/// A name that cannot be put into a certificate; the message says what is wrong with it.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct NameError(pub String);

impl DistinguishedName {
    /// Parses RFC 4514 text such as `CN=web,OU=a+OU=b,DC=example`; the last RDN is encoded first.
    ///
    /// Attribute types are short names in any case, or dotted object identifiers. Spaces around
    /// types, values and separators are passed over; `#` and hex digits give a value's DER.
    ///
    /// # Errors
    ///
    /// Text that does not follow RFC 4514, an unknown attribute type, or a value that the type
    /// does not allow.
    pub fn from_rfc4514(text: &str) -> Result<Self, NameError> {
        if text.trim_ascii().is_empty() {
            return Ok(Self::default());
        }
        let mut rdns = Vec::new();
        for rdn in split_unescaped(text, ',') {
            let attributes =
                split_unescaped(rdn, '+').map(parse_attribute).collect::<Result<Vec<_>, _>>()?;
            rdns.push(relative_name(attributes)?);
        }
        rdns.reverse();
        Ok(Self(RdnSequence::from(rdns)))
    }

    /// Appends one RDN of one attribute, named by its RFC 4519 short name such as `CN` or `OU`.
    ///
    /// # Errors
    ///
    /// An unknown attribute type, or a value that the type does not allow.
    pub fn push(&mut self, attribute: &str, value: &str) -> Result<(), NameError> {
        self.push_all(attribute, [value])
    }

    /// Appends one RDN that holds the attribute once for each value, as Go writes an attribute of
    /// several values; nothing where there is no value.
    ///
    /// # Errors
    ///
    /// As [`DistinguishedName::push`], and when a value is there twice.
    pub fn push_all<'a>(
        &mut self,
        attribute: &str,
        values: impl IntoIterator<Item = &'a str>,
    ) -> Result<(), NameError> {
        let oid = attribute_type(attribute)?;
        let values = values.into_iter().map(|value| text_attribute(oid, value));
        let attributes = values.collect::<Result<Vec<_>, _>>()?;
        if !attributes.is_empty() {
            self.0.push(relative_name(attributes)?);
        }
        Ok(())
    }

    /// Whether it holds no attribute.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The first common name, if any.
    pub fn common_name(&self) -> Option<&str> {
        let mut attributes = self.0.iter().flat_map(RelativeDistinguishedName::iter);
        let common_name = attributes.find(|attribute| attribute.oid == COMMON_NAME)?;
        text_of(&common_name.value)
    }

    /// Every attribute in encoding order: its type, by short name where it has one, and its value,
    /// which is `#` and the hex digits of its DER (RFC 4514 §2.4) where it is not text.
    pub fn attributes(&self) -> impl Iterator<Item = (String, String)> + '_ {
        let attributes = self.0.iter().flat_map(RelativeDistinguishedName::iter);
        attributes.map(|attribute| {
            let value = match text_of(&attribute.value) {
                Some(text) => text.to_owned(),
                None => hex_of(&attribute.value),
            };
            (type_name(attribute.oid), value)
        })
    }

    pub(super) fn from_der(der: &[u8]) -> Result<Self, der::Error> {
        RdnSequence::from_der(der).map(Self)
    }

    pub(super) fn to_der(&self) -> Vec<u8> {
        self.0.to_der().expect("a name of checked parts encodes")
    }
}

impl fmt::Display for DistinguishedName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rdns: Vec<_> = self.0.iter().collect();
        for (index, rdn) in rdns.into_iter().rev().enumerate() {
            f.write_str(if index == 0 { "" } else { "," })?;
            for (index, attribute) in rdn.iter().enumerate() {
                f.write_str(if index == 0 { "" } else { "+" })?;
                write_attribute(f, attribute)?;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for DistinguishedName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DistinguishedName({self})")
    }
}

impl GeneralName {
    /// A host name; Unicode is turned into A-labels.
    ///
    /// # Errors
    ///
    /// A name that breaks the rules of DNS: characters, lengths, a wildcard anywhere but in the
    /// whole left-most label, or a trailing dot, which no verifier accepts.
    pub fn dns(text: &str) -> Result<Self, NameError> {
        let wrong = |reason: &str| NameError(format!("dns name {text:?} {reason}"));
        if text.is_empty() {
            return Err(wrong("is empty"));
        }
        if text.ends_with('.') {
            return Err(wrong("ends with a dot; leave the dot out"));
        }
        let host = text.strip_prefix("*.").unwrap_or(text);
        if host.contains('*') {
            return Err(wrong(
                "has a wildcard that is not its whole left-most label; write *.example.com",
            ));
        }
        let host = Uts46::new()
            .to_ascii(host.as_bytes(), AsciiDenyList::EMPTY, Hyphens::Allow, DnsLength::Ignore)
            .map_err(|_| wrong("is not a valid internationalized name (IDNA)"))?;
        for label in host.split('.') {
            if label.is_empty() {
                return Err(wrong("has an empty label"));
            }
            if label.len() > 63 {
                return Err(wrong("has a label of more than 63 characters"));
            }
            if label.starts_with('-') || label.ends_with('-') {
                return Err(wrong("has a label that begins or ends with a hyphen"));
            }
            // Underscores are against RFC 1123, but private names have them and verifiers take them.
            let allowed = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
            if let Some(c) = label.chars().find(|c| !allowed(*c)) {
                return Err(wrong(&format!("has the character {c:?}")));
            }
        }
        if host.parse::<std::net::Ipv4Addr>().is_ok() {
            return Err(wrong("is an IP address; ask for it as an ip name"));
        }
        let name = if text.starts_with("*.") { format!("*.{host}") } else { host.into_owned() };
        if name.len() > 253 {
            return Err(wrong("is longer than 253 characters"));
        }
        Ok(Self::Dns(name))
    }

    /// A mailbox such as `jane@example.com`, without a display name.
    ///
    /// # Errors
    ///
    /// Not of the form local@domain, or not ASCII (RFC 8398 addresses are not supported).
    pub fn email(text: &str) -> Result<Self, NameError> {
        let wrong = |reason: &str| NameError(format!("email address {text:?} {reason}"));
        let (local, domain) =
            text.rsplit_once('@').ok_or_else(|| wrong("has no @; write it as local@domain"))?;
        let allowed = |c: char| c.is_ascii_alphanumeric() || ".!#$%&'*+/=?^_`{|}~-".contains(c);
        if local.is_empty() || local.len() > 64 || !local.chars().all(allowed) {
            return Err(wrong("has a local part that is empty, too long, or not plain ASCII"));
        }
        match Self::dns(domain) {
            Ok(Self::Dns(domain)) if !domain.starts_with('*') => {
                Ok(Self::Email(format!("{local}@{domain}")))
            }
            _ => Err(wrong("has a domain that is not a host name")),
        }
    }

    /// An IPv4 or IPv6 address.
    ///
    /// # Errors
    ///
    /// Anything else, such as a range, a port or a zone.
    pub fn ip(text: &str) -> Result<Self, NameError> {
        let ip = text.parse().map_err(|_| {
            NameError(format!(
                "ip address {text:?} is not one; write it as 10.0.0.1 or 2001:db8::1"
            ))
        })?;
        Ok(Self::Ip(ip))
    }

    /// An absolute URI (RFC 3986 §4.3), such as a SPIFFE ID.
    ///
    /// # Errors
    ///
    /// No scheme, nothing after it, or characters that a URI may not hold.
    pub fn uri(text: &str) -> Result<Self, NameError> {
        let wrong = |reason: &str| NameError(format!("uri {text:?} {reason}"));
        let (scheme, rest) = text
            .split_once(':')
            .ok_or_else(|| wrong("is not absolute; write it with a scheme, as in spiffe://…"))?;
        let in_scheme = |c: char| c.is_ascii_alphanumeric() || "+-.".contains(c);
        if !scheme.starts_with(|c: char| c.is_ascii_alphabetic()) || !scheme.chars().all(in_scheme)
        {
            return Err(wrong("does not begin with a scheme, as in spiffe://…"));
        }
        if rest.trim_start_matches('/').is_empty() {
            return Err(wrong("has nothing after its scheme"));
        }
        let in_uri = |c: char| c.is_ascii_alphanumeric() || "-._~:/?#[]@!$&'()*+,;=%".contains(c);
        if let Some(c) = rest.chars().find(|c| !in_uri(*c)) {
            return Err(wrong(&format!("has the character {c:?}; percent-encode it")));
        }
        let hex =
            |part: &str| part.len() >= 2 && part.bytes().take(2).all(|b| b.is_ascii_hexdigit());
        if !rest.split('%').skip(1).all(hex) {
            return Err(wrong("has a % that two hex digits do not follow"));
        }
        Ok(Self::Uri(text.to_owned()))
    }

    /// The name without its kind.
    pub fn value(&self) -> String {
        match self {
            Self::Dns(text) | Self::Email(text) | Self::Uri(text) => text.clone(),
            Self::Ip(ip) => ip.to_string(),
        }
    }

    pub(super) fn to_encodable(&self) -> Result<EncodableName, der::Error> {
        Ok(match self {
            Self::Dns(text) => EncodableName::DnsName(Ia5String::new(text)?),
            Self::Email(text) => EncodableName::Rfc822Name(Ia5String::new(text)?),
            Self::Ip(ip) => EncodableName::from(*ip),
            Self::Uri(text) => EncodableName::UniformResourceIdentifier(Ia5String::new(text)?),
        })
    }
}

impl fmt::Display for GeneralName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dns(text) => write!(f, "dns:{text}"),
            Self::Email(text) => write!(f, "email:{text}"),
            Self::Ip(ip) => write!(f, "ip:{ip}"),
            Self::Uri(text) => write!(f, "uri:{text}"),
        }
    }
}

/// The short names of RFC 4514 §3 and RFC 4519, and those that CAs add to them. Where a type has
/// two names, the one to print comes first.
const ATTRIBUTE_TYPES: &[(&str, ObjectIdentifier)] = &[
    ("CN", COMMON_NAME),
    ("C", COUNTRY),
    ("O", ObjectIdentifier::new_unwrap("2.5.4.10")),
    ("OU", ObjectIdentifier::new_unwrap("2.5.4.11")),
    ("L", ObjectIdentifier::new_unwrap("2.5.4.7")),
    ("ST", ObjectIdentifier::new_unwrap("2.5.4.8")),
    ("STREET", ObjectIdentifier::new_unwrap("2.5.4.9")),
    ("SERIALNUMBER", SERIAL_NUMBER),
    ("DC", DOMAIN_COMPONENT),
    ("UID", ObjectIdentifier::new_unwrap("0.9.2342.19200300.100.1.1")),
    ("postalCode", ObjectIdentifier::new_unwrap("2.5.4.17")),
    ("emailAddress", EMAIL_ADDRESS),
    ("E", EMAIL_ADDRESS),
    ("title", ObjectIdentifier::new_unwrap("2.5.4.12")),
    ("SN", ObjectIdentifier::new_unwrap("2.5.4.4")),
    ("givenName", ObjectIdentifier::new_unwrap("2.5.4.42")),
    ("GN", ObjectIdentifier::new_unwrap("2.5.4.42")),
];

const COMMON_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.4.3");
const COUNTRY: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.4.6");
const DOMAIN_COMPONENT: ObjectIdentifier =
    ObjectIdentifier::new_unwrap("0.9.2342.19200300.100.1.25");
const EMAIL_ADDRESS: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.9.1");
const SERIAL_NUMBER: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.4.5");

/// RFC 5280's upper bound for common names.
const LONGEST_COMMON_NAME: usize = 64;

fn attribute_type(name: &str) -> Result<ObjectIdentifier, NameError> {
    let known = ATTRIBUTE_TYPES.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
    if let Some((_, oid)) = known {
        return Ok(*oid);
    }
    ObjectIdentifier::new(name).map_err(|_| {
        let mut names: Vec<_> = ATTRIBUTE_TYPES.iter().map(|(name, _)| *name).collect();
        names.dedup();
        let names = names.join(", ");
        NameError(format!(
            "unknown attribute type {name:?}; known: {names}, or an object identifier such as 2.5.4.3"
        ))
    })
}

/// An attribute in the string type that RFC 5280 appendix A gives it.
fn text_attribute(oid: ObjectIdentifier, value: &str) -> Result<AttributeTypeAndValue, NameError> {
    let wrong = |reason: &str| NameError(format!("{} {value:?} {reason}", type_name(oid)));
    if value.is_empty() {
        return Err(wrong("is empty"));
    }
    if oid == COMMON_NAME && value.len() > LONGEST_COMMON_NAME {
        return Err(wrong(&format!(
            "is {} bytes long; a common name has at most {LONGEST_COMMON_NAME}. \
             Leave it out: names belong into the subject alternative names",
            value.len()
        )));
    }
    let printable = |c: char| c.is_ascii_alphanumeric() || " '()+,-./:=?".contains(c);
    let tag = match oid {
        COUNTRY | SERIAL_NUMBER if value.chars().all(printable) => Tag::PrintableString,
        DOMAIN_COMPONENT | EMAIL_ADDRESS if !value.is_ascii() => {
            return Err(wrong("is not ASCII; write it with A-labels (xn--…)"));
        }
        DOMAIN_COMPONENT | EMAIL_ADDRESS => Tag::Ia5String,
        _ => Tag::Utf8String,
    };
    let value = Any::new(tag, value.as_bytes()).map_err(|_| wrong("is too long"))?;
    Ok(AttributeTypeAndValue { oid, value })
}

fn relative_name(
    attributes: Vec<AttributeTypeAndValue>,
) -> Result<RelativeDistinguishedName, NameError> {
    let repeated = (1..attributes.len()).any(|n| attributes[..n].contains(&attributes[n]));
    match RelativeDistinguishedName::try_from(attributes) {
        Ok(rdn) if !repeated => Ok(rdn),
        _ => Err(NameError("an RDN holds the same attribute twice".to_owned())),
    }
}

fn parse_attribute(text: &str) -> Result<AttributeTypeAndValue, NameError> {
    let (name, value) = text.split_once('=').ok_or_else(|| {
        NameError(format!("{text:?} is not of the form type=value, such as CN=web; escape a comma within a value as \\,"))
    })?;
    let oid = attribute_type(name.trim_ascii())?;
    let value = value.trim_ascii_start();
    match value.strip_prefix('#') {
        Some(hex) => {
            let value = unhex(hex.trim_ascii_end()).and_then(|der| Any::from_der(&der).ok());
            let value = value.ok_or_else(|| {
                NameError(format!("{text:?}: what follows # is not the hex digits of a DER value"))
            })?;
            Ok(AttributeTypeAndValue { oid, value })
        }
        None => text_attribute(oid, &unescape(value)?),
    }
}

/// The parts of `text` between separators that no backslash escapes.
fn split_unescaped(text: &str, separator: char) -> impl Iterator<Item = &str> {
    let mut escaped = false;
    text.split(move |c| {
        let splits = c == separator && !escaped;
        escaped = c == '\\' && !escaped;
        splits
    })
}

/// Undoes the escapes of RFC 4514 §2.4 and drops unescaped white space at the end.
fn unescape(text: &str) -> Result<String, NameError> {
    let wrong = |reason: &str| NameError(format!("{text:?} {reason}"));
    let mut bytes = Vec::with_capacity(text.len());
    let mut kept = 0;
    let mut rest = text.chars();
    while let Some(c) = rest.next() {
        if c != '\\' {
            if "\"<>;\0".contains(c) {
                return Err(wrong(&format!("has the character {c:?}; escape it with a backslash")));
            }
            bytes.extend(c.encode_utf8(&mut [0; 4]).bytes());
            kept = if c.is_ascii_whitespace() { kept } else { bytes.len() };
            continue;
        }
        match rest.next() {
            Some(c) if "\"+,;<>\\ #=".contains(c) => bytes.push(c as u8),
            Some(high) => {
                let digits = [Some(high), rest.next()].map(|c| c.and_then(|c| c.to_digit(16)));
                let [Some(high), Some(low)] = digits else {
                    return Err(wrong("has a backslash before a character that it cannot escape"));
                };
                bytes.push((high << 4 | low) as u8);
            }
            None => return Err(wrong("ends with a backslash")),
        }
        kept = bytes.len();
    }
    bytes.truncate(kept);
    String::from_utf8(bytes).map_err(|_| wrong("has escaped bytes that are not UTF-8"))
}

fn write_attribute(f: &mut fmt::Formatter<'_>, attribute: &AttributeTypeAndValue) -> fmt::Result {
    let name = type_name(attribute.oid);
    let Some(text) = text_of(&attribute.value).filter(|text| !text.is_empty()) else {
        return write!(f, "{name}={}", hex_of(&attribute.value));
    };
    write!(f, "{name}=")?;
    let last = text.len() - 1;
    for (at, c) in text.char_indices() {
        match c {
            '"' | '+' | ',' | ';' | '<' | '>' | '\\' => write!(f, "\\{c}")?,
            ' ' if at == 0 || at == last => f.write_str("\\ ")?,
            '#' if at == 0 => f.write_str("\\#")?,
            '\0'..='\x1f' | '\x7f' => write!(f, "\\{:02x}", u32::from(c))?,
            _ => f.write_char(c)?,
        }
    }
    Ok(())
}

fn type_name(oid: ObjectIdentifier) -> String {
    match ATTRIBUTE_TYPES.iter().find(|(_, known)| *known == oid) {
        Some((name, _)) => (*name).to_owned(),
        None => oid.to_string(),
    }
}

fn text_of(value: &Any) -> Option<&str> {
    match value.tag() {
        Tag::Utf8String | Tag::PrintableString | Tag::Ia5String => {
            std::str::from_utf8(value.value()).ok()
        }
        _ => None,
    }
}

fn hex_of(value: &Any) -> String {
    let der = value.to_der().expect("a value of checked length encodes");
    format!("#{}", HEXLOWER.encode(&der))
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits: Vec<_> = text.chars().map(|c| c.to_digit(16)).collect::<Option<_>>()?;
    let (pairs, []) = digits.as_chunks::<2>() else {
        return None;
    };
    Some(pairs.iter().map(|[high, low]| (high << 4 | low) as u8).collect())
}

#[cfg(test)]
mod tests;
