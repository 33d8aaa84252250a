//! Sources in the Kubernetes API: one watch for each.

use std::collections::BTreeMap;
use std::pin::pin;
use std::time::Duration;

use futures_util::StreamExt as _;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Config, Event, watcher};
use kube::{Api, ResourceExt as _};
use serde_json::Value;

use super::{Feed, Found};
use crate::kubernetes::{Access, watch_reason};
use crate::spec::volume::TrustRef;

/// Follows the source of `feed` for ever.
pub(super) async fn follow(access: Access, feed: Feed) {
    let (versions, fields) = match &feed.place.reference {
        TrustRef::ConfigMap { name, .. } => {
            (vec![ApiResource::erase::<ConfigMap>(&())], format!("metadata.name={name}"))
        }
        TrustRef::Bundle(name) => (bundles(), format!("metadata.name={name}")),
        TrustRef::Signer(signer) => (bundles(), format!("spec.signerName={signer}")),
    };
    loop {
        for version in &versions {
            let client = access.client.clone();
            let objects = match &feed.place.namespace {
                Some(namespace) => Api::namespaced_with(client, namespace, version),
                None => Api::all_with(client, version),
            };
            while_served(objects, &fields, &feed).await;
        }
        feed.cannot_read(NOT_SERVED);
        tokio::time::sleep(UNTIL_SERVED).await;
    }
}

/// The newest version comes first.
fn bundles() -> Vec<ApiResource> {
    let versions = ["v1", "v1beta1"].into_iter();
    let kinds = versions
        .map(|version| GroupVersionKind::gvk("certificates.k8s.io", version, "ClusterTrustBundle"));
    kinds.map(|kind| ApiResource::from_gvk(&kind)).collect()
}

const NOT_SERVED: &str = "the API server does not serve ClusterTrustBundles: before Kubernetes 1.37 \
                          it needs the feature gate ClusterTrustBundle=true and \
                          --runtime-config=certificates.k8s.io/v1beta1/clustertrustbundles=true; or \
                          use trust-config-maps";

/// API servers are changed by a restart, which is seldom.
const UNTIL_SERVED: Duration = Duration::from_secs(60);

/// Returns when the API server does not know such objects.
async fn while_served(objects: Api<DynamicObject>, fields: &str, feed: &Feed) {
    let events = watcher(objects, Config::default().fields(fields)).default_backoff();
    let mut events = pin!(events);
    let mut found = BTreeMap::new();
    while let Some(event) = events.next().await {
        match event {
            Ok(Event::Init) => found.clear(),
            Ok(Event::InitApply(object)) => {
                found.insert(object.name_any(), feed.found(&object));
            }
            Ok(Event::InitDone) => feed.read(&found),
            Ok(Event::Apply(object)) => {
                found.insert(object.name_any(), feed.found(&object));
                feed.read(&found);
            }
            Ok(Event::Delete(object)) => {
                found.remove(&object.name_any());
                feed.read(&found);
            }
            Err(error) => match code(&error) {
                Some(404) => return,
                // The server has forgotten what it had told last; all is listed anew.
                Some(410) => {}
                Some(403) => feed.cannot_read(&format!("{}; {MAY_NOT}", watch_reason(&error))),
                _ => feed.cannot_read(&watch_reason(&error)),
            },
        }
    }
}

const MAY_NOT: &str = "let the driver list and watch it, with trust.configMaps of the chart for \
                       ConfigMaps";

fn code(error: &watcher::Error) -> Option<u16> {
    match error {
        watcher::Error::InitialListFailed(kube::Error::Api(status))
        | watcher::Error::WatchStartFailed(kube::Error::Api(status))
        | watcher::Error::WatchFailed(kube::Error::Api(status)) => Some(status.code),
        watcher::Error::WatchError(status) => Some(status.code),
        _ => None,
    }
}

impl Feed {
    fn found(&self, object: &DynamicObject) -> Found {
        let text = |value: &Value| value.as_str().map(str::to_owned);
        match &self.place.reference {
            TrustRef::ConfigMap { key, .. } => {
                let data = object.data["data"].as_object().into_iter().flatten();
                let data = data.filter_map(|(key, value)| Some((key.clone(), text(value)?)));
                Found::of(&data.collect(), key)
            }
            TrustRef::Bundle(_) | TrustRef::Signer(_) => {
                Found::Text(text(&object.data["spec"]["trustBundle"]).unwrap_or_default())
            }
        }
    }
}
