//! The running driver's answer, over its admin socket.

use std::io;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::{Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use crate::observe::IssuerStatus;
use crate::renew::VolumeStatus;

/// The volumes as the driver behind `socket` knows them.
pub(super) async fn volumes(socket: &Path) -> Result<Vec<VolumeStatus>> {
    ask(socket, "/v1/volumes").await
}

/// The issuers as the driver behind `socket` finds them.
pub(super) async fn issuers(socket: &Path) -> Result<Vec<IssuerStatus>> {
    ask(socket, "/v1/issuers").await
}

async fn ask<T: DeserializeOwned>(socket: &Path, path: &str) -> Result<T> {
    let stream = UnixStream::connect(socket).await.map_err(|error| unreachable(socket, error))?;
    let answer = tokio::time::timeout(PATIENCE, get(stream, path)).await;
    let body = answer
        .map_err(|_| anyhow!("no answer in {PATIENCE:?}"))
        .and_then(|answer| answer)
        .with_context(|| format!("certmount at {} does not answer", socket.display()))?;
    serde_json::from_slice(&body).with_context(|| {
        format!(
            "what listens on {} is not certmount, or of another version than this command",
            socket.display()
        )
    })
}

const PATIENCE: Duration = Duration::from_secs(10);

async fn get(stream: UnixStream, path: &str) -> Result<Bytes> {
    /// A thousand volumes make about one megabyte.
    const MOST: usize = 256 << 20;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let request = Request::get(path)
        .header(header::HOST, "certmount")
        .body(Empty::<Bytes>::new())
        .expect("a constant request is well-formed");
    let response = sender.send_request(request).await?;
    let status = response.status();
    let body = Limited::new(response.into_body(), MOST).collect().await.map_err(|e| anyhow!(e))?;
    connection.abort();
    if status != StatusCode::OK {
        bail!("it answers {status}");
    }
    Ok(body.to_bytes())
}

fn unreachable(socket: &Path, error: io::Error) -> anyhow::Error {
    let path = socket.display();
    let message = match error.kind() {
        io::ErrorKind::NotFound => format!(
            "there is no admin socket at {path}: is certmount running on this node? If its data \
             root is another, say --socket <data root>/.admin.sock; to read files without it, \
             --dir <data root>"
        ),
        io::ErrorKind::ConnectionRefused => format!(
            "nothing listens on {path}: certmount is not running; to see what it left, \
             --dir <data root>"
        ),
        io::ErrorKind::PermissionDenied => {
            format!("this user may not use {path}: run this command as root")
        }
        _ => format!("cannot connect to {path}"),
    };
    anyhow!(error).context(message)
}
