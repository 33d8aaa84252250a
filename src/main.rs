//! The certmount command.

use std::ffi::OsString;
use std::process::ExitCode;

use anyhow::Result;

fn main() -> Result<ExitCode> {
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    match arguments.as_slice() {
        [name, dashes, command @ ..] if name == "in-namespace" && dashes == "--" => {
            certmount::cli::namespace::run(command)
        }
        _ => Ok(ExitCode::SUCCESS),
    }
}
