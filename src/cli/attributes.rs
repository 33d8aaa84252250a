//! `certmount attributes`

/// Print every volume attribute: name, default, meaning
#[derive(Debug, clap::Args)]
pub(super) struct Args {}

impl Args {
    pub(super) fn run(self) -> anyhow::Result<std::process::ExitCode> {
        todo!()
    }
}
