use std::time::Duration;

use serde_json::{Value, json};

use super::*;
use crate::clock::Timestamp;
use crate::kubernetes::fake::FakeApi;
use crate::spec::fixture::spec;
use crate::x509::{
    AuthorityInformation, DistinguishedName, KeyAlgorithm, PrivateKey, Validity, chain_to_pem,
    self_sign,
};

/// A certificate named `name`, in PEM.
fn root(name: &str) -> String {
    let mut template = spec(60).template;
    let mut subject = DistinguishedName::default();
    subject.push("CN", name).unwrap();
    template.subject = subject;
    let key = PrivateKey::generate(KeyAlgorithm::EcdsaP256).unwrap();
    let start = Timestamp::from_second(1_800_000_000).unwrap();
    let validity = Validity { not_before: start, not_after: start + Duration::from_secs(60) };
    let root = self_sign(&template, &key, validity, &AuthorityInformation::default()).unwrap();
    chain_to_pem([&root])
}

fn config_map(namespace: &str, data: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"namespace": namespace, "name": "roots"}, "data": data})
}

fn bundle(name: &str, signer: Option<&str>, text: &str) -> Value {
    json!({"apiVersion": "certificates.k8s.io/v1beta1", "kind": "ClusterTrustBundle",
        "metadata": {"name": name}, "spec": {"signerName": signer, "trustBundle": text}})
}

fn sources(api: &FakeApi) -> AnchorSources {
    AnchorSources::of_cluster(Access { client: api.client(), namespace: "home".to_owned() })
}

fn in_config_map() -> TrustRef {
    TrustRef::ConfigMap { name: "roots".to_owned(), key: "ca.crt".to_owned() }
}

fn of_signer() -> TrustRef {
    TrustRef::Signer("example.com/serving".to_owned())
}

/// The subjects of the anchors, or what is wrong; empty while nothing is known.
fn state(anchors: &Anchors) -> String {
    match (anchors.known(), anchors.problem()) {
        (Some(known), None) => known.iter().map(Certificate::subject).collect::<Vec<_>>().join(" "),
        (_, Some(Problem::Unread(message) | Problem::Wrong(message))) => message,
        (None, None) => String::new(),
    }
}

async fn until(anchors: &mut Anchors, words: &str) {
    let came = tokio::time::timeout(Duration::from_secs(900), async {
        while !state(anchors).contains(words) {
            anchors.changed().await;
        }
    });
    let came = came.await;
    assert!(came.is_ok(), "{words:?} does not come: {}", state(anchors));
}

#[tokio::test(start_paused = true)]
async fn a_config_map_is_followed_in_the_pod_s_namespace_only() {
    let api = FakeApi::default();
    api.put("configmaps", config_map("other", json!({"ca.crt": root("not-ours")})));
    let mut anchors = sources(&api).follow("shop", &[in_config_map()]);
    anchors.settled().await;
    let missing = "there is no ConfigMap shop/roots, which trust-config-maps names: create it";
    assert!(state(&anchors).contains(missing), "{}", state(&anchors));
    assert_eq!(anchors.known(), None);

    api.put("configmaps", config_map("shop", json!({"ca.crt": root("one") + &root("two")})));
    until(&mut anchors, "CN=one CN=two").await;

    api.put("configmaps", config_map("shop", json!({"bundle.pem": root("one")})));
    until(&mut anchors, "there is no ca.crt in it; it has bundle.pem: write name/key").await;
    api.put("configmaps", config_map("shop", json!({"ca.crt": "none"})));
    until(&mut anchors, "there is no certificate in PEM").await;
    let cut = root("one").replace("-----END", "");
    api.put("configmaps", config_map("shop", json!({"ca.crt": cut})));
    until(&mut anchors, "a PEM block has no matching END line; the text was cut off; correct it")
        .await;
    assert_eq!(anchors.known().unwrap().len(), 2, "what was read before stays in force");

    api.put("configmaps", config_map("shop", json!({"ca.crt": root("three")})));
    until(&mut anchors, "CN=three").await;
}

#[tokio::test(start_paused = true)]
async fn the_bundles_of_a_signer_count_together() {
    let api = FakeApi::default();
    api.put("clustertrustbundles", bundle("x", Some("example.com/other"), &root("other")));
    let named = TrustRef::Bundle("mine".to_owned());
    let sources = sources(&api);
    let mut anchors = sources.follow("shop", &[of_signer()]);
    until(&mut anchors, "there is no ClusterTrustBundle of the signer example.com/serving").await;
    let signer = Some("example.com/serving");
    api.put("clustertrustbundles", bundle("example.com:serving:1", signer, &root("one")));
    until(&mut anchors, "CN=one").await;
    api.put("clustertrustbundles", bundle("example.com:serving:2", signer, &root("two")));
    until(&mut anchors, "CN=one CN=two").await;
    api.delete("clustertrustbundles", "example.com:serving:1");
    until(&mut anchors, "CN=two").await;

    api.put("clustertrustbundles", bundle("mine", None, &root("mine")));
    let mut both = sources.follow("shop", &[of_signer(), named]);
    until(&mut both, "CN=two CN=mine").await;
}

#[tokio::test(start_paused = true)]
async fn volumes_share_a_watch_that_ends_with_the_last_of_them() {
    let api = FakeApi::default();
    api.put("configmaps", config_map("shop", json!({"ca.crt": root("one")})));
    let sources = sources(&api);
    let mut first = sources.follow("shop", &[in_config_map()]);
    until(&mut first, "CN=one").await;
    let mut second = sources.follow("shop", &[in_config_map()]);
    until(&mut second, "CN=one").await;
    let lists = || api.calls().iter().filter(|call| *call == "LIST configmaps").count();
    assert_eq!(lists(), 1);
    drop((first, second));
    let mut third = sources.follow("shop", &[in_config_map()]);
    until(&mut third, "CN=one").await;
    assert_eq!(lists(), 2);
}

#[tokio::test(start_paused = true)]
async fn what_the_api_server_does_not_serve_or_allow_is_told_and_asked_for_seldom() {
    let api = FakeApi::default();
    api.refuse("LIST clustertrustbundles", 404, "the server could not find the resource");
    let sources = sources(&api);
    let mut anchors = sources.follow("shop", &[of_signer()]);
    until(&mut anchors, "--runtime-config=certificates.k8s.io/v1beta1/clustertrustbundles=true")
        .await;
    tokio::time::sleep(Duration::from_secs(600)).await;
    let calls = api.calls().len();
    assert!(calls <= 24, "{calls} calls in ten minutes");
    api.relent();
    api.put("clustertrustbundles", bundle("a", Some("example.com/serving"), &root("one")));
    until(&mut anchors, "CN=one").await;

    api.refuse("LIST configmaps", 403, "configmaps \"roots\" is forbidden");
    let mut anchors = sources.follow("shop", &[in_config_map()]);
    until(&mut anchors, "is forbidden; let the driver list and watch it").await;
    assert!(matches!(anchors.problem(), Some(Problem::Unread(_))));
    api.relent();
    api.put("configmaps", config_map("shop", json!({"ca.crt": root("one")})));
    until(&mut anchors, "CN=one").await;
    // Trouble that comes later takes nothing away.
    api.refuse("LIST configmaps", 403, "configmaps \"roots\" is forbidden");
    api.expire();
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(state(&anchors), "CN=one");
}

#[tokio::test(start_paused = true)]
async fn more_than_a_volume_holds_is_refused() {
    let api = FakeApi::default();
    let roots = |count: usize, name: &str| -> String {
        (0..count).map(|n| root(&format!("{name}-{n}"))).collect()
    };
    api.put("clustertrustbundles", bundle("a", None, &roots(MOST_TRUST_ANCHORS + 1, "a")));
    let bundle_of = |name: &str| TrustRef::Bundle(name.to_owned());
    let sources = sources(&api);
    let mut one = sources.follow("shop", &[bundle_of("a")]);
    let said = "ClusterTrustBundle a: there are 201 certificates, and a volume holds 200 at most";
    until(&mut one, said).await;

    let most = roots(MOST_TRUST_ANCHORS, "a");
    api.put("clustertrustbundles", bundle("a", None, &most));
    until(&mut one, "CN=a-199").await;
    api.put("clustertrustbundles", bundle("b", None, &root("b")));
    let mut two = sources.follow("shop", &[bundle_of("a"), bundle_of("b")]);
    until(&mut two, "trust-bundles: there are 201 certificates").await;
    assert_eq!(two.known(), None);
    // What both hold counts once.
    api.put("clustertrustbundles", bundle("b", None, &most));
    until(&mut two, "CN=a-199").await;
    assert_eq!(two.known().unwrap().len(), MOST_TRUST_ANCHORS);
}
