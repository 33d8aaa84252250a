mod fake;

use std::time::Duration;

use serde_json::json;

use self::fake::{Answer, FakeServer, html, problem};
use super::*;
use crate::clock::Timestamp;
use crate::issuer::HandleInMemory;
use crate::issuer::fixture::{Asking, no_issuers};
use crate::issuer::{IssueErrorKind, Requester, build};
use crate::spec::fixture;
use crate::spec::object::{self, Object};
use crate::spec::request::CertificateSpec;
use crate::spec::volume::VolumeId;
use crate::x509::fixture::ca_template;
use crate::x509::{
    AuthorityInformation, Bundle, CertificateAuthority, DistinguishedName, GeneralName,
    KeyAlgorithm, PrivateKey, Validity, chain_to_pem, self_sign,
};

fn now() -> Timestamp {
    "2026-03-01T12:00:00Z".parse().unwrap()
}

/// The server, a driver with a folder for keys, and one volume.
struct World {
    server: FakeServer,
    surroundings: Surroundings,
    issuer: Arc<dyn Issuer>,
    volume: Volume,
    _folder: tempfile::TempDir,
}

struct Volume {
    id: VolumeId,
    key: Arc<PrivateKey>,
    spec: CertificateSpec,
    handle: HandleInMemory,
    previous: Option<Certificate>,
}

impl World {
    async fn new() -> Self {
        Self::with("").await
    }

    /// With more fields for the issuer.
    async fn with(fields: &str) -> Self {
        let server = FakeServer::start().await;
        let folder = tempfile::tempdir().unwrap();
        let surroundings = Surroundings {
            state_dir: Some(folder.path().to_owned()),
            ..Surroundings::new(Clock::from_fn(now), "node-1")
        };
        let issuer = issuer(&server, fields, &surroundings);
        let volume = Volume::new("uid");
        let (chain, other) = (volume.signed_by("root"), volume.signed_by("other root"));
        server.sign(chain, other);
        Self { server, surroundings, issuer, volume, _folder: folder }
    }

    async fn attempt(&self) -> Result<Issued, IssueError> {
        self.volume.attempt(self.issuer.as_ref()).await
    }

    async fn error(&self) -> IssueError {
        self.attempt().await.unwrap_err()
    }
}

fn issuer(server: &FakeServer, fields: &str, surroundings: &Surroundings) -> Arc<dyn Issuer> {
    let text = format!(
        "{{apiVersion: certmount.dev/v1alpha1, kind: ClusterIssuer, metadata: {{name: acme}}, spec: \
         {{acme: {{server: '{}', privateKeySecretRef: {{name: account}}, \
         solvers: [{{http01: {{}}}}]{fields}}}}}}}",
        server.directory()
    );
    let Object::Issuer(object) = object::parse(&text).remove(0).unwrap().object else {
        panic!("it is an issuer")
    };
    build(&object, &Materials::default(), surroundings).unwrap()
}

impl Volume {
    fn new(uid: &str) -> Self {
        let mut spec = fixture::spec(86_400);
        spec.issuer = fixture::cluster_issuer("acme");
        spec.template.subject_alt_names = vec![GeneralName::dns("web.example").unwrap()];
        Self {
            id: VolumeId::of_inline_volume(uid, "tls"),
            key: Arc::new(PrivateKey::generate(KeyAlgorithm::EcdsaP256).unwrap()),
            spec,
            handle: HandleInMemory::default(),
            previous: None,
        }
    }

    async fn attempt(&self, issuer: &dyn Issuer) -> Result<Issued, IssueError> {
        Ok(self.attempt_with_warnings(issuer).await?.0)
    }

    /// Also what the CA has to say beside the certificate.
    async fn attempt_with_warnings(
        &self,
        issuer: &dyn Issuer,
    ) -> Result<(Issued, Vec<String>), IssueError> {
        let asking = Asking::new(&self.spec, Arc::clone(&self.key));
        let order = Order {
            requester: Requester::Volume {
                id: &self.id,
                pod: &fixture::pod("web", "web-0", "default"),
            },
            previous: self.previous.as_ref(),
            handle: &self.handle,
            ..asking.order()
        };
        let issued = issuer.issue(order).await?;
        Ok((issued, asking.warnings.into_vec()))
    }

    /// PEM of a leaf for this volume below an intermediate of a root with that name.
    fn signed_by(&self, root: &str) -> String {
        let validity = Validity {
            not_before: now() - Duration::from_secs(60),
            not_after: now() + Duration::from_secs(86_400),
        };
        let information = AuthorityInformation::default();
        let key = || Arc::new(PrivateKey::generate(KeyAlgorithm::EcdsaP256).unwrap());
        let ca = |name: &str| ca_template(&format!("CN={name}"));
        let root_key = key();
        let root = self_sign(&ca(root), &root_key, validity, &information).unwrap();
        let root = CertificateAuthority::new(vec![root], Vec::new(), root_key).unwrap();
        let middle_key = key();
        let public = middle_key.public_key_info();
        let middle = root.sign(&ca("intermediate"), public, validity, &information).unwrap();
        let middle = CertificateAuthority::new(
            vec![middle, root.certificate().clone()],
            Vec::new(),
            middle_key,
        )
        .unwrap();
        let public = self.key.public_key_info();
        let leaf = middle.sign(&self.spec.template, public, validity, &information).unwrap();
        chain_to_pem([&leaf, middle.certificate()])
    }
}

#[tokio::test]
async fn an_order_becomes_a_chain_that_a_volume_takes() {
    let world = World::new().await;
    let issued = world.attempt().await.unwrap();
    let volume = &world.volume;
    let bundle = Bundle::new(
        Arc::clone(&volume.key),
        issued,
        &volume.spec.template,
        volume.spec.duration,
        now(),
    );
    assert_eq!(bundle.unwrap().leaf().issuer(), "CN=intermediate");
    assert_eq!(
        world.server.payloads("/order")[0],
        json!({"identifiers": [
        {"type": "dns", "value": "web.example"}]})
    );

    // One account for all volumes, also after a restart.
    Volume::new("other").attempt(world.issuer.as_ref()).await.unwrap();
    let again = issuer(&world.server, "", &world.surroundings);
    Volume::new("third").attempt(again.as_ref()).await.unwrap();
    assert_eq!(world.server.accounts(), 1);
    let made = |sent: &serde_json::Value| sent["termsOfServiceAgreed"] == true;
    assert_eq!(world.server.payloads("/account").iter().filter(|sent| made(sent)).count(), 1);
}

/// Killed at every step at which it waits for the server, whose answer is lost.
#[tokio::test]
async fn what_was_cut_off_goes_on_with_the_same_order() {
    let mut cuts = 0;
    for cut in 1.. {
        let world = World::new().await;
        world.server.hang_at(cut);
        let cut_off = tokio::select! {
            issued = world.attempt() => {
                issued.unwrap();
                false
            }
            () = world.server.hung.notified() => true,
        };
        if !cut_off {
            break;
        }
        cuts += 1;
        world.server.behave();
        // The next process.
        let again = issuer(&world.server, "", &world.surroundings);
        world.volume.attempt(again.as_ref()).await.unwrap_or_else(|error| panic!("{cut}: {error}"));
        // What was made by a request without an answer is known to the server alone.
        let lost = world.server.asked()[cut - 1] == "POST /order";
        assert_eq!(world.server.orders(), if lost { 2 } else { 1 }, "cut at request {cut}");
        assert_eq!(world.server.accounts(), 1, "cut at request {cut}");
    }
    assert!(cuts > 10, "{cuts} steps only");
}

#[tokio::test]
async fn refusals_say_whose_fault_it_is_and_what_to_do() {
    use IssueErrorKind::{BadResponse, Config, Denied, RateLimited, Unavailable};
    let refused = problem(400, "rejectedIdentifier", "policy forbids web.example");
    let limited = problem(429, "rateLimited", "slow down").with(&[("retry-after", "120")]);
    let cases: [(&str, Answer, IssueErrorKind, &str); 9] = [
        ("/order", limited, RateLimited, "slow down"),
        ("/order", refused, Denied, "policy forbids web.example"),
        ("/order", problem(500, "serverInternal", "oops"), Unavailable, "oops"),
        ("/order", problem(403, "userActionRequired", "new terms"), Config, "terms of service"),
        (
            "/account",
            problem(403, "externalAccountRequired", "who?"),
            Config,
            "externalAccountBinding",
        ),
        ("/order", html(503), Unavailable, "status 503"),
        ("/dir", html(200), BadResponse, "instead of JSON"),
        (
            "/cert/0",
            Answer { status: 200, headers: &[], body: "nonsense".to_owned() },
            BadResponse,
            "",
        ),
        ("/finalize/0", problem(400, "badCSR", "no such curve"), Denied, "no such curve"),
    ];
    for (path, answer, kind, words) in cases {
        let world = World::new().await;
        let status = answer.status;
        world.server.answer(path, answer);
        let error = match world.attempt().await {
            // A certificate that cannot be read may be an empty list of them.
            Ok(issued) if path == "/cert/0" => {
                assert!(issued.chain.is_empty());
                continue;
            }
            Ok(issued) => panic!("{path} {status}: {issued:?}"),
            Err(error) => error,
        };
        assert_eq!(error.kind, kind, "{path} {status}: {error}");
        assert!(error.message.contains(words), "{path} {status}: {error}");
        assert!(!error.message.contains("secret of a proxy"), "{error}");
        if kind == RateLimited {
            assert_eq!(error.retry_after, Some(Duration::from_secs(120)));
        }
    }
}

#[tokio::test]
async fn a_limit_is_kept_by_all_volumes_of_the_issuer() {
    let world = World::new().await;
    let limit = problem(429, "rateLimited", "too many new orders").with(&[("retry-after", "120")]);
    world.server.answer("/order", limit);
    world.error().await;
    let asked = world.server.asked().len();
    // Another volume, and an issuer that was made anew.
    for issuer in [Arc::clone(&world.issuer), issuer(&world.server, "", &world.surroundings)] {
        let error = Volume::new("other").attempt(issuer.as_ref()).await;
        if let Err(error) = error {
            assert_eq!(error.kind, IssueErrorKind::RateLimited);
            assert!(error.message.contains("too many new orders"), "{error}");
            assert!(error.retry_after.unwrap() > Duration::from_secs(100));
        } else {
            panic!("the server was asked");
        }
    }
    let orders = world.server.asked()[asked..].iter().filter(|line| *line == "POST /order").count();
    assert_eq!(orders, 0);
}

#[tokio::test]
async fn a_challenge_that_fails_is_told_with_what_to_look_at_and_ordered_anew() {
    let world = World::new().await;
    let kind = "urn:ietf:params:acme:error:connection";
    world.server.refuse_challenges(json!({"type": kind, "detail": "Connection refused"}));
    let error = world.error().await;
    assert_eq!(error.kind, IssueErrorKind::Denied);
    for words in
        ["web.example", "http-01", "Connection refused", "port 80", "--acme-http01-address"]
    {
        assert!(error.message.contains(words), "{error}");
    }
    world.server.behave();
    world.attempt().await.unwrap();
    assert_eq!(world.server.orders(), 2);
}

#[tokio::test]
async fn an_order_that_the_ca_gives_up_is_told_and_made_anew() {
    let world = World::new().await;
    let given_up = json!({
        "status": "invalid",
        "identifiers": [{"type": "dns", "value": "web.example"}],
        "authorizations": [],
        "finalize": world.server.directory(),
        "error": {"type": "urn:ietf:params:acme:error:caa", "detail": "CAA forbids it"},
    });
    for _ in 0..2 {
        let body = given_up.to_string();
        world.server.answer("/order/0", Answer { status: 200, headers: &[], body });
    }
    let error = world.error().await;
    assert_eq!(error.kind, IssueErrorKind::Denied);
    assert!(error.message.contains("given up the order: CAA forbids it (caa)"), "{error}");
    world.attempt().await.unwrap();
    assert_eq!(world.server.orders(), 2);
}

#[tokio::test]
async fn nonces_may_be_thrown_away_and_accounts_forgotten() {
    let world = World::new().await;
    for _ in 0..3 {
        world.server.answer("/order", problem(400, "badNonce", "stale"));
    }
    world.attempt().await.unwrap();

    // But not for ever.
    for _ in 0..50 {
        world.server.answer("/order", problem(400, "badNonce", "stale"));
    }
    let orders = || world.server.payloads("/order").len();
    let asked = orders();
    let error = Volume::new("other").attempt(world.issuer.as_ref()).await.unwrap_err();
    assert_eq!(error.kind, IssueErrorKind::Unavailable);
    assert!(error.message.contains("badNonce"), "{error}");
    assert_eq!(orders() - asked, 10);
    world.server.behave();

    world.server.answer("/order", problem(400, "accountDoesNotExist", "who?"));
    let error = Volume::new("other").attempt(world.issuer.as_ref()).await.unwrap_err();
    assert_eq!(error.kind, IssueErrorKind::Unavailable);
    Volume::new("other").attempt(world.issuer.as_ref()).await.unwrap();
}

#[tokio::test]
async fn a_server_that_is_down_is_unavailable() {
    let world = World::new().await;
    let World { server, issuer, volume, .. } = world;
    drop(server);
    // The port may be freed a moment later.
    let error = loop {
        match volume.attempt(issuer.as_ref()).await {
            Err(error) => break error,
            Ok(_) => volume.handle.0.lock().unwrap().take(),
        };
    };
    assert_eq!(error.kind, IssueErrorKind::Unavailable, "{error}");
    assert!(error.message.contains("127.0.0.1"), "{error}");
}

#[tokio::test]
async fn the_preferred_chain_is_taken_where_there_is_one() {
    for (preferred, taken) in
        [("root", "CN=root"), ("other root", "CN=other root"), ("none", "CN=root")]
    {
        let world = World::with(&format!(", preferredChain: {preferred}")).await;
        let attempt = world.volume.attempt_with_warnings(world.issuer.as_ref()).await;
        let (issued, warnings) = attempt.unwrap();
        assert_eq!(issued.chain.last().unwrap().issuer(), taken, "{preferred}");
        match preferred {
            "none" => {
                let [warning] = &warnings[..] else { panic!("{warnings:?}") };
                assert!(
                    warning.contains("no chain to none, only to other root, root"),
                    "{warning}"
                );
            }
            _ => assert!(warnings.is_empty(), "{warnings:?}"),
        }
    }
}

#[tokio::test]
async fn a_probe_says_what_an_order_would_run_into_and_makes_nothing() {
    use IssueErrorKind::{BadResponse, Config, Unavailable};
    let world = World::new().await;
    let probe = async |issuer: Arc<dyn Issuer>| issuer.probe(&no_issuers()).await;
    probe(Arc::clone(&world.issuer)).await.unwrap();
    assert_eq!((world.server.accounts(), world.server.asked()), (0, vec!["GET /dir".to_owned()]));
    assert!(std::fs::read_dir(world._folder.path()).unwrap().next().is_none(), "no key is made");

    // The account that an order made is found.
    world.attempt().await.unwrap();
    let again = || issuer(&world.server, "", &world.surroundings);
    probe(again()).await.unwrap();
    assert_eq!((world.server.accounts(), world.server.orders()), (1, 1));

    let deactivated =
        Answer { status: 200, headers: &[], body: json!({"status": "deactivated"}).to_string() };
    let directory = |meta: serde_json::Value| {
        let url = |name: &str| world.server.directory().replace("/dir", name);
        let directory = json!({"newNonce": url("/nonce"), "newAccount": url("/account"),
            "newOrder": url("/order"), "meta": meta});
        Answer { status: 200, headers: &[], body: directory.to_string() }
    };
    let unknown = problem(400, "accountDoesNotExist", "who?");
    let bound = directory(json!({"externalAccountRequired": true}));
    let profiles = directory(json!({"profiles": {"classic": "90 days"}}));
    for (answers, fields, kind, words) in [
        (vec![("/account", deactivated)], "", Config, "is deactivated at"),
        (vec![("/account", problem(401, "unauthorized", "no"))], "", Config, "unauthorized"),
        (vec![("/dir", bound), ("/account", unknown)], "", Config, "externalAccountBinding"),
        (vec![("/dir", profiles)], ", profile: short", Config, "write one of classic"),
        (vec![("/dir", html(503))], "", Unavailable, "status 503"),
        (vec![("/dir", html(200))], "", BadResponse, "instead of JSON"),
    ] {
        for (path, answer) in answers {
            world.server.answer(path, answer);
        }
        let error = probe(issuer(&world.server, fields, &world.surroundings)).await.unwrap_err();
        assert_eq!(error.kind, kind, "{error}");
        assert!(error.message.contains(words), "{error}");
    }
    assert_eq!((world.server.accounts(), world.server.orders()), (1, 1));
}

#[tokio::test]
async fn an_intermediate_without_names_is_told_where_to_write_them() {
    let world = World::new().await;
    let spec = CertificateSpec {
        template: ca_template("CN=certmount mesh node-1"),
        ..world.volume.spec.clone()
    };
    let asking = Asking::new(&spec, Arc::clone(&world.volume.key));
    let mesh = crate::issuer::IssuerKey {
        group: object::GROUP.to_owned(),
        kind: "ClusterIssuer".to_owned(),
        namespace: None,
        name: "mesh".to_owned(),
    };
    let requester = Requester::Node { name: "node-1", issuer: &mesh };
    let error = world.issuer.issue(Order { requester, ..asking.order() }).await.unwrap_err();
    assert_eq!(error.kind, IssueErrorKind::Config);
    assert!(error.message.contains("write dnsNames into ClusterIssuer mesh"), "{error}");
    assert_eq!(world.server.asked(), [""; 0]);
}

#[tokio::test]
async fn pasted_ingress_solvers_are_taken_with_a_word_about_what_they_need() {
    let world = World::new().await;
    assert_eq!(world.issuer.warning(now()), None);
    for field in ["ingress: {ingressClassName: nginx}", "gatewayHTTPRoute: {parentRefs: []}"] {
        let text = format!(
            "{{apiVersion: certmount.dev/v1alpha1, kind: ClusterIssuer, metadata: {{name: acme}}, \
             spec: {{acme: {{server: '{}', privateKeySecretRef: {{name: account}}, \
             solvers: [{{http01: {{{field}}}}}]}}}}}}",
            world.server.directory()
        );
        let Object::Issuer(object) = object::parse(&text).remove(0).unwrap().object else {
            panic!("it is an issuer")
        };
        let issuer = build(&object, &Materials::default(), &world.surroundings).unwrap();
        let warning = issuer.warning(now()).unwrap();
        let name = field.split(':').next().unwrap();
        assert!(warning.starts_with(&format!("http01.{name} of cert-manager")), "{warning}");
        assert!(warning.contains("--acme-http01-address"), "{warning}");
    }
}

#[tokio::test]
async fn a_renewal_says_what_it_replaces_unless_that_was_replaced() {
    let mut world = World::new().await;
    let first = world.attempt().await.unwrap();
    let leaf = first.chain[0].clone();
    let advice = world.issuer.renewal(&leaf).await.unwrap().unwrap();
    let window = ("2026-03-10T00:00:00Z".parse().unwrap(), "2026-03-11T00:00:00Z".parse().unwrap());
    assert_eq!(advice.window, Some(window));
    assert_eq!(advice.ask_again, Duration::from_secs(6 * 3600));
    let fields = ", renewalInformationSource: None";
    let silent = issuer(&world.server, fields, &world.surroundings);
    assert!(silent.renewal(&leaf).await.unwrap().is_none());

    world.volume.handle = HandleInMemory::default();
    world.volume.previous = Some(leaf.clone());
    world.attempt().await.unwrap();
    let replaced = renewal::identifier(&leaf).unwrap();
    assert_eq!(world.server.payloads("/order")[1]["replaces"], json!(replaced));

    world.volume.handle = HandleInMemory::default();
    world.server.answer("/order", problem(409, "alreadyReplaced", "it was replaced"));
    world.attempt().await.unwrap();
    let orders = world.server.payloads("/order");
    assert!(orders[2]["replaces"].is_string() && orders[3].get("replaces").is_none());
}

#[tokio::test]
async fn a_certificate_that_is_no_use_is_ordered_anew_and_not_fetched_for_ever() {
    let world = World::new().await;
    world.attempt().await.unwrap();
    // The volume did not take it: the handle is still there. It is the same certificate.
    world.attempt().await.unwrap();
    assert_eq!(world.server.orders(), 1);
    world.server.sign(Volume::new("other").signed_by("root"), String::new());
    world.attempt().await.unwrap();
    assert_eq!(world.server.orders(), 2, "it is for another key");
}

#[tokio::test]
async fn names_that_acme_does_not_know_are_refused_before_the_server_is_asked() {
    let world = World::new().await;
    let mut volume = Volume::new("other");
    let names = &mut volume.spec.template.subject_alt_names;
    names.push(GeneralName::uri("spiffe://cluster.local/ns/web/sa/default").unwrap());
    let error = volume.attempt(world.issuer.as_ref()).await.unwrap_err();
    assert_eq!(error.kind, IssueErrorKind::Request);
    assert!(error.message.contains("spiffe://"), "{error}");
    volume.spec.template.subject_alt_names.clear();
    volume.spec.template.subject = DistinguishedName::from_rfc4514("CN=web.example").unwrap();
    let error = volume.attempt(world.issuer.as_ref()).await.unwrap_err();
    assert!(error.message.contains("dns-names"), "{error}");
    assert_eq!(world.server.asked(), [""; 0]);
}

#[tokio::test]
async fn no_solver_for_a_name_is_the_issuer_s_fault() {
    let server = FakeServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let surroundings = Surroundings {
        state_dir: Some(folder.path().to_owned()),
        ..Surroundings::new(Clock::from_fn(now), "node-1")
    };
    let text = format!(
        "{{apiVersion: certmount.dev/v1alpha1, kind: ClusterIssuer, metadata: {{name: acme}}, spec: \
         {{acme: {{server: '{}', privateKeySecretRef: {{name: account}}, solvers: [\
         {{selector: {{dnsZones: [other]}}, http01: {{}}}}, {{tlsALPN01: {{}}}}]}}}}}}",
        server.directory()
    );
    let Object::Issuer(object) = object::parse(&text).remove(0).unwrap().object else {
        panic!("it is an issuer")
    };
    let issuer = build(&object, &Materials::default(), &surroundings).unwrap();
    let error = Volume::new("uid").attempt(issuer.as_ref()).await.unwrap_err();
    assert_eq!(error.kind, IssueErrorKind::Config);
    assert!(error.message.contains("offers http-01"), "{error}");
}
