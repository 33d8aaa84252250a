use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::*;
use crate::clock::{Clock, Timestamp};
use crate::kubernetes::fake::FakeApi;
use crate::spec::volume::IssuerRef;
use crate::x509::{
    AuthorityInformation, BasicConstraints, Certificate, DistinguishedName, KeyAlgorithm,
    KeyEncoding, KeyUsages, NameConstraints, PrivateKey, Template, Validity, chain_to_pem,
    self_sign,
};

const HOME: &str = "certmount-system";

fn now() -> Timestamp {
    "2026-03-01T12:00:00Z".parse().unwrap()
}

fn started(api: &FakeApi, scope: Scope) -> Running {
    let access = Access { client: api.client(), namespace: HOME.to_owned() };
    start(&access, scope, Cluster::default(), Surroundings::new(Clock::from_fn(now), "node-1"))
}

fn issuer(kind: &str, namespace: Option<&str>, name: &str, spec: Value) -> Value {
    let mut issuer = json!({"apiVersion": "certmount.dev/v1alpha1", "kind": kind,
        "metadata": {"name": name, "uid": "u", "managedFields": [{"manager": "kubectl"}]},
        "spec": spec});
    if let Some(namespace) = namespace {
        issuer["metadata"]["namespace"] = namespace.into();
    }
    issuer
}

fn ca_of(secret: &str) -> Value {
    json!({"ca": {"secretName": secret}})
}

/// A CA named `subject`.
fn secret(namespace: &str, name: &str, subject: &str) -> Value {
    let key = PrivateKey::generate(KeyAlgorithm::EcdsaP256).unwrap();
    let mut distinguished = DistinguishedName::default();
    distinguished.push("CN", subject).unwrap();
    let template = Template {
        subject: distinguished,
        subject_alt_names: Vec::new(),
        usages: KeyUsages::default(),
        basic_constraints: BasicConstraints::Ca { path_len: None },
        name_constraints: NameConstraints::default(),
    };
    let year = Duration::from_secs(365 * 86_400);
    let validity = Validity { not_before: now() - year, not_after: now() + year };
    let ca = self_sign(&template, &key, validity, &AuthorityInformation::default()).unwrap();
    let key = key.to_pem(KeyEncoding::Pkcs8).unwrap();
    json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": namespace},
        "data": {"tls.crt": STANDARD.encode(chain_to_pem([&ca])), "tls.key": STANDARD.encode(&*key)}})
}

fn reference(kind: &str, name: &str) -> IssuerRef {
    IssuerRef { group: "certmount.dev".to_owned(), kind: kind.to_owned(), name: name.to_owned() }
}

/// Whose CA the issuer is, or why it is none.
fn state(running: &Running, kind: &str, namespace: &str, name: &str) -> String {
    match running.issuers.get(&reference(kind, name), namespace) {
        None => "none".to_owned(),
        Some(entry) => match entry.issuer {
            Err(reason) => reason,
            Ok(issuer) => issuer
                .trust_anchors()
                .and_then(<[_]>::first)
                .map_or_else(|| "self-signed".to_owned(), Certificate::subject),
        },
    }
}

/// Waits for `fact`, looking at each change.
async fn until(running: &mut Running, what: &str, fact: impl Fn(&Running) -> bool) {
    let came = tokio::time::timeout(Duration::from_secs(900), async {
        let running = &mut *running;
        while !fact(running) {
            tokio::select! {
                () = running.issuers.changed() => {}
                changed = running.problems.changed() => changed.unwrap(),
            }
        }
    });
    let came = came.await;
    assert!(came.is_ok(), "{what}: not in time; {:?}", running.problems.borrow());
}

fn says(running: &Running, text: &str) -> bool {
    running.problems.borrow().iter().any(|problem| problem.to_string().contains(text))
}

#[tokio::test(start_paused = true)]
async fn issuers_and_their_secrets_are_followed() {
    let api = FakeApi::default();
    api.put("clusterissuers", issuer("ClusterIssuer", None, "ca", ca_of("root")));
    api.put("secrets", secret(HOME, "root", "first"));
    let mut running = started(&api, Scope::ClusterIssuers);
    let is = |name: &'static str, wanted: &'static str| {
        move |running: &Running| state(running, "ClusterIssuer", "web", name) == wanted
    };
    until(&mut running, "the CA of the Secret", is("ca", "CN=first")).await;

    api.put("secrets", secret(HOME, "root", "second"));
    until(&mut running, "the new CA", is("ca", "CN=second")).await;

    api.put("clusterissuers", issuer("ClusterIssuer", None, "dev", json!({"selfSigned": {}})));
    until(&mut running, "another issuer", is("dev", "self-signed")).await;
    api.delete("clusterissuers", "dev");
    until(&mut running, "the issuer gone", is("dev", "none")).await;

    api.delete("secrets", "root");
    let missing = "there is no Secret root in namespace certmount-system: add it";
    until(&mut running, "the Secret gone", is("ca", missing)).await;
    assert!(says(&running, &format!("ClusterIssuer ca: {missing}")));

    // Nothing but what is named was asked for.
    let calls = api.calls();
    assert!(!calls.iter().any(|call| call.ends_with(" issuers")), "{calls:?}");
}

#[tokio::test(start_paused = true)]
async fn what_is_wrong_is_told_and_what_was_right_stays() {
    let api = FakeApi::default();
    api.put("clusterissuers", issuer("ClusterIssuer", None, "a", json!({"selfSigned": {}})));
    let mut running = started(&api, Scope::ClusterIssuers);
    let ready = |running: &Running| state(running, "ClusterIssuer", "web", "a") == "self-signed";
    until(&mut running, "the issuer", ready).await;

    let wrong = json!({"selfSigned": {"crlDistributionPoint": []}});
    api.put("clusterissuers", issuer("ClusterIssuer", None, "a", wrong.clone()));
    api.put("clusterissuers", issuer("ClusterIssuer", None, "b", wrong));
    let told = "ClusterIssuer a: spec.selfSigned.crlDistributionPoint: unknown field \
                \"crlDistributionPoint\", did you mean crlDistributionPoints?; what this object \
                said before stays in force";
    until(&mut running, "the error", |running| says(running, told)).await;
    until(&mut running, "the other error", |running| says(running, "ClusterIssuer b: spec")).await;
    assert!(ready(&running));
    assert_eq!(state(&running, "ClusterIssuer", "web", "b"), "none");
}

#[tokio::test(start_paused = true)]
async fn namespaced_issuers_are_served_only_where_they_are_wanted() {
    let api = FakeApi::default();
    api.put("issuers", issuer("Issuer", Some("shop"), "ca", ca_of("root")));
    api.put("secrets", secret("shop", "root", "shop"));
    let mut running = started(&api, Scope::AllIssuers);
    let ready = |running: &Running| state(running, "Issuer", "shop", "ca") == "CN=shop";
    until(&mut running, "the issuer of the namespace", ready).await;
    assert_eq!(state(&running, "Issuer", "web", "ca"), "none");

    // A Secret of a namespace is never that of a ClusterIssuer.
    api.put("clusterissuers", issuer("ClusterIssuer", None, "ca", ca_of("root")));
    let missing = |running: &Running| {
        state(running, "ClusterIssuer", "shop", "ca").contains("in namespace certmount-system")
    };
    until(&mut running, "the missing Secret", missing).await;

    let others = Scope::Namespaces(["web".to_owned()].into());
    for scope in [Scope::ClusterIssuers, others] {
        let mut running = started(&api, scope);
        until(&mut running, "the missing Secret", missing).await;
        assert_eq!(state(&running, "Issuer", "shop", "ca"), "none");
    }
    let mut running = started(&api, Scope::Namespaces(["shop".to_owned()].into()));
    until(&mut running, "the issuer of the namespace", ready).await;
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_read_yet_is_not_said_to_be_missing() {
    let api = FakeApi::default();
    api.put("clusterissuers", issuer("ClusterIssuer", None, "ca", ca_of("root")));
    api.put("secrets", secret(HOME, "root", "root"));
    api.refuse("LIST clusterissuers", 403, "clusterissuers is forbidden");
    let mut running = started(&api, Scope::ClusterIssuers);
    let unread = state(&running, "ClusterIssuer", "web", "ca");
    assert_eq!(unread, "it could not be read yet: the API server has not answered yet");
    let forbidden = |running: &Running| {
        state(running, "ClusterIssuer", "web", "ca")
            == "it could not be read yet: clusterissuers is forbidden"
    };
    until(&mut running, "the reason", forbidden).await;
    assert!(says(&running, "the ClusterIssuers cannot be read: clusterissuers is forbidden"));

    api.relent();
    api.refuse("LIST secrets", 403, "secrets is forbidden");
    let told = "Secret certmount-system/root cannot be read: secrets is forbidden";
    until(&mut running, "the Secret's reason", |running| says(running, told)).await;
    assert_eq!(state(&running, "ClusterIssuer", "web", "other"), "none");

    api.relent();
    let ready = |running: &Running| state(running, "ClusterIssuer", "web", "ca") == "CN=root";
    until(&mut running, "the issuer", ready).await;
    let quiet = |running: &Running| running.problems.borrow().is_empty();
    until(&mut running, "no problems", quiet).await;
}

#[tokio::test(start_paused = true)]
async fn what_changed_while_nothing_could_be_heard_is_found() {
    let api = FakeApi::default();
    for name in ["a", "b"] {
        api.put("clusterissuers", issuer("ClusterIssuer", None, name, json!({"selfSigned": {}})));
    }
    let mut running = started(&api, Scope::ClusterIssuers);
    let is = |name: &'static str, wanted: &'static str| {
        move |running: &Running| state(running, "ClusterIssuer", "web", name) == wanted
    };
    until(&mut running, "both", is("b", "self-signed")).await;
    while !api.calls().contains(&"WATCH clusterissuers".to_owned()) {
        tokio::task::yield_now().await;
    }

    api.refuse("LIST clusterissuers", 503, "the server is starting");
    api.expire();
    api.delete("clusterissuers", "a");
    let told = "the ClusterIssuers cannot be watched, so changes are not seen: the server is \
                starting";
    until(&mut running, "the trouble", |running| says(running, told)).await;
    assert!(is("a", "self-signed")(&running), "it must stay in force");
    api.relent();
    until(&mut running, "it is gone", is("a", "none")).await;
    assert!(is("b", "self-signed")(&running));
}

#[tokio::test(start_paused = true)]
async fn a_server_that_has_forgotten_is_no_problem() {
    let api = FakeApi::default();
    api.put("clusterissuers", issuer("ClusterIssuer", None, "a", json!({"selfSigned": {}})));
    let mut running = started(&api, Scope::ClusterIssuers);
    let is = |wanted: &'static str| {
        move |running: &Running| state(running, "ClusterIssuer", "web", "a") == wanted
    };
    until(&mut running, "the issuer", is("self-signed")).await;
    while !api.calls().contains(&"WATCH clusterissuers".to_owned()) {
        tokio::task::yield_now().await;
    }
    running.problems.mark_unchanged();
    api.expire();
    api.delete("clusterissuers", "a");
    until(&mut running, "it is gone", is("none")).await;
    assert!(!running.problems.has_changed().unwrap());
}

#[test]
fn the_chart_has_these_definitions() {
    const FILE: &str = "deploy/chart/crds/certmount.yaml";
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let file = std::fs::read_to_string(root.join(FILE)).unwrap_or_default();
    assert!(file == crds_yaml(), "run: certmount crds > {FILE}");
}

/// What the API server would tell of the schemas if they were not structural.
#[test]
fn the_definitions_are_structural() {
    fn check(path: &str, schema: &Value) {
        let object = schema.as_object().unwrap_or_else(|| panic!("{path} is no schema: {schema}"));
        assert!(object["type"].is_string(), "{path} has no type: {schema}");
        for keyword in ["$ref", "$schema", "definitions", "anyOf", "oneOf", "nullable"] {
            assert!(!object.contains_key(keyword), "{path} has {keyword}");
        }
        for (name, schema) in
            object.get("properties").and_then(Value::as_object).into_iter().flatten()
        {
            check(&format!("{path}.{name}"), schema);
        }
        for keyword in ["items", "additionalProperties"] {
            if let Some(schema) = object.get(keyword) {
                check(&format!("{path}[]"), schema);
            }
        }
    }
    for crd in crds() {
        let schema = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
        check("", schema);
        let spec = &schema["properties"]["spec"]["properties"];
        let rule = &spec["policy"]["items"]["properties"];
        for field in
            [&spec["ca"], &spec["selfSigned"], &spec["vault"], &rule["dnsNames"], &rule["isCA"]]
        {
            assert!(field["description"].is_string(), "{field} explains nothing");
        }
        let http01 = "/acme/properties/solvers/items/properties/http01";
        let http01 = spec.pointer(http01).unwrap();
        assert!(http01.get("required").is_none(), "it may be empty: {http01}");
        assert!(spec.get("certManager").is_none(), "what this build cannot do is not offered");
    }
}
