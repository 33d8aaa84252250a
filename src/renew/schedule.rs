//! When to renew: pure functions of a certificate's validity and the volume's seed.
//!
//! Nothing here is random: a restart computes the same instants again, and volumes that were made
//! together part from each other because their seeds differ.

use std::time::Duration;

use aws_lc_rs::digest;

use crate::clock::{Timestamp, between};
use crate::spec::request::{CertificateSpec, RenewBefore};
use crate::spec::volume::VolumeId;
use crate::x509::Validity;

/// The largest part of a lifetime, as a divisor, and the longest time by which a renewal is early.
const JITTER_DIVISOR: u32 = 20;
const JITTER_CAP: Duration = Duration::from_secs(3600);

/// Within which part of the lifetime, and at most how long, all volumes follow a changed CA.
const SPREAD_DIVISOR: u32 = 10;
const SPREAD_CAP: Duration = Duration::from_secs(600);

/// The shortest time between two successful issuances, so that no answer of a CA makes a hot loop.
const SHORTEST_PAUSE: Duration = Duration::from_secs(1);

/// A volume's own place in every spread: derived from its id, so that it outlives restarts.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Seed(u64);

impl Seed {
    /// The seed of a volume.
    pub(super) fn of(volume: &VolumeId) -> Self {
        let hash = digest::digest(&digest::SHA256, volume.as_str().as_bytes());
        let head = hash.as_ref().first_chunk().expect("SHA-256 has 32 bytes");
        Self(u64::from_be_bytes(*head))
    }

    /// A part of `span`, from nothing up to but without the whole, fixed for this seed and `turn`.
    pub(super) fn part_of(self, span: Duration, turn: u32) -> Duration {
        // SplitMix64: neighbouring turns must not give neighbouring parts.
        let mut mixed = self
            .0
            .wrapping_add(u64::from(turn).wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        let nanos = (span.as_nanos().saturating_mul(u128::from(mixed))) >> 64;
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

/// How long the certificate serves: from when it could first be used until its end.
///
/// CAs backdate `notBefore` (ours by five minutes, others by an hour), which would put the renewal
/// of a short certificate into the past. What was asked for tells where the backdating ends.
pub(super) fn lifetime(validity: Validity, asked: Duration) -> Duration {
    between(validity.not_before, validity.not_after).min(asked)
}

/// When to renew a certificate: `renew_before` its end, or when a third of its lifetime is left,
/// less a jitter.
pub(super) fn renew_at(validity: Validity, spec: &CertificateSpec, seed: Seed) -> Timestamp {
    let life = lifetime(validity, spec.duration);
    let left = match spec.renew_before {
        Some(RenewBefore::Duration(left)) if left < life => left,
        Some(RenewBefore::Percent(percent)) => life * u32::from(percent) / 100,
        _ => life / 3,
    };
    let jitter = seed.part_of((life / JITTER_DIVISOR).min(JITTER_CAP), 0);
    validity.not_after - (left + jitter).min(life)
}

/// [`renew_at`] for a certificate that has just come: never so soon that renewing turns into a loop.
pub(super) fn renew_at_after_issue(
    validity: Validity,
    spec: &CertificateSpec,
    seed: Seed,
    now: Timestamp,
) -> Timestamp {
    let pause = (between(now, validity.not_after) / 3).max(SHORTEST_PAUSE);
    renew_at(validity, spec, seed).max(now + pause)
}

/// When to renew a certificate that the CA wants renewed within `window`: at the volume's own place
/// in it, but not later than the pod wishes, and not when nearly nothing is left of its life.
pub(super) fn advised(
    (start, end): (Timestamp, Timestamp),
    validity: Validity,
    spec: &CertificateSpec,
    seed: Seed,
) -> Timestamp {
    let place = start + seed.part_of(between(start, end), 2);
    let latest = validity.not_after - lifetime(validity, spec.duration) / 10;
    let advised = place.min(latest);
    match spec.renew_before {
        Some(_) => advised.min(renew_at(validity, spec, seed)),
        None => advised,
    }
}

/// How long to wait before a certificate is renewed because the CA wants that at once, when it has
/// wanted that of so many before it: the first not at all, then from a minute up to six hours.
pub(super) fn pause_of_hurry(hurries: u32) -> Duration {
    const FIRST: Duration = Duration::from_secs(60);
    const LONGEST: Duration = Duration::from_secs(6 * 3600);
    match hurries {
        0 => Duration::ZERO,
        more => FIRST.saturating_mul(2u32.saturating_pow(more - 1)).min(LONGEST),
    }
}

/// The window within which volumes follow a changed CA.
pub(super) fn spread_window(validity: Validity, asked: Duration) -> Duration {
    (lifetime(validity, asked) / SPREAD_DIVISOR).min(SPREAD_CAP)
}

/// How long an anchor that no leaf of this node needs is still carried, for those of other nodes.
pub(super) fn settling(validity: Validity, asked: Duration) -> Duration {
    spread_window(validity, asked) * 2
}

/// The longest that [`settling`] takes.
pub(super) const LONGEST_SETTLING: Duration = SPREAD_CAP.saturating_mul(2);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::spec::fixture::spec;

    const NOW: i64 = 1_800_000_000;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn validity(from: i64, to: i64) -> Validity {
        Validity { not_before: at(from), not_after: at(to) }
    }

    fn seed() -> Seed {
        Seed::of(&VolumeId::of_inline_volume("uid", "tls"))
    }

    #[test]
    fn renews_when_a_third_is_left_less_a_twentieth_at_most() {
        let when = renew_at(validity(NOW, NOW + 3_000), &spec(3_000), seed());
        assert!(when <= at(NOW + 2_000), "{when}");
        assert!(when > at(NOW + 1_850), "{when}");
    }

    #[test]
    fn backdating_does_not_bring_the_renewal_forward() {
        let plain = renew_at(validity(NOW, NOW + 10), &spec(10), seed());
        let backdated = renew_at(validity(NOW - 300, NOW + 10), &spec(10), seed());
        assert_eq!(plain, backdated);
    }

    #[test]
    fn a_lifetime_cut_by_the_ca_counts_and_not_the_one_asked_for() {
        let when = renew_at(validity(NOW, NOW + 300), &spec(90_000), seed());
        assert!(when > at(NOW + 180) && when <= at(NOW + 200), "{when}");
    }

    #[test]
    fn renew_before_is_taken_as_time_or_percentage() {
        let mut spec = spec(1_000);
        spec.renew_before = Some(RenewBefore::Duration(Duration::from_secs(100)));
        let when = renew_at(validity(NOW, NOW + 1_000), &spec, seed());
        assert!(when <= at(NOW + 900) && when > at(NOW + 849), "{when}");
        spec.renew_before = Some(RenewBefore::Percent(80));
        let when = renew_at(validity(NOW, NOW + 1_000), &spec, seed());
        assert!(when <= at(NOW + 200) && when > at(NOW + 149), "{when}");
    }

    #[test]
    fn a_renew_before_longer_than_the_life_falls_back_to_a_third() {
        let mut spec = spec(1_000);
        spec.renew_before = Some(RenewBefore::Duration(Duration::from_secs(900)));
        let when = renew_at(validity(NOW, NOW + 300), &spec, seed());
        assert!(when > at(NOW + 180) && when <= at(NOW + 200), "{when}");
    }

    #[test]
    fn the_ca_s_advice_moves_the_renewal_into_its_window() {
        let certificate = validity(NOW, NOW + 9_000);
        let window = (at(NOW + 1_000), at(NOW + 2_000));
        let when = advised(window, certificate, &spec(9_000), seed());
        assert!(when >= window.0 && when < window.1, "{when}");
        assert_eq!(when, advised(window, certificate, &spec(9_000), seed()), "drawn once");
        let too_late = (at(NOW + 8_999), at(NOW + 20_000));
        assert_eq!(advised(too_late, certificate, &spec(9_000), seed()), at(NOW + 8_100));
        let mut wish = spec(9_000);
        wish.renew_before = Some(RenewBefore::Percent(95));
        assert!(advised(window, certificate, &wish, seed()) <= at(NOW + 450));
    }

    #[test]
    fn a_ca_in_a_hurry_is_followed_once_and_then_ever_more_slowly() {
        let pauses: Vec<_> = (0..4).map(|n| pause_of_hurry(n).as_secs()).collect();
        assert_eq!(pauses, [0, 60, 120, 240]);
        assert_eq!(pause_of_hurry(u32::MAX), Duration::from_secs(6 * 3600));
    }

    proptest! {
        #[test]
        fn a_fresh_certificate_is_never_renewed_at_once(
            not_before in -100_000i64..100_000, not_after in -100_000i64..100_000, asked in 1u64..200_000,
            percent in 1u8..=99,
        ) {
            let mut spec = spec(asked);
            spec.renew_before = Some(RenewBefore::Percent(percent));
            let when = renew_at_after_issue(
                validity(NOW + not_before, NOW + not_after), &spec, seed(), at(NOW));
            prop_assert!(when >= at(NOW) + SHORTEST_PAUSE);
        }

        #[test]
        fn parts_stay_inside_their_span(id in "[a-z]{1,20}", nanos: u64, turn: u32) {
            let span = Duration::from_nanos(nanos);
            let part = Seed::of(&VolumeId::of_inline_volume(&id, "v")).part_of(span, turn);
            prop_assert!(part < span || span.is_zero());
        }
    }

    #[test]
    fn volumes_spread_over_the_whole_span() {
        let span = Duration::from_secs(1_000);
        let parts: Vec<_> = (0..1_000)
            .map(|n| Seed::of(&VolumeId::of_inline_volume(&n.to_string(), "tls")).part_of(span, 0))
            .collect();
        for tenth in 0..10 {
            let (from, to) = (span * tenth / 10, span * (tenth + 1) / 10);
            let count = parts.iter().filter(|part| (from..to).contains(*part)).count();
            assert!((50..200).contains(&count), "{count} volumes in tenth {tenth}");
        }
    }
}
