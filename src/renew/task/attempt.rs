//! One attempt at a certificate: key, request, answer, files.

use std::sync::Arc;

use tokio::time::Instant;
use tracing::field::Empty;
use tracing::{Instrument as _, trace_span};

use super::Installed;
use super::life::{Life, Stopped};
use crate::issuer::{HandleStore, IssueError, IssueErrorKind, Issuer, Order, Requester, Warnings};
use crate::renew::{Outcome, blocking, brief_or_blocking, schedule, trust};
use crate::spec::request::{CertificateSpec, PublishRequest};
use crate::trace::TARGET;
use crate::volume::{Volume, VolumeIoError};
use crate::x509::{Bundle, CertificationRequest, Issued, KeyError, PrivateKey};

impl Life {
    /// One attempt at a certificate.
    pub(super) async fn attempt(&mut self) -> Result<(), Stopped> {
        let began = Instant::now();
        let request = self.request();
        let spec = &request.certificate;
        let issuer = self.issuer(&request);
        self.is_news(&issuer);
        let issuer = issuer?;
        self.await_trust().await?;
        let warnings = Warnings::default();
        // Before a key is made that nobody may need.
        let (turn, offered) = match issuer.shares_on_node() {
            true => (Some(self.turn(&request).await?), self.offered(&request).await),
            false => (None, None),
        };
        let (volume, key, issued) = match offered {
            Some((key, issued)) => {
                let volume = self.made().await?;
                if let Some(handle) = PendingHandle(volume.clone()).load() {
                    issuer.forget(&handle);
                }
                (volume, key, issued)
            }
            None => {
                let preparing = self.prepare(&request, issuer.answers_at_once());
                let (volume, key, csr) =
                    preparing.instrument(trace_span!(target: TARGET, "key")).await?;
                let handle = PendingHandle(volume.clone());
                let previous = self.progress.borrow().installed.as_ref().map(|it| it.leaf.clone());
                let order = Order {
                    requester: Requester::Volume { id: &request.volume, pod: &request.pod },
                    spec,
                    request: &csr,
                    annotations: &request.annotations,
                    key: &key,
                    tokens: &request.tokens,
                    warnings: &warnings,
                    previous: previous.as_ref(),
                    handle: &handle,
                    issuers: &self.shared.settings.issuers,
                };
                let span = trace_span!(target: TARGET, "sign", error = Empty);
                let issued = tokio::select! {
                    biased;
                    () = self.cancel.cancelled() => return Err(Stopped::Cancelled),
                    issued = issuer.issue(order).instrument(span.clone()) => issued,
                };
                if let Err(error) = &issued {
                    span.record("error", error.message.as_str());
                }
                let issued = issued.map_err(|error| {
                    // That is known without the CA and says nothing of it.
                    let by_issuer = error.kind != IssueErrorKind::Request;
                    Stopped::Failed { error, by_issuer }
                })?;
                (volume, key, issued)
            }
        };
        let writing = self.write(&request, issuer.as_ref(), volume, key, issued);
        let written = writing.instrument(trace_span!(target: TARGET, "write")).await;
        let installed = written.map_err(|error| {
            let by_issuer = error.kind == IssueErrorKind::BadResponse;
            Stopped::Failed { error, by_issuer }
        })?;
        let renewal = self.progress.borrow().installed.is_some();
        let (leaf, renew_at) = (installed.leaf.clone(), installed.renew_at);
        self.install(installed, u64::from(renewal));
        drop(turn);
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
        self.tell(warnings.into_vec());
        Ok(())
    }

    /// Reports what the CA has to say beside the certificate, unless it said the same before.
    fn tell(&mut self, warnings: Vec<String>) {
        if warnings != self.told {
            for warning in &warnings {
                self.shared.report(self.subject(), Outcome::Warned { message: warning.clone() });
            }
            self.told = warnings;
        }
    }

    /// The issuer that the volume names, if it is ready and allows what is asked.
    pub(super) fn issuer(&self, request: &PublishRequest) -> Result<Arc<dyn Issuer>, IssueError> {
        let reference = &request.certificate.issuer;
        let config = |message| IssueError::new(IssueErrorKind::Config, message);
        let issuers = &self.shared.settings.issuers;
        let entry = issuers
            .get(reference, &request.pod.namespace)
            .ok_or_else(|| config(format!("there is no {reference}; create it, or correct issuer-name, issuer-kind and issuer-group of the volume")))?;
        if let Some(policy) = &entry.policy {
            policy
                .check(&request.pod, request.pod_ip, &request.certificate)
                .map_err(|denied| IssueError::new(IssueErrorKind::Denied, denied.to_string()))?;
        }
        entry.issuer.map_err(|reason| config(format!("{reference} is not ready: {reason}")))
    }

    /// The volume, made if need be.
    async fn made(&mut self) -> Result<Volume, IssueError> {
        let (home, volumes) = (self.home.clone(), self.shared.settings.volumes.clone());
        let volume = blocking(move || home.made(&volumes)).await.map_err(node_error)?;
        self.set_volume(volume.clone());
        Ok(volume)
    }

    /// The volume, made if need be, the key to have signed, and the request for it. The key is kept
    /// for the next process to go on with, unless there is nothing to go on with where the issuer
    /// answers `at_once` and a new key is made as fast as one is kept.
    async fn prepare(
        &mut self,
        request: &Arc<PublishRequest>,
        at_once: bool,
    ) -> Result<(Volume, Arc<PrivateKey>, CertificationRequest), Stopped> {
        let algorithm = request.certificate.key_algorithm;
        let made = brief_or_blocking(!algorithm.is_slow(), {
            let (home, request) = (self.home.clone(), Arc::clone(request));
            let volumes = self.shared.settings.volumes.clone();
            move || {
                let volume = home.made(&volumes).map_err(node_error)?;
                let key = match key_there(&volume, &request.certificate) {
                    Ok(None) if !algorithm.is_slow() => {
                        PrivateKey::generate(algorithm).map_err(no_key).and_then(|key| {
                            if !at_once {
                                keep(&volume, &key)?;
                            }
                            Ok(Some(key))
                        })
                    }
                    there => there,
                };
                let signed = key.and_then(|key| key.map(|key| sign(&request, key)).transpose());
                Ok::<_, IssueError>((volume, signed))
            }
        });
        let (volume, signed) = made.await?;
        self.set_volume(volume.clone());
        if let Some((key, csr)) = signed? {
            return Ok((volume, key, csr));
        }
        let key = tokio::select! {
            biased;
            () = self.cancel.cancelled() => return Err(Stopped::Cancelled),
            key = self.shared.slow_keys.make(algorithm) => key.map_err(no_key)?,
        };
        let request = Arc::clone(request);
        let signed = blocking(move || {
            keep(&volume, &key)?;
            let (key, csr) = sign(&request, key)?;
            Ok::<_, IssueError>((volume, key, csr))
        });
        Ok(signed.await?)
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
        let mut elsewhere = self.elsewhere.known();
        let (shared, request, seed) = (Arc::clone(&self.shared), Arc::clone(request), self.seed);
        let brief = !key.algorithm().is_slow() && !request.files.takes_long();
        brief_or_blocking(brief, move || {
            let spec = &request.certificate;
            let now = shared.settings.clock.now();
            let bundle =
                Bundle::new(key, issued, &spec.template, spec.duration, now).map_err(|error| {
                    let message = "the issuer's answer is not what was asked for and is not used";
                    IssueError::new(IssueErrorKind::BadResponse, message).caused_by(error)
                })?;
            let own_anchors = bundle.trust_anchors().to_vec();
            let validity = bundle.leaf().validity();
            let issuers = current.as_deref().unwrap_or(&own_anchors);
            if let Some(message) = trust::too_many(issuers, elsewhere.as_deref().unwrap_or(&[])) {
                // A pod that starts with less would not notice; one that has a volume keeps what it
                // trusts, and its owner is told.
                if held.is_none() {
                    return Err(IssueError::new(IssueErrorKind::Config, message));
                }
                elsewhere = None;
            }
            let held = held.unwrap_or_default();
            let anchors = trust::anchors(
                &trust::wanted(Some(issuers), elsewhere.as_deref(), &held),
                &[&own_anchors, &held],
                &shared.ledger,
                now,
                schedule::settling(validity, spec.duration),
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

/// The key of an order under way, else the old one if it is to be kept.
fn key_there(volume: &Volume, spec: &CertificateSpec) -> Result<Option<PrivateKey>, IssueError> {
    let fits = |key: &PrivateKey| key.algorithm() == spec.key_algorithm;
    if let Some(pending) = volume.pending_key().map_err(node_error)? {
        if let Some(key) = PrivateKey::from_pkcs8_der(&pending).ok().filter(fits) {
            return Ok(Some(key));
        }
        volume.clear_pending().map_err(node_error)?;
    }
    let kept = kept_key(volume, spec)?.filter(fits);
    if let Some(key) = &kept {
        keep(volume, key)?;
    }
    Ok(kept)
}

/// Notes the key in the volume, so that the next process goes on with it.
fn keep(volume: &Volume, key: &PrivateKey) -> Result<(), IssueError> {
    volume.set_pending_key(key.pkcs8_der()).map_err(node_error)
}

/// The certification request for `key`, signed by it.
fn sign(
    request: &PublishRequest,
    key: PrivateKey,
) -> Result<(Arc<PrivateKey>, CertificationRequest), IssueError> {
    let csr = CertificationRequest::new(&request.certificate.template, &key).map_err(|error| {
        IssueError::new(IssueErrorKind::Request, "the certification request cannot be made")
            .caused_by(error)
    })?;
    Ok((Arc::new(key), csr))
}

fn no_key(error: KeyError) -> IssueError {
    IssueError::new(IssueErrorKind::Node, "no private key could be made").caused_by(error)
}

fn kept_key(volume: &Volume, spec: &CertificateSpec) -> Result<Option<PrivateKey>, IssueError> {
    if !spec.reuse_private_key {
        return Ok(None);
    }
    let state = volume.state().map_err(node_error)?;
    let bundle = state.and_then(|state| Bundle::from_state(&state).ok());
    Ok(bundle.and_then(|bundle| PrivateKey::from_pkcs8_der(bundle.key().pkcs8_der()).ok()))
}

pub(super) fn write_files(
    volume: &Volume,
    request: &PublishRequest,
    bundle: &Bundle,
) -> Result<(), IssueError> {
    let payload = request.files.render(bundle).map_err(|error| {
        let message = "the certificate cannot be written in a form that the volume asks for";
        IssueError::new(IssueErrorKind::Request, message).caused_by(error)
    })?;
    volume.write(&payload, &bundle.to_state(), &request.ownership).map_err(node_error)
}

pub(super) fn node_error(error: VolumeIoError) -> IssueError {
    IssueError::new(IssueErrorKind::Node, "this node cannot keep the volume").caused_by(error)
}
