//! Objects put together: issuers with the Secrets and files that they sign with.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry as Slot;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{Place, Problem, Severity, folder};
use crate::clock::Clock;
use crate::error::with_causes;
use crate::issuer::{BuildError, CaMaterial, Entry, Issuer, IssuerKey, IssuerSet, build};
use crate::spec::object::{
    CaFiles, CaSource, CaSpec, IssuerMethod, IssuerObject, Object, SecretObject,
};
use crate::spec::policy::Cluster;

/// Makes issuers of objects, and keeps those that sign as before: an issuer may hold sessions.
pub(super) struct Assembler {
    /// Where relative paths start.
    dir: PathBuf,
    /// Where the Secrets of a `ClusterIssuer` are; `None` for wherever there is one of that name.
    namespace: Option<String>,
    cluster: Cluster,
    clock: Clock,
    built: BTreeMap<IssuerKey, Built>,
}

/// An issuer and what it was made of.
struct Built {
    method: IssuerMethod,
    /// Of the CA's material.
    fingerprint: Option<[u8; 32]>,
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
}

impl Assembler {
    /// Of objects in the folder `dir`.
    pub(super) fn of_folder(dir: PathBuf, cluster: Cluster, clock: Clock) -> Self {
        Self { dir, namespace: None, cluster, clock, built: BTreeMap::new() }
    }

    /// Of objects in a cluster, where the driver is in `namespace`.
    pub(super) fn of_cluster(namespace: String, cluster: Cluster, clock: Clock) -> Self {
        let (dir, namespace) = (PathBuf::from("/"), Some(namespace));
        Self { dir, namespace, cluster, clock, built: BTreeMap::new() }
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
            let before = before.remove(key).filter(|before| before.method == spec.method);
            let (built, said) = self.build(placed.object, before, &objects);
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
        let files = self.built.values().filter_map(|built| match &built.method {
            IssuerMethod::Ca(CaSpec { source: CaSource::Files(files), .. }) => Some(files),
            _ => None,
        });
        files
            .flat_map(|CaFiles { cert_file, key_file, ca_file }| {
                [Some(cert_file), Some(key_file), ca_file.as_ref()]
            })
            .flatten()
            .map(|file| self.dir.join(file))
            .collect()
    }

    /// The issuer of `object`, and what there is to say about it.
    fn build(
        &self,
        object: &IssuerObject,
        before: Option<Built>,
        objects: &Objects<'_>,
    ) -> (Built, Option<(Severity, String)>) {
        let method = object.spec.method.clone();
        let material = self.material(object, objects);
        let fingerprint =
            material.as_ref().ok().and_then(Option::as_ref).map(CaMaterial::fingerprint);
        let before = before.filter(|before| before.issuer.is_ok());
        let issuer = match (material, before) {
            (Ok(_), Some(before)) if before.fingerprint == fingerprint => before.issuer,
            (material, before) => {
                let made = material.and_then(|made| build(&method, made.as_ref(), &self.clock));
                match (made, before) {
                    // What does not fit together is often half of a change; what is gone is gone.
                    (Err(error @ BuildError::Ca(_)), Some(before)) => {
                        let reason = with_causes(&error);
                        let said = format!("{reason}; the CA used before stays in force");
                        return (before, Some((Severity::Error, said)));
                    }
                    (made, _) => made.map_err(|error| with_causes(&error)),
                }
            }
        };
        let said = match &issuer {
            Ok(issuer) => issuer.warning(self.clock.now()).map(|said| (Severity::Warning, said)),
            Err(reason) => Some((Severity::Error, reason.clone())),
        };
        (Built { method, fingerprint, issuer }, said)
    }

    /// What a CA signs with; `None` for other issuers.
    fn material(
        &self,
        issuer: &IssuerObject,
        objects: &Objects<'_>,
    ) -> Result<Option<CaMaterial>, BuildError> {
        let IssuerMethod::Ca(CaSpec { source, .. }) = &issuer.spec.method else {
            return Ok(None);
        };
        Ok(Some(match source {
            CaSource::Files(files) => self.read_files(files)?,
            CaSource::Secret(name) => {
                let namespace = issuer.namespace.as_deref().or(self.namespace.as_deref());
                CaMaterial::from_secret(objects.secret(namespace, name)?)?
            }
        }))
    }

    fn read_files(&self, files: &CaFiles) -> Result<CaMaterial, BuildError> {
        let read = |file: &PathBuf| {
            let path = self.dir.join(file);
            folder::read(&path).map_err(|error| {
                BuildError::Missing(format!("{} cannot be read: {error}", path.display()))
            })
        };
        Ok(CaMaterial {
            certificates: read(&files.cert_file)?.to_vec(),
            key: read(&files.key_file)?,
            anchors: files.ca_file.as_ref().map(read).transpose()?.map(|pem| pem.to_vec()),
        })
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
            };
            if let Some(first) = first {
                let message = format!("it is already in {first}: this one is not used");
                problems.push(placed.problem(Severity::Error, message));
            }
        }
        objects
    }

    /// The Secret that an issuer of `namespace` means by `name`.
    fn secret(&self, namespace: Option<&str>, name: &str) -> Result<&'a SecretObject, BuildError> {
        let missing = |message| Err(BuildError::Missing(message));
        if let Some(secret) = self.secrets.get(&(name, namespace)) {
            return Ok(secret.object);
        }
        if let Some(namespace) = namespace {
            return missing(format!("there is no Secret {name} in namespace {namespace}: add it"));
        }
        let mut named = self.secrets.values().filter(|secret| secret.object.name == name);
        match (named.next(), named.next()) {
            (Some(secret), None) => Ok(secret.object),
            (Some(_), Some(_)) => missing(format!(
                "there are Secrets {name} in several namespaces: take the namespace out of the one that is meant"
            )),
            (None, _) => missing(format!("there is no Secret {name}: add it")),
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
