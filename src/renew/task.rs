//! The life of one volume: issue, write, sleep until the renewal, and again.
//!
//! Guarantees: files that a pod sees are replaced only by a checked bundle; a failed renewal keeps
//! them; an attempt that is cut off, by a cancellation or a kill, goes on with its key. The task
//! owns what is in the volume; putting the volume on its target path is for [`Target::mount`],
//! which a publish calls once there is a certificate.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::backoff::{self, Stake};
use super::schedule::{self, Seed};
use super::{
    NotReady, Outcome, Phase, PublishError, Shared, Subject, VolumeStatus, blocking, trust,
};
use crate::clock::Timestamp;
use crate::error::with_causes;
use crate::issuer::{HandleStore, IssueError, IssueErrorKind, Issuer, Order};
use crate::spec::request::{CertificateSpec, PublishRequest};
use crate::spec::volume::TargetPath;
use crate::volume::{Record, Volume, VolumeIoError};
use crate::x509::{Bundle, Certificate, CertificationRequest, Issued, PrivateKey};

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
    },
}

/// The handle on a volume's task.
#[derive(Debug)]
pub(super) struct VolumeTask {
    request: SharedRequest,
    record: Arc<Record>,
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
        let request = Arc::new(Mutex::new(Arc::new(request)));
        let target = Arc::new(Mutex::new(target));
        let record = Arc::new(record);
        let cancel = CancellationToken::new();
        let (sender, progress) = watch::channel(Progress::default());
        let life = Life {
            shared: Arc::clone(shared),
            request: Arc::clone(&request),
            record: Arc::clone(&record),
            target: Arc::clone(&target),
            progress: sender,
            cancel: cancel.clone(),
            seed,
            volume: None,
            failures: 0,
            trust_check_at: None,
        };
        let join = tokio::spawn(life.run(origin));
        Self { request, record, target, progress, cancel, join }
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
        if !self.record.same_request(&record) {
            return Err(PublishError::Incompatible(request.volume));
        }
        target.asked = Instant::now();
        if !self.record.same_secrets(&record) {
            // A volume that is not made yet is made with the passwords it was first asked with;
            // the renewals after that use the new ones.
            if let Some(volume) = &target.volume {
                volume.set_record(&record).map_err(PublishError::Volume)?;
            }
            self.record = Arc::new(record);
        }
        *lock(&self.request) = Arc::new(request);
        Ok(())
    }

    pub(super) fn progress(&self) -> watch::Receiver<Progress> {
        self.progress.clone()
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

    /// Returns when the task has ended, after which nothing mounts the volume any more.
    pub(super) async fn join(self) {
        // A panic of the task was reported when it happened.
        let _ = self.join.await;
        lock(&self.target).volume = None;
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

/// What the task works on.
struct Life {
    shared: Arc<Shared>,
    request: SharedRequest,
    record: Arc<Record>,
    target: SharedTarget,
    progress: watch::Sender<Progress>,
    cancel: CancellationToken,
    seed: Seed,
    volume: Option<Volume>,
    failures: u32,
    /// When to look whether an old trust anchor may go; `None` while there is none.
    trust_check_at: Option<Timestamp>,
}

/// Why an attempt ended without a certificate.
enum Stopped {
    Cancelled,
    Failed(IssueError),
}

impl Life {
    async fn run(mut self, origin: Origin) {
        let clock = self.shared.settings.clock.clone();
        let cancel = self.cancel.clone();
        let mut issuers = self.shared.settings.issuers.clone();
        let mut next = self.begin(origin).await;
        loop {
            let trust_check_at = self.trust_check_at;
            tokio::select! {
                biased;
                () = cancel.cancelled() => break,
                () = issuers.changed() => {
                    next = self.follow_issuer(next).await;
                    continue;
                }
                () = clock.sleep_until(next) => {}
                () = clock.sleep_until(trust_check_at.unwrap_or_default()),
                    if trust_check_at.is_some() =>
                {
                    self.update_trust().await;
                    continue;
                }
                () = abandoned(&self.target) => {
                    self.shared.abandon(&self.request().volume, &self.request().target);
                    break;
                }
            }
            next = match self.attempt().await {
                Ok(renew_at) => renew_at,
                Err(Stopped::Cancelled) => break,
                Err(Stopped::Failed(error)) => self.note_failure(&error),
            };
        }
        self.forget_needs();
    }

    /// Takes over what an earlier process left; answers when the first attempt is due.
    async fn begin(&mut self, origin: Origin) -> Timestamp {
        let now = self.shared.settings.clock.now();
        let Origin::Adopted { volume, .. } = origin else {
            return now;
        };
        self.set_volume(volume.clone());
        let spec = self.request().certificate.clone();
        let seed = self.seed;
        let found = blocking(move || {
            let state = volume.state()?.and_then(|state| Bundle::from_state(&state).ok());
            let pending = volume.pending_key()?.is_some();
            Ok::<_, VolumeIoError>((
                state.map(|bundle| Installed::adopted(&bundle, &spec, seed)),
                pending,
            ))
        })
        .await;
        self.shared.report(self.subject(), Outcome::Adopted);
        // A state that cannot be read is replaced by a new certificate, at once.
        let Ok((Some(installed), pending)) = found else {
            return now;
        };
        let next = if pending { now } else { installed.renew_at };
        self.install(installed, 0);
        self.follow_issuer(next).await
    }

    /// One attempt at a certificate; answers when to renew it.
    async fn attempt(&mut self) -> Result<Timestamp, Stopped> {
        let began = Instant::now();
        let request = self.request();
        let spec = &request.certificate;
        let issuer = self.issuer(&request)?;
        let (volume, key) = self.prepare(&request).await?;
        let csr = CertificationRequest::new(&spec.template, &key).map_err(|error| {
            IssueError::new(IssueErrorKind::Config, "the certification request cannot be made")
                .caused_by(error)
        })?;
        let handle = PendingHandle(volume.clone());
        let order = Order {
            volume: &request.volume,
            pod: &request.pod,
            spec,
            request: &csr,
            key: &key,
            handle: &handle,
        };
        let issued = tokio::select! {
            biased;
            () = self.cancel.cancelled() => return Err(Stopped::Cancelled),
            issued = issuer.issue(order) => issued?,
        };
        let installed = self.write(&request, issuer.as_ref(), volume, key, issued).await?;
        let renewal = self.progress.borrow().installed.is_some();
        let (leaf, renew_at) = (installed.leaf.clone(), installed.renew_at);
        self.install(installed, u64::from(renewal));
        self.failures = 0;
        self.shared.report(
            self.subject(),
            Outcome::Issued {
                renewal,
                took: began.elapsed(),
                serial: leaf.serial_number(),
                not_after: leaf.validity().not_after,
                renew_at,
            },
        );
        Ok(renew_at)
    }

    /// The issuer that the volume names, if it is ready and allows what is asked.
    fn issuer(&self, request: &PublishRequest) -> Result<Arc<dyn Issuer>, IssueError> {
        let reference = &request.certificate.issuer;
        let config = |message| IssueError::new(IssueErrorKind::Config, message);
        let issuers = &self.shared.settings.issuers;
        let entry = issuers
            .get(reference, &request.pod.namespace)
            .ok_or_else(|| config(format!("there is no {reference}; create it, or correct issuer-name, issuer-kind and issuer-group of the volume")))?;
        entry
            .policy
            .check(&request.pod, &request.certificate)
            .map_err(|denied| IssueError::new(IssueErrorKind::Denied, denied.to_string()))?;
        entry.issuer.map_err(|reason| config(format!("{reference} is not ready: {reason}")))
    }

    /// The volume, made if need be, and the key to have signed.
    async fn prepare(
        &mut self,
        request: &Arc<PublishRequest>,
    ) -> Result<(Volume, Arc<PrivateKey>), Stopped> {
        let shared = Arc::clone(&self.shared);
        let _turn = if request.certificate.key_algorithm.is_slow() {
            tokio::select! {
                biased;
                () = self.cancel.cancelled() => return Err(Stopped::Cancelled),
                turn = shared.slow_keys.acquire() => turn.ok(),
            }
        } else {
            None
        };
        let (record, request) = (Arc::clone(&self.record), Arc::clone(request));
        let (volumes, volume) = (shared.settings.volumes.clone(), self.volume.clone());
        let made = blocking(move || {
            let volume = match volume {
                Some(volume) => volume,
                None => volumes.create(&record).map_err(node_error)?,
            };
            let key = key_to_sign(&volume, &request.certificate);
            Ok::<_, IssueError>((volume, key))
        });
        let (volume, key) = made.await?;
        self.set_volume(volume.clone());
        Ok((volume, Arc::new(key?)))
    }

    /// Checks the answer and swaps the files.
    async fn write(
        &self,
        request: &Arc<PublishRequest>,
        issuer: &dyn Issuer,
        volume: Volume,
        key: Arc<PrivateKey>,
        issued: Issued,
    ) -> Result<Installed, IssueError> {
        let current = issuer.trust_anchors().map(<[_]>::to_vec);
        let held = self.progress.borrow().installed.as_ref().map(|held| held.anchors.clone());
        let (shared, request, seed) = (Arc::clone(&self.shared), Arc::clone(request), self.seed);
        blocking(move || {
            let spec = &request.certificate;
            let now = shared.settings.clock.now();
            let bundle =
                Bundle::new(key, issued, &spec.template, spec.duration, now).map_err(|error| {
                    let message = "the issuer's answer is not what was asked for and is not used";
                    IssueError::new(IssueErrorKind::BadResponse, message).caused_by(error)
                })?;
            let own_anchors = bundle.trust_anchors().to_vec();
            let validity = bundle.leaf().validity();
            let anchors = trust::anchors(
                current.as_deref().unwrap_or(&own_anchors),
                &[&own_anchors, held.as_deref().unwrap_or_default()],
                &shared.ledger,
                now,
                settling(validity, spec),
            );
            let bundle = bundle.with_trust_anchors(anchors);
            write_files(&volume, &request, &bundle)?;
            volume.clear_pending().map_err(node_error)?;
            Ok(Installed {
                leaf: bundle.leaf().clone(),
                own_anchors,
                anchors: bundle.trust_anchors().to_vec(),
                renew_at: schedule::renew_at_after_issue(validity, spec, seed, now),
            })
        })
        .await
    }

    /// Makes the certificate in the volume known to everyone who waits or looks.
    fn install(&mut self, installed: Installed, renewals: u64) {
        self.shared.ledger.add(&installed.own_anchors);
        self.forget_needs();
        self.plan_trust_check(&installed);
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

    /// Answers when to try again.
    fn note_failure(&mut self, error: &IssueError) -> Timestamp {
        let now = self.shared.settings.clock.now();
        let installed = self.progress.borrow().installed.clone();
        let not_after = installed.map(|installed| installed.leaf.validity().not_after);
        let stake =
            not_after.map_or(Stake::First, |end| Stake::Renewal(schedule::between(now, end)));
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
                message,
                retry_at,
                not_after,
            },
        );
        retry_at
    }

    /// The issuers changed: answers when to attempt next, where `next` was the plan.
    ///
    /// A volume that waits for its issuer tries at once. One whose CA was replaced trusts the new
    /// one at once and renews at its own place within the spread window.
    async fn follow_issuer(&mut self, next: Timestamp) -> Timestamp {
        let request = self.request();
        let now = self.shared.settings.clock.now();
        let issuer = self.issuer(&request);
        let progress = self.progress.borrow().clone();
        let Some(installed) = progress.installed else {
            // Denied or not, the pod's owner shall see the answer of the issuer as it is now.
            return if progress.failure.is_some() { now } else { next };
        };
        let Ok(issuer) = issuer else {
            return next;
        };
        self.update_trust().await;
        let replaced = issuer.trust_anchors().is_some_and(|current| {
            !installed.own_anchors.iter().any(|own| trust::contains(current, own))
        });
        if !replaced {
            return if progress.failure.is_some() { now } else { next };
        }
        let window =
            schedule::spread_window(installed.leaf.validity(), request.certificate.duration);
        let renew_at = next.min(now + self.seed.part_of(window, 1));
        self.progress.send_modify(|progress| {
            if let Some(installed) = &mut progress.installed {
                installed.renew_at = renew_at;
            }
        });
        renew_at
    }

    /// Brings the anchors in the volume to what the issuer and the leaves in use need now.
    async fn update_trust(&mut self) {
        let request = self.request();
        let Some(installed) = self.progress.borrow().installed.clone() else {
            return;
        };
        let Some(volume) = self.volume.clone() else {
            return;
        };
        let now = self.shared.settings.clock.now();
        let settling = settling(installed.leaf.validity(), &request.certificate);
        let issuer = self.issuer(&request).ok();
        let current = issuer.as_ref().and_then(|issuer| issuer.trust_anchors());
        let anchors = trust::anchors(
            current.unwrap_or(&installed.own_anchors),
            &[&installed.own_anchors, &installed.anchors],
            &self.shared.ledger,
            now,
            settling,
        );
        if trust::same(&anchors, &installed.anchors) {
            self.plan_trust_check(&installed);
            return;
        }
        let written = blocking({
            let anchors = anchors.clone();
            move || {
                let state = volume.state().map_err(node_error)?.unwrap_or_default();
                let bundle = Bundle::from_state(&state).map_err(|error| {
                    IssueError::new(IssueErrorKind::Node, "the volume's state is damaged")
                        .caused_by(error)
                })?;
                write_files(&volume, &request, &bundle.with_trust_anchors(anchors))
            }
        })
        .await;
        match written {
            Ok(()) => {
                let installed = Installed { anchors, ..installed };
                self.plan_trust_check(&installed);
                self.progress.send_modify(|progress| progress.installed = Some(installed));
                self.shared.report(self.subject(), Outcome::TrustChanged);
            }
            Err(error) => {
                self.trust_check_at = Some(self.note_failure(&error));
            }
        }
    }

    /// Looks again later while the volume holds an anchor that may go one day.
    fn plan_trust_check(&mut self, installed: &Installed) {
        let request = self.request();
        let issuer = self.issuer(&request).ok();
        let current = issuer.as_ref().and_then(|issuer| issuer.trust_anchors());
        let wanted = current.unwrap_or(&installed.own_anchors);
        let surplus = installed.anchors.iter().any(|anchor| !trust::contains(wanted, anchor));
        let pause = settling(installed.leaf.validity(), &request.certificate) / 2;
        let now = self.shared.settings.clock.now();
        self.trust_check_at = surplus.then(|| now + pause.max(Duration::from_secs(1)));
    }

    fn set_volume(&mut self, volume: Volume) {
        lock(&self.target).volume = Some(volume.clone());
        self.volume = Some(volume);
    }

    fn request(&self) -> Arc<PublishRequest> {
        Arc::clone(&lock(&self.request))
    }

    fn subject(&self) -> Subject {
        Subject::of(&lock(&self.request))
    }
}

impl Installed {
    /// The certificate that an earlier process installed.
    fn adopted(bundle: &Bundle, spec: &CertificateSpec, seed: Seed) -> Self {
        let leaf = bundle.leaf().clone();
        let anchors = bundle.trust_anchors();
        let chain = || std::iter::once(bundle.leaf()).chain(bundle.intermediates());
        let own_anchors = match anchors {
            [only] => vec![only.clone()],
            several => several
                .iter()
                .filter(|anchor| {
                    chain().any(|link| link.der() == anchor.der() || link.is_signed_by(anchor))
                })
                .cloned()
                .collect(),
        };
        Self {
            renew_at: schedule::renew_at(leaf.validity(), spec, seed),
            leaf,
            own_anchors,
            anchors: anchors.to_vec(),
        }
    }
}

impl From<IssueError> for Stopped {
    fn from(error: IssueError) -> Self {
        Self::Failed(error)
    }
}

/// Where an issuer's handle on an order is kept: in the volume.
#[derive(Debug)]
struct PendingHandle(Volume);

impl HandleStore for PendingHandle {
    fn load(&self) -> Option<String> {
        self.0.pending_handle().ok().flatten()
    }

    fn save(&self, handle: &str) -> std::io::Result<()> {
        self.0.set_pending_handle(handle).map_err(|error| error.source)
    }
}

/// The key of an order under way, else the old one if it is to be kept, else a new one.
fn key_to_sign(volume: &Volume, spec: &CertificateSpec) -> Result<PrivateKey, IssueError> {
    let fits = |key: &PrivateKey| key.algorithm() == spec.key_algorithm;
    if let Some(pending) = volume.pending_key().map_err(node_error)? {
        if let Some(key) = PrivateKey::from_pkcs8_der(&pending).ok().filter(fits) {
            return Ok(key);
        }
        volume.clear_pending().map_err(node_error)?;
    }
    let key = match kept_key(volume, spec)?.filter(fits) {
        Some(key) => key,
        None => PrivateKey::generate(spec.key_algorithm).map_err(|error| {
            IssueError::new(IssueErrorKind::Node, "no private key could be made").caused_by(error)
        })?,
    };
    volume.set_pending_key(key.pkcs8_der()).map_err(node_error)?;
    Ok(key)
}

fn kept_key(volume: &Volume, spec: &CertificateSpec) -> Result<Option<PrivateKey>, IssueError> {
    if !spec.reuse_private_key {
        return Ok(None);
    }
    let state = volume.state().map_err(node_error)?;
    let bundle = state.and_then(|state| Bundle::from_state(&state).ok());
    Ok(bundle.and_then(|bundle| PrivateKey::from_pkcs8_der(bundle.key().pkcs8_der()).ok()))
}

fn write_files(
    volume: &Volume,
    request: &PublishRequest,
    bundle: &Bundle,
) -> Result<(), IssueError> {
    let payload = request.files.render(bundle).map_err(|error| {
        let message = "the certificate cannot be written in a form that the volume asks for";
        IssueError::new(IssueErrorKind::Config, message).caused_by(error)
    })?;
    volume.write(&payload, &bundle.to_state(), &request.ownership).map_err(node_error)
}

fn node_error(error: VolumeIoError) -> IssueError {
    IssueError::new(IssueErrorKind::Node, "this node cannot keep the volume").caused_by(error)
}

/// How long an anchor that no leaf of this node needs is still carried, for those of other nodes.
fn settling(validity: crate::x509::Validity, spec: &CertificateSpec) -> Duration {
    schedule::spread_window(validity, spec.duration) * 2
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

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
