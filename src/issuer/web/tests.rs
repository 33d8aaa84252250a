use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use hyper::header::AUTHORIZATION;
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::x509::fixture::ca_template;
use crate::x509::{
    BasicConstraints, CertificateAuthority, DistinguishedName, GeneralName, KeyAlgorithm,
    KeyEncoding, KeyUsages, NameConstraints, PrivateKey, Template, Validity, chain_to_pem,
    self_sign,
};

/// A server that gives every connection the same bytes, whatever it asks.
struct Canned {
    address: SocketAddr,
    asked: Arc<AtomicUsize>,
    heard: Arc<Mutex<String>>,
}

impl Canned {
    async fn start(answer: impl Into<Vec<u8>>) -> Self {
        Self::start_tls(answer, None).await
    }

    async fn start_tls(answer: impl Into<Vec<u8>>, tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (asked, heard) = (Arc::new(AtomicUsize::new(0)), Arc::new(Mutex::new(String::new())));
        let (answer, count, hears) = (answer.into(), Arc::clone(&asked), Arc::clone(&heard));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::SeqCst);
                match &tls {
                    None => serve(stream, &answer, &hears).await,
                    Some(tls) => {
                        if let Ok(stream) = tls.accept(stream).await {
                            serve(stream, &answer, &hears).await;
                        }
                    }
                }
            }
        });
        Self { address, asked, heard }
    }

    fn url(&self) -> Url {
        format!("http://{}/v1/path?token=s3cret", self.address).parse().unwrap()
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

async fn serve(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    answer: &[u8],
    heard: &Mutex<String>,
) {
    let mut request = Vec::new();
    let mut buffer = [0; 4096];
    while !request.windows(4).any(|end| end == b"\r\n\r\n") {
        match stream.read(&mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(read) => request.extend_from_slice(&buffer[..read]),
        }
    }
    *heard.lock().unwrap() = String::from_utf8(request).unwrap();
    let _ = stream.write_all(answer).await;
    let _ = stream.shutdown().await;
}

fn now() -> crate::clock::Timestamp {
    "2026-03-01T12:00:00Z".parse().unwrap()
}

fn web(options: WebOptions) -> Web {
    Web::new(options, Clock::from_fn(now)).unwrap()
}

/// For a `ClusterIssuer`.
fn unlimited() -> WebOptions {
    // Roots of one's own, so that the test needs none of the system's.
    let ca_bundle = Some(Authority::new().pem.into_bytes());
    WebOptions { reach: Reach::Anywhere, ca_bundle, ..WebOptions::default() }
}

async fn ask(server: &Canned) -> Result<Answer, IssueError> {
    web(unlimited()).get(&server.url()).send().await
}

fn kind_and_text(error: IssueError) -> (IssueErrorKind, String) {
    let text = crate::error::with_causes(&error);
    assert!(!text.contains("s3cret") && !text.contains("/v1/path"), "{text}");
    (error.kind, text)
}

#[tokio::test]
async fn an_answer_comes_whole() {
    let server = Canned::start(
        "HTTP/1.1 400 The zone is closed\r\nX-Thing: 1\r\nDate: Sun, 01 Mar 2026 12:00:05 GMT\r\n\
         Content-Length: 2\r\n\r\n{}",
    )
    .await;
    let answer = web(unlimited())
        .post(&server.url())
        .secret(AUTHORIZATION, "Bearer token-1")
        .body("application/pkcs10", b"csr".to_vec())
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status, StatusCode::BAD_REQUEST);
    assert_eq!(answer.reason.as_deref(), Some("The zone is closed"));
    assert_eq!(answer.header(&HeaderName::from_static("x-thing")), Some("1"));
    assert_eq!(answer.date().unwrap() - now(), jiff::SignedDuration::from_secs(5));
    assert_eq!(*answer.body, b"{}");
    let heard = server.heard.lock().unwrap().to_lowercase();
    assert!(heard.contains("user-agent: certmount/"), "{heard}");
    assert!(heard.contains("authorization: bearer token-1"), "{heard}");
    assert!(heard.contains("content-type: application/pkcs10"), "{heard}");
    let (kind, text) = kind_and_text(answer.error(None));
    assert_eq!(kind, IssueErrorKind::Denied);
    assert!(text.contains("The zone is closed"), "{text}");
}

#[tokio::test]
async fn a_failure_says_whose_fault_it_is() {
    let table = [
        ("500 Internal Server Error", IssueErrorKind::Unavailable, "status 500"),
        ("503 Service Unavailable", IssueErrorKind::Unavailable, "status 503"),
        ("401 Unauthorized", IssueErrorKind::Config, "does not let us in"),
        ("403 Forbidden", IssueErrorKind::Config, "does not let us in"),
        ("404 Not Found", IssueErrorKind::Denied, "Not Found"),
        ("429 Too Many Requests", IssueErrorKind::RateLimited, "left alone"),
        (
            "307 Temporary Redirect\r\nLocation: https://b.example/x?t=s3cret",
            IssueErrorKind::Config,
            "https://b.example/x,",
        ),
        ("204 No Content", IssueErrorKind::BadResponse, "status 204"),
    ];
    for (status, kind, words) in table {
        let server = Canned::start(format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n")).await;
        let (got, text) = kind_and_text(ask(&server).await.unwrap().error(None));
        assert_eq!(got, kind, "{status}");
        assert!(text.contains(words), "{status}: {text}");
        assert_eq!(server.asked(), 1, "{status}");
    }
}

#[tokio::test]
async fn html_where_json_should_be_is_told_as_such() {
    let server = Canned::start(
        "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 6\r\n\r\n<html>",
    )
    .await;
    let error = ask(&server).await.unwrap().json::<serde_json::Value>().unwrap_err();
    let (kind, text) = kind_and_text(error);
    assert_eq!(kind, IssueErrorKind::BadResponse);
    assert!(text.contains("text/html instead of JSON"), "{text}");

    let json = r#"HTTP/1.1 200 OK
Content-Type: application/json
Content-Length: 18

{"token":"s3cret""#
        .replace('\n', "\r\n");
    let server = Canned::start(json + "}").await;
    let error = ask(&server).await.unwrap().json::<Vec<u8>>().unwrap_err();
    assert_eq!(kind_and_text(error).0, IssueErrorKind::BadResponse);
}

#[tokio::test]
async fn an_answer_that_breaks_off_or_never_ends_is_none() {
    let server = Canned::start("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf").await;
    let (kind, text) = kind_and_text(ask(&server).await.unwrap_err());
    assert_eq!(kind, IssueErrorKind::BadResponse, "{text}");
    assert!(text.contains("broke off"), "{text}");

    let mut long = b"HTTP/1.1 200 OK\r\n\r\n".to_vec();
    long.resize(LONGEST_BODY + 100, b'a');
    let server = Canned::start(long).await;
    let (kind, text) = kind_and_text(ask(&server).await.unwrap_err());
    assert_eq!(kind, IssueErrorKind::BadResponse);
    assert!(text.contains("longer than any"), "{text}");
}

#[tokio::test]
async fn a_server_that_is_down_or_silent_is_unavailable() {
    let server = Canned::start("").await;
    let (kind, text) = kind_and_text(ask(&server).await.unwrap_err());
    assert_eq!(kind, IssueErrorKind::Unavailable, "{text}");

    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
    let web = web(unlimited());
    let silent = web.get(&url).timeout(Duration::from_millis(50)).send().await.unwrap_err();
    let (kind, text) = kind_and_text(silent);
    assert_eq!(kind, IssueErrorKind::Unavailable);
    assert!(text.contains("does not answer"), "{text}");

    drop(listener);
    let (kind, text) = kind_and_text(web.get(&url).send().await.unwrap_err());
    assert_eq!(kind, IssueErrorKind::Unavailable);
    assert!(text.contains("cannot be reached") && text.contains("refused"), "{text}");
}

#[tokio::test]
async fn a_server_that_says_when_to_come_back_is_left_alone() {
    for after in ["120", "Sun, 01 Mar 2026 12:02:10 GMT"] {
        for status in ["429 Too Many Requests", "503 Service Unavailable"] {
            let server = Canned::start(format!(
                "HTTP/1.1 {status}\r\nRetry-After: {after}\r\nContent-Length: 0\r\n\
                 Date: Sun, 01 Mar 2026 12:00:10 GMT\r\n\r\n"
            ))
            .await;
            let web = web(unlimited());
            let error = web.get(&server.url()).send().await.unwrap().error(Some("too many"));
            assert_eq!(error.retry_after, Some(Duration::from_secs(120)), "{after}");
            let (kind, text) = kind_and_text(error);
            assert_eq!(kind, IssueErrorKind::RateLimited);
            assert!(text.contains("too many"), "{text}");

            let error = web.get(&server.url()).send().await.unwrap_err();
            assert_eq!(error.kind, IssueErrorKind::RateLimited);
            assert!(error.retry_after.unwrap() > Duration::from_secs(100));
            assert_eq!(server.asked(), 1);
        }
    }
}

#[tokio::test]
async fn an_issuer_of_a_namespace_does_not_reach_the_node() {
    let server = Canned::start("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
    let port = server.address.port();
    let web = web(WebOptions { reach: Reach::default(), ..unlimited() });
    for host in ["127.0.0.1", "2130706433", "0x7f.1", "[::1]", "[::ffff:127.0.0.1]", "localhost"] {
        let url: Url = format!("https://{host}:{port}/").parse().unwrap();
        let (kind, text) = kind_and_text(web.get(&url).send().await.unwrap_err());
        assert_eq!(kind, IssueErrorKind::Config, "{host}: {text}");
        assert!(text.contains("only a ClusterIssuer"), "{host}: {text}");
    }
    assert_eq!(server.asked(), 0);
}

#[tokio::test]
async fn plain_http_stays_on_this_machine() {
    let web = web(unlimited());
    for url in ["http://ca.example/", "http://10.0.0.1/", "ftp://127.0.0.1/"] {
        let (kind, text) = kind_and_text(web.get(&url.parse().unwrap()).send().await.unwrap_err());
        assert_eq!(kind, IssueErrorKind::Config, "{url}");
        assert!(text.contains("use https"), "{url}: {text}");
    }
}

#[tokio::test]
async fn a_name_without_address_is_told() {
    let url = "https://no-such-name.invalid".parse().unwrap();
    let (kind, text) = kind_and_text(web(unlimited()).get(&url).send().await.unwrap_err());
    assert_eq!(kind, IssueErrorKind::Unavailable);
    assert!(text.contains("no-such-name.invalid cannot be found"), "{text}");
}

/// A CA and what it signs.
struct Authority {
    ca: CertificateAuthority,
    pem: String,
}

impl Authority {
    fn new() -> Self {
        let key = Arc::new(PrivateKey::generate(KeyAlgorithm::EcdsaP256).unwrap());
        let root =
            self_sign(&ca_template("CN=root"), &key, validity(), &Default::default()).unwrap();
        let pem = chain_to_pem([&root]);
        Self { ca: CertificateAuthority::new(vec![root], Vec::new(), key).unwrap(), pem }
    }

    /// Certificate and key of `name`, as PEM.
    fn issue(&self, name: &str) -> (String, Zeroizing<String>) {
        let key = PrivateKey::generate(KeyAlgorithm::EcdsaP256).unwrap();
        let template = Template {
            subject: DistinguishedName::default(),
            subject_alt_names: vec![GeneralName::dns(name).unwrap()],
            usages: KeyUsages::parse(["digital signature", "server auth", "client auth"]).unwrap(),
            basic_constraints: BasicConstraints::EndEntity,
            name_constraints: NameConstraints::default(),
        };
        let leaf = self
            .ca
            .sign(&template, key.public_key_info(), validity(), &Default::default())
            .unwrap();
        (chain_to_pem([&leaf]), key.to_pem(KeyEncoding::Pkcs8).unwrap())
    }

    /// TLS for the server `name`, which wants to know its clients if `mutual`.
    fn acceptor(&self, name: &str, mutual: bool) -> TlsAcceptor {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .unwrap();
        let builder = if mutual {
            let mut roots = RootCertStore::empty();
            roots.add(CertificateDer::from_pem_slice(self.pem.as_bytes()).unwrap()).unwrap();
            let verifier =
                WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
            builder.with_client_cert_verifier(verifier.unwrap())
        } else {
            builder.with_no_client_auth()
        };
        let (certificate, key) = self.issue(name);
        let certificate = CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap();
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
        TlsAcceptor::from(Arc::new(builder.with_single_cert(vec![certificate], key).unwrap()))
    }
}

/// These are checked against the system's clock.
fn validity() -> Validity {
    let now = Clock::system().now();
    let hour = Duration::from_secs(3600);
    Validity { not_before: now - hour, not_after: now + hour }
}

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";

#[tokio::test]
async fn a_ca_bundle_is_what_counts() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let server = Canned::start_tls(OK, Some(ours.acceptor("localhost", false))).await;
    let url: Url = format!("https://localhost:{}", server.address.port()).parse().unwrap();
    let trusting =
        |pem: &str| web(WebOptions { ca_bundle: Some(pem.as_bytes().to_vec()), ..unlimited() });
    let both = format!("{}{}", theirs.pem, ours.pem);
    assert_eq!(trusting(&both).get(&url).send().await.unwrap().status, StatusCode::OK);
    let (kind, text) = kind_and_text(trusting(&theirs.pem).get(&url).send().await.unwrap_err());
    assert_eq!(kind, IssueErrorKind::Unavailable);
    assert!(text.contains("is not trusted") && text.contains("caBundle"), "{text}");

    for nonsense in ["", "nonsense", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----"]
    {
        let options = WebOptions { ca_bundle: Some(nonsense.into()), ..unlimited() };
        let error = Web::new(options, Clock::from_fn(now)).err().map(|error| error.to_string());
        assert!(error.is_some(), "{nonsense}");
    }
}

#[tokio::test]
async fn a_server_may_have_another_name_in_its_certificate() {
    let authority = Authority::new();
    let server = Canned::start_tls(OK, Some(authority.acceptor("vault.internal", false))).await;
    let url: Url = format!("https://{}", server.address).parse().unwrap();
    let options = |server_name| WebOptions {
        ca_bundle: Some(authority.pem.clone().into_bytes()),
        server_name,
        ..unlimited()
    };
    let (_, text) = kind_and_text(web(options(None)).get(&url).send().await.unwrap_err());
    assert!(text.contains("is not trusted"), "{text}");

    let name = ServerName { name: "vault.internal".to_owned(), server: url.clone() };
    let web = web(options(Some(name)));
    assert_eq!(web.get(&url).send().await.unwrap().status, StatusCode::OK);
    let heard = server.heard.lock().unwrap().to_lowercase();
    assert!(heard.contains(&format!("host: {}\r\n", server.address)), "{heard}");
}

#[tokio::test]
async fn a_client_certificate_says_who_we_are() {
    let authority = Authority::new();
    let server = Canned::start_tls(OK, Some(authority.acceptor("localhost", true))).await;
    let url: Url = format!("https://localhost:{}", server.address.port()).parse().unwrap();
    let options = |identity| WebOptions {
        ca_bundle: Some(authority.pem.clone().into_bytes()),
        identity,
        ..unlimited()
    };
    let (kind, text) = kind_and_text(web(options(None)).get(&url).send().await.unwrap_err());
    assert_eq!(kind, IssueErrorKind::Unavailable, "{text}");

    let (certificate, key) = authority.issue("node");
    let key = Zeroizing::new(key.as_bytes().to_vec());
    let identity = ClientIdentity { certificates: certificate.into_bytes(), key };
    assert_eq!(web(options(Some(identity))).get(&url).send().await.unwrap().status, StatusCode::OK);

    let identity = ClientIdentity { certificates: b"no".to_vec(), key: Zeroizing::default() };
    let error = Web::new(options(Some(identity)), Clock::from_fn(now)).unwrap_err();
    assert!(error.to_string().starts_with("the client certificate cannot be used"), "{error}");
}
