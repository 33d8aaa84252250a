//! Issuers from the Kubernetes API: `ClusterIssuer`s, `Issuer`s where the operator wants them, and
//! the Secrets that they refer to.
//!
//! What this promises:
//!
//! - Everything is watched, and a change is in force as soon as it is heard of. Files that
//!   `ca.files` names are read again every minute.
//! - Secrets are asked for one by one, by name: in the driver's own namespace for a
//!   `ClusterIssuer`, in the issuer's for an `Issuer`. No right to list Secrets is needed.
//! - What was read stays in force while the API server cannot be reached, and an object with an
//!   error leaves what it said before in force.
//! - Until everything was read once, an issuer that is not known is one that could not be read yet.

mod crds;
mod watches;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio_util::task::AbortOnDropHandle;

pub use crds::{crds, crds_yaml};

use self::watches::{Heard, Subject, Watcher};
use super::assemble::{Assembler, Placed};
use super::follow::make_known;
use super::{Problem, Running, Severity};
use crate::anchors::AnchorSources;
use crate::issuer::{IssuerSet, Issuers, Surroundings};
use crate::kubernetes::Access;
use crate::spec::object::{IssuerKind, Object};
use crate::spec::policy::Cluster;

/// Whose issuers are served.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Scope {
    /// Those of the cluster's operators only.
    ClusterIssuers,
    /// Also the `Issuer`s of these namespaces, which whoever may write them there makes.
    Namespaces(BTreeSet<String>),
    /// Also `Issuer`s, whatever their namespace.
    AllIssuers,
}

impl Scope {
    fn holds(&self, (kind, namespace, _): &IssuerName) -> bool {
        match (kind, self) {
            (IssuerKind::ClusterIssuer, _) | (_, Self::AllIssuers) => true,
            (IssuerKind::Issuer, Self::ClusterIssuers) => false,
            (IssuerKind::Issuer, Self::Namespaces(served)) => {
                namespace.as_ref().is_some_and(|namespace| served.contains(namespace))
            }
        }
    }
}

/// Follows the issuers in a task of its own, until nobody looks at them any more.
///
/// # Panics
///
/// Outside of a tokio runtime.
pub fn start(
    access: &Access,
    scope: Scope,
    cluster: Cluster,
    surroundings: Surroundings,
) -> Running {
    let (heard, hearing) = mpsc::channel(MOST_UNHEARD);
    let watcher = Watcher::new(access.client.clone(), heard);
    let assembler = Assembler::of_cluster(access.clone(), cluster, surroundings);
    let mut source = Source::new(access.namespace.clone(), scope, assembler, watcher);
    source.watch(Subject::Issuers(IssuerKind::ClusterIssuer));
    if source.scope != Scope::ClusterIssuers {
        source.watch(Subject::Issuers(IssuerKind::Issuer));
    }
    let first = IssuerSet { unread: Some(source.unread_reason()), ..IssuerSet::default() };
    let (issuers_out, issuers) = Issuers::channel(first);
    let (problems_out, problems) = watch::channel(Vec::new());
    tokio::spawn(follow(source, hearing, issuers_out, problems_out));
    Running { issuers, anchors: AnchorSources::of_cluster(access.clone()), problems }
}

/// How many changes may wait to be taken up.
const MOST_UNHEARD: usize = 64;

/// How often everything is looked at though nothing was heard: files change, and CAs grow old.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

async fn follow(
    mut source: Source,
    mut hearing: mpsc::Receiver<Heard>,
    issuers: watch::Sender<Arc<IssuerSet>>,
    problems: watch::Sender<Vec<Problem>>,
) {
    loop {
        tokio::select! {
            heard = hearing.recv() => {
                // The source keeps a sender.
                let Some(heard) = heard else { return };
                source.take(heard);
                while let Ok(heard) = hearing.try_recv() {
                    source.take(heard);
                }
            }
            () = tokio::time::sleep(LOOK_AGAIN) => {}
            () = issuers.closed() => return,
        }
        source.watch_secrets();
        if source.is_reading() {
            continue;
        }
        // Reads files and parses keys.
        let assembled = tokio::task::spawn_blocking(move || {
            let assembled = source.assemble();
            (source, assembled)
        });
        let (set, said);
        match assembled.await {
            Ok(assembled) => (source, (set, said)) = assembled,
            // The runtime shuts down; a panic was reported when it happened.
            Err(_) => return,
        }
        make_known(set, said, &issuers, &problems);
    }
}

/// What was read, and what is watched.
struct Source {
    /// The driver's.
    namespace: String,
    scope: Scope,
    assembler: Assembler,
    watcher: Watcher,
    watched: BTreeMap<Subject, Watched>,
    issuers: BTreeMap<IssuerName, Held>,
    secrets: BTreeMap<SecretName, Object>,
}

/// Kind, namespace and name.
type IssuerName = (IssuerKind, Option<String>, String);

/// Namespace and name.
pub(super) type SecretName = (String, String);

/// A subject's watch.
struct Watched {
    _task: AbortOnDropHandle<()>,
    /// Whether all of it was read once.
    read: bool,
    /// Why it does not go on.
    trouble: Option<String>,
}

/// An issuer object.
#[derive(Default)]
struct Held {
    /// What is in force.
    object: Option<Object>,
    /// What is wrong with it as it is.
    error: Option<String>,
}

impl Source {
    fn new(namespace: String, scope: Scope, assembler: Assembler, watcher: Watcher) -> Self {
        Self {
            namespace,
            scope,
            assembler,
            watcher,
            watched: BTreeMap::new(),
            issuers: BTreeMap::new(),
            secrets: BTreeMap::new(),
        }
    }

    fn watch(&mut self, subject: Subject) {
        let watcher = &self.watcher;
        self.watched.entry(subject.clone()).or_insert_with(|| Watched {
            _task: watcher.watch(subject),
            read: false,
            trouble: None,
        });
    }

    /// Watches the Secrets that issuers need now, and no others.
    fn watch_secrets(&mut self) {
        let needed: BTreeSet<SecretName> = self.needed_secrets().collect();
        self.watched.retain(|subject, _| match subject {
            Subject::Secret(name) => needed.contains(name),
            Subject::Issuers(_) => true,
        });
        self.secrets.retain(|name, _| needed.contains(name));
        needed.into_iter().for_each(|name| self.watch(Subject::Secret(name)));
    }

    fn needed_secrets(&self) -> impl Iterator<Item = SecretName> {
        let objects = self.issuers.values().filter_map(|held| held.object.as_ref());
        let issuers = objects.filter_map(|object| match object {
            Object::Issuer(issuer) => Some(issuer),
            Object::ConfigMap(_) | Object::Secret(_) => None,
        });
        issuers.flat_map(|issuer| {
            let namespace = issuer.namespace.as_ref().unwrap_or(&self.namespace);
            issuer.spec.method.secrets().map(|name| (namespace.clone(), name.to_owned()))
        })
    }

    fn take(&mut self, heard: Heard) {
        match heard {
            Heard::Issuer { name, .. } if !self.scope.holds(&name) => {}
            Heard::Issuer { name, read: Some(read) } => {
                let held = self.issuers.entry(name).or_default();
                match read {
                    Ok(object) => *held = Held { object: Some(object), error: None },
                    Err(error) => held.error = Some(error),
                }
            }
            Heard::Issuer { name, read: None } => {
                self.issuers.remove(&name);
            }
            Heard::All { kind, names } => {
                self.issuers.retain(|name, _| name.0 != kind || names.contains(name));
                self.note_read(&Subject::Issuers(kind));
            }
            Heard::Secret { name, secret } => {
                match secret {
                    Some(secret) => self.secrets.insert(name.clone(), Object::Secret(secret)),
                    None => self.secrets.remove(&name),
                };
                self.note_read(&Subject::Secret(name));
            }
            Heard::Trouble { subject, reason } => {
                if let Some(watched) = self.watched.get_mut(&subject) {
                    watched.trouble = Some(reason);
                }
            }
            Heard::GoesOn { subject } => {
                if let Some(watched) = self.watched.get_mut(&subject) {
                    watched.trouble = None;
                }
            }
        }
    }

    fn note_read(&mut self, subject: &Subject) {
        if let Some(watched) = self.watched.get_mut(subject) {
            watched.read = true;
            watched.trouble = None;
        }
    }

    /// Whether there is something that will be read at any moment, so that to answer now would be
    /// to answer with half of it.
    fn is_reading(&self) -> bool {
        self.watched.values().any(|watched| !watched.read && watched.trouble.is_none())
    }

    /// Why not all issuers are known.
    fn unread(&self) -> Option<String> {
        let issuers = self.watched.iter().filter(|(subject, _)| subject.is_issuers());
        let unread = issuers.filter(|(_, watched)| !watched.read).map(|(_, watched)| watched);
        unread.map(|watched| watched.trouble.clone()).next().map(|trouble| {
            trouble.unwrap_or_else(|| "the API server has not answered yet".to_owned())
        })
    }

    fn unread_reason(&self) -> String {
        self.unread().unwrap_or_default()
    }

    /// What is in force now and what is wrong.
    fn assemble(&mut self) -> (IssuerSet, Vec<Problem>) {
        let issuers = self.issuers.values().filter_map(|held| held.object.as_ref());
        let objects = issuers.chain(self.secrets.values());
        let objects = objects.map(|object| Placed { place: None, object });
        let (set, mut problems) = self.assembler.assemble(objects);
        problems.extend(self.problems());
        problems.sort();
        let is_partial = self.issuers.values().any(|held| held.object.is_none());
        (IssuerSet { unread: self.unread(), is_partial, ..set }, problems)
    }

    fn problems(&self) -> impl Iterator<Item = Problem> {
        let wrong = self.issuers.iter().filter_map(|((kind, namespace, name), held)| {
            let mut message = held.error.clone()?;
            if held.object.is_some() {
                message.push_str("; what this object said before stays in force");
            }
            let object = match namespace {
                Some(namespace) => format!("{kind} {namespace}/{name}"),
                None => format!("{kind} {name}"),
            };
            Some(Problem { place: None, object: Some(object), severity: Severity::Error, message })
        });
        let unheard = self.watched.iter().filter_map(|(subject, watched)| {
            let trouble = watched.trouble.as_ref()?;
            let message = match watched.read {
                true => format!("{subject} cannot be watched, so changes are not seen: {trouble}"),
                false => format!("{subject} cannot be read: {trouble}"),
            };
            let severity = if watched.read { Severity::Warning } else { Severity::Error };
            Some(Problem { place: None, object: None, severity, message })
        });
        wrong.chain(unheard)
    }
}

#[cfg(test)]
mod tests;
