//! Webhooks that were made for cert-manager: extensions of the Kubernetes API, which are asked
//! through the API server with a `ChallengePayload` of `webhook.acme.cert-manager.io/v1alpha1`.

use std::fmt;

use async_trait::async_trait;
use aws_lc_rs::rand;
use data_encoding::HEXLOWER;
use hyper::Request;
use hyper::header::{ACCEPT, CONTENT_TYPE};
use kube::Client;
use serde::Deserialize;
use serde_json::json;

use super::{DnsProvider, TxtRecord};
use crate::error::with_causes;
use crate::issuer::web::words;
use crate::issuer::{BuildError, IssueError, IssueErrorKind, Surroundings};
use crate::spec::object::dns01::WebhookSpec;

/// A webhook.
pub(super) struct Webhook {
    client: Client,
    spec: WebhookSpec,
    /// Where the webhook looks for the Secrets that `config` names.
    resource_namespace: String,
}

/// What comes back.
#[derive(Deserialize)]
struct Payload {
    response: Option<Response>,
}

/// What an API group serves.
#[derive(Deserialize)]
struct Resources {
    resources: Vec<Resource>,
}

#[derive(Deserialize)]
struct Resource {
    name: String,
}

#[derive(Deserialize)]
struct Response {
    #[serde(default)]
    success: bool,
    status: Option<Status>,
}

#[derive(Deserialize)]
struct Status {
    #[serde(default)]
    message: String,
}

impl Webhook {
    pub(super) fn build(
        spec: &WebhookSpec,
        namespace: Option<&str>,
        surroundings: &Surroundings,
    ) -> Result<Self, BuildError> {
        let access = surroundings.access.as_ref().ok_or_else(|| {
            BuildError::Missing(
                "a webhook is asked through the Kubernetes API, and this driver was started \
                 without it: start it with --kubernetes, or use another dns01 provider"
                    .to_owned(),
            )
        })?;
        let resource_namespace = namespace.unwrap_or(&access.namespace).to_owned();
        Ok(Self { client: access.client.clone(), spec: spec.clone(), resource_namespace })
    }

    async fn ask(&self, action: &str, record: &TxtRecord) -> Result<(), IssueError> {
        let WebhookSpec { group_name, solver_name, config } = &self.spec;
        let body = json!({
            "apiVersion": "webhook.acme.cert-manager.io/v1alpha1",
            "kind": "ChallengePayload",
            "request": {
                "uid": unique_id(),
                "action": action,
                "type": "dns-01",
                "dnsName": record.host,
                "key": record.value,
                "resourceNamespace": self.resource_namespace,
                "resolvedFQDN": format!("{}.", record.name),
                "resolvedZone": format!("{}.", record.zone),
                "allowAmbientCredentials": false,
                "config": config,
            },
        });
        let path = format!("/apis/{group_name}/v1alpha1/{solver_name}");
        let request = Request::post(path)
            .header(CONTENT_TYPE, "application/json")
            .header(ACCEPT, "application/json")
            .body(body.to_string().into_bytes())
            .expect("the names were checked when the spec was read");
        let answer: Payload =
            self.client.request(request).await.map_err(|error| self.api_error(error))?;
        match answer.response {
            Some(Response { success: true, .. }) => Ok(()),
            Some(Response { status, .. }) => {
                let said = status.map(|status| status.message).unwrap_or_default();
                let said = words(&said);
                Err(self.error(
                    IssueErrorKind::Unavailable,
                    format!("failed to {} {}: {said}", doing(action), record.name),
                ))
            }
            None => Err(self.error(
                IssueErrorKind::BadResponse,
                "answered without a response: is it a webhook for cert-manager?".to_owned(),
            )),
        }
    }

    fn api_error(&self, error: kube::Error) -> IssueError {
        use IssueErrorKind::{BadResponse, Config, RateLimited, Unavailable};
        let WebhookSpec { group_name, solver_name, .. } = &self.spec;
        let kube::Error::Api(status) = error else {
            let kind =
                if let kube::Error::SerdeError(_) = error { BadResponse } else { Unavailable };
            let said = words(&with_causes(&error));
            return self.error(kind, format!("cannot be asked: {said}"));
        };
        let said = words(&status.message);
        match status.code {
            401 | 403 => self.error(
                Config,
                format!(
                    "may not be asked: give certmount's service account the right to create \
                     {solver_name} in the API group {group_name}: {said}"
                ),
            ),
            404 => self.error(
                Config,
                format!("is not there: install the webhook, or correct its names: {said}"),
            ),
            429 => self.error(RateLimited, format!("has too much to do: {said}")),
            400..=499 => self.error(Config, format!("refused: {said}")),
            _ => self.error(Unavailable, format!("fails: {said}")),
        }
    }

    fn error(&self, kind: IssueErrorKind, problem: String) -> IssueError {
        let WebhookSpec { group_name, solver_name, .. } = &self.spec;
        IssueError::new(kind, format!("the webhook {solver_name} of {group_name} {problem}"))
    }
}

const PRESENT: &str = "Present";
const CLEAN_UP: &str = "CleanUp";

fn doing(action: &str) -> &'static str {
    if action == PRESENT { "publish" } else { "remove" }
}

/// A UUID of random bits (RFC 9562 §5.4).
fn unique_id() -> String {
    let mut bytes = [0; 16];
    rand::fill(&mut bytes).expect("the system has randomness");
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex = HEXLOWER.encode(&bytes);
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}

#[async_trait]
impl DnsProvider for Webhook {
    async fn present(&self, record: &TxtRecord) -> Result<(), IssueError> {
        self.ask(PRESENT, record).await
    }

    async fn clean_up(&self, record: &TxtRecord) -> Result<(), IssueError> {
        self.ask(CLEAN_UP, record).await
    }

    /// Only whether it is there: some webhooks remove more than they are asked to.
    async fn probe(&self, _: &[TxtRecord]) -> Result<(), IssueError> {
        let WebhookSpec { group_name, solver_name, .. } = &self.spec;
        let request = Request::get(format!("/apis/{group_name}/v1alpha1"))
            .header(ACCEPT, "application/json")
            .body(Vec::new())
            .expect("the names were checked when the spec was read");
        let found: Resources =
            self.client.request(request).await.map_err(|error| self.api_error(error))?;
        match found.resources.iter().any(|resource| resource.name == *solver_name) {
            true => Ok(()),
            false => Err(self.error(
                IssueErrorKind::Config,
                "is not among those that its API group serves: correct solverName".to_owned(),
            )),
        }
    }
}

impl fmt::Debug for Webhook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Webhook").field("spec", &self.spec).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
