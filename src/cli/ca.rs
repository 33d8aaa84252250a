//! `certmount ca`

/// Make a certificate authority of your own
#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Make a root CA: a Secret with key and certificate, for a `ca` issuer to sign with
    Init {},
}

impl Command {
    pub(super) fn run(self) -> anyhow::Result<std::process::ExitCode> {
        todo!()
    }
}
