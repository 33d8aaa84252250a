//! The certmount command.

use std::process::ExitCode;

fn main() -> ExitCode {
    certmount::cli::main()
}
