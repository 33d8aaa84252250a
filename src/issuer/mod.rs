//! Issuers: one file or folder for each kind of CA, behind one trait.
//!
//! An issuer turns an [`Order`] into an [`Issued`] chain or into an [`IssueError`] that says whose
//! fault it is. It never writes a volume, never decides when to renew, and never logs.

mod ca;
mod error;
mod registry;
mod self_signed;

use std::fmt;

use async_trait::async_trait;

pub use ca::{Ca, CaLimits};
pub use error::{IssueError, IssueErrorKind};
pub use registry::{Entry, IssuerKey, IssuerSet, Issuers};
pub use self_signed::SelfSigned;

use crate::spec::request::CertificateSpec;
use crate::spec::volume::{PodRef, VolumeId};
use crate::x509::{Certificate, CertificationRequest, Issued, PrivateKey};

/// A certificate authority, or the way to one.
#[async_trait]
pub trait Issuer: fmt::Debug + Send + Sync {
    /// Has the certificate signed. May take as long as the CA takes; dropping the future cancels.
    async fn issue(&self, order: Order<'_>) -> Result<Issued, IssueError>;

    /// The trust anchors that leaves of this issuer chain to now, where it knows them without
    /// asking a CA. A change here makes every volume trust the new anchors at once.
    fn trust_anchors(&self) -> Option<&[Certificate]> {
        None
    }
}

/// One request for one certificate.
#[derive(Debug)]
pub struct Order<'a> {
    pub volume: &'a VolumeId,
    pub pod: &'a PodRef,
    pub spec: &'a CertificateSpec,
    pub request: &'a CertificationRequest,
    /// The volume's own key: only `selfSigned` signs with it, and it never leaves the node.
    pub key: &'a PrivateKey,
    /// The CA's handle of an order under way (an ACME order URL, a pickup id), kept across restarts.
    pub handle: &'a dyn HandleStore,
}

/// Where an issuer keeps its handle on an order that outlives one attempt.
pub trait HandleStore: fmt::Debug + Send + Sync {
    /// What an earlier attempt saved, perhaps before a restart.
    fn load(&self) -> Option<String>;
    /// Saves the handle; it is dropped when the order ends, well or not.
    fn save(&self, handle: &str) -> std::io::Result<()>;
}
