//! The issuers of this node as they are now, and word of each change.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, Weak};

use tokio::sync::watch;
use zeroize::Zeroizing;

use super::{Issuer, KubernetesIssuers, StateStore};
use crate::spec::object::{GROUP, IssuerObject};
use crate::spec::policy::NamePolicy;
use crate::spec::volume::IssuerRef;
use crate::sync::lock;

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

impl WeakIssuers {
    /// The issuers, while somebody looks at them; changes count from now on.
    pub fn upgrade(&self) -> Option<Issuers> {
        let shared = self.0.upgrade()?;
        let mut own = shared.own.clone();
        own.mark_unchanged();
        Some(Issuers { own, shared })
    }
}

impl FromIterator<(IssuerKey, Entry)> for IssuerSet {
    fn from_iter<I: IntoIterator<Item = (IssuerKey, Entry)>>(issuers: I) -> Self {
        Self { issuers: issuers.into_iter().collect(), ..Self::default() }
    }
}

impl IssuerKey {
    /// Whom `issuer` means for a pod in `namespace`.
    pub fn meant_by(issuer: &IssuerRef, namespace: &str) -> Self {
        let IssuerRef { group, kind, name } = issuer.clone();
        let namespace = (kind == "Issuer").then(|| namespace.to_owned());
        Self { group, kind, namespace, name }
    }

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
    /// Who may have which names of it; `None` where others decide that.
    pub policy: Option<NamePolicy>,
    /// The issuer, or why it is not ready.
    pub issuer: Result<Arc<dyn Issuer>, String>,
}

impl Entry {
    /// Whether volumes would see no difference between the two.
    pub fn is_same(&self, other: &Self) -> bool {
        let same_issuer = match (&self.issuer, &other.issuer) {
            (Ok(one), Ok(other)) => Arc::ptr_eq(one, other),
            (Err(one), Err(other)) => one == other,
            _ => false,
        };
        same_issuer && self.policy == other.policy
    }
}

/// All issuers at one moment.
#[derive(Clone, Debug, Default)]
pub struct IssuerSet {
    /// Each by what volumes call it.
    pub issuers: BTreeMap<IssuerKey, Entry>,
    /// Why there may be more, which could not be read yet.
    pub unread: Option<String>,
    /// Whether something was passed over that cannot be read: it may be one more.
    pub is_partial: bool,
}

impl IssuerSet {
    /// Whether one of the issuers keeps something under `name`.
    fn keeps(&self, name: &str) -> bool {
        let mut issuers = self.issuers.values().filter_map(|entry| entry.issuer.as_ref().ok());
        issuers.any(|issuer| issuer.keeps().iter().any(|kept| kept == name))
    }
}

/// The current [`IssuerSet`], shared between its one writer (config) and its readers, and the way
/// to the issuers of other API groups.
#[derive(Clone, Debug)]
pub struct Issuers {
    own: watch::Receiver<Arc<IssuerSet>>,
    shared: Arc<Shared>,
}

/// [`Issuers`] for one of them to keep: it does not keep them alive.
#[derive(Clone, Debug)]
pub struct WeakIssuers(Weak<Shared>);

/// What all clones of [`Issuers`] have in common.
#[derive(Debug)]
struct Shared {
    own: watch::Receiver<Arc<IssuerSet>>,
    foreign: Option<Arc<KubernetesIssuers>>,
    state: Option<Arc<dyn StateStore>>,
    /// Held while what is kept there changes.
    keeping: Mutex<()>,
}

impl Issuers {
    /// The writing end for config and the reading end for everyone else.
    pub fn channel(first: IssuerSet) -> (watch::Sender<Arc<IssuerSet>>, Self) {
        let (sender, receiver) = watch::channel(Arc::new(first));
        (sender, Self::new(receiver, None, None))
    }

    /// The same with the issuers of other API groups.
    #[must_use]
    pub fn with_foreign(self, foreign: KubernetesIssuers) -> Self {
        let state = self.shared.state.clone();
        Self::new(self.own, Some(Arc::new(foreign)), state)
    }

    /// The same with a place for what issuers keep across restarts.
    #[must_use]
    pub fn with_state(self, state: Arc<dyn StateStore>) -> Self {
        let foreign = self.shared.foreign.clone();
        Self::new(self.own, foreign, Some(state))
    }

    fn new(
        own: watch::Receiver<Arc<IssuerSet>>,
        foreign: Option<Arc<KubernetesIssuers>>,
        state: Option<Arc<dyn StateStore>>,
    ) -> Self {
        let keeping = Mutex::default();
        Self { shared: Arc::new(Shared { own: own.clone(), foreign, state, keeping }), own }
    }

    /// What an issuer has kept under `name`, if there is a place for what must survive a restart.
    ///
    /// # Errors
    ///
    /// When it is there but cannot be read.
    pub fn kept(&self, name: &str) -> io::Result<Option<Zeroizing<Vec<u8>>>> {
        self.shared.state.as_ref().map_or(Ok(None), |state| state.load(name))
    }

    /// Keeps `bytes` under one of the names in [`Issuer::keeps`], where there is a place for it.
    ///
    /// # Errors
    ///
    /// When that fails, and when the issuer is not one of them any more: nobody would remove it.
    pub fn keep(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let Some(state) = &self.shared.state else { return Ok(()) };
        let _turn = lock(&self.shared.keeping);
        if !self.own.borrow().keeps(name) {
            return Err(io::Error::other("the issuer is not there any more"));
        }
        state.store(name, bytes)
    }

    /// Removes what issuers have kept that are there no more, or sign in another way now. What
    /// cannot be read counts as there.
    ///
    /// # Errors
    ///
    /// When something cannot be removed.
    pub fn tidy(&self) -> io::Result<()> {
        let Some(state) = &self.shared.state else { return Ok(()) };
        let _turn = lock(&self.shared.keeping);
        let set = Arc::clone(&self.own.borrow());
        if set.unread.is_some() || set.is_partial {
            return Ok(());
        }
        state
            .names()?
            .iter()
            .filter(|name| !set.keeps(name))
            .try_for_each(|name| state.remove(name))
    }

    /// The same to keep in an issuer, which is one of them.
    pub fn downgrade(&self) -> WeakIssuers {
        WeakIssuers(Arc::downgrade(&self.shared))
    }

    /// Whether nobody else looks at them.
    pub fn is_last(&self) -> bool {
        Arc::strong_count(&self.shared) == 1
    }

    /// The entry that `issuer` means for a pod in `namespace`.
    ///
    /// An issuer of another group always has one: whether it exists shows when it is asked.
    pub fn get(&self, issuer: &IssuerRef, namespace: &str) -> Option<Entry> {
        if issuer.group != GROUP {
            return Some(self.foreign(issuer));
        }
        let key = IssuerKey::meant_by(issuer, namespace);
        let set = self.own.borrow();
        let unread = || {
            let reason = set.unread.as_ref()?;
            Some(Entry { policy: None, issuer: Err(format!("it could not be read yet: {reason}")) })
        };
        set.issuers.get(&key).cloned().or_else(unread)
    }

    fn foreign(&self, issuer: &IssuerRef) -> Entry {
        let issuer = match &self.shared.foreign {
            Some(foreign) => Ok(foreign.issuer(issuer)),
            None => Err(format!(
                "issuers of the group {} are asked through the Kubernetes API, and this driver was \
                 started without it: take out issuer-group, or start the driver with --kubernetes",
                issuer.group
            )),
        };
        Entry { policy: None, issuer }
    }

    /// All that are configured, as they are now.
    pub fn configured(&self) -> Arc<IssuerSet> {
        Arc::clone(&self.own.borrow())
    }

    /// Has every issuer give back what it holds at its CA.
    pub async fn close(&self) {
        let set = self.configured();
        let issuers = set.issuers.values().filter_map(|entry| entry.issuer.as_ref().ok());
        futures_util::future::join_all(issuers.map(|issuer| issuer.close())).await;
    }

    /// Returns when the set has been read, at once unless it is the first.
    pub async fn read(&mut self) {
        if self.own.wait_for(|set| set.unread.is_none()).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Returns when the set has changed since the last call on this handle.
    pub async fn changed(&mut self) {
        if self.own.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// `kind name`, or `kind namespace/name`.
impl fmt::Display for IssuerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.namespace {
            Some(namespace) => write!(f, "{} {namespace}/{}", self.kind, self.name),
            None => write!(f, "{} {}", self.kind, self.name),
        }
    }
}
