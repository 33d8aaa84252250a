//! `certmount demo`: the whole thing on one machine.

use std::process::ExitCode;

use anyhow::Result;

/// See a certificate issued, mounted, used and renewed on this machine, without a cluster
#[derive(Debug, clap::Args)]
pub(super) struct Args {}

pub(super) fn run(_args: Args) -> Result<ExitCode> {
    todo!()
}
