//! TLS settings that follow the certificate in a directory, as certmount mounts it.
//!
//! Copy this file: it needs rustls, notify and anyhow, and nothing of certmount.
//!
//! certmount replaces all files of a volume at once. They lie in a directory of their own, which the
//! symbolic link `..data` names; a renewal makes a new directory and renames a new link over the old
//! one. Three rules follow for whoever reads them:
//!
//! 1. Resolve `..data` once and read key and certificate below what it names. Read one after the
//!    other through `tls.crt` and `tls.key`, they can come from two different renewals.
//! 2. Watch the directory for `..data`. A watch on `tls.crt` stays with the old file and never
//!    fires again.
//! 3. Keep what works: files that cannot be used must not take the server down.

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock, mpsc};
use std::{fs, io, thread};

use anyhow::Context;
use notify::event::{ModifyKind, RenameMode};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// The link that a renewal replaces.
const CURRENT: &str = "..data";

/// The TLS settings for new connections. Follows the directory until dropped.
pub(crate) struct FollowedTls {
    current: Arc<RwLock<Arc<Served>>>,
    _watcher: RecommendedWatcher,
}

/// One key and certificate, ready to serve.
pub(crate) struct Served {
    /// For `TlsAcceptor::from`.
    pub(crate) config: Arc<ServerConfig>,
    /// The leaf, to tell connections apart.
    pub(crate) certificate: CertificateDer<'static>,
}

impl FollowedTls {
    /// Loads `tls.crt` and `tls.key` from `directory`, and again after each renewal.
    ///
    /// `on_renewal` hears of each: what is served from now on, or why the old stays.
    pub(crate) fn open(
        directory: &Path,
        on_renewal: impl Fn(anyhow::Result<&Served>) + Send + 'static,
    ) -> anyhow::Result<Self> {
        // Watch first, so that a renewal during the first load is not missed.
        let (sender, events) = mpsc::channel();
        let mut watcher = notify::recommended_watcher(sender)?;
        watcher
            .watch(directory, RecursiveMode::NonRecursive)
            .with_context(|| format!("cannot watch {}", directory.display()))?;

        let current = Arc::new(RwLock::new(Arc::new(Served::load(directory)?)));
        let directory = directory.to_owned();
        let served = Arc::clone(&current);
        // Ends when the watcher is dropped and closes the channel.
        thread::spawn(move || {
            for _ in events.into_iter().filter(is_renewal) {
                match Served::load(&directory) {
                    Ok(new) => {
                        let new = Arc::new(new);
                        *served.write().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&new);
                        on_renewal(Ok(&new));
                    }
                    Err(error) => on_renewal(Err(error)),
                }
            }
        });
        Ok(Self { current, _watcher: watcher })
    }

    /// What to serve a new connection with.
    pub(crate) fn current(&self) -> Arc<Served> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Served {
    fn load(directory: &Path) -> anyhow::Result<Self> {
        let (certificate, key) = read_pair(directory)?;
        let chain = CertificateDer::pem_slice_iter(&certificate)
            .collect::<Result<Vec<_>, _>>()
            .context("tls.crt is not PEM")?;
        let leaf = chain.first().context("tls.crt holds no certificate")?.clone();
        let key = PrivateKeyDer::from_pem_slice(&key).context("tls.key holds no private key")?;

        // A whole new configuration rather than a new certificate in the old one: it starts
        // without the sessions of the old, so nobody resumes one made with the old certificate.
        let mut config =
            ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
                .with_safe_default_protocol_versions()?
                .with_no_client_auth()
                .with_single_cert(chain, key)
                .context("tls.crt and tls.key cannot be used together")?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self { config: Arc::new(config), certificate: leaf })
    }
}

/// Certificate and key of one and the same renewal.
fn read_pair(directory: &Path) -> anyhow::Result<(Vec<u8>, Vec<u8>)> {
    loop {
        let files = current_files(directory)?;
        let pair = read(&files.join("tls.crt"))
            .and_then(|certificate| Ok((certificate, read(&files.join("tls.key"))?)));
        match pair {
            // Renewed while being read, which removes the old files.
            Err(_) if current_files(directory)? != files => {}
            pair => return pair,
        }
    }
}

/// The directory that holds the files now; `directory` itself where somebody put plain files.
fn current_files(directory: &Path) -> anyhow::Result<PathBuf> {
    let link = directory.join(CURRENT);
    match fs::read_link(&link) {
        Ok(target) => Ok(directory.join(target)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(directory.to_owned()),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", link.display())),
    }
}

fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

/// Whether `..data` was replaced, or events were lost and it may have been.
fn is_renewal(event: &notify::Result<Event>) -> bool {
    let Ok(event) = event else { return true };
    let replaced = event.kind == EventKind::Modify(ModifyKind::Name(RenameMode::To))
        && event.paths.iter().any(|path| path.ends_with(CURRENT));
    replaced || event.need_rescan()
}
