//! Certificate Manager, SaaS, which was Venafi Cloud: its REST API.

use std::fmt;

use async_trait::async_trait;
use hyper::StatusCode;
use hyper::header::HeaderName;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use url::Url;
use zeroize::Zeroizing;

use super::{Keep, Progress, Service, certificates, denied, requester_name};
use crate::clock::Timestamp;
use crate::issuer::web::{Answer, Web, place, words};
use crate::issuer::{IssueError, IssueErrorKind, Order};
use crate::spec::object::ServerUrl;
use crate::x509::KeyAlgorithm;

/// An issuing template of an application, and the key to the account that they are in.
pub(super) struct Cloud {
    web: Web,
    base: ServerUrl,
    application: String,
    /// Its alias in the application.
    template: String,
    api_key: Zeroizing<String>,
}

const API_KEY: HeaderName = HeaderName::from_static("tppl-api-key");

/// What the service notes that a request came from.
const CLIENT: &str = "certmount";

impl Cloud {
    pub(super) fn new(
        web: Web,
        base: ServerUrl,
        application: &str,
        template: &str,
        api_key: Zeroizing<String>,
    ) -> Self {
        let (application, template) = (application.to_owned(), template.to_owned());
        Self { web, base, application, template, api_key }
    }

    /// The server, for people.
    fn place(&self) -> String {
        place(self.base.url())
    }

    fn zone(&self) -> String {
        format!(r"{}\{}", self.application, self.template)
    }

    /// An address of the API: the parts of its path, whatever is in them, and perhaps a query.
    fn url(&self, path: &[&str]) -> Url {
        let mut url = self.base.url().clone();
        let mut segments = url.path_segments_mut().expect("an address of HTTPS has a path");
        segments.pop_if_empty().extend(path);
        drop(segments);
        url
    }

    async fn get(&self, url: &Url) -> Result<Answer, IssueError> {
        self.web.get(url).secret(API_KEY, &self.api_key).send().await
    }

    /// What is at `path`; `None` where there is nothing.
    async fn find<T: DeserializeOwned>(&self, path: &[&str]) -> Result<Option<T>, IssueError> {
        let answer = self.get(&self.url(path)).await?;
        match answer.status {
            StatusCode::OK => answer.json().map(Some),
            StatusCode::NOT_FOUND => Ok(None),
            _ => Err(refused(&answer)),
        }
    }

    /// The application and the template by their ids.
    async fn find_zone(&self) -> Result<(Application, Template), IssueError> {
        let config = |message| IssueError::new(IssueErrorKind::Config, message);
        let name = &self.application;
        let application: Option<Application> =
            self.find(&[API, "v1", "applications", "name", name]).await?;
        let application = application.ok_or_else(|| {
            let name = words(name);
            config(format!("there is no application {name} for this API key: correct zone"))
        })?;
        let path = [API, "v1", "applications", name, "certificateissuingtemplates", &self.template];
        let template: Option<Template> = self.find(&path).await?;
        let template = template.ok_or_else(|| {
            let (name, template) = (words(name), words(&self.template));
            config(format!(
                "the application {name} has no issuing template {template}: correct zone"
            ))
        })?;
        Ok((application, template))
    }

    async fn certificate(&self, id: &str) -> Result<Progress, IssueError> {
        let mut url = self.url(&[API, "v1", "certificates", id, "contents"]);
        url.set_query(Some("chainOrder=EE_FIRST&format=PEM"));
        let answer = self.get(&url).await?;
        match answer.status {
            StatusCode::OK => certificates(&answer, &answer.body).map(Progress::Issued),
            // The CA has signed it, and the service has not got it yet.
            StatusCode::CONFLICT => Ok(self.pending("its certificate is on its way")),
            _ => Err(refused(&answer)),
        }
    }

    fn pending(&self, status: &str) -> Progress {
        Progress::Pending(format!(
            "{} has not issued the certificate yet: {}; if it waits for an approval, have it \
             approved there",
            self.place(),
            words(status),
        ))
    }
}

/// The first part of each path.
const API: &str = "outagedetection";

#[async_trait]
impl Service for Cloud {
    fn label(&self) -> String {
        format!("{} {}", self.base, self.zone())
    }

    async fn request(&self, order: &Order<'_>, _keep: Keep<'_>) -> Result<String, IssueError> {
        let (application, template) = self.find_zone().await?;
        if !template.takes(order.spec.key_algorithm) {
            let message = format!(
                "takes no such keys, but {}: set key-algorithm and key-size",
                template.key_types()
            );
            return Err(denied(&self.zone(), message));
        }
        let (first, second) = requester_name(order);
        let identifier = format!("{first}/{second}");
        let request = CertificateRequest {
            certificate_signing_request: order.request.to_pem(),
            application_id: &application.id,
            certificate_issuing_template_id: &template.id,
            validity_period: iso8601(order.spec.duration.as_secs()),
            api_client_information: ClientInformation { kind: CLIENT, identifier: &identifier },
        };
        let url = self.url(&[API, "v1", "certificaterequests"]);
        let answer =
            self.web.post(&url).secret(API_KEY, &self.api_key).json(&request).send().await?;
        if answer.status != StatusCode::CREATED {
            return Err(refused(&answer));
        }
        let mut requested = answer.json::<Requested>()?.certificate_requests;
        match requested.pop() {
            Some(Request { id, .. }) if requested.is_empty() => Ok(id),
            _ => {
                let message = format!("{} took none or several requests", answer.place());
                Err(IssueError::new(IssueErrorKind::BadResponse, message))
            }
        }
    }

    async fn retrieve(&self, id: &str) -> Result<Progress, IssueError> {
        let Some(request) = self.find::<Request>(&[API, "v1", "certificaterequests", id]).await?
        else {
            return Ok(Progress::Unknown);
        };
        let status = request.status.to_ascii_uppercase();
        let ended = ["FAIL", "REJECT", "CANCEL", "DELETE"];
        match (status.as_str(), request.certificate_ids.first()) {
            ("ISSUED", Some(certificate)) => self.certificate(certificate).await,
            ("ISSUED", None) => Ok(self.pending("its certificate is on its way")),
            (status, _) if ended.iter().any(|end| status.contains(end)) => {
                let place = self.place();
                let status = words(status);
                let reason = format!("{place} issues no certificate for the request {}", words(id));
                Ok(Progress::Failed {
                    reason: match request.error_information.told() {
                        Some(told) => format!("{reason}: {status}, {}", words(&told)),
                        None => format!("{reason}: {status}"),
                    },
                    again: false,
                })
            }
            (status, _) => Ok(self.pending(&format!("the request {id} is {status}"))),
        }
    }

    async fn probe(&self) -> Result<(), IssueError> {
        self.find_zone().await.map(drop)
    }

    fn warning(&self, _now: Timestamp) -> Option<String> {
        None
    }
}

/// An answer that is not what was hoped for.
fn refused(answer: &Answer) -> IssueError {
    match answer.status {
        StatusCode::UNAUTHORIZED => {
            let said = said(answer).map(|said| format!(": {}", words(&said))).unwrap_or_default();
            let message = format!(
                "{} does not take the API key{said}; put another one into the Secret",
                answer.place()
            );
            IssueError::new(IssueErrorKind::Config, message)
        }
        StatusCode::NOT_FOUND => {
            let message = format!("{} has no such API: correct cloud.url", answer.place());
            IssueError::new(IssueErrorKind::Config, message)
        }
        _ => answer.error(said(answer).as_deref()),
    }
}

/// The messages of the errors in an answer.
fn said(answer: &Answer) -> Option<String> {
    let body: Value = serde_json::from_slice(&answer.body).ok()?;
    let errors = body.get("errors")?.as_array()?;
    let messages = errors.iter().filter_map(|error| error.get("message")?.as_str());
    let said = messages.collect::<Vec<_>>().join("; ");
    (!said.is_empty()).then_some(said)
}

/// A span of time as ISO 8601 writes it, in whole days where there are such.
fn iso8601(seconds: u64) -> String {
    const DAY: u64 = 86_400;
    match (seconds / DAY, seconds % DAY) {
        (days, 0) => format!("P{days}D"),
        _ => format!("PT{}H{}M{}S", seconds / 3600, seconds / 60 % 60, seconds % 60),
    }
}

#[derive(Deserialize)]
struct Application {
    id: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Template {
    id: String,
    /// Nothing means everything.
    #[serde(default)]
    key_types: Vec<KeyType>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct KeyType {
    key_type: String,
    #[serde(default)]
    key_lengths: Vec<u32>,
    #[serde(default)]
    key_curves: Vec<String>,
}

impl Template {
    fn takes(&self, key: KeyAlgorithm) -> bool {
        let is = |kind: &KeyType, name: &str| kind.key_type.eq_ignore_ascii_case(name);
        let rsa = |kind: &KeyType, size: u32| {
            is(kind, "RSA") && (kind.key_lengths.is_empty() || kind.key_lengths.contains(&size))
        };
        let ec = |kind: &KeyType, curve: &str| {
            let named = |other: &String| other.eq_ignore_ascii_case(curve);
            is(kind, "EC") && (kind.key_curves.is_empty() || kind.key_curves.iter().any(named))
        };
        self.key_types.is_empty()
            || self.key_types.iter().any(|kind| match key {
                KeyAlgorithm::Rsa2048 => rsa(kind, 2048),
                KeyAlgorithm::Rsa3072 => rsa(kind, 3072),
                KeyAlgorithm::Rsa4096 => rsa(kind, 4096),
                KeyAlgorithm::Rsa8192 => rsa(kind, 8192),
                KeyAlgorithm::EcdsaP256 => ec(kind, "P256"),
                KeyAlgorithm::EcdsaP384 => ec(kind, "P384"),
                KeyAlgorithm::EcdsaP521 => ec(kind, "P521"),
                KeyAlgorithm::Ed25519 => ec(kind, "ED25519"),
            })
    }

    /// What it takes, for people.
    fn key_types(&self) -> String {
        let kinds = self.key_types.iter().map(|kind| {
            let lengths = kind.key_lengths.iter().map(u32::to_string);
            let sizes: Vec<String> = lengths.chain(kind.key_curves.iter().cloned()).collect();
            format!("{} {}", kind.key_type, sizes.join(", ")).trim_end().to_owned()
        });
        words(&kinds.collect::<Vec<_>>().join(" or "))
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct CertificateRequest<'a> {
    certificate_signing_request: String,
    application_id: &'a str,
    certificate_issuing_template_id: &'a str,
    validity_period: String,
    api_client_information: ClientInformation<'a>,
}

#[derive(Serialize)]
struct ClientInformation<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    identifier: &'a str,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Requested {
    certificate_requests: Vec<Request>,
}

/// A request as the service tells of it.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Request {
    id: String,
    #[serde(default)]
    status: String,
    #[serde(default)]
    certificate_ids: Vec<String>,
    #[serde(default)]
    error_information: ErrorInformation,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ErrorInformation {
    message: String,
    args: Vec<Value>,
}

impl ErrorInformation {
    fn told(&self) -> Option<String> {
        let args = self.args.iter().filter_map(Value::as_str);
        let said: Vec<&str> = [self.message.as_str()].into_iter().chain(args).collect();
        let said = said.join(" ");
        (!said.trim().is_empty()).then(|| said.trim().to_owned())
    }
}

impl fmt::Debug for Cloud {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cloud")
            .field("base", &self.base)
            .field("application", &self.application)
            .field("template", &self.template)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn spans_are_days_or_hours() {
        assert_eq!(iso8601(90 * 86_400), "P90D");
        assert_eq!(iso8601(7200), "PT2H0M0S");
        assert_eq!(iso8601(86_400 + 61), "PT24H1M1S");
    }

    #[test]
    fn templates_take_the_keys_that_they_name() {
        let template = |key_types| -> Template {
            serde_json::from_value(json!({"id": "1", "keyTypes": key_types})).unwrap()
        };
        let open = template(json!([]));
        let some = template(json!([
            {"keyType": "RSA", "keyLengths": [2048, 4096]},
            {"keyType": "EC", "keyCurves": ["P256"]},
        ]));
        for (key, taken) in [
            (KeyAlgorithm::Rsa2048, true),
            (KeyAlgorithm::Rsa3072, false),
            (KeyAlgorithm::EcdsaP256, true),
            (KeyAlgorithm::EcdsaP384, false),
            (KeyAlgorithm::Ed25519, false),
        ] {
            assert_eq!(some.takes(key), taken, "{key:?}");
            assert!(open.takes(key));
        }
        assert_eq!(some.key_types(), "RSA 2048, 4096 or EC P256");
    }
}
