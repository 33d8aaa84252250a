//! `certmount node`: the driver itself.
pub(super) const ADMIN_SOCKET: &str = ".admin.sock";
pub(super) const DEFAULT_ADMIN_SOCKET: &str = "/run/certmount/.admin.sock";

/// Run the driver on this node
#[derive(Debug, clap::Args)]
pub(super) struct Args {}

impl Args {
    pub(super) fn run(self) -> anyhow::Result<std::process::ExitCode> {
        todo!()
    }
}
