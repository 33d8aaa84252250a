//! Plays kubelet: the calls that kubelet makes for a pod's inline volume, as it makes them.
//!
//! For the demo, the benchmark and the tests. As kubelet does (`pkg/volume/csi`), it makes each
//! call on a connection of its own, asks for the capabilities twice before it publishes, waits for
//! two minutes, and removes its folders after an unpublish and after a final error.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Uri};
use tonic::{Code, Request, Status};
use tower::service_fn;

use super::proto::csi::identity_client::IdentityClient;
use super::proto::csi::node_client::NodeClient;
use super::proto::csi::volume_capability::{AccessMode, AccessType, MountVolume, access_mode};
use super::proto::csi::*;
use crate::error::with_causes;
use crate::spec::volume::{PodRef, VolumeId};

/// A kubelet with its root folder and one plugin.
#[derive(Clone, Debug)]
pub struct Kubelet {
    socket: PathBuf,
    root: PathBuf,
}

/// What a pod says in `volumes[].csi`, with the pod itself.
#[derive(Clone)]
pub struct InlineVolume {
    /// The pod, as the API server knows it.
    pub pod: PodRef,
    /// `volumes[].name`.
    pub name: String,
    /// `volumeAttributes`.
    pub attributes: BTreeMap<String, String>,
    /// The keys and values of the Secret that `nodePublishSecretRef` names.
    pub secrets: BTreeMap<String, String>,
    /// `readOnly`.
    pub read_only: bool,
    /// `fsType`.
    pub fs_type: String,
    /// The pod's `securityContext.fsGroup`.
    pub fs_group: Option<u32>,
}

/// How long kubelet waits for a call.
const TIMEOUT: Duration = Duration::from_secs(120);

impl Kubelet {
    /// A kubelet that keeps its folders below `root` and finds the plugin at `socket`.
    pub fn new(root: impl Into<PathBuf>, socket: impl Into<PathBuf>) -> Self {
        Self { socket: socket.into(), root: root.into() }
    }

    /// Where kubelet wants `volume`.
    pub fn target(&self, volume: &InlineVolume) -> PathBuf {
        let pod = self.root.join("pods").join(&volume.pod.uid);
        pod.join("volumes/kubernetes.io~csi").join(&volume.name).join("mount")
    }

    /// Mounts `volume` and answers where.
    ///
    /// # Errors
    ///
    /// The plugin's status; `UNAVAILABLE` where there is no plugin.
    pub async fn publish(&self, volume: &InlineVolume) -> Result<PathBuf, Status> {
        let request = self.publish_request(volume).await?;
        let target = self.target(volume);
        let folder = target.parent().expect("a target has the folder of its volume around it");
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o750)
            .create(folder)
            .map_err(|error| folder_error(folder, &error))?;
        let published = self.node().await?.node_publish_volume(timed(request)).await;
        if let Err(status) = published {
            if is_final(status.code()) {
                remove_folders(&target)?;
            }
            return Err(status);
        }
        Ok(target)
    }

    /// Unmounts `volume` and removes its folder.
    ///
    /// # Errors
    ///
    /// The plugin's status, or `INTERNAL` when it left something in the folder.
    pub async fn unpublish(&self, volume: &InlineVolume) -> Result<(), Status> {
        let target = self.target(volume);
        let request = NodeUnpublishVolumeRequest {
            volume_id: volume.id(),
            target_path: target.to_string_lossy().into_owned(),
        };
        self.node().await?.node_unpublish_volume(timed(request)).await?;
        remove_folders(&target)
    }

    /// How full `volume` is.
    ///
    /// # Errors
    ///
    /// The plugin's status.
    pub async fn stats(&self, volume: &InlineVolume) -> Result<Vec<VolumeUsage>, Status> {
        let request = NodeGetVolumeStatsRequest {
            volume_id: volume.id(),
            volume_path: self.target(volume).to_string_lossy().into_owned(),
            ..Default::default()
        };
        let response = self.node().await?.node_get_volume_stats(timed(request)).await?;
        Ok(response.into_inner().usage)
    }

    /// The publish request of `volume`, for callers that want to bend it. Asks the plugin twice
    /// for its capabilities, as kubelet does, and passes the fsGroup only where it can be taken.
    ///
    /// # Errors
    ///
    /// The plugin's status.
    pub async fn publish_request(
        &self,
        volume: &InlineVolume,
    ) -> Result<NodePublishVolumeRequest, Status> {
        // Once for the access mode, once for the fsGroup.
        self.capabilities().await?;
        let takes_group = self
            .capabilities()
            .await?
            .contains(&node_service_capability::rpc::Type::VolumeMountGroup);
        let group = volume.fs_group.filter(|_| takes_group);
        let mount = MountVolume {
            fs_type: volume.fs_type.clone(),
            mount_flags: Vec::new(),
            volume_mount_group: group.map(|group| group.to_string()).unwrap_or_default(),
        };
        let access_type = match volume.fs_type.as_str() {
            "block" => AccessType::Block(volume_capability::BlockVolume {}),
            _ => AccessType::Mount(mount),
        };
        Ok(NodePublishVolumeRequest {
            volume_id: volume.id(),
            target_path: self.target(volume).to_string_lossy().into_owned(),
            volume_capability: Some(VolumeCapability {
                access_mode: Some(AccessMode { mode: access_mode::Mode::SingleNodeWriter.into() }),
                access_type: Some(access_type),
            }),
            readonly: volume.read_only,
            secrets: volume.secrets.clone().into_iter().collect(),
            volume_context: volume.context(),
            ..Default::default()
        })
    }

    async fn capabilities(&self) -> Result<Vec<node_service_capability::rpc::Type>, Status> {
        let request = timed(NodeGetCapabilitiesRequest {});
        let response = self.node().await?.node_get_capabilities(request).await?;
        let capabilities = response.into_inner().capabilities.into_iter();
        Ok(capabilities
            .filter_map(|capability| match capability.r#type? {
                node_service_capability::Type::Rpc(rpc) => Some(rpc.r#type()),
            })
            .collect())
    }

    /// The plugin's Node service, on a new connection.
    ///
    /// # Errors
    ///
    /// `UNAVAILABLE` when nobody listens.
    pub async fn node(&self) -> Result<NodeClient<Channel>, Status> {
        Ok(NodeClient::new(connect(&self.socket).await?))
    }

    /// The plugin's Identity service, on a new connection.
    ///
    /// # Errors
    ///
    /// `UNAVAILABLE` when nobody listens.
    pub async fn identity(&self) -> Result<IdentityClient<Channel>, Status> {
        Ok(IdentityClient::new(connect(&self.socket).await?))
    }
}

impl InlineVolume {
    /// A read-only volume, as a pod of `namespace` would have it.
    pub fn new(namespace: &str, pod: &str, attributes: &[(&str, &str)]) -> Self {
        let attributes = attributes.iter();
        Self {
            pod: PodRef {
                namespace: namespace.to_owned(),
                name: pod.to_owned(),
                uid: format!("{namespace}-{pod}-uid"),
                service_account: "default".to_owned(),
            },
            name: "tls".to_owned(),
            attributes: attributes.map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
            secrets: BTreeMap::new(),
            read_only: true,
            fs_type: String::new(),
            fs_group: None,
        }
    }

    /// The id that kubelet makes for the volume.
    pub fn id(&self) -> String {
        VolumeId::of_inline_volume(&self.pod.uid, &self.name).into()
    }

    /// The volume context: the attributes, and over them what kubelet says of the pod.
    pub fn context(&self) -> HashMap<String, String> {
        let pod = [
            ("pod.name", self.pod.name.as_str()),
            ("pod.namespace", &self.pod.namespace),
            ("pod.uid", &self.pod.uid),
            ("serviceAccount.name", &self.pod.service_account),
            ("ephemeral", "true"),
        ];
        let pod = pod.map(|(key, value)| (format!("csi.storage.k8s.io/{key}"), value.to_owned()));
        self.attributes.clone().into_iter().chain(pod).collect()
    }
}

/// A connection to a plugin's socket, for one call. The authority is `localhost`, as kubelet's.
///
/// # Errors
///
/// `UNAVAILABLE` when nobody listens.
pub async fn connect(socket: &Path) -> Result<Channel, Status> {
    let socket = socket.to_owned();
    let name = socket.display().to_string();
    let dial = service_fn(move |_: Uri| {
        let socket = socket.clone();
        async { UnixStream::connect(socket).await.map(TokioIo::new) }
    });
    Channel::from_static("http://localhost").connect_with_connector(dial).await.map_err(|error| {
        Status::unavailable(format!("cannot connect to {name}: {}", with_causes(&error)))
    })
}

fn timed<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(TIMEOUT);
    request
}

/// Whether kubelet forgets a volume whose first publish failed with `code` (`isFinalError`).
pub fn is_final(code: Code) -> bool {
    !matches!(
        code,
        Code::Cancelled
            | Code::DeadlineExceeded
            | Code::ResourceExhausted
            | Code::Aborted
            | Code::Unavailable
    )
}

/// Removes the empty folders of a volume; kubelet never removes files of others.
fn remove_folders(target: &Path) -> Result<(), Status> {
    let folder = target.parent().unwrap_or(target);
    for path in [target, folder] {
        match std::fs::remove_dir(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(folder_error(path, &error));
            }
            _ => {}
        }
    }
    Ok(())
}

fn folder_error(path: &Path, error: &io::Error) -> Status {
    Status::internal(format!("kubelet's folder {}: {error}", path.display()))
}
