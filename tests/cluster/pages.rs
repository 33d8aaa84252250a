//! What the documentation shows is what a cluster takes.

use std::fs;
use std::path::Path;

use crate::kubernetes::{Namespace, kubectl, no_volumes_left};

#[test]
fn objects_on_the_pages_are_valid_to_the_letter() {
    let namespace = Namespace::called("demo");
    let mut objects = 0;
    for page in pages() {
        for object in blocks(&page).filter(|block| block.starts_with("apiVersion: ")) {
            namespace.apply(&object, &["--dry-run=server", "--validate=strict"]);
            objects += 1;
        }
    }
    assert!(objects >= 5, "found {objects} only");
}

#[test]
fn getting_started_gets_a_pod_started() {
    let namespace = Namespace::called("demo");
    let page = root().join("docs/getting-started.md");
    let pod = blocks(&fs::read_to_string(page).unwrap()).find(|block| block.contains("kind: Pod"));
    // As the page says, and with an image that is here.
    let pod = pod
        .unwrap()
        .replace(" internal\n", " cluster-ca\n")
        .replace(" busybox\n", " localhost/busybox:test\n");
    namespace.apply(&pod, &[]);
    namespace.kubectl(&["wait", "--for=condition=Ready", "pod/web", "--timeout=90s"]);
    let files = namespace.kubectl(&["exec", "web", "--", "ls", "/tls"]);
    assert_eq!(files, "ca.crt\ntls.crt\ntls.key\n");
    let events = kubectl(&["-n", "demo", "describe", "pod", "web"]);
    assert!(events.contains("CertificateIssued"), "{events}");
    namespace.kubectl(&["delete", "pod", "web", "--grace-period=1"]);
    no_volumes_left();
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn pages() -> impl Iterator<Item = String> {
    let docs = fs::read_dir(root().join("docs")).unwrap();
    let docs = docs.map(|page| page.unwrap().path());
    let pages = docs.chain([root().join("README.md")]);
    pages
        .filter(|page| page.extension().is_some_and(|extension| extension == "md"))
        .map(|page| fs::read_to_string(page).unwrap())
}

fn blocks(page: &str) -> impl Iterator<Item = String> {
    let blocks: Vec<_> = page
        .split("\n```yaml\n")
        .skip(1)
        .map(|rest| format!("{}\n", rest.split("\n```").next().unwrap()))
        .collect();
    blocks.into_iter()
}
