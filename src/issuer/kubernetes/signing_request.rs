//! `CertificateSigningRequest`: a signature from a signer of Kubernetes, after an approval.
//!
//! These objects belong to no namespace, so no pod can own them. Kubernetes deletes each within an
//! hour of its decision and after a day without one, so certmount needs no right to do that.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::{
    CertificateSigningRequest, CertificateSigningRequestCondition, CertificateSigningRequestSpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::{Api, Client, ResourceExt as _};

use super::certificates;
use super::name::{Name, forget, labels};
use super::tracker::{Answer, Author, Progress, Request, Tracker};
use crate::issuer::{IssueError, IssueErrorKind, Issuer, Order, Requester, default_usages};
use crate::kubernetes::excerpt;
use crate::x509::Issued;

/// The object of Kubernetes' own API.
pub(super) type SigningRequest = CertificateSigningRequest;

/// Asks the signer that a volume names as its issuer.
#[derive(Debug)]
pub(super) struct SigningRequestIssuer {
    requests: Arc<Tracker<SigningRequest>>,
    signer: String,
}

impl SigningRequestIssuer {
    pub(super) fn new(requests: Arc<Tracker<SigningRequest>>, signer: String) -> Self {
        Self { requests, signer }
    }
}

#[async_trait]
impl Issuer for SigningRequestIssuer {
    async fn issue(&self, order: Order<'_>) -> Result<Issued, IssueError> {
        let name = Name::of_order(None, &order)?;
        let make = || request(&name, self.requests.node(), &self.signer, &order);
        let decision = self.requests.decision(&name, &Author::Driver, make).await?;
        forget(&order)?;
        let chain = certificates("status.certificate", &name, &decision?.certificate)?;
        Ok(Issued { chain, trust_anchors: Vec::new() })
    }
}

fn request(name: &Name, node: &str, signer: &str, order: &Order<'_>) -> SigningRequest {
    // For approvers: who asks for it. The API server says only that the driver does.
    let asking = match order.requester {
        Requester::Volume { pod, .. } => vec![
            ("certmount.dev/pod-namespace", pod.namespace.clone()),
            ("certmount.dev/pod-name", pod.name.clone()),
            ("certmount.dev/pod-uid", pod.uid.clone()),
            ("certmount.dev/service-account", pod.service_account.clone()),
        ],
        Requester::Node { name, issuer } => vec![
            ("certmount.dev/node", name.to_owned()),
            ("certmount.dev/issuer", issuer.to_string()),
        ],
    };
    let asking = asking.into_iter().map(|(key, value)| (key.to_owned(), value));
    let annotations = order.annotations.clone().into_iter().chain(asking);
    let template = default_usages(&order.spec.template);
    SigningRequest {
        metadata: ObjectMeta {
            name: Some(name.name.clone()),
            labels: Some(labels(node, order.requester)),
            annotations: Some(annotations.collect::<BTreeMap<_, _>>()),
            ..ObjectMeta::default()
        },
        spec: CertificateSigningRequestSpec {
            request: ByteString(order.request.to_pem().into_bytes()),
            signer_name: signer.to_owned(),
            expiration_seconds: i32::try_from(order.spec.duration.as_secs()).ok(),
            usages: Some(template.usages.names().collect()),
            ..CertificateSigningRequestSpec::default()
        },
        status: None,
    }
}

impl Request for SigningRequest {
    fn api(client: Client, _: Option<&str>) -> Api<Self> {
        Api::all(client)
    }

    fn progress(&self) -> Progress {
        let name = self.name_any();
        let status = self.status.as_ref();
        let condition = |kind: &str| {
            let conditions = status.and_then(|status| status.conditions.as_ref());
            conditions.into_iter().flatten().find(|condition| condition.type_ == kind)
        };
        let refused = |what: &str, condition: &CertificateSigningRequestCondition| {
            let said = condition.message.as_ref().or(condition.reason.as_ref());
            let said = excerpt(said.map_or("", String::as_str));
            let message = format!("CertificateSigningRequest {name} {what}: {said}");
            Progress::Refused(IssueErrorKind::Denied, message)
        };
        if let Some(denied) = condition("Denied") {
            return refused("was denied", denied);
        }
        if let Some(failed) = condition("Failed") {
            return refused("failed", failed);
        }
        let certificate = status.and_then(|status| status.certificate.as_ref());
        if let Some(certificate) = certificate.filter(|certificate| !certificate.0.is_empty()) {
            let certificate = certificate.0.clone();
            return Progress::Issued(Answer { certificate, ca: Vec::new() });
        }
        let signer = &self.spec.signer_name;
        Progress::Waiting(match condition("Approved") {
            None => format!(
                "CertificateSigningRequest {name} is not approved yet: it needs somebody who may \
                 approve for the signer {signer}, such as its own controller, or a person with \
                 kubectl certificate approve {name}"
            ),
            Some(_) => format!(
                "CertificateSigningRequest {name} is approved, but the signer {signer} has not \
                 answered it: is its controller running?"
            ),
        })
    }
}
