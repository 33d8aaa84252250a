//! `certmount crds`: the definitions that a cluster needs before it has issuers.

use std::io::{self, Write as _};
use std::process::ExitCode;

use anyhow::Result;

use crate::config::kubernetes::crds_yaml;

pub(super) fn run() -> Result<ExitCode> {
    io::stdout().write_all(crds_yaml().as_bytes())?;
    Ok(ExitCode::SUCCESS)
}
