//! Whether each configured issuer is healthy, as this node finds it: the one place that knows both
//! what is wrong with the objects and what the CAs said last.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use serde::{Deserialize, Serialize};

use crate::clock::{Clock, Timestamp};
use crate::issuer::{Entry, IssueErrorKind, IssuerKey, Issuers};
use crate::renew::{Outcome, Report};
use crate::spec::volume::VolumeId;
use crate::sync::lock;

/// How one issuer does on this node. Holds nothing secret.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct IssuerStatus {
    /// The API group.
    pub group: String,
    /// `Issuer` or `ClusterIssuer`.
    pub kind: String,
    /// `None` for cluster-wide issuers.
    pub namespace: Option<String>,
    /// The name that volumes use.
    pub name: String,
    /// Whether volumes can have certificates from it, as far as is known.
    pub ready: bool,
    /// A short fixed word for why it is not ready, as for failures in the metrics.
    pub reason: Option<String>,
    /// Why it is not ready, or what to do about one that is.
    pub message: Option<String>,
}

/// Where the issuers are asked for.
pub type IssuersFn = Arc<dyn Fn() -> Vec<IssuerStatus> + Send + Sync>;

/// Keeps what attempts tell of the issuers. Cheap to clone.
///
/// An issuer is ready when its object is valid, its Secrets are there and fit, its CA holds, and
/// the last that was heard of it is not a failure of its own: one that a pod's request or a policy
/// caused, or a CA that asks for patience, is none. Issuers of other API groups are not here: those
/// who serve them say how they do.
#[derive(Clone, Debug)]
pub struct IssuerHealth {
    issuers: Issuers,
    clock: Clock,
    faults: Arc<Mutex<BTreeMap<IssuerKey, Fault>>>,
}

/// The last that was heard of an issuer, where it is a failure.
#[derive(Debug)]
struct Fault {
    /// Who noticed.
    volume: VolumeId,
    kind: IssueErrorKind,
    message: String,
}

impl IssuerHealth {
    /// The health of `issuers`, of which nothing bad was heard yet.
    pub fn new(issuers: Issuers, clock: Clock) -> Self {
        Self { issuers, clock, faults: Arc::default() }
    }

    /// Notes what `report` says of its issuer.
    pub fn observe(&self, report: &Report) {
        let issuer = || IssuerKey::meant_by(&report.issuer, &report.pod.namespace);
        match &report.outcome {
            Outcome::Issued { .. } => {
                lock(&self.faults).remove(&issuer());
            }
            Outcome::Failed { kind, by_issuer: true, message, .. } => {
                let issuer = issuer();
                let mut faults = lock(&self.faults);
                if !is_fault(*kind) {
                    faults.remove(&issuer);
                } else if self.issuers.configured().issuers.contains_key(&issuer) {
                    let (volume, message) = (report.volume.clone(), message.clone());
                    faults.insert(issuer, Fault { volume, kind: *kind, message });
                }
            }
            // Nobody is left who would notice that it does better.
            Outcome::Unpublished => {
                lock(&self.faults).retain(|_, fault| fault.volume != report.volume);
            }
            Outcome::Failed { by_issuer: false, .. }
            | Outcome::Adopted
            | Outcome::NotRemoved { .. }
            | Outcome::TrustChanged
            | Outcome::TrustKept { .. }
            | Outcome::Warned { .. } => {}
        }
    }

    /// How each configured issuer does now, in order of kind, namespace and name.
    pub fn statuses(&self) -> Vec<IssuerStatus> {
        let (set, now) = (self.issuers.configured(), self.clock.now());
        let mut faults = lock(&self.faults);
        faults.retain(|issuer, _| set.issuers.contains_key(issuer));
        let status = |(key, entry)| status(key, entry, faults.get(key), now);
        set.issuers.iter().map(status).collect()
    }
}

fn status(key: &IssuerKey, entry: &Entry, fault: Option<&Fault>, now: Timestamp) -> IssuerStatus {
    let config = |message| (IssueErrorKind::Config, message);
    let wrong = match &entry.issuer {
        Err(reason) => Some(config(reason.clone())),
        Ok(issuer) => issuer
            .fault(now)
            .map(config)
            .or_else(|| fault.map(|fault| (fault.kind, fault.message.clone()))),
    };
    let warning = || entry.issuer.as_ref().ok().and_then(|issuer| issuer.warning(now));
    let IssuerKey { group, kind, namespace, name } = key.clone();
    let (ready, reason, message) = match wrong {
        Some((kind, message)) => (false, Some(kind.reason().to_owned()), Some(message)),
        None => (true, None, warning()),
    };
    IssuerStatus { group, kind, namespace, name, ready, reason, message }
}

/// Whether a failure of this kind is the issuer's own, or its operator's.
fn is_fault(kind: IssueErrorKind) -> bool {
    match kind {
        IssueErrorKind::BadResponse | IssueErrorKind::Config | IssueErrorKind::Unavailable => true,
        IssueErrorKind::Denied
        | IssueErrorKind::Node
        | IssueErrorKind::Pending
        | IssueErrorKind::RateLimited
        | IssueErrorKind::Request => false,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::issuer::{IssuerSet, SelfSigned};
    use crate::spec::fixture;
    use crate::x509::AuthorityInformation;

    fn now() -> Timestamp {
        Timestamp::from_second(1_700_000_000).unwrap()
    }

    /// The issuers `good` and `broken`.
    fn health() -> IssuerHealth {
        let clock = Clock::from_fn(now);
        let key = |name: &str| IssuerKey::meant_by(&fixture::cluster_issuer(name), "");
        let good = SelfSigned::new(AuthorityInformation::default(), clock.clone());
        let missing = Err("there is no Secret root: add it".to_owned());
        let set = [
            (key("good"), Entry { policy: None, issuer: Ok(Arc::new(good)) }),
            (key("broken"), Entry { policy: None, issuer: missing }),
        ];
        IssuerHealth::new(Issuers::channel(IssuerSet::from_iter(set)).1, clock)
    }

    fn report(pod: &str, outcome: Outcome) -> Report {
        Report {
            volume: format!("csi-{pod}").try_into().unwrap(),
            pod: fixture::pod("shop", pod, "default"),
            issuer: fixture::cluster_issuer("good"),
            outcome,
        }
    }

    fn failed(kind: IssueErrorKind, by_issuer: bool) -> Outcome {
        let message = "the CA does not answer".to_owned();
        Outcome::Failed {
            renewal: true,
            kind,
            by_issuer,
            message,
            retry_at: now(),
            not_after: None,
        }
    }

    fn issued() -> Outcome {
        Outcome::Issued {
            renewal: true,
            took: Duration::from_millis(3),
            serial: "4f2a".to_owned(),
            not_after: now(),
            renew_at: now(),
        }
    }

    /// What is said of the issuer `good`; `None` while it is ready.
    fn reason(health: &IssuerHealth) -> Option<String> {
        let statuses = health.statuses();
        let status = statuses.iter().find(|status| status.name == "good").unwrap();
        assert_eq!(status.ready, status.reason.is_none());
        status.reason.clone()
    }

    #[test]
    fn an_issuer_that_cannot_be_made_is_not_ready() {
        let statuses = health().statuses();
        let states: Vec<_> = statuses.iter().map(|it| (it.name.as_str(), it.ready)).collect();
        assert_eq!(states, [("broken", false), ("good", true)]);
        assert_eq!(statuses[0].reason.as_deref(), Some("Config"));
        assert_eq!(statuses[0].message.as_deref(), Some("there is no Secret root: add it"));
    }

    #[test]
    fn the_last_that_was_heard_counts() {
        let health = health();
        health.observe(&report("web-0", failed(IssueErrorKind::Unavailable, true)));
        assert_eq!(reason(&health).as_deref(), Some("Unavailable"));
        health.observe(&report("web-1", failed(IssueErrorKind::BadResponse, true)));
        assert_eq!(reason(&health).as_deref(), Some("BadResponse"));
        health.observe(&report("web-2", issued()));
        assert_eq!(reason(&health), None);
    }

    #[test]
    fn what_pods_do_wrong_says_nothing_of_their_issuer() {
        let health = health();
        health.observe(&report("web-0", failed(IssueErrorKind::Config, false)));
        health.observe(&report("web-0", failed(IssueErrorKind::Denied, true)));
        assert_eq!(reason(&health), None);
        // Known without the CA, it does not mean that one is back either.
        health.observe(&report("web-1", failed(IssueErrorKind::Unavailable, true)));
        health.observe(&report("web-0", failed(IssueErrorKind::Request, false)));
        assert_eq!(reason(&health).as_deref(), Some("Unavailable"));
        health.observe(&report("web-1", Outcome::Unpublished));
        // A CA that refuses, or asks to wait, is there.
        health.observe(&report("web-0", failed(IssueErrorKind::Unavailable, true)));
        health.observe(&report("web-1", failed(IssueErrorKind::RateLimited, true)));
        assert_eq!(reason(&health), None);
    }

    #[test]
    fn a_failure_goes_with_the_volume_that_met_it() {
        let health = health();
        health.observe(&report("web-0", failed(IssueErrorKind::Unavailable, true)));
        health.observe(&report("web-1", Outcome::Unpublished));
        assert!(reason(&health).is_some());
        health.observe(&report("web-0", Outcome::Unpublished));
        assert_eq!(reason(&health), None);
    }

    #[test]
    fn made_up_issuers_are_not_noted() {
        let health = health();
        for name in ["gone", "made-up"] {
            let mut report = report("web-0", failed(IssueErrorKind::Config, true));
            report.issuer.name = name.to_owned();
            health.observe(&report);
        }
        assert!(lock(&health.faults).is_empty());
    }
}
