//! What people and machines see of a running driver: metrics, health, `inspect`, logs, its end.

mod common;

use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use serde_json::Value;
use tonic::Code;

use common::{Plugin, SELF_SIGNED, inline_volume, namespaced_async};

fn certmount(args: &[&dyn AsRef<std::ffi::OsStr>]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_certmount"));
    command.args(args.iter().map(|arg| arg.as_ref())).output().expect("the binary runs")
}

/// What `certmount inspect` prints, which must go well.
fn inspect(args: &[&dyn AsRef<std::ffi::OsStr>]) -> String {
    let output = certmount(&[&[&"inspect" as &dyn AsRef<std::ffi::OsStr>], args].concat());
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "inspect failed: {error}");
    assert_eq!(error, "");
    String::from_utf8(output.stdout).expect("inspect prints text")
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error} in\n{text}"))
}

#[test]
fn metrics_follow_a_volume_and_forget_it() {
    namespaced_async(|| async {
        let plugin = Plugin::with_config(&[SELF_SIGNED]);
        let volume = inline_volume("web-0", "self-signed");
        plugin.kubelet().publish(&volume).await.unwrap();

        let (code, metrics) = plugin.get("/metrics");
        assert_eq!(code, 200);
        let listed = json(&plugin.get("/v1/volumes").1);
        let seconds = |field: &str| {
            let at: jiff::Timestamp = listed[0][field].as_str().unwrap().parse().unwrap();
            at.as_second()
        };
        let labels = format!(
            "{{namespace=\"shop\",pod=\"web-0\",volume_id=\"{}\",issuer_kind=\"ClusterIssuer\",\
             issuer_name=\"self-signed\"}}",
            volume.id()
        );
        for line in [
            "certmount_volumes{phase=\"ready\"} 1".to_owned(),
            format!(
                "certmount_volume_certificate_expiry_timestamp_seconds{labels} {}",
                seconds("notAfter")
            ),
            format!("certmount_volume_renewal_timestamp_seconds{labels} {}", seconds("renewAt")),
        ] {
            assert!(metrics.lines().any(|other| other == line), "{line} is not in\n{metrics}");
        }
        // The counters follow the reports, which are on their way.
        plugin.wait("the certificate is counted", || {
            let counted = "certmount_certificates_issued_total{issuer_group=\"certmount.dev\",\
                           issuer_kind=\"ClusterIssuer\",issuer_name=\"self-signed\",\
                           issuer_namespace=\"\",renewal=\"false\"} 1\n";
            plugin.get("/metrics").1.contains(counted)
        });

        plugin.kubelet().unpublish(&volume).await.unwrap();
        let (_, metrics) = plugin.get("/metrics");
        assert!(!metrics.contains("web-0"), "{metrics}");
        assert!(metrics.contains("certmount_volumes{phase=\"ready\"} 0\n"), "{metrics}");
    });
}

#[test]
fn an_issuer_is_ready_or_says_why_not() {
    let ca = "apiVersion: certmount.dev/v1alpha1
kind: ClusterIssuer
metadata: {name: ca}
spec: {ca: {secretName: root}}
";
    let unreachable = "apiVersion: certmount.dev/v1alpha1
kind: ClusterIssuer
metadata: {name: vault}
spec: {vault: {server: 'http://127.0.0.1:9', path: pki/sign/web, auth: {tokenSecretRef: {name: token, key: token}}}}
---
apiVersion: v1
kind: Secret
metadata: {name: token}
stringData: {token: s3cret}
";
    namespaced_async(|| async {
        let files = [SELF_SIGNED, ("ca.yaml", ca), ("vault.yaml", unreachable)];
        let plugin = Plugin::with_config(&files);
        let ready = |name: &str, value: u8| {
            let line = format!(
                "certmount_issuer_ready{{issuer_group=\"certmount.dev\",issuer_kind=\"ClusterIssuer\",\
                 issuer_name=\"{name}\",issuer_namespace=\"\"}} {value}\n"
            );
            plugin.get("/metrics").1.contains(&line)
        };
        assert!(ready("self-signed", 1) && ready("ca", 0) && ready("vault", 1));

        // Whether a server answers is known once somebody has asked it.
        let volume = inline_volume("web-0", "vault");
        plugin.kubelet().publish(&volume).await.unwrap_err();
        plugin.wait("the issuer is not ready", || ready("vault", 0));
        let table = inspect(&[&"--issuers", &"--socket", &plugin.admin_socket()]);
        for row in [
            "ClusterIssuer/ca           no     Config",
            "ClusterIssuer/self-signed  yes    -",
            "ClusterIssuer/vault        no     Unavailable",
            "\nClusterIssuer/ca: there is no Secret root",
        ] {
            assert!(table.contains(row), "{row} is not in\n{table}");
        }
        assert!(!table.contains("s3cret"), "{table}");
        plugin.kubelet().unpublish(&volume).await.unwrap();
        plugin.wait("nobody is left who knows", || ready("vault", 1));
    });
}

#[test]
fn failures_are_counted_and_shown() {
    namespaced_async(|| async {
        let plugin = Plugin::with_config(&[SELF_SIGNED]);
        let volume = inline_volume("web-0", "missing");
        let status = plugin.kubelet().publish(&volume).await.unwrap_err();
        assert_eq!(status.code(), Code::Unavailable, "{status}");

        plugin.wait("the failure is counted", || {
            let (_, metrics) = plugin.get("/metrics");
            let counted = metrics.lines().find(|line| line.starts_with("certmount_issue_failures"));
            counted.is_some_and(|line| {
                line.contains("issuer_name=\"missing\"") && line.contains("reason=\"Config\"")
            })
        });
        let table = inspect(&[&"--socket", &plugin.admin_socket()]);
        let (rows, errors) = table.split_once("\n\n").expect("errors stand below the table");
        assert!(rows.contains("shop/web-0") && rows.contains("waiting"), "{table}");
        assert!(errors.starts_with("shop/web-0: ") && errors.contains("missing"), "{table}");
        assert!(plugin.get("/metrics").1.contains("certmount_volumes{phase=\"waiting\"} 1\n"));
    });
}

#[test]
fn inspect_shows_the_same_volume_from_every_side() {
    namespaced_async(|| async {
        let mut plugin = Plugin::with_config(&[SELF_SIGNED]);
        let volume = inline_volume("web-0", "self-signed");
        let target = plugin.kubelet().publish(&volume).await.unwrap();
        let socket = plugin.admin_socket();

        let asked = json(&inspect(&[&"--socket", &socket, &"-o", &"json"]));
        let [only] = asked.as_array().unwrap().as_slice() else { panic!("{asked}") };
        assert_eq!(only["pod"]["name"], "web-0");
        assert_eq!(only["phase"], "ready");
        assert_eq!(only["names"], serde_json::json!(["dns:web.shop.svc"]));
        assert_eq!(only["targetPath"], target.to_str().unwrap());

        let table = inspect(&[&"--socket", &socket]);
        for part in ["POD", "shop/web-0", "ClusterIssuer/self-signed", "dns:web.shop.svc", "in "] {
            assert!(table.contains(part), "{part} is not in\n{table}");
        }
        let wide = inspect(&[&"--socket", &socket, &"-o", &"wide"]);
        assert!(wide.contains(&volume.id()) && wide.contains(target.to_str().unwrap()), "{wide}");

        // From files, beside the running driver, and of a driver that is no more.
        let from_files = |dir: &Path| json(&inspect(&[&"--dir", &dir, &"-o", &"json"]));
        assert_eq!(from_files(&plugin.data_root()), asked);
        assert_eq!(from_files(&plugin.data_root().join(volume.id())), asked);
        plugin.kill();
        assert_eq!(from_files(&plugin.data_root()), asked);

        // From inside a pod.
        let files = from_files(&target);
        let leaf = files.as_array().unwrap().iter().find(|file| file["file"] == "tls.crt").unwrap();
        assert_eq!(leaf["certificates"][0]["serialNumber"], only["serialNumber"]);
        assert_eq!(leaf["certificates"][0]["notAfter"], only["notAfter"]);
        let table = inspect(&[&"--dir", &target]);
        assert!(table.contains("tls.crt") && table.contains("dns:web.shop.svc"), "{table}");

        let output = certmount(&[&"inspect", &"--socket", &socket]);
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1));
        assert!(error.contains("certmount is not running"), "{error}");
    });
}

#[test]
fn inspect_watches_until_it_is_stopped() {
    use std::io::{BufRead as _, BufReader};
    namespaced_async(|| async {
        let plugin = Plugin::with_config(&[SELF_SIGNED]);
        let mut watching = Command::new(env!("CARGO_BIN_EXE_certmount"))
            .args(["inspect", "--watch", "-o", "json", "--socket"])
            .arg(plugin.admin_socket())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(watching.stdout.take().unwrap()).lines();
        let mut next = || json(&lines.next().expect("it goes on").unwrap());
        assert_eq!(next(), serde_json::json!([]));
        plugin.kubelet().publish(&inline_volume("web-0", "self-signed")).await.unwrap();
        assert_eq!(next()[0]["pod"]["name"], "web-0");
        watching.kill().unwrap();
        watching.wait().unwrap();
    });
}

#[test]
fn probes_answer_while_kubelet_has_not_registered() {
    namespaced_async(|| async {
        let registry = tempfile::tempdir().unwrap();
        let path = registry.path().to_str().unwrap();
        let plugin = Plugin::with_arguments(&[SELF_SIGNED], &["--plugin-registration-dir", path]);
        assert_eq!(plugin.get("/healthz"), (200, "ok\n".to_owned()));
        let reason = "not ready: kubelet has not registered the driver yet\n";
        plugin.wait("kubelet is all that is missing", || {
            plugin.get("/readyz") == (503, reason.to_owned())
        });

        let plugin = Plugin::with_config(&[SELF_SIGNED]);
        plugin.wait("the driver is ready", || plugin.get("/readyz") == (200, "ok\n".to_owned()));
    });
}

#[test]
fn the_network_sees_metrics_and_health_only() {
    namespaced_async(|| async {
        let args = ["--metrics-addr", "127.0.0.1:0", "--log-format", "json"];
        let plugin = Plugin::with_arguments(&[SELF_SIGNED], &args);
        plugin.wait("the driver is ready", || plugin.get("/readyz").0 == 200);
        let log = plugin.log();
        let address = log
            .lines()
            .map(json)
            .find_map(|line| line["address"].as_str().map(str::to_owned))
            .unwrap_or_else(|| panic!("no address in\n{log}"));
        assert!(get(&address, "/metrics").contains("# EOF\n"));
        assert!(get(&address, "/readyz").starts_with("HTTP/1.1 200"));
        assert!(get(&address, "/healthz").starts_with("HTTP/1.1 200"));
        assert!(get(&address, "/v1/volumes").starts_with("HTTP/1.1 404"));
    });
}

fn get(address: &str, path: &str) -> String {
    use std::io::{Read as _, Write as _};
    let mut stream = std::net::TcpStream::connect(address).expect("the driver listens");
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        .expect("the driver reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("the driver answers");
    answer
}

#[test]
fn each_log_line_is_json_with_the_facts_of_its_volume() {
    namespaced_async(|| async {
        let mut plugin = Plugin::with_arguments(&[SELF_SIGNED], &["--log-format", "json"]);
        let volume = inline_volume("web-0", "self-signed");
        plugin.kubelet().publish(&volume).await.unwrap();
        let serial = json(&plugin.get("/v1/volumes").1)[0]["serialNumber"].clone();
        plugin.kubelet().unpublish(&volume).await.unwrap();
        assert!(plugin.terminate().success());

        let log = plugin.log();
        let lines: Vec<_> = log.lines().map(json).collect();
        let line = |message: &str| {
            let found = lines.iter().find(|line| line["message"] == message);
            found.unwrap_or_else(|| panic!("no {message:?} in\n{log}"))
        };
        let issued = line("certificate issued");
        for (field, value) in [
            ("volume", volume.id().as_str()),
            ("pod", "web-0"),
            ("namespace", "shop"),
            ("issuer", "self-signed"),
            ("level", "INFO"),
        ] {
            assert_eq!(issued[field], value, "{field} in {issued}");
        }
        assert_eq!(issued["serial"], serial);
        assert!(issued["not_after"].is_string() && issued["renew_at"].is_string(), "{issued}");
        assert_eq!(line("volume removed")["pod"], "web-0");
    });
}

#[test]
fn a_driver_asked_to_end_leaves_its_volumes_and_the_next_takes_them_over() {
    namespaced_async(|| async {
        let mut plugin = Plugin::with_config(&[SELF_SIGNED]);
        let volume = inline_volume("web-0", "self-signed");
        let target = plugin.kubelet().publish(&volume).await.unwrap();
        // Waits for its issuer, and must not hold up the end.
        let waiting = inline_volume("web-1", "missing");
        plugin.kubelet().publish(&waiting).await.unwrap_err();
        let mounts = plugin.mounts();

        let begin = Instant::now();
        assert!(plugin.terminate().success());
        assert!(begin.elapsed() < Duration::from_secs(2), "it took {:?}", begin.elapsed());
        assert_eq!(plugin.mounts(), mounts);
        assert!(!plugin.admin_socket().exists());
        let before = std::fs::read(target.join("tls.crt")).unwrap();

        plugin.restart();
        assert_eq!(std::fs::read(target.join("tls.crt")).unwrap(), before);
        // Its task reads the files first.
        plugin.wait("the volume is taken over", || {
            let volumes = json(&plugin.get("/v1/volumes").1);
            volumes[0]["pod"]["name"] == "web-0" && volumes[0]["phase"] == "ready"
        });
        let log = plugin.log();
        assert!(log.contains("volumes taken over"), "{log}");
    });
}

#[test]
fn a_second_driver_on_the_same_data_root_refuses_to_start() {
    namespaced_async(|| async {
        let plugin = Plugin::with_config(&[SELF_SIGNED]);
        let other = plugin.path("other.sock");
        let output = certmount(&[
            &"node",
            &"--node-id=n",
            &"--endpoint",
            &other,
            &"--config-dir",
            &plugin.path("config"),
            &"--data-root",
            &plugin.data_root(),
        ]);
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{error}");
        assert!(error.contains("another certmount uses it"), "{error}");
        // The first one goes on as if nothing had been.
        plugin.kubelet().publish(&inline_volume("web-0", "self-signed")).await.unwrap();
        inspect(&[&"--socket", &plugin.admin_socket()]);
    });
}

#[test]
fn a_driver_without_the_right_to_mount_says_what_to_do() {
    // Whoever runs the tests, nobody else's capabilities are at hand without a namespace.
    namespaced_async(|| async {
        let folder = tempfile::tempdir().unwrap();
        let program = env!("CARGO_BIN_EXE_certmount");
        let output = Command::new("setpriv")
            .args(["--bounding-set", "-sys_admin", "--inh-caps", "-all", "--ambient-caps", "-all"])
            .args([program, "node", "--node-id=n", "--endpoint=/x.sock", "--config-dir=/"])
            .arg("--data-root")
            .arg(folder.path())
            .output()
            .unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{error}");
        assert!(error.contains("lacks CAP_SYS_ADMIN"), "{error}");
    });
}
