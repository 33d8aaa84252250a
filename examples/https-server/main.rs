//! An HTTPS server for a pod with a certmount volume: it serves `tls.crt` and `tls.key`, and takes
//! up each renewal without dropping a connection.
//!
//! ```console
//! $ cargo run --example https-server -- --listen 127.0.0.1:8443 --tls-dir /tls
//! $ curl --cacert /tls/ca.crt https://web.demo.svc:8443 --connect-to web.demo.svc::127.0.0.1
//! serial 1f0c…
//! ```

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program that talks to its user")]

mod http;
mod tls;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use clap::Parser;
use hyper::body::Incoming;
use hyper::{Method, Request, Response, StatusCode};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use x509_parser::prelude::{FromDer, X509Certificate};

use tls::{FollowedTls, Served};

/// Serves HTTPS with a certificate that is renewed under it.
#[derive(Parser)]
struct Flags {
    /// Where to listen.
    #[arg(long, default_value = "0.0.0.0:8443")]
    listen: SocketAddr,
    /// The mounted volume.
    #[arg(long, default_value = "/tls")]
    tls_dir: PathBuf,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let Flags { listen, tls_dir } = Flags::parse();
    let tls = FollowedTls::open(&tls_dir, |renewed| match renewed {
        Ok(served) => println!("renewed, now serving serial {}", serial(served)),
        Err(error) => eprintln!("keeping the old certificate: {error:#}"),
    })?;
    let listener =
        TcpListener::bind(listen).await.with_context(|| format!("cannot listen on {listen}"))?;
    println!("listening on {}, serial {}", listener.local_addr()?, serial(&tls.current()));

    let stop = CancellationToken::new();
    let server = tokio::spawn(http::serve(listener, Arc::new(tls), answer, stop.clone()));
    terminated().await?;
    stop.cancel();
    Ok(server.await?)
}

/// `GET /` says which certificate this connection was made with.
fn answer(served: &Served, request: Request<Incoming>) -> Response<String> {
    let (status, body) = match (request.method(), request.uri().path()) {
        (&Method::GET, "/") => (StatusCode::OK, format!("serial {}\n", serial(served))),
        _ => (StatusCode::NOT_FOUND, "there is only GET /\n".to_owned()),
    };
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response
}

fn serial(served: &Served) -> String {
    match X509Certificate::from_der(&served.certificate) {
        Ok((_, certificate)) => {
            // DER puts a zero byte before a number whose first bit is set.
            let number = certificate.raw_serial().iter().skip_while(|byte| **byte == 0);
            number.map(|byte| format!("{byte:02x}")).collect()
        }
        Err(error) => format!("unreadable: {error}"),
    }
}

/// Returns at Ctrl-C, or when the pod is asked to end.
async fn terminated() -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        interrupted = tokio::signal::ctrl_c() => interrupted?,
        _ = terminate.recv() => {}
    }
    Ok(())
}
