//! What a refused pod's owner reads: all that is refused, and the rule that would allow it.
//!
//! Everything in the message may have been written by somebody hostile, so it is quoted, in the
//! rule with escapes that YAML undoes, and nothing in it can end a line or reorder text.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use super::glob::{Facts, escape};
use super::{Asked, OWN_NAMES, Obstacle, PolicyDenied, Rule, asked};
use crate::spec::object::is_object_name;
use crate::spec::request::CertificateSpec;
use crate::spec::values::quoted;
use crate::spec::volume::PodRef;
use crate::x509::BasicConstraints;

/// A longer rule is not printed: the message goes into Events, which hold a kilobyte, and logs.
const LONGEST_RULE: usize = 4096;

/// More reasons than this are counted only.
const MOST_REASONS: usize = 8;

/// Explains why `spec` is refused: `refused` are the names that no rule grants to a request like
/// this, `broken` the rules that apply but that the request does not keep to.
pub(super) fn explain(
    pod: &PodRef,
    spec: &CertificateSpec,
    facts: &Facts<'_>,
    refused: &[Asked<'_>],
    broken: &[&Rule],
) -> PolicyDenied {
    let mut reasons = Vec::new();
    let mut add = |reason: String| {
        if !reasons.contains(&reason) {
            reasons.push(reason);
        }
    };
    // Where a rule has the names but not the conditions, the conditions are what is to be said.
    let mut held_back: Vec<&Rule> = Vec::new();
    for name in refused {
        match nearest(broken, spec, |rule| rule.grants(name, facts)) {
            Some(rule) => held_back.push(rule),
            None => add(name.to_string()),
        }
    }
    if refused.is_empty() {
        held_back.extend(nearest(broken, spec, |_| true));
    }
    for rule in held_back {
        rule.obstacles(spec).for_each(|obstacle| add(obstacle.to_string()));
    }

    let mut message = format!(
        "the issuer's policy does not allow pod {} of namespace {} (service account {}) to have ",
        quoted(&pod.name),
        quoted(&pod.namespace),
        quoted(&pod.service_account),
    );
    let more = reasons.len().saturating_sub(MOST_REASONS);
    reasons.truncate(MOST_REASONS);
    message.push_str(&reasons.join(", "));
    if more > 0 {
        // Writing to a String does not fail.
        let _ = write!(message, " and {more} more");
    }
    message.push_str("; ask for something else, or add ");
    match rule_for(pod, spec, facts) {
        Some(rule) => {
            message.push_str("this rule to policy in the issuer's spec:\n");
            message.push_str(&rule);
        }
        None => message.push_str("a rule for it to policy in the issuer's spec"),
    }
    PolicyDenied(message)
}

/// Of the rules that `fit`, the one with the fewest conditions in the way.
fn nearest<'r>(
    rules: &[&'r Rule],
    spec: &CertificateSpec,
    fits: impl Fn(&Rule) -> bool,
) -> Option<&'r Rule> {
    let in_the_way = |rule: &Rule| (rule.obstacles(spec).count(), Reverse(rule.max_duration));
    rules.iter().copied().filter(|rule| fits(rule)).min_by_key(|rule| in_the_way(rule))
}

/// The YAML of one rule that allows all of `spec` and no other name. `None` where it is too long,
/// or where the pod's names are none, so that it could apply to others.
fn rule_for(pod: &PodRef, spec: &CertificateSpec, facts: &Facts<'_>) -> Option<String> {
    if !is_object_name(&pod.namespace) || !is_object_name(&pod.service_account) {
        return None;
    }
    let foreign = || asked(spec).filter(|name| !OWN_NAMES.grants(name, facts));
    let patterns = |pick: fn(&Asked<'_>) -> Option<String>| -> Vec<String> {
        foreign().filter_map(|name| pick(&name)).collect()
    };
    let mut fields: Vec<(&str, String)> = Vec::new();
    let mut add = |field, items: Vec<String>| {
        if !items.is_empty() {
            fields.push((field, yaml_list(&items)));
        }
    };
    add("namespaces", vec![pod.namespace.clone()]);
    add("serviceAccounts", vec![pod.service_account.clone()]);
    add(
        "dnsNames",
        patterns(|name| match name {
            Asked::Dns(name) => Some(escape(name)),
            _ => None,
        }),
    );
    add(
        "ipRanges",
        patterns(|name| match name {
            Asked::Ip(address) => Some(address.to_string()),
            _ => None,
        }),
    );
    add(
        "uris",
        patterns(|name| match name {
            Asked::Uri(uri) => Some(escape(uri)),
            _ => None,
        }),
    );
    add(
        "emailAddresses",
        patterns(|name| match name {
            Asked::Email(address) => Some(escape(address)),
            _ => None,
        }),
    );
    add(
        "commonNames",
        patterns(|name| match name {
            Asked::CommonName(name) => Some(escape(name)),
            _ => None,
        }),
    );
    let needs_usages = Rule::default()
        .obstacles(spec)
        .any(|o| matches!(o, Obstacle::KeyUsage(_) | Obstacle::ExtendedKeyUsage(_)));
    if needs_usages {
        add("usages", spec.template.usages.names().collect());
    }
    let mut attributes = BTreeMap::<String, Vec<String>>::new();
    for name in foreign() {
        if let Asked::Attribute(kind, value) = name {
            attributes.entry(kind).or_default().push(escape(&value));
        }
    }
    if !attributes.is_empty() {
        let entries: Vec<String> = attributes
            .iter()
            .map(|(kind, values)| format!("{}: {}", yaml_text(kind), yaml_list(values)))
            .collect();
        fields.push(("subject", format!("{{{}}}", entries.join(", "))));
    }
    if matches!(spec.template.basic_constraints, BasicConstraints::Ca { .. }) {
        fields.push(("isCA", "true".to_owned()));
    }
    let lines: Vec<String> =
        fields.iter().map(|(field, value)| format!("{field}: {value}")).collect();
    Some(format!("- {}", lines.join("\n  "))).filter(|rule| rule.len() <= LONGEST_RULE)
}

fn yaml_list(items: &[String]) -> String {
    let items: Vec<String> = items.iter().map(|item| yaml_text(item)).collect();
    format!("[{}]", items.join(", "))
}

/// `text` in YAML's double quotes (YAML 1.2 §5.7), all of it printable ASCII.
fn yaml_text(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            ' '..='~' => quoted.push(c),
            // Writing to a String does not fail.
            c => drop(write!(quoted, "\\U{:08X}", u32::from(c))),
        }
    }
    quoted.push('"');
    quoted
}

impl std::fmt::Display for Asked<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Attribute(kind, value) => write!(f, "{kind}={} in its subject", quoted(value)),
            Self::CommonName(name) => write!(f, "the common name {}", quoted(name)),
            Self::Dns(name) => write!(f, "the DNS name {}", quoted(name)),
            Self::Email(address) => write!(f, "the email address {}", quoted(address)),
            Self::Ip(address) => write!(f, "the IP address {address}"),
            Self::Uri(uri) => write!(f, "the URI {}", quoted(uri)),
        }
    }
}

impl std::fmt::Display for Obstacle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Ca => f.write_str("a CA certificate"),
            Self::ExtendedKeyUsage(usage) => write!(f, "the usage \"{usage}\""),
            Self::KeyAlgorithm(algorithm) => write!(f, "a key of {algorithm}"),
            Self::KeyUsage(usage) => write!(f, "the usage \"{usage}\""),
            Self::MaxDuration(longest) => write!(f, "more than {}", go_duration(*longest)),
        }
    }
}

/// `duration` in the syntax that it is written in, such as `1h30m`.
fn go_duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let parts = [(seconds / 3600, "h"), (seconds / 60 % 60, "m"), (seconds % 60, "s")];
    let text: String = parts
        .iter()
        .filter(|(number, _)| *number > 0)
        .map(|(number, unit)| format!("{number}{unit}"))
        .collect();
    if text.is_empty() { format!("{duration:?}") } else { text }
}
