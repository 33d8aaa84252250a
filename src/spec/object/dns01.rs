//! `dns01` of an ACME solver as plain data: who publishes the TXT records of DNS-01 (RFC 8555
//! §8.4), and who is asked whether they are there.
//!
//! The fields are cert-manager's, and `nameservers` and `nameserversOnly`, which are flags of
//! cert-manager's controller.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use url::Url;

use super::{CaBundle, SecretKeyRef};
use crate::spec::values::quoted;

/// The fields of `dns01`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Dns01Spec {
    /// What a CNAME record at the name of the challenge means.
    pub cname_strategy: CnameStrategy,
    /// The servers that are asked where names are; empty for those of `/etc/resolv.conf`.
    pub nameservers: Vec<SocketAddr>,
    /// Whether only those are asked, also whether a record is there, and not the zone's own.
    pub nameservers_only: bool,
    /// Who publishes records.
    pub provider: Dns01Provider,
}

/// What a CNAME record at `_acme-challenge.<host>` means.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum CnameStrategy {
    /// `Follow`: the record goes where it leads to.
    Follow,
    /// `None`: nothing.
    #[default]
    None,
}

/// Who publishes records.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Dns01Provider {
    /// `acmeDNS`: a server of acme-dns.
    AcmeDns(AcmeDnsSpec),
    /// `cloudflare`: Cloudflare's API.
    Cloudflare(CloudflareSpec),
    /// `rfc2136`: a name server that takes dynamic updates.
    Rfc2136(Rfc2136Spec),
    /// `route53`: Amazon Route 53.
    Route53(Box<Route53Spec>),
    /// `webhook`: a webhook made for cert-manager.
    Webhook(WebhookSpec),
}

impl Dns01Provider {
    /// The field that takes the Kubernetes API.
    pub(super) fn needs_kubernetes(&self) -> Option<&'static str> {
        match self {
            Self::Webhook(_) => Some("dns01.webhook"),
            Self::Route53(spec) => match spec.auth {
                Route53Auth::ServiceAccount(_) => Some("route53.auth.kubernetes"),
                Route53Auth::Keys { .. } => None,
            },
            Self::AcmeDns(_) | Self::Cloudflare(_) | Self::Rfc2136(_) => None,
        }
    }
}

/// The fields of `dns01.rfc2136`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Rfc2136Spec {
    /// Where updates are sent.
    pub nameserver: HostPort,
    /// What they are sent over.
    pub protocol: UpdateProtocol,
    /// What they are signed with.
    pub tsig: Option<TsigSpec>,
}

/// What dynamic updates are sent over.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum UpdateProtocol {
    /// `TCP`.
    Tcp,
    /// `UDP`.
    #[default]
    Udp,
}

/// A key that dynamic updates are signed with (RFC 8945).
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct TsigSpec {
    /// `tsigKeyName`: its name at the server.
    pub key_name: String,
    /// `tsigAlgorithm`: what it signs with.
    pub algorithm: TsigAlgorithm,
    /// `tsigSecretSecretRef`: the key in base64, as name servers write it.
    pub secret: SecretKeyRef,
}

/// What a TSIG key signs with.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum TsigAlgorithm {
    /// `HMACSHA256`.
    #[default]
    HmacSha256,
    /// `HMACSHA384`.
    HmacSha384,
    /// `HMACSHA512`.
    HmacSha512,
}

/// The fields of `dns01.webhook`: the part of cert-manager's webhook API that finds the webhook.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct WebhookSpec {
    /// The API group that the webhook serves, such as acme.example.com.
    #[serde(deserialize_with = "super::object_name")]
    #[schemars(length(max = 253), regex(pattern = super::OBJECT_NAME))]
    pub group_name: String,
    /// The name of the solver in it.
    #[serde(deserialize_with = "super::object_name")]
    #[schemars(length(max = 253), regex(pattern = super::OBJECT_NAME))]
    pub solver_name: String,
    /// What the webhook is told, as its own documentation says. Names Secrets, does not hold them.
    #[serde(default)]
    #[schemars(schema_with = "any_object")]
    pub config: serde_json::Value,
}

/// The fields of `dns01.cloudflare`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum CloudflareSpec {
    /// `email` and `apiKeySecretRef`: the key of an account, which may do everything.
    Key {
        /// Whose key it is.
        email: String,
        /// The key.
        key: SecretKeyRef,
    },
    /// `apiTokenSecretRef`: a token that may edit the DNS of some zones.
    Token(SecretKeyRef),
}

/// The fields of `dns01.route53`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Route53Spec {
    /// The region whose STS is asked for a role.
    pub region: String,
    /// The zone's id; without it, the public zone of that name.
    pub hosted_zone_id: Option<String>,
    /// The ARN of the role to take on.
    pub role: Option<String>,
    /// Who asks.
    pub auth: Route53Auth,
}

/// Who asks Route 53.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Route53Auth {
    /// `accessKeyID` or `accessKeyIDSecretRef`, and `secretAccessKeySecretRef`: a user.
    Keys {
        /// The key's id, or where it is.
        id: AccessKeyId,
        /// The key.
        secret: SecretKeyRef,
    },
    /// `auth.kubernetes.serviceAccountRef`: whom AWS trusts to take on `role`.
    ServiceAccount(ServiceAccountRef),
}

/// The id of an access key.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum AccessKeyId {
    /// Where it is.
    Secret(SecretKeyRef),
    /// The id.
    Text(String),
}

/// A service account in the issuer's namespace, for a `ClusterIssuer` in certmount's.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ServiceAccountRef {
    /// Its name.
    #[serde(deserialize_with = "super::object_name")]
    #[schemars(length(max = 253), regex(pattern = super::OBJECT_NAME))]
    pub name: String,
    /// Whom its tokens are for; sts.amazonaws.com without it.
    #[serde(default)]
    pub audiences: Vec<String>,
}

/// The fields of `dns01.acmeDNS`.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct AcmeDnsSpec {
    /// Where the server is, such as https://auth.example.com.
    #[serde(deserialize_with = "web_address")]
    #[schemars(with = "String", regex(pattern = "^https?://[!-~]+$"))]
    pub host: Url,
    /// Accounts at the server by the names that they are for, in JSON.
    pub account_secret_ref: SecretKeyRef,
    /// PEM certificates in base64 that the server must chain to, instead of the system's roots.
    #[serde(default, deserialize_with = "ca_bundle")]
    #[schemars(with = "Option<String>")]
    pub ca_bundle: Option<CaBundle>,
}

/// A host's name or address, and a port.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct HostPort {
    /// A DNS name, or an IP address without brackets.
    pub host: String,
    /// The port; 53 where none was given.
    pub port: u16,
}

impl Dns01Spec {
    /// The Secrets that it needs, by name.
    pub fn secrets(&self) -> impl Iterator<Item = &str> {
        let references = match &self.provider {
            Dns01Provider::AcmeDns(acme_dns) => [Some(&acme_dns.account_secret_ref), None],
            Dns01Provider::Cloudflare(CloudflareSpec::Key { key, .. }) => [Some(key), None],
            Dns01Provider::Cloudflare(CloudflareSpec::Token(token)) => [Some(token), None],
            Dns01Provider::Rfc2136(rfc2136) => {
                [rfc2136.tsig.as_ref().map(|tsig| &tsig.secret), None]
            }
            Dns01Provider::Route53(route53) => match &route53.auth {
                Route53Auth::Keys { id: AccessKeyId::Secret(id), secret } => {
                    [Some(id), Some(secret)]
                }
                Route53Auth::Keys { secret, .. } => [Some(secret), None],
                Route53Auth::ServiceAccount(_) => [None, None],
            },
            Dns01Provider::Webhook(_) => [None, None],
        };
        references.into_iter().flatten().map(|reference| reference.name.as_str())
    }
}

impl FromStr for HostPort {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const EXPECTED: &str =
            "is no name server: write ns.example.com, 192.0.2.1:53 or [2001:db8::1]:53";
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (host, rest) = rest.split_once(']').ok_or(EXPECTED)?;
                host.parse::<Ipv6Addr>().map_err(|_| EXPECTED)?;
                (host, rest.strip_prefix(':').or_else(|| rest.is_empty().then_some("53")))
            }
            None if text.parse::<Ipv6Addr>().is_ok() => (text, Some("53")),
            None => match text.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (text, Some("53")),
            },
        };
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':');
        if host.is_empty() || host.len() > 253 || !host.chars().all(allowed) {
            return Err(EXPECTED);
        }
        match port.and_then(|port| port.parse().ok()) {
            Some(port) if port != 0 => Ok(Self { host: host.to_owned(), port }),
            _ => Err(EXPECTED),
        }
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.parse() {
            Ok(address) => SocketAddr::new(address, self.port).fmt(f),
            Err(_) => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

const PORT_53: u16 = 53;

/// An address of a name server, with port 53 where there is none.
fn socket_address(text: &str) -> Option<SocketAddr> {
    let address = text.parse::<IpAddr>().map(|address| SocketAddr::new(address, PORT_53));
    address.ok().or_else(|| text.parse().ok())
}

/// Who publishes the TXT records of DNS-01 challenges, in one way, and who is asked for them.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct WrittenDns01 {
    /// With Follow, a CNAME record at the name of the challenge leads to where the TXT record
    /// goes; with None, which is the default, it means nothing.
    #[schemars(extend("enum" = ["None", "Follow"]))]
    cname_strategy: Option<String>,
    /// The name servers that are asked where names are, such as 10.0.0.53 or 10.0.0.53:53; without
    /// them, those of the node.
    #[serde(default)]
    nameservers: Vec<String>,
    /// Ask only the nameservers whether a record is there, and not the zone's own: for nodes that
    /// cannot reach those.
    #[serde(default)]
    nameservers_only: bool,
    /// A server of acme-dns.
    #[serde(rename = "acmeDNS")]
    acme_dns: Option<AcmeDnsSpec>,
    /// Cloudflare.
    cloudflare: Option<WrittenCloudflare>,
    /// A name server that takes dynamic updates, such as BIND, Knot or PowerDNS.
    rfc2136: Option<WrittenRfc2136>,
    /// Amazon Route 53.
    route53: Option<WrittenRoute53>,
    /// A webhook that was made for cert-manager.
    webhook: Option<WebhookSpec>,
}

impl<'de> Deserialize<'de> for Dns01Spec {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let written = WrittenDns01::deserialize(deserializer)?;
        let mut providers = [
            written.acme_dns.map(|spec| Ok(Dns01Provider::AcmeDns(spec))),
            written.cloudflare.map(|spec| spec.read().map(Dns01Provider::Cloudflare)),
            written.rfc2136.map(|spec| spec.read().map(Dns01Provider::Rfc2136)),
            written.route53.map(|spec| Ok(Dns01Provider::Route53(Box::new(spec.read()?)))),
            written.webhook.map(|spec| Ok(Dns01Provider::Webhook(spec))),
        ]
        .into_iter()
        .flatten();
        let provider = match (providers.next(), providers.next()) {
            (Some(provider), None) => provider.map_err(D::Error::custom)?,
            _ => {
                return Err(D::Error::custom(
                    "dns01 needs one of acmeDNS, cloudflare, rfc2136, route53 and webhook",
                ));
            }
        };
        let cname_strategy = match written.cname_strategy.as_deref() {
            Some("Follow") => CnameStrategy::Follow,
            None | Some("None" | "") => CnameStrategy::None,
            Some(other) => {
                let said = format!("cnameStrategy {} is not None or Follow", quoted(other));
                return Err(D::Error::custom(said));
            }
        };
        let nameserver = |text: String| {
            socket_address(&text).ok_or_else(|| {
                let text = quoted(&text);
                D::Error::custom(format!(
                    "nameservers: {text} is not an address such as 10.0.0.53 or 10.0.0.53:53"
                ))
            })
        };
        Ok(Self {
            cname_strategy,
            nameservers: written
                .nameservers
                .into_iter()
                .map(nameserver)
                .collect::<Result<_, _>>()?,
            nameservers_only: written.nameservers_only,
            provider,
        })
    }
}

impl JsonSchema for Dns01Spec {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Dns01Spec".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        WrittenDns01::json_schema(generator)
    }
}

/// Where dynamic updates (RFC 2136) are sent, and what they are signed with.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct WrittenRfc2136 {
    /// The primary name server of the zone, such as 10.0.0.53 or ns.example.com:53.
    nameserver: String,
    /// What updates are sent over: UDP, which is the default, or TCP.
    #[schemars(extend("enum" = ["TCP", "UDP"]))]
    protocol: Option<String>,
    /// The name of the key at the server.
    tsig_key_name: Option<String>,
    /// What the key signs with; HMACSHA256 without it.
    #[schemars(extend("enum" = ["HMACSHA256", "HMACSHA384", "HMACSHA512"]))]
    tsig_algorithm: Option<String>,
    /// The key in base64, as name servers write it.
    tsig_secret_secret_ref: Option<SecretKeyRef>,
}

impl WrittenRfc2136 {
    fn read(self) -> Result<Rfc2136Spec, String> {
        let nameserver = self
            .nameserver
            .parse()
            .map_err(|said| format!("{} {said}", quoted(&self.nameserver)))?;
        let protocol = match self.protocol.as_deref() {
            Some("TCP") => UpdateProtocol::Tcp,
            None | Some("UDP" | "") => UpdateProtocol::Udp,
            Some(other) => return Err(format!("protocol {} is not TCP or UDP", quoted(other))),
        };
        let algorithm = match self.tsig_algorithm.as_deref() {
            None | Some("HMACSHA256" | "") => TsigAlgorithm::HmacSha256,
            Some("HMACSHA384") => TsigAlgorithm::HmacSha384,
            Some("HMACSHA512") => TsigAlgorithm::HmacSha512,
            Some(other) => {
                return Err(format!(
                    "tsigAlgorithm {} is not supported: make a key for HMACSHA256, HMACSHA384 or \
                     HMACSHA512",
                    quoted(other)
                ));
            }
        };
        let key_name = self.tsig_key_name.filter(|name| !name.is_empty());
        let tsig = match (key_name, self.tsig_secret_secret_ref) {
            (Some(key_name), Some(secret)) => Some(TsigSpec { key_name, algorithm, secret }),
            (None, None) => None,
            _ => {
                return Err("tsigKeyName and tsigSecretSecretRef belong together: write both, or \
                            neither where the server knows its clients by their addresses"
                    .to_owned());
            }
        };
        Ok(Rfc2136Spec { nameserver, protocol, tsig })
    }
}

/// What Cloudflare knows us by.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct WrittenCloudflare {
    /// An API token that may read zones and edit DNS.
    api_token_secret_ref: Option<SecretKeyRef>,
    /// The key of an account, which may do everything: prefer a token.
    api_key_secret_ref: Option<SecretKeyRef>,
    /// The account that the key is of.
    email: Option<String>,
}

impl WrittenCloudflare {
    fn read(self) -> Result<CloudflareSpec, String> {
        match (self.api_token_secret_ref, self.api_key_secret_ref, self.email) {
            // An email address says nothing beside a token; cert-manager's own examples have both.
            (Some(token), None, _) => Ok(CloudflareSpec::Token(token)),
            (None, Some(key), Some(email)) => Ok(CloudflareSpec::Key { email, key }),
            (None, Some(_), None) => {
                Err("cloudflare.apiKeySecretRef needs email: write it, or use apiTokenSecretRef"
                    .into())
            }
            (Some(_), Some(_), _) => {
                Err("cloudflare has both apiTokenSecretRef and apiKeySecretRef: take one out"
                    .into())
            }
            (None, None, _) => Err("cloudflare needs apiTokenSecretRef".into()),
        }
    }
}

/// The zone, and who may change it. Credentials of the node itself are never used.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct WrittenRoute53 {
    /// The region whose STS is asked for the role; us-east-1 without it.
    #[schemars(regex(pattern = "^[a-z0-9-]*$"))]
    region: Option<String>,
    /// The zone's id; without it, the public zone of that name.
    #[serde(rename = "hostedZoneID")]
    #[schemars(regex(pattern = "^[A-Z0-9]*$"))]
    hosted_zone_id: Option<String>,
    /// The ARN of a role to take on.
    role: Option<String>,
    /// Take on the role as a service account.
    auth: Option<WrittenRoute53Auth>,
    /// The id of an access key.
    #[serde(rename = "accessKeyID")]
    access_key_id: Option<String>,
    /// Where the id of an access key is.
    #[serde(rename = "accessKeyIDSecretRef")]
    access_key_id_secret_ref: Option<SecretKeyRef>,
    /// The access key.
    secret_access_key_secret_ref: Option<SecretKeyRef>,
}

/// Whom AWS trusts.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct WrittenRoute53Auth {
    /// A service account, through the OpenID Connect provider of the cluster.
    kubernetes: WrittenServiceAccount,
}

/// A service account.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct WrittenServiceAccount {
    /// The service account, whose tokens certmount must be allowed to make.
    service_account_ref: ServiceAccountRef,
}

impl WrittenRoute53 {
    fn read(self) -> Result<Route53Spec, String> {
        let some = |text: Option<String>| text.filter(|text| !text.is_empty());
        let (role, hosted_zone_id) = (some(self.role), some(self.hosted_zone_id));
        let region = some(self.region).unwrap_or_else(|| "us-east-1".to_owned());
        // It becomes part of a host name.
        if !region.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-') {
            return Err(format!("region {} is not one of AWS, such as us-east-1", quoted(&region)));
        }
        // It becomes part of a path.
        if let Some(id) = &hosted_zone_id
            && !id.chars().all(|c| c.is_ascii_alphanumeric())
        {
            return Err(format!("hostedZoneID {} has more than letters and digits", quoted(id)));
        }
        let id = match (some(self.access_key_id), self.access_key_id_secret_ref) {
            (Some(id), None) => Some(AccessKeyId::Text(id)),
            (None, Some(id)) => Some(AccessKeyId::Secret(id)),
            (None, None) => None,
            (Some(_), Some(_)) => {
                return Err("route53 has both accessKeyID and accessKeyIDSecretRef: take one out"
                    .to_owned());
            }
        };
        let auth = match (id, self.secret_access_key_secret_ref, self.auth) {
            (Some(id), Some(secret), None) => Route53Auth::Keys { id, secret },
            (None, None, Some(auth)) if role.is_some() => {
                Route53Auth::ServiceAccount(auth.kubernetes.service_account_ref)
            }
            (None, None, Some(_)) => {
                return Err("route53.auth.kubernetes needs role, which it takes on".to_owned());
            }
            (None, None, None) => {
                return Err("route53 does not say who asks: write accessKeyID and \
                            secretAccessKeySecretRef, or role and auth.kubernetes; the node's own \
                            role is not used"
                    .to_owned());
            }
            _ => {
                return Err("route53 needs accessKeyID (or accessKeyIDSecretRef) together with \
                            secretAccessKeySecretRef, or auth.kubernetes alone"
                    .to_owned());
            }
        };
        Ok(Route53Spec { region, hosted_zone_id, role, auth })
    }
}

/// Reads the URL of a server.
fn web_address<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Url, D::Error> {
    let text = String::deserialize(deserializer)?;
    let url = text.parse().ok().filter(|url: &Url| matches!(url.scheme(), "http" | "https"));
    url.ok_or_else(|| {
        let text = quoted(&text);
        D::Error::custom(format!("{text} is no address of a server, such as https://auth.example"))
    })
}

fn ca_bundle<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<CaBundle>, D::Error> {
    let inline = Option::<String>::deserialize(deserializer)?;
    CaBundle::read(inline.as_deref(), None).map_err(D::Error::custom)
}

/// Whatever others take.
pub(super) fn any_object(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "object", "x-kubernetes-preserve-unknown-fields": true})
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::yaml::Node;

    fn read(text: &str) -> Result<Dns01Spec, String> {
        Node::parse(text).and_then(|node| node.read()).map_err(|error| error.to_string())
    }

    fn refused(text: &str) -> String {
        read(text).expect_err("this is refused")
    }

    #[test]
    fn reads_what_is_pasted_from_cert_manager() {
        let spec = read(
            "cnameStrategy: Follow\n\
             rfc2136:\n  \
               nameserver: 10.0.0.53\n  \
               tsigKeyName: certmount\n  \
               tsigAlgorithm: HMACSHA512\n  \
               tsigSecretSecretRef: {name: tsig, key: secret}\n",
        )
        .unwrap();
        assert_eq!(spec.cname_strategy, CnameStrategy::Follow);
        let Dns01Provider::Rfc2136(rfc2136) = &spec.provider else { panic!("{spec:?}") };
        assert_eq!(rfc2136.nameserver.to_string(), "10.0.0.53:53");
        assert_eq!(rfc2136.tsig.as_ref().unwrap().algorithm, TsigAlgorithm::HmacSha512);
        assert_eq!(spec.secrets().collect::<Vec<_>>(), ["tsig"]);

        let spec = read(
            "route53: {region: eu-west-1, accessKeyIDSecretRef: {name: id, key: id}, \
             secretAccessKeySecretRef: {name: secret, key: k}, hostedZoneID: Z1}",
        );
        assert_eq!(spec.unwrap().secrets().collect::<Vec<_>>(), ["id", "secret"]);
        let role = "role: 'arn:aws:iam::1:role/dns'";
        let account = "auth: {kubernetes: {serviceAccountRef: {name: dns}}}";
        assert_eq!(read(&format!("route53: {{{role}, {account}}}")).unwrap().secrets().count(), 0);

        let token =
            read("cloudflare: {email: a@example.com, apiTokenSecretRef: {name: cf, key: t}}");
        assert_eq!(token.unwrap().secrets().collect::<Vec<_>>(), ["cf"]);
        let accounts =
            read("acmeDNS: {host: https://auth.example.com, accountSecretRef: {name: a, key: j}}");
        assert_eq!(accounts.unwrap().secrets().collect::<Vec<_>>(), ["a"]);
        let spec =
            read("webhook: {groupName: acme.example.com, solverName: my, config: {zone: [1, a]}}");
        let Dns01Provider::Webhook(webhook) = spec.unwrap().provider else { panic!() };
        assert_eq!(webhook.config, serde_json::json!({"zone": [1, "a"]}));
    }

    #[test]
    fn what_is_wrong_is_said_with_what_to_do() {
        let tsig = "tsigKeyName: k, tsigSecretSecretRef: {name: t, key: s}";
        for (text, said) in [
            ("{}".to_owned(), "needs one of acmeDNS, cloudflare"),
            ("cloudDNS: {project: p}".to_owned(), "cloudDNS"),
            ("rfc2136: {nameserver: 'a b'}".to_owned(), "write ns.example.com"),
            ("rfc2136: {nameserver: 'a:0'}".to_owned(), "write ns.example.com"),
            ("rfc2136: {nameserver: a, tsigKeyName: k}".to_owned(), "write both"),
            (
                format!("rfc2136: {{nameserver: a, {tsig}, tsigAlgorithm: HMACMD5}}"),
                "make a key for HMACSHA256",
            ),
            ("rfc2136: {nameserver: a, protocol: tcp}".to_owned(), "is not TCP or UDP"),
            ("cnameStrategy: follow\nrfc2136: {nameserver: a}".to_owned(), "None or Follow"),
            ("nameservers: [ns.example]\nrfc2136: {nameserver: a}".to_owned(), "10.0.0.53:53"),
            ("cloudflare: {apiKeySecretRef: {name: a, key: b}}".to_owned(), "needs email"),
            (
                "acmeDNS: {host: auth.example, accountSecretRef: {name: a}}".to_owned(),
                "such as https://auth.example",
            ),
            ("route53: {region: us-east-1}".to_owned(), "does not say who asks"),
            ("route53: {region: evil.example/}".to_owned(), "not one of AWS"),
            ("route53: {hostedZoneID: ../Z}".to_owned(), "letters and digits"),
            ("route53: {accessKeyID: a}".to_owned(), "together with"),
            (
                "route53: {auth: {kubernetes: {serviceAccountRef: {name: a}}}}".to_owned(),
                "needs role",
            ),
        ] {
            let refusal = refused(&text);
            assert!(refusal.contains(said), "{text}: {refusal}");
        }
    }

    #[test]
    fn name_servers_have_ports() {
        for (text, address) in [
            ("10.0.0.53", "10.0.0.53:53"),
            ("10.0.0.53:5353", "10.0.0.53:5353"),
            ("2001:db8::1", "[2001:db8::1]:53"),
            ("[2001:db8::1]", "[2001:db8::1]:53"),
            ("[2001:db8::1]:54", "[2001:db8::1]:54"),
            ("ns.example.com", "ns.example.com:53"),
            ("ns.example.com:54", "ns.example.com:54"),
        ] {
            assert_eq!(text.parse::<HostPort>().unwrap().to_string(), address);
        }
        for bad in ["", ":53", "a:", "a:65536", "[a]:53", "[::1]x", "[::1", "a/b", "é"] {
            assert!(bad.parse::<HostPort>().is_err(), "{bad}");
        }
    }
}
