//! When to look at the watched files: soon after a change, once for a burst of changes, not before
//! the program is ready to be told, and now and then in any case.

use std::time::{Duration, Instant};

/// How often to look without having been told of a change, as a safety net.
pub(super) const LOOK_EVERY: Duration = Duration::from_secs(10);

/// How long the files must be left alone before they are looked at.
const SETTLE: Duration = Duration::from_millis(200);

/// The longest that a burst of changes can put off a look.
const LONGEST_BURST: Duration = Duration::from_secs(1);

/// How long a program has to set up its signal handlers; a SIGHUP before would end it.
const WARM_UP: Duration = Duration::from_secs(1);

/// The next look at the files.
#[derive(Debug)]
pub(super) struct Schedule {
    next: Instant,
    /// When the changes began that have not been looked at.
    burst: Option<Instant>,
    /// When the program can be told of changes.
    ready: Instant,
}

impl Schedule {
    /// For a program that was started at `now`.
    pub(super) fn started(now: Instant) -> Self {
        Self { next: now + LOOK_EVERY, burst: None, ready: now + WARM_UP }
    }

    /// The program was started anew.
    pub(super) fn restarted(&mut self, now: Instant) {
        self.ready = now + WARM_UP;
    }

    /// Something happened to the files.
    pub(super) fn changed(&mut self, now: Instant) {
        let began = *self.burst.get_or_insert(now);
        self.next = (now + SETTLE).min(began + LONGEST_BURST);
    }

    /// Something may have happened to the files without a word.
    pub(super) fn hurry(&mut self, now: Instant) {
        self.next = self.next.min(now);
    }

    /// The files have been looked at.
    pub(super) fn looked(&mut self, now: Instant) {
        self.burst = None;
        self.next = now + LOOK_EVERY;
    }

    /// When to look.
    pub(super) fn due(&self) -> Instant {
        self.next.max(self.ready)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_looked_at_once_it_has_settled() {
        let (mut schedule, now) = ready();
        schedule.changed(now);
        assert_eq!(schedule.due(), now + SETTLE);
        schedule.looked(now + SETTLE);
        assert_eq!(schedule.due(), now + SETTLE + LOOK_EVERY);
    }

    #[test]
    fn a_burst_puts_a_look_off_but_not_for_ever() {
        let (mut schedule, now) = ready();
        let step = SETTLE / 2;
        for number in 0..3 {
            schedule.changed(now + step * number);
            assert_eq!(schedule.due(), now + step * number + SETTLE);
        }
        for number in 3..100 {
            schedule.changed(now + step * number);
        }
        assert_eq!(schedule.due(), now + LONGEST_BURST);
    }

    #[test]
    fn a_program_that_has_just_started_is_left_alone() {
        let now = Instant::now();
        let mut schedule = Schedule::started(now);
        schedule.changed(now);
        assert_eq!(schedule.due(), now + WARM_UP);
        schedule.looked(now + WARM_UP);
        schedule.restarted(now + LOOK_EVERY);
        schedule.changed(now + LOOK_EVERY);
        assert_eq!(schedule.due(), now + LOOK_EVERY + WARM_UP);
    }

    fn ready() -> (Schedule, Instant) {
        let now = Instant::now();
        (Schedule::started(now), now + WARM_UP)
    }
}
