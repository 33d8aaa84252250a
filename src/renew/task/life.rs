//! The loop of a volume's task: from the first attempt or the adoption to the cancellation.

use std::sync::Arc;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{Installed, Origin, Progress, SharedRequest, SharedTarget, abandoned, lock};
use crate::clock::Timestamp;
use crate::error::with_causes;
use crate::issuer::IssueError;
use crate::renew::backoff::{self, Stake};
use crate::renew::schedule::{self, Seed};
use crate::renew::{NotReady, Outcome, Shared, Subject, blocking};
use crate::spec::request::PublishRequest;
use crate::volume::{Record, Volume, VolumeIoError};
use crate::x509::Bundle;

/// What the task works on.
pub(super) struct Life {
    pub(super) shared: Arc<Shared>,
    pub(super) request: SharedRequest,
    pub(super) record: Arc<Record>,
    pub(super) target: SharedTarget,
    pub(super) progress: watch::Sender<Progress>,
    pub(super) cancel: CancellationToken,
    pub(super) seed: Seed,
    pub(super) volume: Option<Volume>,
    pub(super) failures: u32,
    /// When to look whether an old trust anchor may go; `None` while there is none.
    pub(super) trust_check_at: Option<Timestamp>,
}

/// Why an attempt ended without a certificate.
pub(super) enum Stopped {
    Cancelled,
    Failed(IssueError),
}

impl Life {
    pub(super) async fn run(mut self, origin: Origin) {
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

    /// Makes the certificate in the volume known to everyone who waits or looks.
    pub(super) fn install(&mut self, installed: Installed, renewals: u64) {
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
    pub(super) fn note_failure(&mut self, error: &IssueError) -> Timestamp {
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

    pub(super) fn set_volume(&mut self, volume: Volume) {
        lock(&self.target).volume = Some(volume.clone());
        self.volume = Some(volume);
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
        Self::Failed(error)
    }
}
