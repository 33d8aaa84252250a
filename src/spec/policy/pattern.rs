//! Patterns that names are held against, one type for each kind of name.
//!
//! No star crosses what separates the parts of a name: a dot in a domain, a slash in a URI.

use std::net::IpAddr;
use std::str::FromStr;

use super::glob::{Facts, Glob, PatternError, Variable};

/// A pattern for the names of Kubernetes objects, such as `team-*`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct NameGlob(Glob);

/// A pattern for DNS names: as many labels as the name has, each matched on its own; `**` as the
/// left-most label stands for one label or more.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct DnsPattern {
    /// The left-most label is `**`.
    any_depth: bool,
    labels: Vec<Glob>,
}

/// A pattern for URIs: as many segments between slashes as the URI has, each matched on its own;
/// `**` as the last segment stands for one segment or more.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct UriPattern {
    /// The last segment is `**`.
    any_depth: bool,
    segments: Vec<Glob>,
}

/// A pattern for email addresses: the part before the `@`, then a [`DnsPattern`].
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct EmailPattern {
    local: Glob,
    domain: DnsPattern,
}

/// A pattern for free text; `**` alone stands for any text.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct TextPattern {
    any: bool,
    glob: Glob,
}

/// Addresses with a common prefix (RFC 4632, RFC 4291 §2.3).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct IpRange {
    first: IpAddr,
    prefix_length: u8,
}

impl NameGlob {
    pub(super) fn matches(&self, name: &str, facts: &Facts<'_>) -> bool {
        self.0.matches(name, facts, |_| true)
    }
}

impl FromStr for NameGlob {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        let known = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-.*".contains(c);
        if text.is_empty() || !text.chars().all(known) {
            return Err(PatternError(format!(
                "{text:?} is not a pattern for names of Kubernetes objects: \
                 use lower-case letters, digits, - and ., and * for any run of them"
            )));
        }
        Ok(Self(Glob::parse(text)?))
    }
}

impl DnsPattern {
    /// Whether `name`, in A-labels and lower case, has this form.
    pub(super) fn matches(&self, name: &str, facts: &Facts<'_>) -> bool {
        // Only these two facts are domains, of several labels.
        let mut wanted = Vec::with_capacity(self.labels.len() + 2);
        for label in &self.labels {
            match label.lone_variable() {
                Some(domain @ (Variable::ClusterDomain | Variable::Node)) => {
                    wanted.extend(domain.of(facts).split('.').map(Glob::literal));
                }
                _ => wanted.push(label.clone()),
            }
        }
        let labels: Vec<&str> = name.split('.').collect();
        let Some(extra) = labels.len().checked_sub(wanted.len()) else {
            return false;
        };
        if extra > 0 && !self.any_depth || extra == 0 && self.any_depth {
            return false;
        }
        let free = labels.iter().take(extra);
        let bound = labels.iter().skip(extra);
        free.into_iter().all(|label| !label.is_empty() && label.chars().all(is_label))
            && bound
                .zip(&wanted)
                .all(|(label, glob)| !label.is_empty() && glob.matches(label, facts, is_label))
    }
}

impl FromStr for DnsPattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        let wrong = |what: &str| Err(PatternError(format!("DNS pattern {text:?} {what}")));
        if !text.is_ascii() {
            return wrong("is not ASCII: write the domain as A-labels (xn--…)");
        }
        let (any_depth, rest) = match text.strip_prefix("**.") {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let mut labels = Vec::new();
        for label in rest.split('.') {
            if label.is_empty() {
                return wrong("has an empty label: take out the extra dot");
            }
            if label.contains("**") {
                return wrong("has ** elsewhere than as its left-most label: use * for one label");
            }
            let glob = Glob::parse(label)?.lowercase();
            if !glob.literal_chars().all(|c| is_label(c) || c == '*') {
                return wrong("has a character that no DNS name has");
            }
            if glob.lone_variable().is_none()
                && glob.variables().any(|v| matches!(v, Variable::ClusterDomain | Variable::Node))
            {
                return wrong("needs {clusterDomain} and {node} to stand between dots");
            }
            let left_most = labels.is_empty() && !any_depth;
            if glob.literal_chars().any(|c| c == '*') && !(left_most && label == "{*}") {
                return wrong("has {*} elsewhere than as its left-most label");
            }
            labels.push(glob);
        }
        Ok(Self { any_depth, labels })
    }
}

impl UriPattern {
    /// Whether `uri` has this form, compared letter by letter.
    pub(super) fn matches(&self, uri: &str, facts: &Facts<'_>) -> bool {
        let parts: Vec<&str> = uri.split('/').collect();
        // Servers may resolve these away, and then the URI means another place.
        if parts.iter().any(|part| matches!(*part, "." | "..")) {
            return false;
        }
        let wanted = &self.segments;
        let deep_enough = match self.any_depth {
            true => parts.len() > wanted.len(),
            false => parts.len() == wanted.len(),
        };
        let (bound, free) = parts.split_at(wanted.len().min(parts.len()));
        deep_enough
            && bound.iter().zip(wanted).enumerate().all(|(index, (part, glob))| {
                let host = index == AUTHORITY;
                glob.matches(part, facts, if host { is_label } else { is_unreserved })
            })
            && free.iter().all(|part| !part.is_empty() && part.chars().all(is_unreserved))
    }
}

/// Where the host is between the slashes of `scheme://host/path`.
const AUTHORITY: usize = 2;

impl FromStr for UriPattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        let wrong = |what: &str| Err(PatternError(format!("URI pattern {text:?} {what}")));
        let scheme = text.split(':').next().unwrap_or_default();
        if scheme.is_empty()
            || scheme.len() == text.len()
            || !scheme.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c))
        {
            return wrong("needs a scheme, as in spiffe://example.org/ns/{namespace}");
        }
        let (any_depth, rest) = match text.strip_suffix("/**") {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let mut segments = Vec::new();
        for segment in rest.split('/') {
            if segment.contains("**") {
                return wrong("has ** elsewhere than as its last segment: use * for one segment");
            }
            segments.push(Glob::parse(segment)?);
        }
        if any_depth && segments.len() <= AUTHORITY {
            return wrong("allows every host: name the host before /**");
        }
        Ok(Self { any_depth, segments })
    }
}

impl EmailPattern {
    /// Whether `address` has this form; only the domain is free of letter case.
    pub(super) fn matches(&self, address: &str, facts: &Facts<'_>) -> bool {
        address.rsplit_once('@').is_some_and(|(local, domain)| {
            self.local.matches(local, facts, |c| is_unreserved(c) || c == '+')
                && self.domain.matches(&domain.to_ascii_lowercase(), facts)
        })
    }
}

impl FromStr for EmailPattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        let Some((local, domain)) = text.rsplit_once('@') else {
            return Err(PatternError(format!(
                "email pattern {text:?} has no @: write it as in *@example.com"
            )));
        };
        Ok(Self { local: Glob::parse(local)?, domain: domain.parse()? })
    }
}

impl TextPattern {
    pub(super) fn matches(&self, text: &str, facts: &Facts<'_>) -> bool {
        let harmless = |c: char| !c.is_control() && !".:/@".contains(c);
        self.any || self.glob.matches(text, facts, harmless)
    }
}

impl FromStr for TextPattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        let any = text == "**";
        if !any && text.contains("**") {
            return Err(PatternError(format!(
                "pattern {text:?} has ** beside other text: ** stands alone, for any text"
            )));
        }
        Ok(Self { any, glob: Glob::parse(text)? })
    }
}

impl IpRange {
    pub(super) fn contains(&self, address: IpAddr) -> bool {
        base(address, self.prefix_length) == self.first
    }
}

impl FromStr for IpRange {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        let wrong = |what: &str| PatternError(format!("IP range {text:?} {what}"));
        let (address, length) = match text.split_once('/') {
            Some((address, length)) => (address, Some(length)),
            None => (text, None),
        };
        let first: IpAddr = address
            .parse()
            .map_err(|_| wrong("is not a range: write it as in 10.0.0.0/8 or 2001:db8::/32"))?;
        let longest = if first.is_ipv4() { 32 } else { 128 };
        let prefix_length = match length {
            None => longest,
            Some(length) => Some(length)
                .filter(|length| length.chars().all(|c| c.is_ascii_digit()))
                .and_then(|length| length.parse().ok())
                .filter(|bits| *bits <= longest)
                .ok_or_else(|| wrong(&format!("needs a prefix length of 0 to {longest}")))?,
        };
        let base = base(first, prefix_length);
        if base != first {
            return Err(wrong(&format!("has bits after its prefix: write {base}/{prefix_length}")));
        }
        Ok(Self { first, prefix_length })
    }
}

/// The first address that has the same `prefix_length` bits in front.
fn base(address: IpAddr, prefix_length: u8) -> IpAddr {
    let bits = u32::from(prefix_length);
    match address {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(32_u32.saturating_sub(bits)).unwrap_or(0);
            IpAddr::V4((v4.to_bits() & mask).into())
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(128_u32.saturating_sub(bits)).unwrap_or(0);
            IpAddr::V6((v6.to_bits() & mask).into())
        }
    }
}

/// What a star takes in a DNS label.
fn is_label(c: char) -> bool {
    c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_'
}

/// What a star takes in a URI segment: unreserved characters (RFC 3986 §2.3), none of which ends
/// a host, starts a query or hides another character.
fn is_unreserved(c: char) -> bool {
    c.is_ascii_alphanumeric() || "-._~".contains(c)
}
