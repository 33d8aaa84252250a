//! Typed access to a request's attributes.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::Display;

use super::Secrets;
use super::problems::{Problems, tame};
use crate::spec::attributes::{Name, Prefix, is_secret};
use crate::spec::layout::Password;
use crate::spec::values::{self, ValueError, quoted};
use crate::spec::variables::Variables;

/// The attributes of one request. Each method answers `None` or nothing for what is not given or
/// wrong, and notes what is wrong in [`Reader::problems`].
#[derive(Debug)]
pub(super) struct Reader<'a> {
    given: [Option<Given<'a>>; Name::COUNT],
    /// The prefix to name attributes with that were not given.
    prefix: Prefix,
    variables: Variables<'a>,
    secrets: &'a Secrets,
    /// What is wrong.
    pub(super) problems: Problems,
    /// What works but is hardly meant.
    pub(super) warnings: Vec<String>,
    /// What is for the issuer.
    pub(super) annotations: BTreeMap<String, String>,
}

#[derive(Clone, Copy)]
struct Given<'a> {
    prefix: Prefix,
    value: &'a str,
}

impl<'a> Reader<'a> {
    /// Sorts the attributes into ours, kubelet's, and those for the issuer.
    pub(super) fn new(
        attributes: &'a BTreeMap<String, String>,
        variables: Variables<'a>,
        secrets: &'a Secrets,
    ) -> Self {
        let open = attributes.iter().map(|(key, value)| (key.as_str(), value.as_str()));
        let all = open.chain(secrets.attributes());
        let ours = |prefix: Prefix| all.clone().any(|(key, _)| key.starts_with(prefix.as_str()));
        let only_theirs = ours(Prefix::CertManager) && !ours(Prefix::Certmount);
        let mut reader = Self {
            given: [None; Name::COUNT],
            prefix: if only_theirs { Prefix::CertManager } else { Prefix::Certmount },
            variables,
            secrets,
            problems: Problems::default(),
            warnings: Vec::new(),
            annotations: BTreeMap::new(),
        };
        for (key, value) in all {
            match Prefix::split(key) {
                Some((prefix, name)) => reader.take(prefix, name, value),
                None if key.starts_with("csi.storage.k8s.io/") => {}
                None => reader.take_annotation(key, value),
            }
        }
        reader.check_annotations();
        reader
    }

    fn take(&mut self, prefix: Prefix, written: &str, value: &'a str) {
        const LONGEST: usize = 16 * 1024;
        let Some(name) = Name::find(written) else { return self.unknown(prefix, written) };
        if value.is_empty() {
            return;
        }
        if value.len() > LONGEST {
            self.problems.add(format_args!("{}{written} is longer than 16 KiB", prefix.as_str()));
        } else if self.given[name as usize].is_some() {
            self.problems.add(format_args!(
                "{}{written} and {}{written} are both given: keep one of them",
                Prefix::Certmount.as_str(),
                Prefix::CertManager.as_str(),
            ));
        } else {
            self.given[name as usize] = Some(Given { prefix, value });
        }
    }

    /// cert-manager's csi-driver ignores what it does not know, so pods in use may hold such.
    fn unknown(&mut self, prefix: Prefix, written: &str) {
        let crowded = match prefix {
            Prefix::Certmount => self.problems.is_full(),
            Prefix::CertManager => self.warnings.len() >= MOST_WARNINGS,
        };
        let nearest = if crowded { None } else { Name::nearest(written) };
        let advice = match nearest {
            Some(name) => format!("did you mean {}?", name.attribute().name),
            None => "see docs/attributes.md for all that there are".to_owned(),
        };
        let prefix_text = prefix.as_str();
        let message = format!("{prefix_text}{} is not an attribute: {advice}", shortened(written));
        match prefix {
            Prefix::Certmount => self.problems.add(message),
            Prefix::CertManager => self.warn(message),
        }
    }

    fn take_annotation(&mut self, key: &str, value: &str) {
        let Some((_, name)) = key
            .split_once('/')
            .filter(|(prefix, name)| is_dns_subdomain(prefix) && is_annotation_name(name))
        else {
            self.problems.add(format_args!(
                "{} is not an attribute: one starts with {:?}, or with another domain and a slash \
                 to be handed to the issuer",
                quoted(key),
                Prefix::Certmount.as_str()
            ));
            return;
        };
        if is_secret(key) {
            self.problems.add(format_args!(
                "{key} would be handed to the issuer, and be read there: a password of the volume \
                 is given with the prefix {:?}",
                Prefix::Certmount.as_str()
            ));
            return;
        }
        if Name::find(name).is_some() {
            self.warn(format!(
                "{key} is only handed to the issuer: did you mean {}{name}?",
                Prefix::Certmount.as_str()
            ));
        }
        self.annotations.insert(key.to_owned(), value.to_owned());
    }

    fn check_annotations(&mut self) {
        /// What Kubernetes allows for the annotations of one object.
        const MOST: usize = 256 * 1024;
        let size: usize = self.annotations.iter().map(|(key, value)| key.len() + value.len()).sum();
        if size > MOST {
            self.problems.add("the attributes for the issuer are longer than 256 KiB together");
            self.annotations.clear();
        }
    }

    /// Notes what works but is hardly meant.
    pub(super) fn warn(&mut self, message: impl Display) {
        if self.warnings.len() < MOST_WARNINGS {
            self.warnings.push(tame(&message.to_string()));
        }
    }

    /// Notes that an attribute is wrong; `reason` goes on where its name ends.
    pub(super) fn refuse(&mut self, name: Name, reason: impl Display) {
        let prefix = self.prefix_of(name).as_str();
        self.problems.add(format_args!("{prefix}{}{reason}", name.attribute().name));
    }

    /// Whether the attribute is given.
    pub(super) fn has(&self, name: Name) -> bool {
        self.given[name as usize].is_some()
    }

    /// The prefix that the attribute is given with.
    pub(super) fn prefix_of(&self, name: Name) -> Prefix {
        self.given[name as usize].map_or(self.prefix, |given| given.prefix)
    }

    /// The value with its variables replaced, if its syntax has any.
    pub(super) fn text(&mut self, name: Name) -> Option<Cow<'a, str>> {
        let value = self.given[name as usize]?.value;
        if !name.attribute().syntax.has_variables() {
            return Some(value.into());
        }
        let variables = self.variables;
        match variables.expand(value) {
            Ok(text) => Some(text),
            Err(error) => {
                self.refuse(name, format_args!(": {error}"));
                None
            }
        }
    }

    /// The value as `parse` reads it.
    pub(super) fn parse<T>(
        &mut self,
        name: Name,
        parse: impl FnOnce(&str) -> Result<T, ValueError>,
    ) -> Option<T> {
        let text = self.text(name)?;
        match parse(&text) {
            Ok(value) => Some(value),
            Err(error) => {
                self.refuse(name, format_args!(" {} {error}", quoted(&text)));
                None
            }
        }
    }

    /// One word of several, whatever its case.
    pub(super) fn one_of<T: Copy>(&mut self, name: Name, words: &[(&str, T)]) -> Option<T> {
        self.parse(name, |text| {
            let same = |(word, _): &&(&str, T)| word.eq_ignore_ascii_case(text);
            words.iter().find(same).map(|(_, value)| *value).ok_or_else(|| {
                let words: Vec<_> = words.iter().map(|(word, _)| *word).collect();
                ValueError(format!("must be one of {}", words.join(", ")).into())
            })
        })
    }

    /// `true` or `false`; `false` where it is not given.
    pub(super) fn flag(&mut self, name: Name) -> bool {
        self.parse(name, values::boolean).unwrap_or(false)
    }

    /// The items of a list as `parse` reads them, without repetitions.
    pub(super) fn each<T: PartialEq, E: Display>(
        &mut self,
        name: Name,
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> Vec<T> {
        let Some(text) = self.text(name) else { return Vec::new() };
        let mut items = Vec::new();
        for item in values::list(&text) {
            match parse(item) {
                Ok(item) if items.contains(&item) => {}
                Ok(_) if items.len() == MOST_ITEMS => {
                    self.refuse(name, format_args!(" has more than {MOST_ITEMS} items"));
                    break;
                }
                Ok(item) => items.push(item),
                Err(error) => self.refuse(name, format_args!(": {error}")),
            }
        }
        items
    }

    /// Comma-separated values; nothing where they are too many.
    pub(super) fn csv(&mut self, name: Name) -> Vec<String> {
        let Some(text) = self.text(name) else { return Vec::new() };
        match values::csv(&text) {
            Ok(items) if items.len() > MOST_ITEMS => {
                self.refuse(name, format_args!(" has more than {MOST_ITEMS} items"));
                Vec::new()
            }
            Ok(items) => items,
            Err(error) => {
                self.refuse(name, format_args!(": {error}"));
                Vec::new()
            }
        }
    }

    /// A password, given in clear or as a key of the Secret.
    pub(super) fn password(&mut self, in_clear: Name, by_key: Name) -> Option<Password> {
        let clear = self.given[in_clear as usize].map(|given| given.value);
        let key = self.given[by_key as usize].map(|given| given.value);
        let (name, password) = match (clear, key) {
            (None, None) => return None,
            (Some(_), Some(_)) => {
                let other = by_key.attribute().name;
                self.refuse(in_clear, format_args!(" is given beside {other}: keep one of them"));
                return None;
            }
            (Some(clear), None) => (in_clear, Password::new(clear)),
            (None, Some(key)) => (by_key, self.secrets.password(key)),
        };
        if password.as_ref().is_ok_and(Password::ends_with_line_break) {
            let name = name.attribute().name;
            self.warn(format_args!("the password of {name} ends with a line break, which counts"));
        }
        match (password, key) {
            (Ok(password), _) => Some(password),
            (Err(error), Some(key)) => {
                self.refuse(name, format_args!(" {} {error}", quoted(key)));
                None
            }
            (Err(error), None) => {
                self.refuse(name, format_args!(" {error}"));
                None
            }
        }
    }
}

const MOST_WARNINGS: usize = 16;

/// Of one attribute; each is compared with each, and no certificate needs as many.
const MOST_ITEMS: usize = 1000;

/// Hides the value: it can be a password.
impl std::fmt::Debug for Given<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.prefix.fmt(f)
    }
}

/// A name for a message, cut if it cannot be one of ours anyway.
fn shortened(name: &str) -> &str {
    match name.char_indices().nth(64) {
        Some((end, _)) => &name[..end],
        None => name,
    }
}

/// RFC 1123 as Kubernetes takes it for most names: lower-case labels with dots between them.
pub(super) fn is_dns_subdomain(text: &str) -> bool {
    text.len() <= 253 && text.split('.').all(is_dns_label)
}

/// One label of it.
pub(super) fn is_dns_label(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    !text.is_empty()
        && text.len() <= 63
        && text.bytes().all(inner)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

/// The part of an annotation's key behind the slash, as Kubernetes takes it.
fn is_annotation_name(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    let outer = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_alphanumeric());
    text.len() <= 63
        && text.bytes().all(inner)
        && outer(text.bytes().next())
        && outer(text.bytes().last())
}
