//! The example HTTPS server, run as a user runs it: renewals drop no connection, new connections
//! get the new certificate, and files that cannot be used change nothing.
//!
//! `cargo test` builds the examples first; with `--test example_https` alone, run
//! `cargo build --examples` before.

#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "tests write files before anyone reads them, and fail by panicking"
)]

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use certmount::clock::Clock;
use certmount::x509::{
    AuthorityInformation, BasicConstraints, Certificate, CertificateAuthority, DistinguishedName,
    GeneralName, KeyAlgorithm, KeyEncoding, KeyUsages, NameConstraints, PrivateKey, Template,
    Validity, chain_to_pem, self_sign,
};
use http_body_util::{BodyExt, Empty};
use hyper::body::Bytes;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::net::TcpStream;
use tokio::process::{Child, ChildStderr, ChildStdout, Command};
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;

const NAME: &str = "web.demo.svc";

#[tokio::test]
async fn renewals_drop_no_connection() {
    let volume = FakeVolume::new();
    let first = volume.renew();
    let mut server = Server::start(&volume).await;

    let mut kept = volume.connect(server.address).await;
    assert_eq!(kept.certificate, first);
    let connecting = ConnectingClient::start(&volume, server.address);

    for _ in 0..5 {
        let renewed = volume.renew();
        assert_eq!(server.says().await, format!("renewed, now serving serial {renewed}"));

        let mut new = volume.connect(server.address).await;
        assert_eq!(new.certificate, renewed);
        assert_eq!(new.get().await, format!("serial {renewed}\n"));
        assert_eq!(kept.get().await, format!("serial {first}\n"));
        connecting.one_more().await;
    }
    connecting.finish().await;
}

#[tokio::test]
async fn files_that_cannot_be_used_change_nothing() {
    let volume = FakeVolume::new();
    let first = volume.renew();
    let mut server = Server::start(&volume).await;

    for (certificate, key, why) in [
        (volume.pair().certificate, volume.pair().key, "cannot be used together"),
        (volume.pair().certificate, "nonsense".to_owned(), "tls.key holds no private key"),
        (String::new(), volume.pair().key, "tls.crt holds no certificate"),
    ] {
        volume.swap(&certificate, &key);
        let complaint = server.complains().await;
        assert!(complaint.starts_with("keeping the old certificate: "), "{complaint}");
        assert!(complaint.contains(why), "{complaint}");
        assert_eq!(volume.connect(server.address).await.certificate, first);
    }

    let renewed = volume.renew();
    assert_eq!(server.says().await, format!("renewed, now serving serial {renewed}"));
    assert_eq!(volume.connect(server.address).await.certificate, renewed);
}

/// A directory whose files are replaced as kubelet and certmount do it, and the CA they come from.
struct FakeVolume {
    directory: TempDir,
    ca: CertificateAuthority,
    swaps: AtomicU64,
}

struct Pair {
    serial: String,
    certificate: String,
    key: String,
}

impl FakeVolume {
    fn new() -> Self {
        let key = Arc::new(PrivateKey::generate(KeyAlgorithm::EcdsaP256).unwrap());
        let mut template = template();
        template.subject.push("CN", "test CA").unwrap();
        template.subject_alt_names.clear();
        template.usages = KeyUsages::parse(["cert sign"]).unwrap();
        template.basic_constraints = BasicConstraints::Ca { path_len: None };
        let certificate =
            self_sign(&template, &key, an_hour(), &AuthorityInformation::default()).unwrap();
        let ca = CertificateAuthority::new(vec![certificate], Vec::new(), key).unwrap();
        Self { directory: tempfile::tempdir().unwrap(), ca, swaps: AtomicU64::new(0) }
    }

    /// Puts a new key and certificate in place and returns the serial number.
    fn renew(&self) -> String {
        let pair = self.pair();
        self.swap(&pair.certificate, &pair.key);
        pair.serial
    }

    fn pair(&self) -> Pair {
        let key = PrivateKey::generate(KeyAlgorithm::EcdsaP256).unwrap();
        let information = AuthorityInformation::default();
        let leaf =
            self.ca.sign(&template(), key.public_key_info(), an_hour(), &information).unwrap();
        Pair {
            serial: leaf.serial_number(),
            certificate: chain_to_pem([&leaf]),
            key: key.to_pem(KeyEncoding::Pkcs8).unwrap().to_string(),
        }
    }

    fn swap(&self, certificate: &str, key: &str) {
        let directory = self.directory.path();
        let number = self.swaps.fetch_add(1, Ordering::Relaxed);
        let files = format!("..{number}");
        fs::create_dir(directory.join(&files)).unwrap();
        fs::write(directory.join(&files).join("tls.crt"), certificate).unwrap();
        fs::write(directory.join(&files).join("tls.key"), key).unwrap();
        symlink(&files, directory.join("..data_tmp")).unwrap();
        fs::rename(directory.join("..data_tmp"), directory.join("..data")).unwrap();
        if let Some(old) = number.checked_sub(1) {
            fs::remove_dir_all(directory.join(format!("..{old}"))).unwrap();
        }
    }

    async fn connect(&self, address: SocketAddr) -> Connection {
        connect(address, self.connector()).await.unwrap()
    }

    fn connector(&self) -> TlsConnector {
        let mut roots = RootCertStore::empty();
        let anchor = CertificateDer::from(self.ca.certificate().der().to_vec());
        roots.add(anchor).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        TlsConnector::from(Arc::new(config))
    }
}

fn template() -> Template {
    Template {
        subject: DistinguishedName::default(),
        subject_alt_names: vec![GeneralName::dns(NAME).unwrap()],
        usages: KeyUsages::parse(["digital signature", "server auth"]).unwrap(),
        basic_constraints: BasicConstraints::EndEntity,
        name_constraints: NameConstraints::default(),
    }
}

fn an_hour() -> Validity {
    let now = Clock::system().now();
    Validity {
        not_before: now - Duration::from_secs(300),
        not_after: now + Duration::from_secs(3600),
    }
}

struct Server {
    address: SocketAddr,
    out: Lines<BufReader<ChildStdout>>,
    err: Lines<BufReader<ChildStderr>>,
    /// Killed when dropped.
    _child: Child,
}

impl Server {
    async fn start(volume: &FakeVolume) -> Self {
        let mut child = Command::new(example())
            .args(["--listen", "127.0.0.1:0", "--tls-dir"])
            .arg(volume.directory.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut out = BufReader::new(child.stdout.take().unwrap()).lines();
        let err = BufReader::new(child.stderr.take().unwrap()).lines();
        let line = out.next_line().await.unwrap().unwrap();
        let address = line.strip_prefix("listening on ").unwrap().split(',').next().unwrap();
        Self { address: address.parse().unwrap(), out, err, _child: child }
    }

    async fn says(&mut self) -> String {
        self.out.next_line().await.unwrap().unwrap()
    }

    async fn complains(&mut self) -> String {
        self.err.next_line().await.unwrap().unwrap()
    }
}

/// `target/<profile>/examples/https-server`, seen from `target/<profile>/deps/example_https-…`.
fn example() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let example = test.parent().unwrap().with_file_name("examples").join("https-server");
    assert!(example.exists(), "{} is missing: cargo build --examples", example.display());
    example
}

/// Connects anew all the time until finished; a single failure fails the test.
struct ConnectingClient {
    done: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

impl ConnectingClient {
    fn start(volume: &FakeVolume, address: SocketAddr) -> Self {
        let connector = volume.connector();
        let done = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&done);
        let task = tokio::spawn(async move {
            loop {
                let mut connection = connect(address, connector.clone()).await.unwrap();
                let served = format!("serial {}\n", connection.certificate);
                assert_eq!(connection.get().await, served);
                count.fetch_add(1, Ordering::Relaxed);
            }
        });
        Self { done, task }
    }

    /// Returns when another connection has been made and answered.
    async fn one_more(&self) {
        let before = self.done.load(Ordering::Relaxed);
        while self.done.load(Ordering::Relaxed) == before && !self.task.is_finished() {
            tokio::task::yield_now().await;
        }
    }

    async fn finish(self) {
        self.task.abort();
        let ended = self.task.await.unwrap_err();
        assert!(ended.is_cancelled(), "a connection failed: {ended}");
    }
}

struct Connection {
    /// The serial number of the server's certificate.
    certificate: String,
    sender: SendRequest<Empty<Bytes>>,
}

impl Connection {
    async fn get(&mut self) -> String {
        self.sender.ready().await.unwrap();
        let request = hyper::Request::get("/").header("host", NAME).body(Empty::new()).unwrap();
        let response = self.sender.send_request(request).await.unwrap();
        assert_eq!(response.status(), 200);
        let body = response.into_body().collect().await.unwrap().to_bytes();
        String::from_utf8(body.to_vec()).unwrap()
    }
}

async fn connect(address: SocketAddr, connector: TlsConnector) -> std::io::Result<Connection> {
    let stream = TcpStream::connect(address).await?;
    let stream = connector.connect(ServerName::try_from(NAME).unwrap(), stream).await?;
    let leaf = stream.get_ref().1.peer_certificates().unwrap()[0].to_vec();
    let certificate = Certificate::from_der(leaf).unwrap().serial_number();
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    Ok(Connection { certificate, sender })
}
