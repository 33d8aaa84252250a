use std::sync::{Arc, Mutex};

use aws_lc_rs::{digest, hmac};
use serde_json::json;

use super::super::fake::{
    self, Heard, Server, materials, now, record, reference, surroundings, told,
};
use super::*;
use crate::kubernetes::Access;
use crate::kubernetes::fake::client_of;
use crate::spec::object::dns01::{AccessKeyId, Route53Auth, ServiceAccountRef};

const USER: (&str, &str) = ("AKIAUSER", "s3cret/user+key");
const ROLE: (&str, &str) = ("ASIAROLE", "s3cret-role-key");
const SESSION_TOKEN: &str = "s3cret//session+token==";
const ARN: &str = "arn:aws:iam::123456789012:role/dns";

/// What Route 53 and STS know.
#[derive(Default)]
struct Aws {
    /// Sets of the zone by identifier, each with one value.
    sets: Vec<(String, String)>,
    /// How often a change is looked at.
    looks: u32,
    /// How often a role was taken on.
    sessions: u32,
    /// How often a change is refused for the one before it.
    busy: u32,
    /// Whether nobody may list zones.
    narrow: bool,
}

/// As Route 53 and STS answer, to requests whose signature is right.
fn answer(request: &Heard, aws: &Mutex<Aws>) -> (u16, String) {
    let mut aws = aws.lock().unwrap();
    let web_identity = request.body.starts_with("Action=AssumeRoleWithWebIdentity&");
    if !web_identity && let Err(reason) = check_signature(request) {
        return refusal(403, "SignatureDoesNotMatch", &reason);
    }
    match (request.method.as_str(), request.path.as_str()) {
        ("POST", "/") => assume_role(request, &mut aws, web_identity),
        ("GET", "/2013-04-01/hostedzonesbyname") if aws.narrow => {
            refusal(403, "AccessDenied", "not authorized to perform: route53:ListHostedZonesByName")
        }
        ("GET", "/2013-04-01/hostedzonesbyname") => {
            // The list begins at the name and goes on with others.
            let zone = |name: &str, id: &str, private: bool| {
                format!(
                    "<HostedZone><Id>/hostedzone/{id}</Id><Name>{name}</Name><Config>\
                     <PrivateZone>{private}</PrivateZone></Config></HostedZone>"
                )
            };
            let zones = match request.parameter("dnsname").as_str() {
                "example.com." => {
                    zone("example.com.", "ZPRIVATE", true) + &zone("example.com.", "ZPUBLIC", false)
                }
                _ => String::new(),
            } + &zone("zzz.example.", "ZOTHER", false);
            (
                200,
                format!(
                    "<?xml version=\"1.0\"?>\n<ListHostedZonesByNameResponse \
                xmlns=\"https://route53.amazonaws.com/doc/2013-04-01/\"><HostedZones>{zones}\
                </HostedZones></ListHostedZonesByNameResponse>"
                ),
            )
        }
        ("POST", "/2013-04-01/hostedzone/ZPUBLIC/rrset/") => change(request, &mut aws),
        ("GET", "/2013-04-01/change/C1") => {
            aws.looks += 1;
            let status = if aws.looks.is_multiple_of(2) { "INSYNC" } else { "PENDING" };
            (200, change_info("GetChangeResponse", status))
        }
        _ => refusal(404, "NoSuchHostedZone", "No hosted zone found"),
    }
}

fn change(request: &Heard, aws: &mut Aws) -> (u16, String) {
    if aws.busy > 0 {
        aws.busy -= 1;
        return refusal(400, "PriorRequestNotComplete", "The request was rejected");
    }
    let text = |name| xml::text(&request.body, name).unwrap_or_default();
    assert_eq!(text("Name"), "_acme-challenge.www.example.com.");
    assert_eq!((text("Type"), text("TTL")), ("TXT".to_owned(), "60".to_owned()));
    assert_eq!(text("MultiValueAnswer"), "true");
    let set = (text("SetIdentifier"), text("Value"));
    match text("Action").as_str() {
        "UPSERT" => {
            aws.sets.retain(|it| it.0 != set.0);
            aws.sets.push(set);
        }
        "DELETE" if aws.sets.contains(&set) => aws.sets.retain(|it| *it != set),
        "DELETE" => {
            return (400, "<?xml version=\"1.0\"?>\n<InvalidChangeBatch xmlns=\"https://route53.\
                amazonaws.com/doc/2013-04-01/\"><Messages><Message>[Tried to delete resource record \
                set [name='_acme-challenge.www.example.com.', type='TXT'] but it was not found]\
                </Message></Messages></InvalidChangeBatch>".to_owned());
        }
        other => panic!("{other}"),
    }
    (200, change_info("ChangeResourceRecordSetsResponse", "PENDING"))
}

fn assume_role(request: &Heard, aws: &mut Aws, web_identity: bool) -> (u16, String) {
    assert_eq!(request.header("content-type"), "application/x-www-form-urlencoded");
    assert_eq!(request.parameter("Version"), "2011-06-15");
    assert_eq!(request.parameter("RoleSessionName"), "certmount");
    if request.parameter("RoleArn") != ARN {
        return refusal(403, "AccessDenied", "not authorized to perform: sts:AssumeRole");
    }
    if web_identity && request.parameter("WebIdentityToken") != "s3cret.service.account" {
        return refusal(400, "InvalidIdentityToken", "No OpenIDConnect provider found");
    }
    aws.sessions += 1;
    let (id, secret) = ROLE;
    (
        200,
        format!(
            "<AssumeRoleResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\">\
        <AssumeRoleResult><Credentials><AccessKeyId>{id}</AccessKeyId><SecretAccessKey>{secret}\
        </SecretAccessKey><SessionToken>{SESSION_TOKEN}</SessionToken>\
        <Expiration>2026-03-01T13:00:00Z</Expiration></Credentials></AssumeRoleResult>\
        </AssumeRoleResponse>"
        ),
    )
}

fn change_info(root: &str, status: &str) -> String {
    format!(
        "<?xml version=\"1.0\"?>\n<{root} xmlns=\"https://route53.amazonaws.com/doc/2013-04-01/\">\
        <ChangeInfo><Id>/change/C1</Id><Status>{status}</Status></ChangeInfo></{root}>"
    )
}

fn refusal(status: u16, code: &str, message: &str) -> (u16, String) {
    (
        status,
        format!(
            "<?xml version=\"1.0\"?>\n<ErrorResponse><Error><Type>Sender</Type>\
        <Code>{code}</Code><Message>{message}</Message></Error></ErrorResponse>"
        ),
    )
}

/// Computes the signature of a request anew, from what came over the wire.
fn check_signature(request: &Heard) -> Result<(), String> {
    let hex = |bytes: &[u8]| bytes.iter().map(|it| format!("{it:02x}")).collect::<String>();
    let sha256 = |text: &str| hex(digest::digest(&digest::SHA256, text.as_bytes()).as_ref());
    let mac = |key: &[u8], text: &str| {
        let key = hmac::Key::new(hmac::HMAC_SHA256, key);
        hmac::sign(&key, text.as_bytes()).as_ref().to_vec()
    };
    let authorization = request.header("authorization");
    let part = |name: &str| {
        let after = authorization.split_once(name).ok_or_else(|| format!("no {name}"))?.1;
        Ok::<_, String>(after.split([',', ' ']).next().unwrap())
    };
    let (credential, names) = (part("Credential=")?, part("SignedHeaders=")?);
    let (id, scope) = credential.split_once('/').unwrap();
    let secret = [USER, ROLE].into_iter().find(|(known, _)| *known == id);
    let secret = secret.ok_or("unknown key")?.1;
    if (id == ROLE.0) != (request.header("x-amz-security-token") == SESSION_TOKEN) {
        return Err("the session token is not of the key".to_owned());
    }
    let headers: String =
        names.split(';').map(|name| format!("{name}:{}\n", request.header(name))).collect();
    let mut query: Vec<_> = request.query.split('&').collect();
    query.sort_unstable();
    let Heard { method, path, body, .. } = request;
    let canonical = [method, path, &query.join("&"), &headers, names, &sha256(body)].join("\n");
    let date = request.header("x-amz-date");
    assert!(names.contains("host") && names.contains("x-amz-date"), "{names}");
    assert_eq!(date, now().strftime("%Y%m%dT%H%M%SZ").to_string());
    let service = if path == "/" { "eu-west-1/sts" } else { "us-east-1/route53" };
    assert_eq!(scope, format!("{}/{service}/aws4_request", &date[..8]));
    let key = scope.split('/').fold(format!("AWS4{secret}").into_bytes(), |key, it| mac(&key, it));
    let text = format!("AWS4-HMAC-SHA256\n{date}\n{scope}\n{}", sha256(&canonical));
    if part("Signature=")? == hex(&mac(&key, &text)) { Ok(()) } else { Err("another".to_owned()) }
}

async fn start(aws: Aws) -> (Server, Arc<Mutex<Aws>>) {
    let aws = Arc::new(Mutex::new(aws));
    let server = Server::start({
        let aws = Arc::clone(&aws);
        move |request| answer(request, &aws)
    });
    (server.await, aws)
}

fn spec(role: Option<&str>) -> Route53Spec {
    let id = AccessKeyId::Text(USER.0.to_owned());
    Route53Spec {
        region: "eu-west-1".to_owned(),
        hosted_zone_id: None,
        role: role.map(str::to_owned),
        auth: Route53Auth::Keys { id, secret: reference("key") },
    }
}

fn build(server: &Server, spec: &Route53Spec, key: &str, access: Option<Access>) -> Route53 {
    let materials = materials(&[("key", key)]);
    let mut built =
        Route53::build(spec, None, fake::web(), &materials, &surroundings(access)).unwrap();
    assert!(!format!("{built:?}").contains("s3cret"));
    assert_eq!(built.credentials.sts.as_str(), "https://sts.eu-west-1.amazonaws.com/");
    built.api = server.url.clone();
    built.credentials.sts = server.url.clone();
    built
}

fn values(aws: &Mutex<Aws>) -> Vec<String> {
    aws.lock().unwrap().sets.iter().map(|(_, value)| value.clone()).collect()
}

#[tokio::test(start_paused = true)]
async fn a_value_is_added_beside_others_and_removed_alone() {
    let (server, aws) = start(Aws { busy: 1, ..Aws::default() }).await;
    let route53 = build(&server, &spec(None), USER.1, None);
    route53.present(&record("one")).await.unwrap();
    assert_eq!(aws.lock().unwrap().looks, 2, "it waits for the servers");
    route53.present(&record("two")).await.unwrap();
    route53.present(&record("one")).await.unwrap();
    assert_eq!(values(&aws), ["\"two\"", "\"one\""]);
    route53.clean_up(&record("one")).await.unwrap();
    route53.clean_up(&record("one")).await.unwrap();
    assert_eq!(values(&aws), ["\"two\""]);
    assert_eq!(aws.lock().unwrap().sessions, 0);
}

#[tokio::test(start_paused = true)]
async fn a_probe_asks_for_the_right_to_change_and_changes_nothing() {
    let (server, aws) = start(Aws::default()).await;
    let route53 = build(&server, &spec(None), USER.1, None);
    route53.present(&record("one")).await.unwrap();
    for records in [vec![], vec![record("certmount-check")]] {
        route53.probe(&records).await.unwrap();
        let stranger = build(&server, &spec(None), "s3cret2", None);
        let (kind, text) = told(stranger.probe(&records).await);
        assert_eq!(kind, IssueErrorKind::Config);
        assert!(text.contains("SignatureDoesNotMatch"), "{text}");
        let other = build(&server, &spec(Some("arn:aws:iam::1:role/other")), USER.1, None);
        let (_, text) = told(other.probe(&records).await);
        assert!(text.contains("sts:AssumeRole"), "{text}");
    }
    assert_eq!(values(&aws), ["\"one\""]);

    aws.lock().unwrap().narrow = true;
    let own = Route53Spec { hosted_zone_id: Some("ZPUBLIC".to_owned()), ..spec(None) };
    let route53 = build(&server, &own, USER.1, None);
    route53.probe(&[]).await.unwrap();
    route53.probe(&[record("certmount-check")]).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_role_is_taken_on_once() {
    let (server, aws) = start(Aws::default()).await;
    let route53 = build(&server, &spec(Some(ARN)), USER.1, None);
    route53.present(&record("one")).await.unwrap();
    route53.clean_up(&record("one")).await.unwrap();
    assert_eq!((values(&aws).len(), aws.lock().unwrap().sessions), (0, 1));

    let other = build(&server, &spec(Some("arn:aws:iam::1:role/other")), USER.1, None);
    let (kind, text) = told(other.present(&record("one")).await);
    assert_eq!(kind, IssueErrorKind::Config);
    assert!(text.contains("AccessDenied: not authorized to perform: sts:AssumeRole"), "{text}");
}

#[tokio::test(start_paused = true)]
async fn a_service_account_takes_a_role_on() {
    let (server, aws) = start(Aws::default()).await;
    let access = |code: u16| Access {
        client: client_of(move |path, body| {
            assert_eq!(path, "/api/v1/namespaces/certmount-system/serviceaccounts/dns/token");
            assert_eq!(body["spec"]["audiences"], json!(["sts.amazonaws.com"]));
            let spec = body["spec"].clone();
            let status = json!({"token": "s3cret.service.account",
                "expirationTimestamp": "2026-03-01T12:10:00Z"});
            match code {
                403 => (
                    403,
                    json!({"kind": "Status", "status": "Failure", "code": 403,
                    "reason": "Forbidden", "message": "serviceaccounts \"dns\" is forbidden"}),
                ),
                _ => (201, json!({"metadata": {}, "spec": spec, "status": status})),
            }
        }),
        namespace: "certmount-system".to_owned(),
    };
    let account = ServiceAccountRef { name: "dns".to_owned(), audiences: Vec::new() };
    let spec = Route53Spec { auth: Route53Auth::ServiceAccount(account), ..spec(Some(ARN)) };
    let route53 = build(&server, &spec, "unused", Some(access(201)));
    route53.present(&record("one")).await.unwrap();
    assert_eq!((values(&aws).len(), aws.lock().unwrap().sessions), (1, 1));

    let route53 = build(&server, &spec, "unused", Some(access(403)));
    let (kind, text) = told(route53.present(&record("one")).await);
    assert_eq!(kind, IssueErrorKind::Config);
    assert!(
        text.contains("create serviceaccounts/token") && text.contains("is forbidden"),
        "{text}"
    );
    let materials = materials(&[]);
    let said = Route53::build(&spec, None, fake::web(), &materials, &surroundings(None));
    assert!(said.unwrap_err().to_string().contains("--kubernetes"));
}

#[tokio::test(start_paused = true)]
async fn what_is_wrong_is_told_in_aws_own_words() {
    let (server, _) = start(Aws { busy: 99, ..Aws::default() }).await;
    let (kind, text) =
        told(build(&server, &spec(None), "s3cret2", None).present(&record("x")).await);
    assert_eq!(kind, IssueErrorKind::Config);
    assert!(text.contains("SignatureDoesNotMatch"), "{text}");

    let (kind, text) = told(build(&server, &spec(None), USER.1, None).present(&record("x")).await);
    assert_eq!(kind, IssueErrorKind::Unavailable);
    assert!(text.contains("PriorRequestNotComplete"), "{text}");

    let route53 = build(&server, &spec(None), USER.1, None);
    let elsewhere = TxtRecord { zone: "example.net".to_owned(), ..record("x") };
    let (kind, text) = told(route53.present(&elsewhere).await);
    assert_eq!(kind, IssueErrorKind::Config);
    assert!(text.contains("no public zone example.net"), "{text}");

    let id = Some("ZGONE".to_owned());
    let gone = build(&server, &Route53Spec { hosted_zone_id: id, ..spec(None) }, USER.1, None);
    let (kind, text) = told(gone.clean_up(&record("x")).await);
    assert_eq!(kind, IssueErrorKind::Config);
    assert!(text.contains("NoSuchHostedZone"), "{text}");
}
