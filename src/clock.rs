//! Time, the only place that asks what time it is.
//!
//! Certificates live on wall-clock time, and a node's wall clock can step or stand still
//! (NTP, suspend). A [`Clock`] therefore never sleeps for one long span: it waits in short steps
//! and looks at the wall clock again after each.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

pub use jiff::Timestamp;

/// The longest single sleep; after each the wall clock is read again.
const LONGEST_SLEEP: Duration = Duration::from_secs(60);

/// A source of wall-clock time, cheap to clone.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> Timestamp + Send + Sync>);

impl Clock {
    /// The operating system's wall clock.
    pub fn system() -> Self {
        #[allow(clippy::disallowed_methods, reason = "the one place that reads the clock")]
        Self(Arc::new(Timestamp::now))
    }

    /// A clock that answers with `now`, for tests of code that depends on time.
    pub fn from_fn(now: impl Fn() -> Timestamp + Send + Sync + 'static) -> Self {
        Self(Arc::new(now))
    }

    /// The current wall-clock time.
    pub fn now(&self) -> Timestamp {
        (self.0)()
    }

    /// Returns once the wall clock reads `at` or later, at once if it already does.
    ///
    /// A clock that steps forward, or a machine that slept, is noticed within 60 seconds.
    pub async fn sleep_until(&self, at: Timestamp) {
        self.sleep_between(Timestamp::MIN, at).await;
    }

    /// Returns once the wall clock reads `until` or later, or something before `from`: then it was
    /// set back, and a plan that was made at `from` counts no longer.
    ///
    /// A clock that was set, or a machine that slept, is noticed within 60 seconds.
    pub async fn sleep_between(&self, from: Timestamp, until: Timestamp) {
        loop {
            let now = self.now();
            if now < from || now >= until {
                return;
            }
            tokio::time::sleep(between(now, until).min(LONGEST_SLEEP)).await;
        }
    }
}

/// The time from `earlier` to `later`; nothing if they are the other way round.
pub fn between(earlier: Timestamp, later: Timestamp) -> Duration {
    Duration::try_from(later.duration_since(earlier)).unwrap_or_default()
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Clock").field(&self.now()).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicI64, Ordering};

    use super::*;

    /// A wall clock that follows tokio's paused clock plus a step that the test can change.
    fn stepped() -> (Clock, Arc<AtomicI64>) {
        let step = Arc::new(AtomicI64::new(0));
        let start = tokio::time::Instant::now();
        let seen = Arc::clone(&step);
        let clock = Clock::from_fn(move || {
            let seconds = start.elapsed().as_secs() as i64 + seen.load(Ordering::SeqCst);
            Timestamp::from_second(1_700_000_000 + seconds).unwrap()
        });
        (clock, step)
    }

    #[tokio::test(start_paused = true)]
    async fn sleeps_to_the_instant() {
        let (clock, _) = stepped();
        let at = clock.now() + Duration::from_secs(600);
        clock.sleep_until(at).await;
        assert_eq!(clock.now(), at);
    }

    #[tokio::test(start_paused = true)]
    async fn notices_a_step_forward_within_a_minute() {
        let (clock, step) = stepped();
        let began = tokio::time::Instant::now();
        let at = clock.now() + Duration::from_secs(86_400);
        let waiting = tokio::spawn({
            let clock = clock.clone();
            async move { clock.sleep_until(at).await }
        });
        tokio::time::sleep(Duration::from_secs(1)).await;
        step.store(86_400, Ordering::SeqCst);
        waiting.await.unwrap();
        assert!(began.elapsed() <= LONGEST_SLEEP + Duration::from_secs(1));
    }

    #[tokio::test(start_paused = true)]
    async fn a_step_back_does_not_wake_early() {
        let (clock, step) = stepped();
        let at = clock.now() + Duration::from_secs(90);
        let waiting = tokio::spawn({
            let clock = clock.clone();
            async move { clock.sleep_until(at).await }
        });
        tokio::time::sleep(Duration::from_secs(1)).await;
        step.store(-3_600, Ordering::SeqCst);
        waiting.await.unwrap();
        assert!(clock.now() >= at);
    }

    #[tokio::test(start_paused = true)]
    async fn a_step_back_before_the_plan_was_made_ends_the_wait() {
        let (clock, step) = stepped();
        let (from, until) = (clock.now(), clock.now() + Duration::from_secs(86_400));
        let waiting = tokio::spawn({
            let clock = clock.clone();
            async move { clock.sleep_between(from, until).await }
        });
        step.store(-3_600, Ordering::SeqCst);
        waiting.await.unwrap();
        assert!(clock.now() < from);
    }
}
