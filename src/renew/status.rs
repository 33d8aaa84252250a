//! How a volume does, for people and metrics.

use serde::{Deserialize, Serialize};

use super::schedule::{Seed, renew_at};
use crate::clock::Timestamp;
use crate::spec::request::PublishRequest;
use crate::spec::volume::{IssuerRef, PodRef, TargetPath, VolumeId};
use crate::x509::Certificate;

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
    /// Which volume.
    pub volume_id: VolumeId,
    /// Where kubelet wants it.
    pub target_path: TargetPath,
    /// Whose it is.
    pub pod: PodRef,
    /// Who signs.
    pub issuer: IssuerRef,
    /// Where it is in its life.
    pub phase: Phase,
    /// The names in its certificate: `dns:…`, `ip:…`, `uri:…`, `email:…`.
    pub names: Vec<String>,
    /// The certificate's serial number in hexadecimal.
    pub serial_number: Option<String>,
    /// From when the certificate holds.
    pub not_before: Option<Timestamp>,
    /// Until when.
    pub not_after: Option<Timestamp>,
    /// When it is to be renewed.
    pub renew_at: Option<Timestamp>,
    /// How often the certificate was renewed since this process took the volume on.
    pub renewals: u64,
    /// The failure of the last attempt, until one succeeds.
    pub last_error: Option<String>,
}

impl VolumeStatus {
    /// What a volume's files tell without its task: nothing of attempts and failures.
    pub fn from_files(
        request: &PublishRequest,
        leaf: Option<&Certificate>,
        now: Timestamp,
    ) -> Self {
        let validity = leaf.map(Certificate::validity);
        let phase = match validity {
            None => Phase::Issuing,
            Some(validity) if validity.not_after < now => Phase::Expired,
            Some(_) => Phase::Ready,
        };
        let seed = Seed::of(&request.volume);
        Self {
            volume_id: request.volume.clone(),
            target_path: request.target.clone(),
            pod: request.pod.clone(),
            issuer: request.certificate.issuer.clone(),
            phase,
            names: leaf.map_or_else(Vec::new, Certificate::names),
            serial_number: leaf.map(Certificate::serial_number),
            not_before: validity.map(|validity| validity.not_before),
            not_after: validity.map(|validity| validity.not_after),
            renew_at: validity.map(|validity| renew_at(validity, &request.certificate, seed)),
            renewals: 0,
            last_error: None,
        }
    }
}
