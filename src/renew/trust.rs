//! Which trust anchors a volume carries while a CA changes.
//!
//! Peers must trust a leaf before it is served and for as long as it is. So when an issuer's
//! anchors change, every volume carries the new ones beside the old at once, and an old one goes
//! when no leaf on this node chains to it any more and has not for a settling time: leaves on
//! other nodes are replaced within the same spread window.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use super::schedule::LONGEST_SETTLING;
use crate::clock::Timestamp;
use crate::sync::lock;
use crate::x509::{Certificate, MOST_TRUST_ANCHORS};

/// Which anchors the leaves of this node chain to.
#[derive(Debug, Default)]
pub(super) struct Ledger(Mutex<HashMap<Fingerprint, Need>>);

type Fingerprint = [u8; 32];

#[derive(Debug)]
enum Need {
    /// By so many volumes.
    Needed(usize),
    /// By none, since then.
    Unneeded(Timestamp),
}

impl Ledger {
    /// A leaf that chains to `anchors` is in use.
    pub(super) fn add(&self, anchors: &[Certificate]) {
        let mut needs = self.lock();
        for anchor in anchors {
            match needs.entry(anchor.fingerprint()).or_insert(Need::Needed(0)) {
                Need::Needed(count) => *count += 1,
                unneeded => *unneeded = Need::Needed(1),
            }
        }
    }

    /// `anchors` were carried by a volume of an earlier process: who needed them is not known.
    pub(super) fn remember(&self, anchors: &[Certificate], now: Timestamp) {
        let mut needs = self.lock();
        for anchor in anchors {
            needs.entry(anchor.fingerprint()).or_insert(Need::Unneeded(now));
        }
    }

    /// A leaf that chains to `anchors` is not in use any more.
    pub(super) fn remove(&self, anchors: &[Certificate], now: Timestamp) {
        let mut needs = self.lock();
        // Nobody asks again for what a removed volume alone had: each self-signed leaf is its own.
        needs.retain(|_, need| match need {
            Need::Needed(_) => true,
            Need::Unneeded(since) => now < *since + LONGEST_SETTLING,
        });
        for anchor in anchors {
            match needs.get_mut(&anchor.fingerprint()) {
                Some(Need::Needed(count)) if *count > 1 => *count -= 1,
                Some(need) => *need = Need::Unneeded(now),
                None => {}
            }
        }
    }

    /// Whether a leaf needs `anchor`, or one did until less than `settling` ago.
    fn keeps(&self, anchor: &Fingerprint, now: Timestamp, settling: Duration) -> bool {
        let mut needs = self.lock();
        match needs.get(anchor) {
            Some(Need::Needed(_)) => true,
            Some(Need::Unneeded(since)) if now < *since + settling => true,
            Some(Need::Unneeded(_)) => {
                needs.remove(anchor);
                false
            }
            None => false,
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Fingerprint, Need>> {
        lock(&self.0)
    }
}

/// The anchors that are wanted: the issuer's, then those from elsewhere. While one of both is not
/// known (`None`), none of `held` is unwanted.
pub(super) fn wanted(
    issuer: Option<&[Certificate]>,
    elsewhere: Option<&[Certificate]>,
    held: &[Certificate],
) -> Vec<Certificate> {
    let known = [issuer, elsewhere].into_iter().flatten().flatten();
    let kept = held.iter().filter(|_| issuer.is_none() || elsewhere.is_none());
    let mut wanted = Vec::new();
    for anchor in known.chain(kept) {
        if !contains(&wanted, anchor) {
            wanted.push(anchor.clone());
        }
    }
    wanted
}

/// Why a volume cannot hold what its issuer and the other sources want trusted, if it cannot.
pub(super) fn too_many(issuer: &[Certificate], elsewhere: &[Certificate]) -> Option<String> {
    if issuer.len() + elsewhere.len() <= MOST_TRUST_ANCHORS {
        return None;
    }
    let count = wanted(Some(issuer), Some(elsewhere), &[]).len();
    (count > MOST_TRUST_ANCHORS).then(|| {
        format!(
            "there are {count} trust anchors, {} of the issuer and the others from \
             trust-config-maps and trust-bundles, and a volume holds {MOST_TRUST_ANCHORS} at most; \
             leave some out",
            issuer.len()
        )
    })
}

/// The anchors to carry: the `current` ones, and of those `held` the ones still needed.
pub(super) fn anchors(
    current: &[Certificate],
    held: &[&[Certificate]],
    ledger: &Ledger,
    now: Timestamp,
    settling: Duration,
) -> Vec<Certificate> {
    let mut anchors = current.to_vec();
    for anchor in held.iter().copied().flatten() {
        let fresh = !contains(&anchors, anchor) && anchor.validity().not_after > now;
        if fresh && ledger.keeps(&anchor.fingerprint(), now, settling) {
            anchors.push(anchor.clone());
        }
    }
    // The issuer's own come first, and those of old leaves last.
    anchors.truncate(MOST_TRUST_ANCHORS);
    anchors
}

/// Whether both hold the same certificates, in whatever order.
pub(super) fn same(some: &[Certificate], others: &[Certificate]) -> bool {
    some.len() == others.len() && some.iter().all(|anchor| contains(others, anchor))
}

/// Whether `anchors` holds `anchor`.
pub(super) fn contains(anchors: &[Certificate], anchor: &Certificate) -> bool {
    anchors.iter().any(|other| other.der() == anchor.der())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::fixture::spec;
    use crate::x509::{
        AuthorityInformation, GeneralName, KeyAlgorithm, PrivateKey, Validity, self_sign,
    };

    #[test]
    fn what_removed_volumes_needed_is_not_kept_for_ever() {
        let ledger = Ledger::default();
        let start = Timestamp::from_second(1_800_000_000).unwrap();
        for volume in 0..50 {
            let now = start + Duration::from_secs(60) * volume;
            let own = [self_signed(now)];
            ledger.add(&own);
            ledger.remove(&own, now);
        }
        let known = ledger.lock().len();
        assert!(known <= 21, "{known} anchors after 50 volumes, one a minute");
    }

    fn self_signed(now: Timestamp) -> Certificate {
        let mut template = spec(60).template;
        template.subject_alt_names.push(GeneralName::dns("web.shop.svc").unwrap());
        let key = PrivateKey::generate(KeyAlgorithm::EcdsaP256).unwrap();
        let validity = Validity { not_before: now, not_after: now + Duration::from_secs(60) };
        self_sign(&template, &key, validity, &AuthorityInformation::default()).unwrap()
    }
}
