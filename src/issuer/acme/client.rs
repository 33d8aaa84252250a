//! One ACME server: its directory, nonces, and what it refuses (RFC 8555 §6).

use std::sync::Mutex;
use std::time::Duration;

use hyper::header::{HeaderName, LINK, LOCATION};
use hyper::{Method, StatusCode};
use serde_json::Value;
use tokio::sync::OnceCell;
use url::Url;

use super::jws::{AccountKey, Signer};
use super::protocol::{Directory, Problem};
use crate::issuer::web::{Answer, Web};
use crate::issuer::{IssueError, IssueErrorKind};
use crate::sync::lock;

/// A connection to one server, shared by all that ask it.
#[derive(Debug)]
pub(super) struct Client {
    web: Web,
    directory_url: Url,
    directory: OnceCell<Directory>,
    /// Given by the server and not used yet.
    nonces: Mutex<Vec<String>>,
}

/// Why there is no good answer.
#[derive(Debug)]
pub(super) enum Failure {
    /// The server refuses, and says why.
    Refused(Box<Refusal>),
    /// Anything else.
    Other(IssueError),
}

/// A refusal in the server's words.
#[derive(Debug)]
pub(super) struct Refusal {
    /// Who refuses, for people.
    pub(super) place: String,
    pub(super) status: StatusCode,
    pub(super) problem: Problem,
    pub(super) retry_after: Option<Duration>,
}

/// A server may throw away nonces as it likes (§6.5), but not for ever: one that does so to every
/// fifth fails one request in ten million.
const MOST_ATTEMPTS: usize = 10;

/// More are not kept: each request gives one, and as many are under way as volumes are.
const MOST_NONCES: usize = 16;

const REPLAY_NONCE: HeaderName = HeaderName::from_static("replay-nonce");

impl Client {
    pub(super) fn new(web: Web, directory_url: Url) -> Self {
        let (directory, nonces) = (OnceCell::new(), Mutex::default());
        Self { web, directory_url, directory, nonces }
    }

    /// Where the server's services are; asked for once.
    pub(super) async fn directory(&self) -> Result<&Directory, Failure> {
        let read = async || {
            let answer = self.get(&self.directory_url).await?;
            Ok::<_, Failure>(answer.json()?)
        };
        self.directory.get_or_try_init(read).await
    }

    /// Whether the server offers `profile`, where it says what it offers.
    pub(super) async fn check_profile(&self, profile: Option<&str>) -> Result<(), Failure> {
        let profiles = &self.directory().await?.meta.profiles;
        match profile {
            Some(profile) if !profiles.is_empty() && !profiles.contains_key(profile) => {
                let known: Vec<_> = profiles.keys().map(String::as_str).collect();
                let message = format!(
                    "{} has no profile {profile}: write one of {} into the issuer",
                    self.directory_url,
                    crate::error::excerpt(&known.join(", "), 200),
                );
                Err(IssueError::new(IssueErrorKind::Config, message).into())
            }
            _ => Ok(()),
        }
    }

    /// The server's URL, for people.
    pub(super) fn directory_url(&self) -> &Url {
        &self.directory_url
    }

    /// An unsigned GET, as the directory and renewal information are read.
    pub(super) async fn get(&self, url: &Url) -> Result<Answer, Failure> {
        let answer = self.web.get(url).send().await?;
        if answer.status.is_success() { Ok(answer) } else { Err(Failure::of(&answer)) }
    }

    /// A POST of `payload`, or a POST-as-GET without one, signed by `key` as `signer`.
    pub(super) async fn post(
        &self,
        key: &AccountKey,
        signer: Signer<'_>,
        url: &Url,
        payload: Option<&Value>,
    ) -> Result<Answer, Failure> {
        let payload = payload.map(Value::to_string);
        let mut attempt = 0;
        loop {
            attempt += 1;
            let nonce = self.nonce().await?;
            let body = key
                .sign(signer, &nonce, url, payload.as_deref().map(str::as_bytes))
                .map_err(|error| {
                    let message = "the account's key does not sign";
                    IssueError::new(IssueErrorKind::Node, message).caused_by(error)
                })?;
            let request = self.web.post(url).body("application/jose+json", body);
            let answer = request.limits_are_mine().send().await?;
            self.keep_nonce(&answer);
            if answer.status.is_success() {
                return Ok(answer);
            }
            let failure = Failure::of(&answer);
            if attempt == MOST_ATTEMPTS || failure.kind() != Some("badNonce") {
                return Err(failure);
            }
        }
    }

    /// A nonce that was not used yet (§7.2).
    async fn nonce(&self) -> Result<String, Failure> {
        let kept = self.nonces().pop();
        if let Some(nonce) = kept {
            return Ok(nonce);
        }
        let url = &self.directory().await?.new_nonce;
        let answer = self.web.request(Method::HEAD, url).send().await?;
        if !answer.status.is_success() {
            return Err(Failure::of(&answer));
        }
        let nonce = answer.header(&REPLAY_NONCE).map(str::to_owned);
        nonce.ok_or_else(|| bad(&answer, "gave no nonce").into())
    }

    fn keep_nonce(&self, answer: &Answer) {
        if let Some(nonce) = answer.header(&REPLAY_NONCE) {
            let mut nonces = self.nonces();
            if nonces.len() < MOST_NONCES {
                nonces.push(nonce.to_owned());
            }
        }
    }

    fn nonces(&self) -> std::sync::MutexGuard<'_, Vec<String>> {
        lock(&self.nonces)
    }
}

/// An answer that breaks the protocol.
pub(super) fn bad(answer: &Answer, what: &str) -> IssueError {
    let message = format!("{} {what}: is it an ACME server?", answer.place());
    IssueError::new(IssueErrorKind::BadResponse, message)
}

/// The URL of what was made.
pub(super) fn location(answer: &Answer, base: &Url) -> Result<Url, IssueError> {
    let location = answer.header(&LOCATION).and_then(|text| base.join(text).ok());
    location.ok_or_else(|| bad(answer, "does not say where what it made is"))
}

/// The URLs of further chains (§7.4.2), no more than are worth asking for.
pub(super) fn alternates(answer: &Answer, base: &Url) -> Vec<Url> {
    const MOST: usize = 8;
    let values = answer.headers.get_all(LINK).iter().filter_map(|value| value.to_str().ok());
    let links = values.flat_map(|value| value.split(','));
    let alternates = links.filter_map(|link| {
        let (target, parameters) = link.trim().strip_prefix('<')?.split_once('>')?;
        let mut parameters = parameters.split(';').map(str::trim);
        parameters
            .any(|parameter| matches!(parameter, "rel=\"alternate\"" | "rel=alternate"))
            .then_some(target)
    });
    alternates.filter_map(|target| base.join(target).ok()).take(MOST).collect()
}

impl Failure {
    /// What `answer` says went wrong.
    fn of(answer: &Answer) -> Self {
        match serde_json::from_slice::<Problem>(&answer.body) {
            Ok(problem) if !problem.kind().is_empty() => Self::Refused(Box::new(Refusal {
                place: answer.place().to_owned(),
                status: answer.status,
                problem,
                retry_after: answer.retry_after(),
            })),
            _ => Self::Other(answer.error(None)),
        }
    }

    /// The type of the server's problem, if it named one.
    pub(super) fn kind(&self) -> Option<&str> {
        match self {
            Self::Refused(refusal) => Some(refusal.problem.kind()),
            Self::Other(_) => None,
        }
    }
}

impl From<IssueError> for Failure {
    fn from(error: IssueError) -> Self {
        Self::Other(error)
    }
}

impl From<Failure> for IssueError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Refused(refusal) => refusal.into_error(),
            Failure::Other(error) => error,
        }
    }
}

impl Refusal {
    /// Whose fault it is and what to do: the one table of ACME's errors (§6.7).
    fn into_error(self) -> IssueError {
        use IssueErrorKind::{Config, Denied, Pending, RateLimited, Unavailable};
        let Self { place, status, problem, retry_after } = self;
        let (kind, advice) = match problem.kind() {
            "rateLimited" => (RateLimited, "it is asked again when that is over"),
            "badNonce" | "serverInternal" => (Unavailable, "it is asked again"),
            "orderNotReady" => (Pending, "it is asked again"),
            "accountDoesNotExist" => {
                (Unavailable, "the account is looked up or made anew for the next attempt")
            }
            "externalAccountRequired" => (
                Config,
                "write externalAccountBinding into the issuer, with what the CA gave for it",
            ),
            "userActionRequired" => {
                (Config, "the CA wants its terms of service agreed to: visit the page it names")
            }
            "unauthorized" => (
                Config,
                "the CA does not accept this account for that: look at the account, and at its \
                 external binding if there is one",
            ),
            "invalidProfile" => {
                (Config, "correct profile in the issuer, or take it out for the CA's default")
            }
            "invalidContact" | "unsupportedContact" => (Config, "correct email in the issuer"),
            "badPublicKey" | "badSignatureAlgorithm" => (
                Config,
                "use a key that the CA takes: key-algorithm in the volume, or the account's own key \
                 in the issuer's privateKeySecretRef",
            ),
            "rejectedIdentifier" | "unsupportedIdentifier" => {
                (Denied, "ask for names that this CA signs, or use another issuer")
            }
            "caa" => (Denied, "let the CA in with a CAA record of the name"),
            _ if status.is_server_error() => (Unavailable, "it is asked again"),
            _ => (Denied, "change what the volume or the issuer asks for"),
        };
        let message = format!("{place} refuses ({}): {problem}; {advice}", problem.kind());
        IssueError { retry_after, ..IssueError::new(kind, message) }
    }
}
