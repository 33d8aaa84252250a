//! Keeping volumes alive: one task owns each volume, issues, writes, sleeps, and does it again.
//!
//! [`Renewer::publish`] starts a volume's task or finds it, and only waits for what the task
//! reports; so a publish that times out loses nothing and two at once cannot race.
//! [`Renewer::unpublish`] ends the task, waits for it, and removes the volume; it needs no issuer.
//! After a restart [`Renewer::adopt`] starts a task for each volume that an earlier process left.
//! Nothing calls upwards: results rise through [`Publication`], [`Renewer::volumes`] and
//! [`Report`]s.

mod backoff;
mod schedule;
mod status;
mod task;
mod trust;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::trace_span;

pub use status::{Phase, VolumeStatus};
use task::{Origin, Progress, SharedTarget, VolumeTask};

use crate::anchors::AnchorSources;
use crate::clock::{Clock, Timestamp};
use crate::error::with_causes;
use crate::issuer::{Entry, IssueErrorKind, Issuers};
use crate::spec::policy::PolicyDenied;
use crate::spec::request::{CertificateSpec, NodeContext, PublishRequest};
use crate::spec::volume::{IssuerRef, PodRef, TargetPath, VolumeId};
use crate::sync::{can_block_in_place, lock};
use crate::trace::TARGET;
use crate::volume::{Found, Record, VolumeIoError, Volumes};
use crate::x509::GeneralName;

/// What the renewer works with.
#[derive(Debug)]
pub struct Settings {
    /// Where the volumes are.
    pub volumes: Volumes,
    /// Who signs.
    pub issuers: Issuers,
    /// Where volumes have further trust anchors from.
    pub anchors: AnchorSources,
    /// What time it is.
    pub clock: Clock,
    /// What records are read with.
    pub node: NodeContext,
    /// Word of everything that happens to a volume, for metrics, logs and events.
    pub reports: mpsc::UnboundedSender<Report>,
}

/// Owns the task of each volume. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Renewer {
    shared: Arc<Shared>,
}

/// What the renewer and its tasks share.
#[derive(Debug)]
struct Shared {
    settings: Settings,
    slots: Mutex<Slots>,
    ledger: trust::Ledger,
    slow_keys: task::SlowKeys,
    sharing: task::Sharing,
    /// Volumes of an earlier process that are not taken over yet.
    adoptions: TaskTracker,
    /// Has one of them read at a time: kubelet, who waits for the socket, is to find a core free.
    adopting: Arc<Semaphore>,
}

#[derive(Debug, Default)]
struct Slots {
    volumes: HashMap<VolumeId, Slot>,
    closed: bool,
}

#[derive(Debug)]
enum Slot {
    Live(VolumeTask),
    /// The token is cancelled when the removal is over.
    Removing(CancellationToken),
}

/// Something happened to a volume.
#[derive(Clone, Debug)]
pub struct Report {
    /// The volume.
    pub volume: VolumeId,
    /// Its pod.
    pub pod: PodRef,
    /// The issuer that it names.
    pub issuer: IssuerRef,
    /// What happened.
    pub outcome: Outcome,
}

/// What happened.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// Taken over after a restart.
    Adopted,
    /// An attempt failed; another follows.
    Failed {
        /// Whether the volume has a certificate already.
        renewal: bool,
        /// Whose fault it is.
        kind: IssueErrorKind,
        /// Whether it is what the issuer answered, or that it did not.
        by_issuer: bool,
        /// What went wrong and what to do.
        message: String,
        /// When the next attempt is made.
        retry_at: Timestamp,
        /// When the certificate in the volume ends.
        not_after: Option<Timestamp>,
    },
    /// A certificate is in the volume.
    Issued {
        /// Whether it replaces another.
        renewal: bool,
        /// From the start of the attempt to the files.
        took: Duration,
        /// In hexadecimal.
        serial: String,
        /// When it ends.
        not_after: Timestamp,
        /// When it will be renewed.
        renew_at: Timestamp,
    },
    /// Kubelet forgot the volume, and what is left of it could not be removed.
    NotRemoved {
        /// Why not.
        message: String,
    },
    /// The trust anchors changed under a certificate that stays.
    TrustChanged,
    /// The trust anchors that a source says cannot be taken over; those in the volume stay.
    TrustKept {
        /// What is wrong and what to do.
        message: String,
    },
    /// The CA signed, and has something to say about it.
    Warned {
        /// In its own words.
        message: String,
    },
    /// Gone.
    Unpublished,
}

/// Why a publish is refused at once. Nothing of it is left behind.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// The volume is being unpublished at this moment.
    #[error("volume {0} is being unpublished; try again")]
    Busy(VolumeId),
    /// The issuer's policy refuses the names.
    #[error(transparent)]
    Denied(#[from] PolicyDenied),
    /// The same volume is published with other arguments.
    #[error("volume {0} is already published with other attributes; unpublish it first")]
    Incompatible(VolumeId),
    /// The same volume is published on another path.
    #[error("volume {volume} is already published on {}", published.as_path().display())]
    OtherTarget {
        /// The volume.
        volume: VolumeId,
        /// Where it is.
        published: TargetPath,
    },
    /// The node could not take note of the request.
    #[error(transparent)]
    Volume(VolumeIoError),
    /// The driver is shutting down.
    #[error("the driver is shutting down; try again")]
    ShuttingDown,
}

/// Why an accepted publish has not succeeded yet; the work goes on.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub struct NotReady {
    /// Whose fault it is.
    pub kind: IssueErrorKind,
    /// What went wrong and what to do.
    pub message: String,
    /// When the next attempt is made, if one is.
    pub retry_at: Option<Timestamp>,
}

/// An accepted publish under way. Dropping it stops nothing.
#[derive(Debug)]
pub struct Publication {
    progress: watch::Receiver<Progress>,
    target: SharedTarget,
    is_first: bool,
}

impl Renewer {
    /// A renewer with no volumes yet.
    pub fn new(settings: Settings) -> Self {
        let shared = Shared {
            settings,
            slots: Mutex::default(),
            ledger: trust::Ledger::default(),
            slow_keys: task::SlowKeys::default(),
            sharing: task::Sharing::default(),
            adoptions: TaskTracker::new(),
            adopting: Arc::new(Semaphore::new(1)),
        };
        shared.adoptions.close();
        Self { shared: Arc::new(shared) }
    }

    /// Takes over every volume below the data root. Answers how many there are, and what is wrong
    /// with those that cannot be carried on; these stay as they are until kubelet unpublishes them.
    pub async fn adopt(&self) -> Result<(usize, Vec<String>), VolumeIoError> {
        let volumes = self.shared.settings.volumes.clone();
        // Until the last one is known, no task shall think that it knows all.
        let _adopting = self.shared.adoptions.token();
        let mut problems = Vec::new();
        let mut adopted = 0;
        for found in blocking(move || volumes.find()).await? {
            let found = match found {
                Ok(found) => found,
                Err((volume, error)) => {
                    problems.push(format!("volume {volume}: {}", with_causes(&error)));
                    continue;
                }
            };
            match self.adopt_one(found) {
                Ok(()) => adopted += 1,
                Err(problem) => problems.push(problem),
            }
        }
        Ok((adopted, problems))
    }

    fn adopt_one(&self, found: Found) -> Result<(), String> {
        let request = found
            .record
            .request(&self.shared.settings.node)
            .map_err(|error| format!("volume {}: {error}", found.record.raw().volume_id))?;
        let id = request.volume.clone();
        let Found { volume, record, mounted } = found;
        let origin = Origin::Adopted { volume, mounted, adoption: self.shared.adoptions.token() };
        let task = VolumeTask::spawn(&self.shared, request, record, origin);
        self.shared.lock().volumes.insert(id, Slot::Live(task));
        Ok(())
    }

    /// Starts the volume's task, or attaches to the one at work. A volume that has its certificate
    /// needs no issuer to be published again.
    pub fn publish(
        &self,
        request: PublishRequest,
        record: Record,
    ) -> Result<Publication, PublishError> {
        let mut slots = self.shared.lock();
        if slots.closed {
            return Err(PublishError::ShuttingDown);
        }
        let id = request.volume.clone();
        match slots.volumes.get_mut(&id) {
            Some(Slot::Removing(_)) => Err(PublishError::Busy(id)),
            Some(Slot::Live(task)) => {
                task.attach(request, record)?;
                Ok(Publication::of(task, false))
            }
            None => {
                self.shared.check_policy(&request)?;
                let task = VolumeTask::spawn(&self.shared, request, record, Origin::New);
                let publication = Publication::of(&task, true);
                slots.volumes.insert(id, Slot::Live(task));
                Ok(publication)
            }
        }
    }

    /// Whether the pod's own address may decide about a publish that comes without it: the issuer's
    /// policy allows everything else, or is not known yet.
    pub fn may_need_pod_ip(&self, request: &PublishRequest) -> bool {
        let CertificateSpec { issuer, template, .. } = &request.certificate;
        match self.shared.settings.issuers.get(issuer, &request.pod.namespace) {
            Some(Entry { policy: Some(policy), .. }) => {
                policy.hangs_on_pod_ip(&request.pod, &request.certificate)
            }
            _ if issuer.group != IssuerRef::BUILT_IN_GROUP => false,
            _ => template.subject_alt_names.iter().any(|name| matches!(name, GeneralName::Ip(_))),
        }
    }

    /// Ends the volume's task and removes everything of the volume. Needs no issuer; done twice it
    /// succeeds twice, and what was never published is fine.
    pub async fn unpublish(
        &self,
        volume: &VolumeId,
        target: &TargetPath,
    ) -> Result<(), VolumeIoError> {
        let (done, task) = loop {
            let other = {
                let mut slots = self.shared.lock();
                match slots.volumes.remove(volume) {
                    Some(Slot::Removing(other)) => {
                        slots.volumes.insert(volume.clone(), Slot::Removing(other.clone()));
                        other
                    }
                    taken => {
                        let done = CancellationToken::new();
                        slots.volumes.insert(volume.clone(), Slot::Removing(done.clone()));
                        let task = taken.and_then(|slot| match slot {
                            Slot::Live(task) => Some(task),
                            Slot::Removing(_) => None,
                        });
                        break (done, task);
                    }
                }
            };
            other.cancelled().await;
        };
        let removal = self.shared.clone().remove(volume.clone(), target.clone(), task, done);
        // Detached, so that a caller who goes away does not leave a half-removed volume.
        finished(tokio::spawn(removal)).await
    }

    /// How each volume does, ordered by namespace, pod and volume id.
    pub fn volumes(&self) -> Vec<VolumeStatus> {
        let now = self.shared.settings.clock.now();
        let mut volumes: Vec<_> = self.shared.lock().live().map(|task| task.status(now)).collect();
        volumes.sort_by(|a, b| {
            (&a.pod.namespace, &a.pod.name, &a.volume_id).cmp(&(
                &b.pod.namespace,
                &b.pod.name,
                &b.volume_id,
            ))
        });
        volumes
    }

    /// How one volume does, if it is there.
    pub fn get(&self, volume: &VolumeId) -> Option<VolumeStatus> {
        match self.shared.lock().volumes.get(volume)? {
            Slot::Live(task) => Some(task.status(self.shared.settings.clock.now())),
            Slot::Removing(_) => None,
        }
    }

    /// What was known of the pod's address when the volume was published, if it is there.
    pub fn pod_ip(&self, volume: &VolumeId) -> Option<Option<IpAddr>> {
        match self.shared.lock().volumes.get(volume)? {
            Slot::Live(task) => Some(task.pod_ip()),
            Slot::Removing(_) => None,
        }
    }

    /// Ends all tasks, whose writes under way are finished first, and leaves the volumes mounted.
    /// Nothing is published after this.
    pub async fn drain(&self) {
        let (mut ending, mut removing) = (Vec::new(), Vec::new());
        {
            let mut slots = self.shared.lock();
            slots.closed = true;
            // They stay in their slots, so that an unpublish meanwhile waits for its task.
            for slot in slots.volumes.values() {
                match slot {
                    Slot::Live(task) => {
                        task.cancel();
                        ending.push(task.ended());
                    }
                    Slot::Removing(done) => removing.push(done.clone()),
                }
            }
        }
        for end in ending {
            end.await;
        }
        for done in removing {
            done.cancelled().await;
        }
    }
}

impl Publication {
    fn of(task: &VolumeTask, is_first: bool) -> Self {
        Self { progress: task.progress(), target: task.target(), is_first }
    }

    /// Whether the volume is new with this publish, and not a retry or a call for a live volume.
    pub fn is_first(&self) -> bool {
        self.is_first
    }

    /// Returns when the volume is mounted with a certificate in it, or with the reason why not yet.
    pub async fn ready(mut self) -> Result<(), NotReady> {
        match self.progress.wait_for(Progress::is_settled).await {
            Ok(progress) => progress.publishable()?,
            Err(_) => return Err(task::ended()),
        }
        trace_span!(target: TARGET, "mount").in_scope(|| lock(&self.target).mount())
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Slots> {
        lock(&self.slots)
    }

    /// The other volumes that a volume with `request` may share with, and what is in them.
    fn offers(&self, request: &PublishRequest) -> Vec<task::Offer> {
        self.lock().live().filter_map(|task| task.offer(request)).collect()
    }

    /// Refuses what the issuer's policy denies before anything is made. An issuer that is not
    /// there yet refuses nothing: the volume's task waits for it.
    fn check_policy(&self, request: &PublishRequest) -> Result<(), PolicyDenied> {
        let _policy = trace_span!(target: TARGET, "policy").entered();
        match self.settings.issuers.get(&request.certificate.issuer, &request.pod.namespace) {
            Some(Entry { policy: Some(policy), .. }) => {
                policy.check(&request.pod, request.pod_ip, &request.certificate)
            }
            _ => Ok(()),
        }
    }

    async fn remove(
        self: Arc<Self>,
        volume: VolumeId,
        target: TargetPath,
        task: Option<VolumeTask>,
        done: CancellationToken,
    ) -> Result<(), VolumeIoError> {
        let slot = Taken { shared: Arc::clone(&self), volume: volume.clone(), done };
        let mut targets = vec![target];
        let mut request = None;
        let mut held = None;
        if let Some(task) = task {
            request = Some(task.request());
            targets.push(task.target_path());
            task.cancel();
            held = task.join().await;
        }
        targets.dedup();
        let volumes = self.settings.volumes.clone();
        let (order, removed) = blocking(move || {
            let order = held.and_then(|volume| volume.pending_handle().ok().flatten());
            let removed = targets.iter().try_for_each(|target| volumes.remove(&volume, target));
            (order, removed)
        })
        .await;
        drop(slot);
        if let Some(request) = request {
            if removed.is_ok() {
                self.report(Subject::of(&request), Outcome::Unpublished);
            }
            if let Some(order) = order {
                self.forget_order(&request, order);
            }
        }
        removed
    }

    /// Has the issuer take back, in the background, what it made public for an order that nobody
    /// goes on with: as soon as it is ready, which right after a start it may not be.
    fn forget_order(&self, request: &PublishRequest, handle: String) {
        const LONGEST_WAIT: Duration = Duration::from_secs(600);
        let mut issuers = self.settings.issuers.clone();
        let issuer = request.certificate.issuer.clone();
        let namespace = request.pod.namespace.clone();
        tokio::spawn(tokio::time::timeout(LONGEST_WAIT, async move {
            loop {
                if let Some(Entry { issuer: Ok(issuer), .. }) = issuers.get(&issuer, &namespace) {
                    issuer.forget(&handle);
                    break;
                }
                issuers.changed().await;
            }
        }));
    }

    /// Removes a volume whose own task says that nobody wants it. Where that fails, what is left is
    /// for the next publish or unpublish of the same volume, or for the next start, to clear away.
    fn abandon(self: &Arc<Self>, volume: &VolumeId, target: &TargetPath) {
        let mut slots = self.lock();
        let Some(slot @ Slot::Live(_)) = slots.volumes.get_mut(volume) else {
            return;
        };
        let done = CancellationToken::new();
        if let Slot::Live(task) = std::mem::replace(slot, Slot::Removing(done.clone())) {
            let (shared, subject) = (Arc::clone(self), task.subject());
            let removal = Arc::clone(self).remove(volume.clone(), target.clone(), Some(task), done);
            tokio::spawn(async move {
                if let Err(error) = removal.await {
                    let message = with_causes(&error);
                    shared.report(subject, Outcome::NotRemoved { message });
                }
            });
        }
    }

    fn report(&self, Subject { volume, pod, issuer }: Subject, outcome: Outcome) {
        // Nobody listens any more when the process ends.
        let _ = self.settings.reports.send(Report { volume, pod, issuer, outcome });
    }
}

/// The slot of a volume that is being removed, freed whatever comes of that: a slot that stayed
/// taken would hold up every unpublish for ever.
struct Taken {
    shared: Arc<Shared>,
    volume: VolumeId,
    done: CancellationToken,
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.shared.lock().volumes.remove(&self.volume);
        self.done.cancel();
    }
}

/// Whom a [`Report`] is about.
#[derive(Debug)]
struct Subject {
    volume: VolumeId,
    pod: PodRef,
    issuer: IssuerRef,
}

impl Subject {
    fn of(request: &PublishRequest) -> Self {
        Self {
            volume: request.volume.clone(),
            pod: request.pod.clone(),
            issuer: request.certificate.issuer.clone(),
        }
    }
}

impl Slots {
    fn live(&self) -> impl Iterator<Item = &VolumeTask> {
        self.volumes.values().filter_map(|slot| match slot {
            Slot::Live(task) => Some(task),
            Slot::Removing(_) => None,
        })
    }
}

/// Runs system calls and long computations where they hold up nobody else.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    // The other tasks move to another thread, which is faster than moving the work there and back.
    if can_block_in_place() {
        return tokio::task::block_in_place(work);
    }
    finished(tokio::task::spawn_blocking(work)).await
}

/// [`blocking`], but right here what is `brief`, less than half a millisecond: to give this thread's
/// other tasks to another one, and to go on without them, takes more wake-ups than that is worth.
async fn brief_or_blocking<T: Send + 'static>(
    brief: bool,
    work: impl FnOnce() -> T + Send + 'static,
) -> T {
    match brief {
        true => work(),
        false => blocking(work).await,
    }
}

/// What a task of ours comes to; its panic goes on here.
async fn finished<T>(task: JoinHandle<T>) -> T {
    match task.await {
        Ok(done) => done,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime shuts down, and this task goes with it.
            Err(_) => std::future::pending().await,
        },
    }
}
