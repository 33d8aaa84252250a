//! Which names an issuer may sign for which pod: deny by default.
//!
//! Every pod may have the names that follow from its own identity: `<any>.<namespace>.svc`, the
//! same with the cluster's domain, `<pod>.<namespace>.pod`, the SPIFFE ID
//! `spiffe://<trust domain>/ns/<namespace>/sa/<service account>`, and its own IP address where that
//! is known. `policy` on an issuer is a list of rules that allow more, or set conditions:
//!
//! 1. A rule *applies* to a pod whose namespace is in `namespaces` and whose service account is in
//!    `serviceAccounts`; one that is left out means every one. Where no rule applies, the built-in
//!    rule does, which has the pod's own names and no conditions of its own.
//! 2. A request *keeps to* a rule if its usages, duration and key algorithm are in `usages`,
//!    `maxDuration` and `keyAlgorithms`, and if it is for a CA only where `isCA` is true. Without
//!    `usages` a rule allows those of TLS; without the other two it sets no limit. The key usages
//!    of every TLS certificate are always allowed.
//! 3. A rule *grants* the pod's own names, and what is in `dnsNames`, `ipRanges`, `uris`,
//!    `emailAddresses`, `commonNames` and `subject`; so one without `ipRanges` grants no address
//!    but the pod's own. A common name is also granted where it is a name that is granted.
//! 4. A request is allowed if it keeps to at least one rule that applies, and if each of its names
//!    is granted by a rule that applies and that the request keeps to. So names may come from
//!    several rules, and no rule stretches the conditions of another.

mod denial;
mod glob;
mod pattern;

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::LazyLock;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::de::{Error as _, Visitor};
use serde::{Deserialize, Deserializer};

use self::glob::Facts;
use self::pattern::{DnsPattern, EmailPattern, IpRange, NameGlob, TextPattern, UriPattern};
use super::object::DURATION;
use super::request::CertificateSpec;
use super::volume::PodRef;
use crate::x509::{
    BasicConstraints, DistinguishedName, ExtendedKeyUsage, GeneralName, KeyAlgorithm, KeyUsage,
    KeyUsages,
};

/// The name policy of one issuer.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct NamePolicy {
    rules: Vec<Rule>,
    cluster: Cluster,
}

/// The facts of this cluster and node that names are made of.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Cluster {
    /// The domain of the cluster's services, such as `cluster.local`.
    pub domain: String,
    /// The trust domain of its SPIFFE IDs.
    pub trust_domain: String,
    /// The name of this node, for `{node}`; empty where it is not known.
    pub node_name: String,
}

/// What was refused, and the rule that would allow it.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct PolicyDenied(pub String);

impl NamePolicy {
    /// The same rules for the names of `cluster`.
    #[must_use]
    pub fn in_cluster(self, cluster: Cluster) -> Self {
        Self { cluster, ..self }
    }

    /// Whether `pod`, whose address is `pod_ip` if anybody knows, may have what `spec` asks for.
    ///
    /// # Errors
    ///
    /// When it may not; the message names all that is refused and prints a rule that allows it.
    pub fn check(
        &self,
        pod: &PodRef,
        pod_ip: Option<IpAddr>,
        spec: &CertificateSpec,
    ) -> Result<(), PolicyDenied> {
        let facts = self.facts(pod, pod_ip);
        let Judgement { refused, keeps, broken } = self.judge(&facts, spec);
        if refused.is_empty() && keeps {
            return Ok(());
        }
        Err(denial::explain(pod, spec, &facts, &refused, &broken))
    }

    /// Whether [`NamePolicy::check`] without the pod's address refuses nothing but what could be
    /// that address.
    pub fn hangs_on_pod_ip(&self, pod: &PodRef, spec: &CertificateSpec) -> bool {
        let Judgement { refused, keeps, .. } = self.judge(&self.facts(pod, None), spec);
        let mut addresses = refused.iter().map(Asked::address);
        let first = addresses.next().flatten();
        keeps && first.is_some() && addresses.all(|address| address == first)
    }

    fn facts<'a>(&'a self, pod: &'a PodRef, pod_ip: Option<IpAddr>) -> Facts<'a> {
        Facts {
            namespace: &pod.namespace,
            pod: &pod.name,
            pod_ip,
            service_account: &pod.service_account,
            node: &self.cluster.node_name,
            cluster_domain: &self.cluster.domain,
            trust_domain: &self.cluster.trust_domain,
        }
    }

    fn judge<'a>(&'a self, facts: &Facts<'_>, spec: &'a CertificateSpec) -> Judgement<'a> {
        let mut applying: Vec<&Rule> =
            self.rules.iter().filter(|rule| rule.applies(facts)).collect();
        if applying.is_empty() {
            applying.push(&OWN_NAMES);
        }
        let (keeping, broken): (Vec<&Rule>, Vec<&Rule>) =
            applying.into_iter().partition(|rule| rule.obstacles(spec).next().is_none());
        let granted = |name: &Asked<'_>| keeping.iter().any(|rule| rule.grants(name, facts));
        let refused = asked(spec).filter(|name| !granted(name)).collect();
        Judgement { refused, keeps: !keeping.is_empty(), broken }
    }
}

/// What a policy has against a request.
struct Judgement<'a> {
    /// The names that no rule grants to a request like this.
    refused: Vec<Asked<'a>>,
    /// Whether the request keeps to a rule that applies.
    keeps: bool,
    /// The rules that apply but that it does not keep to.
    broken: Vec<&'a Rule>,
}

impl Default for Cluster {
    fn default() -> Self {
        Self {
            domain: "cluster.local".to_owned(),
            trust_domain: "cluster.local".to_owned(),
            node_name: String::new(),
        }
    }
}

impl<'de> Deserialize<'de> for NamePolicy {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self { rules: Vec::deserialize(deserializer)?, cluster: Cluster::default() })
    }
}

impl JsonSchema for NamePolicy {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "NamePolicy".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        Vec::<Rule>::json_schema(generator)
    }
}

/// Allows names to the pods that it applies to. Where no rule applies, a pod gets its own names
/// only.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
struct Rule {
    /// The rule applies to pods of these namespaces, such as team-*; without it, of every one.
    #[serde(deserialize_with = "some_of_a_list")]
    #[schemars(with = "Option<Vec<String>>", length(min = 1), inner(regex(pattern = NAME_GLOB)))]
    namespaces: Option<Vec<NameGlob>>,
    /// The rule applies to pods with these service accounts; without it, with every one.
    #[serde(deserialize_with = "some_of_a_list")]
    #[schemars(with = "Option<Vec<String>>", length(min = 1), inner(regex(pattern = NAME_GLOB)))]
    service_accounts: Option<Vec<NameGlob>>,
    /// Allows DNS names, such as *.{namespace}.example.com; * is one label, and ** as the first one
    /// or more.
    #[serde(deserialize_with = "list")]
    #[schemars(with = "Vec<String>", inner(regex(pattern = NO_BLANKS)))]
    dns_names: Vec<DnsPattern>,
    /// Allows IP addresses, such as 10.0.0.0/8; the pod's own needs no mention.
    #[serde(deserialize_with = "list")]
    #[schemars(with = "Vec<String>", inner(regex(pattern = "^[0-9A-Fa-f.:]+(/[0-9]{1,3})?$")))]
    ip_ranges: Vec<IpRange>,
    /// Allows URIs, such as spiffe://{trustDomain}/ns/{namespace}/sa/*; * is within one segment.
    #[serde(deserialize_with = "list")]
    #[schemars(with = "Vec<String>", inner(regex(pattern = NO_BLANKS)))]
    uris: Vec<UriPattern>,
    /// Allows email addresses, such as *@example.com.
    #[serde(deserialize_with = "list")]
    #[schemars(with = "Vec<String>", inner(regex(pattern = "^[!-~]+@[!-~]+$")))]
    email_addresses: Vec<EmailPattern>,
    /// Allows common names; those that are names allowed otherwise need no mention.
    #[serde(deserialize_with = "list")]
    #[schemars(with = "Vec<String>")]
    common_names: Vec<TextPattern>,
    /// Allows attributes of the subject other than the common name, by their short names, such as
    /// O or OU.
    #[serde(deserialize_with = "subject")]
    #[schemars(with = "BTreeMap<String, Vec<String>>")]
    subject: BTreeMap<String, Vec<TextPattern>>,
    /// The usages that requests may have, such as code signing; those of TLS without it.
    #[serde(deserialize_with = "usages")]
    #[schemars(with = "Option<Vec<String>>", inner(regex(pattern = usage_pattern())))]
    usages: Option<KeyUsages>,
    /// Whether requests may be for a CA: also those of chained Issuers in the namespaces.
    #[serde(rename = "isCA")]
    is_ca: bool,
    /// The longest duration that requests may have, such as 24h.
    #[serde(deserialize_with = "max_duration")]
    #[schemars(with = "Option<String>", regex(pattern = DURATION))]
    max_duration: Option<Duration>,
    /// The kinds of key that requests may have: ECDSA, ECDSA-256, ECDSA-384, ECDSA-521, Ed25519,
    /// RSA, RSA-2048, RSA-3072, RSA-4096, RSA-8192.
    #[serde(deserialize_with = "some_of_a_list")]
    #[schemars(
        with = "Option<Vec<String>>",
        length(min = 1),
        inner(regex(
            pattern = "^(?i:RSA(-(2048|3072|4096|8192))?|ECDSA(-(256|384|521))?|ED25519)$"
        ))
    )]
    key_algorithms: Option<Vec<KeyAlgorithms>>,
}

/// What the API server can tell of a pattern; the parsers are stricter.
const NAME_GLOB: &str = "^[-a-z0-9.*]+$";
const NO_BLANKS: &str = "^[!-~]+$";

fn usage_pattern() -> String {
    format!("^({}|[0-9]+(\\.[0-9]+)+)$", KeyUsages::known_names().collect::<Vec<_>>().join("|"))
}

/// The names that follow from a pod's own identity.
static OWN_NAMES: LazyLock<Rule> = LazyLock::new(|| {
    const OF_OURS: &str = "a pattern of ours";
    Rule {
        dns_names: vec![
            "**.{namespace}.svc".parse().expect(OF_OURS),
            "**.{namespace}.svc.{clusterDomain}".parse().expect(OF_OURS),
            "{pod}.{namespace}.pod".parse().expect(OF_OURS),
        ],
        uris: vec![
            "spiffe://{trustDomain}/ns/{namespace}/sa/{serviceAccount}".parse().expect(OF_OURS),
        ],
        ..Rule::default()
    }
});

/// The key usages that any key for TLS needs; they say nothing about who trusts it.
const ALWAYS_ALLOWED: [KeyUsage; 3] =
    [KeyUsage::DigitalSignature, KeyUsage::KeyEncipherment, KeyUsage::KeyAgreement];

/// What is allowed besides where a rule does not say.
const TLS: [ExtendedKeyUsage; 2] = [ExtendedKeyUsage::ServerAuth, ExtendedKeyUsage::ClientAuth];

/// One thing in a request that must be granted.
#[derive(Clone, Debug, Eq, PartialEq)]
enum Asked<'a> {
    /// An attribute of the subject that is not a common name: its type and value.
    Attribute(String, String),
    CommonName(String),
    Dns(&'a str),
    Email(&'a str),
    Ip(IpAddr),
    Uri(&'a str),
}

/// A condition of a rule that a request does not keep to.
#[derive(Clone, Debug, Eq, PartialEq)]
enum Obstacle {
    Ca,
    ExtendedKeyUsage(ExtendedKeyUsage),
    KeyAlgorithm(KeyAlgorithm),
    KeyUsage(KeyUsage),
    /// Asked for more than this.
    MaxDuration(Duration),
}

/// The short name of the common name's attribute type.
const COMMON_NAME: &str = "CN";

fn asked(spec: &CertificateSpec) -> impl Iterator<Item = Asked<'_>> {
    let subject = spec.template.subject.attributes().map(|(kind, value)| match kind.as_str() {
        COMMON_NAME => Asked::CommonName(value),
        _ => Asked::Attribute(kind, value),
    });
    let names = spec.template.subject_alt_names.iter().map(Asked::of);
    subject.chain(names)
}

impl<'a> Asked<'a> {
    fn of(name: &'a GeneralName) -> Self {
        match name {
            GeneralName::Dns(name) => Asked::Dns(name),
            GeneralName::Email(address) => Asked::Email(address),
            GeneralName::Ip(address) => Asked::Ip(*address),
            GeneralName::Uri(uri) => Asked::Uri(uri),
        }
    }

    /// The address that it is.
    fn address(&self) -> Option<IpAddr> {
        match self {
            Asked::Ip(address) => Some(*address),
            Asked::CommonName(text) => text.parse().ok(),
            _ => None,
        }
    }
}

impl Rule {
    fn applies(&self, facts: &Facts<'_>) -> bool {
        let among = |names: &Option<Vec<NameGlob>>, name| {
            names.as_ref().is_none_or(|globs| globs.iter().any(|glob| glob.matches(name, facts)))
        };
        among(&self.namespaces, facts.namespace)
            && among(&self.service_accounts, facts.service_account)
    }

    fn grants(&self, asked: &Asked<'_>, facts: &Facts<'_>) -> bool {
        self.lists(asked, facts) || OWN_NAMES.lists(asked, facts)
    }

    fn lists(&self, asked: &Asked<'_>, facts: &Facts<'_>) -> bool {
        match asked {
            Asked::Attribute(kind, value) => self
                .subject
                .get(kind)
                .is_some_and(|values| values.iter().any(|pattern| pattern.matches(value, facts))),
            Asked::CommonName(text) => {
                self.common_names.iter().any(|pattern| pattern.matches(text, facts))
                    || names_in(text).any(|name| self.lists(&Asked::of(&name), facts))
            }
            Asked::Dns(name) => self.dns_names.iter().any(|pattern| pattern.matches(name, facts)),
            Asked::Email(address) => {
                self.email_addresses.iter().any(|pattern| pattern.matches(address, facts))
            }
            // Every rule grants the pod's own names, and no pattern could say this one.
            Asked::Ip(address) => {
                facts.pod_ip == Some(*address)
                    || self.ip_ranges.iter().any(|range| range.contains(*address))
            }
            Asked::Uri(uri) => self.uris.iter().any(|pattern| pattern.matches(uri, facts)),
        }
    }

    /// The conditions that `spec` does not keep to.
    fn obstacles<'a>(&'a self, spec: &'a CertificateSpec) -> impl Iterator<Item = Obstacle> + 'a {
        let template = &spec.template;
        let ca = !self.is_ca && matches!(template.basic_constraints, BasicConstraints::Ca { .. });
        let key_usages = template.usages.key.iter().copied().filter(|usage| {
            let listed = self.usages.as_ref().is_some_and(|listed| listed.key.contains(usage));
            !listed && !ALWAYS_ALLOWED.contains(usage)
        });
        let extended =
            template.usages.extended.iter().copied().filter(|usage| match &self.usages {
                Some(listed) => !listed.extended.contains(usage),
                None => !TLS.contains(usage),
            });
        let too_long = self.max_duration.filter(|longest| spec.duration > *longest);
        let other_key = self.key_algorithms.as_ref().is_some_and(|allowed| {
            !allowed.iter().any(|algorithms| algorithms.0.contains(&spec.key_algorithm))
        });
        ca.then_some(Obstacle::Ca)
            .into_iter()
            .chain(key_usages.map(Obstacle::KeyUsage))
            .chain(extended.map(Obstacle::ExtendedKeyUsage))
            .chain(too_long.map(Obstacle::MaxDuration))
            .chain(other_key.then_some(Obstacle::KeyAlgorithm(spec.key_algorithm)))
    }
}

/// The names that somebody who looks at the common name may take `text` for.
fn names_in(text: &str) -> impl Iterator<Item = GeneralName> {
    // Other scripts could look like a name that is granted without being it.
    let read = text.is_ascii().then_some([GeneralName::dns, GeneralName::ip, GeneralName::uri]);
    read.into_iter().flatten().filter_map(move |read| read(text).ok())
}

/// What one word under `keyAlgorithms` means.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct KeyAlgorithms(&'static [KeyAlgorithm]);

use KeyAlgorithm::{EcdsaP256, EcdsaP384, EcdsaP521, Ed25519, Rsa2048, Rsa3072, Rsa4096, Rsa8192};

const KEY_ALGORITHMS: [(&str, KeyAlgorithms); 10] = [
    ("ECDSA", KeyAlgorithms(&[EcdsaP256, EcdsaP384, EcdsaP521])),
    ("ECDSA-256", KeyAlgorithms(&[EcdsaP256])),
    ("ECDSA-384", KeyAlgorithms(&[EcdsaP384])),
    ("ECDSA-521", KeyAlgorithms(&[EcdsaP521])),
    ("Ed25519", KeyAlgorithms(&[Ed25519])),
    ("RSA", KeyAlgorithms(&[Rsa2048, Rsa3072, Rsa4096, Rsa8192])),
    ("RSA-2048", KeyAlgorithms(&[Rsa2048])),
    ("RSA-3072", KeyAlgorithms(&[Rsa3072])),
    ("RSA-4096", KeyAlgorithms(&[Rsa4096])),
    ("RSA-8192", KeyAlgorithms(&[Rsa8192])),
];

impl FromStr for KeyAlgorithms {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = KEY_ALGORITHMS.iter().find(|(name, _)| name.eq_ignore_ascii_case(text));
        known.map(|(_, algorithms)| *algorithms).ok_or_else(|| {
            let names: Vec<&str> = KEY_ALGORITHMS.iter().map(|(name, _)| *name).collect();
            format!("{text:?} is not a key algorithm: use {}", names.join(", "))
        })
    }
}

/// A value that is read from text.
struct Parsed<T>(T);

impl<'de, T: FromStr<Err: fmt::Display>> Deserialize<'de> for Parsed<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text<T>(PhantomData<T>);
        impl<T: FromStr<Err: fmt::Display>> Visitor<'_> for Text<T> {
            type Value = T;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("text")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<T, E> {
                text.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_str(Text(PhantomData)).map(Parsed)
    }
}

fn list<'de, T, D>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    T: FromStr<Err: fmt::Display>,
    D: Deserializer<'de>,
{
    let items: Vec<Parsed<T>> = Vec::deserialize(deserializer)?;
    Ok(items.into_iter().map(|Parsed(item)| item).collect())
}

fn some_of_a_list<'de, T, D>(deserializer: D) -> Result<Option<Vec<T>>, D::Error>
where
    T: FromStr<Err: fmt::Display>,
    D: Deserializer<'de>,
{
    let items = list(deserializer)?;
    if items.is_empty() {
        return Err(D::Error::invalid_length(
            0,
            &"at least one; leave the field out to mean every one",
        ));
    }
    Ok(Some(items))
}

fn usages<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<KeyUsages>, D::Error> {
    let names: Vec<String> = Vec::deserialize(deserializer)?;
    KeyUsages::parse(names.iter().map(String::as_str)).map(Some).map_err(D::Error::custom)
}

fn max_duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    super::object::duration(deserializer).map(Some)
}

fn subject<'de, D>(deserializer: D) -> Result<BTreeMap<String, Vec<TextPattern>>, D::Error>
where
    D: Deserializer<'de>,
{
    let written: BTreeMap<String, Vec<Parsed<TextPattern>>> = BTreeMap::deserialize(deserializer)?;
    let mut subject = BTreeMap::<String, Vec<TextPattern>>::new();
    for (kind, values) in written {
        // The distinguished name knows the types, and how each is spelt.
        let mut sample = DistinguishedName::default();
        sample.push(&kind, "US").map_err(D::Error::custom)?;
        let Some((kind, _)) = sample.attributes().next() else { continue };
        if kind == COMMON_NAME {
            return Err(D::Error::custom("CN is not written under subject: use commonNames"));
        }
        subject.entry(kind).or_default().extend(values.into_iter().map(|Parsed(v)| v));
    }
    Ok(subject)
}

#[cfg(test)]
mod tests;
