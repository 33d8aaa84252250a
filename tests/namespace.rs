//! The namespace helper itself: what happens inside stays inside.

mod common;

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::namespaced;
use nix::mount::{MsFlags, mount};

#[test]
fn the_caller_is_root_and_may_mount() {
    namespaced(|| {
        assert!(nix::unistd::geteuid().is_root());
        let place = tempfile::tempdir().unwrap();
        mount(Some("inside"), place.path(), Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(mounts.contains(place.path().to_str().unwrap()));
        assert!(!mounts.contains("shared:"), "a shared mount would carry ours outside:\n{mounts}");
    });
}

#[test]
fn mounts_stay_inside() {
    let source = format!("certmount-test-{}", std::process::id());
    let script = format!("mount -t tmpfs {source} /mnt && cat /proc/self/mountinfo");
    let inside = in_namespace(&script).output().unwrap();
    assert!(String::from_utf8_lossy(&inside.stdout).contains(&source), "{inside:?}");
    assert!(!std::fs::read_to_string("/proc/self/mountinfo").unwrap().contains(&source));
}

#[test]
fn process_ids_are_its_own_and_proc_knows_them() {
    namespaced(|| {
        assert_eq!(std::os::unix::process::parent_id(), 1);
        let own = std::fs::read_link("/proc/self").unwrap();
        assert_eq!(own.to_str().unwrap(), std::process::id().to_string());
    });
}

#[test]
#[should_panic(expected = "failed inside its namespace")]
fn a_failure_inside_is_a_failure_outside() {
    namespaced(|| panic!("as it should"));
}

#[test]
fn exit_codes_and_signals_are_passed_on() {
    let code = |script: &str| {
        let mut command = in_namespace(script);
        command.status().unwrap().code()
    };
    assert_eq!(code("exit 7"), Some(7));
    assert_eq!(code("kill -TERM $$"), Some(128 + 15));
}

#[test]
fn orphans_are_reaped_and_end_with_the_command() {
    // The orphan holds stdout open: reading it to its end means that the orphan is gone.
    let output = in_namespace("(sleep 1000 &) ; echo started").output().unwrap();
    assert_eq!(output.stdout, b"started\n");
}

#[test]
fn killing_the_helper_kills_everything_inside() {
    let mut helper =
        in_namespace("sleep 1000 & echo ready; wait").stdout(Stdio::piped()).spawn().unwrap();
    let mut out = std::io::BufReader::new(helper.stdout.take().unwrap());
    let mut line = String::new();
    std::io::BufRead::read_line(&mut out, &mut line).unwrap();
    assert_eq!(line, "ready\n");
    let killed = Instant::now();
    helper.kill().unwrap();
    helper.wait().unwrap();
    // The pipe reaches its end only when the last holder of it has died.
    std::io::Read::read_to_string(&mut out, &mut line).unwrap();
    assert!(killed.elapsed() < Duration::from_secs(100));
}

fn in_namespace(script: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_certmount"));
    command.args(["in-namespace", "--", "sh", "-c", script]);
    command
}
