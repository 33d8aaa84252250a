//! Certificates asked for through the Kubernetes API: with `CertificateRequest`s, of cert-manager
//! and of every issuer that serves its API, and with `CertificateSigningRequest`s, of Kubernetes.
//!
//! What this promises:
//!
//! - A certificate costs one write. Answers come over one watch for each kind, which all volumes of
//!   the node share; nothing is polled.
//! - The name of the request is the order's handle. It is saved before the request is made, so a
//!   restart at any moment takes up the same request, with the key that belongs to it.
//! - Who may have which names is decided by the approvers there. certmount's own name policies are
//!   for the issuers that it serves itself and do not apply.

mod certificate_request;
mod error;
mod name;
mod signing_request;
mod tracker;

use std::fmt;
use std::sync::Arc;

use kube::Client;

use self::certificate_request::{CertificateRequest, CertificateRequestIssuer};
use self::name::{Name, node_label};
use self::signing_request::{SigningRequest, SigningRequestIssuer};
use self::tracker::Tracker;
use super::{IssueError, IssueErrorKind, Issuer};
use crate::kubernetes::BearerClient;
use crate::spec::volume::IssuerRef;
use crate::x509::{Certificate, certificates_from_pem};

/// The issuers of every API group but our own.
pub struct KubernetesIssuers {
    certificate_requests: Arc<Tracker<CertificateRequest>>,
    signing_requests: Arc<Tracker<SigningRequest>>,
    home: Arc<str>,
    as_pods: Option<BearerClient>,
}

/// The group whose issuers are the signers of Kubernetes' own `CertificateSigningRequest`.
const CERTIFICATES_GROUP: &str = "certificates.k8s.io";

impl KubernetesIssuers {
    /// Asks with `client` for the volumes of the node `node_name`, and for the node itself in the
    /// namespace `home`, the driver's. Nothing is watched before the first order.
    pub fn new(client: &Client, node_name: &str, home: &str) -> Self {
        let node = node_label(node_name);
        Self {
            certificate_requests: Arc::new(Tracker::new(client.clone(), node.clone())),
            signing_requests: Arc::new(Tracker::new(client.clone(), node)),
            home: home.into(),
            as_pods: None,
        }
    }

    /// The same, but each pod asks for `CertificateRequest`s itself, with its own token. What it
    /// may ask for is then for cert-manager's approvers to judge by its service account.
    #[must_use]
    pub fn as_pods(self, client: BearerClient) -> Self {
        Self { as_pods: Some(client), ..self }
    }

    /// The way to the issuer that `reference` names; whether there is one shows when it is asked.
    pub fn issuer(&self, reference: &IssuerRef) -> Arc<dyn Issuer> {
        match reference.group.as_str() {
            CERTIFICATES_GROUP => Arc::new(SigningRequestIssuer::new(
                Arc::clone(&self.signing_requests),
                reference.name.clone(),
            )),
            _ => Arc::new(CertificateRequestIssuer::new(
                Arc::clone(&self.certificate_requests),
                reference.clone(),
                Arc::clone(&self.home),
                self.as_pods.clone(),
            )),
        }
    }
}

impl fmt::Debug for KubernetesIssuers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KubernetesIssuers")
    }
}

/// The certificates in a field of the request `name`.
fn certificates(field: &str, name: &Name, pem: &[u8]) -> Result<Vec<Certificate>, IssueError> {
    certificates_from_pem(pem).map_err(|error| {
        let message = format!("{field} of the request {name} cannot be read");
        IssueError::new(IssueErrorKind::BadResponse, message).caused_by(error)
    })
}

#[cfg(test)]
mod tests;
