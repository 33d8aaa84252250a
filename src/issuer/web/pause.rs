//! Leaving a server alone that asked for it.

use std::sync::Mutex;
use std::time::Duration;

use tokio::time::Instant;

use crate::issuer::{IssueError, IssueErrorKind};

/// Until when nobody asks a server, shared by all who would.
#[derive(Debug, Default)]
pub(crate) struct Pause(Mutex<Option<Instant>>);

/// The longest pause that is believed: a mistake of a server must not stop an issuer for ever.
pub(super) const LONGEST_PAUSE: Duration = Duration::from_secs(86_400);

impl Pause {
    /// Has everybody wait for `after`, or longer where that was asked for before.
    pub(crate) fn set(&self, after: Duration) {
        let until = Instant::now() + after.min(LONGEST_PAUSE);
        let mut pause = self.0.lock().expect("no one panics with it");
        *pause = Some(pause.map_or(until, |earlier| earlier.max(until)));
    }

    /// Whether `place` may be asked now.
    ///
    /// # Errors
    ///
    /// `RateLimited` with the time that is left of the pause.
    pub(crate) fn check(&self, place: &str) -> Result<(), IssueError> {
        let mut pause = self.0.lock().expect("no one panics with it");
        let left = pause.map_or(Duration::ZERO, |until| until - Instant::now());
        if left.is_zero() {
            *pause = None;
            return Ok(());
        }
        let message = format!("{place} asked to be left alone for a while");
        let error = IssueError::new(IssueErrorKind::RateLimited, message);
        Err(IssueError { retry_after: Some(left), ..error })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn nobody_asks_before_the_pause_is_over() {
        let pause = Pause::default();
        assert!(pause.check("https://ca").is_ok());
        pause.set(Duration::from_secs(30));
        pause.set(Duration::from_secs(5));
        let error = pause.check("https://ca").unwrap_err();
        assert_eq!(error.kind, IssueErrorKind::RateLimited);
        assert_eq!(error.retry_after, Some(Duration::from_secs(30)), "the longer one counts");
        tokio::time::advance(Duration::from_secs(30)).await;
        assert!(pause.check("https://ca").is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn no_pause_is_for_ever() {
        let pause = Pause::default();
        pause.set(Duration::MAX);
        tokio::time::advance(LONGEST_PAUSE).await;
        assert!(pause.check("https://ca").is_ok());
    }
}
