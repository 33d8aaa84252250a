//! Keeping volumes alive: one task owns each volume, issues, writes, sleeps, and does it again.

mod status;

use std::time::Duration;

use tokio::sync::mpsc;

pub use status::{Phase, VolumeStatus};

use crate::clock::{Clock, Timestamp};
use crate::issuer::{IssueErrorKind, Issuers};
use crate::spec::policy::PolicyDenied;
use crate::spec::request::{NodeContext, PublishRequest};
use crate::spec::volume::{IssuerRef, PodRef, TargetPath, VolumeId};
use crate::volume::{Record, VolumeIoError, Volumes};

/// What the renewer works with.
#[derive(Debug)]
pub struct Settings {
    pub volumes: Volumes,
    pub issuers: Issuers,
    pub clock: Clock,
    pub node: NodeContext,
    /// Word of everything that happens to a volume, for metrics, logs and events.
    pub reports: mpsc::UnboundedSender<Report>,
}

/// Owns the task of each volume. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Renewer {
    _todo: (),
}

/// Something happened to a volume.
#[derive(Clone, Debug)]
pub struct Report {
    pub volume: VolumeId,
    pub pod: PodRef,
    pub issuer: IssuerRef,
    pub outcome: Outcome,
}

/// What happened.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// A certificate is in the volume.
    Issued {
        renewal: bool,
        took: Duration,
        serial: String,
        not_after: Timestamp,
        renew_at: Timestamp,
    },
    /// An attempt failed; another follows.
    Failed {
        renewal: bool,
        kind: IssueErrorKind,
        message: String,
        retry_at: Timestamp,
        not_after: Option<Timestamp>,
    },
    /// The trust anchors changed under a certificate that stays.
    TrustChanged,
    /// Taken over after a restart.
    Adopted,
    /// Gone.
    Unpublished,
}

/// Why a publish is refused at once. Nothing of it is left behind.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// The same volume is published with other arguments.
    #[error("volume {0} is already published with other attributes; unpublish it first")]
    Incompatible(VolumeId),
    /// The same volume is published on another path.
    #[error("volume {volume} is already published on {published}", published = published.as_path().display())]
    OtherTarget { volume: VolumeId, published: TargetPath },
    /// The issuer's policy refuses the names.
    #[error(transparent)]
    Denied(#[from] PolicyDenied),
    /// The node could not make the volume.
    #[error(transparent)]
    Volume(#[from] VolumeIoError),
    /// The driver is shutting down.
    #[error("the driver is shutting down")]
    ShuttingDown,
}

/// An accepted publish under way.
#[derive(Debug)]
pub struct Publication {
    _todo: (),
}

/// Why an accepted publish has not succeeded yet; the work goes on.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub struct NotReady {
    pub kind: IssueErrorKind,
    pub message: String,
    pub retry_at: Timestamp,
}

impl Renewer {
    /// An idle renewer; [`Renewer::adopt`] takes over what an earlier process left.
    pub fn new(_settings: Settings) -> Self {
        todo!()
    }
    /// Takes over every volume below the data root; answers how many, and what could not be read.
    pub async fn adopt(&self) -> Result<(usize, Vec<String>), VolumeIoError> {
        todo!()
    }
    /// Starts the volume's task, or attaches to the one at work.
    pub async fn publish(
        &self,
        _request: PublishRequest,
        _record: Record,
    ) -> Result<Publication, PublishError> {
        todo!()
    }
    /// Ends the volume's task and removes all of it. Needs no issuer; done twice it succeeds twice.
    pub async fn unpublish(
        &self,
        _volume: &VolumeId,
        _target: &TargetPath,
    ) -> Result<(), VolumeIoError> {
        todo!()
    }
    /// How each volume does, in order of pod and volume.
    pub fn volumes(&self) -> Vec<VolumeStatus> {
        todo!()
    }
    /// Ends all tasks and leaves the volumes mounted.
    pub async fn drain(&self) {
        todo!()
    }
}

impl Publication {
    /// Returns when the volume is mounted with a certificate in it, or with the reason why not yet.
    pub async fn ready(self) -> Result<(), NotReady> {
        todo!()
    }
}
