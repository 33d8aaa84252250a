//! `chained`: an intermediate CA on each node, signed by another issuer.

use std::time::Duration;

use humantime::format_duration;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

use super::{
    DEFAULT_BACKDATE, DURATION, DURATION_OR_ZERO, GROUP, some_duration, some_duration_or_zero,
};
use crate::spec::values::quoted;
use crate::spec::volume::IssuerRef;
use crate::x509::{GeneralName, KeyAlgorithm, NameConstraints, NameError, NameSubtree};

/// The fields of `chained`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ChainedSpec {
    /// Who signs the intermediate.
    pub upstream: IssuerRef,
    /// How long an intermediate shall hold.
    pub duration: Duration,
    /// How long before its end it is replaced, less than `duration`; after half of its life
    /// without it.
    pub renew_before: Option<Duration>,
    /// The kind of its key.
    pub key_algorithm: KeyAlgorithm,
    /// Which names it may sign.
    pub name_constraints: NameConstraints,
    /// Names of its own, where `${NODE_NAME}` stands for the node's: an ACME server orders by them.
    pub dns_names: Vec<String>,
    /// The longest life of a certificate that it signs, whatever is asked for.
    pub max_duration: Option<Duration>,
    /// How far before the time of signing these become valid, for clocks that are behind.
    pub backdate: Duration,
}

/// An intermediate is asked for once in half of this, by every node.
const SHORTEST_DURATION: Duration = Duration::from_secs(600);

/// Long enough that an upstream can be down for a day and a half, short enough that a stolen
/// intermediate is of little use.
const DEFAULT_DURATION: Duration = Duration::from_secs(72 * 3600);

/// Sign on the node, with an intermediate CA that each node has from another issuer and that lives
/// for a short time only. Pods start without waiting for that issuer, and go on while it is down.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct WrittenChained {
    /// Who signs the intermediates.
    issuer_ref: WrittenReference,
    /// How long an intermediate holds, at least 10m; 72h without it. Nothing that it signs holds
    /// longer.
    #[serde(default, deserialize_with = "some_duration")]
    #[schemars(with = "Option<String>", regex(pattern = DURATION))]
    duration: Option<Duration>,
    /// How long before its end an intermediate is replaced, by one with a new key; after half of
    /// its life without it.
    #[serde(default, deserialize_with = "some_duration")]
    #[schemars(with = "Option<String>", regex(pattern = DURATION))]
    renew_before: Option<Duration>,
    /// The kind of an intermediate's key: ECDSA-256 (without it), ECDSA-384, ECDSA-521, Ed25519,
    /// RSA-2048, RSA-3072 or RSA-4096.
    #[serde(default)]
    #[schemars(regex(pattern = "^(ECDSA-(256|384|521)|Ed25519|RSA-(2048|3072|4096))$"))]
    key_algorithm: Option<String>,
    /// Which names an intermediate may sign, whatever its node would do with it. Kinds of names
    /// that are not mentioned are not constrained.
    #[serde(default)]
    name_constraints: WrittenConstraints,
    /// Names of the intermediate itself, which an ACME server orders by and has proved; none
    /// without it. ${NODE_NAME} stands for the node's name. The first is the common name.
    #[serde(default)]
    dns_names: Vec<String>,
    /// How certificates are signed with an intermediate.
    #[serde(default)]
    leaf: WrittenLeaf,
}

/// An issuer: one of certmount, of cert-manager, or one that serves cert-manager's API.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct WrittenReference {
    /// The issuer's name.
    #[schemars(length(min = 1, max = 253))]
    name: String,
    /// Issuer or ClusterIssuer; without it ClusterIssuer for one of certmount, else Issuer.
    kind: Option<String>,
    /// The issuer's API group; certmount.dev without it.
    group: Option<String>,
}

#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
struct WrittenConstraints {
    /// Always true: verifiers that do not understand the constraints refuse the chain.
    critical: Option<bool>,
    /// Names of a kind that is here must be within one of these.
    permitted: WrittenSubtrees,
    /// No name may be within one of these.
    excluded: WrittenSubtrees,
}

#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
struct WrittenSubtrees {
    /// Domains such as svc.cluster.local, each with all names below it.
    dns_domains: Vec<String>,
    /// Such as 10.0.0.0/8.
    ip_ranges: Vec<String>,
    /// Mailboxes, hosts such as example.com, or all hosts below a domain: .example.com.
    email_addresses: Vec<String>,
    /// The hosts of URIs, such as the trust domain of SPIFFE IDs, or all below a domain: .example.com.
    /// Clients that use rustls refuse every URI where this is set.
    uri_domains: Vec<String>,
}

#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
struct WrittenLeaf {
    /// The longest life of a certificate, whatever is asked for, such as 24h.
    #[serde(deserialize_with = "some_duration")]
    #[schemars(with = "Option<String>", regex(pattern = DURATION))]
    max_duration: Option<Duration>,
    /// How far before the time of signing certificates become valid, for clocks that are behind;
    /// 5m without it.
    #[serde(deserialize_with = "some_duration_or_zero")]
    #[schemars(with = "Option<String>", regex(pattern = DURATION_OR_ZERO))]
    backdate: Option<Duration>,
}

impl<'de> Deserialize<'de> for ChainedSpec {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let written = WrittenChained::deserialize(deserializer)?;
        let duration = written.duration.unwrap_or(DEFAULT_DURATION);
        if duration < SHORTEST_DURATION {
            return Err(D::Error::custom(format!(
                "duration {} is too short: every node asks for an intermediate so often; write 10m or more",
                format_duration(duration)
            )));
        }
        if let Some(renew_before) = written.renew_before.filter(|before| *before >= duration) {
            return Err(D::Error::custom(format!(
                "renewBefore {} is not less than duration {}",
                format_duration(renew_before),
                format_duration(duration)
            )));
        }
        names(&written.dns_names, "node").map_err(D::Error::custom)?;
        Ok(Self {
            upstream: written.issuer_ref.read().map_err(D::Error::custom)?,
            duration,
            renew_before: written.renew_before,
            key_algorithm: match &written.key_algorithm {
                Some(name) => key_algorithm(name).map_err(D::Error::custom)?,
                None => KeyAlgorithm::EcdsaP256,
            },
            name_constraints: written.name_constraints.read().map_err(D::Error::custom)?,
            dns_names: written.dns_names,
            max_duration: written.leaf.max_duration,
            backdate: written.leaf.backdate.unwrap_or(DEFAULT_BACKDATE),
        })
    }
}

impl ChainedSpec {
    /// The names of the intermediate itself, on the node `node_name`.
    ///
    /// # Errors
    ///
    /// When the node's name makes no DNS name of one of them.
    pub fn names_on(&self, node_name: &str) -> Result<Vec<GeneralName>, String> {
        names(&self.dns_names, node_name)
    }
}

/// The variable in `dnsNames`.
const NODE_NAME: &str = "${NODE_NAME}";

fn names(texts: &[String], node_name: &str) -> Result<Vec<GeneralName>, String> {
    let name = |text: &String| {
        let text = text.replace(NODE_NAME, node_name);
        if text.contains('$') {
            return Err(format!("dnsNames: {} has no variables but {NODE_NAME}", quoted(&text)));
        }
        GeneralName::dns(&text).map_err(|error| format!("dnsNames: {error}"))
    };
    let names: Vec<_> = texts.iter().map(name).collect::<Result<_, _>>()?;
    match names.first().map(GeneralName::value) {
        Some(first) if first.len() > LONGEST_COMMON_NAME => Err(format!(
            "dnsNames: {} is the common name, and longer than {LONGEST_COMMON_NAME} characters: \
             put a shorter one before it",
            quoted(&first)
        )),
        _ => Ok(names),
    }
}

/// RFC 5280's upper bound.
const LONGEST_COMMON_NAME: usize = 64;

impl JsonSchema for ChainedSpec {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "ChainedSpec".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        WrittenChained::json_schema(generator)
    }
}

impl WrittenReference {
    fn read(self) -> Result<IssuerRef, String> {
        let Self { name, kind, group } = self;
        if name.is_empty() {
            return Err("issuerRef has an empty name: name the issuer that signs".to_owned());
        }
        let group = group.unwrap_or_else(|| GROUP.to_owned());
        let default = if group == GROUP { "ClusterIssuer" } else { "Issuer" };
        let kind = kind.unwrap_or_else(|| default.to_owned());
        if group == GROUP && !["ClusterIssuer", "Issuer"].contains(&kind.as_str()) {
            return Err(format!(
                "issuerRef has the kind {}: write Issuer or ClusterIssuer",
                quoted(&kind)
            ));
        }
        Ok(IssuerRef { group, kind, name })
    }
}

impl WrittenConstraints {
    fn read(&self) -> Result<NameConstraints, String> {
        if self.critical == Some(false) {
            return Err(
                "nameConstraints are always critical (RFC 5280): take critical out".to_owned()
            );
        }
        let read = |field: &str, subtrees: &WrittenSubtrees| {
            subtrees.read().map_err(|error| format!("nameConstraints.{field}: {error}"))
        };
        Ok(NameConstraints {
            permitted: read("permitted", &self.permitted)?,
            excluded: read("excluded", &self.excluded)?,
        })
    }
}

impl WrittenSubtrees {
    fn read(&self) -> Result<Vec<NameSubtree>, NameError> {
        let of = |texts: &[String], read: fn(&str) -> Result<NameSubtree, NameError>| {
            texts.iter().map(|text| read(text)).collect::<Result<Vec<_>, _>>()
        };
        Ok([
            of(&self.dns_domains, NameSubtree::dns)?,
            of(&self.ip_ranges, NameSubtree::ip)?,
            of(&self.email_addresses, NameSubtree::email)?,
            of(&self.uri_domains, NameSubtree::uri)?,
        ]
        .concat())
    }
}

/// As in the policy's `keyAlgorithms`, each with its size.
const KEY_ALGORITHMS: [(&str, KeyAlgorithm); 7] = [
    ("ECDSA-256", KeyAlgorithm::EcdsaP256),
    ("ECDSA-384", KeyAlgorithm::EcdsaP384),
    ("ECDSA-521", KeyAlgorithm::EcdsaP521),
    ("Ed25519", KeyAlgorithm::Ed25519),
    ("RSA-2048", KeyAlgorithm::Rsa2048),
    ("RSA-3072", KeyAlgorithm::Rsa3072),
    ("RSA-4096", KeyAlgorithm::Rsa4096),
];

fn key_algorithm(name: &str) -> Result<KeyAlgorithm, String> {
    let known = KEY_ALGORITHMS.iter().find(|(known, _)| *known == name);
    known.map(|(_, algorithm)| *algorithm).ok_or_else(|| {
        let names: Vec<_> = KEY_ALGORITHMS.iter().map(|(name, _)| *name).collect();
        format!("keyAlgorithm {} is unknown: write one of {}", quoted(name), names.join(", "))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::object::{IssuerMethod, Object, parse};

    fn read(kind: &str, namespace: &str, spec: &str) -> Result<ChainedSpec, String> {
        let text = format!(
            "{{apiVersion: certmount.dev/v1alpha1, kind: {kind}, \
             metadata: {{name: mesh{namespace}}}, spec: {{chained: {spec}}}}}"
        );
        match parse(&text).remove(0).map_err(|error| error.message)?.object {
            Object::Issuer(issuer) => match issuer.spec.method {
                IssuerMethod::Chained(chained) => Ok(chained),
                other => panic!("{other:?}"),
            },
            other => panic!("{other:?}"),
        }
    }

    fn of_cluster(spec: &str) -> Result<ChainedSpec, String> {
        read("ClusterIssuer", "", spec)
    }

    #[test]
    fn a_name_is_enough() {
        let reference = |group: &str, kind: &str| IssuerRef {
            group: group.to_owned(),
            kind: kind.to_owned(),
            name: "root".to_owned(),
        };
        let spec = of_cluster("{issuerRef: {name: root}}").unwrap();
        assert_eq!(
            spec,
            ChainedSpec {
                upstream: reference("certmount.dev", "ClusterIssuer"),
                duration: Duration::from_secs(72 * 3600),
                renew_before: None,
                key_algorithm: KeyAlgorithm::EcdsaP256,
                name_constraints: NameConstraints::default(),
                dns_names: Vec::new(),
                max_duration: None,
                backdate: Duration::from_secs(300),
            }
        );
        let foreign = of_cluster("{issuerRef: {name: root, group: cert-manager.io}}").unwrap();
        assert_eq!(foreign.upstream, reference("cert-manager.io", "Issuer"));
    }

    #[test]
    fn every_field_is_read() {
        let spec = of_cluster(
            "{issuerRef: {name: root}, duration: 24h, renewBefore: 8h, keyAlgorithm: ECDSA-384, \
              dnsNames: ['${NODE_NAME}.mesh.example.com', mesh.example.com], \
              leaf: {maxDuration: 1h, backdate: 0s}, nameConstraints: {critical: true, \
              permitted: {dnsDomains: [svc.cluster.local], uriDomains: [cluster.local]}, \
              excluded: {ipRanges: [0.0.0.0/0, '::/0'], emailAddresses: [.example.com]}}}",
        )
        .unwrap();
        let hours = |hours: u64| Duration::from_secs(hours * 3600);
        assert_eq!((spec.duration, spec.renew_before), (hours(24), Some(hours(8))));
        assert_eq!((spec.max_duration, spec.backdate), (Some(hours(1)), Duration::ZERO));
        assert_eq!(spec.key_algorithm, KeyAlgorithm::EcdsaP384);
        let names = spec.names_on("node-1").unwrap();
        let names: Vec<_> = names.iter().map(ToString::to_string).collect();
        assert_eq!(names, ["dns:node-1.mesh.example.com", "dns:mesh.example.com"]);
        assert!(spec.names_on("no name").unwrap_err().contains("dnsNames"));
        assert!(spec.names_on(&"n".repeat(63)).unwrap_err().contains("put a shorter one"));
        let texts = |subtrees: &[NameSubtree]| -> Vec<String> {
            subtrees.iter().map(ToString::to_string).collect()
        };
        assert_eq!(
            texts(&spec.name_constraints.permitted),
            ["dns:svc.cluster.local", "uri:cluster.local"]
        );
        assert_eq!(
            texts(&spec.name_constraints.excluded),
            ["ip:0.0.0.0/0", "ip:::/0", "email:.example.com"]
        );
    }

    #[test]
    fn what_cannot_work_is_refused_with_what_to_write() {
        for (spec, said) in [
            ("{}", "issuerRef"),
            ("{issuerRef: {name: ''}}", "name the issuer"),
            ("{issuerRef: {name: a, kind: Secret}}", "write Issuer or ClusterIssuer"),
            ("{issuerRef: {name: a}, duration: 9m}", "write 10m or more"),
            ("{issuerRef: {name: a}, duration: 1h, renewBefore: 1h}", "is not less than duration"),
            ("{issuerRef: {name: a}, keyAlgorithm: RSA-1024}", "write one of ECDSA-256"),
            ("{issuerRef: {name: a}, nameConstraints: {critical: false}}", "take critical out"),
            (
                "{issuerRef: {name: a}, nameConstraints: {permitted: {dnsDomains: [.a.example]}}}",
                "nameConstraints.permitted: DNS domain \".a.example\" begins with a dot",
            ),
            ("{issuerRef: {name: a}, leaf: {pathLen: 1}}", "pathLen"),
            ("{issuerRef: {name: a}, dnsNames: ['a b']}", "dnsNames: "),
            (
                "{issuerRef: {name: a}, dnsNames: ['${POD_NAME}.a']}",
                "no variables but ${NODE_NAME}",
            ),
            ("{issuerRef: {name: mesh}}", "itself"),
            ("{issuerRef: {name: a, kind: Issuer}}", "is in no namespace"),
        ] {
            let error = of_cluster(spec).unwrap_err();
            assert!(error.contains(said), "{spec}: {error}");
        }
        let namespaced = |spec| read("Issuer", ", namespace: shop", spec);
        namespaced("{issuerRef: {name: a, kind: Issuer}}").unwrap();
        namespaced("{issuerRef: {name: mesh, kind: ClusterIssuer}}").unwrap();
        let error = namespaced("{issuerRef: {name: mesh, kind: Issuer}}").unwrap_err();
        assert!(error.contains("itself"), "{error}");
    }
}
