//! The `vault` issuer against a real OpenBao server, seen from where users are: files in volumes,
//! answers to kubelet, the log.
//!
//! The server is `bao` of OpenBao 2.7, from the search path: `tests/peers openbao` installs it.
//! A relay before it counts what it is asked, and can stand in for it when it fails.

#![allow(clippy::unwrap_used, reason = "a test")]
#![allow(
    clippy::disallowed_methods,
    reason = "files for another program, in a directory of our own"
)]

#[path = "vault/bao.rs"]
#[allow(dead_code, unreachable_pub, reason = "a part of this test and of the benchmark")]
mod bao;
mod common;

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use axum::Router;
use axum::response::IntoResponse as _;
use bao::{Bao, client_certificate, issuer, secret, text};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use certmount::clock::Clock;
use certmount::csi::client::InlineVolume;
use certmount::x509::*;
use common::{Plugin, namespaced_async};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tonic::{Code, Status};

/// Every way to log in, each with a login, a policy that may sign and nothing more, and a token
/// that is given back in the end.
#[test]
#[ignore = "needs OpenBao; .ci/run runs it"]
fn every_way_to_log_in_ends_in_a_certificate() {
    namespaced_async(|| async {
        let bao = Bao::start().await;
        bao.enable_logins().await;
        let before = bao.tokens().await;
        let keys = ServiceAccountKeys::new();
        bao.trust(&keys.public_pem()).await;
        let review = token_review().await;
        bao.put(
            "auth/kubernetes/config",
            json!({"kubernetes_host": format!("http://{review}"), "token_reviewer_jwt": "reviewer",
                "disable_local_ca_jwt": true, "kubernetes_ca_cert": client_certificate().0}),
        )
        .await;
        let jwt = keys.token();
        let role_id =
            bao.get("auth/approle/role/certmount/role-id").await["data"]["role_id"].clone();
        let secret_id = bao.put("auth/approle/role/certmount/secret-id", json!({})).await;
        let token = bao
            .put(
                "auth/token/create",
                json!({"policies": ["certmount"], "ttl": "1h", "no_parent": true}),
            )
            .await;
        let ways = [
            ("token", "tokenSecretRef: {name: vault, key: token}".to_owned()),
            ("approle", format!("appRole: {{path: approle, roleId: {role_id}, secretRef: {{name: vault, key: secretId}}}}")),
            ("jwt", "jwt: {role: certmount, secretRef: {name: vault, key: jwt}}".to_owned()),
            ("jwt-pod", "jwt: {role: certmount, podIdentity: {audience: vault}}".to_owned()),
            ("kubernetes", "kubernetes: {role: certmount, mountPath: /v1/auth/kubernetes, secretRef: {name: vault, key: jwt}}".to_owned()),
            ("kubernetes-pod", "kubernetes: {role: certmount, podIdentity: {}}".to_owned()),
        ];
        let mut config: String = ways
            .iter()
            .map(|(name, auth)| issuer(name, &format!("{{{}, auth: {{{auth}}}}}", bao.place())))
            .collect();
        config += &secret(&[
            ("token", text(&token["auth"]["client_token"])),
            ("secretId", text(&secret_id["data"]["secret_id"])),
            ("jwt", &jwt),
        ]);
        let mut plugin = Plugin::with_config(&[("vault.yaml", &config)]);
        for (name, _) in &ways {
            let mut volume = volume(name, name, &[]);
            let tokens =
                json!({"vault": {"token": jwt, "expirationTimestamp": "2099-01-01T00:00:00Z"}});
            let key = "csi.storage.k8s.io/serviceAccount.tokens";
            volume.secrets.insert(key.to_owned(), tokens.to_string());
            let target = plugin.kubelet().publish(&volume).await.unwrap_or_else(|status| {
                panic!("{name}: {status}\n{}", plugin.log());
            });
            check_files(&target, &format!("{name}.shop.svc"), &bao.root);
        }
        assert!(bao.tokens().await > before + 1, "they logged in");
        assert!(plugin.terminate().success());
        assert_eq!(bao.tokens().await, before + 1, "all but the given token were given back");
        let log = plugin.log();
        for told in [
            jwt.as_str(),
            text(&secret_id["data"]["secret_id"]),
            text(&token["auth"]["client_token"]),
        ] {
            assert!(!log.contains(told), "{log}");
        }
    });
}

#[test]
#[ignore = "needs OpenBao; .ci/run runs it"]
fn two_hundred_volumes_at_once_cost_one_login() {
    namespaced_async(|| async {
        let bao = Bao::start().await;
        let plugin = Plugin::with_config(&[("vault.yaml", &bao.app_role("web").await)]);
        let kubelet = plugin.kubelet();
        let volumes = (0..200).map(|number| volume(&format!("web-{number}"), "vault", &[]));
        let published = volumes.map(|volume| {
            let kubelet = &kubelet;
            async move { kubelet.publish(&volume).await }
        });
        for published in futures_util::future::join_all(published).await {
            assert!(published.unwrap().join("tls.crt").exists());
        }
        assert_eq!(bao.relay.count("auth/approle/login"), 1);
        assert_eq!(bao.relay.count("pki/sign/web"), 200);
    });
}

#[test]
#[ignore = "needs OpenBao; .ci/run runs it"]
fn a_token_that_is_gone_is_replaced() {
    namespaced_async(|| async {
        let bao = Bao::start().await;
        let plugin = Plugin::with_config(&[("vault.yaml", &bao.app_role("web").await)]);
        plugin.kubelet().publish(&volume("web-0", "vault", &[])).await.unwrap();
        bao.put("sys/leases/revoke-prefix/auth/approle", json!({})).await;
        plugin.kubelet().publish(&volume("web-1", "vault", &[])).await.unwrap();
        assert_eq!(bao.relay.count("auth/approle/login"), 2);
    });
}

#[test]
#[ignore = "needs OpenBao; .ci/run runs it"]
fn what_a_role_makes_of_a_request_is_told_to_the_pod_s_owner() {
    namespaced_async(|| async {
        let bao = Bao::start().await;
        for (name, role) in [
            ("rsa", json!({"key_type": "rsa", "allow_any_name": true, "require_cn": false})),
            ("named", json!({"key_type": "any", "allow_any_name": true, "require_cn": true})),
            (
                "narrow",
                json!({"key_type": "any", "allowed_domains": "example.com", "require_cn": false}),
            ),
            (
                "short",
                json!({"key_type": "any", "allow_any_name": true, "require_cn": false, "max_ttl": "10m"}),
            ),
        ] {
            bao.put(&format!("pki/roles/{name}"), role).await;
        }
        let roles = ["rsa", "named", "narrow", "missing", "short"];
        let mut config = bao.app_role("web").await;
        for role in roles {
            config += &issuer(role, &bao.with_app_role(role).await);
        }
        let plugin = Plugin::with_config(&[("vault.yaml", &config)]);
        for (role, words) in [
            ("rsa", "role requires keys of type rsa; the volume asks for an"),
            ("named", "give the volume a common-name"),
            (
                "narrow",
                "not allowed by this role; ask for other names, or have the role allow these",
            ),
            ("missing", "unknown role: missing; correct the issuer's path pki/sign/missing"),
        ] {
            let status = plugin.kubelet().publish(&volume("web-0", role, &[])).await;
            let status = status.unwrap_err();
            assert_eq!(status.code(), Code::Unavailable, "{status}");
            assert!(status.message().contains(words), "{status}");
            plugin.kubelet().unpublish(&volume("web-0", role, &[])).await.unwrap();
        }
        let target = plugin.kubelet().publish(&volume("web-0", "short", &[])).await.unwrap();
        check_files(&target, "web-0.shop.svc", &bao.root);
        plugin.wait("the shorter life is told", || {
            plugin.log().contains(r#"TTL \"1h0m0s\" is longer than permitted maxTTL \"10m0s\""#)
        });
        assert!(!plugin.log().contains("use_csr_sans"), "{}", plugin.log());
    });
}

#[test]
#[ignore = "needs OpenBao; .ci/run runs it"]
fn a_server_that_fails_costs_no_certificate() {
    namespaced_async(|| async {
        let bao = Bao::start().await;
        let plugin = Plugin::with_config(&[("vault.yaml", &bao.app_role("web").await)]);
        // The server backdates by half a minute; renewal is due in three seconds.
        let short = [("duration", "60s"), ("renew-before", "57s")];
        let renewed = volume("web-0", "vault", &short);
        let target = plugin.kubelet().publish(&renewed).await.unwrap();
        let read = || fs::read_to_string(target.join("tls.crt")).unwrap();
        let first = read();

        bao.put("sys/seal", json!({})).await;
        plugin.wait("the renewal fails", || plugin.log().contains("is sealed"));
        assert!(plugin.log().contains("certificate not renewed"), "{}", plugin.log());
        assert_eq!(read(), first, "the certificate stays");
        let status = plugin.kubelet().publish(&volume("web-1", "vault", &[])).await.unwrap_err();
        assert_eq!(status.code(), Code::Unavailable);
        assert!(status.message().contains("is sealed"), "{status}");

        bao.unseal().await;
        plugin.wait("the certificate is renewed", || read() != first);
        check_files(&target, "web-0.shop.svc", &bao.root);
    });
}

#[test]
#[ignore = "needs OpenBao; .ci/run runs it"]
fn answers_that_are_none_are_told_and_pauses_are_kept() {
    namespaced_async(|| async {
        let bao = Bao::start().await;
        let plugin = Plugin::with_config(&[("vault.yaml", &bao.app_role("web").await)]);
        let refused = async |name: &str| -> Status {
            plugin.kubelet().publish(&volume(name, "vault", &[])).await.unwrap_err()
        };
        bao.relay.stand_in(|| {
            ([("content-type", "text/html")], "<html>Sign in to the proxy</html>").into_response()
        });
        let status = refused("web-0").await;
        assert!(status.message().contains("text/html instead of JSON"), "{status}");
        assert!(!status.message().contains("<html>"), "{status}");

        bao.relay.stand_in(|| {
            (
                StatusCode::TOO_MANY_REQUESTS,
                [("retry-after", "600")],
                "{\"errors\":[\"slow down\"]}",
            )
                .into_response()
        });
        let status = refused("web-1").await;
        assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
        assert!(status.message().contains("slow down"), "{status}");
        let asked = bao.relay.total();
        for name in ["web-2", "web-3", "web-4"] {
            let status = refused(name).await;
            assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
            assert!(status.message().contains("asked to be left alone"), "{status}");
        }
        assert_eq!(bao.relay.total(), asked, "nobody asked the server again");
    });
}

#[test]
#[ignore = "needs OpenBao; .ci/run runs it"]
fn a_server_with_its_own_ca_knows_us_by_a_client_certificate() {
    namespaced_async(|| async {
        let bao = Bao::start_tls().await;
        let ca = bao.server_ca.clone().unwrap();
        let client = client_certificate();
        bao.put("sys/auth/cert", json!({"type": "cert"})).await;
        bao.put("auth/cert/certs/node", json!({"certificate": client.0, "policies": "certmount"}))
            .await;
        let values = [
            ("tls.crt", client.0.as_str()),
            ("tls.key", client.1.as_str()),
            ("ca.crt", ca.as_str()),
        ];
        let auth = "auth: {clientCertificate: {secretName: vault, name: node}}";
        let place = |rest: &str| {
            format!("{{server: 'https://{}', path: pki/sign/web, {auth}{rest}}}", bao.address)
        };
        let encoded = STANDARD.encode(&ca);
        let config = [
            issuer("inline", &place(&format!(", caBundle: {encoded}"))),
            issuer("secret", &place(", caBundleSecretRef: {name: vault}")),
            issuer("named", &place(&format!(", caBundle: {encoded}, serverName: localhost"))),
            issuer(
                "misnamed",
                &place(&format!(", caBundle: {encoded}, serverName: other.example")),
            ),
            issuer("untrusted", &place(&format!(", caBundle: {}", STANDARD.encode(&client.0)))),
            secret(&values),
        ];
        let plugin = Plugin::with_config(&[("vault.yaml", &config.concat())]);
        for name in ["inline", "secret", "named"] {
            let target = plugin.kubelet().publish(&volume(name, name, &[])).await.unwrap();
            check_files(&target, &format!("{name}.shop.svc"), &bao.root);
        }
        for name in ["misnamed", "untrusted"] {
            let status = plugin.kubelet().publish(&volume(name, name, &[])).await.unwrap_err();
            assert_eq!(status.code(), Code::Unavailable);
            assert!(status.message().contains("is not trusted"), "{status}");
        }
    });
}

#[test]
#[ignore = "needs OpenBao; .ci/run runs it"]
fn namespaces_and_intermediate_cas() {
    namespaced_async(|| async {
        let bao = Bao::start().await;
        bao.put("sys/namespaces/team", json!({})).await;
        let root = bao.make_pki(Some("team")).await;
        let ca_policy = r#"path "pki/root/sign-intermediate" {
            capabilities = ["update"]
            allowed_parameters = {
                "csr" = [], "format" = [], "permitted_dns_domains" = [], "use_csr_values" = [true],
                "ttl" = ["3600s"], "max_path_length" = ["0"]
            }
        }"#;
        bao.put("sys/policies/acl/ca", json!({"policy": ca_policy})).await;
        let token = |namespace, policy| {
            let body = json!({"policies": [policy], "no_parent": true});
            let bao = &bao;
            async move { bao.ask(Method::POST, namespace, "auth/token/create", body).await }
        };
        let team = token(Some("team"), "certmount").await;
        let ca = token(None, "ca").await;
        let place = |namespace: &str, key: &str| {
            format!(
                "{{{}{namespace}, auth: {{tokenSecretRef: {{name: vault, key: {key}}}}}}}",
                bao.place()
            )
        };
        let policy = "[{isCA: true, commonNames: [node], usages: [digital signature, key encipherment, cert sign]}]";
        let config = [
            issuer("team", &place(", namespace: team", "team")),
            issuer("elsewhere", &place("", "team")),
            issuer("ca", &place("", "ca")).replace("policy: []", &format!("policy: {policy}")),
            secret(&[
                ("team", text(&team["auth"]["client_token"])),
                ("ca", text(&ca["auth"]["client_token"])),
            ]),
        ];
        let plugin = Plugin::with_config(&[("vault.yaml", &config.concat())]);
        let target = plugin.kubelet().publish(&volume("web-0", "team", &[])).await.unwrap();
        check_files(&target, "web-0.shop.svc", &root);
        let elsewhere = volume("web-1", "elsewhere", &[]);
        let status = plugin.kubelet().publish(&elsewhere).await.unwrap_err();
        assert!(status.message().contains("the token of tokenSecretRef"), "{status}");

        let node = [("is-ca", "true"), ("common-name", "node"), ("dns-names", "")];
        let target = plugin.kubelet().publish(&volume("node-0", "ca", &node)).await.unwrap();
        let pem = fs::read(target.join("tls.crt")).unwrap();
        let ca = &certificates_from_pem(&pem).unwrap()[0];
        assert_eq!(ca.basic_constraints(), BasicConstraints::Ca { path_len: Some(0) });
        assert!(ca.is_signed_by(&bao.root));
    });
}

#[test]
#[ignore = "needs OpenBao; .ci/run runs it"]
fn check_tells_what_stands_in_the_way() {
    namespaced_async(|| async {
        let bao = Bao::start().await;
        let folder = tempfile::tempdir().unwrap();
        let check = async |config: &str| {
            fs::write(folder.path().join("vault.yaml"), config).unwrap();
            let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_certmount"));
            let output = command.args(["check", "--connect"]).arg(folder.path()).output().await;
            let output = output.unwrap();
            let said = [output.stdout, output.stderr].concat();
            (output.status.success(), String::from_utf8(said).unwrap())
        };
        let right = bao.app_role("web").await;
        assert_eq!(check(&right).await, (true, "ok: 1 issuer, 0 volumes\n".to_owned()));
        assert_eq!(bao.relay.count("auth/token/revoke-self"), 1);
        assert_eq!(bao.relay.count("pki/sign/web"), 0);
        for (config, words) in [
            (
                right.replace("\"secretId\":\"", "\"secretId\":\"x"),
                "vault.yaml:2:1: error: ClusterIssuer vault",
            ),
            (
                right.replace("pki/sign/web", "elsewhere/sign/web"),
                "may not update elsewhere/sign/web",
            ),
        ] {
            let (ok, said) = check(&config).await;
            assert!(!ok && said.contains(words), "{said}");
        }
    });
}

/// What signs service account tokens in a cluster.
struct ServiceAccountKeys(PrivateKey);

impl ServiceAccountKeys {
    fn new() -> Self {
        Self(PrivateKey::generate(KeyAlgorithm::EcdsaP256).unwrap())
    }

    fn public_pem(&self) -> String {
        let body = STANDARD.encode(self.0.public_key_info());
        format!("-----BEGIN PUBLIC KEY-----\n{body}\n-----END PUBLIC KEY-----\n")
    }

    /// A token of service account `web` in namespace `shop` (RFC 7515, ES256).
    fn token(&self) -> String {
        let now = Clock::system().now().as_second();
        let encode = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let head = encode(json!({"alg": "ES256", "typ": "JWT"}));
        let claims = encode(json!({
            "iss": "https://kubernetes.default.svc", "aud": ["vault"],
            "sub": "system:serviceaccount:shop:web",
            "iat": now, "nbf": now - 5, "exp": now + 600,
            "kubernetes.io": {"namespace": "shop", "serviceaccount": {"name": "web", "uid": "uid-of-web"}},
        }));
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, self.0.pkcs8_der());
        let message = format!("{head}.{claims}");
        let signature = pair.unwrap().sign(&SystemRandom::new(), message.as_bytes()).unwrap();
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}

/// The part of an API server that knows service account tokens: it knows all of them.
async fn token_review() -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let app = Router::new().fallback(|| async {
        axum::Json(json!({
            "apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview",
            "status": {"authenticated": true, "audiences": ["vault"],
                "user": {"username": "system:serviceaccount:shop:web", "uid": "uid-of-web",
                    "groups": ["system:serviceaccounts"]}},
        }))
    });
    tokio::spawn(async move { axum::serve(listener, app).await });
    address
}

/// A volume of the pod `pod` in `shop`, whose service account is `web`.
fn volume(pod: &str, issuer: &str, more: &[(&str, &str)]) -> InlineVolume {
    let mut attributes = BTreeMap::from(
        [
            ("issuer-name", issuer),
            ("issuer-kind", "ClusterIssuer"),
            ("dns-names", "${POD_NAME}.${POD_NAMESPACE}.svc"),
            ("duration", "1h"),
            ("key-algorithm", "ECDSA"),
        ]
        .map(|(name, value)| (name, value)),
    );
    attributes.extend(more.iter().copied());
    attributes.retain(|_, value| !value.is_empty());
    let attributes: Vec<_> = attributes
        .into_iter()
        .map(|(name, value)| (format!("certmount.dev/{name}"), value))
        .collect();
    let attributes: Vec<_> =
        attributes.iter().map(|(name, value)| (name.as_str(), *value)).collect();
    InlineVolume::new("shop", pod, &attributes)
}

/// What the app finds: a certificate for `name` that `root` signed, and its key.
fn check_files(target: &Path, name: &str, root: &Certificate) {
    let read = |file: &str| fs::read(target.join(file)).unwrap();
    let chain = certificates_from_pem(&read("tls.crt")).unwrap();
    assert_eq!(chain.len(), 1, "a root is not part of the chain");
    assert!(chain[0].names().contains(&format!("dns:{name}")), "{:?}", chain[0].names());
    assert!(chain[0].is_signed_by(root));
    let key = PrivateKey::from_pem(&read("tls.key")).unwrap();
    assert_eq!(key.public_key_info(), chain[0].public_key_info());
    assert_eq!(certificates_from_pem(&read("ca.crt")).unwrap(), std::slice::from_ref(root));
}
