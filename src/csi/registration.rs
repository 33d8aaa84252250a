//! Kubelet plugin registration, so that no sidecar is needed.
//!
//! Kubelet watches a folder for sockets and asks each what it is (`GetInfo`), then calls the CSI
//! socket and tells the result (`NotifyRegistrationStatus`). It retries by itself and asks again
//! after its own restart. What it does not do is to notice that somebody else deleted the socket,
//! so this module looks after the file.

use std::path::{Path, PathBuf};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic::{Request, Response, Status};

use super::proto::pluginregistration::registration_server::{
    Registration as RegistrationService, RegistrationServer,
};
use super::proto::pluginregistration::{
    InfoRequest, PluginInfo, RegistrationStatus, RegistrationStatusResponse,
};
use super::server::{self, BindError, Listener};
use crate::error::with_causes;

/// The registration of this plugin with kubelet.
#[derive(Clone, Debug)]
pub struct Registration {
    socket: PathBuf,
    info: PluginInfo,
    state: watch::Sender<RegistrationState>,
}

/// What kubelet said last.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub enum RegistrationState {
    /// Kubelet has not called yet.
    #[default]
    Waiting,
    /// Kubelet took the plugin: pods can mount volumes.
    Registered,
    /// Kubelet did not take the plugin, for this reason; it tries again by itself.
    Refused(String),
}

impl Registration {
    /// A registration through a socket in `folder`, mostly `/var/lib/kubelet/plugins_registry`.
    /// `csi_socket` is the path of the CSI socket as kubelet sees it.
    ///
    /// The `@` in the socket's name is for HTTP/2: kubelet sends the percent-encoded path of the
    /// socket as `:authority`, which is none by RFC 3986 and refused by h2, unless all the percent
    /// signs are in front of an `@` and so in the user information.
    pub fn new(folder: &Path, driver_name: &str, csi_socket: &Path) -> Self {
        let info = PluginInfo {
            r#type: "CSIPlugin".to_owned(),
            name: driver_name.to_owned(),
            endpoint: csi_socket.to_string_lossy().into_owned(),
            supported_versions: vec!["1.0.0".to_owned()],
        };
        let socket = folder.join(format!("{driver_name}@reg.sock"));
        Self { socket, info, state: watch::Sender::default() }
    }

    /// Where the registration socket is.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Follows what kubelet says.
    pub fn state(&self) -> watch::Receiver<RegistrationState> {
        self.state.subscribe()
    }

    /// Removes the socket that an earlier process left. Kubelet dials a dead one with growing
    /// pauses, so this comes first of all at a start, and [`Registration::serve`] last.
    ///
    /// # Errors
    ///
    /// When the folder is missing or not writable, or something else has the socket's name.
    pub fn clear(&self) -> Result<(), BindError> {
        Listener::clear(&self.socket)
    }

    /// Answers kubelet until `shutdown`, and puts the socket back when it is gone. Call it when
    /// the CSI socket is served: kubelet calls there before it takes the plugin.
    ///
    /// # Errors
    ///
    /// When the socket cannot be made in the first place.
    pub async fn serve(self, shutdown: CancellationToken) -> Result<(), BindError> {
        let mut listener = Listener::bind(&self.socket)?;
        loop {
            let lost = listener.lost();
            let stop = shutdown.child_token();
            let routes = Routes::new(RegistrationServer::new(self.clone()));
            let serving = server::serve(listener, routes, stop.clone());
            tokio::pin!(serving);
            let served = tokio::select! {
                served = &mut serving => served,
                () = lost => {
                    stop.cancel();
                    serving.await
                }
            };
            if let Err(error) = served {
                tracing::warn!(error = %with_causes(&error), "plugin registration");
            }
            if shutdown.is_cancelled() {
                return Ok(());
            }
            tracing::warn!(socket = %self.socket.display(), "the registration socket is gone; making it again");
            listener = loop {
                match Listener::bind(&self.socket) {
                    Ok(listener) => break listener,
                    Err(error) => {
                        tracing::warn!(error = %with_causes(&error), "plugin registration");
                    }
                }
                tokio::select! {
                    () = tokio::time::sleep(server::LOOK_AGAIN) => {}
                    () = shutdown.cancelled() => return Ok(()),
                }
            };
        }
    }
}

#[tonic::async_trait]
impl RegistrationService for Registration {
    async fn get_info(&self, _: Request<InfoRequest>) -> Result<Response<PluginInfo>, Status> {
        Ok(Response::new(self.info.clone()))
    }

    async fn notify_registration_status(
        &self,
        request: Request<RegistrationStatus>,
    ) -> Result<Response<RegistrationStatusResponse>, Status> {
        let RegistrationStatus { plugin_registered, error } = request.into_inner();
        let state = if plugin_registered {
            tracing::info!("kubelet has registered the driver");
            RegistrationState::Registered
        } else {
            tracing::warn!(reason = error, "kubelet has refused the driver and will try again");
            RegistrationState::Refused(error)
        };
        self.state.send_replace(state);
        Ok(Response::new(RegistrationStatusResponse {}))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use hyper_util::rt::TokioIo;
    use tokio::net::UnixStream;
    use tonic::transport::{Channel, Uri};

    use super::*;
    use crate::csi::proto::pluginregistration::registration_client::RegistrationClient;

    /// Dials as kubelet does: grpc-go sends the socket's path as authority, escaped except for
    /// what RFC 3986 allows there.
    async fn kubelet(socket: &Path) -> RegistrationClient<Channel> {
        let authority = socket.to_str().unwrap().replace('/', "%2F");
        assert!(authority.contains('@'));
        let socket = socket.to_owned();
        let dial = tower::service_fn(move |_: Uri| {
            let socket = socket.clone();
            async { UnixStream::connect(socket).await.map(TokioIo::new) }
        });
        let channel = Channel::from_shared(format!("http://{authority}")).unwrap();
        RegistrationClient::new(channel.connect_with_connector(dial).await.unwrap())
    }

    /// Waits until somebody listens at `socket`.
    async fn listening(socket: &Path) {
        while UnixStream::connect(socket).await.is_err() {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    }

    #[tokio::test]
    async fn kubelet_registers_the_driver() {
        let folder = tempfile::tempdir().unwrap();
        let csi_socket = Path::new("/var/lib/kubelet/plugins/csi.certmount.dev/csi.sock");
        let registration = Registration::new(folder.path(), "csi.certmount.dev", csi_socket);
        let socket = registration.socket().to_owned();
        assert_eq!(socket, folder.path().join("csi.certmount.dev@reg.sock"));
        let mut state = registration.state();
        let shutdown = CancellationToken::new();
        let serving = tokio::spawn(registration.serve(shutdown.clone()));
        listening(&socket).await;

        let info = kubelet(&socket).await.get_info(InfoRequest {}).await.unwrap().into_inner();
        assert_eq!(info.r#type, "CSIPlugin");
        assert_eq!(info.name, "csi.certmount.dev");
        assert_eq!(Path::new(&info.endpoint), csi_socket);
        assert_eq!(info.supported_versions, ["1.0.0"]);

        assert_eq!(*state.borrow_and_update(), RegistrationState::Waiting);
        let refused = RegistrationStatus { plugin_registered: false, error: "too old".into() };
        kubelet(&socket).await.notify_registration_status(refused).await.unwrap();
        assert_eq!(*state.borrow_and_update(), RegistrationState::Refused("too old".into()));

        // Kubelet tries again by itself, so nothing ends.
        let taken = RegistrationStatus { plugin_registered: true, error: String::new() };
        kubelet(&socket).await.notify_registration_status(taken).await.unwrap();
        assert_eq!(*state.borrow_and_update(), RegistrationState::Registered);

        shutdown.cancel();
        serving.await.unwrap().unwrap();
        assert!(!socket.exists());
    }

    #[tokio::test(start_paused = true)]
    async fn a_deleted_socket_comes_back() {
        let folder = tempfile::tempdir().unwrap();
        let registration = Registration::new(folder.path(), "csi.certmount.dev", Path::new("/s"));
        let socket = registration.socket().to_owned();
        let shutdown = CancellationToken::new();
        let serving = tokio::spawn(registration.serve(shutdown.clone()));
        listening(&socket).await;

        // The folder as well, as when kubelet's root is made anew.
        fs::remove_file(&socket).unwrap();
        fs::remove_dir(folder.path()).unwrap();
        tokio::time::sleep(server::LOOK_AGAIN * 3).await;
        fs::create_dir(folder.path()).unwrap();
        listening(&socket).await;
        let info = kubelet(&socket).await.get_info(InfoRequest {}).await.unwrap().into_inner();
        assert_eq!(info.name, "csi.certmount.dev");

        shutdown.cancel();
        serving.await.unwrap().unwrap();
    }

    #[test]
    fn a_stale_socket_is_cleared() {
        let folder = tempfile::tempdir().unwrap();
        let registration = Registration::new(folder.path(), "csi.certmount.dev", Path::new("/s"));
        registration.clear().unwrap();
        drop(std::os::unix::net::UnixListener::bind(registration.socket()).unwrap());
        registration.clear().unwrap();
        assert!(!registration.socket().exists());
    }
}
