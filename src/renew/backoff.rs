//! How long to wait after a failure: pure functions of what failed, how often, and what is at stake.

use std::time::Duration;

use super::schedule::Seed;
use crate::issuer::{IssueError, IssueErrorKind};

/// The longest that any answer of a CA keeps us away.
const RETRY_AFTER_CAP: Duration = Duration::from_secs(24 * 3600);

/// The shortest wait, whatever the life that remains.
const SHORTEST: Duration = Duration::from_secs(1);

/// Where the volume stands when an attempt fails.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Stake {
    /// A pod waits for its first certificate.
    First,
    /// A certificate holds for this long yet; nothing is left of it when it is zero.
    Renewal(Duration),
}

/// The wait before attempt number `failures` + 1, where `failures` of the same kind came before.
///
/// Doubles from a first wait up to a cap, both by kind, each cut by up to half at random for the
/// seed. A renewal tries at least eight times in the life that remains. What the CA asked for with
/// `Retry-After` is a floor under all of that.
pub(super) fn wait(error: &IssueError, failures: u32, stake: Stake, seed: Seed) -> Duration {
    let (first, cap) = bounds(error.kind, stake);
    let full = first.saturating_mul(2u32.saturating_pow(failures.min(20))).min(cap);
    let wait = full - seed.part_of(full / 2, failures);
    let floor = error.retry_after.unwrap_or_default().min(RETRY_AFTER_CAP);
    wait.max(floor).max(SHORTEST)
}

fn bounds(kind: IssueErrorKind, stake: Stake) -> (Duration, Duration) {
    let seconds = Duration::from_secs;
    let (first, cap) = match (kind, stake) {
        (IssueErrorKind::Pending, _) => (seconds(2), seconds(30)),
        (IssueErrorKind::Denied, _) => (seconds(60), seconds(3600)),
        // It may sign at each attempt.
        (IssueErrorKind::BadResponse, Stake::First) => (seconds(1), seconds(900)),
        (_, Stake::First) => (seconds(1), seconds(60)),
        (_, Stake::Renewal(_)) => (seconds(30), seconds(6 * 3600)),
    };
    match stake {
        Stake::Renewal(left) if !left.is_zero() => (first.min(left / 8), cap.min(left / 8)),
        // Nothing is left to lose and a working service to win back.
        Stake::Renewal(_) => (first, cap.min(seconds(60))),
        Stake::First => (first, cap),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::volume::VolumeId;

    fn seed() -> Seed {
        Seed::of(&VolumeId::of_inline_volume("uid", "tls"))
    }

    fn error(kind: IssueErrorKind) -> IssueError {
        IssueError::new(kind, "no")
    }

    #[test]
    fn a_waiting_pod_is_served_within_seconds_and_never_waits_over_a_minute() {
        let unavailable = error(IssueErrorKind::Unavailable);
        assert!(wait(&unavailable, 0, Stake::First, seed()) <= Duration::from_secs(1));
        for failures in 0..200 {
            assert!(wait(&unavailable, failures, Stake::First, seed()) <= Duration::from_secs(60));
        }
    }

    #[test]
    fn grows_while_it_fails() {
        let unavailable = error(IssueErrorKind::Unavailable);
        let left = Stake::Renewal(Duration::from_secs(30 * 24 * 3600));
        let early = wait(&unavailable, 0, left, seed());
        let late = wait(&unavailable, 9, left, seed());
        assert!(early >= Duration::from_secs(15) && early <= Duration::from_secs(30), "{early:?}");
        assert!(late >= Duration::from_secs(3 * 3600), "{late:?}");
    }

    #[test]
    fn a_renewal_tries_several_times_in_the_life_that_remains() {
        let left = Duration::from_secs(60);
        for failures in 0..20 {
            let wait =
                wait(&error(IssueErrorKind::Unavailable), failures, Stake::Renewal(left), seed());
            assert!(wait <= left / 8, "{wait:?}");
        }
    }

    #[test]
    fn retry_after_is_honoured_but_not_for_ever() {
        let mut limited = error(IssueErrorKind::RateLimited);
        limited.retry_after = Some(Duration::from_secs(7_200));
        assert_eq!(wait(&limited, 0, Stake::First, seed()), Duration::from_secs(7_200));
        limited.retry_after = Some(Duration::MAX);
        assert_eq!(wait(&limited, 0, Stake::First, seed()), RETRY_AFTER_CAP);
    }

    #[test]
    fn an_expired_certificate_is_tried_again_within_a_minute() {
        for failures in 0..40 {
            let wait = wait(
                &error(IssueErrorKind::Unavailable),
                failures,
                Stake::Renewal(Duration::ZERO),
                seed(),
            );
            assert!(wait <= Duration::from_secs(60));
        }
    }
}
