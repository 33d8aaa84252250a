//! Clients of the HTTPS server, which verify it as any client would, and what they saw.
//!
//! One client makes a connection and keeps it; others connect anew all the time. Every request
//! that is not answered as it should be counts as failed: nothing is tried twice.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use http_body_util::{BodyExt as _, Empty};
use hyper::Request;
use hyper::body::Bytes;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use rustls::client::Resumption;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::sync::lock;
use crate::x509::Certificate;

/// How many clients connect anew all the time.
pub(super) const CONNECTING_CLIENTS: usize = 4;

/// How long each of them rests after a connection.
const BETWEEN_CONNECTIONS: Duration = Duration::from_millis(10);

/// How long the client that stays connected rests after a request.
const BETWEEN_REQUESTS: Duration = Duration::from_millis(25);

/// When a request, with its handshake where it makes one, counts as failed.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Clients at work, until [`Traffic::stop`].
pub(super) struct Traffic {
    stop: CancellationToken,
    clients: TaskTracker,
}

/// What the clients have seen so far. Cheap to clone.
#[derive(Clone, Default)]
pub(super) struct Tally(Arc<Mutex<Seen>>);

/// A snapshot of a [`Tally`].
#[derive(Clone, Default)]
pub(super) struct Seen {
    /// Requests answered on the one connection that is kept.
    pub(super) kept_requests: u64,
    /// Connections made anew and answered, one request each.
    pub(super) connections: u64,
    /// Requests and connections that failed.
    pub(super) failed: u64,
    /// Why the first of them failed.
    pub(super) first_failure: Option<String>,
    /// Handshakes by the serial number of the certificate that the server showed.
    pub(super) handshakes: HashMap<String, Handshakes>,
}

/// Handshakes with one certificate.
#[derive(Clone, Copy)]
pub(super) struct Handshakes {
    pub(super) count: u64,
    pub(super) first: Instant,
    pub(super) last: Instant,
}

/// Whom the clients talk to, and whom they trust.
#[derive(Clone)]
pub(super) struct Server {
    address: SocketAddr,
    name: ServerName<'static>,
    connector: TlsConnector,
}

impl Traffic {
    /// Sets the clients to work.
    pub(super) fn start(server: &Server, tally: &Tally) -> Self {
        let traffic = Self { stop: CancellationToken::new(), clients: TaskTracker::new() };
        let kept = keep_connected(server.clone(), tally.clone(), traffic.stop.clone());
        traffic.clients.spawn(kept);
        for _ in 0..CONNECTING_CLIENTS {
            let connecting = keep_connecting(server.clone(), tally.clone(), traffic.stop.clone());
            traffic.clients.spawn(connecting);
        }
        traffic
    }

    /// Lets the requests under way finish, and makes no more.
    pub(super) async fn stop(self) {
        self.stop.cancel();
        self.clients.close();
        self.clients.wait().await;
    }
}

impl Tally {
    pub(super) fn seen(&self) -> Seen {
        lock(&self.0).clone()
    }

    fn count(&self, count: impl FnOnce(&mut Seen)) {
        count(&mut lock(&self.0));
    }

    fn count_handshake(&self, serial: &str) {
        let now = Instant::now();
        self.count(|seen| {
            let new = Handshakes { count: 0, first: now, last: now };
            let handshakes = seen.handshakes.entry(serial.to_owned()).or_insert(new);
            handshakes.count += 1;
            handshakes.last = now;
        });
    }

    fn count_failure(&self, error: &anyhow::Error) {
        self.count(|seen| {
            seen.failed += 1;
            seen.first_failure.get_or_insert_with(|| format!("{error:#}"));
        });
    }
}

impl Seen {
    /// All requests, answered or not.
    pub(super) fn requests(&self) -> u64 {
        self.kept_requests + self.connections + self.failed
    }
}

impl Server {
    /// `trust_anchors` are the only CAs that the clients accept, `name` the only host name.
    pub(super) fn new(
        address: SocketAddr,
        name: &str,
        trust_anchors: &[Certificate],
    ) -> anyhow::Result<Self> {
        let mut roots = RootCertStore::empty();
        for anchor in trust_anchors {
            roots.add(CertificateDer::from(anchor.der().to_vec()))?;
        }
        let provider = Arc::new(aws_lc_rs::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        // A resumed session shows no certificate, and certificates are what is watched here.
        config.resumption = Resumption::disabled();
        Ok(Self {
            address,
            name: ServerName::try_from(name.to_owned())?,
            connector: TlsConnector::from(Arc::new(config)),
        })
    }

    async fn connect(&self) -> anyhow::Result<Connection> {
        let stream = TcpStream::connect(self.address).await?;
        stream.set_nodelay(true)?;
        let stream = self.connector.connect(self.name.clone(), stream).await?;
        let shown = stream.get_ref().1.peer_certificates().unwrap_or_default();
        let leaf = shown.first().context("the server showed no certificate")?;
        let serial = Certificate::from_der(leaf.to_vec())?.serial_number();
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        // Ends with the sender; its errors come out there too.
        tokio::spawn(connection);
        Ok(Connection { serial, host: self.name.to_str().into_owned(), sender })
    }
}

struct Connection {
    serial: String,
    host: String,
    sender: SendRequest<Empty<Bytes>>,
}

impl Connection {
    /// Asks which certificate the connection was made with, and checks the answer.
    async fn request(&mut self) -> anyhow::Result<()> {
        self.sender.ready().await?;
        let request = Request::get("/").header("host", &self.host).body(Empty::new())?;
        let response = self.sender.send_request(request).await?;
        ensure!(response.status().is_success(), "answered {}", response.status());
        let body = response.into_body().collect().await?.to_bytes();
        let expected = super::answer_for(&self.serial);
        ensure!(body == expected, "answered {body:?} instead of {expected:?}");
        Ok(())
    }
}

async fn keep_connected(server: Server, tally: Tally, stop: CancellationToken) {
    let work = async {
        let mut connection = in_time(server.connect()).await?;
        tally.count_handshake(&connection.serial);
        while !stop.is_cancelled() {
            in_time(connection.request()).await?;
            tally.count(|seen| seen.kept_requests += 1);
            sleep(BETWEEN_REQUESTS).await;
        }
        anyhow::Ok(())
    };
    if let Err(error) = work.await.context("on the connection that is kept") {
        tally.count_failure(&error);
    }
}

async fn keep_connecting(server: Server, tally: Tally, stop: CancellationToken) {
    while !stop.is_cancelled() {
        let work = async {
            let mut connection = server.connect().await?;
            tally.count_handshake(&connection.serial);
            connection.request().await
        };
        match in_time(work).await.context("on a new connection") {
            Ok(()) => tally.count(|seen| seen.connections += 1),
            Err(error) => tally.count_failure(&error),
        }
        sleep(BETWEEN_CONNECTIONS).await;
    }
}

async fn in_time<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    match timeout(TIMEOUT, work).await {
        Ok(result) => result,
        Err(_) => bail!("no answer within {} s", TIMEOUT.as_secs()),
    }
}
