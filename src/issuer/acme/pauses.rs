//! Rate limits: who may not ask the server before when.
//!
//! A limit holds for all volumes of an issuer, unless the server's words are about the names of one
//! order: a limit of certificates for one set of names lasts for days, and must not stop others.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use tokio::time::Instant;

use super::client::Refusal;
use super::protocol::Identifier;
use crate::issuer::{IssueError, IssueErrorKind};
use crate::sync::lock;

/// The pauses that one server asked for.
#[derive(Debug, Default)]
pub(super) struct Pauses(Mutex<Held>);

#[derive(Debug, Default)]
struct Held {
    all: Option<Pause>,
    of_names: HashMap<Vec<Identifier>, Pause>,
}

#[derive(Clone, Debug)]
struct Pause {
    until: Instant,
    /// In the server's own words.
    said: String,
}

/// Where the server does not say how long.
const DEFAULT: Duration = Duration::from_secs(60);

impl Pauses {
    /// Whether the server may be asked for `names` now.
    ///
    /// # Errors
    ///
    /// `RateLimited` with what is left of the pause.
    pub(super) fn check(&self, names: &[Identifier]) -> Result<(), IssueError> {
        let mut held = self.held();
        let now = Instant::now();
        held.of_names.retain(|_, pause| pause.until > now);
        held.all.take_if(|pause| pause.until <= now);
        let pauses = [held.all.as_ref(), held.of_names.get(names)];
        let Some(pause) = pauses.into_iter().flatten().max_by_key(|pause| pause.until) else {
            return Ok(());
        };
        let left = pause.until - now;
        let wait = humantime::format_duration(Duration::from_secs(left.as_secs() + 1));
        let message = format!("{}; nothing is asked of it for {wait}", pause.said);
        let error = IssueError::new(IssueErrorKind::RateLimited, message);
        Err(IssueError { retry_after: Some(left), ..error })
    }

    /// Takes note of a refusal of an order for `names`, if it is about a limit.
    pub(super) fn note(&self, refusal: &Refusal, names: &[Identifier]) {
        if refusal.problem.kind() != "rateLimited" {
            return;
        }
        let until = Instant::now() + refusal.retry_after.unwrap_or(DEFAULT);
        let said = format!("{} limits us: {}", refusal.place, refusal.problem);
        let pause = Pause { until, said };
        let mut held = self.held();
        if is_about_names(refusal.problem.detail(), names) {
            held.of_names.insert(names.to_vec(), pause);
        } else {
            held.all = Some(pause);
        }
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        lock(&self.0)
    }
}

/// Whether a server's words tell of one of the names, a domain above one, or the set of them.
fn is_about_names(detail: &str, names: &[Identifier]) -> bool {
    let detail = detail.to_ascii_lowercase();
    let mentions = |name: &str| {
        let between = |c: char| !(c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | ':'));
        detail.split(between).any(|word| word.trim_matches(['.', ':']) == name)
    };
    let named = |name: &Identifier| {
        let mut domain = name.value.trim_start_matches("*.");
        loop {
            if mentions(domain) {
                return true;
            }
            match domain.split_once('.') {
                // A top-level domain is not anybody's.
                Some((_, above)) if above.contains('.') => domain = above,
                _ => return false,
            }
        }
    };
    detail.contains("set of identifiers") || names.iter().any(named)
}

#[cfg(test)]
mod tests {
    use hyper::StatusCode;

    use super::*;

    fn names(name: &str) -> Vec<Identifier> {
        vec![Identifier { kind: "dns".to_owned(), value: name.to_owned() }]
    }

    fn refusal(detail: &str) -> Refusal {
        let problem = serde_json::json!({
            "type": "urn:ietf:params:acme:error:rateLimited", "detail": detail,
        });
        Refusal {
            place: "https://ca.example".to_owned(),
            status: StatusCode::TOO_MANY_REQUESTS,
            problem: serde_json::from_value(problem).unwrap(),
            retry_after: Some(Duration::from_secs(3600)),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_limit_of_the_account_holds_for_every_volume_until_it_is_over() {
        let pauses = Pauses::default();
        pauses.note(&refusal("too many new orders (300) from this account"), &names("a.example"));
        let error = pauses.check(&names("b.example")).unwrap_err();
        assert_eq!(error.kind, IssueErrorKind::RateLimited);
        assert_eq!(error.retry_after, Some(Duration::from_secs(3600)));
        assert!(error.message.contains("from this account"), "{}", error.message);
        tokio::time::advance(Duration::from_secs(3600)).await;
        assert!(pauses.check(&names("b.example")).is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_limit_of_some_names_stops_no_others() {
        for detail in [
            "too many certificates (5) already issued for this exact set of identifiers",
            "too many certificates (50) already issued for \"shop.example\" in the last 168h",
            "too many failed authorizations (5) for \"www.shop.example\" in the last 1h",
        ] {
            let pauses = Pauses::default();
            pauses.note(&refusal(detail), &names("www.shop.example"));
            assert!(pauses.check(&names("www.shop.example")).is_err(), "{detail}");
            assert!(pauses.check(&names("other.example")).is_ok(), "{detail}");
        }
        assert!(!is_about_names("see example.com/limits", &names("com.example")));
    }
}
