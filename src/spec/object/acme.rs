//! `acme`: the fields of cert-manager's ACME issuer, and a few of our own.

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::de::{Error as _, IgnoredAny};
use serde::{Deserialize, Deserializer};

use super::dns01::Dns01Spec;
use super::{CaBundle, SecretKeyRef, ServerUrl};

/// The fields of `acme`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct AcmeSpec {
    /// The URL of the CA's directory (RFC 8555 §7.1.1).
    pub server: ServerUrl,
    /// Whom the CA may write to.
    pub email: Option<String>,
    /// Which certificates the server may show.
    pub ca_bundle: Option<CaBundle>,
    /// The common name of the issuer of the top-most certificate of the chain to take, where the CA
    /// offers several.
    pub preferred_chain: Option<String>,
    /// What the CA knows the operator by, where it wants that.
    pub external_account_binding: Option<ExternalAccountBinding>,
    /// Where the account's key is, or will be.
    pub private_key: SecretKeyRef,
    /// Whether to make a key where there is none.
    pub make_account_key: bool,
    /// The certificate profile to ask for.
    pub profile: Option<String>,
    /// Whether the CA is asked when certificates are to be renewed (RFC 9773).
    pub renewal_information: bool,
    /// Who may use one certificate together.
    pub sharing: Sharing,
    /// How names are proved.
    pub solvers: Vec<Solver>,
}

/// RFC 8555 §7.3.4.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ExternalAccountBinding {
    /// The identifier that the CA gave.
    #[serde(rename = "keyID")]
    #[schemars(length(min = 1))]
    pub key_id: String,
    /// The MAC key that the CA gave, in base64url as it came.
    pub key_secret_ref: SecretKeyRef,
}

/// Who may use one key and certificate together.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq)]
pub enum Sharing {
    /// Nobody: each volume has its own.
    #[default]
    Volume,
    /// The pods of one node that have the same namespace and service account, and ask for the same.
    Node,
}

/// A way to prove names, and which names it is for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Solver {
    /// Which names; all where it is empty.
    pub selector: Selector,
    /// How.
    pub method: SolverMethod,
    /// A field of cert-manager that was written and means nothing here.
    pub ignored: Option<&'static str>,
}

/// Which names a solver is for. The most specific solver proves a name: one that lists the name,
/// then the one with the longest zone, then the first.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct Selector {
    /// These names, and none below them.
    pub dns_names: Vec<String>,
    /// These zones with all that is below them.
    pub dns_zones: Vec<String>,
}

/// How a name is proved.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum SolverMethod {
    /// RFC 8555 §8.4: a TXT record that is published for the time of the order.
    Dns01(Box<Dns01Spec>),
    /// RFC 8555 §8.3, answered by the driver itself.
    Http01,
    /// RFC 8737, answered by the driver itself.
    TlsAlpn01,
    /// A TXT record that the operator has put there for good (draft-ietf-acme-dns-persist).
    DnsPersist01,
}

/// How specific a selector is for a name; more is greater.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Match {
    /// It is for all names.
    All,
    /// Through a zone with so many bytes.
    Zone(usize),
    /// It lists the name.
    Name,
}

impl Selector {
    /// Whether the selector is for `name`, a host name, an IP address or a wildcard, and how.
    pub fn matches(&self, name: &str) -> Option<Match> {
        if self.dns_names.is_empty() && self.dns_zones.is_empty() {
            return Some(Match::All);
        }
        if self.dns_names.iter().any(|listed| listed.eq_ignore_ascii_case(name)) {
            return Some(Match::Name);
        }
        let name = name.strip_prefix("*.").unwrap_or(name).to_ascii_lowercase();
        let below = |zone: &&str| {
            let host = name.strip_suffix(*zone);
            host.is_some_and(|host| host.is_empty() || host.ends_with('.'))
        };
        let zones = self.dns_zones.iter().map(|zone| zone.to_ascii_lowercase());
        let zones = zones.filter(|zone| below(&zone.as_str()));
        zones.map(|zone| Match::Zone(zone.len())).max()
    }
}

impl AcmeSpec {
    /// The Secrets that it names.
    pub fn secrets(&self) -> impl Iterator<Item = &str> {
        let binding = self.external_account_binding.as_ref().map(|it| &it.key_secret_ref);
        let dns01 = self.solvers.iter().filter_map(|solver| match &solver.method {
            SolverMethod::Dns01(spec) => Some(spec.secrets()),
            _ => None,
        });
        [&self.private_key]
            .into_iter()
            .chain(binding)
            .map(|secret| secret.name.as_str())
            .chain(dns01.flatten())
    }
}

/// Have certificates signed by an ACME server, such as Let's Encrypt or step-ca (RFC 8555).
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct WrittenAcme {
    /// The URL of the server's directory.
    #[schemars(with = "String", regex(pattern = "^https?://"))]
    server: ServerUrl,
    /// Whom the CA may write to. Let's Encrypt does so no longer.
    email: Option<String>,
    /// PEM certificates in base64 that the server must chain to, instead of the system's roots.
    ca_bundle: Option<String>,
    #[serde(rename = "skipTLSVerify")]
    #[schemars(skip)]
    skip_tls_verify: Option<bool>,
    /// Where the CA offers several chains, the one whose top-most certificate was issued by this
    /// common name; its default where there is none.
    #[schemars(length(max = 64))]
    preferred_chain: Option<String>,
    /// What an account is bound to, where the CA wants it to be.
    external_account_binding: Option<ExternalAccountBinding>,
    /// The Secret with the account's private key, under tls.key unless key says otherwise. Made
    /// where there is none; ECDSA and RSA keys of accounts that exist are taken over.
    private_key_secret_ref: SecretKeyRef,
    /// Whether to wait for the Secret instead of making it.
    #[serde(default)]
    disable_account_key_generation: bool,
    #[schemars(skip)]
    enable_duration_feature: Option<bool>,
    /// The certificate profile to ask for, of those that the server offers.
    profile: Option<String>,
    /// ARI (the default): the CA is asked when certificates are to be renewed, if it says such
    /// things. None: they are renewed as those of other issuers.
    #[serde(default)]
    #[schemars(with = "String", regex(pattern = "^(ARI|None)$"))]
    renewal_information_source: RenewalInformationSource,
    /// Volume (the default): a certificate for each volume. Node: pods of one node with the same
    /// namespace, service account and request use one key and certificate together.
    #[serde(default)]
    #[schemars(with = "String", regex(pattern = "^(Node|Volume)$"))]
    sharing: Sharing,
    /// How names are proved. Without any, only names that the server takes unproved are issued.
    #[serde(default)]
    solvers: Vec<Solver>,
}

impl<'de> Deserialize<'de> for AcmeSpec {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let written = WrittenAcme::deserialize(deserializer)?;
        if written.skip_tls_verify == Some(true) {
            return Err(D::Error::custom(
                "skipTLSVerify is not supported: put the server's CA into caBundle",
            ));
        }
        if written.enable_duration_feature == Some(true) {
            return Err(D::Error::custom(
                "enableDurationFeature is not supported: the server decides how long certificates \
                 hold; choose among its profiles",
            ));
        }
        Ok(Self {
            server: written.server,
            email: written.email,
            ca_bundle: CaBundle::read(written.ca_bundle.as_deref(), None)
                .map_err(D::Error::custom)?,
            preferred_chain: written.preferred_chain,
            external_account_binding: written.external_account_binding,
            private_key: written.private_key_secret_ref,
            make_account_key: !written.disable_account_key_generation,
            profile: written.profile,
            renewal_information: written.renewal_information_source
                == RenewalInformationSource::Ari,
            sharing: written.sharing,
            solvers: written.solvers,
        })
    }
}

impl JsonSchema for AcmeSpec {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "AcmeSpec".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        WrittenAcme::json_schema(generator)
    }
}

/// Who says when certificates are renewed.
#[derive(Default, Deserialize, Eq, PartialEq)]
enum RenewalInformationSource {
    #[default]
    #[serde(rename = "ARI")]
    Ari,
    None,
}

/// A way to prove names: one of http01, dns01, tlsALPN01 and dnsPersist01.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct WrittenSolver {
    /// Which names it is for; all without it.
    #[serde(default)]
    selector: WrittenSelector,
    /// The driver answers under /.well-known/acme-challenge/ at --acme-http01-address, which port
    /// 80 of the names must lead to.
    http01: Option<WrittenHttp01>,
    /// The driver answers at --acme-tls-alpn-address, which port 443 of the names must lead to.
    #[serde(rename = "tlsALPN01")]
    tls_alpn01: Option<Nothing>,
    /// TXT records _acme-challenge.<name> are published, which wildcards need.
    dns01: Option<Dns01Spec>,
    /// A TXT record _validation-persist.<name> that names the account is there already.
    #[serde(rename = "dnsPersist01")]
    dns_persist01: Option<Nothing>,
    /// Taken from specs of cert-manager and ignored: there is no such check of one's own here.
    #[serde(rename = "waitInsteadOfSelfCheck")]
    #[schemars(with = "Option<String>")]
    _wait_instead_of_self_check: Option<IgnoredAny>,
}

/// No fields.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Nothing {}

/// No fields of ours.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct WrittenHttp01 {
    /// Taken from specs of cert-manager and ignored: no Ingress is made here.
    #[serde(default)]
    #[schemars(schema_with = "super::dns01::any_object")]
    ingress: Option<IgnoredAny>,
    /// Taken from specs of cert-manager and ignored: no HTTPRoute is made here.
    #[serde(default, rename = "gatewayHTTPRoute")]
    #[schemars(schema_with = "super::dns01::any_object")]
    gateway_http_route: Option<IgnoredAny>,
}

/// Which names a solver is for; the most specific solver proves a name.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
struct WrittenSelector {
    /// These names, and none below them.
    dns_names: Vec<String>,
    /// These zones with all that is below them.
    dns_zones: Vec<String>,
    #[schemars(skip)]
    match_labels: Option<std::collections::BTreeMap<String, String>>,
}

impl<'de> Deserialize<'de> for Solver {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let written = WrittenSolver::deserialize(deserializer)?;
        let WrittenSelector { dns_names, dns_zones, match_labels } = written.selector;
        if match_labels.is_some_and(|labels| !labels.is_empty()) {
            return Err(D::Error::custom(
                "selector.matchLabels is not supported, since nobody tells a driver the labels of \
                 pods: use dnsNames or dnsZones",
            ));
        }
        let ignored = match &written.http01 {
            Some(WrittenHttp01 { ingress: Some(_), .. }) => Some("http01.ingress"),
            Some(WrittenHttp01 { gateway_http_route: Some(_), .. }) => {
                Some("http01.gatewayHTTPRoute")
            }
            _ => None,
        };
        let methods = [
            written.dns01.map(|spec| SolverMethod::Dns01(Box::new(spec))),
            written.http01.map(|_| SolverMethod::Http01),
            written.tls_alpn01.map(|Nothing {}| SolverMethod::TlsAlpn01),
            written.dns_persist01.map(|Nothing {}| SolverMethod::DnsPersist01),
        ];
        let mut methods = methods.into_iter().flatten();
        match (methods.next(), methods.next()) {
            (Some(method), None) => {
                Ok(Self { selector: Selector { dns_names, dns_zones }, method, ignored })
            }
            (Some(_), Some(_)) => {
                Err(D::Error::custom("a solver proves names in one way: make two of it"))
            }
            (None, _) => Err(D::Error::custom(
                "a solver does not say how names are proved: write http01: {}, dns01: {…}, \
                 tlsALPN01: {} or dnsPersist01: {}",
            )),
        }
    }
}

impl JsonSchema for Solver {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Solver".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        WrittenSolver::json_schema(generator)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_specific_selector_wins() {
        let selector = |names: &[&str], zones: &[&str]| Selector {
            dns_names: names.iter().map(|&name| name.to_owned()).collect(),
            dns_zones: zones.iter().map(|&zone| zone.to_owned()).collect(),
        };
        assert_eq!(selector(&[], &[]).matches("10.0.0.1"), Some(Match::All));
        assert_eq!(selector(&["a.example"], &[]).matches("A.example"), Some(Match::Name));
        assert_eq!(selector(&["a.example"], &[]).matches("b.a.example"), None);
        let zones = selector(&[], &["example", "b.example"]);
        assert_eq!(zones.matches("a.b.example"), Some(Match::Zone(9)));
        assert_eq!(zones.matches("*.b.example"), Some(Match::Zone(9)));
        assert_eq!(zones.matches("notexample"), None);
        assert!(Match::Name > Match::Zone(200) && Match::Zone(1) > Match::All);
    }
}
