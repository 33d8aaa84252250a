use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::*;
use crate::issuer::HandleInMemory;
use crate::issuer::fixture::Asking;
use crate::issuer::{HandleStore, IssueErrorKind, IssuerKey, Order, Requester};
use crate::kubernetes::fake::FakeApi;
use crate::spec::fixture;
use crate::spec::request::CertificateSpec;
use crate::spec::tokens::PodTokens;
use crate::spec::volume::VolumeId;
use crate::x509::{
    BasicConstraints, DistinguishedName, ExtendedKeyUsage, GeneralName, Issued, KeyAlgorithm,
    KeyUsages, NameConstraints, PrivateKey, Template, Validity, chain_to_pem, self_sign,
};

const REQUESTS: &str = "certificaterequests";

/// One volume: what its task keeps while an order is under way.
struct Volume {
    key: Arc<PrivateKey>,
    handle: HandleInMemory,
    issuer: IssuerRef,
    annotations: BTreeMap<String, String>,
    tokens: PodTokens,
}

impl Volume {
    fn new(group: &str, name: &str) -> Self {
        Self {
            key: Arc::new(PrivateKey::generate(KeyAlgorithm::EcdsaP256).unwrap()),
            handle: HandleInMemory::default(),
            issuer: IssuerRef {
                group: group.to_owned(),
                kind: "Issuer".to_owned(),
                name: name.to_owned(),
            },
            annotations: BTreeMap::new(),
            tokens: PodTokens::default(),
        }
    }

    /// One attempt of the volume's task.
    async fn attempt(&self, issuers: &KubernetesIssuers) -> Result<Issued, IssueError> {
        let id = VolumeId::of_inline_volume("uid-1", "tls");
        let pod = fixture::pod("shop", "web-0", "web");
        self.attempt_for(Requester::Volume { id: &id, pod: &pod }, issuers).await
    }

    async fn attempt_for(
        &self,
        requester: Requester<'_>,
        issuers: &KubernetesIssuers,
    ) -> Result<Issued, IssueError> {
        let spec = CertificateSpec {
            issuer: self.issuer.clone(),
            template: template(),
            ..fixture::spec(7200)
        };
        let asking = Asking::new(&spec, Arc::clone(&self.key));
        let order = Order {
            requester,
            annotations: &self.annotations,
            tokens: &self.tokens,
            handle: &self.handle,
            ..asking.order()
        };
        issuers.issuer(&self.issuer).issue(order).await
    }

    /// A certificate for the volume's key, in the base64 of JSON.
    fn certificate(&self) -> Value {
        let start = "2026-01-01T00:00:00Z".parse().unwrap();
        let validity = Validity { not_before: start, not_after: start + Duration::from_secs(7200) };
        let leaf = self_sign(&template(), &self.key, validity, &Default::default()).unwrap();
        STANDARD.encode(chain_to_pem([&leaf])).into()
    }
}

fn template() -> Template {
    let mut usages = KeyUsages::default();
    usages.extended.push(ExtendedKeyUsage::ServerAuth);
    Template {
        subject: DistinguishedName::default(),
        subject_alt_names: vec![GeneralName::dns("web.shop.svc").unwrap()],
        usages,
        basic_constraints: BasicConstraints::EndEntity,
        name_constraints: NameConstraints::default(),
    }
}

fn issuers(api: &FakeApi) -> Arc<KubernetesIssuers> {
    Arc::new(KubernetesIssuers::new(&api.client(), "node-1", "certmount-system"))
}

fn condition(kind: &str, status: &str, reason: &str, message: &str) -> Value {
    json!({"type": kind, "status": status, "reason": reason, "message": message})
}

fn approved() -> Value {
    condition("Approved", "True", "cert-manager.io", "approved")
}

/// Signs the only request there is, as cert-manager does.
fn sign(api: &FakeApi, volume: &Volume) {
    api.change(REQUESTS, |request| {
        request["status"] = json!({
            "conditions": [approved(), condition("Ready", "True", "Issued", "issued")],
            "certificate": volume.certificate(),
            "ca": volume.certificate(),
        });
    });
}

/// Returns once the API server has been asked for `call` that often.
async fn until_called(api: &FakeApi, call: &str, times: usize) {
    while api.calls().iter().filter(|other| *other == call).count() < times {
        tokio::task::yield_now().await;
    }
}

/// An attempt in a task of its own.
fn begin(
    volume: &Arc<Volume>,
    issuers: &Arc<KubernetesIssuers>,
) -> tokio::task::JoinHandle<Result<Issued, IssueError>> {
    let (volume, issuers) = (Arc::clone(volume), Arc::clone(issuers));
    tokio::spawn(async move { volume.attempt(&issuers).await })
}

/// A volume whose request is made and watched, and the attempt that waits for a decision.
async fn asked() -> (FakeApi, Arc<Volume>, tokio::task::JoinHandle<Result<Issued, IssueError>>) {
    let api = FakeApi::default();
    let volume = Arc::new(Volume::new("cert-manager.io", "ca"));
    let attempt = begin(&volume, &issuers(&api));
    until_called(&api, "WATCH certificaterequests", 1).await;
    until_called(&api, "POST certificaterequests", 1).await;
    (api, volume, attempt)
}

#[tokio::test(start_paused = true)]
async fn a_certificate_costs_one_write_and_is_heard_of_at_once() {
    let api = FakeApi::default();
    let issuers = issuers(&api);
    let mut volume = Volume::new("cert-manager.io", "ca");
    volume.annotations.insert("example.com/team".to_owned(), "a".to_owned());
    let volume = Arc::new(volume);
    let attempt = begin(&volume, &issuers);
    until_called(&api, "WATCH certificaterequests", 1).await;
    until_called(&api, "POST certificaterequests", 1).await;

    let request = api.objects(REQUESTS).remove(0);
    assert_eq!(request["apiVersion"], "cert-manager.io/v1");
    assert_eq!(request["kind"], "CertificateRequest");
    let metadata = &request["metadata"];
    assert!(metadata["name"].as_str().unwrap().starts_with("web-0-"));
    assert_eq!(metadata["namespace"], "shop");
    assert_eq!(metadata["labels"]["certmount.dev/node"], "node-1");
    assert_eq!(metadata["annotations"], json!({"example.com/team": "a"}));
    let owner = json!([{"apiVersion": "v1", "kind": "Pod", "name": "web-0", "uid": "uid-1"}]);
    assert_eq!(metadata["ownerReferences"], owner);
    let spec = &request["spec"];
    let reference = json!({"group": "cert-manager.io", "kind": "Issuer", "name": "ca"});
    assert_eq!(spec["issuerRef"], reference);
    assert_eq!(spec["duration"], "7200s");
    assert_eq!(spec["isCA"], false);
    assert_eq!(spec["usages"], json!(["server auth"]));
    let pem = STANDARD.decode(spec["request"].as_str().unwrap()).unwrap();
    assert!(pem.starts_with(b"-----BEGIN CERTIFICATE REQUEST-----"));
    assert!(request.get("status").is_none());

    let asked = Instant::now();
    sign(&api, &volume);
    let issued = attempt.await.unwrap().unwrap();
    assert_eq!(issued.chain.len(), 1);
    assert_eq!(issued.trust_anchors.len(), 1);
    assert_eq!(asked.elapsed(), Duration::ZERO, "it was polled for");

    // A second volume uses the same watch.
    let second = Arc::new(Volume::new("cert-manager.io", "ca"));
    let attempt = begin(&second, &issuers);
    until_called(&api, "POST certificaterequests", 2).await;
    let calls = api.calls();
    assert_eq!(calls.len(), 4, "{calls:?}");
    attempt.abort();
}

#[tokio::test(start_paused = true)]
async fn says_who_has_to_approve_and_then_goes_on_with_the_same_request() {
    let api = FakeApi::default();
    let issuers = issuers(&api);
    let volume = Arc::new(Volume::new("cert-manager.io", "ca"));
    let error = volume.attempt(&issuers).await.unwrap_err();
    assert_eq!(error.kind, IssueErrorKind::Pending);
    let name = volume.handle.load().unwrap();
    for words in [
        &format!("CertificateRequest shop/{name} is not approved yet"),
        "issuers.cert-manager.io/shop.ca",
        &format!("cmctl approve -n shop {name}"),
    ] {
        assert!(error.message.contains(words), "{} does not say {words}", error.message);
    }

    let attempt = begin(&volume, &issuers);
    tokio::time::sleep(Duration::from_secs(300)).await;
    assert!(!attempt.is_finished(), "nothing new was to be told");
    sign(&api, &volume);
    attempt.await.unwrap().unwrap();
    let calls = api.calls();
    assert_eq!(calls.iter().filter(|call| !call.starts_with("WATCH")).count(), 2, "{calls:?}");
}

#[tokio::test(start_paused = true)]
async fn a_new_reason_to_wait_is_told() {
    let api = FakeApi::default();
    let issuers = issuers(&api);
    let volume = Arc::new(Volume::new("cert-manager.io", "ca"));
    volume.attempt(&issuers).await.unwrap_err();
    let attempt = begin(&volume, &issuers);
    tokio::time::sleep(Duration::from_secs(1)).await;
    api.change(REQUESTS, |request| {
        let pending = condition("Ready", "False", "Pending", "Referenced \"Issuer\" not found");
        request["status"] = json!({"conditions": [approved(), pending]});
    });
    let changed = Instant::now();
    let error = attempt.await.unwrap().unwrap_err();
    assert!(changed.elapsed() <= Duration::from_secs(11));
    assert_eq!(error.kind, IssueErrorKind::Pending);
    assert!(error.message.contains("Referenced \"Issuer\" not found"), "{}", error.message);
}

#[tokio::test(start_paused = true)]
async fn a_restart_takes_up_the_request_with_its_key() {
    let api = FakeApi::default();
    let volume = Arc::new(Volume::new("cert-manager.io", "ca"));
    let first = issuers(&api);
    let attempt = begin(&volume, &first);
    until_called(&api, "POST certificaterequests", 1).await;
    attempt.abort();
    drop(first);

    // Signed while nobody looked.
    sign(&api, &volume);
    let issued = volume.attempt(&issuers(&api)).await.unwrap();
    assert_eq!(issued.chain[0].public_key_info(), volume.key.public_key_info());
    assert_eq!(api.objects(REQUESTS).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_was_never_made_is_made_after_a_restart() {
    let api = FakeApi::default();
    let volume = Arc::new(Volume::new("cert-manager.io", "ca"));
    api.refuse("POST certificaterequests", 503, "later");
    let error = volume.attempt(&issuers(&api)).await.unwrap_err();
    assert_eq!(error.kind, IssueErrorKind::Unavailable);
    api.relent();
    let issuers = issuers(&api);
    let attempt = begin(&volume, &issuers);
    until_called(&api, "POST certificaterequests", 2).await;
    sign(&api, &volume);
    attempt.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_told_and_the_next_attempt_asks_anew() {
    type Conditions = fn() -> Vec<Value>;
    let table: [(Conditions, IssueErrorKind, &str); 6] = [
        (
            || vec![condition("Denied", "True", "Policy", "no such names")],
            IssueErrorKind::Denied,
            "was denied: no such names",
        ),
        (
            || vec![approved(), condition("Ready", "False", "Failed", "the CA said no")],
            IssueErrorKind::Denied,
            "failed: the CA said no",
        ),
        (
            || vec![approved(), condition("Ready", "False", "Denied", "")],
            IssueErrorKind::Denied,
            "was denied: Denied",
        ),
        (
            || vec![condition("InvalidRequest", "True", "Spec", "usages differ")],
            IssueErrorKind::Denied,
            "usages differ",
        ),
        (
            || {
                let annotation = "Annotation \"cert-manager.io/private-key-secret-name\" missing";
                vec![approved(), condition("Ready", "False", "Failed", annotation)]
            },
            IssueErrorKind::Config,
            "selfSigned: {}",
        ),
        (
            || vec![approved(), condition("Ready", "True", "Issued", "")],
            IssueErrorKind::BadResponse,
            "without a certificate",
        ),
    ];
    for (conditions, kind, words) in table {
        let (api, volume, attempt) = asked().await;
        let handle = volume.handle.load();
        api.change(REQUESTS, |request| request["status"] = json!({"conditions": conditions()}));
        let error = attempt.await.unwrap().unwrap_err();
        assert_eq!(error.kind, kind, "{}", error.message);
        assert!(error.message.contains(words), "{} does not say {words}", error.message);
        assert_ne!(volume.handle.load(), handle);
    }
}

#[tokio::test(start_paused = true)]
async fn an_unreadable_answer_is_refused_and_asked_for_anew() {
    let (api, volume, attempt) = asked().await;
    let handle = volume.handle.load();
    api.change(REQUESTS, |request| {
        request["status"] = json!({
            "conditions": [condition("Ready", "True", "Issued", "issued")],
            "certificate": STANDARD.encode("-----BEGIN CERTIFICATE-----\nx"),
        });
    });
    let error = attempt.await.unwrap().unwrap_err();
    assert_eq!(error.kind, IssueErrorKind::BadResponse);
    assert_ne!(volume.handle.load(), handle);
}

#[tokio::test(start_paused = true)]
async fn a_deleted_request_is_noticed_also_while_the_watch_is_down() {
    for expired in [false, true] {
        let (api, volume, attempt) = asked().await;
        let name = volume.handle.load().unwrap();
        if expired {
            // What happens until the next watch has to be listed.
            api.expire();
            api.delete(REQUESTS, &name);
        } else {
            api.delete(REQUESTS, &name);
        }
        let error = attempt.await.unwrap().unwrap_err();
        assert!(error.message.contains("was deleted"), "{}", error.message);
        assert_eq!(error.kind, IssueErrorKind::Unavailable);
        assert_ne!(volume.handle.load().unwrap(), name);
    }
}

#[tokio::test(start_paused = true)]
async fn older_requests_go_and_the_last_that_was_signed_stays() {
    let api = FakeApi::default();
    let issuers = issuers(&api);
    let volume = Arc::new(Volume::new("cert-manager.io", "ca"));
    let names = || -> Vec<String> {
        let name = |object: &Value| object["metadata"]["name"].as_str().unwrap().to_owned();
        api.objects(REQUESTS).iter().map(name).collect()
    };
    let finish = async |conditions: Value| {
        let attempt = begin(&volume, &issuers);
        let before = names();
        while names() == before {
            tokio::task::yield_now().await;
        }
        let mut request = api.objects(REQUESTS).pop().unwrap();
        request["status"] = json!({"conditions": conditions, "certificate": volume.certificate()});
        api.put(REQUESTS, request.clone());
        let _ = attempt.await.unwrap();
        tokio::time::sleep(Duration::from_secs(1)).await;
        request["metadata"]["name"].as_str().unwrap().to_owned()
    };
    let signed = json!([condition("Ready", "True", "Issued", "issued")]);
    let failed = json!([condition("Ready", "False", "Failed", "no")]);

    let first = finish(signed.clone()).await;
    assert_eq!(names(), std::slice::from_ref(&first));
    let second = finish(failed.clone()).await;
    assert_eq!(names(), [first.clone(), second]);
    let third = finish(failed).await;
    assert_eq!(names(), [first, third]);
    let fourth = finish(signed).await;
    assert_eq!(names(), [fourth]);
}

#[tokio::test(start_paused = true)]
async fn a_decision_that_could_not_be_heard_is_looked_for() {
    let (api, volume, attempt) = asked().await;
    api.refuse("LIST certificaterequests", 500, "not yet");
    api.refuse("WATCH certificaterequests", 500, "not yet");
    api.expire();
    tokio::time::sleep(Duration::from_secs(1)).await;
    sign(&api, &volume);
    assert_eq!(attempt.await.unwrap().unwrap().chain.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_write_that_succeeds_brings_the_watch_back() {
    let api = FakeApi::default();
    api.refuse("LIST certificaterequests", 500, "not yet");
    let issuers = issuers(&api);
    let volume = Arc::new(Volume::new("cert-manager.io", "ca"));
    api.refuse("POST certificaterequests", 500, "not yet");
    volume.attempt(&issuers).await.unwrap_err();
    // So long that the watch waits as long as it ever does.
    tokio::time::sleep(Duration::from_secs(600)).await;
    api.relent();
    let (listed, asked) = (api.calls().len(), Instant::now());
    let attempt = begin(&volume, &issuers);
    until_called(&api, "WATCH certificaterequests", 1).await;
    assert_eq!(api.calls()[listed..].len(), 3, "a write, a list, a watch");
    sign(&api, &volume);
    attempt.await.unwrap().unwrap();
    assert_eq!(asked.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn says_that_nothing_can_be_heard() {
    let api = FakeApi::default();
    api.refuse("LIST certificaterequests", 403, "certificaterequests is forbidden: cannot list");
    let volume = Arc::new(Volume::new("cert-manager.io", "ca"));
    let error = volume.attempt(&issuers(&api)).await.unwrap_err();
    assert_eq!(error.kind, IssueErrorKind::Unavailable);
    assert!(error.message.contains("CertificateRequests cannot be watched"), "{}", error.message);
    assert!(error.message.contains("cannot list"), "{}", error.message);
}

#[tokio::test(start_paused = true)]
async fn what_kubernetes_signs_is_asked_for_by_signer() {
    const REQUESTS: &str = "certificatesigningrequests";
    let api = FakeApi::default();
    let issuers = issuers(&api);
    let volume = Arc::new(Volume::new("certificates.k8s.io", "example.com/signer"));
    let error = volume.attempt(&issuers).await.unwrap_err();
    let name = volume.handle.load().unwrap();
    let advice = format!("kubectl certificate approve {name}");
    assert!(error.message.contains(&advice), "{}", error.message);
    assert!(error.message.contains("example.com/signer"), "{}", error.message);

    let request = api.objects(REQUESTS).remove(0);
    assert_eq!(request["kind"], "CertificateSigningRequest");
    assert_eq!(request["spec"]["signerName"], "example.com/signer");
    assert_eq!(request["spec"]["expirationSeconds"], 7200);
    assert_eq!(request["spec"]["usages"], json!(["server auth"]));
    assert_eq!(request["metadata"]["annotations"]["certmount.dev/pod-name"], "web-0");
    assert!(request["metadata"].get("ownerReferences").is_none());

    let attempt = begin(&volume, &issuers);
    tokio::time::sleep(Duration::from_secs(1)).await;
    api.change(REQUESTS, |request| {
        request["status"] =
            json!({"conditions": [approved()], "certificate": volume.certificate()});
    });
    assert_eq!(attempt.await.unwrap().unwrap().chain.len(), 1);

    let attempt = begin(&volume, &issuers);
    until_called(&api, "POST certificatesigningrequests", 2).await;
    let mut request = api.objects(REQUESTS).pop().unwrap();
    let failed = condition("Failed", "True", "No", "the signer said no");
    request["status"] = json!({"conditions": [approved(), failed]});
    api.put(REQUESTS, request);
    let error = attempt.await.unwrap().unwrap_err();
    assert_eq!(error.kind, IssueErrorKind::Denied);
    assert!(error.message.contains("the signer said no"), "{}", error.message);
}

#[tokio::test(start_paused = true)]
async fn a_node_asks_in_the_namespace_of_its_issuer_or_else_in_the_drivers() {
    for (namespace, asked_in) in [(Some("shop"), "shop"), (None, "certmount-system")] {
        let api = FakeApi::default();
        let issuers = issuers(&api);
        let volume = Volume::new("cert-manager.io", "root");
        let issuer = IssuerKey {
            group: "certmount.dev".to_owned(),
            kind: "ClusterIssuer".to_owned(),
            namespace: namespace.map(str::to_owned),
            name: "mesh".to_owned(),
        };
        let node = Requester::Node { name: "node-1", issuer: &issuer };
        let error = volume.attempt_for(node, &issuers).await.unwrap_err();
        assert_eq!(error.kind, IssueErrorKind::Pending, "nobody has approved it");

        let metadata = &api.objects(REQUESTS).remove(0)["metadata"];
        assert_eq!(metadata["namespace"], asked_in);
        assert!(metadata["name"].as_str().unwrap().starts_with("mesh-node-1-"), "{metadata}");
        assert!(metadata.get("ownerReferences").is_none(), "no pod owns it");
        assert_eq!(metadata["labels"]["certmount.dev/node"], "node-1");
    }
}

#[tokio::test(start_paused = true)]
async fn a_pod_asks_with_its_newest_token() {
    let api = FakeApi::default();
    let issuers = as_pods(&api);
    let mut volume = Volume::new("cert-manager.io", "ca");
    for token in ["first", "second"] {
        volume.tokens = tokens(token);
        let attempt = begin(&Arc::new(volume), &issuers);
        until_called(&api, &format!("POST certificaterequests by Bearer {token}"), 1).await;
        attempt.abort();
        volume = Volume::new("cert-manager.io", "ca");
    }
    let listed = api.calls().into_iter().find(|call| call.starts_with("LIST")).unwrap();
    assert_eq!(listed, "LIST certificaterequests", "the driver watches for all pods");
}

#[tokio::test(start_paused = true)]
async fn a_pod_without_a_token_is_told_what_is_missing() {
    let api = FakeApi::default();
    let volume = Volume::new("cert-manager.io", "ca");
    let error = volume.attempt(&as_pods(&api)).await.unwrap_err();
    assert_eq!(error.kind, IssueErrorKind::Unavailable);
    for words in ["service account shop/web", "tokenRequests", "serviceAccountTokenInSecrets"] {
        assert!(error.message.contains(words), "{}", error.message);
    }
    assert!(api.objects(REQUESTS).is_empty(), "the driver does not ask in its place");
}

#[tokio::test(start_paused = true)]
async fn a_request_under_way_needs_no_token_after_a_restart() {
    let api = FakeApi::default();
    let mut volume = Volume::new("cert-manager.io", "ca");
    volume.tokens = tokens("t0ken");
    let error = volume.attempt(&as_pods(&api)).await.unwrap_err();
    assert_eq!(error.kind, IssueErrorKind::Pending);
    volume.tokens = PodTokens::default();
    sign(&api, &volume);
    volume.attempt(&as_pods(&api)).await.unwrap();
    assert_eq!(api.objects(REQUESTS).len(), 1);
}

fn as_pods(api: &FakeApi) -> Arc<KubernetesIssuers> {
    let issuers = KubernetesIssuers::new(&api.client(), "node-1", "certmount-system");
    Arc::new(issuers.as_pods(BearerClient::new(api.client())))
}

/// As kubelet hands them over, for the API server and for another.
fn tokens(token: &str) -> PodTokens {
    let ends = "2026-01-01T00:00:00Z";
    let json = json!({"": {"token": token, "expirationTimestamp": ends},
        "vault": {"token": "other", "expirationTimestamp": ends}});
    PodTokens::from_json(&json.to_string()).unwrap()
}
