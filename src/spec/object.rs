//! Issuer objects as plain data: `ClusterIssuer` and `Issuer` of `certmount.dev/v1alpha1`, the
//! `Secret`s that they refer to, and the `ConfigMap`s that volumes refer to.
//!
//! The fields of `spec` have the names that they have in cert-manager's Issuer, so that a spec can
//! be pasted. Unknown fields are refused: a misspelt one would silently change what is signed.
//! The types that read them are also what the CustomResourceDefinitions are made of.
//! Nothing here prints the values of a Secret, and they are zeroized.

pub mod acme;
mod chained;
pub mod dns01;
mod server;
mod vault;
mod venafi;
mod yaml;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::de::{Error as _, IgnoredAny};
use serde::{Deserialize, Deserializer};
use zeroize::Zeroizing;

use self::acme::AcmeSpec;
use super::policy::NamePolicy;
use super::values;
use super::volume::IssuerRef;
use crate::x509::GeneralName;

pub use chained::ChainedSpec;
pub use server::{CaBundle, ServerUrl};
pub use vault::{TokenSource, VaultAuth, VaultPath, VaultSpec};
pub use venafi::{CloudSpec, CustomField, CustomFieldType, TppSpec, VenafiService, VenafiSpec};
pub use yaml::{Document, DocumentError, LARGEST_TEXT, parse};

/// The group of our objects.
pub const GROUP: &str = "certmount.dev";

/// The `apiVersion` of our objects.
pub const API_VERSION: &str = "certmount.dev/v1alpha1";

/// One object.
#[derive(Clone, Debug)]
pub enum Object {
    /// A `ClusterIssuer` or an `Issuer`.
    Issuer(Box<IssuerObject>),
    /// A `Secret`.
    Secret(SecretObject),
    /// A `ConfigMap`.
    ConfigMap(ConfigMapObject),
}

/// A `ClusterIssuer` or an `Issuer`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct IssuerObject {
    /// `ClusterIssuer` or `Issuer`.
    pub kind: IssuerKind,
    /// The namespace that an `Issuer` serves; `None` for a `ClusterIssuer`.
    pub namespace: Option<String>,
    /// The name that volumes use.
    pub name: String,
    /// What tells it from another of its name in a cluster, before or after it.
    pub uid: Option<String>,
    /// What it is.
    pub spec: IssuerSpec,
}

/// Whom an issuer serves.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum IssuerKind {
    /// Every namespace.
    ClusterIssuer,
    /// Its own namespace.
    Issuer,
}

/// How an issuer signs, and for whom.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct IssuerSpec {
    /// How it signs.
    pub method: IssuerMethod,
    /// For whom; without one, pods get their own names only.
    pub policy: NamePolicy,
}

/// How an issuer signs.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum IssuerMethod {
    /// `acme`: an ACME server.
    Acme(Box<AcmeSpec>),
    /// `ca`: with the key of a CA that this node holds.
    Ca(CaSpec),
    /// `chained`: with an intermediate CA that this node has from another issuer.
    Chained(ChainedSpec),
    /// `selfSigned`: with the certificate's own key.
    SelfSigned(SelfSignedSpec),
    /// `vault`: a Vault or OpenBao server.
    Vault(Box<VaultSpec>),
    /// `venafi`: with Certificate Manager, on a server of one's own or of the vendor.
    Venafi(Box<VenafiSpec>),
    /// A method by its name that this build does not have.
    Unsupported(&'static str),
}

/// The fields of `selfSigned`.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct SelfSignedSpec {
    /// Where certificates say that their revocation list is.
    #[serde(deserialize_with = "uris")]
    #[schemars(inner(regex(pattern = URI)))]
    pub crl_distribution_points: Vec<String>,
}

/// The fields of `ca`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct CaSpec {
    /// Where the CA's certificate and key are.
    pub source: CaSource,
    /// Where certificates say that their revocation list is.
    pub crl_distribution_points: Vec<String>,
    /// The OCSP responders that certificates name.
    pub ocsp_servers: Vec<String>,
    /// Where certificates say that the CA's certificate is.
    pub issuing_certificate_urls: Vec<String>,
    /// The longest life of a certificate, whatever is asked for.
    pub max_duration: Option<Duration>,
    /// How far before the time of signing certificates become valid, for clocks that are behind.
    pub backdate: Duration,
    /// How many CAs may follow, at most, below a CA that this one signs.
    pub path_len: Option<u8>,
}

/// Where a CA's certificate and key are.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum CaSource {
    /// Files of the node, or of the driver's own pod; relative paths start at the configuration
    /// folder.
    Files(CaFiles),
    /// The name of a Secret with `tls.crt`, `tls.key` and perhaps `ca.crt`.
    Secret(String),
}

/// The fields of `ca.files`: PEM files.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct CaFiles {
    /// The CA's certificate, then those above it.
    #[schemars(with = "String", regex(pattern = ABSOLUTE_PATH))]
    pub cert_file: PathBuf,
    /// The CA's private key.
    #[schemars(with = "String", regex(pattern = ABSOLUTE_PATH))]
    pub key_file: PathBuf,
    /// The trust anchors, where they are not in certFile.
    #[serde(default)]
    #[schemars(with = "Option<String>", regex(pattern = ABSOLUTE_PATH))]
    pub ca_file: Option<PathBuf>,
}

/// One value of a `Secret`, as cert-manager writes it: `{name: …, key: …}`.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, Ord, PartialEq, PartialOrd)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct SecretKeyRef {
    /// The name of the Secret, in the issuer's namespace, for a ClusterIssuer in certmount's.
    #[serde(deserialize_with = "object_name")]
    #[schemars(length(max = 253), regex(pattern = OBJECT_NAME))]
    pub name: String,
    /// The key of the value in it; where it may be left out, the field says what it then is.
    #[serde(default)]
    pub key: Option<String>,
}

/// A `Secret`. Has no way to print its values.
#[derive(Clone)]
pub struct SecretObject {
    /// Its namespace, if it says one.
    pub namespace: Option<String>,
    /// Its name.
    pub name: String,
    values: BTreeMap<String, Zeroizing<Vec<u8>>>,
}

/// A `ConfigMap`, less what is no text.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ConfigMapObject {
    /// Its namespace, if it says one.
    pub namespace: Option<String>,
    /// Its name.
    pub name: String,
    /// Its texts.
    pub data: BTreeMap<String, String>,
}

impl IssuerObject {
    /// Ties kind, metadata and spec together.
    ///
    /// # Errors
    ///
    /// When they do not fit each other; the message says what to change.
    pub fn new(
        kind: IssuerKind,
        namespace: Option<String>,
        name: String,
        uid: Option<String>,
        spec: IssuerSpec,
    ) -> Result<Self, String> {
        let from_files =
            matches!(&spec.method, IssuerMethod::Ca(CaSpec { source: CaSource::Files(_), .. }));
        match (kind, &namespace) {
            (IssuerKind::ClusterIssuer, Some(_)) => {
                Err("a ClusterIssuer has no metadata.namespace: take it out, or use kind: Issuer".to_owned())
            }
            (IssuerKind::Issuer, None) => Err(
                "an Issuer serves one namespace: name it in metadata.namespace, or use kind: ClusterIssuer".to_owned(),
            ),
            // Whoever may write Issuers in one namespace must not read the node's files.
            (IssuerKind::Issuer, Some(_)) if from_files => {
                Err("ca.files is for a ClusterIssuer only: use ca.secretName".to_owned())
            }
            _ => {
                let object = Self { kind, namespace, name, uid, spec };
                object.check_upstream().map(|()| object)
            }
        }
    }

    /// Refuses a chained issuer whose upstream cannot be.
    fn check_upstream(&self) -> Result<(), String> {
        let Some(IssuerRef { group, kind, name }) = self.spec.method.upstream() else {
            return Ok(());
        };
        if group != GROUP {
            return Ok(());
        }
        if *kind == self.kind.to_string() && *name == self.name {
            return Err(
                "issuerRef names the issuer itself: name the one that signs its intermediates"
                    .to_owned(),
            );
        }
        if kind == "Issuer" && self.kind == IssuerKind::ClusterIssuer {
            return Err(format!(
                "issuerRef names the Issuer {}, but a ClusterIssuer is in no namespace: name a ClusterIssuer",
                values::quoted(name)
            ));
        }
        Ok(())
    }
}

impl SecretObject {
    /// A Secret with these values.
    pub fn new(
        namespace: Option<String>,
        name: String,
        values: impl IntoIterator<Item = (String, Zeroizing<Vec<u8>>)>,
    ) -> Self {
        Self { namespace, name, values: values.into_iter().collect() }
    }

    /// The value under `key`.
    pub fn get(&self, key: &str) -> Option<&[u8]> {
        self.values.get(key).map(|value| value.as_slice())
    }

    /// All values with their keys, in order of these.
    pub fn values(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.values.iter().map(|(key, value)| (key.as_str(), value.as_slice()))
    }
}

impl fmt::Debug for SecretObject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SecretObject")
            .field("namespace", &self.namespace)
            .field("name", &self.name)
            .field("keys", &self.values.keys().collect::<Vec<_>>())
            .finish()
    }
}

impl fmt::Display for IssuerKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ClusterIssuer => "ClusterIssuer",
            Self::Issuer => "Issuer",
        })
    }
}

impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Issuer(issuer) => issuer.fmt(f),
            Self::Secret(secret) => secret.fmt(f),
            Self::ConfigMap(config_map) => config_map.fmt(f),
        }
    }
}

impl fmt::Display for IssuerObject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", self.kind)?;
        display_name(f, self.namespace.as_deref(), &self.name)
    }
}

impl fmt::Display for SecretObject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret ")?;
        display_name(f, self.namespace.as_deref(), &self.name)
    }
}

impl fmt::Display for ConfigMapObject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ConfigMap ")?;
        display_name(f, self.namespace.as_deref(), &self.name)
    }
}

fn display_name(f: &mut fmt::Formatter<'_>, namespace: Option<&str>, name: &str) -> fmt::Result {
    match namespace {
        Some(namespace) => write!(f, "{namespace}/{name}"),
        None => f.write_str(name),
    }
}

impl IssuerMethod {
    /// The Secrets that it needs, by name.
    pub fn secrets(&self) -> impl Iterator<Item = &str> {
        let names: Vec<_> = match self {
            Self::Acme(spec) => spec.secrets().collect(),
            Self::Ca(CaSpec { source: CaSource::Secret(name), .. }) => vec![name.as_str()],
            Self::Vault(spec) => spec.secrets().collect(),
            Self::Venafi(spec) => spec.secrets().collect(),
            Self::Ca(_) | Self::Chained(_) | Self::SelfSigned(_) | Self::Unsupported(_) => {
                Vec::new()
            }
        };
        names.into_iter()
    }

    /// The field of it that takes the Kubernetes API, where one does.
    pub fn needs_kubernetes(&self) -> Option<&'static str> {
        match self {
            Self::Acme(spec) => spec.solvers.iter().find_map(|solver| match &solver.method {
                acme::SolverMethod::Dns01(spec) => spec.provider.needs_kubernetes(),
                _ => None,
            }),
            Self::Vault(spec) => spec.auth.needs_kubernetes(),
            _ => None,
        }
    }

    /// The issuer that signs for it.
    pub fn upstream(&self) -> Option<&IssuerRef> {
        match self {
            Self::Chained(ChainedSpec { upstream, .. }) => Some(upstream),
            _ => None,
        }
    }

    /// The files that it needs.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        let files = match self {
            Self::Ca(CaSpec { source: CaSource::Files(files), .. }) => Some(files),
            _ => None,
        };
        files
            .into_iter()
            .flat_map(|CaFiles { cert_file, key_file, ca_file }| {
                [Some(cert_file), Some(key_file), ca_file.as_ref()].into_iter().flatten()
            })
            .map(PathBuf::as_path)
    }
}

/// How an issuer signs, in one way, and for whom.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct WrittenIssuer {
    /// Have an ACME server sign, such as Let's Encrypt or step-ca (RFC 8555).
    acme: Option<Box<AcmeSpec>>,
    /// Sign with the key of a CA that every node holds. Whoever is root on one of them has that
    /// key: prefer an intermediate with a path length of zero.
    ca: Option<CaSpec>,
    #[schemars(skip)]
    cert_manager: Option<IgnoredAny>,
    /// Sign on the node, with an intermediate CA that each node has from another issuer and that
    /// lives for a short time only. Pods start without waiting for that issuer, and go on while it
    /// is down.
    chained: Option<ChainedSpec>,
    #[serde(rename = "kubernetesCSR")]
    #[schemars(skip)]
    kubernetes_csr: Option<IgnoredAny>,
    /// Sign each certificate with its own key, which makes it its own trust anchor: for tests.
    self_signed: Option<SelfSignedSpec>,
    /// Have a Vault or OpenBao server sign.
    vault: Option<Box<VaultSpec>>,
    /// Have Certificate Manager sign, which was Venafi's: Self-Hosted (TPP) or SaaS (the cloud).
    venafi: Option<Box<VenafiSpec>>,
    /// Who may have which names. A pod always gets its own: those of the services in its namespace,
    /// its own host name, and the SPIFFE id of its service account.
    #[serde(default)]
    policy: NamePolicy,
}

impl JsonSchema for IssuerSpec {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "IssuerSpec".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        WrittenIssuer::json_schema(generator)
    }
}

impl<'de> Deserialize<'de> for IssuerSpec {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let written = WrittenIssuer::deserialize(deserializer)?;
        let unsupported = |field: Option<IgnoredAny>, name| {
            field.map(|_| (name, IssuerMethod::Unsupported(name)))
        };
        let mut methods = [
            written.acme.map(|acme| ("acme", IssuerMethod::Acme(acme))),
            written.ca.map(|ca| ("ca", IssuerMethod::Ca(ca))),
            unsupported(written.cert_manager, "certManager"),
            written.chained.map(|chained| ("chained", IssuerMethod::Chained(chained))),
            unsupported(written.kubernetes_csr, "kubernetesCSR"),
            written.self_signed.map(|spec| ("selfSigned", IssuerMethod::SelfSigned(spec))),
            written.vault.map(|spec| ("vault", IssuerMethod::Vault(spec))),
            written.venafi.map(|spec| ("venafi", IssuerMethod::Venafi(spec))),
        ]
        .into_iter()
        .flatten();
        match (methods.next(), methods.next()) {
            (Some((_, method)), None) => Ok(Self { method, policy: written.policy }),
            (Some((first, _)), Some((second, _))) => Err(D::Error::custom(format!(
                "spec has both {first} and {second}: an issuer signs in one way, so make two"
            ))),
            (None, _) => Err(D::Error::custom(
                "spec does not say how to sign: write selfSigned: {}, ca: {secretName: …} or vault: {…}",
            )),
        }
    }
}

/// Where the CA is, and what its certificates say and how long they hold.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [{
    "rule": "has(self.secretName) != has(self.files)",
    "message": "ca needs one of secretName and files, which say where its key is",
}]))]
struct WrittenCa {
    /// A Secret with tls.crt (the CA's certificate, then those above it), tls.key and perhaps
    /// ca.crt (more trust anchors): in the issuer's namespace, for a ClusterIssuer in certmount's.
    #[schemars(length(max = 253), regex(pattern = OBJECT_NAME))]
    secret_name: Option<String>,
    /// The same as PEM files in the driver's own file system, for a ClusterIssuer only.
    files: Option<CaFiles>,
    /// Where certificates say that their revocation list is.
    #[serde(deserialize_with = "uris")]
    #[schemars(inner(regex(pattern = URI)))]
    crl_distribution_points: Vec<String>,
    /// The OCSP responders that certificates name.
    #[serde(deserialize_with = "uris")]
    #[schemars(inner(regex(pattern = URI)))]
    ocsp_servers: Vec<String>,
    /// Where certificates say that the CA's certificate is.
    #[serde(deserialize_with = "uris", rename = "issuingCertificateURLs")]
    #[schemars(inner(regex(pattern = URI)))]
    issuing_certificate_urls: Vec<String>,
    /// The longest life of a certificate, whatever is asked for, such as 720h.
    #[serde(deserialize_with = "some_duration")]
    #[schemars(with = "Option<String>", regex(pattern = DURATION))]
    max_duration: Option<Duration>,
    /// How far before the time of signing certificates become valid, for clocks that are behind;
    /// 5m without it.
    #[serde(deserialize_with = "some_duration_or_zero")]
    #[schemars(with = "Option<String>", regex(pattern = DURATION_OR_ZERO))]
    backdate: Option<Duration>,
    /// How many CAs may follow, at most, below a CA that this one signs: with 0 these sign leaves
    /// only. What the request says without it.
    #[schemars(with = "Option<i32>", range(min = 0, max = 255))]
    path_len: Option<u8>,
}

impl<'de> Deserialize<'de> for CaSpec {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let written = WrittenCa::deserialize(deserializer)?;
        let source = match (written.secret_name, written.files) {
            (Some(name), None) if is_object_name(&name) => CaSource::Secret(name),
            (Some(name), None) => {
                return Err(D::Error::custom(format!(
                    "secretName {} is not the name of a Secret",
                    values::quoted(&name)
                )));
            }
            (None, Some(files)) => CaSource::Files(files),
            (Some(_), Some(_)) => {
                return Err(D::Error::custom("ca has both secretName and files: take one out"));
            }
            (None, None) => {
                return Err(D::Error::custom(
                    "ca does not say where its key is: write secretName, or files with certFile and keyFile",
                ));
            }
        };
        Ok(Self {
            source,
            crl_distribution_points: written.crl_distribution_points,
            ocsp_servers: written.ocsp_servers,
            issuing_certificate_urls: written.issuing_certificate_urls,
            max_duration: written.max_duration,
            backdate: written.backdate.unwrap_or(DEFAULT_BACKDATE),
            path_len: written.path_len,
        })
    }
}

impl JsonSchema for CaSpec {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "CaSpec".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        WrittenCa::json_schema(generator)
    }
}

// What the API server can tell of a text before it stores an object; the parsers are stricter.

/// A span of time in Go's syntax.
pub(super) const DURATION: &str = r"^([0-9]+(\.[0-9]*)?(ns|us|µs|μs|ms|s|m|h))+$";
const DURATION_OR_ZERO: &str = r"^(0|([0-9]+(\.[0-9]*)?(ns|us|µs|μs|ms|s|m|h))+)$";
const ABSOLUTE_PATH: &str = "^/";
const OBJECT_NAME: &str = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$";
const URI: &str = r"^[A-Za-z][A-Za-z0-9+.-]*:[!-~]+$";

/// Clocks of machines that keep time at all are nearer to each other than this.
const DEFAULT_BACKDATE: Duration = Duration::from_secs(300);

/// Reads a span of time in Go's syntax, for `deserialize_with`.
pub(super) fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    values::duration(&text)
        .map_err(|error| D::Error::custom(format!("{} {error}", values::quoted(&text))))
}

fn some_duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    duration(deserializer).map(Some)
}

fn some_duration_or_zero<'de, D>(deserializer: D) -> Result<Option<Duration>, D::Error>
where
    D: Deserializer<'de>,
{
    let text = String::deserialize(deserializer)?;
    if matches!(text.as_str(), "0" | "0s" | "0m" | "0h") {
        return Ok(Some(Duration::ZERO));
    }
    values::duration(&text)
        .map(Some)
        .map_err(|error| D::Error::custom(format!("{} {error}", values::quoted(&text))))
}

/// Reads URIs that certificates can hold, as they are.
fn uris<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    let uris: Vec<String> = Vec::deserialize(deserializer)?;
    for uri in &uris {
        GeneralName::uri(uri).map_err(D::Error::custom)?;
    }
    Ok(uris)
}

/// Reads the name of an object.
fn object_name<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let name = String::deserialize(deserializer)?;
    if is_object_name(&name) {
        return Ok(name);
    }
    Err(D::Error::custom(format!("{} is not the name of an object", values::quoted(&name))))
}

/// Whether `name` is a DNS subdomain (RFC 1123), as the names of these objects are.
pub fn is_object_name(name: &str) -> bool {
    let alphanumeric = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    name.len() <= 253
        && name.split('.').all(|label| {
            label.starts_with(alphanumeric)
                && label.ends_with(alphanumeric)
                && label.chars().all(|c| alphanumeric(c) || c == '-')
        })
}

/// A value under `data` of a Secret.
struct Base64(Zeroizing<Vec<u8>>);

/// A value under `stringData` of a Secret.
struct PlainText(Zeroizing<Vec<u8>>);

impl<'de> Deserialize<'de> for Base64 {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut text = Zeroizing::new(String::deserialize(deserializer)?);
        text.retain(|c| !c.is_ascii_whitespace());
        // The error would say a byte of the value.
        let value = STANDARD.decode(text.as_bytes()).map_err(|_| {
            D::Error::custom(
                "a value under data is not base64: encode it, or move it to stringData",
            )
        })?;
        Ok(Self(Zeroizing::new(value)))
    }
}

impl<'de> Deserialize<'de> for PlainText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self(Zeroizing::new(String::deserialize(deserializer)?.into_bytes())))
    }
}

#[cfg(test)]
mod tests;
