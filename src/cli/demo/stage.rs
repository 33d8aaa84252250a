//! Everything the demo starts and makes, so that all of it can be taken away again.
//!
//! It lies in one temporary directory, and its mounts in the demo's own mount namespace:
//!
//! ```text
//! config/                    a ClusterIssuer and its Secret, as `certmount ca init` writes them
//! data/                      the plugin's data root
//! csi.sock, admin.sock       the plugin's sockets
//! kubelet/pods/<uid>/…       where kubelet would have the pod's volume
//! plugin.log
//! ```

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result, anyhow};
use nix::unistd::mkdtemp;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::plugin::Plugin;
use super::tls::FollowedTls;
use super::traffic::Traffic;
use super::{http, pod};
use crate::csi::client::{InlineVolume, Kubelet};
use crate::spec::volume::{TargetPath, VolumeId};
use crate::volume::Volumes;

/// The paths of the stage.
pub(super) struct Layout {
    pub(super) root: PathBuf,
    pub(super) config: PathBuf,
    pub(super) data: PathBuf,
    pub(super) socket: PathBuf,
    pub(super) admin_socket: PathBuf,
    pub(super) log: PathBuf,
}

/// What the demo has started and made so far.
pub(super) struct Stage {
    pub(super) layout: Layout,
    plugin: Option<Plugin>,
    pub(super) volume: InlineVolume,
    kubelet: Kubelet,
    pub(super) server: Option<HttpsServer>,
    pub(super) traffic: Option<Traffic>,
}

/// The example's HTTPS server, in this process.
pub(super) struct HttpsServer {
    stop: CancellationToken,
    task: JoinHandle<()>,
}

/// What is left after [`Stage::strike`].
pub(super) struct Leftovers {
    /// Mounts, files and processes, for people.
    pub(super) found: Vec<String>,
    /// What went wrong on the way.
    pub(super) problems: Vec<String>,
}

impl Layout {
    /// The socket as `--endpoint` wants it.
    pub(super) fn endpoint(&self) -> String {
        format!("unix://{}", self.socket.display())
    }
}

impl Stage {
    /// Makes the directories.
    pub(super) fn build() -> Result<Self> {
        let template = std::env::temp_dir().join("certmount-demo-XXXXXX");
        let root = mkdtemp(&template)
            .with_context(|| format!("cannot make {}; set TMPDIR", template.display()))?;
        let layout = Layout {
            config: root.join("config"),
            data: root.join("data"),
            socket: root.join("csi.sock"),
            admin_socket: root.join("admin.sock"),
            log: root.join("plugin.log"),
            root,
        };
        let kubelet = Kubelet::new(layout.root.join("kubelet"), &layout.socket);
        let volume = pod::volume();
        // From here on the directory is removed whatever happens.
        let stage = Self { layout, volume, kubelet, plugin: None, server: None, traffic: None };
        for directory in [&stage.layout.config, &stage.layout.data] {
            fs::create_dir(directory)
                .with_context(|| format!("cannot make {}", directory.display()))?;
        }
        Ok(stage)
    }

    /// Starts the plugin, waits until it serves, and answers its process id.
    pub(super) async fn start_plugin(&mut self) -> Result<u32> {
        let plugin = self.plugin.insert(Plugin::start(&self.layout)?);
        plugin.serves(&self.kubelet).await?;
        plugin.id().context("the plugin ended as soon as it served")
    }

    /// Has the pod's volume mounted, and answers where.
    pub(super) async fn publish(&self) -> Result<PathBuf> {
        self.kubelet.publish(&self.volume).await.map_err(|status| {
            anyhow!("the plugin did not publish the volume: {}", status.message())
        })
    }

    /// Takes everything away in the order in which a node would, and says what is left.
    pub(super) async fn strike(mut self) -> Leftovers {
        let mut problems = Vec::new();
        if let Some(traffic) = self.traffic.take() {
            traffic.stop().await;
        }
        if let Some(server) = self.server.take() {
            server.stop().await;
        }
        if let Some(plugin) = self.plugin.take() {
            if let Err(status) = self.kubelet.unpublish(&self.volume).await {
                let message = status.message();
                problems.push(format!("cannot unpublish: {message}; {}", plugin.last_words()));
            }
            if let Err(error) = plugin.stop().await {
                problems.push(format!("{error:#}"));
            }
        }
        let mut found = self.remaining();
        if let Err(error) = self.remove_directory() {
            found.push(format!("{}: {error}", self.layout.root.display()));
        }
        Leftovers { found, problems }
    }

    /// `error` with the end of the plugin's log.
    pub(super) fn explain(&self, error: anyhow::Error) -> anyhow::Error {
        match &self.plugin {
            Some(plugin) => anyhow!("{error:#}; {}", plugin.last_words()),
            None => error,
        }
    }

    /// What the plugin left below its data root and on the target path, and mounts of ours.
    fn remaining(&self) -> Vec<String> {
        let mut found = mounts_below(&self.layout.root);
        let volumes = fs::read_dir(&self.layout.data).into_iter().flatten().flatten();
        found.extend(volumes.map(|entry| entry.path().display().to_string()));
        let target = self.kubelet.target(&self.volume);
        if target.exists() {
            found.push(target.display().to_string());
        }
        found
    }

    fn remove_directory(&self) -> Result<()> {
        if !mounts_below(&self.layout.root).is_empty() {
            let id = VolumeId::try_from(self.volume.id())?;
            let target = TargetPath::try_from(self.kubelet.target(&self.volume))?;
            Volumes::open(&self.layout.data)?.remove(&id, &target)?;
        }
        match fs::remove_dir_all(&self.layout.root) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error.into()),
            _ => Ok(()),
        }
    }
}

impl Drop for Stage {
    /// For panics and early ends; after [`Stage::strike`] there is nothing left to do.
    fn drop(&mut self) {
        drop(self.plugin.take());
        let _ = self.remove_directory();
    }
}

impl HttpsServer {
    /// Serves with `tls` on `listener`.
    pub(super) fn start(listener: TcpListener, tls: FollowedTls) -> Self {
        let stop = CancellationToken::new();
        let served = http::serve(listener, Arc::new(tls), super::answer, stop.clone());
        Self { stop, task: tokio::spawn(served) }
    }

    async fn stop(self) {
        self.stop.cancel();
        // It ends by being told to, and there is nobody to tell how.
        let _ = self.task.await;
    }
}

/// The mount points below `root`, from the kernel.
fn mounts_below(root: &Path) -> Vec<String> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    // proc_pid_mountinfo(5): the fifth field is the mount point.
    let points = mounts.lines().filter_map(|line| line.split(' ').nth(4));
    points.filter(|point| Path::new(point).starts_with(root)).map(str::to_owned).collect()
}
