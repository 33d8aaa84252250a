use std::sync::{Arc, Mutex};

use serde_json::Value;

use super::super::fake::{record, surroundings, told};
use super::*;
use crate::kubernetes::Access;
use crate::kubernetes::fake::client_of;

fn spec() -> WebhookSpec {
    WebhookSpec {
        group_name: "acme.example.com".to_owned(),
        solver_name: "my-solver".to_owned(),
        config: json!({"region": "x", "tokenSecretRef": {"name": "t", "key": "k"}}),
    }
}

fn webhook(
    namespace: Option<&str>,
    answer: impl Fn(&str, &Value) -> (u16, Value) + Send + Sync + 'static,
) -> Webhook {
    let access = Access { client: client_of(answer), namespace: "certmount-system".to_owned() };
    Webhook::build(&spec(), namespace, &surroundings(Some(access))).unwrap()
}

/// As a webhook answers that is made with cert-manager's library.
fn response(success: bool, message: &str) -> Value {
    let mut response = json!({"uid": "u", "success": success});
    if !success {
        response["status"] = json!({"metadata": {}, "status": "Failure", "message": message,
            "reason": "InternalError", "code": 500});
    }
    json!({"kind": "ChallengePayload", "apiVersion": "webhook.acme.cert-manager.io/v1alpha1",
        "response": response})
}

fn status(code: u16, message: &str) -> (u16, Value) {
    let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure",
        "message": message, "reason": "x", "code": code});
    (code, status)
}

#[tokio::test]
async fn the_webhook_is_asked_as_cert_manager_asks() {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let webhook = webhook(None, {
        let asked = Arc::clone(&asked);
        move |path, body| {
            asked.lock().unwrap().push((path.to_owned(), body.clone()));
            (201, response(true, ""))
        }
    });
    webhook.present(&record("text")).await.unwrap();
    webhook.clean_up(&record("text")).await.unwrap();
    let mut asked = asked.lock().unwrap().clone();
    let mut seen = Vec::new();
    for ((path, body), action) in asked.iter_mut().zip(["Present", "CleanUp"]) {
        assert_eq!(path, "/apis/acme.example.com/v1alpha1/my-solver");
        let uid = body["request"]["uid"].take();
        seen.push(uid.as_str().unwrap().to_owned());
        let expected = json!({
            "apiVersion": "webhook.acme.cert-manager.io/v1alpha1",
            "kind": "ChallengePayload",
            "request": {
                "uid": null,
                "action": action,
                "type": "dns-01",
                "dnsName": "www.example.com",
                "key": "text",
                "resourceNamespace": "certmount-system",
                "resolvedFQDN": "_acme-challenge.www.example.com.",
                "resolvedZone": "example.com.",
                "allowAmbientCredentials": false,
                "config": {"region": "x", "tokenSecretRef": {"name": "t", "key": "k"}},
            },
        });
        assert_eq!(*body, expected);
    }
    assert_eq!(seen[0].len(), 36);
    assert_ne!(seen[0], seen[1]);
}

#[tokio::test]
async fn secrets_are_looked_for_where_the_issuer_is() {
    let webhook = webhook(Some("shop"), |_, body| {
        assert_eq!(body["request"]["resourceNamespace"], "shop");
        (201, response(true, ""))
    });
    webhook.present(&record("x")).await.unwrap();
}

#[tokio::test]
async fn a_probe_asks_only_whether_the_webhook_is_there() {
    let serving = |solver: &'static str| {
        webhook(None, move |path, _| {
            assert_eq!(path, "/apis/acme.example.com/v1alpha1");
            let resource = json!({"name": solver, "kind": "ChallengePayload", "verbs": ["create"]});
            (200, json!({"kind": "APIResourceList", "resources": [resource]}))
        })
    };
    serving("my-solver").probe(&[record("x")]).await.unwrap();
    let (kind, text) = told(serving("other").probe(&[]).await);
    assert_eq!(kind, IssueErrorKind::Config);
    assert!(text.contains("correct solverName"), "{text}");
}

#[tokio::test]
async fn a_failure_says_what_to_do() {
    use IssueErrorKind::{BadResponse, Config, Unavailable};
    let forbidden = "my-solver.acme.example.com is forbidden: User \"x\" cannot create resource";
    let missing = "the server could not find the requested resource";
    for (answer, kind, words) in [
        ((201, response(false, "zone is locked")), Unavailable, "publish _acme-challenge.www"),
        ((201, response(false, "zone is locked")), Unavailable, "zone is locked"),
        ((201, json!({"kind": "ChallengePayload"})), BadResponse, "is it a webhook"),
        (status(403, forbidden), Config, "the right to create my-solver"),
        (status(404, missing), Config, "install the webhook"),
        (status(503, "no endpoints available"), Unavailable, "no endpoints available"),
    ] {
        let webhook = webhook(None, move |_, _| answer.clone());
        let (seen, text) = told(webhook.present(&record("x")).await);
        assert_eq!(seen, kind, "{text}");
        assert!(text.contains(words), "{text}");
        assert!(text.starts_with("the webhook my-solver of acme.example.com "), "{text}");
    }
    let said = Webhook::build(&spec(), None, &surroundings(None)).unwrap_err().to_string();
    assert!(said.contains("--kubernetes"), "{said}");
}
