//! Issuers and their Secrets from a folder of YAML files, read once or followed, or from the
//! [`kubernetes`] API.
//!
//! # Folders
//!
//! Every `*.yaml`, `*.yml` and `*.json` directly in the folder is read, but those whose name begins
//! with a dot; each holds any number of objects. What this promises:
//!
//! - A change is in force within a second: a file written, replaced or removed, a ConfigMap or
//!   Secret mount that kubelet swaps, and a change of the files that `ca.files` names. Where the
//!   kernel cannot tell of changes, and as a safety net, the folder is read every minute.
//! - A file with an error changes nothing: what it held before stays in force. Where there is no
//!   before, its right objects are taken. An issuer whose CA is replaced by one that does not fit
//!   together goes on with the CA it has.
//! - A file that is gone takes its objects with it.
//! - Where two objects have one name, the first counts, in order of file name and line.
//! - Everything that is wrong is a [`Problem`] with its place, and none shows a value of a Secret.
//!
//! ConfigMaps are there for the volumes that take trust anchors from them: one without a namespace for
//! those of every namespace.
//!
//! An `Issuer` finds the Secrets of its own namespace. A `ClusterIssuer` finds one without a
//! namespace, or else the only one of that name.

mod assemble;
mod folder;
mod follow;
pub mod kubernetes;
mod root;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::watch;

pub use root::{Root, RootError, RootOptions};

use self::assemble::{Assembler, Placed};
use self::folder::Folder;
use crate::anchors::{AnchorSources, ConfigMaps};
use crate::clock::Clock;
use crate::issuer::{IssuerKey, IssuerSet, Issuers, Surroundings};
use crate::kubernetes::{Access, read_secret};
use crate::spec::object::{ConfigMapObject, Document, Object, SecretObject};
use crate::spec::policy::Cluster;

/// A folder, read once.
#[derive(Debug)]
pub struct Loaded {
    /// The issuers in it.
    pub issuers: IssuerSet,
    /// Where each of them is.
    pub places: BTreeMap<IssuerKey, Place>,
    /// What is wrong with it, in order of file and line.
    pub problems: Vec<Problem>,
}

/// A source that is followed, until nobody looks at its issuers any more.
#[derive(Debug)]
pub struct Running {
    /// The issuers as they are now.
    pub issuers: Issuers,
    /// Where volumes have further trust anchors from.
    pub anchors: AnchorSources,
    /// What is wrong now, in order of file and line.
    pub problems: watch::Receiver<Vec<Problem>>,
}

/// Something that an operator should mend. Holds nothing secret.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Problem {
    /// Where it is, if it is in a file.
    pub place: Option<Place>,
    /// Kind and name of the object, where it is known.
    pub object: Option<String>,
    /// Whether something does not work.
    pub severity: Severity,
    /// What is wrong and what to do.
    pub message: String,
}

/// A place in a file.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Place {
    /// The file, or the folder itself.
    pub file: PathBuf,
    /// The line, from 1.
    pub line: u64,
    /// The column, from 1.
    pub column: u64,
}

/// How bad a [`Problem`] is.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Severity {
    /// Something does not work.
    Error,
    /// Something will not work before long, or works less well.
    Warning,
}

/// Reads the folder `dir` for a driver in the cluster of `access`: the Secrets that its issuers name
/// and that are not in the folder are those of the cluster. A folder that cannot be read is a problem
/// of an empty one.
///
/// Without `access` nothing is asked of any cluster, and it is a warning that an issuer would.
///
/// # Errors
///
/// Only when `dir` is no path: when it is empty.
///
/// # Panics
///
/// Outside of a tokio runtime.
pub async fn load(
    dir: &Path,
    cluster: &Cluster,
    clock: &Clock,
    access: Option<Access>,
) -> io::Result<Loaded> {
    let nowhere = || Access::nowhere("without --kubeconfig there is no way to it");
    let surroundings = Surroundings {
        access: Some(access.clone().unwrap_or_else(nowhere)),
        ..Surroundings::new(clock.clone(), &cluster.node_name)
    };
    let mut source = Source::open(dir, cluster.clone(), surroundings)?;
    source.folder.refresh();
    let (elsewhere, mut said) = match &access {
        Some(access) => source.secrets_elsewhere(access).await,
        None => (Vec::new(), source.unasked()),
    };
    let (issuers, mut problems) = source.assemble(&elsewhere);
    problems.append(&mut said);
    problems.sort();
    Ok(Loaded { issuers, places: source.places(), problems })
}

/// Reads the folder `dir`, and follows it in a task of its own.
///
/// A folder that is not there yet is followed as well: existing volumes need none to live.
///
/// # Errors
///
/// As [`load`].
///
/// # Panics
///
/// Outside of a tokio runtime.
pub fn start(dir: &Path, cluster: Cluster, surroundings: Surroundings) -> io::Result<Running> {
    let mut source = Source::open(dir, cluster, surroundings)?;
    let (first, problems) = source.refresh();
    let (issuers_out, issuers) = Issuers::channel(first);
    let (problems_out, problems) = watch::channel(problems);
    let (config_maps_out, config_maps) = watch::channel(Arc::new(source.config_maps()));
    let anchors = AnchorSources::of_objects(config_maps);
    tokio::spawn(follow::follow(source, issuers_out, config_maps_out, problems_out));
    Ok(Running { issuers, anchors, problems })
}

/// A folder and what was made of it.
struct Source {
    folder: Folder,
    assembler: Assembler,
}

impl Source {
    fn open(dir: &Path, cluster: Cluster, surroundings: Surroundings) -> io::Result<Self> {
        let dir = std::path::absolute(dir)?;
        let assembler = Assembler::of_folder(dir.clone(), cluster, surroundings);
        Ok(Self { folder: Folder::new(dir), assembler })
    }

    /// Reads what has changed, and answers what is in force now and what is wrong.
    fn refresh(&mut self) -> (IssuerSet, Vec<Problem>) {
        self.folder.refresh();
        self.assemble(&[])
    }

    /// What the folder held when it was last read is put together, with `others` behind it.
    fn assemble(&mut self, others: &[Object]) -> (IssuerSet, Vec<Problem>) {
        let objects = self.folder.documents().map(|(file, document)| Placed {
            place: Some((file, document.line)),
            object: &document.object,
        });
        let others = others.iter().map(|object| Placed { place: None, object });
        let (mut issuers, mut problems) = self.assembler.assemble(objects.chain(others));
        let of_folder = problems.len();
        problems.extend(self.folder.problems());
        issuers.is_partial = problems.len() > of_folder;
        problems.sort();
        (issuers, problems)
    }

    /// The Secrets of the cluster that issuers name and that are not in the folder, and what could
    /// not be read.
    async fn secrets_elsewhere(&self, access: &Access) -> (Vec<Object>, Vec<Problem>) {
        let (mut secrets, mut problems) = (Vec::new(), Vec::new());
        for (namespace, name) in self.missing_secrets() {
            let home = namespace.as_deref().unwrap_or(&access.namespace);
            match read_secret(access, home, &name).await {
                Ok(Some(values)) => {
                    secrets.push(Object::Secret(SecretObject::new(namespace, name, values)));
                }
                Ok(None) => {}
                Err(message) => {
                    let severity = Severity::Error;
                    problems.push(Problem { place: None, object: None, severity, message });
                }
            }
        }
        (secrets, problems)
    }

    /// That issuers need a Kubernetes API that is not asked.
    fn unasked(&self) -> Vec<Problem> {
        let problem = |(file, document): (&Path, &Document)| {
            let Object::Issuer(issuer) = &document.object else { return None };
            let field = issuer.spec.method.needs_kubernetes()?;
            Some(Problem {
                place: Some(Place { file: file.to_owned(), line: document.line, column: 1 }),
                object: Some(issuer.to_string()),
                severity: Severity::Warning,
                message: format!(
                    "{field} takes the Kubernetes API, which a driver with a --config-dir is without"
                ),
            })
        };
        self.folder.documents().filter_map(problem).collect()
    }

    /// The Secrets that issuers name and that are not in the folder, with the namespace of the
    /// `Issuer`.
    fn missing_secrets(&self) -> BTreeSet<(Option<String>, String)> {
        let objects = || self.folder.documents().map(|(_, document)| &document.object);
        let is_there = |namespace: Option<&str>, name: &str| {
            objects().any(|object| {
                matches!(object, Object::Secret(secret) if secret.name == name
                    && (namespace.is_none() || secret.namespace.as_deref() == namespace))
            })
        };
        let mut missing = BTreeSet::new();
        for object in objects() {
            let Object::Issuer(issuer) = object else { continue };
            let namespace = issuer.namespace.as_deref();
            let names = issuer.spec.method.secrets();
            let names = names.filter(|name| !is_there(namespace, name));
            missing.extend(names.map(|name| (namespace.map(str::to_owned), name.to_owned())));
        }
        missing
    }

    /// The ConfigMaps in force; of several with one name, the first counts.
    fn config_maps(&self) -> ConfigMaps {
        let mut config_maps = ConfigMaps::default();
        for (_, document) in self.folder.documents() {
            if let Object::ConfigMap(ConfigMapObject { namespace, name, data }) = &document.object {
                let name = (namespace.clone(), name.clone());
                config_maps.0.entry(name).or_insert_with(|| data.clone());
            }
        }
        config_maps
    }

    /// Where each issuer is; of several with one name, the first counts.
    fn places(&self) -> BTreeMap<IssuerKey, Place> {
        let mut places = BTreeMap::new();
        for (file, document) in self.folder.documents() {
            if let Object::Issuer(issuer) = &document.object {
                let place = Place { file: file.to_owned(), line: document.line, column: 1 };
                places.entry(IssuerKey::of(issuer)).or_insert(place);
            }
        }
        places
    }
}

impl Problem {
    fn in_file(file: &Path, severity: Severity, message: String) -> Self {
        let place = Place { file: file.to_owned(), line: 1, column: 1 };
        Self { place: Some(place), object: None, severity, message }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(Place { file, line, column }) = &self.place {
            write!(f, "{}:{line}:{column}: ", file.display())?;
        }
        if let Some(object) = &self.object {
            write!(f, "{object}: ")?;
        }
        f.write_str(&self.message)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::kubernetes::fake::FakeApi;

    #[tokio::test]
    async fn a_folder_beside_a_cluster_has_the_secrets_there() {
        let vault = |name: &str, secret: &str| {
            format!(
                "---\napiVersion: certmount.dev/v1alpha1\nkind: ClusterIssuer\nmetadata: {{name: \
                 {name}}}\nspec: {{vault: {{server: 'https://vault', path: pki/sign/web, \
                 auth: {{tokenSecretRef: {{name: \
                 {secret}, key: token}}}}}}}}\n"
            )
        };
        let folder = tempfile::tempdir().unwrap();
        let text = vault("there", "there") + &vault("gone", "gone");
        #[allow(clippy::disallowed_methods, reason = "nobody reads it yet")]
        std::fs::write(folder.path().join("vault.yaml"), text).unwrap();
        let api = FakeApi::default();
        api.put(
            "secrets",
            json!({"apiVersion": "v1", "kind": "Secret",
                "metadata": {"namespace": "home", "name": "there"},
                "data": {"token": "dG9rZW4="}}),
        );
        let access = Access { client: api.client(), namespace: "home".to_owned() };
        let load = async || {
            let (cluster, clock) = (Cluster::default(), Clock::system());
            load(folder.path(), &cluster, &clock, Some(access.clone())).await.unwrap()
        };
        let loaded = load().await;
        let ready = |loaded: &Loaded| -> Vec<_> {
            let ready = loaded.issuers.issuers.iter().filter(|(_, entry)| entry.issuer.is_ok());
            ready.map(|(key, _)| key.name.clone()).collect()
        };
        assert_eq!(ready(&loaded), ["there"]);
        let said: Vec<_> = loaded.problems.iter().map(Problem::to_string).collect();
        assert_eq!(said.len(), 1);
        assert!(
            said[0].ends_with("ClusterIssuer gone: there is no Secret gone: add it"),
            "{said:?}"
        );

        api.refuse("GET secrets", 403, "secrets is forbidden");
        let loaded = load().await;
        assert_eq!(ready(&loaded), [""; 0]);
        let said: Vec<_> = loaded.problems.iter().map(Problem::to_string).collect();
        assert!(
            said[0].contains("Secret home/gone cannot be read: secrets is forbidden"),
            "{said:?}"
        );
    }

    #[tokio::test]
    async fn that_an_issuer_would_ask_a_cluster_is_a_warning() {
        let folder = tempfile::tempdir().unwrap();
        let text = "apiVersion: certmount.dev/v1alpha1\nkind: ClusterIssuer\nmetadata: {name: vault}\n\
                    spec: {vault: {server: 'https://vault', path: pki/sign/web, auth: {kubernetes: \
                    {role: web, serviceAccountRef: {name: vault}}}}}\n";
        #[allow(clippy::disallowed_methods, reason = "nobody reads it yet")]
        std::fs::write(folder.path().join("vault.yaml"), text).unwrap();
        let loaded = load(folder.path(), &Cluster::default(), &Clock::system(), None).await;
        let Loaded { issuers, problems, .. } = loaded.unwrap();
        assert_eq!(problems.len(), 1);
        assert_eq!(problems[0].severity, Severity::Warning);
        assert!(
            problems[0].to_string().contains("vault.yaml:1:1: ClusterIssuer vault: serviceAcc")
        );
        assert!(issuers.issuers.values().all(|entry| entry.issuer.is_ok()));
    }
}
