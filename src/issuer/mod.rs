//! Issuers: one file or folder for each kind of CA, behind one trait.
//!
//! An issuer turns an [`Order`] into an [`Issued`] chain or into an [`IssueError`] that says whose
//! fault it is. It never writes a volume, never decides when to renew, and never logs.

mod acme;
mod build;
mod ca;
mod chained;
mod dns;
mod error;
#[cfg(test)]
mod fixture;
mod kubernetes;
mod registry;
mod self_signed;
mod vault;
mod venafi;
mod web;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use zeroize::Zeroizing;

pub use acme::{Acme, AcmeAnswers};
pub use build::{BuildError, Materials, Surroundings, build};
pub use ca::{Ca, CaError, CaLimits, CaMaterial};
pub use chained::Chained;
pub use dns::{Dns01, DnsProvider, Published, TxtRecord};
pub use error::{IssueError, IssueErrorKind};
pub use kubernetes::KubernetesIssuers;
pub use registry::{Entry, IssuerKey, IssuerSet, Issuers, WeakIssuers};
pub use self_signed::SelfSigned;
pub use web::WebError;
pub(crate) use web::{Reach, Web, WebOptions};

use crate::clock::Timestamp;
use crate::spec::request::CertificateSpec;
use crate::spec::tokens::PodTokens;
use crate::spec::volume::{PodRef, VolumeId};
use crate::sync::{can_block_in_place, lock};
use crate::x509::{
    Certificate, CertificationRequest, Issued, KeyAlgorithm, KeyUsage, KeyUsages, PrivateKey,
    Template,
};

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

    /// Whether it signs here and now, so that of an order that was cut off nothing is under way
    /// anywhere.
    fn answers_at_once(&self) -> bool {
        false
    }

    /// Asks the CA whether it would sign for us, without having it sign anything. What is here on
    /// the node answers at once.
    ///
    /// `issuers` are all that are configured with it.
    async fn probe(&self, _issuers: &Issuers) -> Result<(), IssueError> {
        Ok(())
    }

    /// The names under which it keeps something with [`Issuers::keep`]. They are of this issuer
    /// alone, and of how it signs now: what no issuer names is removed.
    fn keeps(&self) -> &[String] {
        &[]
    }

    /// Gives back what it holds at the CA, such as a session, before the process ends.
    async fn close(&self) {}

    /// Takes back, in the background, what was made public for the order that `handle` means, which
    /// nobody goes on with.
    fn forget(&self, _handle: &str) {}

    /// Whether pods of this node that ask for the same may have one key and certificate together.
    fn shares_on_node(&self) -> bool {
        false
    }

    /// When the CA wants `leaf` renewed, asked of it now; `None` where it does not say such things.
    async fn renewal(&self, _leaf: &Certificate) -> Result<Option<RenewalAdvice>, IssueError> {
        Ok(None)
    }

    /// Why it signs nothing at `now`, as far as is known here without asking anybody: a CA that has
    /// expired.
    fn fault(&self, _now: Timestamp) -> Option<String> {
        None
    }

    /// What an operator should do about this issuer, looked at `now`: a CA that expires soon.
    fn warning(&self, _now: Timestamp) -> Option<String> {
        None
    }
}

/// What a CA says about the renewal of a certificate (RFC 9773).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct RenewalAdvice {
    /// From when until when to renew, if it says so.
    pub window: Option<(Timestamp, Timestamp)>,
    /// When to ask again.
    pub ask_again: Duration,
}

/// One request for one certificate.
#[derive(Debug)]
pub struct Order<'a> {
    /// Whom it is for.
    pub requester: Requester<'a>,
    /// What is asked for.
    pub spec: &'a CertificateSpec,
    /// The same as a PKCS#10 request, for CAs elsewhere.
    pub request: &'a CertificationRequest,
    /// What the pod's owner has to say to the issuer: attributes with prefixes other than ours.
    pub annotations: &'a BTreeMap<String, String>,
    /// The requester's own key: only `selfSigned` signs with it, and it never leaves the node.
    pub key: &'a PrivateKey,
    /// Tokens of the pod's service account, as kubelet last handed them over; a node has none.
    pub tokens: &'a PodTokens,
    /// Where the issuer puts what the CA has to say though it signed.
    pub warnings: &'a Warnings,
    /// The certificate in the volume, which this one will replace.
    pub previous: Option<&'a Certificate>,
    /// The CA's handle of an order under way (an ACME order URL, a pickup id), kept across restarts.
    pub handle: &'a dyn HandleStore,
    /// All issuers, for one that has its own certificate from another.
    pub issuers: &'a Issuers,
}

impl Order<'_> {
    /// The certificate in `chain` that is for the requester's key.
    fn leaf_in<'a>(&self, chain: &'a [Certificate]) -> Option<&'a Certificate> {
        let key = self.key.public_key_info();
        chain.iter().find(|certificate| certificate.public_key_info() == key)
    }
}

/// Whom a certificate is for.
#[derive(Clone, Copy, Debug)]
pub enum Requester<'a> {
    /// A pod, in one of its volumes.
    Volume {
        /// The volume.
        id: &'a VolumeId,
        /// The pod.
        pod: &'a PodRef,
    },
    /// A node, which signs with it for one of its issuers.
    Node {
        /// The node's name.
        name: &'a str,
        /// The issuer.
        issuer: &'a IssuerKey,
    },
}

impl<'a> Requester<'a> {
    /// The pod, if it is one.
    pub fn pod(&self) -> Option<&'a PodRef> {
        match self {
            Self::Volume { pod, .. } => Some(pod),
            Self::Node { .. } => None,
        }
    }

    /// The namespace that it acts in; `None` for a node that serves every namespace.
    pub fn namespace(&self) -> Option<&'a str> {
        match self {
            Self::Volume { pod, .. } => Some(&pod.namespace),
            Self::Node { issuer, .. } => issuer.namespace.as_deref(),
        }
    }
}

/// What a CA has to say though it signed, such as that it shortened the life.
#[derive(Debug, Default)]
pub struct Warnings(Mutex<Vec<String>>);

impl Warnings {
    /// One more, fit for a pod's owner to read.
    pub fn add(&self, warning: String) {
        lock(&self.0).push(warning);
    }

    /// All there are.
    pub fn into_vec(self) -> Vec<String> {
        self.0.into_inner().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where an issuer keeps its handle on an order that outlives one attempt.
pub trait HandleStore: fmt::Debug + Send + Sync {
    /// What an earlier attempt saved, perhaps before a restart.
    fn load(&self) -> Option<String>;
    /// Saves the handle; it is dropped with the key, when a certificate for it is in the volume.
    fn save(&self, handle: &str) -> std::io::Result<()>;
}

/// A handle that lives no longer than its process, for orders whose key does not either.
#[derive(Debug, Default)]
struct HandleInMemory(Mutex<Option<String>>);

impl HandleStore for HandleInMemory {
    fn load(&self) -> Option<String> {
        lock(&self.0).clone()
    }

    fn save(&self, handle: &str) -> std::io::Result<()> {
        *lock(&self.0) = Some(handle.to_owned());
        Ok(())
    }
}

/// Signs with a key of `algorithm`. RSA takes milliseconds for it, in which the other tasks of this
/// thread go on elsewhere.
fn sign_with<T>(algorithm: KeyAlgorithm, sign: impl FnOnce() -> T) -> T {
    match algorithm.is_slow() && can_block_in_place() {
        true => tokio::task::block_in_place(sign),
        false => sign(),
    }
}

/// Where issuers keep secrets of the node across restarts of the driver, and no longer than the
/// machine's boot: never on a disk.
pub trait StateStore: fmt::Debug + Send + Sync {
    /// What was stored under `name`.
    fn load(&self, name: &str) -> std::io::Result<Option<Zeroizing<Vec<u8>>>>;
    /// Keeps `bytes` under `name`, a plain file name.
    fn store(&self, name: &str, bytes: &[u8]) -> std::io::Result<()>;
    /// All names under which something was stored.
    fn names(&self) -> std::io::Result<Vec<String>>;
    /// Removes what was stored under `name`.
    fn remove(&self, name: &str) -> std::io::Result<()>;
}

/// `template` with the usages that cert-manager gives where none are asked for.
fn default_usages(template: &Template) -> Template {
    let mut template = template.clone();
    if template.usages == KeyUsages::default() {
        template.usages.key = vec![KeyUsage::DigitalSignature, KeyUsage::KeyEncipherment];
    }
    template
}

/// `start` and `span` after it, or the end of time.
fn later(start: Timestamp, span: Duration) -> Timestamp {
    start.saturating_add(span).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn other_tasks_go_on_while_rsa_signs() {
        let (sender, receiver) = mpsc::channel();
        let signing = tokio::spawn(async move {
            tokio::spawn(async move { sender.send(()) });
            let patience = Duration::from_secs(20);
            sign_with(KeyAlgorithm::Rsa4096, || receiver.recv_timeout(patience))
        });
        signing.await.unwrap().expect("the only thread of the runtime was not held up");
    }
}
