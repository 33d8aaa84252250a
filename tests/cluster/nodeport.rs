//! The apps in `examples/` as their users have them: a pod that ends TLS itself behind a NodePort,
//! and no client notices that its certificate is renewed.

use std::fs::File;
use std::io::Write as _;

use serde_json::json;

use crate::kubernetes::{Namespace, PATIENTLY, kubectl};
use crate::renewals::{App, serve_through_renewals};

/// The folder of each, with its NodePort.
const APPS: [(&str, u16); 7] = [
    ("https-server", 30441),
    ("go", 30442),
    ("python", 30443),
    ("nodejs", 30444),
    ("java", 30445),
    ("nginx", 30446),
    ("haproxy", 30447),
];

/// For each image that the examples name, `tests/cluster/run` makes one of our own.
const IMAGES: [&str; 8] = [
    "registry.example.com/https-server",
    "golang",
    "python",
    "node",
    "eclipse-temurin",
    "nginx",
    "haproxy",
    "certmount",
];

const ROTATIONS: usize = 3;

#[test]
fn every_example_serves_through_renewals_without_a_failed_request() {
    let namespace = Namespace::new();
    namespace.apply(&manifests(namespace.name()), &[]);
    namespace.kubectl(&["wait", "--for=condition=Ready", "pods", "--all", PATIENTLY]);
    let apps = APPS.map(|(folder, port)| {
        let pod = match folder {
            "https-server" => "https-rust".to_owned(),
            _ => format!("https-{folder}"),
        };
        App::meet(&namespace, &pod, format!("{pod}.{}.svc", namespace.name()), port)
    });
    serve_through_renewals(apps, ROTATIONS);
    namespace.kubectl(&["delete", "pods", "--all", "--grace-period=1", PATIENTLY]);
}

/// What `kubectl apply` gets: the examples with other images, and with certificates that do not
/// last.
fn manifests(namespace: &str) -> String {
    let own = tempfile::tempdir().unwrap();
    // kustomize takes no absolute paths.
    let up = "../".repeat(own.path().canonicalize().unwrap().components().count() - 1);
    let examples = concat!(env!("CARGO_MANIFEST_DIR"), "/examples").trim_start_matches('/');
    let resources = APPS.map(|(folder, _)| match folder {
        // It has no ConfigMap.
        "https-server" => format!("{up}{examples}/{folder}/pod.yaml"),
        _ => format!("{up}{examples}/{folder}"),
    });
    let images = IMAGES.map(|image| {
        let name = image.rsplit('/').next().unwrap();
        json!({"name": image, "newName": format!("localhost/{name}"), "newTag": "test"})
    });
    let attributes = "/spec/volumes/0/csi/volumeAttributes/certmount.dev~1";
    let patch = json!([
        {"op": "replace", "path": format!("{attributes}duration"), "value": "30s"},
        {"op": "add", "path": format!("{attributes}renew-before"), "value": "20s"},
        {"op": "replace", "path": format!("{attributes}issuer-name"), "value": "cluster-ca"},
    ]);
    let kustomization = json!({
        "resources": resources,
        "namespace": namespace,
        "images": images,
        "patches": [{"target": {"kind": "Pod"}, "patch": patch.to_string()}],
    });
    let mut file = File::create_new(own.path().join("kustomization.yaml")).unwrap();
    file.write_all(kustomization.to_string().as_bytes()).unwrap();
    let freely = "--load-restrictor=LoadRestrictionsNone";
    kubectl(&["kustomize", freely, own.path().to_str().unwrap()])
}
