//! Trust anchors that volumes take from elsewhere than their issuer: from ConfigMaps and
//! ClusterTrustBundles.
//!
//! What this promises:
//!
//! - A source is followed once on a node, however many volumes name it, and for as long as one does.
//!   Nothing is polled.
//! - What was read of a source stays in force while it is away or wrong: a mistake there never makes
//!   a pod trust less.
//! - A problem says what is wrong with which source, and what to do.

mod kubernetes;

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, Weak};

use futures_util::future::select_all;
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use crate::error::with_causes;
use crate::kubernetes::{Access, excerpt};
use crate::spec::volume::TrustRef;
use crate::sync::lock;
use crate::x509::{Certificate, MOST_TRUST_ANCHORS, certificates_from_pem};

/// The way to every source. Cheap to clone.
#[derive(Clone, Debug)]
pub struct AnchorSources(Arc<Shared>);

/// The sources of one volume, followed while this is there.
#[derive(Clone, Debug)]
pub struct Anchors(Vec<Followed>);

/// Why the anchors of a source are not known, or not as they should be.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Problem {
    /// It could not be read yet; that is tried again.
    Unread(String),
    /// Somebody has something to correct.
    Wrong(String),
}

/// The ConfigMaps of a driver without the Kubernetes API, by namespace and name. One without a
/// namespace is there for the pods of each.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct ConfigMaps(pub BTreeMap<(Option<String>, String), BTreeMap<String, String>>);

#[derive(Debug)]
struct Shared {
    origin: Origin,
    sources: Mutex<HashMap<Place, Weak<Source>>>,
}

#[derive(Debug)]
enum Origin {
    Kubernetes(Access),
    Objects(watch::Receiver<Arc<ConfigMaps>>),
}

#[derive(Clone, Debug)]
struct Followed {
    known: watch::Receiver<Known>,
    _source: Arc<Source>,
}

#[derive(Debug)]
struct Source {
    known: watch::Receiver<Known>,
    _task: AbortOnDropHandle<()>,
}

/// What is known of a source; nothing at first.
#[derive(Clone, Debug, Default, PartialEq)]
struct Known {
    /// As last read without a mistake.
    anchors: Option<Arc<[Certificate]>>,
    problem: Option<Problem>,
}

/// A source, and whose it is.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
struct Place {
    /// `None` for what belongs to no namespace.
    namespace: Option<String>,
    reference: TrustRef,
}

impl AnchorSources {
    /// Sources in a cluster. Takes the right to list and watch what volumes name.
    pub fn of_cluster(access: Access) -> Self {
        Self::new(Origin::Kubernetes(access))
    }

    /// Sources without a cluster: ConfigMaps as they are now.
    pub fn of_objects(config_maps: watch::Receiver<Arc<ConfigMaps>>) -> Self {
        Self::new(Origin::Objects(config_maps))
    }

    fn new(origin: Origin) -> Self {
        Self(Arc::new(Shared { origin, sources: Mutex::default() }))
    }

    /// Follows what a volume of a pod in `namespace` names.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime, where it names anything.
    pub fn follow(&self, namespace: &str, references: &[TrustRef]) -> Anchors {
        let mut sources = lock(&self.0.sources);
        sources.retain(|_, source| source.strong_count() > 0);
        let mut follow = |reference: &TrustRef| {
            let place = Place::of(namespace, reference);
            let source = sources.get(&place).and_then(Weak::upgrade).unwrap_or_else(|| {
                let source = Arc::new(self.0.origin.start(place.clone()));
                sources.insert(place, Arc::downgrade(&source));
                source
            });
            Followed { known: source.known.clone(), _source: source }
        };
        Anchors(references.iter().map(&mut follow).collect())
    }
}

impl Anchors {
    /// Returns when something has changed since the last call on this handle.
    pub async fn changed(&mut self) {
        let changes = self.0.iter_mut().map(|followed| Box::pin(followed.changed()));
        match changes.len() {
            0 => std::future::pending().await,
            _ => drop(select_all(changes).await),
        }
    }

    /// Returns when of each source either the anchors are known or a problem.
    pub async fn settled(&mut self) {
        for Followed { known, .. } in &mut self.0 {
            let settled =
                known.wait_for(|known| known.anchors.is_some() || known.problem.is_some());
            // Whoever follows it has broken down: there is nothing to wait for.
            let _ = settled.await;
        }
    }

    /// All anchors, each once; `None` while those of a source are not known, or where they are more
    /// than a volume holds.
    pub fn known(&self) -> Option<Vec<Certificate>> {
        self.all().filter(|all| all.len() <= MOST_TRUST_ANCHORS)
    }

    fn all(&self) -> Option<Vec<Certificate>> {
        let mut all: Vec<Certificate> = Vec::new();
        for Followed { known, .. } in &self.0 {
            all.extend(known.borrow().anchors.as_ref()?.iter().cloned());
        }
        Some(each_once(all))
    }

    /// One problem of the sources, if there is any; what somebody has to correct comes first.
    pub fn problem(&self) -> Option<Problem> {
        let of_sources = self.0.iter().filter_map(|it| it.known.borrow().problem.clone());
        let count = self.all().map_or(0, |all| all.len());
        let of_all = (count > MOST_TRUST_ANCHORS).then(|| {
            Problem::Wrong(format!("trust-config-maps and trust-bundles: {}", too_many_of(count)))
        });
        of_sources.chain(of_all).min_by_key(|problem| matches!(problem, Problem::Unread(_)))
    }
}

impl Followed {
    async fn changed(&mut self) {
        if self.known.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

impl Origin {
    fn start(&self, place: Place) -> Source {
        let (sender, known) = watch::channel(Known::default());
        let feed = Feed { place, known: sender };
        let task = match self {
            Self::Kubernetes(access) => tokio::spawn(kubernetes::follow(access.clone(), feed)),
            Self::Objects(config_maps) => tokio::spawn(feed.follow_objects(config_maps.clone())),
        };
        Source { known, _task: AbortOnDropHandle::new(task) }
    }
}

/// Makes known what is read of a source.
struct Feed {
    place: Place,
    known: watch::Sender<Known>,
}

/// What an object of a source holds.
#[derive(Debug)]
enum Found {
    /// PEM, it is hoped.
    Text(String),
    /// Other keys than the one that is meant.
    Keys(Vec<String>),
}

impl Feed {
    /// These are all objects of the source, by name.
    fn read(&self, found: &BTreeMap<String, Found>) {
        let anchors = self.place.anchors(found);
        self.known.send_if_modified(|known| {
            let now = match anchors {
                Ok(anchors) => Known { anchors: Some(anchors), problem: None },
                Err(message) => {
                    Known { problem: Some(Problem::Wrong(message)), anchors: known.anchors.clone() }
                }
            };
            let differ = *known != now;
            *known = now;
            differ
        });
    }

    /// It cannot be read at present, which matters only where it never was.
    fn cannot_read(&self, reason: &str) {
        let problem = Problem::Unread(format!("{} cannot be read: {reason}", self.place));
        self.known.send_if_modified(|known| {
            let matters = known.anchors.is_none() && known.problem.as_ref() != Some(&problem);
            if matters {
                known.problem = Some(problem);
            }
            matters
        });
    }

    async fn follow_objects(self, mut config_maps: watch::Receiver<Arc<ConfigMaps>>) {
        let Place { namespace, reference } = &self.place;
        let TrustRef::ConfigMap { name, key } = reference else {
            self.cannot_read(
                "there are ClusterTrustBundles in the Kubernetes API only, and this driver was \
                 started without it: use trust-config-maps",
            );
            return std::future::pending().await;
        };
        loop {
            let found = {
                let config_maps = config_maps.borrow_and_update();
                let get = |namespace| config_maps.0.get(&(namespace, name.clone()));
                let data = get(namespace.clone()).or_else(|| get(None));
                data.map(|data| (name.clone(), Found::of(data, key)))
            };
            self.read(&found.into_iter().collect());
            if config_maps.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }
}

impl Found {
    /// What the ConfigMap with `data` holds under `key`.
    fn of(data: &BTreeMap<String, String>, key: &str) -> Self {
        match data.get(key) {
            Some(text) => Self::Text(text.clone()),
            None => Self::Keys(data.keys().cloned().collect()),
        }
    }
}

impl Place {
    fn of(namespace: &str, reference: &TrustRef) -> Self {
        let namespace = match reference {
            TrustRef::ConfigMap { .. } => Some(namespace.to_owned()),
            TrustRef::Bundle(_) | TrustRef::Signer(_) => None,
        };
        Self { namespace, reference: reference.clone() }
    }

    /// The certificates in all of `found`.
    fn anchors(&self, found: &BTreeMap<String, Found>) -> Result<Arc<[Certificate]>, String> {
        let mut anchors = Vec::new();
        for found in found.values() {
            let text = match found {
                Found::Text(text) => text,
                Found::Keys(keys) => return Err(self.lacks_key(keys)),
            };
            let certificates = certificates_from_pem(text.as_bytes())
                .map_err(|error| format!("{self}: {}; correct it", with_causes(&error)))?;
            if certificates.is_empty() {
                return Err(format!("{self}: there is no certificate in PEM; correct it"));
            }
            anchors.extend(certificates);
        }
        if anchors.is_empty() {
            return Err(format!(
                "there is no {self}, which {} names: create it, or correct the attribute",
                self.attribute()
            ));
        }
        let anchors = each_once(anchors);
        if anchors.len() > MOST_TRUST_ANCHORS {
            return Err(format!("{self}: {}", too_many_of(anchors.len())));
        }
        Ok(anchors.into())
    }

    fn lacks_key(&self, keys: &[String]) -> String {
        let keys = match keys {
            [] => "it is empty".to_owned(),
            keys => format!("it has {}", excerpt(&keys.join(", "))),
        };
        let key = match &self.reference {
            TrustRef::ConfigMap { key, .. } => key.as_str(),
            TrustRef::Bundle(_) | TrustRef::Signer(_) => "text",
        };
        format!("{self}: there is no {key} in it; {keys}: write name/key into trust-config-maps")
    }

    fn attribute(&self) -> &'static str {
        match &self.reference {
            TrustRef::ConfigMap { .. } => "trust-config-maps",
            TrustRef::Bundle(_) | TrustRef::Signer(_) => "trust-bundles",
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let namespace = self.namespace.as_deref().unwrap_or_default();
        match &self.reference {
            TrustRef::ConfigMap { name, .. } => write!(f, "ConfigMap {namespace}/{name}"),
            TrustRef::Bundle(name) => write!(f, "ClusterTrustBundle {name}"),
            TrustRef::Signer(signer) => write!(f, "ClusterTrustBundle of the signer {signer}"),
        }
    }
}

fn too_many_of(count: usize) -> String {
    format!(
        "there are {count} certificates, and a volume holds {MOST_TRUST_ANCHORS} at most; leave \
         out those that nobody needs"
    )
}

fn each_once(anchors: Vec<Certificate>) -> Vec<Certificate> {
    let mut once: Vec<Certificate> = Vec::with_capacity(anchors.len());
    for anchor in anchors {
        if !once.iter().any(|other| other.der() == anchor.der()) {
            once.push(anchor);
        }
    }
    once
}

#[cfg(test)]
mod tests;
