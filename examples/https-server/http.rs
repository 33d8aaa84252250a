//! HTTP/1.1 over TLS. Nothing here knows about renewals but one line: each new connection asks
//! [`FollowedTls`] what to serve with, and keeps that for as long as it lives.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::tls::{FollowedTls, Served};

/// How long a client may take to say hello.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// How long to leave a failing listener alone; most often no file descriptors are left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Answers requests with `handler` until `stop`, then lets those under way finish.
pub(crate) async fn serve<H>(
    listener: TcpListener,
    tls: Arc<FollowedTls>,
    handler: H,
    stop: CancellationToken,
) where
    H: Fn(&Served, Request<Incoming>) -> Response<String> + Clone + Send + Sync + 'static,
{
    let connections = TaskTracker::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    let connection = serve_connection(stream, tls.current(), handler.clone(), stop.clone());
                    connections.spawn(connection);
                }
                Err(_) => sleep(ACCEPT_PAUSE).await,
            },
        }
    }
    connections.close();
    connections.wait().await;
}

async fn serve_connection<H>(
    stream: TcpStream,
    served: Arc<Served>,
    handler: H,
    stop: CancellationToken,
) where
    H: Fn(&Served, Request<Incoming>) -> Response<String> + Sync,
{
    let handshake = TlsAcceptor::from(Arc::clone(&served.config)).accept(stream);
    let Ok(Ok(stream)) = timeout(HANDSHAKE_TIMEOUT, handshake).await else {
        return;
    };
    let service = service_fn(|request| {
        let response = handler(&served, request);
        async { Ok::<_, Infallible>(response) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    // An error here is the client's hanging up: there is nobody to tell.
    tokio::select! {
        _ = connection.as_mut() => {}
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            let _ = connection.await;
        }
    }
}
