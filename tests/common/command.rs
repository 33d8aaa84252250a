//! Other programs.

use std::io::Write as _;
use std::process::{Command, Output, Stdio};

/// What comes of `command` with `input` to read.
pub fn output_with(command: &mut Command, input: impl AsRef<[u8]>) -> Output {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_ref()).unwrap();
    child.wait_with_output().unwrap()
}
