//! `certmount check`.
mod manifest;

/// Check issuer files and the volumes of pods before the driver sees them
#[derive(Debug, clap::Args)]
pub(super) struct Args {}

impl Args {
    pub(super) fn run(self) -> anyhow::Result<std::process::ExitCode> {
        todo!()
    }
}
