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
    let commands: [&[&str]; 10] = [
        &["node"],
        &["demo"],
        &["exec"],
        &["install"],
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
    assert!(!called.out.contains("CERTMOUNT IN NAMESPACE"), "a hidden command is documented");
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

const SELF_SIGNED: &str = "\
apiVersion: certmount.dev/v1alpha1
kind: ClusterIssuer
metadata:
  name: self-signed
spec:
  selfSigned: {}
";

const GOOD_POD: &str = "\
apiVersion: v1
kind: Pod
metadata:
  name: web
  namespace: shop
spec:
  volumes:
  - name: tls
    csi:
      driver: csi.certmount.dev
      readOnly: true
      volumeAttributes:
        certmount.dev/issuer-kind: ClusterIssuer
        certmount.dev/issuer-name: self-signed
        certmount.dev/dns-names: web.${POD_NAMESPACE}.svc
";

/// Calls `certmount check` on a folder with these files, with `args` after it.
fn check(files: &[(&str, &str)], args: &[&str]) -> Called {
    let folder = tempfile::tempdir().expect("there is room for a folder");
    for (name, content) in files {
        write(&folder.path().join(name), content);
    }
    let folder = folder.path().to_str().expect("a plain path");
    let args: Vec<_> = args.iter().map(|arg| arg.replace("DIR", folder)).collect();
    let args: Vec<_> = args.iter().map(String::as_str).collect();
    let called = certmount(&[&["check", folder], args.as_slice()].concat());
    let out = called.out.replace(&format!("{folder}/"), "");
    Called { out, ..called }
}

#[allow(clippy::disallowed_methods, reason = "nobody reads while the test writes")]
fn write(path: &Path, content: &str) {
    std::fs::write(path, content).expect("there is room for a file");
}

#[test]
fn check_finds_nothing_wrong_with_what_is_right() {
    let called = check(&[("issuer.yaml", SELF_SIGNED), ("pod.yaml", GOOD_POD)], &[]).exits(0);
    assert_eq!(called.out, "ok: 1 issuer, 1 volume\n");
    let called = check(&[("a.yaml", &format!("{SELF_SIGNED}---\n{GOOD_POD}"))], &["-o", "json"]);
    let report: serde_json::Value = serde_json::from_str(&called.exits(0).out).unwrap();
    let expected = serde_json::json!({"ok": true, "issuers": 1, "volumes": 1, "findings": []});
    assert_eq!(report, expected);
}

#[test]
fn check_names_the_place_of_each_mistake() {
    let issuer = SELF_SIGNED.replace("selfSigned", "selfSignd");
    let called = check(&[("issuer.yaml", &issuer)], &[]).exits(1);
    assert!(called.out.starts_with("issuer.yaml:6:"), "{}", called.out);
    called.prints(&["error: ", "selfSigned", "1 error in 0 issuers, 0 volumes\n"]);

    let pod = GOOD_POD
        .replace("issuer-name: self-signed", "isuer-name: self-signed")
        .replace("readOnly: true", "readOnly: false")
        .replace("web.${POD_NAMESPACE}.svc", "\"web.${POD_NAMESPCE}.svc\"");
    check(&[("issuer.yaml", SELF_SIGNED), ("pod.yaml", &pod)], &[]).exits(1).prints(&[
        "pod.yaml:10:7: error: the volume must be read-only: write readOnly: true",
        "pod.yaml:14:35: error: certmount.dev/isuer-name",
        "did you mean issuer-name?",
        "pod.yaml:15:34: error: certmount.dev/dns-names",
        "POD_NAMESPACE",
        " errors in 1 issuer, 1 volume\n",
    ]);
}

#[test]
fn check_holds_volumes_against_issuers_and_policy() {
    let missing = GOOD_POD.replace("name: self-signed", "name: other");
    check(&[("issuer.yaml", SELF_SIGNED), ("pod.yaml", &missing)], &[]).exits(1).prints(&[
        "pod.yaml:14:36: error: there is no ClusterIssuer \"other\"",
        "ClusterIssuer self-signed",
    ]);
    let foreign = GOOD_POD.replace("web.${POD_NAMESPACE}.svc", "www.example.com");
    check(&[("issuer.yaml", SELF_SIGNED), ("pod.yaml", &foreign)], &[]).exits(1).prints(&[
        "pod.yaml:",
        "www.example.com",
        "policy",
    ]);
    let allowed = SELF_SIGNED.to_owned()
        + "  policy:\n  - namespaces: [shop]\n    dnsNames: [www.example.com]\n";
    check(&[("issuer.yaml", &allowed), ("pod.yaml", &foreign)], &[]).exits(0);
}

#[test]
fn check_looks_into_templates_and_passes_other_drivers_over() {
    let template = |kind: &str| {
        let spec = GOOD_POD.split_once("spec:\n").unwrap().1.replace("web.$", "api.$");
        let spec: String = spec.lines().map(|line| format!("    {line}\n")).collect();
        format!(
            "apiVersion: apps/v1
kind: {kind}
metadata: {{name: api, namespace: shop}}
spec:
  template:
    spec:
{spec}"
        )
    };
    for kind in ["Deployment", "StatefulSet", "DaemonSet", "Job"] {
        let right = template(kind);
        let called = check(&[("a.yaml", SELF_SIGNED), ("b.yaml", &right)], &[]).exits(0);
        assert_eq!(called.out, "ok: 1 issuer, 1 volume\n", "{kind}");
        let wrong = right.replace("dns-names:", "dns-nmaes:");
        check(&[("a.yaml", SELF_SIGNED), ("b.yaml", &wrong)], &[])
            .exits(1)
            .prints(&["b.yaml:15:", "did you mean dns-names?"]);
        let other = wrong.replace("driver: csi.certmount.dev", "driver: csi.example.com");
        let called = check(&[("a.yaml", SELF_SIGNED), ("b.yaml", &other)], &[]).exits(0);
        assert_eq!(called.out, "ok: 1 issuer, 0 volumes\n", "{kind}");
    }
}

#[test]
fn check_takes_manifests_and_attributes_from_elsewhere() {
    let files = [("issuer.yaml", SELF_SIGNED), ("pod.txt", GOOD_POD)];
    let called = check(&files, &["--pod", "DIR/pod.txt"]).exits(0);
    assert_eq!(called.out, "ok: 1 issuer, 1 volume\n");
    let attributes = "\
certmount.dev/issuer-kind: ClusterIssuer
certmount.dev/issuer-name: self-signed
certmount.dev/dns-names: web.shop.svc
certmount.dev/reuse-private-key: true
";
    let files = [("issuer.yaml", SELF_SIGNED), ("tls.txt", attributes)];
    check(&files, &["--attributes", "DIR/tls.txt"])
        .exits(1)
        .prints(&["tls.txt:4:34: error: certmount.dev/reuse-private-key is a boolean", "quotes"]);
    let quoted = attributes.replace(": true", ": \"true\"");
    let files = [("issuer.yaml", SELF_SIGNED), ("tls.txt", quoted.as_str())];
    check(&files, &["--attributes", "DIR/tls.txt", "--namespace", "shop"]).exits(0);
    check(&files, &["--attributes", "DIR/tls.txt", "--namespace", "bank"])
        .exits(1)
        .prints(&["web.shop.svc"]);
    check(&files, &["--pod", "DIR/missing.yaml"]).exits(1).complains(&["cannot read", "missing"]);
}

#[test]
fn ca_init_makes_an_issuer_that_passes_check() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("issuers");
    let dir = dir.to_str().unwrap();
    certmount(&["ca", "init", dir, "--name", "shop", "--common-name", "Shop CA"]).exits(0).prints(
        &["shop-secret.yaml", "shop-issuer.yaml", "CN=Shop CA", "issuer-name: shop\n", "SHA-256"],
    );
    certmount(&["check", dir]).exits(0).prints(&["ok: 1 issuer, 0 volumes\n"]);
    let pod = GOOD_POD.replace("issuer-name: self-signed", "issuer-name: shop");
    write(&Path::new(dir).join("pod.yaml"), &pod);
    certmount(&["check", dir]).exits(0).prints(&["ok: 1 issuer, 1 volume\n"]);

    let again = ["ca", "init", dir, "--name", "shop"];
    certmount(&again).exits(1).complains(&["shop-secret.yaml is there already"]);
    certmount(&[again.as_slice(), &["--force"]].concat()).exits(0).prints(&["certmount root CA"]);
    certmount(&["ca", "init", dir, "--name", "No Name"]).exits(1).complains(&["lower-case"]);
    certmount(&["ca", "init", dir, "--duration", "soon"]).exits(2).complains(&["--duration"]);
    certmount(&["ca", "init", dir, "--algorithm", "dsa"]).exits(2).complains(&["ed25519"]);
    certmount(&["ca", "init"]).exits(2).complains(&["<DIR>"]);
}

#[test]
fn check_of_no_folder_says_so() {
    certmount(&["check"]).exits(2).complains(&["<DIR>"]);
    certmount(&["check", "/nowhere/at/all"]).exits(1).complains(&["is not a folder"]);
}
