//! A CA and the HTTPS clients that trust it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use certmount::clock::Clock;
use certmount::x509::{
    AuthorityInformation, BasicConstraints, Certificate, CertificateAuthority, DistinguishedName,
    GeneralName, KeyAlgorithm, KeyEncoding, KeyUsages, NameConstraints, PrivateKey, Template,
    Validity, chain_to_pem, self_sign,
};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Bytes;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::CONNECTION;
use hyper_util::rt::TokioIo;
use rustls::client::Resumption;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// The only name that certificates of [`Authority`] have.
const NAME: &str = "web.demo.svc";

/// A CA for servers.
pub struct Authority(CertificateAuthority);

/// A key and its certificate, in PEM.
pub struct Pair {
    pub serial: String,
    pub certificate: String,
    pub key: String,
}

impl Authority {
    pub fn new() -> Self {
        let key = Arc::new(PrivateKey::generate(KeyAlgorithm::EcdsaP256).unwrap());
        let mut template = template();
        template.subject.push("CN", "test CA").unwrap();
        template.subject_alt_names.clear();
        template.usages = KeyUsages::parse(["cert sign"]).unwrap();
        template.basic_constraints = BasicConstraints::Ca { path_len: None };
        let certificate =
            self_sign(&template, &key, an_hour(), &AuthorityInformation::default()).unwrap();
        Self(CertificateAuthority::new(vec![certificate], Vec::new(), key).unwrap())
    }

    pub fn pair(&self) -> Pair {
        let key = PrivateKey::generate(KeyAlgorithm::EcdsaP256).unwrap();
        let information = AuthorityInformation::default();
        let leaf = self.0.sign(&template(), key.public_key_info(), an_hour(), &information);
        let leaf = leaf.unwrap();
        Pair {
            serial: leaf.serial_number(),
            certificate: chain_to_pem([&leaf]),
            key: key.to_pem(KeyEncoding::Pkcs8).unwrap().to_string(),
        }
    }

    /// A client that makes a whole handshake for each connection, so that it sees the certificate
    /// that new clients get.
    pub fn client(&self, server: SocketAddr) -> Client {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from(self.0.certificate().der().to_vec())).unwrap();
        Client { server, connector: TlsConnector::from(Arc::new(client_config(roots))) }
    }
}

/// Clients that make a whole handshake for each connection: a session that is resumed shows no
/// certificate.
pub fn client_config(roots: RootCertStore) -> ClientConfig {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.resumption = Resumption::disabled();
    config
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

/// Whoever connects to one server.
#[derive(Clone)]
pub struct Client {
    server: SocketAddr,
    connector: TlsConnector,
}

/// A connection of HTTP/1.1 over TLS.
pub struct Connection {
    /// The serial number of the server's certificate.
    pub serial: String,
    sender: SendRequest<Empty<Bytes>>,
}

/// What came for a request.
pub struct Answer {
    pub body: String,
    /// Whether the server said that it closes the connection now.
    pub last: bool,
}

impl Client {
    pub async fn connect(&self) -> anyhow::Result<Connection> {
        let stream = TcpStream::connect(self.server).await?;
        let name = ServerName::try_from(NAME).unwrap();
        let stream = self.connector.connect(name, stream).await?;
        let leaf = stream.get_ref().1.peer_certificates().unwrap()[0].to_vec();
        let serial = Certificate::from_der(leaf)?.serial_number();
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        // What becomes of it shows in the requests.
        tokio::spawn(connection);
        Ok(Connection { serial, sender })
    }
}

impl Connection {
    pub async fn get(&mut self) -> anyhow::Result<Answer> {
        self.sender.ready().await?;
        let request = hyper::Request::get("/").header("host", NAME).body(Empty::new())?;
        let response = self.sender.send_request(request).await?;
        anyhow::ensure!(response.status() == 200, "{}", response.status());
        let last = response.headers().get(CONNECTION).is_some_and(|value| value == "close");
        let body = response.into_body().collect().await?.to_bytes();
        Ok(Answer { body: String::from_utf8(body.to_vec())?, last })
    }
}
