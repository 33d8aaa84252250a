//! `vault`: a Vault or OpenBao server signs, with its PKI engine.
//!
//! What this promises:
//!
//! - One login serves all volumes that log in as the same, also when they come at once. Its token is
//!   renewed while it is used and given back in the end.
//! - A token that the server takes no more is replaced once and the request asked again; a server
//!   whose policy says no is not asked for tokens over and over.
//! - A request for a CA goes to `sign-intermediate`: `sign/<role>` would quietly sign no CA.
//! - What the server says beside a certificate, such as that it shortened its life, is passed on.

mod api;
mod session;

use async_trait::async_trait;
use hyper::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use self::api::{Api, Refusal};
use self::session::{Credentials, Sessions};
use super::web::{ClientIdentity, Reach, ServerName, Web, WebOptions, words};
use super::{
    BuildError, IssueError, IssueErrorKind, Issuer, Issuers, Materials, Order, Surroundings,
};
use crate::spec::object::{
    IssuerObject, SecretKeyRef, TokenSource, VaultAuth, VaultPath, VaultSpec,
};
use crate::x509::{
    BasicConstraints, GeneralName, Issued, KeyAlgorithm, NameSubtree, certificates_from_pem,
};

/// Has a Vault or OpenBao server sign.
#[derive(Debug)]
pub(super) struct Vault {
    path: VaultPath,
    sessions: Sessions,
}

/// No more than this of what a server says beside a certificate is passed on.
const MOST_WARNINGS: usize = 4;

impl Vault {
    /// The issuer that `object` with `spec` describes. Asks nothing of the server yet.
    pub(super) fn build(
        object: &IssuerObject,
        spec: &VaultSpec,
        materials: &Materials,
        surroundings: &Surroundings,
    ) -> Result<Self, BuildError> {
        let text = |reference: &SecretKeyRef, default_key| {
            let value = materials.value(reference, default_key)?;
            let text = std::str::from_utf8(value).map(str::trim).map_err(|_| {
                BuildError::Unfit(format!("the value in Secret {} is no text", reference.name))
            })?;
            Ok::<_, BuildError>(Zeroizing::new(text.to_owned()))
        };
        let pair = |certificate: &SecretKeyRef, key: &SecretKeyRef| {
            Ok::<_, BuildError>(ClientIdentity {
                certificates: materials.value(certificate, "tls.crt")?.to_vec(),
                key: Zeroizing::new(materials.value(key, "tls.key")?.to_vec()),
            })
        };
        let mut identity = match &spec.client_certificate {
            Some((certificate, key)) => Some(pair(certificate, key)?),
            None => None,
        };
        let credentials = match &spec.auth {
            VaultAuth::Token(reference) => Credentials::Token(text(reference, "token")?),
            VaultAuth::AppRole { mount, role_id, secret } => Credentials::AppRole {
                mount: mount.clone(),
                role_id: role_id.clone(),
                secret_id: text(secret, "secretId")?,
            },
            VaultAuth::ClientCertificate { mount, secret, name } => {
                let reference = SecretKeyRef { name: secret.clone(), key: None };
                identity = Some(pair(&reference, &reference)?);
                Credentials::ClientCertificate { mount: mount.clone(), name: name.clone() }
            }
            VaultAuth::ServiceAccount { mount, role, token } => {
                let (mount, role) = (mount.clone(), role.clone());
                match token {
                    TokenSource::Pod { audience } => {
                        Credentials::Pod { mount, role, audience: audience.clone() }
                    }
                    TokenSource::Secret(reference) => {
                        Credentials::Jwt { mount, role, jwt: text(reference, "token")? }
                    }
                    TokenSource::ServiceAccount { name, audiences } => {
                        let access = surroundings.access.clone().ok_or_else(|| {
                            BuildError::Unfit(
                                "serviceAccountRef takes the Kubernetes API: start the driver with \
                                 --kubernetes, or use secretRef or podIdentity"
                                    .to_owned(),
                            )
                        })?;
                        let namespace = object.namespace.as_deref();
                        let own = match namespace {
                            Some(namespace) => format!("vault://{namespace}/{}", object.name),
                            None => format!("vault://{}", object.name),
                        };
                        Credentials::ServiceAccount {
                            mount,
                            role,
                            namespace: namespace.unwrap_or(&access.namespace).to_owned(),
                            name: name.clone(),
                            audiences: [vec![own], audiences.clone()].concat(),
                            access,
                        }
                    }
                }
            }
        };
        let server = spec.server.url().clone();
        let web = Web::new(
            WebOptions {
                reach: Reach::of(object.namespace.as_deref(), surroundings),
                ca_bundle: materials.ca_bundle(spec.ca_bundle.as_ref())?,
                identity,
                server_name: spec
                    .server_name
                    .clone()
                    .map(|name| ServerName { name, server: server.clone() }),
                plaintext: false,
            },
            surroundings.clock.clone(),
        )?;
        web.allow(&server)
            .map_err(|reason| BuildError::Unfit(format!("{server} may not be asked: {reason}")))?;
        let api = Api::new(web, spec.server.clone(), spec.namespace.as_deref());
        let sessions = Sessions::new(api, credentials, surroundings.clock.clone());
        Ok(Self { path: spec.path.clone(), sessions })
    }

    /// Where `order` is signed, and what to send there.
    fn request(&self, order: &Order<'_>) -> Result<(&str, Value), IssueError> {
        let template = &order.spec.template;
        let csr = order.request.to_pem();
        let ttl = format!("{}s", order.spec.duration.as_secs());
        if let BasicConstraints::Ca { path_len } = template.basic_constraints {
            let permitted = &template.name_constraints.permitted;
            let dns = permitted.iter().filter_map(|subtree| match subtree {
                NameSubtree::Dns(name) => Some(name),
                _ => None,
            });
            // The subject and the name constraints are taken from the request: not every server has
            // parameters for constraints other than of DNS names. The path length is text, since a
            // policy's allowed_parameters can hold no number.
            let body = json!({
                "csr": csr,
                "ttl": ttl,
                "format": "pem",
                "use_csr_values": true,
                "max_path_length": path_len.unwrap_or(0).to_string(),
                "permitted_dns_domains": dns.collect::<Vec<_>>(),
            });
            return Ok((&self.path.sign_intermediate, body));
        }
        let path = self.path.sign.as_deref().ok_or_else(|| {
            let message = "this issuer signs CAs only: its path is sign-intermediate; name one \
                           whose path is <mount>/sign/<role>";
            IssueError::new(IssueErrorKind::Request, message)
        })?;
        let (mut alt_names, mut ip_sans, mut uri_sans) = (Vec::new(), Vec::new(), Vec::new());
        for name in &template.subject_alt_names {
            match name {
                GeneralName::Dns(name) | GeneralName::Email(name) => alt_names.push(name.clone()),
                GeneralName::Ip(address) => ip_sans.push(address.to_string()),
                GeneralName::Uri(uri) => uri_sans.push(uri.clone()),
            }
        }
        // Beside the request, for roles that do not take names from it.
        let body = json!({
            "csr": csr,
            "common_name": template.subject.common_name().unwrap_or_default(),
            "alt_names": alt_names.join(","),
            "ip_sans": ip_sans.join(","),
            "uri_sans": uri_sans.join(","),
            "ttl": ttl,
            "format": "pem",
            "exclude_cn_from_sans": true,
        });
        Ok((path, body))
    }

    async fn sign(&self, order: &Order<'_>) -> Result<Signed, IssueError> {
        let (path, body) = self.request(order)?;
        let who = self.sessions.identity(order)?;
        let token = self.sessions.token(&who).await?;
        let answer = match self.sessions.api().post(path, Some(&token), &body).await {
            Err(refusal) if refusal.is_forbidden() && self.sessions.is_over(&token).await? => {
                self.sessions.forget(&who, &token).await;
                let token = self.sessions.token(&who).await?;
                self.sessions.api().post(path, Some(&token), &body).await
            }
            answer => answer,
        };
        let answer = answer.map_err(|refusal| self.refused(path, order, refusal))?;
        answer.json()
    }

    /// Why `path` did not sign, and what to do about it.
    fn refused(&self, path: &str, order: &Order<'_>, refusal: Refusal) -> IssueError {
        use IssueErrorKind::{Config, Denied};
        let Refusal { status, said, error } = refusal;
        let place = self.sessions.api().place();
        let told = |kind, message| IssueError {
            retry_after: error.retry_after,
            ..IssueError::new(kind, message)
        };
        match status {
            Some(StatusCode::BAD_REQUEST) if said.contains("unknown role") => told(
                Config,
                format!("{place} has no such role: {said}; correct the issuer's path {path}"),
            ),
            Some(StatusCode::BAD_REQUEST) => {
                let hint = hint(&said, order.spec.key_algorithm);
                told(Denied, format!("{place} refused to sign at {path}: {said}{hint}"))
            }
            Some(StatusCode::FORBIDDEN) => told(
                Config,
                format!(
                    "{place} says {said}: {} may not update {path}; give it a policy with path \
                     \"{path}\" {{ capabilities = [\"update\"] }}",
                    self.sessions.who()
                ),
            ),
            Some(StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED) => told(
                Config,
                format!(
                    "{place} signs nothing at {path}: {said}; correct the issuer's path or namespace"
                ),
            ),
            _ => error,
        }
    }
}

#[async_trait]
impl Issuer for Vault {
    async fn issue(&self, order: Order<'_>) -> Result<Issued, IssueError> {
        let Signed { data, warnings } = self.sign(&order).await?;
        let place = self.sessions.api().place();
        let warnings = warnings.unwrap_or_default();
        for warning in warnings.iter().filter(|it| is_news(it)).take(MOST_WARNINGS) {
            order.warnings.add(format!("{place}: {}", words(warning)));
        }
        let mut pem = vec![data.certificate];
        pem.extend(data.ca_chain.unwrap_or_default());
        pem.extend(data.issuing_ca);
        let mut chain = Vec::new();
        for text in &pem {
            let certificates = certificates_from_pem(text.as_bytes()).map_err(|error| {
                let message = format!("{place} answered with a certificate that cannot be read");
                IssueError::new(IssueErrorKind::BadResponse, message).caused_by(error)
            })?;
            for certificate in certificates {
                if !chain.contains(&certificate) {
                    chain.push(certificate);
                }
            }
        }
        Ok(Issued { chain, trust_anchors: Vec::new() })
    }

    async fn probe(&self, _: &Issuers) -> Result<(), IssueError> {
        let Some(who) = self.sessions.own_identity() else {
            // Who comes is known only when a pod does.
            return self.sessions.api().health().await;
        };
        let token = self.sessions.token(&who).await?;
        let path = self.path.sign.as_deref().unwrap_or(&self.path.sign_intermediate);
        let body = json!({"paths": [path]});
        let api = self.sessions.api();
        let answer = match api.post("sys/capabilities-self", Some(&token), &body).await {
            Ok(answer) => answer,
            // A policy may forbid the question, which says nothing about the path.
            Err(refusal) if refusal.is_forbidden() => return Ok(()),
            Err(refusal) => return Err(refusal.error),
        };
        let Capabilities { data } = answer.json()?;
        let may = data.get(path).and_then(Value::as_array);
        let may = may.is_none_or(|may| {
            may.iter().any(|it| matches!(it.as_str(), Some("create" | "root" | "sudo" | "update")))
        });
        if may {
            return Ok(());
        }
        let message = format!(
            "{} lets {} in, who may not update {path}: give it a policy with path \"{path}\" \
             {{ capabilities = [\"update\"] }}",
            api.place(),
            self.sessions.who(),
        );
        Err(IssueError::new(IssueErrorKind::Config, message))
    }

    async fn close(&self) {
        self.sessions.close().await;
    }
}

/// What `sign` answers.
#[derive(Deserialize)]
struct Signed {
    data: SignedData,
    warnings: Option<Vec<String>>,
}

#[derive(Deserialize)]
struct SignedData {
    certificate: String,
    issuing_ca: Option<String>,
    ca_chain: Option<Vec<String>>,
}

#[derive(Deserialize)]
struct Capabilities {
    data: serde_json::Map<String, Value>,
}

/// Whether a warning is for those whose certificate it is. We send names twice, for roles of either
/// kind; that the mount has no URLs is its operator's business, and a path length of zero our wish.
fn is_news(warning: &str) -> bool {
    const KNOWN: [&str; 4] =
        ["use_csr_sans", "use_csr_common_name", "authority information access", "Max path length"];
    !KNOWN.iter().any(|known| warning.contains(known))
}

/// What to do about a refusal, where that is known.
fn hint(said: &str, algorithm: KeyAlgorithm) -> String {
    if said.contains("requires keys of type") {
        return format!(
            "; the volume asks for an {algorithm} key: set its key-algorithm to what the role \
             wants, or have the role say key_type=any"
        );
    }
    if said.contains("require_cn") {
        return "; give the volume a common-name, or have the role say require_cn=false".to_owned();
    }
    if said.contains("not allowed by this role") {
        return "; ask for other names, or have the role allow these: allowed_domains, \
                allow_subdomains, allowed_uri_sans"
            .to_owned();
    }
    String::new()
}

#[cfg(test)]
mod tests;
