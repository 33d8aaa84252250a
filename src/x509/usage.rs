//! Key usages by the names that cert-manager gives them.

use std::fmt;

use der::oid::ObjectIdentifier;

/// What a key may be used for (RFC 5280 §4.2.1.3), in the order of its bits.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum KeyUsage {
    /// `digital signature`, also `signing`
    DigitalSignature,
    /// `content commitment`, in older texts non-repudiation
    ContentCommitment,
    /// `key encipherment`
    KeyEncipherment,
    /// `data encipherment`
    DataEncipherment,
    /// `key agreement`
    KeyAgreement,
    /// `cert sign`
    CertSign,
    /// `crl sign`
    CrlSign,
    /// `encipher only`
    EncipherOnly,
    /// `decipher only`
    DecipherOnly,
}

/// What a certificate may be used for (RFC 5280 §4.2.1.12).
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum ExtendedKeyUsage {
    /// `any`
    Any,
    /// `server auth`
    ServerAuth,
    /// `client auth`
    ClientAuth,
    /// `code signing`
    CodeSigning,
    /// `email protection`, also `s/mime`
    EmailProtection,
    /// `ipsec end system`
    IpsecEndSystem,
    /// `ipsec tunnel`
    IpsecTunnel,
    /// `ipsec user`
    IpsecUser,
    /// `timestamping`
    TimeStamping,
    /// `ocsp signing`
    OcspSigning,
    /// `microsoft sgc`
    MicrosoftSgc,
    /// `netscape sgc`
    NetscapeSgc,
    /// Any other, written as its dotted object identifier such as `1.3.6.1.5.2.3.5`.
    Other(ObjectIdentifier),
}

/// Both kinds, in the order asked for, without duplicates.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct KeyUsages {
    /// Key usages.
    pub key: Vec<KeyUsage>,
    /// Extended key usages.
    pub extended: Vec<ExtendedKeyUsage>,
}

/// A usage that nobody knows.
#[derive(Debug, thiserror::Error)]
#[error("unknown usage {name:?}; known: {known}, or an object identifier such as 1.3.6.1.5.2.3.5")]
pub struct UsageError {
    /// The name as written.
    pub name: String,
    /// Every known name, the likeliest first.
    pub known: String,
}

impl KeyUsages {
    /// Parses names such as `digital signature` and `server auth`; dotted object identifiers are
    /// extended key usages.
    ///
    /// # Errors
    ///
    /// The first name that is neither.
    pub fn parse<'a>(names: impl IntoIterator<Item = &'a str>) -> Result<Self, UsageError> {
        let mut usages = Self::default();
        for name in names {
            if let Some(usage) = look_up(KEY_USAGES, name) {
                usages.push_key(usage);
            } else if let Some(usage) = look_up(EXTENDED_KEY_USAGES, name) {
                usages.push_extended(usage);
            } else if let Ok(oid) = ObjectIdentifier::new(name) {
                usages.push_extended(ExtendedKeyUsage::from_oid(oid));
            } else {
                return Err(UsageError { name: name.to_owned(), known: known_names(name) });
            }
        }
        Ok(usages)
    }

    /// Every name that [`KeyUsages::parse`] reads, but for object identifiers.
    pub fn known_names() -> impl Iterator<Item = &'static str> {
        let key = KEY_USAGES.iter().map(|(name, _)| *name);
        key.chain(EXTENDED_KEY_USAGES.iter().map(|(name, _)| *name))
    }

    /// The names of all usages as [`KeyUsages::parse`] reads them, key usages first.
    pub fn names(&self) -> impl Iterator<Item = String> {
        let key = self.key.iter().map(ToString::to_string);
        key.chain(self.extended.iter().map(ToString::to_string))
    }

    pub(super) fn push_key(&mut self, usage: KeyUsage) {
        if !self.key.contains(&usage) {
            self.key.push(usage);
        }
    }

    pub(super) fn push_extended(&mut self, usage: ExtendedKeyUsage) {
        if !self.extended.contains(&usage) {
            self.extended.push(usage);
        }
    }
}

impl KeyUsage {
    /// Every usage, in the order of its bits.
    pub(super) const ALL: [Self; 9] = [
        Self::DigitalSignature,
        Self::ContentCommitment,
        Self::KeyEncipherment,
        Self::DataEncipherment,
        Self::KeyAgreement,
        Self::CertSign,
        Self::CrlSign,
        Self::EncipherOnly,
        Self::DecipherOnly,
    ];
}

impl ExtendedKeyUsage {
    pub(super) fn from_oid(oid: ObjectIdentifier) -> Self {
        let known = EXTENDED_KEY_USAGES.iter().map(|(_, usage)| *usage);
        known.into_iter().find(|usage| usage.oid() == oid).unwrap_or(Self::Other(oid))
    }

    pub(super) fn oid(self) -> ObjectIdentifier {
        ObjectIdentifier::new_unwrap(match self {
            Self::Any => "2.5.29.37.0",
            Self::ServerAuth => "1.3.6.1.5.5.7.3.1",
            Self::ClientAuth => "1.3.6.1.5.5.7.3.2",
            Self::CodeSigning => "1.3.6.1.5.5.7.3.3",
            Self::EmailProtection => "1.3.6.1.5.5.7.3.4",
            Self::IpsecEndSystem => "1.3.6.1.5.5.7.3.5",
            Self::IpsecTunnel => "1.3.6.1.5.5.7.3.6",
            Self::IpsecUser => "1.3.6.1.5.5.7.3.7",
            Self::TimeStamping => "1.3.6.1.5.5.7.3.8",
            Self::OcspSigning => "1.3.6.1.5.5.7.3.9",
            Self::MicrosoftSgc => "1.3.6.1.4.1.311.10.3.3",
            Self::NetscapeSgc => "2.16.840.1.113730.4.1",
            Self::Other(oid) => return oid,
        })
    }
}

impl fmt::Display for KeyUsage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(name_of(KEY_USAGES, *self).expect("the table names every key usage"))
    }
}

impl fmt::Display for ExtendedKeyUsage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (name_of(EXTENDED_KEY_USAGES, *self), self) {
            (Some(name), _) => f.write_str(name),
            (None, usage) => usage.oid().fmt(f),
        }
    }
}

impl fmt::Display for KeyUsages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.names().collect::<Vec<_>>().join(","))
    }
}

/// Where two names mean the same, the one to print comes first.
const KEY_USAGES: &[(&str, KeyUsage)] = &[
    ("digital signature", KeyUsage::DigitalSignature),
    ("signing", KeyUsage::DigitalSignature),
    ("content commitment", KeyUsage::ContentCommitment),
    ("key encipherment", KeyUsage::KeyEncipherment),
    ("data encipherment", KeyUsage::DataEncipherment),
    ("key agreement", KeyUsage::KeyAgreement),
    ("cert sign", KeyUsage::CertSign),
    ("crl sign", KeyUsage::CrlSign),
    ("encipher only", KeyUsage::EncipherOnly),
    ("decipher only", KeyUsage::DecipherOnly),
];

const EXTENDED_KEY_USAGES: &[(&str, ExtendedKeyUsage)] = &[
    ("any", ExtendedKeyUsage::Any),
    ("server auth", ExtendedKeyUsage::ServerAuth),
    ("client auth", ExtendedKeyUsage::ClientAuth),
    ("code signing", ExtendedKeyUsage::CodeSigning),
    ("email protection", ExtendedKeyUsage::EmailProtection),
    ("s/mime", ExtendedKeyUsage::EmailProtection),
    ("ipsec end system", ExtendedKeyUsage::IpsecEndSystem),
    ("ipsec tunnel", ExtendedKeyUsage::IpsecTunnel),
    ("ipsec user", ExtendedKeyUsage::IpsecUser),
    ("timestamping", ExtendedKeyUsage::TimeStamping),
    ("ocsp signing", ExtendedKeyUsage::OcspSigning),
    ("microsoft sgc", ExtendedKeyUsage::MicrosoftSgc),
    ("netscape sgc", ExtendedKeyUsage::NetscapeSgc),
];

fn look_up<T: Copy>(table: &[(&str, T)], name: &str) -> Option<T> {
    table.iter().find(|(known, _)| *known == name).map(|(_, usage)| *usage)
}

fn name_of<T: Copy + PartialEq>(table: &[(&'static str, T)], usage: T) -> Option<&'static str> {
    table.iter().find(|(_, known)| *known == usage).map(|(name, _)| *name)
}

fn known_names(wrong: &str) -> String {
    let mut names: Vec<_> = KeyUsages::known_names().collect();
    let wrong = wrong.to_ascii_lowercase();
    names.sort_by_key(|name| strsim::damerau_levenshtein(name, &wrong));
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_printed_as_it_is_read() {
        let names: Vec<_> = KEY_USAGES
            .iter()
            .map(|(name, _)| *name)
            .chain(EXTENDED_KEY_USAGES.iter().map(|(name, _)| *name))
            .filter(|name| !["signing", "s/mime"].contains(name))
            .chain(["1.3.6.1.5.2.3.5"])
            .collect();
        let usages = KeyUsages::parse(names.iter().copied()).unwrap();
        assert_eq!(usages.names().collect::<Vec<_>>(), names);
        assert_eq!(usages.key, KeyUsage::ALL);
    }

    #[test]
    fn aliases_and_duplicates_fold_and_the_order_asked_for_stays() {
        let names = ["client auth", "s/mime", "signing", "client auth", "email protection"];
        let usages = KeyUsages::parse(names).unwrap();
        assert_eq!(usages.to_string(), "digital signature,client auth,email protection");
    }

    #[test]
    fn an_identifier_of_a_named_usage_is_that_usage() {
        let usages = KeyUsages::parse(["1.3.6.1.5.5.7.3.1"]).unwrap();
        assert_eq!(usages.extended, [ExtendedKeyUsage::ServerAuth]);
    }

    #[test]
    fn an_unknown_name_lists_the_likeliest_first() {
        for (wrong, likeliest) in
            [("serverAuth", "server auth"), ("digital_signature", "digital signature")]
        {
            let error = KeyUsages::parse([wrong]).unwrap_err();
            assert_eq!(error.name, wrong);
            assert!(error.known.starts_with(likeliest), "{error}");
        }
        KeyUsages::parse([""]).unwrap_err();
    }
}
