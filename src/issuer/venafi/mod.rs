//! `venafi`: certificates from Certificate Manager, which was Venafi's: `tpp`, on a server of
//! one's own, and `cloud`, the service of the vendor.
//!
//! Both work the same way: a certificate is asked for, and picked up when it is there, which may
//! take an approval by a person. What this promises:
//!
//! - The pickup id is the order's handle. A restart at any moment, and however long an approval
//!   takes, nothing is asked for twice.
//! - A server is polled every other second while an answer is likely, and then as seldom as the
//!   renewer tries again.
//! - What an enrolment failed of is told in the server's words. It is asked for once more at once,
//!   unless somebody rejected it, and after that as seldom as anything that was denied.

mod cloud;
mod tpp;

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::{Instant, sleep};

use self::cloud::Cloud;
use self::tpp::{Login, Sdk, Tpp};
use super::web::{Answer, Reach, Web, WebOptions, words};
use super::{
    BuildError, IssueError, IssueErrorKind, Issuer, Issuers, Materials, Order, Requester,
    Surroundings,
};
use crate::clock::Timestamp;
use crate::spec::object::{CaBundle, IssuerObject, VenafiService, VenafiSpec};
use crate::x509::{Certificate, Issued, Validity, certificates_from_pem};

/// Asks Certificate Manager, and picks up.
#[derive(Debug)]
pub(super) struct Venafi(Box<dyn Service>);

/// What the two products have in common.
#[async_trait]
trait Service: fmt::Debug + Send + Sync {
    /// What tells this service and zone from others, in the handles of orders.
    fn label(&self) -> String;

    /// Asks for a certificate, and answers by which id to pick it up. Where the id is known before,
    /// it is given to `keep` before.
    async fn request(&self, order: &Order<'_>, keep: Keep<'_>) -> Result<String, IssueError>;

    /// Looks once how far the request has come.
    async fn retrieve(&self, id: &str) -> Result<Progress, IssueError>;

    /// Whether it would take a request, without making one.
    async fn probe(&self) -> Result<(), IssueError>;

    /// What an operator should do about it.
    fn warning(&self, now: Timestamp) -> Option<String>;
}

/// Keeps a pickup id.
type Keep<'a> = &'a (dyn Fn(&str) -> Result<(), IssueError> + Sync);

/// How far a request has come.
#[derive(Debug)]
enum Progress {
    /// The certificate, with its chain in the server's order.
    Issued(Vec<Certificate>),
    /// Not decided: who has to do what.
    Pending(String),
    /// There will be no certificate.
    Failed {
        /// Why, in the server's words.
        reason: String,
        /// Whether it may help to ask again.
        again: bool,
    },
    /// The server has no such request.
    Unknown,
}

/// Whoever is to decide mostly does it at once. After this long somebody should be told to.
const PATIENCE: Duration = Duration::from_secs(10);

const POLL_INTERVAL: Duration = Duration::from_secs(2);

/// How often one attempt asks, where the first request fails.
const MOST_REQUESTS: u32 = 2;

impl Venafi {
    /// The issuer that `object` describes with `spec`.
    ///
    /// # Errors
    ///
    /// When credentials or CA certificates are missing or cannot be used.
    pub(super) fn new(
        object: &IssuerObject,
        spec: &VenafiSpec,
        materials: &Materials,
        surroundings: &Surroundings,
    ) -> Result<Self, BuildError> {
        let clock = &surroundings.clock;
        let web = |ca_bundle: &Option<CaBundle>| {
            let ca_bundle = materials.ca_bundle(ca_bundle.as_ref())?;
            let reach = Reach::of(object.namespace.as_deref(), surroundings);
            let options = WebOptions { reach, ca_bundle, ..WebOptions::default() };
            Ok::<_, BuildError>(Web::new(options, clock.clone())?)
        };
        let service: Box<dyn Service> = match &spec.service {
            VenafiService::Tpp { zone, spec: tpp } => {
                let login = Login::new(tpp, materials)?;
                let sdk = Sdk::new(web(&tpp.ca_bundle)?, tpp.url.clone());
                let fields = spec.custom_fields.clone();
                Box::new(Tpp::new(sdk, zone, login, fields, clock.clone()))
            }
            VenafiService::Cloud { application, template, spec } => {
                let key = secret_text(materials.value(&spec.api_token, "api-key")?);
                let key = key.ok_or_else(|| {
                    let name = &spec.api_token.name;
                    BuildError::Unfit(format!("the API key in the Secret {name} is no text"))
                })?;
                let web = web(&spec.ca_bundle)?;
                Box::new(Cloud::new(web, spec.url.clone(), application, template, key))
            }
        };
        Ok(Self(service))
    }

    /// Asks for a certificate, and waits for it while that is likely to be worth it.
    async fn ask(&self, order: &Order<'_>) -> Result<Progress, IssueError> {
        let keep = |id: &str| self.keep(order, id);
        let id = self.0.request(order, &keep).await?;
        keep(&id)?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.0.retrieve(&id).await? {
                Progress::Pending(_) if Instant::now() + POLL_INTERVAL < deadline => {
                    sleep(POLL_INTERVAL).await;
                }
                progress => return Ok(progress),
            }
        }
    }

    /// The pickup id of the order under way.
    fn pickup_id(&self, order: &Order<'_>) -> Option<String> {
        let handle = order.handle.load()?;
        let id = handle.strip_prefix(&self.0.label())?.strip_prefix('\n')?;
        Some(id.to_owned())
    }

    fn keep(&self, order: &Order<'_>, id: &str) -> Result<(), IssueError> {
        save(order, &format!("{}\n{id}", self.0.label()))
    }

    /// The next attempt asks anew.
    fn forget(&self, order: &Order<'_>) -> Result<(), IssueError> {
        save(order, "")
    }
}

#[async_trait]
impl Issuer for Venafi {
    async fn issue(&self, order: Order<'_>) -> Result<Issued, IssueError> {
        let mut progress = match self.pickup_id(&order) {
            Some(id) => match self.0.retrieve(&id).await? {
                // A request that never arrived leaves what was there before it.
                Progress::Issued(chain) if order.leaf_in(&chain).is_none() => Progress::Unknown,
                progress => progress,
            },
            None => Progress::Unknown,
        };
        for _ in 0..MOST_REQUESTS {
            if !matches!(progress, Progress::Unknown | Progress::Failed { again: true, .. }) {
                break;
            }
            progress = self.ask(&order).await?;
        }
        let (kind, message) = match progress {
            Progress::Issued(chain) => {
                // If it is not what was asked for, another shall be.
                self.forget(&order)?;
                if let Some(warning) = shortened(&order, &chain) {
                    order.warnings.add(warning);
                }
                return Ok(Issued { chain, trust_anchors: Vec::new() });
            }
            Progress::Pending(waiting) => {
                return Err(IssueError::new(IssueErrorKind::Pending, waiting));
            }
            Progress::Failed { reason, .. } => (IssueErrorKind::Denied, reason),
            Progress::Unknown => (
                IssueErrorKind::BadResponse,
                "the server does not find the certificate that it was just asked for: may these \
                 credentials read it?"
                    .to_owned(),
            ),
        };
        self.forget(&order)?;
        Err(IssueError::new(kind, message))
    }

    async fn probe(&self, _: &Issuers) -> Result<(), IssueError> {
        self.0.probe().await
    }

    fn warning(&self, now: Timestamp) -> Option<String> {
        self.0.warning(now)
    }
}

fn save(order: &Order<'_>, handle: &str) -> Result<(), IssueError> {
    order.handle.save(handle).map_err(|error| {
        let message = "the pickup id of the certificate cannot be kept";
        IssueError::new(IssueErrorKind::Node, message).caused_by(error)
    })
}

/// What the owner should know of a life that is much shorter than was asked for.
fn shortened(order: &Order<'_>, chain: &[Certificate]) -> Option<String> {
    let Validity { not_before, not_after } = order.leaf_in(chain)?.validity();
    let life = Duration::try_from(not_after.duration_since(not_before)).ok()?;
    let asked = order.spec.duration;
    (life < asked / 2).then(|| {
        format!(
            "the CA gave {} h where {} h were asked for: set duration to what it gives",
            life.as_secs() / 3600,
            asked.as_secs() / 3600
        )
    })
}

/// The certificates in the PEM text of `answer`.
fn certificates(answer: &Answer, pem: &[u8]) -> Result<Vec<Certificate>, IssueError> {
    let bad = |message| IssueError::new(IssueErrorKind::BadResponse, message);
    let place = answer.place();
    match certificates_from_pem(pem) {
        Ok(chain) if chain.is_empty() => {
            Err(bad(format!("{place} answered without a certificate: is its address right?")))
        }
        Ok(chain) => Ok(chain),
        Err(error) => {
            let message = format!("the certificate that {place} answered with cannot be read");
            Err(bad(message).caused_by(error))
        }
    }
}

/// A token, password or name in a Secret, without the line break that editors leave behind it.
fn secret_text(value: &[u8]) -> Option<zeroize::Zeroizing<String>> {
    let text = std::str::from_utf8(value).ok()?.trim_end_matches(['\r', '\n']);
    (!text.is_empty()).then(|| zeroize::Zeroizing::new(text.to_owned()))
}

/// Whom a certificate is for, for people who look at the server: namespace and pod, or the node
/// and its issuer.
fn requester_name(order: &Order<'_>) -> (String, String) {
    match order.requester {
        Requester::Volume { pod, .. } => (pod.namespace.clone(), pod.name.clone()),
        Requester::Node { name, issuer } => (name.to_owned(), issuer.name.clone()),
    }
}

/// Something that the zone's policy does not allow; `what` goes on where the zone's name ends.
fn denied(zone: &str, what: impl fmt::Display) -> IssueError {
    IssueError::new(IssueErrorKind::Denied, format!("the zone {} {what}", words(zone)))
}

#[cfg(test)]
mod tests;
