//! `CertificateRequest`: a signature from cert-manager, or from an external issuer that serves its
//! API, after an approval.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use k8s_openapi::ByteString;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::core::NamespaceResourceScope;
use kube::{Api, Client, Resource, ResourceExt as _};
use serde::{Deserialize, Deserializer, Serialize};

use super::certificates;
use super::name::{Name, forget, labels, requester_label};
use super::tracker::{Answer, Author, Progress, Request, Tracker};
use crate::issuer::{IssueError, IssueErrorKind, Issuer, Order, default_usages};
use crate::kubernetes::{BearerClient, excerpt};
use crate::spec::volume::{IssuerRef, PodRef};
use crate::x509::{BasicConstraints, Issued};

/// Asks the issuer that a volume names, through cert-manager's API.
#[derive(Debug)]
pub(super) struct CertificateRequestIssuer {
    requests: Arc<Tracker<CertificateRequest>>,
    issuer: IssuerRef,
    /// The driver's: where it asks for what is for no namespace.
    home: Arc<str>,
    /// The way to ask as the pod; the driver asks where there is none, and for a node.
    as_pod: Option<BearerClient>,
}

impl CertificateRequestIssuer {
    pub(super) fn new(
        requests: Arc<Tracker<CertificateRequest>>,
        issuer: IssuerRef,
        home: Arc<str>,
        as_pod: Option<BearerClient>,
    ) -> Self {
        Self { requests, issuer, home, as_pod }
    }

    fn author<'a>(&'a self, order: &Order<'a>) -> Author<'a> {
        let (Some(client), Some(pod)) = (&self.as_pod, order.requester.pod()) else {
            return Author::Driver;
        };
        let PodRef { namespace, service_account, .. } = pod;
        Author::Pod {
            client,
            token: order.tokens.get(Some(API_SERVER)),
            account: format!("service account {namespace}/{service_account}"),
        }
    }
}

/// In a CSIDriver's tokenRequests, the audience that is the API server's own.
const API_SERVER: &str = "";

#[async_trait]
impl Issuer for CertificateRequestIssuer {
    async fn issue(&self, order: Order<'_>) -> Result<Issued, IssueError> {
        let namespace = order.requester.namespace().unwrap_or(&self.home);
        let name = Name::of_order(Some(namespace), &order)?;
        let make = || CertificateRequest::new(&name, self.requests.node(), &self.issuer, &order);
        let decision = self.requests.decision(&name, &self.author(&order), make).await?;
        forget(&order)?;
        self.requests.tidy(&requester_label(order.requester), &name, decision.is_ok());
        let Answer { certificate, ca } = decision?;
        Ok(Issued {
            chain: certificates("status.certificate", &name, &certificate)?,
            trust_anchors: certificates("status.ca", &name, &ca)?,
        })
    }
}

/// `cert-manager.io/v1`, as far as it is needed here.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct CertificateRequest {
    #[serde(default)]
    api_version: String,
    #[serde(default)]
    kind: String,
    #[serde(deserialize_with = "metadata")]
    metadata: ObjectMeta,
    spec: Spec,
    #[serde(default, skip_serializing)]
    status: Status,
}

/// Of the metadata what is needed here. Half of each object is who owns which of its fields, and
/// each is read several times.
fn metadata<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ObjectMeta, D::Error> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Metadata {
        name: Option<String>,
        namespace: Option<String>,
        labels: Option<BTreeMap<String, String>>,
        resource_version: Option<String>,
        uid: Option<String>,
    }
    let Metadata { name, namespace, labels, resource_version, uid } =
        Metadata::deserialize(deserializer)?;
    Ok(ObjectMeta { name, namespace, labels, resource_version, uid, ..ObjectMeta::default() })
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
struct Spec {
    /// PEM.
    request: ByteString,
    issuer_ref: IssuerReference,
    duration: Option<String>,
    #[serde(default, rename = "isCA")]
    is_ca: bool,
    #[serde(default)]
    usages: Vec<String>,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
struct IssuerReference {
    name: String,
    #[serde(default)]
    kind: String,
    #[serde(default)]
    group: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Status {
    conditions: Vec<Condition>,
    /// PEM, leaf first.
    certificate: Option<ByteString>,
    /// PEM, as far as the issuer knows its CA.
    ca: Option<ByteString>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Condition {
    #[serde(rename = "type")]
    kind: String,
    status: String,
    reason: String,
    message: String,
}

impl CertificateRequest {
    fn new(name: &Name, node: &str, issuer: &IssuerRef, order: &Order<'_>) -> Self {
        let template = default_usages(&order.spec.template);
        Self {
            api_version: Self::api_version(&()).into_owned(),
            kind: Self::kind(&()).into_owned(),
            metadata: ObjectMeta {
                name: Some(name.name.clone()),
                namespace: name.namespace.clone(),
                labels: Some(labels(node, order.requester)),
                annotations: Some(order.annotations.clone()).filter(|set| !set.is_empty()),
                // Kubernetes deletes the request when the pod is gone.
                owner_references: order.requester.pod().map(|pod| {
                    vec![OwnerReference {
                        api_version: "v1".to_owned(),
                        kind: "Pod".to_owned(),
                        name: pod.name.clone(),
                        uid: pod.uid.clone(),
                        ..OwnerReference::default()
                    }]
                }),
                ..ObjectMeta::default()
            },
            spec: Spec {
                request: ByteString(order.request.to_pem().into_bytes()),
                issuer_ref: IssuerReference {
                    name: issuer.name.clone(),
                    kind: issuer.kind.clone(),
                    group: issuer.group.clone(),
                },
                duration: Some(format!("{}s", order.spec.duration.as_secs())),
                is_ca: matches!(template.basic_constraints, BasicConstraints::Ca { .. }),
                usages: template.usages.names().collect(),
            },
            status: Status::default(),
        }
    }

    /// The condition of that type, where it is true, and for `Ready` also where it is not.
    fn condition(&self, kind: &str) -> Option<&Condition> {
        self.status.conditions.iter().find(|condition| {
            condition.kind == kind && (kind == "Ready" || condition.status == "True")
        })
    }

    /// What is wrong, for somebody who does not know where to look.
    fn refused(&self, what: &str, condition: &Condition) -> Progress {
        let said = excerpt(&condition.message);
        if said.contains(PRIVATE_KEY_ANNOTATION) {
            let message = format!(
                "{issuer} is a selfSigned issuer of cert-manager, which signs with the private key \
                 itself, and that never leaves this node: name a ClusterIssuer or Issuer of the \
                 issuer-group certmount.dev with selfSigned: {{}} instead",
                issuer = self.issuer()
            );
            return Progress::Refused(IssueErrorKind::Config, message);
        }
        let said = if said.is_empty() { excerpt(&condition.reason) } else { said };
        let message = format!("CertificateRequest {} {what}: {said}", Name::of(self));
        Progress::Refused(IssueErrorKind::Denied, message)
    }

    fn issuer(&self) -> IssuerRef {
        let IssuerReference { name, kind, group } = self.spec.issuer_ref.clone();
        IssuerRef { group, kind, name }
    }

    /// Whom approvers must be allowed to approve for: a resource name of cert-manager's `signers`.
    fn signer(&self) -> String {
        let IssuerReference { name, kind, group } = &self.spec.issuer_ref;
        let resource = format!("{}s.{group}", kind.to_lowercase());
        match self.namespace() {
            Some(namespace) if kind != "ClusterIssuer" => format!("{resource}/{namespace}.{name}"),
            _ => format!("{resource}/{name}"),
        }
    }

    /// Who has to do what.
    fn waiting(&self) -> String {
        let name = Name::of(self);
        match (self.condition("Approved"), self.condition("Ready")) {
            (_, Some(ready)) if !ready.message.is_empty() => {
                format!("CertificateRequest {name} waits: {}", excerpt(&ready.message))
            }
            (None, _) => format!(
                "CertificateRequest {name} is not approved yet: it needs somebody who may approve \
                 for {}, such as cert-manager's own approver, approver-policy, or a person with \
                 cmctl approve -n {} {}",
                self.signer(),
                name.namespace.as_deref().unwrap_or_default(),
                name.name,
            ),
            (Some(_), _) => format!(
                "CertificateRequest {name} is approved, but no controller has answered it: is the \
                 one for {} running?",
                self.issuer()
            ),
        }
    }
}

/// cert-manager's selfSigned issuer wants the name of a Secret with the key here.
const PRIVATE_KEY_ANNOTATION: &str = "cert-manager.io/private-key-secret-name";

impl Request for CertificateRequest {
    fn api(client: Client, namespace: Option<&str>) -> Api<Self> {
        match namespace {
            Some(namespace) => Api::namespaced(client, namespace),
            None => Api::all(client),
        }
    }

    fn progress(&self) -> Progress {
        if let Some(denied) = self.condition("Denied") {
            return self.refused("was denied", denied);
        }
        if let Some(invalid) = self.condition("InvalidRequest") {
            return self.refused("is not what the issuer takes", invalid);
        }
        let Some(ready) = self.condition("Ready") else {
            return Progress::Waiting(self.waiting());
        };
        match (ready.status.as_str(), ready.reason.as_str(), &self.status.certificate) {
            ("True", _, Some(certificate)) => Progress::Issued(Answer {
                certificate: certificate.0.clone(),
                ca: self.status.ca.as_ref().map_or_else(Vec::new, |ca| ca.0.clone()),
            }),
            ("True", ..) => {
                let name = Name::of(self);
                let message = format!("CertificateRequest {name} is ready without a certificate");
                Progress::Refused(IssueErrorKind::BadResponse, message)
            }
            (_, "Failed", _) => self.refused("failed", ready),
            (_, "Denied", _) => self.refused("was denied", ready),
            _ => Progress::Waiting(self.waiting()),
        }
    }
}

impl Resource for CertificateRequest {
    type DynamicType = ();
    type Scope = NamespaceResourceScope;

    fn kind((): &()) -> Cow<'_, str> {
        "CertificateRequest".into()
    }

    fn group((): &()) -> Cow<'_, str> {
        "cert-manager.io".into()
    }

    fn version((): &()) -> Cow<'_, str> {
        "v1".into()
    }

    fn plural((): &()) -> Cow<'_, str> {
        "certificaterequests".into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}
