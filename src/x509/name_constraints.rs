//! Name constraints: which names the certificates below a CA may hold (RFC 5280 §4.2.1.10).
//!
//! Verifiers differ at the edges, so what is asked of a name here is what the strictest of them
//! asks: a name that is allowed here is allowed by all that implement constraints of its kind.

use std::fmt;
use std::net::IpAddr;

use der::asn1::{Ia5String, OctetString};
use x509_cert::ext::pkix::NameConstraints as EncodableConstraints;
use x509_cert::ext::pkix::constraints::name::GeneralSubtree;
use x509_cert::ext::pkix::name::GeneralName as EncodableName;
use x509_parser::extensions::{GeneralName as ParsedName, GeneralSubtree as ParsedSubtree};

use super::{GeneralName, NameError, Template};

/// Which names the certificates below a CA may hold. Kinds of names that are not mentioned are not
/// constrained.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct NameConstraints {
    /// Names of a kind that is here must be within one of that kind.
    pub permitted: Vec<NameSubtree>,
    /// No name may be within one of these, whatever is permitted.
    pub excluded: Vec<NameSubtree>,
}

/// All names of one kind at and below some point.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum NameSubtree {
    /// The DNS name and all below it.
    Dns(String),
    /// A mailbox (`jane@example.com`), all of a host (`example.com`), or all of the hosts below a
    /// domain (`.example.com`).
    Email(String),
    /// The addresses whose first `prefix_len` bits are those of `network`.
    Ip {
        /// The first of them.
        network: IpAddr,
        /// At most 32 for IPv4 and 128 for IPv6.
        prefix_len: u8,
    },
    /// The URIs of a host (`example.com`), or of the hosts below a domain (`.example.com`).
    Uri(String),
}

/// A name that constraints do not allow.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub struct NameNotAllowed {
    /// The name.
    pub name: String,
    /// What of its kind is permitted; nothing where the name is excluded.
    pub permitted: Vec<String>,
    /// What of its kind is excluded.
    pub excluded: Vec<String>,
}

impl NameConstraints {
    /// Whether every name is allowed.
    pub fn is_empty(&self) -> bool {
        self.permitted.is_empty() && self.excluded.is_empty()
    }

    /// Whether a certificate of `template` may be below.
    ///
    /// A common name counts where it looks like a DNS name and there is no other, as for OpenSSL.
    ///
    /// # Errors
    ///
    /// The first name that is not allowed.
    pub fn check(&self, template: &Template) -> Result<(), NameNotAllowed> {
        let names = &template.subject_alt_names;
        let has_dns = names.iter().any(|name| matches!(name, GeneralName::Dns(_)));
        let common_name = template.subject.common_name().filter(|name| name.contains('.'));
        let common_name = common_name.filter(|_| !has_dns);
        let common_name = common_name.and_then(|name| GeneralName::dns(name).ok());
        match names.iter().chain(&common_name).find(|name| !self.allows(name)) {
            None => Ok(()),
            Some(name) => {
                let of_kind = |subtrees: &[NameSubtree]| {
                    let of_kind = subtrees.iter().filter(|subtree| subtree.is_of_kind(name));
                    of_kind.map(ToString::to_string).collect()
                };
                Err(NameNotAllowed {
                    name: name.to_string(),
                    permitted: of_kind(&self.permitted),
                    excluded: of_kind(&self.excluded),
                })
            }
        }
    }

    fn allows(&self, name: &GeneralName) -> bool {
        let of_kind = |subtrees: &[NameSubtree]| {
            let of_kind = subtrees.iter().filter(|subtree| subtree.is_of_kind(name));
            of_kind.cloned().collect::<Vec<_>>()
        };
        let (permitted, excluded) = (of_kind(&self.permitted), of_kind(&self.excluded));
        // RFC 5280 has a URI without a host name refused where hosts are constrained.
        let nameless = matches!(name, GeneralName::Uri(uri) if host(uri).is_none());
        if nameless && !(permitted.is_empty() && excluded.is_empty()) {
            return false;
        }
        (permitted.is_empty() || permitted.iter().any(|subtree| subtree.holds(name)))
            && !excluded.iter().any(|subtree| subtree.touches(name))
    }

    /// Whether every name that is allowed here is allowed by `outer`.
    pub fn is_within(&self, outer: &Self) -> bool {
        let permitted = outer.permitted.iter().all(|kind| {
            let mut of_kind = self.permitted.iter().filter(|own| own.same_kind(kind)).peekable();
            of_kind.peek().is_some()
                && of_kind.all(|own| outer.permitted.iter().any(|other| own.is_within(other)))
        });
        let excluded = outer
            .excluded
            .iter()
            .all(|subtree| self.excluded.iter().any(|own| subtree.is_within(own)));
        permitted && excluded
    }

    /// `None` where every name is allowed: the extension must not be empty.
    pub(super) fn to_encodable(&self) -> Result<Option<EncodableConstraints>, der::Error> {
        if self.is_empty() {
            return Ok(None);
        }
        let encode = |subtrees: &[NameSubtree]| {
            let subtrees: Vec<_> =
                subtrees.iter().map(NameSubtree::to_encodable).collect::<Result<_, _>>()?;
            Ok::<_, der::Error>(Some(subtrees).filter(|subtrees| !subtrees.is_empty()))
        };
        Ok(Some(EncodableConstraints {
            permitted_subtrees: encode(&self.permitted)?,
            excluded_subtrees: encode(&self.excluded)?,
        }))
    }

    /// Those of the four kinds that can be asked for; `None` if one of them is malformed.
    pub(super) fn from_parsed(
        permitted: Option<&[ParsedSubtree<'_>]>,
        excluded: Option<&[ParsedSubtree<'_>]>,
    ) -> Option<Self> {
        let read = |subtrees: Option<&[ParsedSubtree<'_>]>| {
            let subtrees = subtrees.unwrap_or_default().iter();
            let read = subtrees.filter_map(|subtree| NameSubtree::from_parsed(&subtree.base));
            read.collect::<Option<Vec<_>>>()
        };
        Some(Self { permitted: read(permitted)?, excluded: read(excluded)? })
    }
}

impl NameSubtree {
    /// A domain such as `svc.cluster.local`: itself and all names below it.
    ///
    /// # Errors
    ///
    /// A leading dot, which verifiers read differently, a wildcard, or what is no DNS name.
    pub fn dns(text: &str) -> Result<Self, NameError> {
        if text.starts_with('.') {
            return Err(NameError(format!(
                "DNS domain {text:?} begins with a dot; without it, it stands for all names below"
            )));
        }
        domain(text).map(Self::Dns)
    }

    /// A mailbox, a host, or a domain with a leading dot.
    ///
    /// # Errors
    ///
    /// Anything else.
    pub fn email(text: &str) -> Result<Self, NameError> {
        if text.contains('@') {
            return Ok(Self::Email(GeneralName::email(text)?.value()));
        }
        host_or_domain(text).map(Self::Email)
    }

    /// Addresses such as `10.0.0.0/8`, or one address.
    ///
    /// # Errors
    ///
    /// What is no address, a prefix that is too long, and bits that are set behind it.
    pub fn ip(text: &str) -> Result<Self, NameError> {
        let wrong = |reason: &str| {
            NameError(format!(
                "ip range {text:?} {reason}; write it as 10.0.0.0/8 or 2001:db8::/32"
            ))
        };
        let (address, length) =
            text.split_once('/').map_or((text, None), |(address, length)| (address, Some(length)));
        let network: IpAddr = address.parse().map_err(|_| wrong("is not one"))?;
        let longest = bits(network);
        let prefix_len = match length {
            None => longest,
            Some(length) => length.parse().map_err(|_| wrong("has no prefix length"))?,
        };
        if prefix_len > longest {
            return Err(wrong("has a prefix that is too long"));
        }
        let subtree = Self::Ip { network, prefix_len };
        if masked(network, prefix_len) != network {
            return Err(wrong("has bits set behind its prefix"));
        }
        Ok(subtree)
    }

    /// The host of URIs, or with a leading dot all hosts below a domain.
    ///
    /// # Errors
    ///
    /// Anything else, such as a scheme or a path.
    pub fn uri(text: &str) -> Result<Self, NameError> {
        host_or_domain(text).map(Self::Uri)
    }

    fn is_of_kind(&self, name: &GeneralName) -> bool {
        match (self, name) {
            // Addresses of both families are one kind.
            (Self::Dns(_), GeneralName::Dns(_))
            | (Self::Email(_), GeneralName::Email(_))
            | (Self::Ip { .. }, GeneralName::Ip(_))
            | (Self::Uri(_), GeneralName::Uri(_)) => true,
            _ => false,
        }
    }

    fn same_kind(&self, other: &Self) -> bool {
        std::mem::discriminant(self) == std::mem::discriminant(other)
    }

    /// Whether all that `name` stands for is in here.
    fn holds(&self, name: &GeneralName) -> bool {
        match (self, name) {
            (Self::Dns(base), GeneralName::Dns(name)) => {
                is_at_or_below(name.strip_prefix("*.").unwrap_or(name), base)
            }
            (Self::Email(base), GeneralName::Email(mailbox)) => match base.split_once('@') {
                Some((local, host)) => mailbox
                    .rsplit_once('@')
                    .is_some_and(|(other, at)| other == local && at.eq_ignore_ascii_case(host)),
                None => mailbox.rsplit_once('@').is_some_and(|(_, host)| is_host_in(host, base)),
            },
            (Self::Ip { network, prefix_len }, GeneralName::Ip(address)) => {
                network.is_ipv4() == address.is_ipv4() && masked(*address, *prefix_len) == *network
            }
            (Self::Uri(base), GeneralName::Uri(uri)) => {
                host(uri).is_some_and(|host| is_host_in(host, base))
            }
            _ => false,
        }
    }

    /// Whether something that `name` stands for is in here.
    fn touches(&self, name: &GeneralName) -> bool {
        let by_wildcard = match (self, name) {
            // One label more than what follows the star.
            (Self::Dns(base), GeneralName::Dns(name)) => name
                .strip_prefix("*.")
                .zip(base.split_once('.'))
                .is_some_and(|(domain, (_, above))| domain.eq_ignore_ascii_case(above)),
            _ => false,
        };
        by_wildcard || self.holds(name)
    }

    fn is_within(&self, outer: &Self) -> bool {
        match (self, outer) {
            (Self::Dns(own), Self::Dns(outer)) => is_at_or_below(own, outer),
            (Self::Email(own), Self::Email(outer)) => match own.rsplit_once('@') {
                Some((_, host)) => own == outer || is_host_in(host, outer),
                None => is_tree_within(own, outer),
            },
            (Self::Uri(own), Self::Uri(outer)) => is_tree_within(own, outer),
            (
                Self::Ip { network, prefix_len },
                Self::Ip { network: outer, prefix_len: outer_len },
            ) => {
                network.is_ipv4() == outer.is_ipv4()
                    && prefix_len >= outer_len
                    && masked(*network, *outer_len) == *outer
            }
            _ => false,
        }
    }

    fn to_encodable(&self) -> Result<GeneralSubtree, der::Error> {
        let base = match self {
            Self::Dns(text) => EncodableName::DnsName(Ia5String::new(text)?),
            Self::Email(text) => EncodableName::Rfc822Name(Ia5String::new(text)?),
            Self::Ip { network, prefix_len } => {
                let mask = mask(*network, *prefix_len);
                EncodableName::IpAddress(OctetString::new(
                    [octets(*network), octets(mask)].concat(),
                )?)
            }
            Self::Uri(text) => EncodableName::UniformResourceIdentifier(Ia5String::new(text)?),
        };
        Ok(GeneralSubtree { base, minimum: 0, maximum: None })
    }

    /// `Some(None)` if it is malformed; `None` if it is of a kind that is not read.
    fn from_parsed(base: &ParsedName<'_>) -> Option<Option<Self>> {
        match base {
            // A leading dot leaves out the domain itself; that is for verifiers to see.
            ParsedName::DNSName(text) => {
                Some(Some(Self::Dns(text.trim_start_matches('.').to_ascii_lowercase())))
            }
            ParsedName::RFC822Name(text) => Some(Some(Self::Email((*text).to_owned()))),
            ParsedName::URI(text) => Some(Some(Self::Uri(text.to_ascii_lowercase()))),
            ParsedName::IPAddress(bytes) => Some(range(bytes)),
            _ => None,
        }
    }
}

impl fmt::Display for NameNotAllowed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the name constraints above it do not allow {}", self.name)?;
        if !self.permitted.is_empty() {
            write!(f, "; permitted: {}", self.permitted.join(", "))?;
        }
        if !self.excluded.is_empty() {
            write!(f, "; excluded: {}", self.excluded.join(", "))?;
        }
        Ok(())
    }
}

impl fmt::Display for NameConstraints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |subtrees: &[NameSubtree]| {
            subtrees.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
        };
        match (self.permitted.is_empty(), self.excluded.is_empty()) {
            (true, true) => f.write_str("none"),
            (false, true) => write!(f, "permitted {}", list(&self.permitted)),
            (true, false) => write!(f, "excluded {}", list(&self.excluded)),
            (false, false) => {
                write!(f, "permitted {}, excluded {}", list(&self.permitted), list(&self.excluded))
            }
        }
    }
}

/// As the kinds of names are printed: `dns:`, `email:`, `ip:`, `uri:`.
impl fmt::Display for NameSubtree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dns(text) => write!(f, "dns:{text}"),
            Self::Email(text) => write!(f, "email:{text}"),
            Self::Ip { network, prefix_len } => write!(f, "ip:{network}/{prefix_len}"),
            Self::Uri(text) => write!(f, "uri:{text}"),
        }
    }
}

/// A DNS name without a wildcard.
fn domain(text: &str) -> Result<String, NameError> {
    match GeneralName::dns(text)? {
        GeneralName::Dns(name) if !name.starts_with("*.") => Ok(name),
        _ => Err(NameError(format!("domain {text:?} has a wildcard; leave out the *. of it"))),
    }
}

fn host_or_domain(text: &str) -> Result<String, NameError> {
    match text.strip_prefix('.') {
        Some(below) => Ok(format!(".{}", domain(below)?)),
        None => domain(text),
    }
}

/// The whole of DNS is below an empty domain.
fn is_at_or_below(name: &str, domain: &str) -> bool {
    domain.is_empty() || name.eq_ignore_ascii_case(domain) || is_below(name, domain)
}

fn is_below(name: &str, domain: &str) -> bool {
    let head = name.len().checked_sub(domain.len()).filter(|head| *head > 1);
    let split = head.and_then(|head| name.split_at_checked(head));
    split.is_some_and(|(head, tail)| head.ends_with('.') && tail.eq_ignore_ascii_case(domain))
}

/// Whether `host` is the one that `base` names, or below it where `base` begins with a dot.
fn is_host_in(host: &str, base: &str) -> bool {
    match base.strip_prefix('.') {
        Some(domain) => is_below(host, domain),
        None => host.eq_ignore_ascii_case(base),
    }
}

fn is_tree_within(own: &str, outer: &str) -> bool {
    match (own.strip_prefix('.'), outer.strip_prefix('.')) {
        (Some(own), Some(outer)) => is_at_or_below(own, outer),
        (Some(_), None) => false,
        (None, _) => is_host_in(own, outer),
    }
}

/// The host name in a URI with an authority (RFC 3986 §3.2.2); addresses are none.
fn host(uri: &str) -> Option<&str> {
    let (_, rest) = uri.split_once("://")?;
    let authority = rest.split(['/', '?', '#']).next()?;
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let host = host.rsplit_once(':').map_or(host, |(host, _)| host);
    let is_name = !host.is_empty() && !host.contains(['[', ']']) && host.parse::<IpAddr>().is_err();
    is_name.then_some(host)
}

fn bits(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// The mask of `prefix_len` bits in the family of `address`.
fn mask(address: IpAddr, prefix_len: u8) -> IpAddr {
    let free = u32::from(bits(address).saturating_sub(prefix_len));
    match address {
        IpAddr::V4(_) => IpAddr::from(u32::MAX.checked_shl(free).unwrap_or(0).to_be_bytes()),
        IpAddr::V6(_) => IpAddr::from(u128::MAX.checked_shl(free).unwrap_or(0).to_be_bytes()),
    }
}

fn masked(address: IpAddr, prefix_len: u8) -> IpAddr {
    match (address, mask(address, prefix_len)) {
        (IpAddr::V4(address), IpAddr::V4(mask)) => IpAddr::V4(address & mask),
        (IpAddr::V6(address), IpAddr::V6(mask)) => IpAddr::V6(address & mask),
        (address, _) => address,
    }
}

/// An address and a mask, each of four or of sixteen bytes; `None` for others, and for masks that
/// are no prefix.
fn range(bytes: &[u8]) -> Option<NameSubtree> {
    let (network, mask_bytes) = bytes.split_at_checked(bytes.len() / 2)?;
    let address = |bytes: &[u8]| match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
        _ => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
    };
    let (network, found) = (address(network)?, address(mask_bytes)?);
    let ones: u32 = mask_bytes.iter().map(|byte| byte.count_ones()).sum();
    let prefix_len = u8::try_from(ones).ok()?;
    // Some CAs leave bits of the address set behind the prefix.
    let network = masked(network, prefix_len);
    (mask(network, prefix_len) == found).then_some(NameSubtree::Ip { network, prefix_len })
}

#[cfg(test)]
mod tests;
