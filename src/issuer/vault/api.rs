//! The server's HTTP API, as far as it is needed here: one way in, one way to tell what failed.

use std::time::Duration;

use hyper::header::{HeaderName, HeaderValue};
use hyper::{Method, StatusCode};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::session::Token;
use crate::issuer::web::{Answer, Web, place, words};
use crate::issuer::{IssueError, IssueErrorKind};
use crate::spec::object::ServerUrl;

/// A Vault or OpenBao server.
#[derive(Debug)]
pub(super) struct Api {
    web: Web,
    server: ServerUrl,
    namespace: Option<HeaderValue>,
}

/// An answer that is not what was asked for, or none.
#[derive(Debug)]
pub(super) struct Refusal {
    /// Of the answer, if there is one.
    pub(super) status: Option<StatusCode>,
    /// The server's own words, short.
    pub(super) said: String,
    /// The same as an error, where the caller knows no better.
    pub(super) error: IssueError,
}

/// A token and how long it lives.
#[derive(Deserialize)]
pub(super) struct Grant {
    pub(super) client_token: Zeroizing<String>,
    /// In seconds; 0 for one that does not end.
    #[serde(default)]
    pub(super) lease_duration: u64,
    #[serde(default)]
    pub(super) renewable: bool,
    /// `service` or `batch`; the latter are neither renewed nor revoked.
    #[serde(default)]
    pub(super) token_type: String,
}

/// What the server knows of a token.
#[derive(Deserialize)]
pub(super) struct TokenData {
    /// In seconds; 0 for one that does not end.
    #[serde(default)]
    pub(super) ttl: u64,
    #[serde(default)]
    pub(super) renewable: bool,
}

#[derive(Deserialize)]
struct Authenticated {
    auth: Grant,
}

#[derive(Deserialize)]
struct LookedUp {
    data: TokenData,
}

#[derive(Deserialize)]
struct Errors {
    #[serde(default)]
    errors: Vec<String>,
}

const TOKEN: HeaderName = HeaderName::from_static("x-vault-token");
const NAMESPACE: HeaderName = HeaderName::from_static("x-vault-namespace");

/// Agents and proxies of Vault want it, as proof that no browser was tricked into asking.
const REQUEST: HeaderName = HeaderName::from_static("x-vault-request");

/// Giving a token back must not hold up an end.
const REVOKE_TIMEOUT: Duration = Duration::from_millis(1500);

impl Api {
    /// The server at `server`, in one of its namespaces.
    pub(super) fn new(web: Web, server: ServerUrl, namespace: Option<&str>) -> Self {
        let namespace = namespace.and_then(|text| HeaderValue::from_str(text).ok());
        Self { web, server, namespace }
    }

    /// The server, for people.
    pub(super) fn place(&self) -> String {
        place(self.server.url())
    }

    /// Posts `body` to `path`, which is without `/v1/`.
    pub(super) async fn post(
        &self,
        path: &str,
        token: Option<&Token>,
        body: &(impl Serialize + ?Sized),
    ) -> Result<Answer, Refusal> {
        let request = self.request(Method::POST, path, token).json(body);
        self.answer(request.send().await)
    }

    /// Logs in at `path`.
    pub(super) async fn log_in(
        &self,
        path: &str,
        body: &(impl Serialize + ?Sized),
    ) -> Result<Grant, Refusal> {
        let answer = self.post(path, None, body).await?;
        Ok(answer.json::<Authenticated>()?.auth)
    }

    /// Has a token live longer.
    pub(super) async fn renew_self(&self, token: &Token) -> Result<Grant, Refusal> {
        let answer =
            self.post("auth/token/renew-self", Some(token), &serde_json::json!({})).await?;
        Ok(answer.json::<Authenticated>()?.auth)
    }

    /// Gives a token back.
    pub(super) async fn revoke_self(&self, token: &Token) -> Result<(), Refusal> {
        let request = self.request(Method::POST, "auth/token/revoke-self", Some(token));
        self.answer(request.timeout(REVOKE_TIMEOUT).send().await).map(drop)
    }

    /// What the server knows of a token.
    pub(super) async fn look_up(&self, token: &Token) -> Result<TokenData, Refusal> {
        let request = self.request(Method::GET, "auth/token/lookup-self", Some(token));
        Ok(self.answer(request.send().await)?.json::<LookedUp>()?.data)
    }

    /// Whether the server answers and is unsealed.
    pub(super) async fn health(&self) -> Result<(), IssueError> {
        let request = self.web.get(&self.server.join("v1/sys/health"));
        let answer = request.header(REQUEST, HeaderValue::from_static("true")).send().await?;
        match answer.status.as_u16() {
            // Active, standby, and standbys of other clusters.
            200 | 429 | 472 | 473 => Ok(()),
            501 => Err(unavailable(&self.place(), "is not initialized")),
            503 => Err(unavailable(&self.place(), "is sealed: unseal it")),
            _ => Err(answer.error(None)),
        }
    }

    fn request(
        &self,
        method: Method,
        path: &str,
        token: Option<&Token>,
    ) -> crate::issuer::web::Request<'_> {
        let url = self.server.join(&format!("v1/{path}"));
        let mut request = self.web.request(method, &url);
        request = request.header(REQUEST, HeaderValue::from_static("true"));
        if let Some(namespace) = &self.namespace {
            request = request.header(NAMESPACE, namespace.clone());
        }
        match token {
            Some(token) => request.secret(TOKEN, token.secret()),
            None => request,
        }
    }

    fn answer(&self, answer: Result<Answer, IssueError>) -> Result<Answer, Refusal> {
        let answer = answer?;
        if answer.status.is_success() {
            return Ok(answer);
        }
        let said = match serde_json::from_slice::<Errors>(&answer.body) {
            Ok(Errors { errors }) => errors.join("; "),
            Err(_) => String::new(),
        };
        let mut error = answer.error(Some(&said));
        // A standby that may not answer this, or has not caught up with a write.
        if matches!(answer.status.as_u16(), 412 | 472 | 473) {
            error.kind = IssueErrorKind::Unavailable;
        }
        let said = match said.is_empty() {
            true => answer.status.canonical_reason().unwrap_or("nothing more").to_lowercase(),
            false => words(&said),
        };
        Err(Refusal { status: Some(answer.status), said, error })
    }
}

fn unavailable(place: &str, what: &str) -> IssueError {
    IssueError::new(IssueErrorKind::Unavailable, format!("{place} {what}"))
}

impl Refusal {
    /// Whether the server does not let this token do that; it says the same of tokens that it does
    /// not know.
    pub(super) fn is_forbidden(&self) -> bool {
        self.status == Some(StatusCode::FORBIDDEN)
    }
}

impl From<IssueError> for Refusal {
    fn from(error: IssueError) -> Self {
        Self { status: None, said: String::new(), error }
    }
}
