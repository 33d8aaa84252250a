//! The release binary as a process of its own, and the folder that everything lies in.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use certmount::clock::Clock;
use certmount::config::{Root, RootOptions};
use certmount::csi::client::Kubelet;
use certmount::csi::proto::csi::ProbeRequest;
use certmount::x509::KeyAlgorithm;
use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep};

pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_certmount");

/// The issuer that volumes name.
pub(crate) const ISSUER: &str = "bench-ca";

/// How long the plugin may take to start or end.
const PATIENCE: Duration = Duration::from_secs(10);

/// The folder that everything lies in. Emptied when dropped, mounts too.
pub(crate) struct Stage {
    directory: TempDir,
    pub(crate) kubelet: Kubelet,
}

/// A running plugin. Killed when dropped.
pub(crate) struct Plugin {
    child: Child,
    log: PathBuf,
}

impl Stage {
    /// Makes the folder, with a CA in it.
    pub(crate) fn build() -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("certmount-bench-").tempdir()?;
        let kubelet =
            Kubelet::new(directory.path().join("kubelet"), directory.path().join("csi.sock"));
        let stage = Self { directory, kubelet };
        let options = RootOptions {
            name: ISSUER.to_owned(),
            common_name: "certmount benchmark".to_owned(),
            algorithm: KeyAlgorithm::EcdsaP256,
            duration: Duration::from_secs(86_400 * 365),
            path_len: None,
        };
        Root::make(&options, Clock::system().now())?.write(&stage.root().join("config"), false)?;
        Ok(stage)
    }

    pub(crate) fn root(&self) -> &Path {
        self.directory.path()
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let points = mounts.lines().filter_map(|line| line.split(' ').nth(4));
        for point in points.filter(|point| Path::new(point).starts_with(self.root())) {
            let _ = umount2(point, MntFlags::MNT_DETACH);
        }
    }
}

impl Plugin {
    /// Starts the plugin and returns when it answers.
    pub(crate) async fn start(stage: &Stage) -> Result<Self> {
        let root = stage.root();
        let log = root.join("plugin.log");
        let child = Command::new(BINARY)
            .args(["node", "--node-id", "bench", "--endpoint"])
            .arg(format!("unix://{}", root.join("csi.sock").display()))
            .arg("--data-root")
            .arg(root.join("data"))
            .arg("--config-dir")
            .arg(root.join("config"))
            .env_clear()
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::options().create(true).append(true).open(&log)?)
            .kill_on_drop(true)
            .spawn()?;
        let mut plugin = Self { child, log };
        plugin.answers(&stage.kubelet).await?;
        Ok(plugin)
    }

    async fn answers(&mut self, kubelet: &Kubelet) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Ok(mut identity) = kubelet.identity().await
                && identity.probe(ProbeRequest {}).await.is_ok()
            {
                return Ok(());
            }
            let ended = self.child.try_wait()?;
            if ended.is_some() || Instant::now() > deadline {
                let log = fs::read_to_string(&self.log).unwrap_or_default();
                bail!("the plugin does not serve ({ended:?}); it logged:\n{log}");
            }
            sleep(Duration::from_millis(1)).await;
        }
    }

    /// Resident memory in bytes.
    pub(crate) fn resident(&self) -> Result<u64> {
        let status = fs::read_to_string(self.proc()?.join("status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kibibytes = line.and_then(|line| line.trim().strip_suffix(" kB"));
        let kibibytes: u64 = kibibytes.context("no VmRSS in /proc/PID/status")?.parse()?;
        Ok(kibibytes * 1024)
    }

    /// The time that all threads have spent on a core.
    pub(crate) fn cpu_time(&self) -> Result<Duration> {
        let mut nanoseconds = 0;
        for thread in fs::read_dir(self.proc()?.join("task"))? {
            // A thread that ends meanwhile takes its time with it; the runtime's workers do not.
            let Ok(times) = fs::read_to_string(thread?.path().join("schedstat")) else { continue };
            let on_core =
                times.split(' ').next().context("/proc/PID/task/TID/schedstat is empty")?;
            nanoseconds += on_core.parse::<u64>()?;
        }
        Ok(Duration::from_nanos(nanoseconds))
    }

    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        Ok(kill(Pid::from_raw(self.id()?.cast_signed()), signal)?)
    }

    /// Ends the plugin as a crash would.
    pub(crate) async fn kill(&mut self) -> Result<()> {
        Ok(self.child.kill().await?)
    }

    /// Ends the plugin as kubelet would.
    pub(crate) async fn stop(mut self) -> Result<()> {
        self.signal(Signal::SIGTERM)?;
        let status = tokio::time::timeout(PATIENCE, self.child.wait()).await??;
        ensure!(status.success(), "the plugin ended with {status}");
        Ok(())
    }

    fn proc(&self) -> Result<PathBuf> {
        Ok(Path::new("/proc").join(self.id()?.to_string()))
    }

    fn id(&self) -> Result<u32> {
        self.child.id().context("the plugin has ended")
    }
}
