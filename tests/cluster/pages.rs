//! What the documentation shows is what a cluster takes.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use crate::kubernetes::{Namespace, PATIENTLY, apply, eventually, kubectl, no_volumes_left};

#[test]
fn objects_on_the_pages_are_valid_to_the_letter() {
    let blocks: Vec<_> = pages()
        .flat_map(|page| blocks(&page).collect::<Vec<_>>())
        .filter(|block| block.starts_with("apiVersion: "))
        .collect();
    assert!(blocks.len() >= 5, "found {} only", blocks.len());
    let named = blocks.iter().flat_map(|block| block.split("namespace: ").skip(1));
    let named = named.map(|rest| rest.split([',', '}', '\n']).next().unwrap().trim());
    let named: BTreeSet<_> = named.collect();
    let _namespaces: Vec<_> = named.into_iter().map(Namespace::called).collect();
    for block in &blocks {
        apply(block, &["--dry-run=server", "--validate=strict"]);
    }
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
    namespace.kubectl(&["wait", "--for=condition=Ready", "pod/web", PATIENTLY]);
    let files = namespace.kubectl(&["exec", "web", "--", "ls", "/tls"]);
    assert_eq!(files, "ca.crt\ntls.crt\ntls.key\n");
    eventually("the pod is told", || {
        let events = kubectl(&["-n", "demo", "describe", "pod", "web"]);
        events.contains("CertificateIssued").then_some(())
    });
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
