//! HTTPS to a CA: the one client that every issuer uses, and the only one that touches reqwest.
//!
//! What this promises:
//!
//! - Nothing of the process' surroundings decides where a request goes: no proxies of the
//!   environment, no redirects. TLS 1.2 or later; a CA bundle replaces the system's roots.
//! - Plain HTTP goes to this machine's loopback only, where an agent may listen, unless asked for.
//! - An issuer that a tenant wrote does not reach what only the node may: see [`Reach`].
//! - An answer has an end: in time, and in bytes.
//! - Failures are [`IssueError`]s that say which server it is and what to do, in its own words where
//!   it has said any. They never show a header, a path or a body that was sent.
//! - A server that says when to come back is not asked before, by no volume of the node.

mod answer;
mod pause;
mod reach;

use std::error::Error;
use std::fmt;
use std::io;
use std::time::Duration;

use hyper::ext::ReasonPhrase;
use hyper::header::{CONTENT_TYPE, HOST, HeaderName, HeaderValue};
use hyper::{Method, StatusCode};
use serde::Serialize;
use url::{Host, Url};
use zeroize::Zeroizing;

pub(crate) use self::answer::Answer;
pub(crate) use self::pause::Pause;
pub(crate) use self::reach::Reach;
use self::reach::Resolver;
use super::{IssueError, IssueErrorKind};
use crate::clock::Clock;
use crate::error::excerpt;

/// How the servers of one issuer are reached.
#[derive(Default)]
pub(crate) struct WebOptions {
    /// Where requests may go.
    pub(crate) reach: Reach,
    /// PEM certificates that servers must chain to; `None` for the system's.
    pub(crate) ca_bundle: Option<Vec<u8>>,
    /// Who we are.
    pub(crate) identity: Option<ClientIdentity>,
    /// The name in the certificate of a server whose URL has another.
    pub(crate) server_name: Option<ServerName>,
    /// Whether plain HTTP may leave this machine, for what is public anyway.
    pub(crate) plaintext: bool,
}

/// A TLS client certificate. Prints nothing; the key is zeroized.
pub(crate) struct ClientIdentity {
    /// The certificate, then those above it, as PEM.
    pub(crate) certificates: Vec<u8>,
    /// Its private key, as PEM.
    pub(crate) key: Zeroizing<Vec<u8>>,
}

/// The name that stands in a server's certificate.
#[derive(Clone, Debug)]
pub(crate) struct ServerName {
    /// A DNS name.
    pub(crate) name: String,
    /// The server.
    pub(crate) server: Url,
}

/// Why there is no client. `Display` says its own part; the cause is its `source`.
#[derive(Debug, thiserror::Error)]
pub enum WebError {
    /// The CA bundle holds no certificate, or one that cannot be read.
    #[error("the CA bundle cannot be used: put PEM certificates there")]
    CaBundle(#[source] Option<Box<dyn Error + Send + Sync>>),
    /// The client certificate or its key cannot be read.
    #[error("the client certificate cannot be used: put a PEM certificate and its key there")]
    Identity(#[source] Box<dyn Error + Send + Sync>),
    /// The system has no roots, for instance.
    #[error("there can be no HTTPS: install CA certificates on the system, or give a CA bundle")]
    Client(#[source] Box<dyn Error + Send + Sync>),
}

/// A client for the servers of one issuer, shared by all of its volumes.
pub(crate) struct Web {
    client: reqwest::Client,
    reach: Reach,
    plaintext: bool,
    server_name: Option<ServerName>,
    pause: Pause,
    clock: Clock,
}

/// Servers in one cluster, or anywhere in the world, take a connection within this.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// From the first byte sent to the last one read. Kubelet waits two minutes for all of a publish.
const TIMEOUT: Duration = Duration::from_secs(45);

/// No answer that an issuer needs is longer.
const LONGEST_BODY: usize = 1 << 20;

impl Web {
    /// A client that reads times of servers against `clock`.
    ///
    /// # Errors
    ///
    /// When the CA bundle or the identity cannot be read, or the system has no roots.
    pub(crate) fn new(options: WebOptions, clock: Clock) -> Result<Self, WebError> {
        let WebOptions { reach, ca_bundle, identity, server_name, plaintext } = options;
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("certmount/", env!("CARGO_PKG_VERSION")))
            .tls_backend_rustls()
            .tls_version_min(reqwest::tls::Version::TLS_1_2)
            // Only HTTP/1.1 has reason phrases, which is where some CAs say what is wrong.
            .http1_only()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(TIMEOUT)
            .dns_resolver(Resolver { reach: reach.clone(), server_name: server_name.clone() });
        if let Some(pem) = ca_bundle {
            let roots = reqwest::Certificate::from_pem_bundle(&pem)
                .map_err(|error| WebError::CaBundle(Some(error.into())))?;
            if roots.is_empty() {
                return Err(WebError::CaBundle(None));
            }
            builder = builder.tls_certs_only(roots);
        }
        if let Some(ClientIdentity { certificates, key }) = identity {
            let mut pem = key;
            pem.push(b'\n');
            pem.extend_from_slice(&certificates);
            let identity = reqwest::Identity::from_pem(&pem)
                .map_err(|error| WebError::Identity(error.into()))?;
            builder = builder.identity(identity);
        }
        let client = builder.build().map_err(|error| WebError::Client(error.into()))?;
        Ok(Self { client, reach, plaintext, server_name, pause: Pause::default(), clock })
    }

    /// A GET of `url`, to be sent.
    pub(crate) fn get(&self, url: &Url) -> Request<'_> {
        self.request(Method::GET, url)
    }

    /// A POST to `url`, to be sent.
    pub(crate) fn post(&self, url: &Url) -> Request<'_> {
        self.request(Method::POST, url)
    }

    /// A request to be sent.
    pub(crate) fn request(&self, method: Method, url: &Url) -> Request<'_> {
        let mut target = url.clone();
        let mut host = None;
        if let Some(server_name) = self.server_name.as_ref().filter(|it| it.applies_to(url)) {
            // The resolver leads the name back to the server.
            if target.set_host(Some(&server_name.name)).is_ok() {
                host = HeaderValue::from_str(authority(url)).ok();
            }
        }
        let mut request = self.client.request(method, target);
        if let Some(host) = host {
            request = request.header(HOST, host);
        }
        Request { web: self, place: place(url), allowed: self.allow(url), pauses: true, request }
    }

    /// Whether requests may go to `url`.
    pub(crate) fn allow(&self, url: &Url) -> Result<(), String> {
        let literal = match url.host() {
            None => return Err("it names no host".to_owned()),
            Some(Host::Domain(_)) => None,
            Some(Host::Ipv4(address)) => Some(address.into()),
            Some(Host::Ipv6(address)) => Some(address.into()),
        };
        if let Some(address) = literal {
            self.reach.check(address)?;
        }
        match url.scheme() {
            "https" => Ok(()),
            "http" if self.plaintext => Ok(()),
            "http" if self.reach == Reach::Anywhere && is_loopback(url) => Ok(()),
            _ => Err("everybody on the way could read what is sent: use https".to_owned()),
        }
    }
}

impl fmt::Debug for Web {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Web").field("reach", &self.reach).finish_non_exhaustive()
    }
}

impl ServerName {
    fn applies_to(&self, url: &Url) -> bool {
        self.server.origin() == url.origin()
    }
}

/// Whether `url` is of this machine itself.
pub(crate) fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

/// A request under way. Whoever drops its future ends it.
#[must_use = "it must be sent"]
pub(crate) struct Request<'a> {
    web: &'a Web,
    /// Whom it is for, for people.
    place: String,
    allowed: Result<(), String>,
    /// Whether 429 keeps everybody away from the server.
    pauses: bool,
    request: reqwest::RequestBuilder,
}

impl Request<'_> {
    /// With a header.
    pub(crate) fn header(self, name: HeaderName, value: HeaderValue) -> Self {
        Self { request: self.request.header(name, value), ..self }
    }

    /// With a header that holds a secret: a token, a password. A text that no header can hold is
    /// a secret that no server knows.
    pub(crate) fn secret(self, name: HeaderName, value: &str) -> Self {
        let mut value =
            HeaderValue::from_str(value).unwrap_or_else(|_| HeaderValue::from_static("invalid"));
        value.set_sensitive(true);
        self.header(name, value)
    }

    /// With a JSON body.
    pub(crate) fn json(self, body: &(impl Serialize + ?Sized)) -> Self {
        Self { request: self.request.json(body), ..self }
    }

    /// With a body of that type.
    pub(crate) fn body(self, content_type: &'static str, body: Vec<u8>) -> Self {
        let content_type = HeaderValue::from_static(content_type);
        Self { request: self.request.header(CONTENT_TYPE, content_type).body(body), ..self }
    }

    /// With another end than the usual 45 seconds, for a server that lets one wait.
    pub(crate) fn timeout(self, timeout: Duration) -> Self {
        Self { request: self.request.timeout(timeout), ..self }
    }

    /// Takes a 429 as the answer to this request alone, for a caller that knows what it is about.
    pub(crate) fn limits_are_mine(self) -> Self {
        Self { pauses: false, ..self }
    }

    /// Sends it and reads the whole answer, whatever its status.
    ///
    /// # Errors
    ///
    /// `Config` where it may not go there, `RateLimited` while the server wants to be left alone,
    /// `Unavailable` for what connections and TLS do, `BadResponse` for an answer that is too long
    /// or breaks off.
    pub(crate) async fn send(self) -> Result<Answer, IssueError> {
        let Self { web, place, allowed, pauses, request } = self;
        allowed.map_err(|reason| {
            let message = format!("{place} may not be asked: {reason}");
            IssueError::new(IssueErrorKind::Config, message)
        })?;
        web.pause.check(&place)?;
        let mut response = request.send().await.map_err(|error| transport_error(&place, error))?;
        let mut body = Zeroizing::new(Vec::new());
        while let Some(chunk) =
            response.chunk().await.map_err(|error| transport_error(&place, error))?
        {
            if body.len() + chunk.len() > LONGEST_BODY {
                let message =
                    format!("the answer of {place} is longer than any that a CA gives: is it one?");
                return Err(IssueError::new(IssueErrorKind::BadResponse, message));
            }
            body.extend_from_slice(&chunk);
        }
        let reason = response.extensions().get::<ReasonPhrase>();
        let reason = reason.map(|reason| String::from_utf8_lossy(reason.as_bytes()).into_owned());
        let answer = Answer {
            place,
            status: response.status(),
            reason,
            headers: std::mem::take(response.headers_mut()),
            body,
            received: web.clock.now(),
        };
        let is_mine = !pauses && answer.status == StatusCode::TOO_MANY_REQUESTS;
        if let Some(after) = answer.wants_pause().filter(|_| !is_mine) {
            web.pause.set(after);
        }
        Ok(answer)
    }
}

/// The server of `url`, for people, without anything that may be secret.
pub(crate) fn place(url: &Url) -> String {
    url.origin().ascii_serialization()
}

/// What a server wrote, as much of it as people are shown.
pub(crate) fn words(text: &str) -> String {
    const LONGEST: usize = 256;
    excerpt(text, LONGEST)
}

/// Host and perhaps port, as a Host header has them.
fn authority(url: &Url) -> &str {
    &url[url::Position::BeforeHost..url::Position::AfterPort]
}

/// Why no answer came.
fn transport_error(place: &str, error: reqwest::Error) -> IssueError {
    use IssueErrorKind::{BadResponse, Config, Unavailable};
    let error = error.without_url();
    let cause = Cause::of(&error);
    let (kind, message) = match cause {
        Cause::Forbidden(reason) => (Config, format!("{place} may not be asked: {reason}")),
        _ if error.is_timeout() => (
            Unavailable,
            format!("{place} does not answer: is it overloaded, or its network down?"),
        ),
        Cause::Untrusted(reason) => (
            Unavailable,
            format!(
                "{place} is not trusted: {reason}; if that is the right server, put its CA into \
                 the issuer's caBundle"
            ),
        ),
        Cause::Name(name) => (
            Unavailable,
            format!("{place} cannot be found: {name}; correct its name, or mend the node's DNS"),
        ),
        Cause::Other(reason) if error.is_connect() => (
            Unavailable,
            format!(
                "{place} cannot be reached: {reason}; is it running, and may this node connect to it?"
            ),
        ),
        Cause::Other(reason) if error.is_body() || error.is_decode() => {
            (BadResponse, format!("{place} broke off its answer: {reason}"))
        }
        Cause::Other(reason) => (Unavailable, format!("{place} did not answer: {reason}")),
    };
    IssueError::new(kind, message)
}

/// What is at the bottom of a failed request.
enum Cause {
    Forbidden(String),
    Name(String),
    Untrusted(String),
    Other(String),
}

impl Cause {
    fn of(error: &reqwest::Error) -> Self {
        let mut deepest: &(dyn Error + 'static) = error;
        let mut of_name = false;
        loop {
            if let Some(forbidden) = deepest.downcast_ref::<reach::Forbidden>() {
                return Self::Forbidden(forbidden.to_string());
            }
            if let Some(rustls::Error::InvalidCertificate(reason)) = deepest.downcast_ref() {
                return Self::Untrusted(words(&reason.to_string()));
            }
            of_name |= deepest.is::<reach::NoAddress>();
            // io::Error passes over the error that it holds.
            let held = deepest.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
            let next = held.map(|held| held as &(dyn Error + 'static)).or_else(|| deepest.source());
            match next {
                Some(next) => deepest = next,
                None => break,
            }
        }
        let of_system =
            deepest.downcast_ref::<io::Error>().filter(|it| it.raw_os_error().is_some());
        let says = of_system.map_or_else(|| deepest.to_string(), |it| it.kind().to_string());
        let says = words(&says);
        if of_name { Self::Name(says) } else { Self::Other(says) }
    }
}

#[cfg(test)]
mod tests;
