//! The cluster as the tests see it: kubectl, pods with a volume, and the node's own state.

use std::fmt::Debug;
use std::fs::File;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns};
use serde_json::{Value, json};

use crate::certificate::{Certificate, root_ca};
use crate::common::output_with;

/// The driver's namespace, where `tests/cluster/run` installs the chart.
pub(crate) const DRIVER_NAMESPACE: &str = "certmount-system";
/// The node's address, for itself and for pods.
pub(crate) const NODE: &str = "10.77.0.1";
const DAEMON_SET: &str = "daemonset/certmount";
/// The drivers, by what pods write as `csi.driver`.
const DRIVER: &str = "csi.certmount.dev";
const DROP_IN: &str = "csi.cert-manager.io";
/// Longer than anything takes that goes well on a slow machine, kubelet's waits between two tries
/// included: they grow up to two minutes.
const PATIENCE: Duration = Duration::from_secs(240);
/// Attributes by which a certificate is renewed every 10 s, long before it ends.
pub(crate) const RENEWED_SOON: [(&str, &str); 2] = [("duration", "30s"), ("renew-before", "20s")];
/// The patience for kubectl.
pub(crate) const PATIENTLY: &str = "--timeout=240s";

/// Runs `tests/cluster/cluster` with `args`.
///
/// # Panics
///
/// When it fails, with what it says.
pub(crate) fn cluster(args: &[&str]) -> String {
    succeed(args, run(args, ""))
}

/// Runs kubectl as the administrator.
///
/// # Panics
///
/// When it fails, with what it says.
pub(crate) fn kubectl(args: &[&str]) -> String {
    cluster(&[&["exec", "kubectl"], args].concat())
}

/// The same, or what kubectl says when it fails.
pub(crate) fn try_kubectl(args: &[&str]) -> Result<String, String> {
    let output = run(&[&["exec", "kubectl"], args].concat(), "");
    if output.status.success() { Ok(text(&output)) } else { Err(text(&output)) }
}

/// Applies a manifest.
///
/// # Panics
///
/// When that fails, with what kubectl says.
pub(crate) fn apply(manifest: &str, flags: &[&str]) {
    let args = [&["exec", "kubectl", "apply", "-f", "-"], flags].concat();
    succeed(&args, run(&args, manifest));
}

/// Moves this thread, and what it starts from now on, into the node's network.
pub(crate) fn enter_network() {
    let process = cluster(&["machine"]);
    let network = File::open(format!("/proc/{}/ns/net", process.trim())).unwrap();
    setns(network, CloneFlags::CLONE_NEWNET).unwrap();
}

/// What `look` sees in the end.
///
/// # Panics
///
/// When it sees nothing for too long.
pub(crate) fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(seen) = look() {
            return seen;
        }
        assert!(start.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// The pod of the driver, once there is one that is ready and no other.
pub(crate) fn driver_pod() -> String {
    kubectl(&["-n", DRIVER_NAMESPACE, "rollout", "status", DAEMON_SET, PATIENTLY]);
    eventually("there is one pod of the driver", || {
        let pods = kubectl(&["-n", DRIVER_NAMESPACE, "get", "pods", "-o", "name"]);
        let mut pods = pods.lines();
        Some(pods.next()?.to_owned()).filter(|_| pods.next().is_none())
    })
}

/// A daemon of the cluster that is stopped, until this is dropped.
#[derive(Debug)]
pub(crate) struct Stopped(&'static str);

impl Stopped {
    /// Ends it at once. What takes its time to end is no outage.
    pub(crate) fn now(daemon: &'static str) -> Self {
        cluster(&["stop", daemon, "KILL"]);
        Self(daemon)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        run(&["start", self.0], "");
    }
}

/// The id of the driver's container.
pub(crate) fn driver_container() -> String {
    let container = "jsonpath={.items[0].status.containerStatuses[0].containerID}";
    let id = kubectl(&["-n", DRIVER_NAMESPACE, "get", "pods", "-o", container]);
    id.strip_prefix("containerd://").unwrap().to_owned()
}

/// A namespace that is deleted with all in it after it was dropped. When the test fails, it first prints
/// what there is to know.
#[derive(Debug)]
pub(crate) struct Namespace {
    name: String,
    /// Whether it stays.
    stays: bool,
}

impl Namespace {
    /// A new one named after the test.
    pub(crate) fn new() -> Self {
        let thread = std::thread::current();
        let test = thread.name().unwrap().rsplit("::").next().unwrap();
        let name: String = test.replace('_', "-").chars().take(50).collect();
        Self::called(&name)
    }

    /// A new one of this name, when what is left of another is gone.
    pub(crate) fn called(name: &str) -> Self {
        kubectl(&["delete", "namespace", name, "--ignore-not-found", PATIENTLY]);
        kubectl(&["create", "namespace", name]);
        kubectl(&["-n", name, "wait", "--for=create", "serviceaccount/default", PATIENTLY]);
        Self { name: name.to_owned(), stays: false }
    }

    /// One that is there already, and stays.
    pub(crate) fn existing(name: &str) -> Self {
        Self { name: name.to_owned(), stays: true }
    }

    /// Its name.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// kubectl in this namespace.
    pub(crate) fn kubectl(&self, args: &[&str]) -> String {
        kubectl(&[&["-n", &self.name], args].concat())
    }

    /// Creates a pod with a volume of these attributes on `/tls`, and waits until it runs.
    pub(crate) fn start_pod(&self, name: &str, attributes: &[(&str, &str)]) -> Pod<'_> {
        let pod = self.create_pod(name, attributes, &json!({}));
        pod.wait("Ready");
        pod
    }

    /// Creates a pod with a volume of these attributes on `/tls`. `spec` is merged into the pod's.
    pub(crate) fn create_pod(
        &self,
        name: &str,
        attributes: &[(&str, &str)],
        spec: &Value,
    ) -> Pod<'_> {
        let mut pod = self.pod(name, attributes);
        merge(&mut pod["spec"], spec);
        self.create_whole_pod(&pod)
    }

    /// Creates a pod as it is.
    pub(crate) fn create_whole_pod(&self, pod: &Value) -> Pod<'_> {
        self.create(pod);
        Pod { namespace: self, name: pod["metadata"]["name"].as_str().unwrap().to_owned() }
    }

    /// A pod with a volume of these attributes on `/tls`, not created yet. Attributes get our prefix
    /// unless they have one; with that of cert-manager's csi-driver the pod names that driver.
    pub(crate) fn pod(&self, name: &str, attributes: &[(&str, &str)]) -> Value {
        let written_for_another = attributes.iter().any(|(name, _)| name.starts_with(DROP_IN));
        let mut attributes: serde_json::Map<_, _> = attributes
            .iter()
            .map(|(name, value)| match name.contains('/') {
                true => ((*name).to_owned(), json!(value)),
                false => (format!("certmount.dev/{name}"), json!(value)),
            })
            .collect();
        let mut driver = DROP_IN;
        if !written_for_another {
            driver = DRIVER;
            attributes.entry("certmount.dev/issuer-kind").or_insert(json!("ClusterIssuer"));
            attributes.entry("certmount.dev/issuer-name").or_insert(json!("cluster-ca"));
        }
        json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "labels": {"app": name}},
            "spec": {
                "terminationGracePeriodSeconds": 1,
                // Its volume would have events of its own.
                "automountServiceAccountToken": false,
                "containers": [{
                    "name": "app",
                    "image": "localhost/busybox:test",
                    "imagePullPolicy": "Never",
                    "volumeMounts": [{"name": "tls", "mountPath": "/tls", "readOnly": true}],
                }],
                "volumes": [{
                    "name": "tls",
                    "csi": {
                        "driver": driver,
                        "readOnly": true,
                        "volumeAttributes": attributes,
                    },
                }],
            },
        })
    }

    /// Gives cert-manager a CA of this namespace, as its Issuer `ca`.
    pub(crate) fn cert_manager_ca(&self) {
        let (certificate, key) = root_ca();
        self.create(&json!({
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": "ca"},
            "stringData": {"tls.crt": certificate, "tls.key": key},
        }));
        self.create(&json!({
            "apiVersion": "cert-manager.io/v1",
            "kind": "Issuer",
            "metadata": {"name": "ca"},
            "spec": {"ca": {"secretName": "ca"}},
        }));
    }

    /// The objects of a kind, oldest first.
    pub(crate) fn objects(&self, kind: &str) -> Vec<Value> {
        let sorted = "--sort-by=.metadata.creationTimestamp";
        let list = self.kubectl(&["get", kind, "-o", "json", sorted]);
        let mut list: Value = serde_json::from_str(&list).unwrap();
        list["items"].as_array_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Applies a manifest.
    pub(crate) fn apply(&self, manifest: &str, flags: &[&str]) {
        apply(manifest, &[&["-n", &self.name], flags].concat());
    }

    /// Creates an object.
    pub(crate) fn create(&self, object: &Value) {
        let args = ["exec", "kubectl", "-n", &self.name, "create", "-f", "-"];
        succeed(args, run(&args, &object.to_string()));
    }
}

#[allow(clippy::print_stderr, reason = "the test's own output")]
impl Drop for Namespace {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for args in [
                &["-n", &self.name, "get", "pods,events", "-o", "wide"][..],
                &["-n", DRIVER_NAMESPACE, "get", "pods", "-o", "wide"],
                &["-n", DRIVER_NAMESPACE, "logs", DAEMON_SET, "--tail=50"],
            ] {
                let output = run(&[&["exec", "kubectl"], args].concat(), "");
                eprintln!("{args:?}:\n{}", text(&output));
            }
        }
        if self.stays {
            return;
        }
        // Whatever comes of it: a panic here would hide the one that matters.
        run(&["exec", "kubectl", "delete", "namespace", &self.name, "--wait=false"], "");
    }
}

/// A pod with a volume on `/tls`.
#[derive(Debug)]
pub(crate) struct Pod<'a> {
    namespace: &'a Namespace,
    name: String,
}

impl Pod<'_> {
    /// Waits for one of its conditions.
    pub(crate) fn wait(&self, condition: &str) {
        let pod = format!("pod/{}", self.name);
        let condition = format!("--for=condition={condition}");
        self.namespace.kubectl(&["wait", &condition, &pod, PATIENTLY]);
    }

    /// A field by its JSONPath, such as `.metadata.uid`.
    pub(crate) fn field(&self, path: &str) -> String {
        let path = format!("jsonpath={{{path}}}");
        self.namespace.kubectl(&["get", "pod", &self.name, "-o", &path])
    }

    /// Its uid, as in the paths of its volumes.
    pub(crate) fn uid(&self) -> String {
        self.field(".metadata.uid")
    }

    /// What a command in its container prints.
    pub(crate) fn exec(&self, command: &[&str]) -> String {
        self.namespace.kubectl(&[&["exec", &self.name, "--"], command].concat())
    }

    /// A file of its volume.
    pub(crate) fn read(&self, file: &str) -> String {
        self.exec(&["cat", &format!("/tls/{file}")])
    }

    /// The leaf in the volume, once `openssl` has verified it and its key.
    pub(crate) fn certificate(&self) -> Certificate {
        Certificate::verified(&self.bundle())
    }

    /// The leaf in the volume, which may have expired.
    pub(crate) fn certificate_at_hand(&self) -> Certificate {
        Certificate::read(&self.bundle())
    }

    /// The leaf in the volume, once `openssl` has verified it below these trust anchors.
    pub(crate) fn certificate_below(&self, anchors: &str) -> Certificate {
        let bundle = self.exec(&["sh", "-c", "cd -P /tls/..data && cat tls.crt tls.key"]);
        Certificate::verified(&(bundle + anchors))
    }

    /// The next leaf after `old`, verified.
    pub(crate) fn renewed(&self, old: &Certificate) -> Certificate {
        eventually("the certificate is renewed", || {
            let bundle = self.bundle();
            let is_new = Certificate::read(&bundle).serial != old.serial;
            is_new.then(|| Certificate::verified(&bundle))
        })
    }

    /// The contents of `tls.crt`, `tls.key` and `ca.crt`, all of one renewal.
    fn bundle(&self) -> String {
        let name = &self.name;
        let read =
            ["exec", name, "--", "sh", "-c", "cd -P /tls/..data && cat tls.crt tls.key ca.crt"];
        let read = [&["-n", self.namespace.name()], &read[..]].concat();
        // A renewal in between takes the folder away.
        try_kubectl(&read).or_else(|_| try_kubectl(&read)).unwrap()
    }

    /// The messages of its events with this reason.
    pub(crate) fn events(&self, reason: &str) -> Vec<String> {
        let selector =
            format!("--field-selector=involvedObject.name={},reason={reason}", self.name);
        let output = "jsonpath={range .items[*]}{.message}{'\\n'}{end}";
        let events = self.namespace.kubectl(&["get", "events", &selector, "-o", output]);
        events.lines().map(str::to_owned).collect()
    }

    /// Waits for an event with this reason that says `words`.
    pub(crate) fn told(&self, reason: &str, words: &str) {
        eventually(&format!("an event {reason} says {words:?}"), || {
            self.events(reason).iter().any(|message| message.contains(words)).then_some(())
        });
    }

    /// Deletes it, and waits until kubelet says that it is gone with all its volumes.
    pub(crate) fn delete(&self) {
        self.namespace.kubectl(&["delete", "pod", &self.name, "--ignore-not-found", PATIENTLY]);
    }
}

/// The volume on `/tls` of a pod as its node has it, also while there is no API server.
#[derive(Clone, Debug)]
pub(crate) struct VolumeOnNode(PathBuf);

impl VolumeOnNode {
    /// That of the pod with this uid, until the node is rebooted.
    pub(crate) fn of(uid: &str) -> Self {
        let machine = cluster(&["machine"]);
        let pods = format!("/proc/{}/root/var/lib/kubelet/pods", machine.trim());
        Self(PathBuf::from(format!("{pods}/{uid}/volumes/kubernetes.io~csi/tls/mount")))
    }

    /// The contents of `file`.
    pub(crate) fn read(&self, file: &str) -> String {
        self.files([file])
    }

    /// The leaf, which may have expired.
    pub(crate) fn certificate(&self) -> Certificate {
        Certificate::read(&self.files(["tls.crt", "tls.key", "ca.crt"]))
    }

    /// The contents of `files`, all of one renewal.
    fn files<const COUNT: usize>(&self, files: [&str; COUNT]) -> String {
        let read = || {
            let folder = self.0.join(std::fs::read_link(self.0.join("..data"))?);
            let contents = files.map(|file| std::fs::read_to_string(folder.join(file)));
            contents.into_iter().collect::<std::io::Result<String>>()
        };
        // A renewal in between takes the folder away.
        read().or_else(|_| read()).unwrap()
    }
}

/// What there is on the node of volumes of ours: mounts and folders.
pub(crate) fn volumes_on_node() -> Vec<String> {
    let mounts = cluster(&["exec", "findmnt", "--noheadings", "--list", "--output=TARGET"]);
    let folders = cluster(&[
        "exec",
        "find",
        "/run/certmount",
        "/run/drop-in",
        "-maxdepth",
        "1",
        "-name",
        "csi-*",
    ]);
    let targets = ["find", "/var/lib/kubelet/pods", "-ignore_readdir_race", "-mindepth", "4"];
    let named = ["-maxdepth", "4", "-path", "*/volumes/kubernetes.io~csi/*"];
    let targets = cluster(&[&["exec"], &targets[..], &named].concat());
    let ours = mounts.lines().filter(|mount| {
        mount.contains("/kubernetes.io~csi/")
            || mount.starts_with("/run/certmount/csi-")
            || mount.starts_with("/run/drop-in/csi-")
    });
    ours.chain(folders.lines()).chain(targets.lines()).map(str::to_owned).collect()
}

/// Waits until nothing is left of volumes of ours.
pub(crate) fn no_volumes_left() {
    let mut left = Vec::new();
    let start = Instant::now();
    while start.elapsed() < PATIENCE {
        left = volumes_on_node();
        if left.is_empty() {
            return;
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    panic!("left behind: {left:#?}");
}

/// Runs `tests/cluster/cluster` with `args` and something to read, whatever comes of it.
pub(crate) fn run(args: &[&str], input: &str) -> Output {
    let mut command = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cluster/cluster"));
    output_with(command.args(args), input)
}

fn succeed(args: impl Debug, output: Output) -> String {
    assert!(output.status.success(), "{args:?} failed:\n{}", text(&output));
    String::from_utf8(output.stdout).unwrap()
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned()
}

/// Puts `from` over `into`: objects and lists by their members, everything else as a whole.
fn merge(into: &mut Value, from: &Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (name, value) in from {
                merge(into.entry(name).or_insert(Value::Null), value);
            }
        }
        (Value::Array(into), Value::Array(from)) => {
            for (index, value) in from.iter().enumerate() {
                match into.get_mut(index) {
                    Some(member) => merge(member, value),
                    None => into.push(value.clone()),
                }
            }
        }
        (into, from) => *into = from.clone(),
    }
}
