use serde_json::Value;

use super::super::fake::{self, Server, materials, record, reference, told};
use super::*;

const SUBDOMAIN: &str = "8e5700ea-a4bf-41c7-8a77-e990661dcc6a";

fn accounts(password: &str) -> String {
    json!({"www.example.com": {
        "username": "c36f50e8-4632-44f0-83fe-e070fef28a10",
        "password": password,
        "fulldomain": format!("{SUBDOMAIN}.auth.example.org"),
        "subdomain": SUBDOMAIN,
        "allowfrom": [],
    }})
    .to_string()
}

/// As acme-dns 1.0 answers to an update.
async fn server() -> Server {
    Server::start(|request| {
        if request.path == "/base/health" {
            return (200, String::new());
        }
        assert_eq!((request.method.as_str(), request.path.as_str()), ("POST", "/base/update"));
        let refusal = |code: u16, error: &str| (code, json!({"error": error}).to_string());
        let known = request.header("x-api-user") == "c36f50e8-4632-44f0-83fe-e070fef28a10";
        if !known || request.header("x-api-key") != "s3cret" {
            return refusal(401, "forbidden");
        }
        let update: Value = serde_json::from_str(&request.body).unwrap();
        if update["subdomain"] != SUBDOMAIN {
            return refusal(401, "forbidden");
        }
        match update["txt"].as_str() {
            Some(txt) if txt.len() == 43 => (200, json!({"txt": txt}).to_string()),
            _ => refusal(400, "bad_txt"),
        }
    })
    .await
}

fn build(server: &Server, accounts: &str) -> Result<AcmeDns, BuildError> {
    let host = server.url.join("base/").unwrap();
    let account_secret_ref = reference("accounts");
    let spec = AcmeDnsSpec { host, account_secret_ref, ca_bundle: None };
    AcmeDns::build(&spec, fake::web(), &materials(&[("accounts", accounts)]))
}

#[tokio::test]
async fn the_text_goes_to_the_account_of_the_name() {
    let server = server().await;
    let acme_dns = build(&server, &accounts("s3cret")).unwrap();
    assert!(!format!("{acme_dns:?}").contains("s3cret"));
    let text = record("A23456789012345678901234567890123456789012z");
    acme_dns.present(&text).await.unwrap();
    acme_dns.clean_up(&text).await.unwrap();
    assert_eq!(server.calls(), ["POST /base/update"]);

    let (kind, text) = told(acme_dns.present(&record("short")).await);
    assert_eq!(kind, IssueErrorKind::Denied);
    assert!(text.contains("bad_txt"), "{text}");
    let other = TxtRecord { host: "other.example.com".to_owned(), ..record("") };
    let (kind, text) = told(acme_dns.present(&other).await);
    assert_eq!(kind, IssueErrorKind::Config);
    assert!(text.contains("have none for other.example.com: register one"), "{text}");
}

#[tokio::test]
async fn a_probe_asks_how_the_server_is_and_looks_for_accounts() {
    let server = server().await;
    let acme_dns = build(&server, &accounts("s3cret")).unwrap();
    acme_dns.probe(&[record("")]).await.unwrap();
    assert_eq!(server.calls(), ["GET /base/health"]);
    let other = TxtRecord { host: "other.example.com".to_owned(), ..record("") };
    let (_, text) = told(acme_dns.probe(&[other]).await);
    assert!(text.contains("have none for other.example.com"), "{text}");
}

#[tokio::test]
async fn a_wrong_password_is_told() {
    let server = server().await;
    let acme_dns = build(&server, &accounts("s3cret-of-another")).unwrap();
    let (kind, text) = told(acme_dns.present(&record("x")).await);
    assert_eq!(kind, IssueErrorKind::Config);
    assert!(text.contains("does not let us in: forbidden"), "{text}");

    for broken in ["", "[]", r#"{"a": {"password": "s3cret"}}"#, r#"{"a": "s3cret"}"#] {
        let said = build(&server, broken).unwrap_err().to_string();
        assert!(said.contains("accounts") && !said.contains("s3cret"), "{broken}: {said}");
    }
}
