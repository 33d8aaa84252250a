//! The Unix sockets that kubelet dials.

use std::convert::Infallible;
use std::fmt;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use futures_util::Stream;
use nix::sys::stat::{Mode, fchmod};
use tokio::net::{UnixListener, UnixSocket, UnixStream};
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic::transport::Server;

/// The socket of the CSI plugin, as in `CSI_ENDPOINT`: `unix:///csi/csi.sock` or a bare path.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Endpoint(PathBuf);

/// Why a text is no [`Endpoint`].
#[derive(Debug, thiserror::Error)]
pub enum EndpointError {
    /// Another scheme than `unix`.
    #[error("endpoint {0:?} is not a Unix socket: write unix:///path/to/csi.sock")]
    Scheme(String),
    /// A relative path, which would depend on the working directory.
    #[error("the path of endpoint {0:?} is not absolute: write unix:///path with three slashes")]
    Relative(String),
    /// More than the operating system takes.
    #[error(
        "the path of endpoint {0:?} is too long: a socket's path has at most {LONGEST_PATH} bytes"
    )]
    TooLong(String),
}

/// What `sockaddr_un` holds, less the closing zero (unix(7)).
const LONGEST_PATH: usize = 107;

impl Endpoint {
    /// Where the socket is.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, EndpointError> {
        let path = match text.split_once(':') {
            Some(("unix", rest)) => rest.strip_prefix("//").unwrap_or(rest),
            Some((scheme, _)) if !scheme.contains('/') => {
                return Err(EndpointError::Scheme(text.to_owned()));
            }
            _ => text,
        };
        if !path.starts_with('/') {
            return Err(EndpointError::Relative(text.to_owned()));
        }
        if path.len() > LONGEST_PATH {
            return Err(EndpointError::TooLong(text.to_owned()));
        }
        Ok(Self(path.into()))
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "unix://{}", self.0.display())
    }
}

/// A socket that is being listened on. Its file goes with it, unless another process has put its
/// own there by then.
#[derive(Debug)]
pub struct Listener {
    listener: UnixListener,
    file: SocketFile,
}

/// The file of a bound socket, told from another of the same name by its inode.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    identity: (u64, u64),
}

/// A socket that cannot be made.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} the socket {}", path.display())]
pub struct BindError {
    action: &'static str,
    path: PathBuf,
    #[source]
    source: io::Error,
}

impl BindError {
    fn at(path: &Path, action: &'static str) -> impl FnOnce(io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |source| Self { action, path, source }
    }
}

impl Listener {
    /// Binds `path`, which only the owner can connect to from the first moment on. A socket that
    /// an earlier process left is replaced; anything else in its place is not touched.
    ///
    /// # Errors
    ///
    /// When the folder is missing or not writable, or something else than a socket is at `path`.
    pub fn bind(path: &Path) -> Result<Self, BindError> {
        let at = |action| BindError::at(path, action);
        remove_socket(path).map_err(at("replace"))?;
        let socket = UnixSocket::new_stream().map_err(at("make"))?;
        // Linux gives the file the mode of the socket, so there is no moment to connect in
        // between, and no umask to set for all threads.
        fchmod(&socket, Mode::S_IRUSR | Mode::S_IWUSR).map_err(|e| at("protect")(e.into()))?;
        socket.bind(path).map_err(at("bind"))?;
        let listener = socket.listen(BACKLOG).map_err(at("listen on"))?;
        let identity = file_identity(path).map_err(at("find"))?;
        let file = SocketFile { path: path.to_owned(), identity };
        Ok(Self { listener, file })
    }

    /// Removes a socket that an earlier process left; nothing there is fine.
    pub(super) fn clear(path: &Path) -> Result<(), BindError> {
        remove_socket(path).map_err(BindError::at(path, "remove"))
    }

    /// Where the socket is.
    pub fn path(&self) -> &Path {
        &self.file.path
    }

    /// Returns when the socket's file is gone or another's, so that nobody can connect any more.
    pub(super) fn lost(&self) -> impl Future<Output = ()> + use<> {
        let (path, identity) = (self.file.path.clone(), self.file.identity);
        async move {
            while file_identity(&path).is_ok_and(|current| current == identity) {
                tokio::time::sleep(LOOK_AGAIN).await;
            }
        }
    }
}

/// How often to look after a socket's file.
pub(super) const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// Kubelet publishes all volumes of a node at once after a restart, each on a connection of its own.
const BACKLOG: u32 = 1024;

fn remove_socket(path: &Path) -> io::Result<()> {
    match std::fs::symlink_metadata(path) {
        Ok(metadata) if metadata.file_type().is_socket() => std::fs::remove_file(path),
        Ok(_) => Err(io::Error::new(io::ErrorKind::AlreadyExists, "it is not a socket")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if file_identity(&self.path).is_ok_and(|current| current == self.identity) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

fn file_identity(path: &Path) -> io::Result<(u64, u64)> {
    let metadata = std::fs::symlink_metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}

/// A server that failed; there is nothing a caller can do but end.
#[derive(Debug, thiserror::Error)]
#[error("the gRPC server failed")]
pub struct ServeError(#[from] tonic::transport::Error);

/// Serves `routes` until `shutdown`, then lets calls under way finish for [`DRAIN`].
pub(super) async fn serve(
    listener: Listener,
    routes: Routes,
    shutdown: CancellationToken,
) -> Result<(), ServeError> {
    let Listener { listener, file } = listener;
    let serving = Server::builder()
        .initial_connection_window_size(WINDOW)
        .initial_stream_window_size(WINDOW)
        .max_concurrent_streams(64)
        .http2_max_header_list_size(16 * 1024)
        .add_routes(routes)
        .serve_with_incoming_shutdown(accept(listener), shutdown.clone().cancelled_owned());
    let overtime = async {
        shutdown.cancelled().await;
        tokio::time::sleep(DRAIN).await;
    };
    let served = tokio::select! {
        served = serving => served,
        () = overtime => Ok(()),
    };
    drop(file);
    Ok(served?)
}

/// How long calls under way may take after the shutdown; all of them wait for an issuer at most,
/// and that they stop doing at once.
const DRAIN: Duration = Duration::from_millis(1500);

/// HTTP/2's own default. Kubelet makes one call on each connection, so a larger window only costs
/// a frame more.
const WINDOW: u32 = 65_535;

fn accept(listener: UnixListener) -> impl Stream<Item = Result<UnixStream, Infallible>> {
    futures_util::stream::unfold(listener, |listener| async {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => return Some((Ok(stream), listener)),
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection; trying again");
                    // Out of file descriptors, most likely, and the connection is still waiting.
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use tokio::sync::watch;

    use super::*;
    use crate::csi::client::Kubelet;
    use crate::csi::identity::IdentityService;
    use crate::csi::proto::csi::identity_server::IdentityServer;
    use crate::csi::proto::csi::{
        GetPluginCapabilitiesRequest, GetPluginInfoRequest, ProbeRequest,
    };

    #[test]
    fn endpoints_are_absolute_unix_sockets() {
        for good in ["unix:///csi/csi.sock", "unix:/csi/csi.sock", "/csi/csi.sock"] {
            assert_eq!(good.parse::<Endpoint>().unwrap().path(), Path::new("/csi/csi.sock"));
        }
        assert_eq!("/a:b".parse::<Endpoint>().unwrap().to_string(), "unix:///a:b");
        let long = format!("/{}", "a".repeat(LONGEST_PATH));
        let table = [
            ("tcp://127.0.0.1:80", "not a Unix socket"),
            ("unix://csi/csi.sock", "not absolute"),
            ("csi.sock", "not absolute"),
            ("", "not absolute"),
            (long.as_str(), "too long"),
        ];
        for (bad, words) in table {
            let error = bad.parse::<Endpoint>().unwrap_err().to_string();
            assert!(error.contains(words), "{bad:?}: {error}");
        }
    }

    #[tokio::test]
    async fn the_socket_is_the_owner_s_and_goes_with_its_listener() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("csi.sock");
        // One that a killed process left.
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let listener = Listener::bind(&path).unwrap();
        let metadata = fs::symlink_metadata(listener.path()).unwrap();
        assert_eq!(metadata.permissions().mode() & 0o777, 0o600);
        drop(listener);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn the_socket_of_a_successor_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("csi.sock");
        let old = Listener::bind(&path).unwrap();
        let new = Listener::bind(&path).unwrap();
        drop(old);
        UnixStream::connect(new.path()).await.unwrap();
    }

    #[tokio::test]
    async fn what_is_no_socket_is_not_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("csi.sock");
        fs::File::create(&path).unwrap();
        let error = Listener::bind(&path).unwrap_err();
        assert_eq!(error.to_string(), format!("cannot replace the socket {}", path.display()));
        assert!(path.exists());
    }

    fn identity(ready: watch::Receiver<bool>) -> Routes {
        let driver_name = "csi.certmount.dev".to_owned();
        Routes::new(IdentityServer::new(IdentityService { driver_name, ready }))
    }

    #[tokio::test]
    async fn identity_over_the_socket() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("csi.sock");
        let (ready, reader) = watch::channel(false);
        let shutdown = CancellationToken::new();
        let listener = Listener::bind(&path).unwrap();
        let serving = tokio::spawn(serve(listener, identity(reader), shutdown.clone()));
        let kubelet = Kubelet::new(folder.path(), &path);

        let mut client = kubelet.identity().await.unwrap();
        let info = client.get_plugin_info(GetPluginInfoRequest {}).await.unwrap().into_inner();
        assert_eq!(info.name, "csi.certmount.dev");
        assert_eq!(info.vendor_version, env!("CARGO_PKG_VERSION"));

        let capabilities = client.get_plugin_capabilities(GetPluginCapabilitiesRequest {}).await;
        assert!(capabilities.unwrap().into_inner().capabilities.is_empty());

        assert_eq!(client.probe(ProbeRequest {}).await.unwrap().into_inner().ready, Some(false));
        ready.send_replace(true);
        assert_eq!(client.probe(ProbeRequest {}).await.unwrap().into_inner().ready, Some(true));

        // A connection that stays open does not hold up the end.
        shutdown.cancel();
        serving.await.unwrap().unwrap();
        assert!(!path.exists());
        assert_eq!(kubelet.identity().await.unwrap_err().code(), tonic::Code::Unavailable);
    }
}
