//! `certmount demo` as a script and as a person run it, and that it leaves nothing behind.

#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

/// Longer than anything takes on the slowest machine.
const PATIENCE: Duration = Duration::from_secs(20);

#[test]
fn once_shows_two_renewals_and_leaves_nothing_behind() {
    let place = tempfile::tempdir().unwrap();
    let output = demo(&place).arg("--once").output().unwrap();
    let said = said(&output);
    assert!(output.status.success(), "{said}");
    for fact in ["tls.key", "Renewal 1 ", "Renewal 2 ", " 0 failed", "2 of 2 renewals seen"] {
        assert!(said.contains(fact), "no {fact:?} in:\n{said}");
    }
    assert!(!said.contains("Renewal 3"), "{said}");
    for line in said.lines() {
        let names_place = line.contains(place.path().to_str().unwrap());
        assert!(names_place || line.chars().count() <= 80, "wider than 80 columns: {line}");
        assert!(!line.chars().any(char::is_control), "not plain: {line:?}");
    }
    assert_nothing_left(&place, &said);
}

#[test]
fn interrupted_it_leaves_nothing_behind() {
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let place = tempfile::tempdir().unwrap();
        let (mut demo, mut said, mut reader) = start(&place);
        kill(Pid::from_raw(demo.id().cast_signed()), signal).unwrap();
        reader.read_to_string(&mut said).unwrap();
        assert_eq!(demo.wait().unwrap().code(), Some(130), "{said}");
        assert!(said.contains("0 of 3 renewals seen"), "{said}");
        assert_nothing_left(&place, &said);
    }
}

#[test]
fn killed_it_takes_the_plugin_along() {
    let place = tempfile::tempdir().unwrap();
    let (mut demo, mut said, mut reader) = start(&place);
    demo.kill().unwrap();
    demo.wait().unwrap();
    reader.read_to_string(&mut said).unwrap();
    let began = Instant::now();
    while runs(&plugin(&said)) {
        assert!(began.elapsed() < PATIENCE, "the plugin lives on:\n{said}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn without_a_place_for_its_files_it_says_what_to_do() {
    let output = Command::new(env!("CARGO_BIN_EXE_certmount"))
        .arg("demo")
        .env("TMPDIR", "/nowhere")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let complaint = String::from_utf8(output.stderr).unwrap();
    assert!(complaint.contains("/nowhere/certmount-demo-"), "{complaint}");
    assert!(complaint.contains("set TMPDIR"), "{complaint}");
}

/// The demo with its files in `place`.
fn demo(place: &TempDir) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_certmount"));
    command.arg("demo").env("TMPDIR", place.path());
    command
}

/// A demo that is under way, what it has said so far, and the rest.
fn start(place: &TempDir) -> (Child, String, BufReader<ChildStdout>) {
    let mut demo = demo(place).stdout(Stdio::piped()).spawn().unwrap();
    let mut reader = BufReader::new(demo.stdout.take().unwrap());
    let mut said = String::new();
    while !said.contains("\nClients") {
        assert_ne!(reader.read_line(&mut said).unwrap(), 0, "it ended early:\n{said}");
    }
    assert!(runs(&plugin(&said)), "no plugin runs:\n{said}");
    (demo, said, reader)
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

fn assert_nothing_left(place: &TempDir, said: &str) {
    let files: Vec<_> = std::fs::read_dir(place.path()).unwrap().collect();
    assert!(files.is_empty(), "left behind: {files:?}\n{said}");
    assert!(!runs(&plugin(said)), "the plugin still runs:\n{said}");
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(place.path().to_str().unwrap()), "{mounts}");
}

/// Where `/proc` has the plugin whose process id the demo said.
fn plugin(said: &str) -> PathBuf {
    let after = said.split("certmount node, process ").nth(1).expect("the demo names its plugin");
    let id: String = after.chars().take_while(char::is_ascii_digit).collect();
    Path::new("/proc").join(id)
}

/// Whether the process is there, and not one that ended and that nobody has waited for.
fn runs(process: &Path) -> bool {
    std::fs::read_to_string(process.join("status"))
        .is_ok_and(|status| !status.contains("\nState:\tZ"))
}
