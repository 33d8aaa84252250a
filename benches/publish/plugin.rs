//! The release binary as a process of its own, and the folder that everything lies in.

use std::fmt;
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
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::signal::{Signal, kill};
use nix::time::ClockId;
use nix::unistd::Pid;
use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep};

/// What cargo has built beside this benchmark.
pub(crate) const BUILT: &str = env!("CARGO_BIN_EXE_certmount");

/// The issuer that volumes name.
pub(crate) const ISSUER: &str = "bench-ca";

/// The name of the plugin's node.
pub(crate) const NODE: &str = "bench";

/// The memory allocator of glibc gives each thread an arena of its own, up to eight for a core, as
/// if memory cost nothing. The chart sets the same.
const ARENAS: (&str, &str) = ("MALLOC_ARENA_MAX", "1");

/// How long the plugin may take to start or end.
const PATIENCE: Duration = Duration::from_secs(10);

/// The folder that everything lies in. Emptied when dropped, mounts too.
pub(crate) struct Stage {
    directory: TempDir,
    pub(crate) kubelet: Kubelet,
    /// The program that is measured.
    program: PathBuf,
}

/// A running plugin. Killed when dropped.
pub(crate) struct Plugin {
    child: Child,
    log: PathBuf,
}

/// Memory in MiB (proc_pid_status(5)).
pub(crate) struct Resident {
    /// Heap and stacks.
    pub(crate) anonymous: f64,
    /// Pages of the program file.
    pub(crate) file: f64,
}

impl Resident {
    pub(crate) fn total(&self) -> f64 {
        self.anonymous + self.file
    }
}

impl fmt::Display for Resident {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.1} MiB", self.total())
    }
}

impl Stage {
    /// Makes the folder, with a CA in it.
    pub(crate) fn build(program: PathBuf) -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("certmount-bench-").tempdir()?;
        let kubelet =
            Kubelet::new(directory.path().join("kubelet"), directory.path().join("csi.sock"));
        let stage = Self { directory, kubelet, program };
        // As the chart has it: volumes below /run, which is a tmpfs, and kubelet's folder on a disk.
        fs::create_dir(stage.data())?;
        let safe = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        mount(Some("run"), &stage.data(), Some("tmpfs"), safe, Some("mode=0750"))?;
        let options = RootOptions {
            name: ISSUER.to_owned(),
            common_name: "certmount benchmark".to_owned(),
            algorithm: KeyAlgorithm::EcdsaP256,
            duration: Duration::from_secs(86_400 * 365),
            path_len: None,
        };
        Root::make(&options, Clock::system().now())?.write(&stage.config(), false)?;
        Ok(stage)
    }

    pub(crate) fn root(&self) -> &Path {
        self.directory.path()
    }

    /// The folder of the plugin's volumes.
    pub(crate) fn data(&self) -> PathBuf {
        self.root().join("data")
    }

    /// The folder that the plugin has its issuers from.
    pub(crate) fn config(&self) -> PathBuf {
        self.root().join("config")
    }

    /// Where keys of ACME accounts are kept.
    pub(crate) fn state(&self) -> PathBuf {
        self.root().join("state")
    }

    /// `certmount node` with what is the same wherever its issuers are.
    fn node(&self) -> Command {
        let root = self.root();
        let mut command = Command::new(&self.program);
        command
            .args(["node", "--node-id", NODE, "--endpoint"])
            .arg(format!("unix://{}", root.join("csi.sock").display()))
            .arg("--data-root")
            .arg(self.data())
            .env_clear()
            .env(ARENAS.0, ARENAS.1);
        command
    }

    /// Puts a file into the plugin's configuration, at once or not at all.
    #[allow(clippy::disallowed_methods, reason = "the file is renamed when it is whole")]
    pub(crate) fn configure(&self, name: &str, text: &str) -> Result<()> {
        let beside = self.root().join("configuration");
        fs::write(&beside, text)?;
        Ok(fs::rename(beside, self.config().join(name))?)
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
    /// Starts the plugin with the issuers in its folder and returns when it answers.
    pub(crate) async fn start(stage: &Stage) -> Result<Self> {
        let mut command = stage.node();
        command.arg("--config-dir").arg(stage.config()).arg("--state-dir").arg(stage.state());
        Self::spawn(stage, command).await
    }

    /// Starts the plugin for the cluster of `kubeconfig` and returns when it answers.
    pub(crate) async fn start_in_cluster(stage: &Stage, kubeconfig: &Path) -> Result<Self> {
        let mut command = stage.node();
        command.arg("--kubernetes").env("KUBECONFIG", kubeconfig);
        Self::spawn(stage, command).await
    }

    async fn spawn(stage: &Stage, mut command: Command) -> Result<Self> {
        let log = stage.root().join("plugin.log");
        let child = command
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

    /// What of the plugin is in memory.
    pub(crate) fn resident(&self) -> Result<Resident> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid()?))?;
        let mebibytes = |name: &str| -> Result<f64> {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            let kibibytes = line.and_then(|line| line.trim().strip_suffix(" kB"));
            let kibibytes = kibibytes.with_context(|| format!("no {name} in /proc/PID/status"))?;
            Ok(kibibytes.parse::<f64>()? / 1024.0)
        };
        Ok(Resident { anonymous: mebibytes("RssAnon:")?, file: mebibytes("RssFile:")? })
    }

    /// The time that its threads have spent on a core, those that have ended included.
    pub(crate) fn cpu_time(&self) -> Result<Duration> {
        Ok(ClockId::pid_cpu_clock_id(self.pid()?)?.now()?.into())
    }

    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        Ok(kill(self.pid()?, signal)?)
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

    fn pid(&self) -> Result<Pid> {
        let id = self.child.id().context("the plugin has ended")?;
        Ok(Pid::from_raw(id.cast_signed()))
    }
}
