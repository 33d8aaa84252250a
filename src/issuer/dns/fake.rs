//! What the tests of several providers need: a server on loopback, and what it is asked with.

use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::Request;
use hyper::StatusCode;
use hyper::header::{CONTENT_TYPE, HeaderMap};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use url::Url;
use zeroize::Zeroizing;

use super::TxtRecord;
use crate::clock::{Clock, Timestamp};
use crate::issuer::web::{Reach, Web, WebOptions};
use crate::issuer::{IssueError, IssueErrorKind, Materials, Surroundings};
use crate::kubernetes::Access;
use crate::spec::object::{SecretKeyRef, SecretObject};
use crate::x509::fixture::ca_template;
use crate::x509::{
    AuthorityInformation, KeyAlgorithm, PrivateKey, Validity, chain_to_pem, self_sign,
};

/// A server on loopback, while it is not dropped.
pub(super) struct Server {
    pub(super) url: Url,
    heard: Arc<Mutex<Vec<Heard>>>,
    task: JoinHandle<()>,
}

/// A request.
#[derive(Clone, Debug)]
pub(super) struct Heard {
    pub(super) method: String,
    pub(super) path: String,
    pub(super) query: String,
    pub(super) headers: HeaderMap,
    pub(super) body: String,
}

impl Server {
    /// Answers with the status and the body that `answer` makes of each request.
    pub(super) async fn start(
        answer: impl Fn(&Heard) -> (u16, String) + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap()).parse().unwrap();
        let heard = Arc::new(Mutex::new(Vec::new()));
        let answer = Arc::new(answer);
        let router = Router::new().fallback({
            let heard = Arc::clone(&heard);
            move |request: Request| {
                let (heard, answer) = (Arc::clone(&heard), Arc::clone(&answer));
                async move {
                    let (parts, body) = request.into_parts();
                    let body = axum::body::to_bytes(body, 1 << 20).await.unwrap();
                    let request = Heard {
                        method: parts.method.to_string(),
                        path: parts.uri.path().to_owned(),
                        query: parts.uri.query().unwrap_or_default().to_owned(),
                        headers: parts.headers,
                        body: String::from_utf8(body.to_vec()).unwrap(),
                    };
                    heard.lock().unwrap().push(request.clone());
                    let (status, body) = answer(&request);
                    let kind = if body.starts_with('{') { "application/json" } else { "text/xml" };
                    (StatusCode::from_u16(status).unwrap(), [(CONTENT_TYPE, kind)], body)
                }
            }
        });
        let task = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { url, heard, task }
    }

    /// What it was asked so far, such as `GET /zones`.
    pub(super) fn calls(&self) -> Vec<String> {
        let heard = self.heard.lock().unwrap();
        heard.iter().map(|heard| format!("{} {}", heard.method, heard.path)).collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Heard {
    pub(super) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// The values of a query or form, which have no escapes but those of RFC 3986.
    pub(super) fn parameter(&self, name: &str) -> String {
        let text = if self.query.is_empty() { &self.body } else { &self.query };
        let found = url::form_urlencoded::parse(text.as_bytes()).find(|(key, _)| key == name);
        found.map(|(_, value)| value.into_owned()).unwrap_or_default()
    }
}

pub(super) fn now() -> Timestamp {
    "2026-03-01T12:00:00Z".parse().unwrap()
}

pub(super) fn surroundings(access: Option<Access>) -> Surroundings {
    Surroundings { access, ..Surroundings::new(Clock::from_fn(now), "node") }
}

/// A client that reaches loopback, with roots of its own, so that the test needs none of the
/// system's.
pub(super) fn web() -> Web {
    let key = PrivateKey::generate(KeyAlgorithm::EcdsaP256).unwrap();
    let validity = Validity { not_before: now(), not_after: now() };
    let root = self_sign(&ca_template("CN=root"), &key, validity, &AuthorityInformation::default())
        .unwrap();
    let ca_bundle = Some(chain_to_pem([&root]).into_bytes());
    let options = WebOptions { reach: Reach::Anywhere, ca_bundle, ..WebOptions::default() };
    Web::new(options, Clock::from_fn(now)).unwrap()
}

/// Materials with one Secret that is called `secret`.
pub(super) fn materials(values: &[(&str, &str)]) -> Materials {
    let value = |text: &str| Zeroizing::new(text.as_bytes().to_vec());
    let values = values.iter().map(|(key, text)| ((*key).to_owned(), value(text)));
    Materials::default()
        .with_secret("secret", Ok(SecretObject::new(None, "secret".to_owned(), values)))
}

/// What is under `key` of that Secret.
pub(super) fn reference(key: &str) -> SecretKeyRef {
    SecretKeyRef { name: "secret".to_owned(), key: Some(key.to_owned()) }
}

pub(super) fn record(value: &str) -> TxtRecord {
    TxtRecord {
        host: "www.example.com".to_owned(),
        name: "_acme-challenge.www.example.com".to_owned(),
        zone: "example.com".to_owned(),
        value: value.to_owned(),
    }
}

/// Whose fault it is, and all of what is told, which holds no secret.
pub(super) fn told(done: Result<(), IssueError>) -> (IssueErrorKind, String) {
    let error = done.expect_err("this fails");
    let text = crate::error::with_causes(&error);
    assert!(!text.contains("s3cret"), "{text}");
    (error.kind, text)
}
