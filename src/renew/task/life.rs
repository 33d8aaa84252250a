//! The loop of a volume's task: from the first attempt or the adoption to the cancellation.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures_util::FutureExt as _;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::field::Empty;
use tracing::{Instrument as _, Span, trace_span};

use super::{Installed, Origin, Progress, SharedRequest, SharedTarget, abandoned};
use crate::anchors::Anchors;
use crate::clock::{Timestamp, between};
use crate::error::with_causes;
use crate::issuer::{IssueError, IssueErrorKind, Issuer};
use crate::renew::backoff::{self, Stake};
use crate::renew::schedule::Seed;
use crate::renew::{NotReady, Outcome, Shared, Subject, brief_or_blocking};
use crate::spec::request::PublishRequest;
use crate::sync::lock;
use crate::trace::TARGET;
use crate::volume::{Record, Volume, VolumeIoError, Volumes};
use crate::x509::Bundle;

/// What the task works on.
pub(super) struct Life {
    pub(super) shared: Arc<Shared>,
    pub(super) request: SharedRequest,
    pub(super) home: Home,
    pub(super) target: SharedTarget,
    pub(super) progress: watch::Sender<Progress>,
    pub(super) cancel: CancellationToken,
    pub(super) seed: Seed,
    pub(super) failures: u32,
    pub(super) plan: Plan,
    /// When to look whether an old trust anchor may go; `None` while there is none.
    pub(super) trust_check_at: Option<Timestamp>,
    /// Whether the last failure was one of replacing the trust anchors.
    pub(super) trust_failed: bool,
    /// The trust anchors from elsewhere than the issuer.
    pub(super) elsewhere: Anchors,
    /// Whether the last attempt failed for want of these.
    pub(super) awaits_trust: bool,
    /// What was last told to be wrong with these.
    pub(super) trust_told: Option<String>,
    /// What the CA last had to say beside a certificate.
    pub(super) told: Vec<String>,
    /// When to ask the CA about the renewal of the certificate.
    pub(super) advice_due: Option<Timestamp>,
    /// How often in a row the CA has wanted a certificate renewed at once.
    pub(super) hurries: u32,
    /// The publish that the first attempt is for.
    pub(super) publish: Span,
    /// The issuer, or why there is none, as this volume last saw it.
    pub(super) seen: Option<Result<Arc<dyn Issuer>, String>>,
}

/// The volume, or what it is to be made of.
#[derive(Clone)]
pub(super) enum Home {
    Planned(Arc<Record>),
    Made(Volume),
}

impl Home {
    /// The volume, made if need be.
    pub(super) fn made(self, volumes: &Volumes) -> Result<Volume, VolumeIoError> {
        match self {
            Self::Planned(record) => volumes.create(&record),
            Self::Made(volume) => Ok(volume),
        }
    }
}

/// When the next attempt is due.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    /// A clock that is set back before this makes the plan void: it came of a time that never was.
    pub(super) made_at: Timestamp,
    pub(super) due: Timestamp,
}

impl Plan {
    pub(super) fn at_once(now: Timestamp) -> Self {
        Self { made_at: now, due: now }
    }
}

/// Why an attempt ended without a certificate.
pub(super) enum Stopped {
    Cancelled,
    Failed {
        error: IssueError,
        /// Whether it is what the issuer answered, or that it did not.
        by_issuer: bool,
    },
}

impl Life {
    pub(super) async fn run(mut self, origin: Origin) {
        let mut origin = Some(origin);
        // A bug, here or below, must not leave a volume that nobody renews any more.
        while AssertUnwindSafe(self.live(&mut origin)).catch_unwind().await.is_err() {
            let message = "certmount itself broke down over this; its log says where: report it";
            self.retry_after(&IssueError::new(IssueErrorKind::Node, message), false);
        }
        self.forget_needs();
    }

    async fn live(&mut self, origin: &mut Option<Origin>) {
        let clock = self.shared.settings.clock.clone();
        let cancel = self.cancel.clone();
        let mut issuers = self.shared.settings.issuers.clone();
        let mut elsewhere = self.elsewhere.clone();
        // What is at work only now and then has a place of its own only then: a node has hundreds of
        // volumes that just wait.
        if let Some(Origin::Adopted { volume, adoption, .. }) = origin.take() {
            let turn = Box::pin(Arc::clone(&self.shared.adopting).acquire_owned()).await;
            Box::pin(self.take_over(volume)).await;
            drop(turn);
            // What changed meanwhile may have files written, which takes long for some.
            Box::pin(self.follow_issuer()).await;
            drop(adoption);
        }
        loop {
            let Plan { made_at, due } = self.plan;
            let (trust_check_at, advice_due) = (self.trust_check_at, self.advice_due);
            tokio::select! {
                biased;
                () = cancel.cancelled() => return,
                () = issuers.changed() => {
                    Box::pin(self.follow_issuer()).await;
                    continue;
                }
                () = elsewhere.changed() => {
                    Box::pin(self.follow_elsewhere()).await;
                    continue;
                }
                () = clock.sleep_between(made_at, due) => {}
                () = clock.sleep_until(trust_check_at.unwrap_or_default()),
                    if trust_check_at.is_some() =>
                {
                    self.trust_check_at = None;
                    Box::pin(self.update_trust()).await;
                    continue;
                }
                () = clock.sleep_until(advice_due.unwrap_or_default()),
                    if advice_due.is_some() =>
                {
                    Box::pin(self.follow_advice()).await;
                    continue;
                }
                () = abandoned(&self.target) => {
                    let request = self.request();
                    self.shared.abandon(&request.volume, &request.target);
                    return;
                }
            }
            let span = self.span();
            match Box::pin(self.attempt().instrument(span.clone())).await {
                Ok(()) => {}
                Err(Stopped::Cancelled) => return,
                Err(Stopped::Failed { error, by_issuer }) => {
                    span.record("error", error.message.as_str());
                    self.retry_after(&error, by_issuer);
                }
            }
        }
    }

    /// The span of an attempt: below the publish that waits for the first one, or a trace of its own.
    fn span(&mut self) -> Span {
        let publish = std::mem::replace(&mut self.publish, Span::none());
        let request = self.request();
        trace_span!(
            target: TARGET,
            parent: publish.id(),
            "issue",
            csi.volume.id = request.volume.as_str(),
            k8s.namespace.name = request.pod.namespace.as_str(),
            k8s.pod.name = request.pod.name.as_str(),
            certmount.issuer.group = request.certificate.issuer.group.as_str(),
            certmount.issuer.kind = request.certificate.issuer.kind.as_str(),
            certmount.issuer.name = request.certificate.issuer.name.as_str(),
            certmount.renewal = self.progress.borrow().installed.is_some(),
            error = Empty,
        )
    }

    /// Takes over what an earlier process left.
    async fn take_over(&mut self, volume: Volume) {
        self.set_volume(volume.clone());
        let (request, seed) = (self.request(), self.seed);
        // An RSA key is checked when it is read, which takes long.
        let brief = !request.certificate.key_algorithm.is_slow();
        let found = brief_or_blocking(brief, move || {
            let state = volume.state()?.and_then(|state| Bundle::from_state(&state).ok());
            let pending = volume.pending_key()?.is_some();
            Ok::<_, VolumeIoError>((
                state.map(|bundle| Installed::adopted(&bundle, &request, seed)),
                pending,
            ))
        })
        .await;
        self.shared.report(self.subject(), Outcome::Adopted);
        // A state that cannot be read is replaced by a new certificate, at once.
        let Ok((Some(installed), pending)) = found else {
            return;
        };
        let now = self.shared.settings.clock.now();
        // Leaves that chained to them may be in volumes that are not taken over yet, and on other
        // nodes.
        self.shared.ledger.remember(&installed.anchors, now);
        let holds = installed.leaf.validity().not_before <= now;
        self.install(installed, 0);
        if pending || !holds {
            self.plan = Plan::at_once(now);
        }
    }

    /// Makes the certificate in the volume known to everyone who waits or looks.
    pub(super) fn install(&mut self, installed: Installed, renewals: u64) {
        self.shared.ledger.add(&installed.own_anchors);
        self.forget_needs();
        self.plan_trust_check(&installed);
        // A leaf that does not hold yet, since the clock was set back, serves nobody.
        let now = self.shared.settings.clock.now();
        let made_at = installed.leaf.validity().not_before.min(now);
        self.plan = Plan { made_at, due: installed.renew_at };
        self.trust_failed = false;
        self.advice_due = Some(now);
        self.progress.send_modify(|progress| {
            progress.installed = Some(installed);
            progress.failure = None;
            progress.renewals += renewals;
        });
    }

    /// The leaf in the volume needs its anchors no longer.
    fn forget_needs(&self) {
        if let Some(installed) = &self.progress.borrow().installed {
            self.shared.ledger.remove(&installed.own_anchors, self.shared.settings.clock.now());
        }
    }

    /// Plans the next attempt after one that failed.
    fn retry_after(&mut self, error: &IssueError, by_issuer: bool) {
        let made_at = self.shared.settings.clock.now();
        self.plan = Plan { made_at, due: self.note_failure(error, by_issuer) };
        self.trust_failed = false;
    }

    /// Makes a failure known, and answers when to try again.
    pub(super) fn note_failure(&mut self, error: &IssueError, by_issuer: bool) -> Timestamp {
        let now = self.shared.settings.clock.now();
        let installed = self.progress.borrow().installed.clone();
        let not_after = installed.map(|installed| installed.leaf.validity().not_after);
        let stake = not_after.map_or(Stake::First, |end| Stake::Renewal(between(now, end)));
        let retry_at = now + backoff::wait(error, self.failures, stake, self.seed);
        self.failures = self.failures.saturating_add(1);
        let message = with_causes(error);
        let failure =
            NotReady { kind: error.kind, message: message.clone(), retry_at: Some(retry_at) };
        self.progress.send_modify(|progress| progress.failure = Some(failure));
        self.shared.report(
            self.subject(),
            Outcome::Failed {
                renewal: not_after.is_some(),
                kind: error.kind,
                by_issuer,
                message,
                retry_at,
                not_after,
            },
        );
        retry_at
    }

    /// Whether the issuer is another for this volume than when it was last looked at.
    pub(super) fn is_news(&mut self, issuer: &Result<Arc<dyn Issuer>, IssueError>) -> bool {
        let seen = match issuer {
            Ok(issuer) => Ok(Arc::clone(issuer)),
            Err(reason) => Err(with_causes(reason)),
        };
        let same = match (&self.seen, &seen) {
            (Some(Ok(before)), Ok(now)) => Arc::ptr_eq(before, now),
            (Some(Err(before)), Err(now)) => before == now,
            _ => false,
        };
        self.seen = Some(seen);
        !same
    }

    pub(super) fn set_volume(&mut self, volume: Volume) {
        lock(&self.target).volume = Some(volume.clone());
        self.home = Home::Made(volume);
    }

    pub(super) fn request(&self) -> Arc<PublishRequest> {
        Arc::clone(&lock(&self.request))
    }

    pub(super) fn subject(&self) -> Subject {
        Subject::of(&lock(&self.request))
    }
}

impl From<IssueError> for Stopped {
    fn from(error: IssueError) -> Self {
        Self::Failed { error, by_issuer: false }
    }
}
