//! A real API server with etcd, and cert-manager's controller where somebody wants it. No kubelet:
//! that is played. The tests and the benchmark use it.

#![allow(dead_code, unreachable_pub, reason = "a part of a test and of the benchmark")]

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use certmount::x509::{KeyAlgorithm, KeyEncoding, PrivateKey};
use serde_json::Value;
use tempfile::TempDir;

use crate::common::output_with;

/// Longer than anything takes on the slowest machine.
const PATIENCE: Duration = Duration::from_secs(90);

/// The servers, which end with it.
pub struct Api {
    folder: TempDir,
    /// By what their logs are called, in the order in which they were started.
    processes: Vec<(&'static str, Child)>,
}

/// The driver, as the API server knows it.
const DRIVER: &str = "system:serviceaccount:certmount-system:certmount";

impl Api {
    /// A server with our CRDs and cert-manager's, the namespaces `certmount-system` and `shop`, and
    /// a driver that may do what the chart lets it.
    pub fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut api = Self { folder, processes: Vec::new() };
        let [clients, peers, port] = free_ports();
        let (admin, driver) = ("admin-token", "driver-token");
        api.write(
            "tokens.csv",
            &format!(
                "{admin},admin,admin,system:masters\n\
                 {driver},{DRIVER},driver,system:serviceaccounts\n"
            ),
        );
        api.write(
            "audit.yaml",
            &format!(
                "apiVersion: audit.k8s.io/v1\nkind: Policy\nomitStages: [RequestReceived]\nrules:\n\
                 - {{level: Metadata, users: ['{DRIVER}']}}\n- {{level: None}}\n"
            ),
        );
        // It signs tokens with it that nobody asks for.
        let key = PrivateKey::generate(KeyAlgorithm::Rsa2048).unwrap();
        let key = key.to_pem(KeyEncoding::Pkcs1).unwrap();
        api.write("service-accounts.key", std::str::from_utf8(key.as_bytes()).unwrap());
        for (file, token) in [("admin", admin), ("driver", driver)] {
            api.write(file, &kubeconfig(port, &api.path("apiserver.crt"), token));
        }

        let (clients, peers) =
            (format!("http://127.0.0.1:{clients}"), format!("http://127.0.0.1:{peers}"));
        let data = api.path("etcd").display().to_string();
        api.spawn(
            "etcd",
            Path::new("etcd"),
            &[
                "--data-dir",
                &data,
                "--unsafe-no-fsync",
                "--listen-client-urls",
                &clients,
                "--advertise-client-urls",
                &clients,
                "--listen-peer-urls",
                &peers,
                "--initial-advertise-peer-urls",
                &peers,
                "--initial-cluster",
                &format!("default={peers}"),
            ],
        );
        let key = api.path("service-accounts.key").display().to_string();
        api.spawn(
            "apiserver",
            &program("kube-apiserver"),
            &[
                &format!("--etcd-servers={clients}"),
                "--bind-address=127.0.0.1",
                &format!("--secure-port={port}"),
                &format!("--cert-dir={}", api.folder.path().display()),
                &format!("--token-auth-file={}", api.path("tokens.csv").display()),
                "--authorization-mode=RBAC",
                "--service-account-issuer=https://kubernetes.default.svc",
                &format!("--service-account-key-file={key}"),
                &format!("--service-account-signing-key-file={key}"),
                "--service-cluster-ip-range=10.96.0.0/16",
                "--feature-gates=ClusterTrustBundle=true",
                "--runtime-config=certificates.k8s.io/v1beta1/clustertrustbundles=true",
                &format!("--audit-policy-file={}", api.path("audit.yaml").display()),
                &format!("--audit-log-path={}", api.path(AUDIT_LOG).display()),
                // Nobody makes service accounts here.
                "--disable-admission-plugins=ServiceAccount",
            ],
        );
        api.wait("the API server is ready", || {
            api.try_kubectl(&["get", "--raw=/readyz"], "").is_ok()
        });

        for namespace in ["certmount-system", "shop"] {
            api.kubectl(&["create", "namespace", namespace]);
        }
        let crds = Command::new(env!("CARGO_BIN_EXE_certmount")).arg("crds").output().unwrap();
        api.apply(std::str::from_utf8(&crds.stdout).unwrap());
        api.apply(&cert_manager_crds());
        api.apply(&rights());
        api.kubectl(&["wait", "--for=condition=Established", "crd", "--all", "--timeout=60s"]);
        api
    }

    /// Starts cert-manager's controller.
    pub fn start_cert_manager(&mut self) {
        self.start_cert_manager_with(&[]);
    }

    /// The same with more arguments.
    pub fn start_cert_manager_with(&mut self, more: &[&str]) {
        let kubeconfig = format!("--kubeconfig={}", self.path("admin").display());
        let arguments = [
            kubeconfig.as_str(),
            "--leader-elect=false",
            "--metrics-listen-address=127.0.0.1:0",
            "--controllers=issuers,clusterissuers,certificaterequests-approver,\
             certificaterequests-issuer-ca,certificaterequests-issuer-selfsigned",
        ];
        self.spawn("cert-manager", &program("controller"), &[&arguments, more].concat());
    }

    /// How often the driver has done what to which kind of object, such as `create events`.
    pub fn driver_calls(&self) -> BTreeMap<String, usize> {
        let mut calls = BTreeMap::new();
        let log = fs::read_to_string(self.path(AUDIT_LOG)).unwrap_or_default();
        // The last line may not be whole yet.
        for entry in log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()) {
            let verb = entry["verb"].as_str().unwrap_or_default();
            let resource = entry["objectRef"]["resource"].as_str().unwrap_or_default();
            // A watch is there twice, when it begins and when it ends.
            if verb != "watch" || entry["stage"] == "ResponseStarted" {
                *calls.entry(format!("{verb} {resource}")).or_default() += 1;
            }
        }
        calls
    }

    /// Starts the part of kube-controller-manager that signs, with a CA of its own.
    pub fn start_signers(&mut self) {
        let [certificate, key] = ["signer.crt", "signer.key"].map(|name| self.path(name));
        let made = Command::new("openssl")
            .args([
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:P-256",
                "-nodes",
            ])
            .args(["-subj", "/CN=signer", "-days", "1", "-keyout"])
            .args([&key, Path::new("-out"), &certificate])
            .output()
            .unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        self.spawn(
            "controller-manager",
            &program("kube-controller-manager"),
            &[
                &format!("--kubeconfig={}", self.path("admin").display()),
                "--leader-elect=false",
                "--secure-port=0",
                "--controllers=certificatesigningrequest-signing-controller",
                &format!("--cluster-signing-cert-file={}", certificate.display()),
                &format!("--cluster-signing-key-file={}", key.display()),
            ],
        );
    }

    /// Kills one of the servers.
    pub fn stop(&mut self, name: &str) {
        let at = self.processes.iter().position(|(running, _)| *running == name).unwrap();
        let (_, mut process) = self.processes.remove(at);
        process.kill().unwrap();
        process.wait().unwrap();
    }

    /// The kubeconfig of the driver.
    pub fn driver(&self) -> PathBuf {
        self.path("driver")
    }

    /// A path in a folder that is this server's alone.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// What kubectl prints, as the administrator.
    pub fn kubectl(&self, arguments: &[&str]) -> String {
        self.try_kubectl(arguments, "").unwrap_or_else(|error| panic!("{arguments:?}: {error}"))
    }

    /// What kubectl prints, or how it complains, with `input` to read.
    pub fn try_kubectl(&self, arguments: &[&str], input: &str) -> Result<String, String> {
        self.kubectl_as("admin", arguments, input)
    }

    /// The same as `admin` or `driver`.
    pub fn kubectl_as(&self, who: &str, arguments: &[&str], input: &str) -> Result<String, String> {
        let mut kubectl = Command::new(program("kubectl"));
        kubectl
            .arg("--kubeconfig")
            .arg(self.path(who))
            .args(arguments)
            // Else it keeps what kinds there are in the home folder.
            .env("HOME", self.folder.path());
        let output = output_with(&mut kubectl, input);
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
    }

    /// Applies `objects` as a person does.
    pub fn apply(&self, objects: &str) {
        self.try_kubectl(&["apply", "--server-side", "-f", "-"], objects).unwrap();
    }

    /// The objects of a kind in the namespace `shop`, oldest first.
    pub fn objects(&self, kind: &str) -> Vec<Value> {
        let arguments = ["get", kind, "-n", "shop", "-o", "json"];
        let list: Value = serde_json::from_str(&self.kubectl(&arguments)).unwrap();
        let mut items = list["items"].as_array().unwrap().clone();
        let made = |item: &Value| item["metadata"]["creationTimestamp"].to_string();
        items.sort_by_key(made);
        items
    }

    /// The reasons and messages of the Events about a pod in `shop`, oldest first.
    pub fn events(&self, pod: &str) -> Vec<(String, String)> {
        let text = |event: &Value, field: &str| event[field].as_str().unwrap().to_owned();
        let events = self.objects("events").into_iter();
        let of_pod = events.filter(|event| event["involvedObject"]["name"] == pod);
        of_pod.map(|event| (text(&event, "reason"), text(&event, "message"))).collect()
    }

    /// Returns when `fact` holds.
    pub fn wait(&self, what: &str, mut fact: impl FnMut() -> bool) {
        let began = Instant::now();
        while !fact() {
            assert!(began.elapsed() < PATIENCE, "{what}: not in time\n{}", self.logs());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// The last lines of each server's log.
    fn logs(&self) -> String {
        let mut logs = String::new();
        for entry in fs::read_dir(self.folder.path()).unwrap().flatten() {
            if entry.path().extension().is_some_and(|extension| extension == "log") {
                let log = fs::read_to_string(entry.path()).unwrap_or_default();
                let lines: Vec<_> = log.lines().collect();
                let last = &lines[lines.len().saturating_sub(15)..];
                logs += &format!("== {}\n{}\n", entry.path().display(), last.join("\n"));
            }
        }
        logs
    }

    fn spawn(&mut self, name: &'static str, program: &Path, arguments: &[&str]) {
        let log = File::create(self.path(&format!("{name}.log"))).unwrap();
        let errors = log.try_clone().unwrap();
        let process = Command::new(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors)
            .spawn();
        let process = process.unwrap_or_else(|error| {
            panic!("{}: {error}; see tests/cluster/cluster install and build", program.display())
        });
        self.processes.push((name, process));
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }
}

impl Drop for Api {
    fn drop(&mut self) {
        for (_, process) in self.processes.iter_mut().rev() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

/// What the driver has asked of the API server.
const AUDIT_LOG: &str = "audit";

/// A program that `tests/cluster/cluster build` has built.
pub fn program(name: &str) -> PathBuf {
    let cache = std::env::var_os("CERTMOUNT_CLUSTER_CACHE").map(PathBuf::from);
    let home = || PathBuf::from(std::env::var_os("HOME").expect("there is a home folder"));
    cache.unwrap_or_else(|| home().join(".cache/certmount-cluster")).join("bin").join(name)
}

/// What the chart lets the driver do, with all that the tests want of it.
fn rights() -> String {
    let rendered = Command::new(program("helm"))
        .args(["template", "certmount", concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/chart")])
        .args(["--namespace", "certmount-system", "--kube-version", "v1.36.0"])
        .args(["--show-only", "templates/rbac.yaml"])
        .args(["--set", "issuers.secrets={root}", "--set", "issuers.kubernetesSigners=true"])
        .args(["--set", "trust.configMaps={roots}"])
        .output()
        .unwrap();
    assert!(rendered.status.success(), "{}", String::from_utf8_lossy(&rendered.stderr));
    String::from_utf8(rendered.stdout).unwrap()
}

/// cert-manager's own, from the module that its controller is built from.
fn cert_manager_crds() -> String {
    let module = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cluster/programs/cert-manager");
    let found = Command::new("go")
        .args(["list", "-m", "-f", "{{.Dir}}", "github.com/cert-manager/cert-manager"])
        .current_dir(module)
        .output()
        .unwrap();
    let folder = String::from_utf8(found.stdout).unwrap();
    let mut crds = String::new();
    for kind in ["certificaterequests", "clusterissuers", "issuers"] {
        let file = Path::new(folder.trim()).join(format!("deploy/crds/crd-{kind}.yaml"));
        let text = fs::read_to_string(&file).unwrap_or_else(|error| {
            panic!("{}: {error}; see tests/cluster/cluster build cert-manager", file.display())
        });
        // Labels are left to helm.
        let lines = text.lines().filter(|line| !line.contains("{{"));
        crds += &lines.collect::<Vec<_>>().join("\n");
        crds += "\n---\n";
    }
    crds
}

fn kubeconfig(port: u16, certificate: &Path, token: &str) -> String {
    format!(
        "apiVersion: v1
kind: Config
clusters:
  - name: test
    cluster: {{server: 'https://127.0.0.1:{port}', certificate-authority: {}}}
users:
  - name: user
    user: {{token: {token}}}
contexts:
  - name: test
    context: {{cluster: test, user: user, namespace: certmount-system}}
current-context: test
",
        certificate.display()
    )
}

/// Nobody else takes them in the next moments, most likely.
fn free_ports<const N: usize>() -> [u16; N] {
    let listeners = [(); N].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    listeners.map(|listener| listener.local_addr().unwrap().port())
}
