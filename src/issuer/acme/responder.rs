//! The servers that CAs ask when they check challenges: HTTP for HTTP-01, TLS for TLS-ALPN-01.
//!
//! They may stand in the open internet, so a connection has an end, and there are only so many.

use std::convert::Infallible;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HOST, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use super::answers::AcmeAnswers;

/// A CA opens a handful for each name.
const MOST_CONNECTIONS: usize = 256;

/// For a whole question and its answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// The protocol that a CA speaks when it checks TLS-ALPN-01 (RFC 8737 §6.2).
const ACME_TLS: &[u8] = b"acme-tls/1";

impl AcmeAnswers {
    /// Answers HTTP-01 on `listener` until dropped (RFC 8555 §8.3).
    pub async fn serve_http01(self, listener: TcpListener) -> io::Result<()> {
        serve(listener, move |stream| http01(self.clone(), stream)).await
    }

    /// Answers TLS-ALPN-01 on `listener` until dropped (RFC 8737).
    ///
    /// # Errors
    ///
    /// When there can be no TLS.
    pub async fn serve_tls_alpn(self, listener: TcpListener) -> io::Result<()> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(io::Error::other)?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(Resolver(self)));
        config.alpn_protocols = vec![ACME_TLS.to_vec()];
        let acceptor = TlsAcceptor::from(Arc::new(config));
        serve(listener, move |stream| tls_alpn(acceptor.clone(), stream)).await
    }
}

/// Hands each connection to `answer`, for no longer than [`PATIENCE`].
async fn serve<A: Future<Output = ()> + Send + 'static>(
    listener: TcpListener,
    answer: impl Fn(TcpStream) -> A,
) -> io::Result<()> {
    let places = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    loop {
        let place = Arc::clone(&places).acquire_owned().await.expect("it is never closed");
        let Ok((stream, _)) = listener.accept().await else {
            // Such as no file descriptor left: others are freed before long.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let answered = answer(stream);
        tokio::spawn(async move {
            let _ = timeout(PATIENCE, answered).await;
            drop(place);
        });
    }
}

async fn http01(answers: AcmeAnswers, stream: TcpStream) {
    let service = service_fn(move |request| {
        let response = respond(&answers, &request);
        async move { Ok::<_, Infallible>(response) }
    });
    let _ = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .keep_alive(false)
        .max_buf_size(16 << 10)
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

fn respond(answers: &AcmeAnswers, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    let authority = request.headers().get(HOST).and_then(|host| host.to_str().ok());
    let host = authority.map(host_of).unwrap_or_default();
    let token = request.uri().path().strip_prefix("/.well-known/acme-challenge/");
    let (status, text) = if ![Method::GET, Method::HEAD].contains(request.method()) {
        (StatusCode::METHOD_NOT_ALLOWED, "only GET\n".to_owned())
    } else {
        match token.and_then(|token| answers.key_authorization(host, token)) {
            Some(authorization) => (StatusCode::OK, authorization),
            None => (StatusCode::NOT_FOUND, "not here\n".to_owned()),
        }
    };
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    response
}

/// The host of a Host header (RFC 9110 §7.2), without port and brackets.
fn host_of(authority: &str) -> &str {
    match authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, _)) => address,
        None => authority.split_once(':').map_or(authority, |(host, _)| host),
    }
}

async fn tls_alpn(acceptor: TlsAcceptor, stream: TcpStream) {
    // The handshake is the answer.
    if let Ok(mut stream) = acceptor.accept(stream).await {
        let _ = stream.shutdown().await;
    }
}

/// Finds the certificate of the challenge that a handshake asks for; there is no other.
#[derive(Debug)]
struct Resolver(AcmeAnswers);

impl ResolvesServerCert for Resolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let is_acme = hello.alpn()?.any(|protocol| protocol == ACME_TLS);
        hello.server_name().filter(|_| is_acme).and_then(|name| self.0.certificate(name))
    }
}

/// How a TLS handshake names an address (RFC 8738 §6): as its reverse mapping in DNS.
pub(super) fn sni_of(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => {
            let [a, b, c, d] = address.octets();
            format!("{d}.{c}.{b}.{a}.in-addr.arpa")
        }
        IpAddr::V6(address) => {
            let octets = address.octets();
            let nibbles = octets.iter().rev().flat_map(|octet| [octet & 0xf, octet >> 4]);
            nibbles.map(|nibble| format!("{nibble:x}.")).collect::<String>() + "ip6.arpa"
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt as _;

    use super::*;

    #[test]
    fn hosts_are_found_whatever_stands_around_them() {
        for (authority, host) in [
            ("web.example", "web.example"),
            ("web.example:5002", "web.example"),
            ("10.0.0.1:80", "10.0.0.1"),
            ("[2001:db8::1]:80", "2001:db8::1"),
            ("[2001:db8::1]", "2001:db8::1"),
        ] {
            assert_eq!(host_of(authority), host);
        }
    }

    #[test]
    fn addresses_are_named_as_in_rfc_8738() {
        assert_eq!(sni_of("192.0.2.1".parse().unwrap()), "1.2.0.192.in-addr.arpa");
        let six = sni_of("2001:db8::1".parse().unwrap());
        assert!(six.starts_with("1.0.0.0.") && six.ends_with(".8.b.d.0.1.0.0.2.ip6.arpa"), "{six}");
    }

    async fn ask(request: &str) -> String {
        const TOKEN: &str = "evaGxfADs6pSRb2LAv9IZf17Dt3juxGJ-PCt92wr-oA";
        let answers = AcmeAnswers::default();
        let _served = answers.serve_token("web.example", TOKEN, "the-answer".to_owned());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(answers.clone().serve_http01(listener));
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = request.replace("TOKEN", TOKEN);
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        server.abort();
        answer
    }

    #[tokio::test]
    async fn a_ca_gets_the_key_authorization_and_everyone_else_nothing() {
        let path = "/.well-known/acme-challenge/TOKEN";
        let get = |path: &str, host: &str| format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n");
        let answer = ask(&get(path, "web.example:80")).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert!(answer.ends_with("\r\n\r\nthe-answer"), "{answer}");
        for request in [
            get(path, "other.example"),
            get("/.well-known/acme-challenge/", "web.example"),
            get("/.well-known/acme-challenge/../../etc/passwd", "web.example"),
            get("/", "web.example"),
        ] {
            let answer = ask(&request).await;
            assert!(answer.starts_with("HTTP/1.1 404"), "{request}: {answer}");
            assert!(answer.ends_with("\r\n\r\nnot here\n"), "{request}: {answer}");
        }
        let post =
            format!("POST {path} HTTP/1.1\r\nHost: web.example\r\nContent-Length: 0\r\n\r\n");
        assert!(ask(&post).await.starts_with("HTTP/1.1 405"));
    }
}
