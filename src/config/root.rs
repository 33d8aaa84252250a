//! A root CA for a folder of one's own: the first issuer of a cluster that has none.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use zeroize::Zeroizing;

use crate::clock::Timestamp;
use crate::spec::object::{API_VERSION, is_object_name};
use crate::x509::{
    AuthorityInformation, BasicConstraints, Certificate, DistinguishedName, KeyAlgorithm,
    KeyEncoding, KeyError, KeyUsages, NameConstraints, NameError, PrivateKey, SignError, Template,
    Validity, chain_to_pem, self_sign,
};

/// What root CA is wanted.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RootOptions {
    /// The name of its issuer and its Secret.
    pub name: String,
    /// The subject's common name.
    pub common_name: String,
    /// Of its key.
    pub algorithm: KeyAlgorithm,
    /// How long it lives.
    pub duration: Duration,
    /// How many CAs may be below it in a chain; `None`: any number.
    pub path_len: Option<u8>,
}

/// A root CA as objects: a Secret that holds it, and a `ClusterIssuer` that signs with it.
///
/// Prints nothing of its key.
pub struct Root {
    name: String,
    certificate: Certificate,
    secret: Zeroizing<String>,
    issuer: String,
}

/// Why there is no root CA. `Display` says its own part; the cause is its `source`.
#[derive(Debug, thiserror::Error)]
pub enum RootError {
    /// The name is none for an object.
    #[error("{0:?} is not a name for an issuer: use lower-case letters, digits and -")]
    Name(String),
    /// The common name cannot be put into a certificate.
    #[error("the common name cannot be used")]
    CommonName(#[source] NameError),
    /// The duration goes past the end of time.
    #[error("the duration is too long")]
    Duration,
    /// No key could be made.
    #[error("no private key could be made")]
    Key(#[from] KeyError),
    /// It could not be signed.
    #[error("the certificate could not be signed")]
    Sign(#[from] SignError),
    /// There is such a file.
    #[error("{} is there already: choose another name or folder, or replace it by force", .0.display())]
    Exists(PathBuf),
    /// A file could not be written.
    #[error("{} could not be written", .path.display())]
    Write {
        /// Which file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

impl Root {
    /// Makes a root CA that begins a little before `now`, for clocks that are behind.
    ///
    /// # Errors
    ///
    /// What of the options cannot be put into a certificate, or a failed signature.
    pub fn make(options: &RootOptions, now: Timestamp) -> Result<Self, RootError> {
        let RootOptions { name, common_name, algorithm, duration, path_len } = options;
        if !is_object_name(name) {
            return Err(RootError::Name(name.clone()));
        }
        let mut subject = DistinguishedName::default();
        subject.push("CN", common_name).map_err(RootError::CommonName)?;
        let template = Template {
            subject,
            subject_alt_names: Vec::new(),
            usages: KeyUsages::default(),
            basic_constraints: BasicConstraints::Ca { path_len: *path_len },
            name_constraints: NameConstraints::default(),
        };
        let validity = Validity {
            not_before: now.saturating_sub(BACKDATE).unwrap_or(now),
            not_after: now.checked_add(*duration).map_err(|_| RootError::Duration)?,
        };
        let key = PrivateKey::generate(*algorithm)?;
        let certificate = self_sign(&template, &key, validity, &AuthorityInformation::default())?;
        let key = key.to_pem(KeyEncoding::Pkcs8)?;
        let secret = secret_yaml(name, &chain_to_pem([&certificate]), &key);
        Ok(Self { name: name.clone(), certificate, secret, issuer: issuer_yaml(name) })
    }

    /// The root's certificate.
    pub fn certificate(&self) -> &Certificate {
        &self.certificate
    }

    /// Writes both objects into the folder `dir`, which is made if need be, the Secret readable by
    /// its owner only; answers the Secret's path and the issuer's.
    ///
    /// # Errors
    ///
    /// When a file is there already and `force` is not given, and when one cannot be written.
    /// No file is ever seen half written.
    pub fn write(&self, dir: &Path, force: bool) -> Result<[PathBuf; 2], RootError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source: io::Error| match source.kind() {
                io::ErrorKind::AlreadyExists => RootError::Exists(path),
                _ => RootError::Write { path, source },
            }
        };
        fs::create_dir_all(dir).map_err(failed(dir))?;
        let secret = dir.join(format!("{}-secret.yaml", self.name));
        let issuer = dir.join(format!("{}-issuer.yaml", self.name));
        let taken = [&secret, &issuer].into_iter().find(|path| path.symlink_metadata().is_ok());
        if let Some(taken) = taken.filter(|_| !force) {
            return Err(RootError::Exists(taken.clone()));
        }
        write(&secret, self.secret.as_bytes(), 0o600, force).map_err(failed(&secret))?;
        write(&issuer, self.issuer.as_bytes(), 0o644, force).map_err(failed(&issuer))?;
        Ok([secret, issuer])
    }
}

impl std::fmt::Debug for Root {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Root")
            .field("name", &self.name)
            .field("certificate", &self.certificate)
            .finish_non_exhaustive()
    }
}

const BACKDATE: Duration = Duration::from_secs(300);

fn secret_yaml(name: &str, certificate: &str, key: &str) -> Zeroizing<String> {
    let head = format!(
        "# A root CA. Whoever can read this file can sign any name with it: keep it from others.\n\
         apiVersion: v1\n\
         kind: Secret\n\
         metadata:\n  \
           name: {name}\n\
         type: kubernetes.io/tls\n\
         stringData:\n"
    );
    // Growing would leave copies of the key behind that nobody wipes.
    let mut yaml =
        Zeroizing::new(String::with_capacity(2 * (head.len() + 2 * certificate.len() + key.len())));
    yaml.push_str(&head);
    for (field, pem) in [("tls.crt", certificate), ("tls.key", key), ("ca.crt", certificate)] {
        yaml.push_str("  ");
        yaml.push_str(field);
        yaml.push_str(": |\n");
        for line in pem.lines() {
            yaml.push_str("    ");
            yaml.push_str(line);
            yaml.push('\n');
        }
    }
    yaml
}

fn issuer_yaml(name: &str) -> String {
    format!(
        "# Signs with the CA in the Secret {name}. Pods get the names of their own namespace only,\n\
         # such as web.<namespace>.svc; policy allows more.\n\
         apiVersion: {API_VERSION}\n\
         kind: ClusterIssuer\n\
         metadata:\n  \
           name: {name}\n\
         spec:\n  \
           ca:\n    \
             secretName: {name}\n  \
           # policy:\n  \
           #   - namespaces: [web]\n  \
           #     dnsNames: [\"*.web.example.com\"]\n"
    )
}

/// Writes a file beside its place and then puts it there.
fn write(path: &Path, contents: &[u8], mode: u32, replace: bool) -> io::Result<()> {
    // Dot files are passed over by whoever follows the folder.
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let beside = path.with_file_name(format!(".{name}.{}.new", std::process::id()));
    let mut new = OpenOptions::new();
    let written = new
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(&beside)
        .and_then(|mut file: File| file.write_all(contents).and_then(|()| file.sync_all()));
    let placed = written.and_then(|()| match replace {
        true => fs::rename(&beside, path),
        // Unlike a rename, a link never replaces.
        false => fs::hard_link(&beside, path),
    });
    if !replace || placed.is_err() {
        let _ = fs::remove_file(&beside);
    }
    placed
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::clock::Clock;
    use crate::config;
    use crate::spec::policy::Cluster;

    const YEAR: Duration = Duration::from_secs(365 * 86_400);

    fn now() -> Timestamp {
        "2026-03-01T12:00:00Z".parse().unwrap()
    }

    fn options() -> RootOptions {
        RootOptions {
            name: "ca".to_owned(),
            common_name: "Example \"Root\": {CA} # 1".to_owned(),
            algorithm: KeyAlgorithm::EcdsaP384,
            duration: YEAR,
            path_len: Some(0),
        }
    }

    #[tokio::test]
    async fn what_is_written_is_an_issuer_that_works() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("config");
        let root = Root::make(&options(), now()).unwrap();
        let [secret, issuer] = root.write(&dir, false).unwrap();
        let loaded = config::load(&dir, &Cluster::default(), &Clock::from_fn(now), None).await;
        let loaded = loaded.unwrap();
        assert_eq!(loaded.problems, []);
        let entry = loaded.issuers.issuers.values().next().unwrap();
        let anchors = entry.issuer.as_ref().unwrap().trust_anchors().unwrap();
        assert_eq!(anchors, std::slice::from_ref(root.certificate()));
        assert!(root.certificate().is_ca());
        assert_eq!(root.certificate().validity().not_after, now() + YEAR);

        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&secret), mode(&issuer) & 0o600), (0o600, 0o600));
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 2, "nothing is left beside them");
    }

    #[test]
    fn nothing_is_replaced_without_force() {
        let dir = tempfile::tempdir().unwrap();
        let first = Root::make(&options(), now()).unwrap();
        let [secret, issuer] = first.write(dir.path(), false).unwrap();
        let before = fs::read(&secret).unwrap();
        let second = Root::make(&options(), now()).unwrap();
        assert!(matches!(second.write(dir.path(), false), Err(RootError::Exists(_))));
        fs::remove_file(&secret).unwrap();
        let refused = second.write(dir.path(), false).unwrap_err();
        assert!(matches!(&refused, RootError::Exists(path) if *path == issuer), "{refused}");
        assert!(!secret.exists(), "all or nothing");
        second.write(dir.path(), true).unwrap();
        assert_ne!(fs::read(&secret).unwrap(), before);
    }

    #[test]
    fn what_makes_no_root_is_refused() {
        for (options, said) in [
            (RootOptions { name: "A/b".to_owned(), ..options() }, "lower-case"),
            (RootOptions { common_name: String::new(), ..options() }, "common name"),
            (RootOptions { duration: Duration::MAX, ..options() }, "too long"),
        ] {
            assert!(Root::make(&options, now()).unwrap_err().to_string().contains(said));
        }
    }

    #[test]
    fn debug_shows_no_key() {
        let root = Root::make(&options(), now()).unwrap();
        assert!(!format!("{root:?}").contains("PRIVATE"));
    }
}
