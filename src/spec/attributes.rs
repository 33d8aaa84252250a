//! The volume attributes: one table of all of them, which parsing and documentation both follow.

mod page;
mod table;

use std::collections::BTreeMap;
use std::fmt;

pub use page::markdown;
pub(super) use table::Name;
use table::TABLE;

use super::tokens::TOKENS;

/// One volume attribute.
#[derive(Clone, Copy, Debug)]
pub struct Attribute {
    /// Its name, without a prefix.
    pub name: &'static str,
    /// How its value is written.
    pub syntax: Syntax,
    /// What holds when it is not given, in Markdown; empty for nothing.
    pub default: &'static str,
    /// What it does, in Markdown.
    pub meaning: &'static str,
    /// Who thought of it.
    pub origin: Origin,
    /// Where it belongs in the documentation.
    pub section: Section,
}

/// How a value is written.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Syntax {
    /// `true` or `false`.
    Boolean,
    /// Comma-separated values with variables; double quotes keep a comma inside an item.
    Csv,
    /// A span of time such as `720h`.
    Duration,
    /// A span of time, or a percentage such as `30%`.
    DurationOrPercent,
    /// A plain file name.
    FileName,
    /// The id of a user or group.
    Id,
    /// A list with variables, separated by commas.
    List,
    /// Octal permission bits.
    Mode,
    /// A whole number.
    Number,
    /// One word of several.
    OneOf(&'static [&'static str]),
    /// A password in clear.
    Password,
    /// The name of a key in the Secret that `nodePublishSecretRef` names.
    SecretKey,
    /// Text that is taken as it is.
    Text,
    /// Text with variables.
    Template,
}

/// Who thought of an attribute.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Origin {
    /// cert-manager's csi-driver has it too.
    CertManager,
    /// Only certmount has it.
    Certmount,
}

/// The parts of the documentation.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Section {
    /// Who signs.
    Issuer,
    /// Subject and subject alternative names.
    Names,
    /// Validity and usages.
    Certificate,
    /// The private key.
    Key,
    /// Whom the volume trusts.
    Trust,
    /// PEM and DER files.
    Files,
    /// PKCS#12 and JKS files.
    Keystores,
    /// Who may read the files.
    Permissions,
}

/// In front of an attribute's name.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Prefix {
    /// certmount's own.
    Certmount,
    /// That of cert-manager's csi-driver.
    CertManager,
}

/// All attributes, in the order of the documentation.
pub fn table() -> &'static [Attribute] {
    &TABLE
}

/// Whether one of these attributes may name the pod's own IP address by its variable.
pub fn may_name_pod_ip<'a>(attributes: impl IntoIterator<Item = (&'a String, &'a String)>) -> bool {
    let mut ours = attributes.into_iter().filter(|(key, _)| Prefix::split(key).is_some());
    ours.any(|(_, value)| value.contains("POD_IP"))
}

/// Whether the value of the volume attribute `key` is a password or token: never to be printed,
/// and kept apart from the rest of a record. So is what has one of our prefixes and is no attribute,
/// for it can be a misspelt password, and what others call one.
pub fn is_secret(key: &str) -> bool {
    match Prefix::split(key) {
        Some((_, name)) => {
            Name::find(name).is_none_or(|name| name.attribute().syntax == Syntax::Password)
        }
        None => key == TOKENS || key.to_ascii_lowercase().contains("password"),
    }
}

/// The keys of `nodePublishSecretRef` that `attributes` refer to; nothing else of it is needed.
pub fn referenced_secret_keys(attributes: &BTreeMap<String, String>) -> Vec<&str> {
    let refers = |key: &str| {
        let name = Prefix::split(key).and_then(|(_, name)| Name::find(name));
        name.is_some_and(|name| name.attribute().syntax == Syntax::SecretKey)
    };
    let referring = attributes.iter().filter(|(key, _)| refers(key));
    referring.map(|(_, value)| value.as_str()).filter(|value| !value.is_empty()).collect()
}

impl Prefix {
    /// The prefix with its slash.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Certmount => "certmount.dev/",
            Self::CertManager => "csi.cert-manager.io/",
        }
    }

    /// Splits the key of a volume attribute of ours into prefix and name.
    pub fn split(key: &str) -> Option<(Self, &str)> {
        [Self::Certmount, Self::CertManager]
            .into_iter()
            .find_map(|prefix| Some((prefix, key.strip_prefix(prefix.as_str())?)))
    }
}

impl Syntax {
    /// Whether `${POD_NAME}` and the like are replaced.
    pub fn has_variables(self) -> bool {
        matches!(self, Self::Csv | Self::List | Self::Template)
    }
}

impl Name {
    /// The attribute of this name.
    pub(super) fn find(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|known| known.attribute().name == name)
    }

    /// The name most like `name`, if any is at all.
    pub(super) fn nearest(name: &str) -> Option<Self> {
        /// Comparing takes the product of both lengths, and nobody means a name this long.
        const LONGEST: usize = 64;
        const ALIKE: f64 = 0.6;
        if name.len() > LONGEST {
            return None;
        }
        let name = name.to_ascii_lowercase().replace(['_', '.'], "-");
        let likeness = |known: &Self| {
            let known = known.attribute().name;
            (strsim::jaro_winkler(&name, known) + strsim::sorensen_dice(&name, known)) / 2.0
        };
        let rated = Self::ALL.iter().rev().map(|known| (likeness(known), *known));
        let (likeness, nearest) = rated.max_by(|(a, _), (b, _)| a.total_cmp(b))?;
        (likeness >= ALIKE).then_some(nearest)
    }

    /// Its row in the table.
    pub(super) fn attribute(self) -> &'static Attribute {
        &TABLE[self as usize]
    }
}

impl fmt::Display for Syntax {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Boolean => "`true` or `false`",
            Self::Csv => "CSV",
            Self::Duration => "duration",
            Self::DurationOrPercent => "duration or percentage",
            Self::FileName => "file name",
            Self::Id => "1 to 4294967294",
            Self::List => "list",
            Self::Mode => "octal mode",
            Self::Number => "number",
            Self::OneOf(words) => {
                let words: Vec<_> = words.iter().map(|word| format!("`{word}`")).collect();
                return f.write_str(&words.join(", "));
            }
            Self::Password => "password",
            Self::SecretKey => "key of a Secret",
            Self::Text => "text",
            Self::Template => "template",
        })
    }
}

impl fmt::Display for Section {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Issuer => "Issuer",
            Self::Names => "Names",
            Self::Certificate => "Certificate",
            Self::Key => "Private key",
            Self::Trust => "Trust anchors",
            Self::Files => "Files",
            Self::Keystores => "Keystores",
            Self::Permissions => "Permissions",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nearest(name: &str) -> Option<&'static str> {
        Name::nearest(name).map(|name| name.attribute().name)
    }

    #[test]
    fn names_are_unique_and_find_their_rows() {
        for (index, attribute) in table().iter().enumerate() {
            let name = Name::find(attribute.name).unwrap();
            assert_eq!(name as usize, index, "{}", attribute.name);
        }
    }

    #[test]
    fn all_of_cert_managers_attributes_are_there() {
        let theirs = table().iter().filter(|row| row.origin == Origin::CertManager).count();
        assert_eq!(theirs, 31);
    }

    #[test]
    fn misspelt_names_lead_to_the_right_ones() {
        for (written, meant) in [
            ("dns-name", "dns-names"),
            ("dnsnames", "dns-names"),
            ("DNS_Names", "dns-names"),
            ("commonname", "common-name"),
            ("organization", "organizations"),
            ("organizational-units", "organizationalunits"),
            ("private-key-file", "privatekey-file"),
            ("key-usage", "key-usages"),
            ("algorithm", "key-algorithm"),
            ("pkcs12-file", "pkcs12-filename"),
            ("emails", "email-sans"),
            ("fsgroup", "fs-group"),
            ("reuse-key", "reuse-private-key"),
            ("issuer", "issuer-name"),
        ] {
            assert_eq!(nearest(written), Some(meant), "{written}");
        }
        assert_eq!(nearest("zzz"), None);
        assert_eq!(nearest(&"dns-names".repeat(1000)), None);
    }

    #[test]
    fn passwords_and_tokens_are_secret() {
        for secret in [
            "csi.cert-manager.io/pkcs12-password",
            "certmount.dev/pkcs12-password",
            "certmount.dev/jks-password",
            "certmount.dev/privatekey-password",
            "csi.cert-manager.io/keystore-Password",
            "csi.cert-manager.io/keystore-pasword",
            "certmonut.dev/pkcs12-password",
            "csi.storage.k8s.io/serviceAccount.tokens",
        ] {
            assert!(is_secret(secret), "{secret}");
        }
        for open in ["certmount.dev/pkcs12-password-key", "certmount.dev/dns-names", "a/b", ""] {
            assert!(!is_secret(open), "{open}");
        }
    }

    #[test]
    fn only_the_secret_keys_referred_to_are_named() {
        let attributes = [
            ("certmount.dev/pkcs12-password-key", "p12"),
            ("csi.cert-manager.io/jks-password-key", "jks"),
            ("certmount.dev/privatekey-password-key", ""),
            ("certmount.dev/pkcs12-password", "inline"),
            ("other/pkcs12-password-key", "no"),
        ]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into();
        assert_eq!(referenced_secret_keys(&attributes), ["p12", "jks"]);
    }
}
