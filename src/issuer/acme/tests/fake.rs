//! An ACME server that believes every signature and can be told to misbehave.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use axum::response::{IntoResponse as _, Response};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio_util::task::AbortOnDropHandle;

/// Stops when it is dropped.
#[derive(Clone)]
pub(super) struct FakeServer {
    base: String,
    held: Arc<Mutex<Held>>,
    /// Told when the request came that gets no answer.
    pub(super) hung: Arc<Notify>,
    _task: Arc<AbortOnDropHandle<()>>,
}

#[derive(Default)]
struct Held {
    accounts: usize,
    orders: Vec<Order>,
    asked: Vec<String>,
    payloads: Vec<(String, Value)>,
    misbehaviour: VecDeque<(String, Answer)>,
    /// The request with this number is carried out, and gets no answer.
    hang_at: Option<usize>,
    certificate: String,
    alternate: String,
    /// The error of each challenge.
    refusal: Option<Value>,
}

#[derive(Clone, Copy, Default)]
struct Order {
    proved: bool,
    refused: bool,
    finalized: bool,
    looked_at: usize,
}

/// What is answered instead of the truth.
#[derive(Clone)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) headers: &'static [(&'static str, &'static str)],
    pub(super) body: String,
}

impl FakeServer {
    pub(super) async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let (held, hung) = (Arc::new(Mutex::new(Held::default())), Arc::new(Notify::new()));
        let state = (base.clone(), Arc::clone(&held), Arc::clone(&hung));
        let router = Router::new().fallback(serve).with_state(state);
        let task = tokio::spawn(async { axum::serve(listener, router).await.unwrap() });
        Self { base, held, hung, _task: Arc::new(AbortOnDropHandle::new(task)) }
    }

    pub(super) fn directory(&self) -> String {
        format!("{}/dir", self.base)
    }

    /// What is handed out as the certificate, and as the alternate chain.
    pub(super) fn sign(&self, certificate: String, alternate: String) {
        let mut held = self.lock();
        (held.certificate, held.alternate) = (certificate, alternate);
    }

    /// The next request to `path` gets `answer`.
    pub(super) fn answer(&self, path: &str, answer: Answer) {
        self.lock().misbehaviour.push_back((path.to_owned(), answer));
    }

    /// Challenges end with this problem.
    pub(super) fn refuse_challenges(&self, problem: Value) {
        self.lock().refusal = Some(problem);
    }

    pub(super) fn hang_at(&self, request: usize) {
        let mut held = self.lock();
        held.hang_at = Some(request);
    }

    pub(super) fn behave(&self) {
        let mut held = self.lock();
        (held.hang_at, held.refusal) = (None, None);
        held.misbehaviour.clear();
    }

    /// How many orders and accounts there are.
    pub(super) fn orders(&self) -> usize {
        self.lock().orders.len()
    }

    pub(super) fn accounts(&self) -> usize {
        self.lock().accounts
    }

    /// Every request so far: method and path.
    pub(super) fn asked(&self) -> Vec<String> {
        self.lock().asked.clone()
    }

    /// The payloads that were sent to `path`.
    pub(super) fn payloads(&self, path: &str) -> Vec<Value> {
        let held = self.lock();
        held.payloads.iter().filter(|(to, _)| to == path).map(|(_, body)| body.clone()).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap()
    }
}

type Shared = (String, Arc<Mutex<Held>>, Arc<Notify>);

async fn serve(State((base, held, hung)): State<Shared>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let path = parts.uri.path().to_owned();
    let body = body.collect().await.unwrap().to_bytes();
    let (response, hangs) = {
        let mut held = held.lock().unwrap();
        held.asked.push(format!("{} {path}", parts.method));
        let hangs = held.hang_at == Some(held.asked.len());
        (held.respond(&base, &parts.method, &path, &body), hangs)
    };
    if hangs {
        hung.notify_one();
        std::future::pending::<()>().await;
    }
    response
}

impl Held {
    fn respond(&mut self, base: &str, method: &Method, path: &str, body: &[u8]) -> Response {
        if let Ok(jws) = serde_json::from_slice::<Value>(body) {
            let payload = URL_SAFE_NO_PAD.decode(jws["payload"].as_str().unwrap()).unwrap();
            let payload = serde_json::from_slice(&payload).unwrap_or_default();
            self.payloads.push((path.to_owned(), payload));
        }
        if let Some(at) = self.misbehaviour.iter().position(|(to, _)| to == path) {
            let (_, answer) = self.misbehaviour.remove(at).unwrap();
            return answer.into_response();
        }
        let ok = |value: Value| respond(200, &[], value.to_string());
        let created = |at: &str, value: Value| respond(201, &[("location", at)], value.to_string());
        let (collection, number) = path[1..].split_once('/').unwrap_or_else(|| (&path[1..], ""));
        let number: usize = number.split('/').next().unwrap().parse().unwrap_or_default();
        match (method.as_str(), collection) {
            (_, "nonce") => respond(200, &[], String::new()),
            ("GET", "dir") => ok(json!({
                "newNonce": format!("{base}/nonce"),
                "newAccount": format!("{base}/account"),
                "newOrder": format!("{base}/order"),
                "renewalInfo": format!("{base}/renewal"),
            })),
            ("GET", "renewal") => ok(json!({"suggestedWindow": {
                "start": "2026-03-10T00:00:00Z", "end": "2026-03-11T00:00:00Z"}})),
            (_, "account") => {
                let only_existing = self
                    .payloads
                    .last()
                    .is_some_and(|(_, sent)| sent["onlyReturnExisting"] == true);
                if only_existing && self.accounts == 0 {
                    return problem(400, "accountDoesNotExist", "no such account").into_response();
                }
                self.accounts = self.accounts.max(1);
                created(&format!("{base}/account/1"), json!({"status": "valid"}))
            }
            (_, "order") if path == "/order" => {
                self.orders.push(Order::default());
                let number = self.orders.len() - 1;
                created(&format!("{base}/order/{number}"), self.order(base, number))
            }
            (_, "order") if number < self.orders.len() => {
                self.orders[number].looked_at += usize::from(self.orders[number].finalized);
                ok(self.order(base, number))
            }
            (_, "authz") => ok(self.authorization(base, number)),
            (_, "challenge") => {
                let began = self.payloads.last().is_some_and(|(_, sent)| sent.is_object());
                match &self.refusal {
                    Some(_) if began => self.orders[number].refused = true,
                    _ => self.orders[number].proved |= began,
                }
                ok(self.challenge(base, number))
            }
            (_, "finalize") => {
                if self.orders[number].finalized {
                    return problem(403, "orderNotReady", "it is finalized").into_response();
                }
                self.orders[number].finalized = true;
                ok(self.order(base, number))
            }
            (_, "cert") if path.ends_with("/other") => respond(200, &[], self.alternate.clone()),
            (_, "cert") => {
                let link = format!("<{base}/cert/{number}/other>;rel=\"alternate\"");
                let links = [("link", "<https://a.example/dir>;rel=\"index\""), ("link", &link)];
                respond(200, &links, self.certificate.clone())
            }
            _ => problem(404, "malformed", "there is nothing").into_response(),
        }
    }

    fn order(&self, base: &str, number: usize) -> Value {
        let order = self.orders[number];
        // Some servers take their time to sign.
        let status = match order {
            Order { refused: true, .. } => "invalid",
            Order { finalized: true, looked_at: 2.., .. } => "valid",
            Order { finalized: true, .. } => "processing",
            Order { proved: true, .. } => "ready",
            _ => "pending",
        };
        let mut value = json!({
            "status": status,
            "identifiers": [{"type": "dns", "value": "web.example"}],
            "authorizations": [format!("{base}/authz/{number}")],
            "finalize": format!("{base}/finalize/{number}"),
        });
        if status == "valid" {
            value["certificate"] = json!(format!("{base}/cert/{number}"));
        }
        value
    }

    fn authorization(&self, base: &str, number: usize) -> Value {
        let status = match self.orders[number] {
            Order { refused: true, .. } => "invalid",
            Order { proved: true, .. } => "valid",
            _ => "pending",
        };
        json!({
            "status": status,
            "identifier": {"type": "dns", "value": "web.example"},
            "challenges": [self.challenge(base, number)],
        })
    }

    fn challenge(&self, base: &str, number: usize) -> Value {
        let order = self.orders[number];
        json!({
            "type": "http-01",
            "url": format!("{base}/challenge/{number}"),
            "token": "evaGxfADs6pSRb2LAv9IZf17Dt3juxGJ-PCt92wr-oA",
            "status": match order {
                Order { refused: true, .. } => "invalid",
                Order { proved: true, .. } => "valid",
                _ => "pending",
            },
            "error": if order.refused { self.refusal.clone() } else { None },
        })
    }
}

impl Answer {
    fn into_response(self) -> Response {
        respond(self.status, self.headers, self.body)
    }

    pub(super) fn with(self, headers: &'static [(&'static str, &'static str)]) -> Self {
        Self { headers, ..self }
    }
}

/// A problem document.
pub(super) fn problem(status: u16, kind: &str, detail: &str) -> Answer {
    let kind = format!("urn:ietf:params:acme:error:{kind}");
    let body = json!({"type": kind, "detail": detail}).to_string();
    Answer { status, headers: &[("content-type", "application/problem+json")], body }
}

/// What a proxy says.
pub(super) fn html(status: u16) -> Answer {
    let body = "<html><body>secret of a proxy</body></html>".to_owned();
    Answer { status, headers: &[("content-type", "text/html")], body }
}

fn respond(status: u16, headers: &[(&str, &str)], body: String) -> Response {
    let mut all = HeaderMap::new();
    all.insert("replay-nonce", HeaderValue::from_static("nonce"));
    for (name, value) in headers {
        let name: HeaderName = name.parse().unwrap();
        all.append(name, value.parse().unwrap());
    }
    (StatusCode::from_u16(status).unwrap(), all, body).into_response()
}
