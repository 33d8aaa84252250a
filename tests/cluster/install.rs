//! Installing with what is in `deploy/`, as the chart's users and those without helm do it.

use std::io::Write as _;

use serde_json::json;

use crate::kubernetes::{
    DRIVER_NAMESPACE, Namespace, cluster, driver_container, driver_pod, eventually, kubectl,
    no_volumes_left, run, try_kubectl,
};

/// The API server drops a field that it does not know; here it must know each.
#[test]
fn the_manifests_are_valid_to_the_letter() {
    let manifests = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/manifests.yaml");
    let definitions = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/chart/crds");
    let files = ["-f", definitions, "-f", manifests];
    kubectl(&[&["apply", "--dry-run=server", "--validate=strict"], &files[..]].concat());
}

#[test]
fn the_driver_shows_what_it_does() {
    let pod = driver_pod();
    let exec = ["-n", DRIVER_NAMESPACE, "exec", &pod, "--", "/certmount"];
    kubectl(&[&exec[..], &["inspect"]].concat());
    let pod = pod.strip_prefix("pod/").unwrap();
    let metrics = format!("/api/v1/namespaces/{DRIVER_NAMESPACE}/pods/{pod}:9402/proxy/metrics");
    for metric in ["certmount_volumes{phase=\"ready\"}", "certmount_config_problems 0"] {
        eventually(&format!("{metric} is in the metrics"), || {
            kubectl(&["get", "--raw", &metrics]).contains(metric).then_some(())
        });
    }
}

/// A container that mounts for its node gets every right from Kubernetes; the driver gives up what
/// it does not need.
#[test]
fn the_driver_keeps_few_rights() {
    let id = driver_container();
    let tasks = cluster(&["exec", "ctr", "tasks", "ls"]);
    let process = tasks.lines().find(|task| task.starts_with(&id)).unwrap();
    let process = process.split_whitespace().nth(1).unwrap();
    let rights = format!("grep -h -e ^CapEff -e ^CapPrm /proc/{process}/task/*/status | sort -u");
    // CAP_CHOWN, CAP_DAC_OVERRIDE, CAP_FOWNER and CAP_SYS_ADMIN.
    let expected = "CapEff:\t000000000020000b\nCapPrm:\t000000000020000b\n";
    assert_eq!(cluster(&["exec", "sh", "-c", &rights]), expected);
}

/// What the driver needs, and not what a stolen token of it could be used for.
#[test]
fn the_driver_may_read_no_secret_but_those_of_its_issuers() {
    let driver = format!("--as=system:serviceaccount:{DRIVER_NAMESPACE}:certmount");
    let may = |verb: &str, what: &str, namespace: &str| {
        try_kubectl(&["auth", "can-i", verb, what, "-n", namespace, &driver]).is_ok()
    };
    for (verb, what, namespace) in [
        ("watch", "clusterissuers.certmount.dev", "default"),
        ("watch", "secrets/cluster-ca", DRIVER_NAMESPACE),
        ("watch", "secrets", "namespaced-issuers"),
        ("create", "certificaterequests.cert-manager.io", "default"),
        ("create", "events", "default"),
    ] {
        assert!(may(verb, what, namespace), "{verb} {what} in {namespace}");
    }
    for (verb, what, namespace) in [
        ("list", "secrets", DRIVER_NAMESPACE),
        ("watch", "secrets/other", DRIVER_NAMESPACE),
        ("get", "secrets", "default"),
        ("create", "certificatesigningrequests.certificates.k8s.io", "default"),
        ("update", "certificaterequests.cert-manager.io/status", "default"),
        ("approve", "signers.cert-manager.io", "default"),
        ("impersonate", "users", "default"),
        ("create", "serviceaccounts/token", "default"),
        ("list", "pods", "default"),
    ] {
        assert!(!may(verb, what, namespace), "{verb} {what} in {namespace}");
    }
}

#[test]
fn issuers_of_a_namespace_are_served_where_that_is_allowed() {
    let issuer = json!({
        "apiVersion": "certmount.dev/v1alpha1",
        "kind": "Issuer",
        "metadata": {"name": "self-signed"},
        "spec": {"selfSigned": {}},
    });
    let attributes = [
        ("issuer-kind", "Issuer"),
        ("issuer-name", "self-signed"),
        ("dns-names", "web.${POD_NAMESPACE}.svc"),
    ];
    let allowed = Namespace::existing("namespaced-issuers");
    allowed.apply(&issuer.to_string(), &[]);
    allowed.start_pod("web", &attributes).delete();

    let other = Namespace::new();
    other.create(&issuer);
    let pod = other.create_pod("web", &attributes, &json!({}));
    pod.told("FailedMount", "self-signed");
    pod.delete();
    no_volumes_left();
}

/// New nodes have the taint until kubelet knows the driver.
#[test]
fn pods_stay_off_a_node_until_it_has_the_driver() {
    let namespace = Namespace::new();
    let taint = "certmount.dev/not-ready";
    kubectl(&["taint", "node", "node1", &format!("{taint}=:NoSchedule")]);
    let pod = namespace.create_pod("web", &[("dns-names", "web.${POD_NAMESPACE}.svc")], &json!({}));
    pod.told("FailedScheduling", "untolerated taint");
    kubectl(&["-n", DRIVER_NAMESPACE, "rollout", "restart", "daemonset/certmount"]);
    pod.wait("Ready");
    assert_eq!(pod.events("FailedMount"), [] as [&str; 0]);
    let taints = kubectl(&["get", "node", "node1", "-o", "jsonpath={.spec.taints[*].key}"]);
    assert!(!taints.contains(taint), "{taints}");
    driver_pod();
}

/// The right to change nodes is the right to do harm: hence a policy beside it.
#[test]
fn the_driver_may_do_nothing_else_to_nodes() {
    let driver = format!("--as=system:serviceaccount:{DRIVER_NAMESPACE}:certmount");
    let of = |node: &str| format!("--as-user-extra=authentication.kubernetes.io/node-name={node}");
    let denied = |args: &[&str], node: &str, why: &str| {
        let said = try_kubectl(&[args, &[&driver, &of(node)]].concat()).unwrap_err();
        assert!(said.contains(why), "{args:?}: {said}");
    };
    let taint = ["patch", "node", "node1", "--patch", r#"{"spec":{"taints":[]}}"#];
    denied(&taint, "node2", "may change the node that it runs on only");
    let label = ["label", "node", "node1", "kubernetes.io/role=x"];
    denied(&label, "node1", "may only take the taint certmount.dev/not-ready away");
    let taint = ["taint", "node", "node1", "other=:NoSchedule"];
    denied(&taint, "node1", "may only take the taint certmount.dev/not-ready away");
}

/// Pods with volumes are still there when the chart goes: they keep their certificates, and a chart
/// that comes back takes the volumes over.
#[test]
fn live_volumes_outlive_the_chart() {
    let namespace = Namespace::new();
    namespace.cert_manager_ca();
    let attributes = [
        ("csi.cert-manager.io/issuer-name", "ca"),
        ("csi.cert-manager.io/dns-names", "web.example"),
        ("csi.cert-manager.io/duration", "45s"),
        ("csi.cert-manager.io/renew-before", "30s"),
    ];
    let live = namespace.start_pod("live", &attributes);
    let ending = namespace.start_pod("ending", &attributes);
    let chart = DropIn::as_it_is();
    cluster(&["exec", "helm", "-n", "drop-in", "uninstall", "drop-in", "--wait"]);
    let old = live.certificate_at_hand();
    namespace.kubectl(&["delete", "pod", "ending", "--wait=false"]);

    chart.upgrade(&[]);
    ending.delete();
    let new = live.renewed(&old);
    // An update of the chart while a renewal is near.
    chart.upgrade(&["--set=log.level=debug"]);
    live.renewed(&new);
    assert_eq!(live.field(".status.containerStatuses[0].restartCount"), "0");
    live.delete();
    no_volumes_left();
}

/// cert-manager's approvers then judge by the pod's service account.
#[test]
fn a_pod_asks_with_its_own_token_where_the_chart_says_so() {
    let namespace = Namespace::new();
    namespace.cert_manager_ca();
    let chart = DropIn::as_it_is();
    let tokens = r#"--set-json=driver.tokenRequests=[{"audience":"","expirationSeconds":3600}]"#;
    chart.upgrade(&[tokens, "--set=driver.useTokenRequest=true"]);
    let attributes = [
        ("csi.cert-manager.io/issuer-name", "ca"),
        ("csi.cert-manager.io/dns-names", "web.example"),
    ];
    let pod = namespace.create_pod("web", &attributes, &json!({}));
    let account = format!("service account {}/default may not create", namespace.name());
    pod.told("FailedMount", &account);
    assert!(namespace.objects("certificaterequests").is_empty());
    let requests = "--resource=certificaterequests.cert-manager.io";
    namespace.kubectl(&["create", "role", "asking", "--verb=create", requests]);
    let account = format!("--serviceaccount={}:default", namespace.name());
    namespace.kubectl(&["create", "rolebinding", "asking", "--role=asking", &account]);
    pod.wait("Ready");
    pod.certificate();
    pod.delete();
    no_volumes_left();
}

/// The chart in the place of cert-manager's csi-driver. It is as it was once this is dropped.
struct DropIn {
    /// Its values.
    file: tempfile::NamedTempFile,
}

impl DropIn {
    fn as_it_is() -> Self {
        let get = ["exec", "helm", "-n", "drop-in", "get", "values", "drop-in", "-o", "json"];
        let mut file = tempfile::Builder::new().suffix(".json").tempfile().unwrap();
        file.write_all(cluster(&get).as_bytes()).unwrap();
        Self { file }
    }

    fn upgrade(&self, more: &[&str]) {
        cluster(&self.command(more));
    }

    fn command<'a>(&'a self, more: &[&'a str]) -> Vec<&'a str> {
        let helm = ["exec", "helm", "-n", "drop-in", "upgrade", "--install", "drop-in"];
        let chart = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/chart");
        let values = ["--values", self.file.path().to_str().unwrap(), "--wait", "--timeout=4m"];
        [&helm[..], &[chart], &values, more].concat()
    }
}

impl Drop for DropIn {
    fn drop(&mut self) {
        run(&self.command(&[]), "");
    }
}
