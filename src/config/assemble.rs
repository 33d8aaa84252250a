//! Objects put together: issuers with the Secrets and files that they sign with.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry as Slot;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{Place, Problem, Severity, folder};
use crate::error::with_causes;
use crate::issuer::{
    BuildError, Entry, Issuer, IssuerKey, IssuerSet, Materials, Surroundings, build,
};
use crate::kubernetes::Access;
use crate::spec::object::{
    ConfigMapObject, GROUP, IssuerMethod, IssuerObject, Object, SecretObject,
};
use crate::spec::policy::Cluster;
use crate::spec::volume::IssuerRef;

/// Makes issuers of objects, and keeps those that sign as before: an issuer may hold sessions.
pub(super) struct Assembler {
    /// Where relative paths start.
    dir: PathBuf,
    /// Where the Secrets of a `ClusterIssuer` are; `None` for wherever there is one of that name.
    namespace: Option<String>,
    cluster: Cluster,
    surroundings: Surroundings,
    built: BTreeMap<IssuerKey, Built>,
}

/// An issuer and what it was made of.
struct Built {
    /// The object's.
    uid: Option<String>,
    method: IssuerMethod,
    /// Of its materials.
    fingerprint: [u8; 32],
    issuer: Result<Arc<dyn Issuer>, String>,
}

/// An object and where it is: the file and the line, if it is in a file.
#[derive(Clone, Copy)]
pub(super) struct Placed<'a, T> {
    pub(super) place: Option<(&'a Path, u64)>,
    pub(super) object: &'a T,
}

/// The objects of a source, each name once.
#[derive(Default)]
struct Objects<'a> {
    issuers: BTreeMap<IssuerKey, Placed<'a, IssuerObject>>,
    secrets: BTreeMap<(&'a str, Option<&'a str>), Placed<'a, SecretObject>>,
    config_maps: BTreeMap<(&'a str, Option<&'a str>), Placed<'a, ConfigMapObject>>,
}

impl Assembler {
    /// Of objects in the folder `dir`.
    pub(super) fn of_folder(dir: PathBuf, cluster: Cluster, surroundings: Surroundings) -> Self {
        Self { dir, namespace: None, cluster, surroundings, built: BTreeMap::new() }
    }

    /// Of objects in a cluster.
    pub(super) fn of_cluster(access: Access, cluster: Cluster, surroundings: Surroundings) -> Self {
        let (dir, namespace) = (PathBuf::from("/"), Some(access.namespace.clone()));
        let surroundings = Surroundings { access: Some(access), ..surroundings };
        Self { dir, namespace, cluster, surroundings, built: BTreeMap::new() }
    }

    /// Makes the issuers that `objects` describe.
    pub(super) fn assemble<'a>(
        &mut self,
        objects: impl Iterator<Item = Placed<'a, Object>>,
    ) -> (IssuerSet, Vec<Problem>) {
        let mut problems = Vec::new();
        let objects = Objects::collect(objects, &mut problems);
        let mut before = std::mem::take(&mut self.built);
        let mut set = IssuerSet::default();
        for (key, placed) in &objects.issuers {
            let spec = &placed.object.spec;
            let same =
                |before: &Built| before.uid == placed.object.uid && before.method == spec.method;
            let before = before.remove(key).filter(same);
            let (built, said) = self.build(placed.object, before, &objects);
            let upstream = objects.upstream_problem(placed.object);
            let said = said.into_iter().chain(upstream);
            problems.extend(said.map(|(severity, message)| placed.problem(severity, message)));
            let policy = spec.policy.clone().in_cluster(self.cluster.clone());
            let entry = Entry { policy: Some(policy), issuer: built.issuer.clone() };
            set.issuers.insert(key.clone(), entry);
            self.built.insert(key.clone(), built);
        }
        (set, problems)
    }

    /// The files outside of the folder that issuers read.
    pub(super) fn files(&self) -> Vec<PathBuf> {
        let methods = self.built.values().map(|built| &built.method);
        methods.flat_map(IssuerMethod::files).map(|file| self.dir.join(file)).collect()
    }

    /// The issuer of `object`, and what there is to say about it.
    fn build(
        &self,
        object: &IssuerObject,
        before: Option<Built>,
        objects: &Objects<'_>,
    ) -> (Built, Option<(Severity, String)>) {
        let method = object.spec.method.clone();
        let materials = self.materials(object, objects);
        let fingerprint = materials.fingerprint();
        let before = before.filter(|before| before.issuer.is_ok());
        let issuer = match before {
            Some(before) if before.fingerprint == fingerprint => before.issuer,
            before => match (build(object, &materials, &self.surroundings), before) {
                // What does not fit together is often half of a change; what is gone is gone.
                (Err(error @ BuildError::Ca(_)), Some(before)) => {
                    let reason = with_causes(&error);
                    let said = format!("{reason}; the CA used before stays in force");
                    return (before, Some((Severity::Error, said)));
                }
                (built, _) => built.map_err(|error| with_causes(&error)),
            },
        };
        let said = match &issuer {
            Ok(issuer) => {
                let warning = issuer.warning(self.surroundings.clock.now());
                warning.map(|said| (Severity::Warning, said))
            }
            Err(reason) => Some((Severity::Error, reason.clone())),
        };
        (Built { uid: object.uid.clone(), method, fingerprint, issuer }, said)
    }

    /// The Secrets and files that an issuer names.
    fn materials(&self, issuer: &IssuerObject, objects: &Objects<'_>) -> Materials {
        let namespace = issuer.namespace.as_deref().or(self.namespace.as_deref());
        let method = &issuer.spec.method;
        let mut materials = Materials::default();
        for name in method.secrets() {
            materials = materials.with_secret(name, objects.secret(namespace, name).cloned());
        }
        for file in method.files() {
            let path = self.dir.join(file);
            let content = folder::read(&path)
                .map_err(|error| format!("{} cannot be read: {error}", path.display()));
            materials = materials.with_file(file, content);
        }
        materials
    }
}

impl<'a> Objects<'a> {
    fn collect(
        placed: impl Iterator<Item = Placed<'a, Object>>,
        problems: &mut Vec<Problem>,
    ) -> Self {
        let mut objects = Self::default();
        for placed in placed {
            let place = placed.place;
            let first = match placed.object {
                Object::Issuer(issuer) => {
                    let key = IssuerKey::of(issuer);
                    Placed { place, object: &**issuer }.insert(objects.issuers.entry(key))
                }
                Object::Secret(secret) => {
                    let name = (secret.name.as_str(), secret.namespace.as_deref());
                    Placed { place, object: secret }.insert(objects.secrets.entry(name))
                }
                Object::ConfigMap(config_map) => {
                    let name = (config_map.name.as_str(), config_map.namespace.as_deref());
                    Placed { place, object: config_map }.insert(objects.config_maps.entry(name))
                }
            };
            if let Some(first) = first {
                let message = format!("it is already in {first}: this one is not used");
                problems.push(placed.problem(Severity::Error, message));
            }
        }
        objects
    }

    /// That the issuer which is to sign for `issuer` is not there, though it is one of ours, or
    /// never could.
    fn upstream_problem(&self, issuer: &IssuerObject) -> Option<(Severity, String)> {
        let IssuerRef { group, kind, name } = issuer.spec.method.upstream()?;
        let namespace = issuer.namespace.clone().filter(|_| kind == "Issuer");
        let (group, kind, name) = (group.clone(), kind.clone(), name.clone());
        let key = IssuerKey { group, kind, namespace, name };
        if key.group != GROUP {
            return None;
        }
        let Some(upstream) = self.issuers.get(&key) else {
            let message = format!("issuerRef names {key}, which is not there: add it");
            return Some((Severity::Warning, message));
        };
        let problem = match (&upstream.object.spec.method, &issuer.spec.method) {
            (IssuerMethod::Acme(_), IssuerMethod::Chained(spec)) if spec.dns_names.is_empty() => {
                "an ACME server, which signs only for names that are proved to it: write dnsNames \
                 for the intermediates, such as mesh.example.com, and give it a solver for them"
            }
            (IssuerMethod::Chained(_), _) => {
                "another chained issuer, which signs no CAs: name the one above it"
            }
            (IssuerMethod::SelfSigned(_), _) => {
                "a self-signing issuer, below which each node would be a root of its own: name one \
                 with a CA"
            }
            _ => return None,
        };
        Some((Severity::Error, format!("issuerRef names {key}, {problem}")))
    }

    /// The Secret that an issuer of `namespace` means by `name`.
    fn secret(&self, namespace: Option<&str>, name: &str) -> Result<&'a SecretObject, String> {
        if let Some(secret) = self.secrets.get(&(name, namespace)) {
            return Ok(secret.object);
        }
        if let Some(namespace) = namespace {
            return Err(format!("there is no Secret {name} in namespace {namespace}: add it"));
        }
        let mut named = self.secrets.values().filter(|secret| secret.object.name == name);
        match (named.next(), named.next()) {
            (Some(secret), None) => Ok(secret.object),
            (Some(_), Some(_)) => Err(format!(
                "there are Secrets {name} in several namespaces: take the namespace out of the one that is meant"
            )),
            (None, _) => Err(format!("there is no Secret {name}: add it")),
        }
    }
}

impl<'a, T> Placed<'a, T> {
    /// Fills a free slot, or answers where the object that has it is.
    fn insert<K: Ord>(self, slot: Slot<'_, K, Self>) -> Option<String> {
        match slot {
            Slot::Vacant(slot) => {
                slot.insert(self);
                None
            }
            Slot::Occupied(first) => Some(match first.get().place {
                Some((file, line)) => format!("{}:{line}", file.display()),
                None => "another place".to_owned(),
            }),
        }
    }
}

impl<T: std::fmt::Display> Placed<'_, T> {
    fn problem(&self, severity: Severity, message: String) -> Problem {
        let object = Some(self.object.to_string());
        let place = self.place.map(|(file, line)| Place { file: file.to_owned(), line, column: 1 });
        Problem { place, object, severity, message }
    }
}
