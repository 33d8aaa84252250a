//! What a server answered.

use std::fmt;
use std::time::Duration;

use hyper::header::{CONTENT_TYPE, DATE, HeaderMap, HeaderName, LOCATION, RETRY_AFTER};
use jiff::fmt::rfc2822::DateTimeParser;
use serde::de::DeserializeOwned;
use zeroize::Zeroizing;

use super::pause::LONGEST_PAUSE;
use super::{IssueError, IssueErrorKind, StatusCode, words};
use crate::clock::Timestamp;
use crate::error::excerpt;

/// A whole answer, of any status. Prints nothing of its body, which is zeroized.
pub(crate) struct Answer {
    /// Who answered, for people.
    pub(super) place: String,
    /// The status.
    pub(crate) status: StatusCode,
    /// The reason phrase, where it is not the status' own.
    pub(crate) reason: Option<String>,
    /// The headers.
    pub(crate) headers: HeaderMap,
    /// The body.
    pub(crate) body: Zeroizing<Vec<u8>>,
    /// When it was there.
    pub(super) received: Timestamp,
}

impl Answer {
    /// Who answered, as people write it: `https://vault.example.com:8200`.
    pub(crate) fn place(&self) -> &str {
        &self.place
    }

    /// The text of a header.
    pub(crate) fn header(&self, name: &HeaderName) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The body as JSON.
    ///
    /// # Errors
    ///
    /// `BadResponse` when it is none, or not what a `T` is made of.
    pub(crate) fn json<T: DeserializeOwned>(&self) -> Result<T, IssueError> {
        serde_json::from_slice(&self.body).map_err(|error| {
            let place = &self.place;
            let bad = |message| IssueError::new(IssueErrorKind::BadResponse, message);
            match self.header(&CONTENT_TYPE) {
                Some(other) if !other.contains("json") => bad(format!(
                    "{place} answered with {} instead of JSON: is it the CA, or a proxy before it?",
                    excerpt(other, 64),
                )),
                // The error's own text can hold a value, and a value can be a token.
                _ => bad(format!(
                    "the answer of {place} is not what a CA of this kind gives (column {} of its \
                     JSON): is its address right?",
                    error.column(),
                )),
            }
        })
    }

    /// An answer that is not what was hoped for, as an error, sorted by its status. `said` is what
    /// the server has to say in its body; without it, the reason phrase is told.
    pub(crate) fn error(&self, said: Option<&str>) -> IssueError {
        use IssueErrorKind::{BadResponse, Config, Denied, RateLimited, Unavailable};
        let place = &self.place;
        let code = self.status.as_u16();
        let said = said.filter(|said| !said.trim().is_empty()).or(self.reason.as_deref());
        let said = said.or_else(|| self.status.canonical_reason()).unwrap_or("nothing more");
        let said = words(said);
        let (kind, message) = match code {
            _ if self.is_rate_limit() => {
                (RateLimited, format!("{place} asks to be left alone for a while: {said}"))
            }
            500..=599 => (Unavailable, format!("{place} fails with status {code}: {said}")),
            300..=399 => {
                let to = self.header(&LOCATION).unwrap_or("another place");
                let to = words(to.split(['?', '#']).next().unwrap_or_default());
                (
                    Config,
                    format!(
                        "{place} sends us to {to}, and redirects are not followed: give the issuer the address that answers"
                    ),
                )
            }
            401 | 403 => (Config, format!("{place} does not let us in: {said}")),
            400..=499 => (Denied, format!("{place} refused with status {code}: {said}")),
            _ => (BadResponse, format!("{place} answered with status {code}, which tells nothing")),
        };
        IssueError { retry_after: self.retry_after(), ..IssueError::new(kind, message) }
    }

    /// How long the server wants to be left alone (RFC 9110 §10.2.3).
    pub(crate) fn retry_after(&self) -> Option<Duration> {
        let text = self.header(&RETRY_AFTER)?.trim();
        let after = match text.parse::<u64>() {
            Ok(seconds) => Duration::from_secs(seconds),
            Err(_) => {
                // Against the server's own clock, where it tells.
                let now = self.date().unwrap_or(self.received);
                Duration::try_from(http_date(text)?.duration_since(now)).unwrap_or_default()
            }
        };
        Some(after.min(LONGEST_PAUSE))
    }

    /// What time it was at the server.
    pub(crate) fn date(&self) -> Option<Timestamp> {
        http_date(self.header(&DATE)?)
    }

    /// How long nobody should ask this server, if it said so.
    pub(super) fn wants_pause(&self) -> Option<Duration> {
        self.retry_after().filter(|_| self.is_rate_limit())
    }

    fn is_rate_limit(&self) -> bool {
        match self.status {
            StatusCode::TOO_MANY_REQUESTS => true,
            StatusCode::SERVICE_UNAVAILABLE => self.headers.contains_key(RETRY_AFTER),
            _ => false,
        }
    }
}

/// RFC 9110 §5.6.7: an `IMF-fixdate`. Its older forms are long gone.
fn http_date(text: &str) -> Option<Timestamp> {
    DateTimeParser::new().parse_timestamp(text.trim()).ok()
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answer")
            .field("place", &self.place)
            .field("status", &self.status)
            .field("body", &format_args!("{} bytes", self.body.len()))
            .finish_non_exhaustive()
    }
}
