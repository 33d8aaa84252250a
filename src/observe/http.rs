//! The HTTP endpoints: probes and metrics for everyone, the list of volumes for root.
//!
//! | Path | Answer |
//! |---|---|
//! | `/healthz` | 200 while the driver's own CSI socket answers |
//! | `/readyz` | 200 when kubelet can use the driver; 503 with the reasons as text |
//! | `/metrics` | OpenMetrics text |
//! | `/v1/issuers` | JSON list of [`IssuerStatus`](super::IssuerStatus), on the admin socket only |
//! | `/v1/volumes` | JSON list of [`VolumeStatus`](crate::renew::VolumeStatus), on the admin socket only: pod and certificate names are not for everyone on the network |

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;
use tokio::net::{TcpListener, UnixListener};

use super::health::{Readiness, answers};
use super::issuers::IssuersFn;
use super::metrics::VolumesFn;

/// What the endpoints answer from. Cheap to clone.
#[derive(Clone)]
pub struct Endpoints {
    /// The metrics to print.
    pub registry: Arc<Registry>,
    /// What `/readyz` says.
    pub readiness: Readiness,
    /// The socket that `/healthz` tries.
    pub csi_socket: PathBuf,
    /// What `/v1/volumes` lists.
    pub volumes: VolumesFn,
    /// What `/v1/issuers` lists.
    pub issuers: IssuersFn,
}

impl Endpoints {
    /// Serves probes and metrics on `listener` until dropped.
    pub async fn serve_public(self, listener: TcpListener) -> io::Result<()> {
        axum::serve(listener, self.public()).await
    }

    /// Serves everything on `listener` until dropped.
    pub async fn serve_admin(self, listener: UnixListener) -> io::Result<()> {
        axum::serve(listener, self.admin()).await
    }

    fn public(self) -> Router {
        Router::new()
            .route("/healthz", get(healthz))
            .route("/metrics", get(metrics))
            .route("/readyz", get(readyz))
            .with_state(self)
    }

    fn admin(self) -> Router {
        let private = Router::new()
            .route("/v1/issuers", get(issuers))
            .route("/v1/volumes", get(volumes))
            .with_state(self.clone());
        self.public().merge(private)
    }
}

/// Listens on `socket`, readable and writable by its owner only, in place of what was there.
///
/// The socket appears under its name only when its permissions are set.
pub fn bind_private(socket: &Path) -> io::Result<UnixListener> {
    let mut unready = socket.as_os_str().to_owned();
    unready.push("~");
    let _ = std::fs::remove_file(&unready);
    let listener = UnixListener::bind(&unready)?;
    std::fs::set_permissions(&unready, PermissionsExt::from_mode(0o600))?;
    std::fs::rename(&unready, socket)?;
    Ok(listener)
}

async fn healthz(State(endpoints): State<Endpoints>) -> Response {
    match answers(&endpoints.csi_socket).await {
        Ok(()) => "ok\n".into_response(),
        Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, reason + "\n").into_response(),
    }
}

async fn readyz(State(endpoints): State<Endpoints>) -> Response {
    let reasons = endpoints.readiness.reasons();
    if reasons.is_empty() {
        return "ok\n".into_response();
    }
    let text = reasons.iter().map(|reason| format!("not ready: {reason}\n")).collect::<String>();
    (StatusCode::SERVICE_UNAVAILABLE, text).into_response()
}

async fn metrics(State(endpoints): State<Endpoints>) -> Response {
    let mut text = String::new();
    match encode(&mut text, &endpoints.registry) {
        Ok(()) => ([(header::CONTENT_TYPE, OPENMETRICS)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

async fn issuers(State(endpoints): State<Endpoints>) -> Response {
    Json((endpoints.issuers)()).into_response()
}

async fn volumes(State(endpoints): State<Endpoints>) -> Response {
    Json((endpoints.volumes)()).into_response()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use axum::body::Body;
    use axum::http::Request;
    use http_body_util::BodyExt;
    use tower::ServiceExt;

    use super::super::metrics::tests::volume;
    use super::*;

    fn endpoints(readiness: Readiness, csi_socket: PathBuf) -> Endpoints {
        Endpoints {
            registry: Arc::default(),
            readiness,
            csi_socket,
            volumes: Arc::new(|| vec![volume("web-0")]),
            issuers: Arc::new(Vec::new),
        }
    }

    async fn ask(router: Router, path: &str) -> (StatusCode, String) {
        let request = Request::get(path).body(Body::empty()).unwrap();
        let response = router.oneshot(request).await.unwrap();
        let status = response.status();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn readyz_tells_what_is_missing() {
        let readiness = Readiness::default();
        let gate = readiness.gate("volumes are being adopted");
        let router = endpoints(readiness, PathBuf::new()).public();
        assert_eq!(
            ask(router.clone(), "/readyz").await,
            (StatusCode::SERVICE_UNAVAILABLE, "not ready: volumes are being adopted\n".to_owned())
        );
        drop(gate);
        assert_eq!(ask(router, "/readyz").await, (StatusCode::OK, "ok\n".to_owned()));
    }

    #[tokio::test]
    async fn healthz_fails_without_the_csi_socket() {
        let router = endpoints(Readiness::default(), "/nowhere/csi.sock".into()).public();
        let (status, text) = ask(router, "/healthz").await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        assert!(text.starts_with("/nowhere/csi.sock does not answer"), "{text}");
    }

    #[tokio::test]
    async fn volumes_are_listed_for_the_admin_only() {
        let endpoints = endpoints(Readiness::default(), PathBuf::new());
        let (status, text) = ask(endpoints.clone().admin(), "/v1/volumes").await;
        assert_eq!(status, StatusCode::OK);
        let listed: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(listed[0]["pod"]["name"], "web-0");
        let (status, _) = ask(endpoints.clone().public(), "/v1/volumes").await;
        assert_eq!(status, StatusCode::NOT_FOUND);
        assert_eq!(ask(endpoints.clone().admin(), "/v1/issuers").await.1, "[]");
        let (status, _) = ask(endpoints.public(), "/v1/issuers").await;
        assert_eq!(status, StatusCode::NOT_FOUND);
    }

    #[tokio::test]
    async fn a_private_socket_replaces_a_stale_one() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("admin.sock");
        drop(bind_private(&socket).unwrap());
        let _listener = bind_private(&socket).unwrap();
        let mode = std::fs::metadata(&socket).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        tokio::time::timeout(Duration::from_secs(5), tokio::net::UnixStream::connect(&socket))
            .await
            .unwrap()
            .unwrap();
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
