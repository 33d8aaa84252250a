//! The command line as people and scripts meet it: what is printed where, and the exit codes.

use std::path::Path;
use std::process::{Command, Output};

/// What one call of the real binary did.
struct Called {
    code: Option<i32>,
    out: String,
    err: String,
}

/// Calls certmount with `args`, without the caller's own settings.
fn certmount(args: &[&str]) -> Called {
    certmount_with(args, &[])
}

fn certmount_with(args: &[&str], env: &[(&str, &str)]) -> Called {
    let Output { status, stdout, stderr } = Command::new(env!("CARGO_BIN_EXE_certmount"))
        .args(args)
        .env_clear()
        .envs(env.iter().copied())
        .output()
        .expect("the certmount binary runs");
    let text = |bytes| String::from_utf8(bytes).expect("it prints text");
    Called { code: status.code(), out: text(stdout), err: text(stderr) }
}

impl Called {
    /// Checks the exit code; `Called` itself has what was printed.
    #[track_caller]
    fn exits(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "stdout:\n{}\nstderr:\n{}", self.out, self.err);
        self
    }

    #[track_caller]
    fn prints(self, parts: &[&str]) -> Self {
        for part in parts {
            assert!(self.out.contains(part), "{part:?} is not in\n{}", self.out);
        }
        self
    }

    #[track_caller]
    fn complains(self, parts: &[&str]) -> Self {
        for part in parts {
            assert!(self.err.contains(part), "{part:?} is not in\n{}", self.err);
        }
        self
    }
}

#[test]
fn help_teaches_each_command() {
    let commands: [&[&str]; 8] = [
        &["node"],
        &["demo"],
        &["inspect"],
        &["check"],
        &["ca", "init"],
        &["attributes"],
        &["completions"],
        &["man"],
    ];
    for command in commands {
        let usage = format!("Usage: certmount {}", command.join(" "));
        for flag in ["--help", "-h"] {
            let called = certmount(&[command, &[flag]].concat()).exits(0).prints(&[&usage]);
            assert_eq!(called.err, "");
            assert!(
                ["Example", "certmount "].iter().all(|part| called.out.contains(part))
                    || called.out.contains(":\n  "),
                "{command:?} has no examples:\n{}",
                called.out
            );
        }
    }
}

#[test]
fn the_overview_names_each_command_and_the_exit_codes() {
    certmount(&["--help"])
        .exits(0)
        .prints(&["node", "demo", "inspect", "check", "ca", "attributes", "completions", "man"])
        .prints(&["Exit codes: 0 all is well; 1 something failed or was found wrong; 2 called"]);
    let called = certmount(&["help"]).exits(0);
    assert!(!called.out.contains("in-namespace"), "a hidden command is shown:\n{}", called.out);
}

#[test]
fn the_version_is_the_package_s() {
    let called = certmount(&["--version"]).exits(0);
    assert_eq!(called.out, format!("certmount {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn wrong_calls_exit_with_2_and_say_what_was_meant() {
    certmount(&[]).exits(2).complains(&["Usage: certmount <COMMAND>"]);
    certmount(&["inspekt"]).exits(2).complains(&["unrecognized subcommand 'inspekt'", "'inspect'"]);
    certmount(&["inspect", "--outptu", "json"]).exits(2).complains(&["--output"]);
    certmount(&["inspect", "-o", "yaml"])
        .exits(2)
        .complains(&["invalid value 'yaml'", "table, wide, json"]);
}

#[test]
fn node_says_which_flag_is_missing_or_wrong() {
    certmount(&["node"]).exits(2).complains(&["--endpoint", "--node-id", "--config-dir"]);
    let node = |flag: &str, value: &str| {
        let flags = ["--endpoint", "/x.sock", "--node-id", "n", "--config-dir", "/x"];
        let mut args = vec!["node"];
        args.extend(flags.chunks(2).filter(|pair| pair[0] != flag).flatten());
        args.extend([flag, value]);
        certmount(&args).exits(2)
    };
    node("--endpoint", "csi.sock").complains(&["--endpoint", "unix:///"]);
    node("--endpoint", "tcp://127.0.0.1:80").complains(&["--endpoint", "not a Unix socket"]);
    node("--endpoint", &format!("/{}", "x".repeat(107))).complains(&["--endpoint", "107 bytes"]);
    node("--data-root", "data").complains(&["--data-root", "absolute"]);
    node("--driver-name", "no/slash").complains(&["--driver-name", "letters"]);
    node("--metrics-addr", "9402").complains(&["--metrics-addr", "invalid socket address"]);
    node("--log-level", "certmount=loud").complains(&["info,certmount::csi=debug"]);
    node("--kubelet-registration-path", "/csi.sock").complains(&["--plugin-registration-dir"]);
}

#[test]
fn node_reads_the_names_that_csi_sidecars_share() {
    // It gets as far as opening the socket, or as asking whether it may mount.
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_str().unwrap();
    let args = ["node", "--config-dir", path, "--data-root", path];
    let env = [("CSI_ENDPOINT", "unix:///nowhere/at/all/csi.sock"), ("NODE_ID", "n")];
    let called = certmount_with(&args, &env).exits(1);
    assert!(!called.err.contains("Usage"), "{}", called.err);
    let env = [("CSI_ENDPOINT", "csi.sock"), ("NODE_ID", "n")];
    certmount_with(&args, &env).exits(2).complains(&["unix:///"]);
}

#[test]
fn completions_speak_each_shell() {
    for (shell, sign) in [
        ("bash", "complete -F _certmount"),
        ("zsh", "#compdef certmount"),
        ("fish", "complete -c certmount"),
    ] {
        let called = certmount(&["completions", shell]).exits(0).prints(&[sign, "inspect"]);
        assert_eq!(called.err, "");
    }
    certmount(&["completions", "cmd.exe"]).exits(2).complains(&["bash", "zsh", "fish"]);
}

#[test]
fn the_manual_page_documents_every_command() {
    let called = certmount(&["man"]).exits(0).prints(&[
        ".TH certmount 1",
        ".SH \"CERTMOUNT NODE\"",
        ".SH \"CERTMOUNT CA INIT\"",
        "\\-\\-data\\-root",
        "CERTMOUNT_DATA_ROOT",
    ]);
    assert!(!called.out.contains("CERTMOUNT IN"), "a hidden command is documented");
}

#[test]
fn attributes_are_listed_and_searched() {
    certmount(&["attributes"]).exits(0).prints(&["certmount.dev/", "\n  issuer-name", "\n  jks"]);
    let called = certmount(&["attributes", "pkcs12"]).exits(0).prints(&["pkcs12-enable"]);
    assert!(!called.out.contains("issuer-name"), "{}", called.out);
    certmount(&["attributes", "nonsense"]).exits(1).prints(&["no attribute has such a name"]);
    certmount(&["attributes", "--markdown"]).exits(0).prints(&["issuer-name", "|"]);
}

#[test]
fn inspect_without_a_driver_says_what_to_look_at() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("admin.sock");
    let socket = socket.to_str().unwrap();
    certmount(&["inspect", "--socket", socket])
        .exits(1)
        .complains(&["is certmount running on this node?", "--dir <data root>"]);
    drop(std::os::unix::net::UnixListener::bind(socket).unwrap());
    certmount(&["inspect", "--socket", socket]).exits(1).complains(&["certmount is not running"]);
    certmount(&["inspect", "--dir", "/nowhere/at/all"]).exits(1).complains(&["/nowhere/at/all"]);
}

#[test]
fn a_reader_that_leaves_is_no_failure() {
    use std::io::Read as _;
    let mut child = Command::new(env!("CARGO_BIN_EXE_certmount"))
        .args(["completions", "zsh"])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let mut err = String::new();
    child.stderr.take().unwrap().read_to_string(&mut err).unwrap();
    assert_eq!((child.wait().unwrap().code(), err.as_str()), (Some(0), ""));
}

/// A folder for one test with these files in it.
fn folder(files: &[(&str, &[u8])]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, content) in files {
        write(&folder.path().join(name), content);
    }
    folder
}

#[allow(clippy::disallowed_methods, reason = "nobody reads while the test writes")]
fn write(path: &Path, content: &[u8]) {
    std::fs::write(path, content).unwrap();
}
