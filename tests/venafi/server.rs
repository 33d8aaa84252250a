//! An HTTPS server that answers as it is told, reason phrases and all, and the CA behind it.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use certmount::clock::Clock;
use certmount::x509::{
    AuthorityInformation, BasicConstraints, Certificate, CertificateAuthority, DistinguishedName,
    GeneralName, KeyAlgorithm, KeyUsages, NameConstraints, PrivateKey, Template, Validity,
    chain_to_pem, self_sign,
};
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::ext::ReasonPhrase;
use hyper::{HeaderMap, Request, Response};
use hyper_util::rt::TokioIo;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_util::task::AbortOnDropHandle;
use x509_parser::extensions::{GeneralName as ParsedName, ParsedExtension};
use x509_parser::prelude::{FromDer as _, X509CertificationRequest};

use crate::common::ca_template;

/// The server, which stops when it is dropped.
pub struct Server {
    address: SocketAddr,
    root: Certificate,
    _serving: AbortOnDropHandle<()>,
}

/// What somebody asked.
#[derive(Clone, Debug)]
pub struct Call {
    /// The method, and the path with its query but without its first slash.
    pub what: String,
    pub headers: HeaderMap,
    /// `null` where there was no JSON.
    pub body: Value,
}

/// What is answered.
#[derive(Clone, Debug)]
pub struct Reply {
    status: u16,
    reason: Option<&'static str>,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
}

impl Server {
    pub async fn start(
        address: &str,
        answer: impl Fn(&Call) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let (root, acceptor) = tls(address);
        let listener = TcpListener::bind((address, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let answer = Arc::new(answer);
        let serving = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (acceptor, answer) = (acceptor.clone(), Arc::clone(&answer));
                tokio::spawn(async move {
                    // Clients that trust somebody else hang up.
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let service = hyper::service::service_fn(|request: Request<Incoming>| {
                        let answer = Arc::clone(&answer);
                        async move { Ok::<_, Infallible>(answer(&read(request).await).response()) }
                    });
                    let connection = hyper::server::conn::http1::Builder::new();
                    let _ = connection.serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        Self { address, root, _serving: AbortOnDropHandle::new(serving) }
    }

    pub fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    /// What `caBundle` must say to trust it.
    pub fn ca_bundle(&self) -> String {
        STANDARD.encode(chain_to_pem([&self.root]))
    }
}

async fn read(request: Request<Incoming>) -> Call {
    let (head, body) = request.into_parts();
    let path = head.uri.path_and_query().unwrap().as_str();
    let what = format!("{} {}", head.method, path.trim_start_matches('/'));
    let body = body.collect().await.unwrap().to_bytes();
    let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
    Call { what, headers: head.headers, body }
}

impl Call {
    /// The token of its Authorization header.
    pub fn bearer(&self) -> Option<&str> {
        self.headers.get("authorization")?.to_str().unwrap().strip_prefix("Bearer ")
    }

    /// A text in its body.
    pub fn text(&self, key: &str) -> &str {
        self.body[key].as_str().unwrap_or_default()
    }
}

impl Reply {
    pub fn json(status: u16, body: &Value) -> Self {
        let headers = vec![("content-type", "application/json".to_owned())];
        Self { status, reason: None, headers, body: body.to_string().into_bytes() }
    }

    /// Without a body.
    pub fn status(status: u16) -> Self {
        Self { status, reason: None, headers: Vec::new(), body: Vec::new() }
    }

    /// What a proxy says.
    pub fn html(status: u16) -> Self {
        let headers = vec![("content-type", "text/html".to_owned())];
        let body =
            b"<html><body>Have you tried turning it off and on again?</body></html>".to_vec();
        Self { status, reason: None, headers, body }
    }

    pub fn text(status: u16, body: &str) -> Self {
        let headers = vec![("content-type", "text/plain".to_owned())];
        Self { status, reason: None, headers, body: body.as_bytes().to_vec() }
    }

    /// The same with another reason phrase.
    pub fn because(self, reason: &'static str) -> Self {
        Self { reason: Some(reason), ..self }
    }

    /// The same with a header.
    pub fn with(mut self, name: &'static str, value: &str) -> Self {
        self.headers.push((name, value.to_owned()));
        self
    }

    fn response(self) -> Response<Full<Bytes>> {
        let mut response = Response::new(Full::from(self.body));
        *response.status_mut() = self.status.try_into().unwrap();
        if let Some(reason) = self.reason {
            response.extensions_mut().insert(ReasonPhrase::from_static(reason.as_bytes()));
        }
        for (name, value) in self.headers {
            response.headers_mut().insert(name, value.parse().unwrap());
        }
        response
    }
}

/// A root that nobody knows, and a server with a certificate of it.
fn tls(address: &str) -> (Certificate, TlsAcceptor) {
    let authority = root("HTTPS");
    let key = PrivateKey::generate(KeyAlgorithm::EcdsaP256).unwrap();
    let template = Template {
        subject_alt_names: vec![GeneralName::ip(address).unwrap()],
        usages: KeyUsages::parse(["digital signature", "server auth"]).unwrap(),
        basic_constraints: BasicConstraints::EndEntity,
        ..ca_template("CN=server", None)
    };
    let day = Duration::from_secs(86_400);
    let leaf = sign(&authority, &template, key.public_key_info(), day);
    let chain = vec![CertificateDer::from(leaf.der().to_vec())];
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.pkcs8_der().to_vec()));
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    (authority.certificate().clone(), TlsAcceptor::from(Arc::new(config)))
}

/// A root, an intermediate that signs, and what they do wrong.
pub struct Ca {
    pub root: Certificate,
    intermediate: CertificateAuthority,
}

impl Ca {
    pub fn new() -> Self {
        let root = root("root");
        let key = Arc::new(PrivateKey::generate(KeyAlgorithm::EcdsaP256).unwrap());
        let template = ca_template("CN=issuing", Some(0));
        let day = Duration::from_secs(86_400);
        let certificate = sign(&root, &template, key.public_key_info(), day);
        let intermediate =
            CertificateAuthority::new(vec![certificate], vec![root.certificate().clone()], key);
        Self { root: root.certificate().clone(), intermediate: intermediate.unwrap() }
    }

    /// Signs what the PEM request says: leaf, intermediate, root.
    pub fn sign(&self, request: &str, life: Duration) -> Vec<Certificate> {
        let (_, pem) = x509_parser::pem::parse_x509_pem(request.as_bytes()).unwrap();
        let (_, request) = X509CertificationRequest::from_der(&pem.contents).unwrap();
        let info = &request.certification_request_info;
        let names = request.requested_extensions().into_iter().flatten().flat_map(|extension| {
            match extension {
                ParsedExtension::SubjectAlternativeName(names) => names
                    .general_names
                    .iter()
                    .map(|name| match name {
                        ParsedName::DNSName(name) => GeneralName::dns(name).unwrap(),
                        ParsedName::URI(uri) => GeneralName::uri(uri).unwrap(),
                        other => panic!("{other} was not expected"),
                    })
                    .collect(),
                _ => Vec::new(),
            }
        });
        let template = Template {
            subject: DistinguishedName::from_rfc4514(&info.subject.to_string()).unwrap(),
            subject_alt_names: names.collect(),
            usages: KeyUsages::parse(["digital signature", "server auth", "client auth"]).unwrap(),
            basic_constraints: BasicConstraints::EndEntity,
            name_constraints: NameConstraints::default(),
        };
        self.chain(sign(&self.intermediate, &template, info.subject_pki.raw, life))
    }

    /// A certificate that nobody asked for, of the same names.
    pub fn sign_for_another_key(&self, request: &str) -> Vec<Certificate> {
        let (_, pem) = x509_parser::pem::parse_x509_pem(request.as_bytes()).unwrap();
        let (_, request) = X509CertificationRequest::from_der(&pem.contents).unwrap();
        let subject = request.certification_request_info.subject.to_string();
        let template = Template {
            subject: DistinguishedName::from_rfc4514(&subject).unwrap(),
            basic_constraints: BasicConstraints::EndEntity,
            ..ca_template("CN=another", None)
        };
        let key = PrivateKey::generate(KeyAlgorithm::EcdsaP256).unwrap();
        let day = Duration::from_secs(86_400);
        self.chain(sign(&self.intermediate, &template, key.public_key_info(), day))
    }

    fn chain(&self, leaf: Certificate) -> Vec<Certificate> {
        vec![leaf, self.intermediate.certificate().clone(), self.root.clone()]
    }
}

fn root(name: &str) -> CertificateAuthority {
    let key = Arc::new(PrivateKey::generate(KeyAlgorithm::EcdsaP256).unwrap());
    let template = ca_template(&format!("CN={name}"), None);
    let validity = lasting(Duration::from_secs(2 * 86_400));
    let certificate = self_sign(&template, &key, validity, &AuthorityInformation::default());
    CertificateAuthority::new(vec![certificate.unwrap()], Vec::new(), key).unwrap()
}

fn sign(
    authority: &CertificateAuthority,
    template: &Template,
    public_key_info: &[u8],
    life: Duration,
) -> Certificate {
    let information = AuthorityInformation::default();
    authority.sign(template, public_key_info, lasting(life), &information).unwrap()
}

fn lasting(life: Duration) -> Validity {
    let now = Clock::system().now();
    Validity { not_before: now - Duration::from_secs(1), not_after: now + life }
}
