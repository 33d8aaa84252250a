//! How a volume does, for people and metrics.

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::spec::volume::{IssuerRef, PodRef, TargetPath, VolumeId};

/// Where a volume is in its life.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// No certificate yet; the first is on its way.
    Issuing,
    /// No certificate yet, and the last attempt failed.
    Waiting,
    /// The certificate holds and its renewal is planned.
    Ready,
    /// The certificate holds, but its renewal fails.
    RenewalFailing,
    /// The certificate has run out and its renewal fails.
    Expired,
}

impl Phase {
    /// Every phase, in order of a volume's life.
    pub const ALL: [Self; 5] =
        [Self::Issuing, Self::Waiting, Self::Ready, Self::RenewalFailing, Self::Expired];

    /// The phase as it is written everywhere: in JSON, tables and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Issuing => "issuing",
            Self::Waiting => "waiting",
            Self::Ready => "ready",
            Self::RenewalFailing => "renewal-failing",
            Self::Expired => "expired",
        }
    }
}

/// A snapshot of one volume. Holds nothing secret.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct VolumeStatus {
    pub volume_id: VolumeId,
    pub target_path: TargetPath,
    pub pod: PodRef,
    pub issuer: IssuerRef,
    pub phase: Phase,
    pub names: Vec<String>,
    pub serial_number: Option<String>,
    pub not_before: Option<Timestamp>,
    pub not_after: Option<Timestamp>,
    pub renew_at: Option<Timestamp>,
    /// How often the certificate was renewed since this process took the volume on.
    pub renewals: u64,
    /// The failure of the last attempt, until one succeeds.
    pub last_error: Option<String>,
}
