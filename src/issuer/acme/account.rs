//! The account: its key, made once and shared by all nodes, and the server's name for it
//! (RFC 8555 §7.3).
//!
//! A key is kept before the server sees it, so that no account is ever lost. The account is found by
//! its key (§7.3.1), so the key is all that is kept.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Value, json};
use url::Url;
use zeroize::Zeroizing;

use super::client::{Client, Failure, location};
use super::jws::{AccountKey, BindingKey, Signer};
use crate::issuer::web::Answer;
use crate::issuer::{IssueError, IssueErrorKind};
use crate::kubernetes::{Access, create_or_read_secret};
use crate::x509::{KeyAlgorithm, KeyEncoding, PrivateKey};

/// An account that the server knows.
#[derive(Debug)]
pub(super) struct Account {
    pub(super) client: Arc<Client>,
    pub(super) key: Arc<AccountKey>,
    /// The server's name for it.
    pub(super) url: Url,
}

/// Where an account's key comes from.
#[derive(Debug)]
pub(super) enum KeySource {
    /// It was there when the issuer was made.
    Given(Arc<AccountKey>),
    /// It is kept there, or will be.
    Place(KeyPlace),
    /// It is for others to make; why it is not there.
    Awaited(String),
}

/// A place that keeps a key over restarts.
#[derive(Debug)]
pub(super) enum KeyPlace {
    /// A value of a Secret.
    Secret { access: Access, namespace: String, name: String, key: String },
    /// A file that only its owner reads, in a folder of its own.
    File(PathBuf),
}

impl Account {
    /// Finds the account of `key`, or makes it.
    pub(super) async fn open(
        client: &Arc<Client>,
        key: Arc<AccountKey>,
        email: Option<&str>,
        binding: Option<&BindingKey>,
    ) -> Result<Self, Failure> {
        let new_account = &client.directory().await?.new_account;
        let answer = match find(client, &key).await? {
            Some(answer) => answer,
            None => {
                may_be_made(client, binding).await?;
                let contact: Vec<_> =
                    email.map(|email| format!("mailto:{email}")).into_iter().collect();
                let mut account = json!({"termsOfServiceAgreed": true, "contact": contact});
                if let Some(binding) = binding {
                    account["externalAccountBinding"] = binding.bind(&key, new_account);
                }
                client.post(&key, Signer::Key, new_account, Some(&account)).await?
            }
        };
        let url = location(&answer, new_account)?;
        Ok(Self { client: Arc::clone(client), key, url })
    }

    /// A POST of `payload`.
    pub(super) async fn post(&self, url: &Url, payload: &Value) -> Result<Answer, Failure> {
        self.client.post(&self.key, Signer::Account(&self.url), url, Some(payload)).await
    }

    /// A POST-as-GET.
    pub(super) async fn get(&self, url: &Url) -> Result<Answer, Failure> {
        self.client.post(&self.key, Signer::Account(&self.url), url, None).await
    }
}

/// The account of `key`, if there is one; none is made.
pub(super) async fn find(client: &Client, key: &AccountKey) -> Result<Option<Answer>, Failure> {
    let new_account = &client.directory().await?.new_account;
    let known = json!({"onlyReturnExisting": true});
    match client.post(key, Signer::Key, new_account, Some(&known)).await {
        Err(failure) if failure.kind() == Some("accountDoesNotExist") => Ok(None),
        answer => answer.map(Some),
    }
}

/// Whether the server makes accounts with such a binding, as far as it says.
pub(super) async fn may_be_made(
    client: &Client,
    binding: Option<&BindingKey>,
) -> Result<(), Failure> {
    let required = client.directory().await?.meta.external_account_required;
    if required && binding.is_none() {
        let message = format!(
            "{} makes accounts only with an external binding: write externalAccountBinding into \
             the issuer, with what the CA gave for it",
            client.directory_url()
        );
        return Err(IssueError::new(IssueErrorKind::Config, message).into());
    }
    Ok(())
}

impl KeySource {
    /// The key in `path`, or the place where it will be.
    pub(super) fn in_file(path: PathBuf) -> Result<Self, String> {
        match read_file(&path) {
            Ok(None) => Ok(Self::Place(KeyPlace::File(path))),
            Ok(Some(pem)) => {
                let key = read_key(&pem);
                let key = key.map_err(|reason| format!("{}: {reason}", path.display()))?;
                Ok(Self::Given(Arc::new(key)))
            }
            Err(error) => {
                Err(format!("the ACME account's key in {} cannot be read: {error}", path.display()))
            }
        }
    }

    /// The key, made now where there is none.
    pub(super) async fn key(&self) -> Result<Arc<AccountKey>, IssueError> {
        let config = |message: String| IssueError::new(IssueErrorKind::Config, message);
        match self {
            Self::Given(key) => Ok(Arc::clone(key)),
            Self::Awaited(reason) => Err(config(reason.clone())),
            Self::Place(place) => {
                let made = PrivateKey::generate(KeyAlgorithm::EcdsaP256)
                    .and_then(|key| key.to_pem(KeyEncoding::Pkcs8))
                    .map_err(|error| {
                        let message = "no key can be made for the ACME account";
                        IssueError::new(IssueErrorKind::Node, message).caused_by(error)
                    })?;
                let made = Zeroizing::new(made.as_bytes().to_vec());
                let pem = place.keep(&made).await.map_err(config)?;
                read_key(&pem).map(Arc::new).map_err(|reason| config(format!("{place}: {reason}")))
            }
        }
    }
}

/// The account key in a PEM text.
pub(super) fn read_key(pem: &[u8]) -> Result<AccountKey, String> {
    let key = PrivateKey::from_pem(pem).map_err(|error| {
        format!("the ACME account's key cannot be read: {}", crate::error::with_causes(&error))
    })?;
    Ok(AccountKey::new(key))
}

impl KeyPlace {
    /// Keeps `pem` unless there is a key already; answers the one that is there then.
    async fn keep(&self, pem: &Zeroizing<Vec<u8>>) -> Result<Zeroizing<Vec<u8>>, String> {
        match self {
            Self::Secret { access, namespace, name, key } => {
                create_or_read_secret(access, namespace, name, key, pem).await
            }
            Self::File(path) => keep_file(path, pem).map_err(|error| {
                format!(
                    "the ACME account's key cannot be kept in {}: {error}; name another folder \
                     with --state-dir, or give the key in a Secret",
                    path.display()
                )
            }),
        }
    }
}

impl std::fmt::Display for KeyPlace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Secret { namespace, name, .. } => write!(f, "Secret {namespace}/{name}"),
            Self::File(path) => write!(f, "{}", path.display()),
        }
    }
}

/// The content of `path`, or `made` after it was written there. It appears as a whole, and of
/// several processes that make it at once, all get the same.
fn keep_file(path: &Path, made: &[u8]) -> io::Result<Zeroizing<Vec<u8>>> {
    if let Some(there) = read_file(path)? {
        return Ok(there);
    }
    let folder = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let new = folder.join(format!(".{}.{}", std::process::id(), random_name()?));
    let written = write_new(&new, made).and_then(|()| fs::hard_link(&new, path));
    let _ = fs::remove_file(&new);
    match written {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => File::open(folder)?.sync_all()?,
    }
    read_file(path)?.ok_or_else(|| io::ErrorKind::NotFound.into())
}

fn random_name() -> io::Result<String> {
    let mut bytes = [0; 8];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| io::Error::other("no random numbers"))?;
    Ok(super::jws::base64(&bytes))
}

fn write_new(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(content)?;
    file.sync_all()
}

fn read_file(path: &Path) -> io::Result<Option<Zeroizing<Vec<u8>>>> {
    const LONGEST: u64 = 64 << 10;
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    if file.metadata()?.mode() & 0o077 != 0 {
        return Err(io::Error::other("others may read it: chmod 600"));
    }
    let mut content = Zeroizing::new(Vec::with_capacity(4 << 10));
    file.take(LONGEST).read_to_end(&mut content)?;
    Ok(Some(content))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[tokio::test]
    async fn a_key_is_made_once_and_only_its_owner_reads_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("acme/le.pem");
        let source = KeySource::Place(KeyPlace::File(path.clone()));
        let (first, second) = tokio::join!(source.key(), source.key());
        let first = first.unwrap();
        assert_eq!(first.thumbprint(), second.unwrap().thumbprint());
        assert_eq!(first.thumbprint(), source.key().await.unwrap().thumbprint());
        assert_eq!(mode(&path), 0o600);
        assert_eq!(mode(path.parent().unwrap()), 0o700);
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }

    #[tokio::test]
    async fn a_key_that_others_may_read_is_not_used() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("le.pem");
        let source = KeySource::Place(KeyPlace::File(path.clone()));
        source.key().await.unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let error = source.key().await.unwrap_err();
        assert_eq!(error.kind, IssueErrorKind::Config);
        assert!(error.message.contains("chmod 600"), "{}", error.message);
    }

    #[test]
    fn keys_of_other_clients_are_taken_over() {
        for algorithm in [KeyAlgorithm::EcdsaP256, KeyAlgorithm::Rsa2048] {
            let key = PrivateKey::generate(algorithm).unwrap();
            let encoding = match algorithm {
                KeyAlgorithm::Rsa2048 => KeyEncoding::Pkcs1,
                _ => KeyEncoding::Sec1,
            };
            let pem = key.to_pem(encoding).unwrap();
            let read = read_key(pem.as_bytes()).unwrap();
            assert_eq!(read.thumbprint(), key.jwk().thumbprint());
        }
        assert!(read_key(b"nothing").unwrap_err().contains("BEGIN PRIVATE KEY"));
    }
}
