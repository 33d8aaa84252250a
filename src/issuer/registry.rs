//! The issuers of this node as they are now, and word of each change.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::watch;

use super::Issuer;
use crate::spec::object::{GROUP, IssuerObject};
use crate::spec::policy::NamePolicy;
use crate::spec::volume::IssuerRef;

/// Who an [`IssuerRef`] means: namespaced issuers serve their own namespace only.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct IssuerKey {
    /// The API group, such as `certmount.dev`.
    pub group: String,
    /// `Issuer` or `ClusterIssuer`.
    pub kind: String,
    /// `None` for cluster-wide issuers.
    pub namespace: Option<String>,
    /// The name that volumes use.
    pub name: String,
}

impl IssuerKey {
    /// What volumes call `object`.
    pub fn of(object: &IssuerObject) -> Self {
        Self {
            group: GROUP.to_owned(),
            kind: object.kind.to_string(),
            namespace: object.namespace.clone(),
            name: object.name.clone(),
        }
    }
}

/// One configured issuer: ready, or with the reason why not.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Who may have which names of it.
    pub policy: NamePolicy,
    /// The issuer, or why it is not ready.
    pub issuer: Result<Arc<dyn Issuer>, String>,
}

/// All issuers at one moment.
#[derive(Clone, Debug, Default)]
pub struct IssuerSet(pub BTreeMap<IssuerKey, Entry>);

/// The current [`IssuerSet`], shared between its one writer (config) and its readers.
#[derive(Clone, Debug)]
pub struct Issuers(watch::Receiver<Arc<IssuerSet>>);

impl Issuers {
    /// The writing end for config and the reading end for everyone else.
    pub fn channel(first: IssuerSet) -> (watch::Sender<Arc<IssuerSet>>, Self) {
        let (sender, receiver) = watch::channel(Arc::new(first));
        (sender, Self(receiver))
    }

    /// The entry that `issuer` means for a pod in `namespace`.
    pub fn get(&self, issuer: &IssuerRef, namespace: &str) -> Option<Entry> {
        let namespace = (issuer.kind == "Issuer").then(|| namespace.to_owned());
        let key = IssuerKey {
            group: issuer.group.clone(),
            kind: issuer.kind.clone(),
            namespace,
            name: issuer.name.clone(),
        };
        self.0.borrow().0.get(&key).cloned()
    }

    /// Returns when the set has changed since the last call on this handle.
    pub async fn changed(&mut self) {
        if self.0.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
