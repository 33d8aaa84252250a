//! The service as its clients see it: an application with an issuing template, and requests.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use certmount::x509::{Certificate, chain_to_pem};
use serde_json::{Value, json};

use super::server::{Ca, Call, Reply, Server};

/// The service. Knows the application `My shop` with the template `Short lived`, and the API key
/// `key-0`.
pub struct Cloud {
    pub server: Server,
    state: Arc<Mutex<State>>,
}

struct State {
    ca: Ca,
    calls: Vec<Call>,
    told: Vec<(&'static str, Reply)>,
    requests: BTreeMap<String, Request>,
    settings: Settings,
}

/// How it behaves.
#[derive(Clone)]
pub struct Settings {
    /// What becomes of new requests, and why.
    pub status: &'static str,
    pub key_types: Value,
    /// What of the PEM text is answered, in bytes.
    pub cut_at: Option<usize>,
}

struct Request {
    status: &'static str,
    csr: String,
}

const API: &str = "outagedetection/v1";

impl Cloud {
    pub async fn start() -> Self {
        Self::at("127.0.0.1").await
    }

    /// One that listens on that address.
    pub async fn at(address: &str) -> Self {
        let settings = Settings { status: "ISSUED", key_types: json!([]), cut_at: None };
        let state = State {
            ca: Ca::new(),
            calls: Vec::new(),
            told: Vec::new(),
            requests: BTreeMap::new(),
            settings,
        };
        let state = Arc::new(Mutex::new(state));
        let answering = Arc::clone(&state);
        let server = Server::start(address, move |call| lock(&answering).answer(call)).await;
        Self { server, state }
    }

    /// Answers the next call of a path that ends so.
    pub fn tell(&self, path: &'static str, reply: Reply) {
        lock(&self.state).told.push((path, reply));
    }

    pub fn change(&self, change: impl FnOnce(&mut Settings)) {
        change(&mut lock(&self.state).settings);
    }

    /// Moves all requests on.
    pub fn set_status(&self, status: &'static str) {
        for request in lock(&self.state).requests.values_mut() {
            request.status = status;
        }
    }

    /// The calls whose method and path begin so.
    pub fn calls(&self, start: &str) -> Vec<Call> {
        let calls = lock(&self.state).calls.clone();
        calls.into_iter().filter(|call| call.what.starts_with(start)).collect()
    }

    pub fn root(&self) -> Certificate {
        lock(&self.state).ca.root.clone()
    }
}

impl State {
    fn answer(&mut self, call: &Call) -> Reply {
        self.calls.push(call.clone());
        if let Some(at) = self.told.iter().position(|(path, _)| call.what.contains(path)) {
            return self.told.remove(at).1;
        }
        if call.headers.get("tppl-api-key").is_none_or(|key| key != "key-0") {
            return error(401, 10503, "Unable to find an API key with the value provided");
        }
        let (method, path) = call.what.split_once(' ').unwrap();
        let path = path.strip_prefix(API).unwrap_or(path);
        let segments: Vec<&str> = path.split('/').skip(1).collect();
        match (method, &segments[..]) {
            ("GET", ["applications", "name", "My%20shop"]) => Reply::json(
                200,
                &json!({
                    "id": "app-1",
                    "name": "My shop",
                    "certificateIssuingTemplateAliasIdMap": {"Short lived": "template-1"},
                }),
            ),
            (
                "GET",
                ["applications", "My%20shop", "certificateissuingtemplates", "Short%20lived"],
            ) => Reply::json(
                200,
                &json!({
                    "id": "template-1",
                    "name": "Short lived",
                    "keyTypes": self.settings.key_types,
                }),
            ),
            ("POST", ["certificaterequests"]) => self.request(call),
            ("GET", ["certificaterequests", id]) => match self.requests.get(*id) {
                Some(request) => Reply::json(200, &request.json(id)),
                None => error(404, 10051, "Unable to find certificaterequest"),
            },
            ("GET", ["certificates", id]) => self.contents(id),
            ("GET", ["certificates", id, "contents?chainOrder=EE_FIRST&format=PEM"]) => {
                self.contents(id)
            }
            _ => error(404, 10501, "Unable to find what is asked for"),
        }
    }

    fn request(&mut self, call: &Call) -> Reply {
        let asked = [call.text("applicationId"), call.text("certificateIssuingTemplateId")];
        if asked != ["app-1", "template-1"] {
            return error(400, 10302, "The application or the template is not valid");
        }
        let id = format!("request-{}", self.requests.len() + 1);
        let csr = call.text("certificateSigningRequest").to_owned();
        let request = Request { status: self.settings.status, csr };
        let requested = json!({"certificateRequests": [request.json(&id)]});
        self.requests.insert(id, request);
        Reply::json(201, &requested)
    }

    fn contents(&self, certificate: &str) -> Reply {
        let id = certificate.replace("certificate-of-", "");
        let Some(request) = self.requests.get(&id) else {
            return error(404, 10501, "Unable to find certificate");
        };
        let life = Duration::from_secs(3600);
        let pem = chain_to_pem(&self.ca.sign(&request.csr, life));
        Reply::text(200, &pem[..self.settings.cut_at.unwrap_or(pem.len())])
    }
}

impl Request {
    fn json(&self, id: &str) -> Value {
        let mut request = json!({
            "id": id,
            "applicationId": "app-1",
            "certificateIssuingTemplateId": "template-1",
            "status": self.status,
        });
        match self.status {
            "ISSUED" => request["certificateIds"] = json!([format!("certificate-of-{id}")]),
            "FAILED" => {
                request["errorInformation"] = json!({
                    "type": "CA", "code": 11216, "message": "The CA said no", "args": ["quota"],
                });
            }
            _ => {}
        }
        request
    }
}

fn error(status: u16, code: u32, message: &str) -> Reply {
    Reply::json(status, &json!({"errors": [{"code": code, "message": message, "args": []}]}))
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}
