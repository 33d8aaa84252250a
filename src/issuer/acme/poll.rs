//! Waiting for a server that is at work.

use std::time::Duration;

use tokio::time::{Instant, sleep};

/// The pace of questions about one object.
#[derive(Debug)]
pub(super) struct Poll {
    next: Duration,
    deadline: Instant,
}

/// The first question and the slowest pace, where the server does not say.
const FIRST: Duration = Duration::from_millis(250);
const SLOWEST: Duration = Duration::from_secs(10);

/// A server that asks for more is asked again by the next attempt.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// After this the attempt ends, and the next one goes on with the same order.
const PATIENCE: Duration = Duration::from_secs(600);

impl Poll {
    pub(super) fn new() -> Self {
        Self { next: FIRST, deadline: Instant::now() + PATIENCE }
    }

    /// Waits as long as the server wants; `false` when there was no answer for too long.
    pub(super) async fn wait(&mut self, retry_after: Option<Duration>) -> bool {
        let wait = retry_after.map_or(self.next, |after| after.clamp(FIRST, LONGEST_WAIT));
        self.next = (self.next * 2).min(SLOWEST);
        if Instant::now() + wait > self.deadline {
            return false;
        }
        sleep(wait).await;
        true
    }
}
