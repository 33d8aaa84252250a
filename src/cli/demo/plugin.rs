//! The real plugin, `certmount node`, as a process of its own.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};

use super::stage::Layout;
use crate::csi::client::Kubelet;
use crate::csi::proto::csi::ProbeRequest;

/// How long the plugin may take until it serves.
const START_TIMEOUT: Duration = Duration::from_secs(10);

/// How long it may take to end when asked to; then it is killed.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// How many of its last log lines are shown when it fails.
const LAST_LINES: usize = 12;

/// A running plugin. Killed when dropped.
pub(super) struct Plugin {
    child: Child,
    log: PathBuf,
}

impl Plugin {
    /// Starts the plugin on the stage.
    pub(super) fn start(layout: &Layout) -> Result<Self> {
        let log = File::create(&layout.log).context("cannot write the plugin's log")?;
        let child = Command::new("/proc/self/exe")
            .arg0("certmount")
            .arg("node")
            .arg("--endpoint")
            .arg(layout.endpoint())
            .args(["--node-id", super::NODE, "--data-root"])
            .arg(&layout.data)
            .arg("--config-dir")
            .arg(&layout.config)
            .arg("--admin-socket")
            .arg(&layout.admin_socket)
            // A demo that is killed cannot take it down.
            .args(["--end-with", &Pid::this().to_string()])
            // What is set for a plugin of this machine's own is not for this one.
            .env_clear()
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            // Ctrl-C is for the demo, which still needs the plugin to clean up.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .context("cannot start the plugin")?;
        Ok(Self { child, log: layout.log.clone() })
    }

    /// Returns when the plugin serves.
    pub(super) async fn serves(&mut self, kubelet: &Kubelet) -> Result<()> {
        let deadline = Instant::now() + START_TIMEOUT;
        while !answers(kubelet).await {
            if let Some(status) = self.child.try_wait()? {
                bail!("the plugin ended ({status}) before it served; {}", self.last_words());
            }
            if Instant::now() > deadline {
                let seconds = START_TIMEOUT.as_secs();
                bail!("the plugin does not serve after {seconds} s; {}", self.last_words());
            }
            sleep(Duration::from_millis(2)).await;
        }
        Ok(())
    }

    /// The process id, while it runs.
    pub(super) fn id(&self) -> Option<u32> {
        self.child.id()
    }

    /// The end of the plugin's log.
    pub(super) fn last_words(&self) -> String {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        match &lines[lines.len().saturating_sub(LAST_LINES)..] {
            [] => "it logged nothing".to_owned(),
            last => format!("its last log lines:\n  {}", last.join("\n  ")),
        }
    }

    /// Asks the plugin to end, as kubelet does, and waits for that.
    pub(super) async fn stop(mut self) -> Result<()> {
        if let Some(id) = self.id() {
            // It can have ended on its own just now.
            let _ = kill(Pid::from_raw(id.cast_signed()), Signal::SIGTERM);
        }
        match timeout(STOP_TIMEOUT, self.child.wait()).await {
            Ok(status) if status.as_ref().is_ok_and(ExitStatus::success) => Ok(()),
            Ok(status) => bail!("the plugin ended with {}; {}", status?, self.last_words()),
            Err(_) => {
                self.child.kill().await.context("cannot kill the plugin")?;
                bail!("the plugin did not end within {} s and was killed", STOP_TIMEOUT.as_secs())
            }
        }
    }
}

async fn answers(kubelet: &Kubelet) -> bool {
    let Ok(mut identity) = kubelet.identity().await else {
        return false;
    };
    let probed = identity.probe(ProbeRequest {}).await;
    probed.is_ok_and(|response| response.into_inner().ready.unwrap_or(true))
}
