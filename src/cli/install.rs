//! `certmount install`: bring this program into images that do not have it.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result};

/// Copy this program into a folder, for an init container to share it with other images
///
/// certmount's image holds nothing but certmount, so there is no `cp` in it.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example, in a pod whose image has no certmount:
  initContainers:
    - name: certmount
      image: certmount
      args: [install, /opt/certmount]      # an emptyDir that the other container mounts too
  containers:
    - name: web
      command: [/opt/certmount/certmount, exec, --watch, /tls, --signal, HUP, --, nginx]")]
pub(super) struct Args {
    /// The folder to put `certmount` into
    #[arg(value_name = "DIR")]
    folder: PathBuf,
}

impl Args {
    pub(super) fn run(self) -> Result<ExitCode> {
        let target = self.folder.join("certmount");
        install(&self.folder, &target)
            .with_context(|| format!("cannot install {}", target.display()))?;
        Ok(ExitCode::SUCCESS)
    }
}

/// Whoever runs the program meanwhile runs the old or the new.
fn install(folder: &Path, target: &Path) -> Result<()> {
    let next = folder.join(".certmount.next");
    // The link stays good when the binary was replaced.
    let mut program = File::open("/proc/self/exe").context("cannot read this program")?;
    let copied = File::create(&next).and_then(|mut copy| {
        std::io::copy(&mut program, &mut copy)?;
        copy.set_permissions(Permissions::from_mode(0o755))?;
        fs::rename(&next, target)
    });
    copied.inspect_err(|_| {
        let _ = fs::remove_file(&next);
    })?;
    Ok(())
}
