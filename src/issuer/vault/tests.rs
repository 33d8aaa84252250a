use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::response::IntoResponse as _;
use futures_util::future::join_all;
use http_body_util::BodyExt as _;
use serde_json::{Value, json};

use super::*;
use crate::clock::Clock;
use crate::issuer::fixture::{Asking, no_issuers};
use crate::issuer::{IssuerKey, Requester, build};
use crate::spec::fixture;
use crate::spec::object::{self, Object, SecretObject};
use crate::spec::request::CertificateSpec;
use crate::spec::tokens::PodTokens;
use crate::spec::volume::VolumeId;
use crate::x509::{
    DistinguishedName, KeyUsages, NameConstraints, PrivateKey, Template, Validity, chain_to_pem,
    self_sign,
};

/// What the server was asked.
#[derive(Clone, Debug)]
struct Asked {
    path: String,
    token: String,
    namespace: String,
    body: Value,
}

/// A server that answers as a function says, and takes down what it was asked.
#[derive(Clone)]
struct Mock {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Mock {
    async fn start(answer: impl Fn(&Asked) -> (u16, Value) + Send + Sync + 'static) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (heard, answer) = (Arc::clone(&asked), Arc::new(answer));
        let app = Router::new().fallback(move |request: Request| {
            let (heard, answer) = (Arc::clone(&heard), Arc::clone(&answer));
            async move {
                let (parts, body) = request.into_parts();
                let header = |name: &str| {
                    let value = parts.headers.get(name).map(|value| value.to_str().unwrap());
                    value.unwrap_or_default().to_owned()
                };
                assert_eq!(header("x-vault-request"), "true");
                let asked = Asked {
                    path: parts.uri.path().trim_start_matches("/v1/").to_owned(),
                    token: header("x-vault-token"),
                    namespace: header("x-vault-namespace"),
                    body: serde_json::from_slice(&body.collect().await.unwrap().to_bytes())
                        .unwrap_or_default(),
                };
                heard.lock().unwrap().push(asked.clone());
                let (status, body) = answer(&asked);
                let status = StatusCode::from_u16(status).unwrap();
                (status, axum::Json(body)).into_response()
            }
        });
        tokio::spawn(async move { axum::serve(listener, app).await });
        Self { address, asked }
    }

    fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }

    fn count(&self, path: &str) -> usize {
        self.asked().iter().filter(|asked| asked.path == path).count()
    }

    async fn until(&self, path: &str, times: usize) {
        while self.count(path) < times {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// A cluster-wide issuer that has this server sign.
    fn issuer(&self, auth: &str) -> Arc<dyn Issuer> {
        self.issuer_with("pki/sign/web", auth)
    }

    fn issuer_with(&self, path: &str, auth: &str) -> Arc<dyn Issuer> {
        let spec = format!(
            "{{server: 'http://{}', path: {path}, namespace: team, caBundle: {}, auth: {auth}}}",
            self.address,
            base64::Engine::encode(&base64::engine::general_purpose::STANDARD, certificate()),
        );
        build_from("ClusterIssuer, metadata: {name: vault}", &spec).unwrap()
    }
}

fn build_from(kind_and_metadata: &str, spec: &str) -> Result<Arc<dyn Issuer>, String> {
    let text = format!(
        "{{apiVersion: certmount.dev/v1alpha1, kind: {kind_and_metadata}, spec: {{vault: {spec}}}}}"
    );
    let object = match object::parse(&text).remove(0).map_err(|error| error.message)?.object {
        Object::Issuer(issuer) => *issuer,
        other => panic!("{other:?}"),
    };
    let values = [("token", "t0ken-of-a-secret\n"), ("secretId", "s3cret-id")];
    let values = values.map(|(k, v)| (k.to_owned(), Zeroizing::new(v.as_bytes().to_vec())));
    let materials = Materials::default()
        .with_secret("vault", Ok(SecretObject::new(None, "vault".to_owned(), values)));
    let surroundings = Surroundings::new(Clock::from_fn(now), "node-1");
    build(&object, &materials, &surroundings).map_err(|error| crate::error::with_causes(&error))
}

fn now() -> crate::clock::Timestamp {
    "2026-03-01T12:00:00Z".parse().unwrap()
}

fn template() -> Template {
    Template {
        subject: DistinguishedName::default(),
        subject_alt_names: vec![
            GeneralName::dns("web.shop.svc").unwrap(),
            GeneralName::uri("spiffe://td/ns/shop").unwrap(),
        ],
        usages: KeyUsages::default(),
        basic_constraints: BasicConstraints::EndEntity,
        name_constraints: NameConstraints::default(),
    }
}

/// Some certificate.
fn certificate() -> String {
    let key = PrivateKey::generate(KeyAlgorithm::EcdsaP256).unwrap();
    let validity = Validity { not_before: now(), not_after: now() + Duration::from_secs(3600) };
    chain_to_pem([&self_sign(&template(), &key, validity, &Default::default()).unwrap()])
}

/// In place of a service account: the node asks.
const NODE: &str = "-";

/// An order of the pod `web-0` that runs as `account`, and what the server said beside it.
async fn order(
    issuer: &dyn Issuer,
    template: Template,
    account: &str,
    tokens: &PodTokens,
) -> (Result<Issued, IssueError>, Vec<String>) {
    let asking = Asking::for_new_key(&CertificateSpec { template, ..fixture::spec(3600) });
    let pod = fixture::pod("shop", "web-0", account);
    let id = VolumeId::of_inline_volume("uid-1", "tls");
    let key_of_issuer = IssuerKey {
        group: "certmount.dev".to_owned(),
        kind: "ClusterIssuer".to_owned(),
        name: "chained".to_owned(),
        namespace: None,
    };
    let requester = match account {
        NODE => Requester::Node { name: "node-1", issuer: &key_of_issuer },
        _ => Requester::Volume { id: &id, pod: &pod },
    };
    let issued = issuer.issue(Order { requester, tokens, ..asking.order() }).await;
    (issued, asking.warnings.into_vec())
}

async fn issue(issuer: &dyn Issuer) -> Result<Issued, IssueError> {
    order(issuer, template(), "web", &PodTokens::default()).await.0
}

fn refused(error: IssueError) -> (IssueErrorKind, String) {
    let text = crate::error::with_causes(&error);
    for secret in ["t0ken", "s3cret"] {
        assert!(!text.contains(secret), "{text}");
    }
    (error.kind, text)
}

/// Lets everybody in for `lease` seconds and signs everything.
fn willing(lease: u64) -> impl Fn(&Asked) -> (u16, Value) + Send + Sync + 'static {
    let certificate = certificate();
    let logins = Mutex::new(0);
    move |asked| match asked.path.as_str() {
        path if path.ends_with("/login") => {
            let mut logins = logins.lock().unwrap();
            *logins += 1;
            let token = format!("t0ken-{logins}");
            (
                200,
                json!({"auth": {"client_token": token, "lease_duration": lease,
                "renewable": true, "token_type": "service"}}),
            )
        }
        "auth/token/renew-self" => (
            200,
            json!({"auth": {"client_token": asked.token,
            "lease_duration": lease, "renewable": true, "token_type": "service"}}),
        ),
        "auth/token/lookup-self" => (200, json!({"data": {"ttl": lease, "renewable": true}})),
        "auth/token/revoke-self" => (204, Value::Null),
        "sys/capabilities-self" => (200, json!({"data": {"pki/sign/web": ["update"]}})),
        _ => (
            200,
            json!({"data": {"certificate": certificate, "issuing_ca": certificate},
            "warnings": ["the alt_names field was provided but the role is set with \
                \"use_csr_sans\" set to true", "TTL is longer than permitted"]}),
        ),
    }
}

fn forbidden() -> (u16, Value) {
    (403, json!({"errors": ["permission denied"]}))
}

const APP_ROLE: &str = "{appRole: {roleId: role-1, secretRef: {name: vault}}}";
const TOKEN: &str = "{tokenSecretRef: {name: vault}}";
const LOGIN: &str = "auth/approle/login";
const SIGN: &str = "pki/sign/web";

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_at_once_cost_one_login() {
    let mock = Mock::start(willing(3600)).await;
    let issuer = mock.issuer(APP_ROLE);
    let issued = join_all((0..200).map(|_| issue(&*issuer))).await;
    assert!(issued.iter().all(Result::is_ok));
    assert_eq!((mock.count(LOGIN), mock.count(SIGN)), (1, 200));
}

// On one thread, all have asked before the server answers the first.
#[tokio::test]
async fn two_hundred_at_once_share_a_failed_login() {
    let mock = Mock::start(|_| (400, json!({"errors": ["invalid role or secret ID"]}))).await;
    let issuer = mock.issuer(APP_ROLE);
    for issued in join_all((0..200).map(|_| issue(&*issuer))).await {
        let (kind, text) = refused(issued.unwrap_err());
        assert_eq!(kind, IssueErrorKind::Config);
        assert!(text.contains("invalid role or secret ID"), "{text}");
        assert!(text.contains("secret_id_num_uses=0"), "{text}");
    }
    // Those that came when it was known already tried once more.
    assert!(mock.count(LOGIN) < 5, "{}", mock.count(LOGIN));
}

#[tokio::test]
async fn the_request_says_all_that_a_role_may_want() {
    let mock = Mock::start(willing(3600)).await;
    let issuer = mock.issuer(APP_ROLE);
    let (issued, warnings) = order(&*issuer, template(), "web", &PodTokens::default()).await;
    assert_eq!(issued.unwrap().chain.len(), 1, "the same certificate is there once");
    assert!(
        warnings[0].ends_with("TTL is longer than permitted") && warnings.len() == 1,
        "{warnings:?}"
    );

    let [login, sign] = mock.asked().try_into().unwrap();
    assert_eq!(login.body, json!({"role_id": "role-1", "secret_id": "s3cret-id"}));
    assert_eq!((login.namespace.as_str(), sign.namespace.as_str()), ("team", "team"));
    assert_eq!((sign.path.as_str(), sign.token.as_str()), (SIGN, "t0ken-1"));
    assert_eq!(sign.body["ttl"], "3600s");
    assert_eq!(sign.body["alt_names"], "web.shop.svc");
    assert_eq!(sign.body["uri_sans"], "spiffe://td/ns/shop");
    assert!(sign.body["csr"].as_str().unwrap().starts_with("-----BEGIN CERTIFICATE REQUEST"));
}

#[tokio::test]
async fn a_ca_is_signed_as_an_intermediate() {
    let mock = Mock::start(willing(3600)).await;
    let ca = Template {
        subject: DistinguishedName::from_rfc4514("CN=node").unwrap(),
        subject_alt_names: Vec::new(),
        usages: KeyUsages::default(),
        basic_constraints: BasicConstraints::Ca { path_len: None },
        name_constraints: NameConstraints {
            permitted: vec![NameSubtree::Dns("svc.cluster.local".to_owned())],
            excluded: Vec::new(),
        },
    };
    let issuer = mock.issuer(APP_ROLE);
    order(&*issuer, ca.clone(), NODE, &PodTokens::default()).await.0.unwrap();
    let sign = mock.asked().pop().unwrap();
    assert_eq!(sign.path, "pki/root/sign-intermediate");
    assert_eq!(sign.body["max_path_length"], "0");
    assert_eq!(sign.body["use_csr_values"], true);
    assert_eq!(sign.body["permitted_dns_domains"], json!(["svc.cluster.local"]));

    let issuer = mock.issuer_with("pki/issuer/a/sign-intermediate", APP_ROLE);
    order(&*issuer, ca, "web", &PodTokens::default()).await.0.unwrap();
    assert_eq!(mock.asked().pop().unwrap().path, "pki/issuer/a/sign-intermediate");
    let (kind, text) = refused(issue(&*issuer).await.unwrap_err());
    assert_eq!(kind, IssueErrorKind::Request);
    assert!(text.contains("signs CAs only"), "{text}");
}

#[tokio::test]
async fn a_token_that_ended_is_replaced_once() {
    let willing = willing(3600);
    let mock = Mock::start(move |asked| match asked.token.as_str() {
        "t0ken-1" => forbidden(),
        _ => willing(asked),
    })
    .await;
    let issuer = mock.issuer(APP_ROLE);
    issue(&*issuer).await.unwrap();
    issue(&*issuer).await.unwrap();
    assert_eq!((mock.count(LOGIN), mock.count(SIGN)), (2, 3));
}

#[tokio::test]
async fn a_policy_that_says_no_is_not_asked_for_tokens_again_and_again() {
    let willing = willing(3600);
    let mock = Mock::start(move |asked| match asked.path.as_str() {
        SIGN => forbidden(),
        _ => willing(asked),
    })
    .await;
    let issuer = mock.issuer(APP_ROLE);
    for _ in 0..5 {
        let (kind, text) = refused(issue(&*issuer).await.unwrap_err());
        assert_eq!(kind, IssueErrorKind::Config);
        assert!(text.contains("AppRole role-1 may not update pki/sign/web"), "{text}");
        assert!(text.contains(r#"path "pki/sign/web" { capabilities = ["update"] }"#), "{text}");
    }
    assert_eq!(mock.count(LOGIN), 1);
}

#[tokio::test]
async fn a_given_token_that_ended_is_told() {
    let mock = Mock::start(|_| forbidden()).await;
    let (kind, text) = refused(issue(&*mock.issuer(TOKEN)).await.unwrap_err());
    assert_eq!(kind, IssueErrorKind::Config);
    assert!(text.contains("put a new one there"), "{text}");
    assert_eq!(mock.asked()[0].token, "t0ken-of-a-secret", "without the line's end");
}

#[tokio::test]
async fn refusals_say_what_to_do() {
    use IssueErrorKind::{Config, Denied, Unavailable};
    for (status, said, kind, words) in [
        (400, "role requires keys of type rsa", Denied, "key_type=any"),
        (400, "unknown role: web", Config, "no such role"),
        (
            400,
            "the common_name field is required, unless \"require_cn\" is false",
            Denied,
            "give the volume a common-name",
        ),
        (400, "subject alternate name x not allowed by this role", Denied, "allowed_domains"),
        (404, "no handler for route", Config, "correct the issuer's path"),
        (503, "Vault is sealed", Unavailable, "Vault is sealed"),
        (500, "1 error occurred:\n\t* internal", Unavailable, "1 error occurred:  * internal"),
        (473, "", Unavailable, "473"),
    ] {
        let willing = willing(3600);
        let mock = Mock::start(move |asked| match asked.path.as_str() {
            SIGN => (status, json!({"errors": [said]})),
            _ => willing(asked),
        })
        .await;
        let (got, text) = refused(issue(&*mock.issuer(APP_ROLE)).await.unwrap_err());
        assert_eq!(got, kind, "{text}");
        assert!(text.contains(words), "{text}");
        assert!(text.contains("http://127.0.0.1:"), "says which server: {text}");
    }
}

#[tokio::test]
async fn a_token_is_renewed_while_it_is_used_and_given_back_in_the_end() {
    let mock = Mock::start(willing(3)).await;
    let issuer = mock.issuer(APP_ROLE);
    issue(&*issuer).await.unwrap();
    mock.until("auth/token/renew-self", 1).await;
    issue(&*issuer).await.unwrap();
    assert_eq!(mock.count(LOGIN), 1, "the lease was made longer");
    issuer.close().await;
    let last = mock.asked().pop().unwrap();
    assert_eq!((last.path.as_str(), last.token.as_str()), ("auth/token/revoke-self", "t0ken-1"));
}

#[tokio::test]
async fn a_token_that_nobody_uses_is_given_back() {
    let mock = Mock::start(willing(1)).await;
    let issuer = mock.issuer(APP_ROLE);
    issue(&*issuer).await.unwrap();
    mock.until("auth/token/revoke-self", 1).await;
    assert_eq!(mock.count("auth/token/renew-self"), 1);
    issue(&*issuer).await.unwrap();
    assert_eq!(mock.count(LOGIN), 2);
}

#[tokio::test]
async fn an_issuer_that_goes_gives_its_token_back() {
    let mock = Mock::start(willing(3600)).await;
    let issuer = mock.issuer(APP_ROLE);
    issue(&*issuer).await.unwrap();
    drop(issuer);
    mock.until("auth/token/revoke-self", 1).await;
}

#[tokio::test]
async fn a_given_token_is_renewed_and_never_revoked() {
    let mock = Mock::start(willing(1)).await;
    let issuer = mock.issuer(TOKEN);
    issue(&*issuer).await.unwrap();
    mock.until("auth/token/renew-self", 2).await;
    issuer.close().await;
    assert_eq!(mock.count("auth/token/revoke-self"), 0);
}

fn pod_tokens(token: &str, expires: &str) -> PodTokens {
    let json = json!({"vault": {"token": token, "expirationTimestamp": expires}});
    PodTokens::from_json(&json.to_string()).unwrap()
}

#[tokio::test]
async fn pods_log_in_as_themselves() {
    let mock = Mock::start(willing(3600)).await;
    let issuer = mock.issuer("{kubernetes: {role: certmount, podIdentity: {audience: vault}}}");
    let tokens = pod_tokens("s3cret-jwt", "2026-03-01T12:10:00Z");
    for account in ["web", "web", "db"] {
        order(&*issuer, template(), account, &tokens).await.0.unwrap();
    }
    let logins: Vec<_> =
        mock.asked().into_iter().filter(|it| it.path == "auth/kubernetes/login").collect();
    assert_eq!(logins.len(), 2, "one for each service account");
    assert_eq!(logins[0].body, json!({"role": "certmount", "jwt": "s3cret-jwt"}));

    for (tokens, words) in [
        (PodTokens::default(), "no token of the pod's service account for the audience \"vault\""),
        (pod_tokens("s3cret", "2026-03-01T11:59:59Z"), "ended at 2026-03-01T11:59:59Z"),
    ] {
        let error = order(&*issuer, template(), "late", &tokens).await.0.unwrap_err();
        let (kind, text) = refused(error);
        assert_eq!(kind, IssueErrorKind::Pending, "kubelet brings a new one");
        assert!(text.contains(words) && text.contains("requiresRepublish"), "{text}");
    }
}

#[tokio::test]
async fn a_node_has_no_pod_s_identity() {
    let mock = Mock::start(willing(3600)).await;
    let issuer = mock.issuer("{jwt: {role: a, podIdentity: {}}}");
    let asked = order(&*issuer, template(), NODE, &PodTokens::default()).await.0;
    let (kind, text) = refused(asked.unwrap_err());
    assert_eq!(kind, IssueErrorKind::Config);
    assert!(text.contains("it is a node that asks"), "{text}");
}

#[tokio::test]
async fn a_probe_tells_what_stands_in_the_way() {
    let mock = Mock::start(willing(3600)).await;
    mock.issuer(APP_ROLE).probe(&no_issuers()).await.unwrap();
    assert_eq!(mock.count(SIGN), 0);

    let willing = willing(3600);
    let mock = Mock::start(move |asked| match asked.path.as_str() {
        "sys/capabilities-self" => (200, json!({"data": {SIGN: ["deny"]}})),
        "sys/health" => (503, json!({"sealed": true})),
        _ => willing(asked),
    })
    .await;
    let (_, text) = refused(mock.issuer(APP_ROLE).probe(&no_issuers()).await.unwrap_err());
    assert!(text.contains("may not update pki/sign/web"), "{text}");
    let pods = mock.issuer("{jwt: {role: a, podIdentity: {}}}");
    let (kind, text) = refused(pods.probe(&no_issuers()).await.unwrap_err());
    assert_eq!(kind, IssueErrorKind::Unavailable);
    assert!(text.contains("is sealed"), "{text}");
}

#[test]
fn what_cannot_work_is_said_before_anybody_asks() {
    let tenant = "Issuer, metadata: {name: vault, namespace: shop}";
    let admin = "ClusterIssuer, metadata: {name: vault}";
    let bundle = format!(
        "caBundle: {}",
        base64::Engine::encode(&base64::engine::general_purpose::STANDARD, certificate())
    );
    for (who, server, auth, words) in [
        (tenant, "https://127.0.0.1:8200", TOKEN, "only a ClusterIssuer may ask"),
        (tenant, "https://169.254.169.254", TOKEN, "only a ClusterIssuer may ask"),
        (tenant, "http://localhost:8200", TOKEN, "use https"),
        (admin, "https://vault", "{tokenSecretRef: {name: other}}", "there is no Secret other"),
        (
            admin,
            "https://vault",
            "{tokenSecretRef: {name: vault, key: x}}",
            "Secret vault has no x",
        ),
        (admin, "https://vault", "{clientCertificate: {secretName: vault}}", "has no tls.crt"),
        (
            admin,
            "https://vault",
            "{kubernetes: {role: a, serviceAccountRef: {name: a}}}",
            "--kubernetes",
        ),
    ] {
        let spec = format!("{{server: '{server}', path: pki/sign/web, {bundle}, auth: {auth}}}");
        let error = build_from(who, &spec).unwrap_err();
        assert!(error.contains(words), "{server} {auth}: {error}");
    }
}
