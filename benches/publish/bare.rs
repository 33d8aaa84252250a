//! A client of cert-manager that is nothing else: it makes `CertificateRequest`s and hears from a
//! watch that they are issued.

use std::collections::HashMap;
use std::path::Path;
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use certmount::x509::{CertificationRequest, KeyAlgorithm, PrivateKey};
use futures_util::StreamExt as _;
use kube::api::{ApiResource, DeleteParams, DynamicObject, ListParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::GroupVersionKind;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, Config, ResourceExt as _};
use serde_json::json;
use tokio::sync::oneshot;
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

use crate::floor;
use crate::plugin::ISSUER;

/// The client. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Bare {
    requests: Api<DynamicObject>,
    made: Arc<AtomicUsize>,
    waiting: Waiting,
    _watch: Arc<AbortOnDropHandle<()>>,
}

/// Whom to tell that a request of that name is issued.
type Waiting = Arc<Mutex<HashMap<String, oneshot::Sender<()>>>>;

/// Marks its requests.
const LABEL: (&str, &str) = ("certmount.dev/client", "bare");

/// cert-manager signs within this, or never.
const PATIENCE: Duration = Duration::from_secs(120);

impl Bare {
    /// A client that asks for certificates of the Issuer in `namespace`.
    pub(crate) async fn start(kubeconfig: &Path, namespace: &str) -> Result<Self> {
        let requests = requests(kubeconfig, namespace).await?;
        let waiting = Waiting::default();
        let told = Arc::clone(&waiting);
        let watch = follow(requests.clone(), &format!("{}={}", LABEL.0, LABEL.1), move |event| {
            if let Event::Apply(object) | Event::InitApply(object) = event
                && is_issued(&object)
                && let Some(waits) = told.lock().expect("nobody panics").remove(&object.name_any())
            {
                let _ = waits.send(());
            }
        });
        Ok(Self { requests, made: Arc::default(), waiting, _watch: Arc::new(watch) })
    }

    /// How long it takes from making a request until the watch shows its certificate.
    pub(crate) async fn issue(&self) -> Result<Duration> {
        let key = PrivateKey::generate(KeyAlgorithm::EcdsaP256)?;
        let request = CertificationRequest::new(&floor::template()?, &key)?.to_pem();
        let name = format!("bare-{}", self.made.fetch_add(1, Ordering::Relaxed));
        let object = serde_json::from_value(json!({
            "apiVersion": "cert-manager.io/v1",
            "kind": "CertificateRequest",
            "metadata": {"name": name, "labels": {LABEL.0: LABEL.1}},
            "spec": {
                "request": STANDARD.encode(request),
                "issuerRef": {"name": ISSUER, "kind": "Issuer", "group": "cert-manager.io"},
                "duration": "2160h",
                "usages": ["digital signature", "key encipherment"],
            },
        }))?;
        let (waits, issued) = oneshot::channel();
        self.waiting.lock().expect("nobody panics").insert(name, waits);
        let began = Instant::now();
        self.requests.create(&PostParams::default(), &object).await?;
        timeout(PATIENCE, issued).await.context("cert-manager does not sign")??;
        Ok(began.elapsed())
    }

    /// Deletes all requests in the namespace, whoever made them.
    pub(crate) async fn clear(&self) -> Result<()> {
        let (delete, all) = (DeleteParams::default(), ListParams::default());
        self.requests.delete_collection(&delete, &all).await?;
        Ok(())
    }
}

/// The `CertificateRequest`s in `namespace`, as whom `kubeconfig` says.
pub(crate) async fn requests(kubeconfig: &Path, namespace: &str) -> Result<Api<DynamicObject>> {
    let kubeconfig = Kubeconfig::read_from(kubeconfig)?;
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    let kind = GroupVersionKind::gvk("cert-manager.io", "v1", "CertificateRequest");
    let client = Client::try_from(config)?;
    Ok(Api::namespaced_with(client, namespace, &ApiResource::from_gvk(&kind)))
}

/// Has `hear` told of all changes of the requests with `label`, as long as the answer is held.
pub(crate) fn follow(
    requests: Api<DynamicObject>,
    label: &str,
    mut hear: impl FnMut(Event<DynamicObject>) + Send + 'static,
) -> AbortOnDropHandle<()> {
    let events = watcher(requests, watcher::Config::default().labels(label)).default_backoff();
    AbortOnDropHandle::new(tokio::spawn(async move {
        let mut events = pin!(events);
        while let Some(event) = events.next().await {
            if let Ok(event) = event {
                hear(event);
            }
        }
    }))
}

fn is_issued(request: &DynamicObject) -> bool {
    let status = &request.data["status"];
    let mut conditions = status["conditions"].as_array().into_iter().flatten();
    status["certificate"].is_string()
        && conditions.any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
}
