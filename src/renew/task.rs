//! The life of one volume: issue, write, sleep until the renewal, and again.
//!
//! Guarantees: files that a pod sees are replaced only by a checked bundle; a failed renewal keeps
//! them; an attempt that is cut off, by a cancellation or a kill, goes on with its key. The task
//! owns what is in the volume; putting the volume on its target path is for [`Target::mount`],
//! which a publish calls once there is a certificate.

mod advice;
mod anchors;
mod attempt;
mod life;
mod sharing;
mod slow_keys;

use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::task_tracker::TaskTrackerToken;
use tracing::Span;

use self::life::{Home, Life, Plan};
pub(super) use self::sharing::{Offer, Sharing};
pub(super) use self::slow_keys::SlowKeys;
use super::schedule::{self, Seed};
use super::{NotReady, Phase, PublishError, Shared, Subject, VolumeStatus};
use crate::clock::Timestamp;
use crate::error::with_causes;
use crate::issuer::IssueErrorKind;
use crate::spec::request::PublishRequest;
use crate::spec::volume::TargetPath;
use crate::sync::lock;
use crate::volume::{Fingerprint, Record, Volume};
use crate::x509::{Bundle, Certificate};

/// A volume that kubelet has not asked for in this time, and that is not mounted, is removed:
/// after a final error kubelet forgets a volume without unpublishing it.
const ABANDONED_AFTER: Duration = Duration::from_secs(600);

/// Where a task starts.
#[derive(Debug)]
pub(super) enum Origin {
    /// Nothing is there yet.
    New,
    /// An earlier process left the volume.
    Adopted {
        volume: Volume,
        /// Whether it is on its target path.
        mounted: bool,
        /// Dropped when it is taken over.
        adoption: TaskTrackerToken,
    },
}

/// The handle on a volume's task.
#[derive(Debug)]
pub(super) struct VolumeTask {
    request: SharedRequest,
    record: Fingerprint,
    target: SharedTarget,
    progress: watch::Receiver<Progress>,
    cancel: CancellationToken,
    join: JoinHandle<()>,
}

/// The request as kubelet last sent it: passwords may change, the rest does not.
type SharedRequest = Arc<Mutex<Arc<PublishRequest>>>;

/// The target path, shared between the task and the publishes that wait for it.
pub(super) type SharedTarget = Arc<Mutex<Target>>;

/// Where the volume is to be seen.
#[derive(Debug)]
pub(super) struct Target {
    path: TargetPath,
    /// The volume while it may be mounted: not before it is made, nor once it is being removed.
    volume: Option<Volume>,
    mounted: bool,
    /// When kubelet last asked for the volume.
    asked: Instant,
}

/// How far a volume has come.
#[derive(Clone, Debug, Default)]
pub(super) struct Progress {
    installed: Option<Installed>,
    failure: Option<NotReady>,
    renewals: u64,
}

/// The certificate in the volume. Its key stays in the tmpfs.
#[derive(Clone, Debug)]
struct Installed {
    leaf: Certificate,
    /// The anchors that the leaf chains to.
    own_anchors: Vec<Certificate>,
    /// All anchors in the volume: beside its own, those that a changing CA needs.
    anchors: Vec<Certificate>,
    renew_at: Timestamp,
}

impl VolumeTask {
    pub(super) fn spawn(
        shared: &Arc<Shared>,
        request: PublishRequest,
        record: Record,
        origin: Origin,
    ) -> Self {
        let target = Target {
            path: request.target.clone(),
            volume: None,
            mounted: matches!(origin, Origin::Adopted { mounted: true, .. }),
            asked: Instant::now(),
        };
        let seed = Seed::of(&request.volume);
        let elsewhere = shared.settings.anchors.follow(&request.pod.namespace, &request.trust);
        let request = Arc::new(Mutex::new(Arc::new(request)));
        let target = Arc::new(Mutex::new(target));
        let fingerprint = record.fingerprint();
        let cancel = CancellationToken::new();
        let (sender, progress) = watch::channel(Progress::default());
        let life = Life {
            shared: Arc::clone(shared),
            request: Arc::clone(&request),
            home: Home::Planned(Arc::new(record)),
            target: Arc::clone(&target),
            progress: sender,
            cancel: cancel.clone(),
            seed,
            failures: 0,
            plan: Plan::at_once(shared.settings.clock.now()),
            trust_check_at: None,
            trust_failed: false,
            elsewhere,
            awaits_trust: false,
            trust_told: None,
            told: Vec::new(),
            advice_due: None,
            hurries: 0,
            publish: Span::current(),
            seen: None,
        };
        let join = tokio::spawn(life.run(origin));
        Self { request, record: fingerprint, target, progress, cancel, join }
    }

    /// Takes a publish of a volume that is there: the same again is fine and may bring new
    /// passwords, anything else is refused.
    pub(super) fn attach(
        &mut self,
        request: PublishRequest,
        record: Record,
    ) -> Result<(), PublishError> {
        let mut target = lock(&self.target);
        if target.path != request.target {
            let published = target.path.clone();
            return Err(PublishError::OtherTarget { volume: request.volume, published });
        }
        let asked = record.fingerprint();
        if !self.record.same_request(&asked) {
            return Err(PublishError::Incompatible(request.volume));
        }
        target.asked = Instant::now();
        if !self.record.same_secrets(&asked) {
            // A volume that is not made yet is made with the passwords it was first asked with;
            // the renewals after that use the new ones, and the next publish keeps them.
            if let Some(volume) = &target.volume {
                volume.set_record(&record).map_err(PublishError::Volume)?;
                self.record = asked;
            }
        }
        *lock(&self.request) = Arc::new(request);
        Ok(())
    }

    pub(super) fn progress(&self) -> watch::Receiver<Progress> {
        self.progress.clone()
    }

    pub(super) fn pod_ip(&self) -> Option<IpAddr> {
        lock(&self.request).pod_ip
    }

    pub(super) fn target(&self) -> SharedTarget {
        Arc::clone(&self.target)
    }

    pub(super) fn target_path(&self) -> TargetPath {
        lock(&self.target).path.clone()
    }

    pub(super) fn subject(&self) -> Subject {
        Subject::of(&lock(&self.request))
    }

    pub(super) fn request(&self) -> Arc<PublishRequest> {
        Arc::clone(&lock(&self.request))
    }

    /// What is in the volume, if a volume with `request` may have the same.
    pub(super) fn offer(&self, request: &PublishRequest) -> Option<Offer> {
        if !sharing::is_same(&lock(&self.request), request) {
            return None;
        }
        let Installed { leaf, own_anchors, .. } = self.progress.borrow().installed.clone()?;
        let volume = lock(&self.target).volume.clone()?;
        Some(Offer { volume, leaf, anchors: own_anchors })
    }

    pub(super) fn status(&self, now: Timestamp) -> VolumeStatus {
        let request = Arc::clone(&lock(&self.request));
        let progress = self.progress.borrow();
        let validity = progress.installed.as_ref().map(|installed| installed.leaf.validity());
        VolumeStatus {
            volume_id: request.volume.clone(),
            target_path: request.target.clone(),
            pod: request.pod.clone(),
            issuer: request.certificate.issuer.clone(),
            phase: progress.phase(now),
            names: progress.installed.as_ref().map_or_else(Vec::new, |it| it.leaf.names()),
            serial_number: progress.installed.as_ref().map(|it| it.leaf.serial_number()),
            not_before: validity.map(|validity| validity.not_before),
            not_after: validity.map(|validity| validity.not_after),
            renew_at: progress.installed.as_ref().map(|installed| installed.renew_at),
            renewals: progress.renewals,
            last_error: progress.failure.as_ref().map(|failure| failure.message.clone()),
        }
    }

    /// Asks the task to end: a write under way is finished, an order under way is kept for later.
    pub(super) fn cancel(&self) {
        self.cancel.cancel();
    }

    /// Returns when the task has ended.
    pub(super) fn ended(&self) -> impl Future<Output = ()> + use<> {
        let mut progress = self.progress();
        async move { while progress.changed().await.is_ok() {} }
    }

    /// Returns when the task has ended, after which nothing mounts the volume any more; with the
    /// volume, if it was made.
    pub(super) async fn join(self) -> Option<Volume> {
        // A panic of the task was reported when it happened.
        let _ = self.join.await;
        lock(&self.target).volume.take()
    }
}

impl Target {
    /// Puts the volume on its target path, where it may be already.
    pub(super) fn mount(&mut self) -> Result<(), NotReady> {
        let Some(volume) = &self.volume else {
            return Err(ended());
        };
        volume.mount_on(&self.path).map_err(|error| {
            let message = with_causes(&error);
            NotReady { kind: IssueErrorKind::Node, message, retry_at: None }
        })?;
        self.mounted = true;
        Ok(())
    }
}

/// The volume's task is at its end, and with it the publishes that wait.
pub(super) fn ended() -> NotReady {
    let message = "the volume was unpublished, or the driver restarts; ask again".to_owned();
    NotReady { kind: IssueErrorKind::Node, message, retry_at: None }
}

impl Progress {
    /// Whether there is an answer for a publish that waits.
    pub(super) fn is_settled(&self) -> bool {
        self.installed.is_some() || self.failure.is_some()
    }

    /// Whether the volume may be shown to its pod; a failing renewal does not matter for that.
    pub(super) fn publishable(&self) -> Result<(), NotReady> {
        match (&self.installed, &self.failure) {
            (None, Some(failure)) => Err(failure.clone()),
            _ => Ok(()),
        }
    }

    fn phase(&self, now: Timestamp) -> Phase {
        match (&self.installed, &self.failure) {
            (None, None) => Phase::Issuing,
            (None, Some(_)) => Phase::Waiting,
            (Some(installed), _) if installed.leaf.validity().not_after < now => Phase::Expired,
            (Some(_), None) => Phase::Ready,
            (Some(_), Some(_)) => Phase::RenewalFailing,
        }
    }
}

impl Installed {
    /// The certificate that an earlier process installed.
    fn adopted(bundle: &Bundle, request: &PublishRequest, seed: Seed) -> Self {
        let leaf = bundle.leaf().clone();
        let anchors = bundle.trust_anchors();
        let chain = || std::iter::once(bundle.leaf()).chain(bundle.intermediates());
        let own_anchors = match anchors {
            // Unless it may be from elsewhere.
            [only] if request.trust.is_empty() => vec![only.clone()],
            several => several
                .iter()
                .filter(|anchor| {
                    chain().any(|link| link.der() == anchor.der() || link.is_signed_by(anchor))
                })
                .cloned()
                .collect(),
        };
        Self {
            renew_at: schedule::renew_at(leaf.validity(), &request.certificate, seed),
            leaf,
            own_anchors,
            anchors: anchors.to_vec(),
        }
    }
}

/// Returns when kubelet seems to have forgotten the volume.
async fn abandoned(target: &SharedTarget) {
    loop {
        let deadline = {
            let target = lock(target);
            target.asked + ABANDONED_AFTER
        };
        if Instant::now() >= deadline && !lock(target).mounted {
            return;
        }
        tokio::time::sleep_until(deadline.max(Instant::now() + ABANDONED_AFTER / 10)).await;
    }
}
