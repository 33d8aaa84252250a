use std::sync::{Arc, Mutex};

use serde_json::Value;

use super::super::fake::{self, Heard, Server, materials, record, reference, told};
use super::*;

const ZONE: &str = "023e105f4ecef8ad9ca31a8372d0c353";

/// Records by id: name and content.
type Records = Arc<Mutex<Vec<(String, String, String)>>>;

/// As Cloudflare's API answers.
fn answer(request: &Heard, records: &Records) -> (u16, String) {
    let failure = |status: u16, errors: Value| {
        let body = json!({"success": false, "errors": errors, "messages": [], "result": null});
        (status, body.to_string())
    };
    let success = |result: Value| {
        let body = json!({"success": true, "errors": [], "messages": [], "result": result});
        (200, body.to_string())
    };
    let token = request.header("authorization");
    let by_key = request.header("x-auth-email") == "dns@example.com"
        && request.header("x-auth-key") == "s3cret-key";
    if !token.starts_with("Bearer ") && !by_key {
        let chain = [json!({"code": 6103, "message": "Invalid format for X-Auth-Key header"})];
        let error =
            json!({"code": 6003, "message": "Invalid request headers", "error_chain": chain});
        return failure(400, json!([error]));
    }
    if !by_key && token != "Bearer s3cret" {
        return failure(403, json!([{"code": 9109, "message": "Invalid access token"}]));
    }
    let mut records = records.lock().unwrap();
    let path: Vec<_> = request.path.trim_start_matches("/client/v4/").split('/').collect();
    match (request.method.as_str(), &path[..]) {
        ("GET", ["zones"]) => match request.parameter("name").as_str() {
            "example.com" => success(json!([{"id": ZONE, "name": "example.com"}])),
            "" => success(json!([{"id": ZONE, "name": "example.com"}])),
            "hostile.org" => success(json!([{"id": "../../user/tokens", "name": "hostile.org"}])),
            _ => success(json!([])),
        },
        ("GET", ["zones", ZONE, "dns_records"]) => {
            assert_eq!(request.parameter("type"), "TXT");
            let name = request.parameter("name");
            let found = records.iter().filter(|(_, at, _)| *at == name);
            let found = found.map(|(id, name, content)| {
                json!({"id": id, "type": "TXT", "name": name, "content": content, "ttl": 60})
            });
            success(found.collect())
        }
        ("POST", ["zones", ZONE, "dns_records"]) => {
            let body: Value = serde_json::from_str(&request.body).unwrap();
            assert_eq!((&body["type"], &body["ttl"]), (&json!("TXT"), &json!(60)));
            let text = |field: &str| body[field].as_str().unwrap().to_owned();
            let (name, content) = (text("name"), text("content"));
            if records.iter().any(|(_, at, is)| *at == name && *is == content) {
                let said = "An identical record already exists.";
                return failure(400, json!([{"code": 81058, "message": said}]));
            }
            let id = format!("{:032x}", records.len() + 1);
            records.push((id.clone(), name, content.clone()));
            success(json!({"id": id, "content": content}))
        }
        ("DELETE", ["zones", ZONE, "dns_records", id]) => {
            let before = records.len();
            records.retain(|(it, _, _)| it != id);
            if records.len() == before {
                let said = "Record does not exist.";
                return failure(404, json!([{"code": 81044, "message": said}]));
            }
            success(json!({"id": id}))
        }
        _ => failure(400, json!([{"code": 7003, "message": "Could not route"}])),
    }
}

async fn server(records: &Records) -> Server {
    let records = Arc::clone(records);
    Server::start(move |request| answer(request, &records)).await
}

fn cloudflare(server: &Server, spec: &CloudflareSpec, secret: &str) -> Cloudflare {
    let materials = materials(&[("key", secret)]);
    let built = Cloudflare::build(spec, fake::web(), &materials).unwrap();
    assert!(!format!("{built:?}").contains("s3cret"));
    Cloudflare { api: server.url.join("client/v4/").unwrap(), ..built }
}

fn by_token(server: &Server, token: &str) -> Cloudflare {
    cloudflare(server, &CloudflareSpec::Token(reference("key")), token)
}

fn contents(records: &Records) -> Vec<String> {
    records.lock().unwrap().iter().map(|(_, _, content)| content.clone()).collect()
}

#[tokio::test]
async fn a_value_is_added_beside_others_and_removed_alone() {
    let records = Records::default();
    let name = record("").name;
    // Somebody else's, as an older tool wrote it.
    records.lock().unwrap().push(("f".to_owned(), name, "theirs".to_owned()));
    let server = server(&records).await;
    let cloudflare = by_token(&server, "s3cret\n");
    cloudflare.present(&record("one")).await.unwrap();
    cloudflare.present(&record("two")).await.unwrap();
    cloudflare.present(&record("one")).await.unwrap();
    assert_eq!(contents(&records), ["theirs", "\"one\"", "\"two\""]);
    cloudflare.clean_up(&record("one")).await.unwrap();
    cloudflare.clean_up(&record("one")).await.unwrap();
    assert_eq!(contents(&records), ["theirs", "\"two\""]);
}

#[tokio::test]
async fn the_nearest_zone_that_there_is_counts() {
    let records = Records::default();
    let server = server(&records).await;
    let below = TxtRecord { zone: "internal.www.example.com".to_owned(), ..record("x") };
    by_token(&server, "s3cret").present(&below).await.unwrap();
    let calls = server.calls();
    assert_eq!(calls.iter().filter(|call| call.ends_with("/zones")).count(), 3, "{calls:?}");

    let elsewhere = TxtRecord { zone: "example.net".to_owned(), ..record("x") };
    let (kind, text) = told(by_token(&server, "s3cret").present(&elsewhere).await);
    assert_eq!(kind, IssueErrorKind::Config);
    assert!(text.contains("Zone:Read and DNS:Edit"), "{text}");
    let hostile = TxtRecord { zone: "hostile.org".to_owned(), ..record("x") };
    let (kind, _) = told(by_token(&server, "s3cret").present(&hostile).await);
    assert_eq!(kind, IssueErrorKind::BadResponse);
}

#[tokio::test]
async fn a_probe_reads_and_changes_nothing() {
    let records = Records::default();
    let server = server(&records).await;
    by_token(&server, "s3cret").present(&record("one")).await.unwrap();
    for hosts in [vec![], vec![record("certmount-check")]] {
        by_token(&server, "s3cret").probe(&hosts).await.unwrap();
        let (kind, text) = told(by_token(&server, "s3cret2").probe(&hosts).await);
        assert_eq!(kind, IssueErrorKind::Config);
        assert!(text.contains("Invalid access token"), "{text}");
    }
    let elsewhere = TxtRecord { zone: "example.net".to_owned(), ..record("certmount-check") };
    let (_, text) = told(by_token(&server, "s3cret").probe(&[elsewhere]).await);
    assert!(text.contains("Zone:Read and DNS:Edit"), "{text}");
    assert_eq!(contents(&records), ["\"one\""]);

    let none = json!({"success": true, "errors": [], "messages": [], "result": []}).to_string();
    let empty = Server::start(move |_| (200, none.clone())).await;
    let (kind, text) = told(by_token(&empty, "s3cret").probe(&[]).await);
    assert_eq!(kind, IssueErrorKind::Config);
    assert!(text.contains("shows no zone: give the token"), "{text}");
}

#[tokio::test]
async fn the_key_of_an_account_does_too() {
    let records = Records::default();
    let server = server(&records).await;
    let email = "dns@example.com".to_owned();
    let spec = CloudflareSpec::Key { email, key: reference("key") };
    cloudflare(&server, &spec, "s3cret-key").present(&record("x")).await.unwrap();
    assert_eq!(contents(&records), ["\"x\""]);
    let (kind, text) = told(cloudflare(&server, &spec, "s3cret-other").present(&record("x")).await);
    assert_eq!(kind, IssueErrorKind::Config);
    assert!(text.contains("Invalid format for X-Auth-Key header (6103)"), "{text}");
}

#[tokio::test]
async fn what_is_wrong_is_told_in_cloudflare_s_own_words() {
    let server = server(&Records::default()).await;
    let (kind, text) = told(by_token(&server, "s3cret2").present(&record("x")).await);
    assert_eq!(kind, IssueErrorKind::Config);
    assert!(text.contains("write new ones (Invalid access token (9109))"), "{text}");

    let html = Server::start(|_| (502, "<html>bad gateway</html>".to_owned())).await;
    let (kind, text) = told(by_token(&html, "s3cret").present(&record("x")).await);
    assert_eq!(kind, IssueErrorKind::Unavailable);
    assert!(text.contains("status 502"), "{text}");
    let html = Server::start(|_| (200, "<html>log in</html>".to_owned())).await;
    let (kind, _) = told(by_token(&html, "s3cret").clean_up(&record("x")).await);
    assert_eq!(kind, IssueErrorKind::BadResponse);

    let spec = CloudflareSpec::Token(reference("key"));
    let said = Cloudflare::build(&spec, fake::web(), &materials(&[("key", "s3cret\u{1b}x")]));
    let said = said.unwrap_err().to_string();
    assert!(said.contains("not one word") && !said.contains("s3cret"), "{said}");
}
