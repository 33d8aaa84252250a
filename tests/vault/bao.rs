//! OpenBao's server as a child process, with a PKI engine, and a relay before it that counts what it
//! is asked and can stand in for it.

use std::collections::BTreeMap;
use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::response::{IntoResponse as _, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use certmount::clock::Clock;
use certmount::x509::{
    BasicConstraints, Certificate, DistinguishedName, GeneralName, KeyAlgorithm, KeyEncoding,
    KeyUsages, PrivateKey, Template, Validity, certificates_from_pem, chain_to_pem, self_sign,
};
use http_body_util::BodyExt as _;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tempfile::TempDir;

/// A real server, in development mode: in memory, unsealed, with a root token.
pub struct Bao {
    server: Child,
    folder: TempDir,
    pub address: SocketAddr,
    pub relay: Relay,
    /// Trusts the server.
    pub client: reqwest::Client,
    /// The root of the CA at `pki`.
    pub root: Certificate,
    /// What the server's own certificate comes from, where it has one.
    pub server_ca: Option<String>,
}

const ROOT_TOKEN: &str = "root-token-of-the-test";

/// May sign and look at itself.
const POLICY: &str = "path \"pki/sign/*\" { capabilities = [\"update\"] }";

impl Bao {
    pub async fn start() -> Self {
        Self::start_with(false).await
    }

    pub async fn start_tls() -> Self {
        Self::start_with(true).await
    }

    async fn start_with(tls: bool) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let address = free_address();
        let log = fs::File::create(folder.path().join("log")).unwrap();
        let mut command = Command::new("bao");
        command
            .args(["server", "-dev", "-dev-no-store-token"])
            .arg(format!("-dev-root-token-id={ROOT_TOKEN}"))
            .arg(format!("-dev-listen-address={address}"))
            .env("HOME", folder.path());
        if tls {
            command.arg("-dev-tls").arg("-dev-tls-cert-dir").arg(folder.path());
        }
        let errors = log.try_clone().unwrap();
        let server = command.stdin(Stdio::null()).stdout(log).stderr(errors).spawn();
        let server = server.expect("bao is on the search path: tests/peers openbao");
        let ca_file = folder.path().join("vault-ca.pem");
        let log = folder.path().join("log");
        let running = || {
            // Printed last, when everything is there.
            fs::read_to_string(&log).unwrap().contains("Development mode should NOT be used")
        };
        until("OpenBao starts", running).await;
        let server_ca = tls.then(|| {
            let name = fs::read_dir(folder.path()).unwrap().flatten().map(|it| it.path());
            let found = name.into_iter().find(|it| it.to_string_lossy().ends_with("-ca.pem"));
            fs::read_to_string(found.unwrap_or(ca_file)).unwrap()
        });
        let mut client = reqwest::Client::builder().no_proxy();
        client = match &server_ca {
            Some(pem) => {
                client.tls_certs_only([reqwest::Certificate::from_pem(pem.as_bytes()).unwrap()])
            }
            // Roots that nobody asks, so that none of the system's are needed.
            None => client.tls_certs_only([reqwest::Certificate::from_pem(
                client_certificate().0.as_bytes(),
            )
            .unwrap()]),
        };
        let client = client.build().unwrap();
        let relay = Relay::start(client.clone(), address).await;
        let placeholder =
            certificates_from_pem(client_certificate().0.as_bytes()).unwrap().remove(0);
        let mut bao = Self { server, folder, address, relay, client, root: placeholder, server_ca };
        bao.root = bao.make_pki(None).await;
        bao
    }

    /// A PKI engine at `pki` with the role `web`, and the policy `certmount`; answers the root.
    pub async fn make_pki(&self, namespace: Option<&str>) -> Certificate {
        let put = |path, body| self.ask(Method::POST, namespace, path, body);
        put("sys/mounts/pki", json!({"type": "pki", "config": {"max_lease_ttl": "87600h"}})).await;
        let root =
            json!({"common_name": "root", "key_type": "ec", "key_bits": 256, "ttl": "87600h"});
        let root = put("pki/root/generate/internal", root).await;
        let role = json!({"key_type": "any", "require_cn": false, "allow_any_name": true,
            "enforce_hostnames": false, "no_store": true, "max_ttl": "24h"});
        put("pki/roles/web", role).await;
        put("sys/policies/acl/certmount", json!({"policy": POLICY})).await;
        let pem = text(&root["data"]["certificate"]).as_bytes();
        certificates_from_pem(pem).unwrap().remove(0)
    }

    /// AppRole, JWT and Kubernetes logins, each with the role `certmount`.
    pub async fn enable_logins(&self) {
        for method in ["approle", "jwt", "kubernetes"] {
            self.put(&format!("sys/auth/{method}"), json!({"type": method})).await;
        }
        self.put("auth/approle/role/certmount", json!({"token_policies": "certmount"})).await;
        self.put(
            "auth/jwt/role/certmount",
            json!({"role_type": "jwt", "bound_audiences": "vault", "user_claim": "sub",
                "token_policies": "certmount"}),
        )
        .await;
        self.put(
            "auth/kubernetes/role/certmount",
            json!({"bound_service_account_names": "web", "bound_service_account_namespaces": "shop",
                "token_policies": "certmount", "audience": "vault"}),
        )
        .await;
    }

    pub async fn trust(&self, public_key: &str) {
        self.put("auth/jwt/config", json!({"jwt_validation_pubkeys": [public_key]})).await;
    }

    /// The ClusterIssuer `vault` for a role of the PKI engine, with its Secret. Asks the relay.
    pub async fn app_role(&self, role: &str) -> String {
        let secret = self.app_role_secret().await;
        issuer("vault", &self.with_app_role(role).await) + &secret
    }

    /// The same that asks the server itself, over HTTPS.
    pub async fn app_role_direct(&self, role: &str) -> String {
        let secret = self.app_role_secret().await;
        let auth = self.app_role_auth().await;
        let ca = STANDARD.encode(self.server_ca.as_ref().expect("it was started with TLS"));
        let server = format!("server: 'https://{}', caBundle: {ca}", self.address);
        issuer("vault", &format!("{{{server}, path: pki/sign/{role}, {auth}}}")) + &secret
    }

    async fn app_role_secret(&self) -> String {
        self.put("sys/auth/approle", json!({"type": "approle"})).await;
        self.put("auth/approle/role/certmount", json!({"token_policies": "certmount"})).await;
        let id = self.put("auth/approle/role/certmount/secret-id", json!({})).await;
        secret(&[("secretId", text(&id["data"]["secret_id"]))])
    }

    /// The spec of an issuer for a role of the PKI engine.
    pub async fn with_app_role(&self, role: &str) -> String {
        let auth = self.app_role_auth().await;
        format!("{{server: 'http://{}', path: pki/sign/{role}, {auth}}}", self.relay.address)
    }

    /// The field `auth` of an issuer's spec.
    async fn app_role_auth(&self) -> String {
        let id = self.get("auth/approle/role/certmount/role-id").await;
        let id = text(&id["data"]["role_id"]);
        format!("auth: {{appRole: {{roleId: {id}, secretRef: {{name: vault, key: secretId}}}}}}")
    }

    /// The fields that say where it is and where it signs.
    pub fn place(&self) -> String {
        format!("server: 'http://{}', path: pki/sign/web", self.relay.address)
    }

    /// How many tokens it knows.
    pub async fn tokens(&self) -> usize {
        let list = self.ask("LIST".parse().unwrap(), None, "auth/token/accessors", json!({})).await;
        list["data"]["keys"].as_array().unwrap().len()
    }

    pub async fn put(&self, path: &str, body: Value) -> Value {
        self.ask(Method::POST, None, path, body).await
    }

    pub async fn get(&self, path: &str) -> Value {
        self.ask(Method::GET, None, path, Value::Null).await
    }

    /// As root, past the relay.
    pub async fn ask(
        &self,
        method: Method,
        namespace: Option<&str>,
        path: &str,
        body: Value,
    ) -> Value {
        let scheme = if self.server_ca.is_some() { "https" } else { "http" };
        let request = self
            .client
            .request(method, format!("{scheme}://{}/v1/{path}", self.address))
            .header("X-Vault-Token", ROOT_TOKEN)
            .header("X-Vault-Namespace", namespace.unwrap_or_default())
            .json(&body);
        let answer = request.send().await.unwrap();
        let (status, text) = (answer.status(), answer.text().await.unwrap());
        assert!(status.is_success(), "{path}: {status}: {text}");
        serde_json::from_str(&text).unwrap_or_default()
    }

    pub async fn unseal(&self) {
        let log = fs::read_to_string(self.folder.path().join("log")).unwrap();
        let key = log.lines().find_map(|line| line.split_once("Unseal Key: ")).unwrap().1;
        self.put("sys/unseal", json!({"key": key.trim()})).await;
    }
}

impl Drop for Bao {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

/// Stands before the server, counts, and stands in for it when told.
#[derive(Clone)]
pub struct Relay {
    address: SocketAddr,
    state: Arc<Mutex<RelayState>>,
}

#[derive(Default)]
struct RelayState {
    counts: BTreeMap<String, usize>,
    stand_in: Option<fn() -> Response>,
}

impl Relay {
    pub async fn start(client: reqwest::Client, server: SocketAddr) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let relay = Self { address: listener.local_addr().unwrap(), state: Arc::default() };
        let state = Arc::clone(&relay.state);
        let app = Router::new().fallback(move |request: Request| {
            let (client, state) = (client.clone(), Arc::clone(&state));
            async move {
                let (parts, body) = request.into_parts();
                let stand_in = {
                    let mut state = state.lock().unwrap();
                    let path = parts.uri.path().trim_start_matches("/v1/").to_owned();
                    *state.counts.entry(path).or_default() += 1;
                    state.stand_in
                };
                if let Some(answer) = stand_in {
                    return answer();
                }
                let body = body.collect().await.unwrap().to_bytes();
                let url = format!("http://{server}{}", parts.uri.path());
                let mut headers = parts.headers;
                headers.remove("host");
                headers.remove("content-length");
                let answer =
                    client.request(parts.method, url).headers(headers).body(body).send().await;
                match answer {
                    Ok(answer) => {
                        let status = answer.status();
                        let body = answer.bytes().await.unwrap();
                        (status, [("content-type", "application/json")], body).into_response()
                    }
                    Err(error) => (StatusCode::BAD_GATEWAY, error.to_string()).into_response(),
                }
            }
        });
        tokio::spawn(async move { axum::serve(listener, app).await });
        relay
    }

    pub fn count(&self, path: &str) -> usize {
        self.state.lock().unwrap().counts.get(path).copied().unwrap_or_default()
    }

    pub fn total(&self) -> usize {
        self.state.lock().unwrap().counts.values().sum()
    }

    pub fn stand_in(&self, answer: fn() -> Response) {
        self.state.lock().unwrap().stand_in = Some(answer);
    }
}

/// A self-signed TLS client certificate and its key.
pub fn client_certificate() -> (String, String) {
    let key = PrivateKey::generate(KeyAlgorithm::EcdsaP256).unwrap();
    let mut subject = DistinguishedName::default();
    subject.push("CN", "node").unwrap();
    let template = Template {
        subject,
        subject_alt_names: vec![GeneralName::dns("node").unwrap()],
        usages: KeyUsages::parse(["digital signature", "client auth"]).unwrap(),
        basic_constraints: BasicConstraints::EndEntity,
        name_constraints: Default::default(),
    };
    let now = Clock::system().now();
    let hour = Duration::from_secs(3600);
    let validity = Validity { not_before: now - hour, not_after: now + hour };
    let certificate = self_sign(&template, &key, validity, &Default::default()).unwrap();
    (chain_to_pem([&certificate]), key.to_pem(KeyEncoding::Pkcs8).unwrap().to_string())
}

fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

async fn until(what: &str, mut fact: impl FnMut() -> bool) {
    for _ in 0..2000 {
        if fact() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{what}: not in time");
}

pub fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("{value} is no text"))
}

/// A ClusterIssuer with `spec.vault`.
pub fn issuer(name: &str, vault: &str) -> String {
    format!(
        "---\napiVersion: certmount.dev/v1alpha1\nkind: ClusterIssuer\nmetadata: {{name: {name}}}\n\
         spec:\n  vault: {vault}\n  policy: []\n"
    )
}

/// The Secret `vault`.
pub fn secret(values: &[(&str, &str)]) -> String {
    let values: serde_json::Map<_, _> =
        values.iter().map(|(key, value)| ((*key).to_owned(), json!(value))).collect();
    let values = Value::Object(values);
    format!("---\napiVersion: v1\nkind: Secret\nmetadata: {{name: vault}}\nstringData: {values}\n")
}
