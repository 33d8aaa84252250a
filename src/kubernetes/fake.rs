//! An API server in memory, for tests: it stores, lists, watches and deletes objects of any kind,
//! and takes down each call.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use futures_util::StreamExt as _;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Bytes, Frame};
use hyper::{Request, Response, StatusCode};
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;

/// The server; each clone is the same one.
#[derive(Clone, Default)]
pub(crate) struct FakeApi(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    objects: Vec<(Place, Value)>,
    version: u64,
    watches: Vec<Watch>,
    calls: Vec<String>,
    refusals: Vec<(String, Value)>,
}

/// Where an object is.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Place {
    namespace: Option<String>,
    plural: String,
    name: Option<String>,
}

struct Watch {
    place: Place,
    query: String,
    events: mpsc::UnboundedSender<Bytes>,
}

type Answer = Response<UnsyncBoxBody<Bytes, Infallible>>;

impl FakeApi {
    /// A client of this server whose own namespace is `certmount-system`.
    pub(crate) fn client(&self) -> Client {
        let api = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let api = api.clone();
            async move {
                let (parts, body) = request.into_parts();
                let body = body.collect_bytes().await.unwrap();
                Ok::<_, Infallible>(api.answer(&parts, &body))
            }
        });
        Client::new(service, "certmount-system")
    }

    /// The calls so far, such as `POST pods` and `WATCH pods`, and by whom where they say it.
    pub(crate) fn calls(&self) -> Vec<String> {
        self.0.lock().unwrap().calls.clone()
    }

    /// Puts an object there, as it is, and tells those who watch.
    pub(crate) fn put(&self, plural: &str, object: Value) {
        let text = |field: &str| object["metadata"][field].as_str().map(str::to_owned);
        let place =
            Place { namespace: text("namespace"), plural: plural.to_owned(), name: text("name") };
        self.0.lock().unwrap().store(place, object);
    }

    /// Changes the only object of that kind.
    pub(crate) fn change(&self, plural: &str, change: impl FnOnce(&mut Value)) {
        let mut state = self.0.lock().unwrap();
        let mut found = state.objects.iter().filter(|(place, _)| place.plural == plural);
        let (place, mut object) = found.next().cloned().expect("there is one");
        assert!(found.next().is_none(), "there are several {plural}");
        change(&mut object);
        state.store(place, object);
    }

    /// Deletes an object and tells those who watch.
    pub(crate) fn delete(&self, plural: &str, name: &str) {
        let mut state = self.0.lock().unwrap();
        let at = state
            .objects
            .iter()
            .position(|(place, _)| place.plural == plural && place.name.as_deref() == Some(name));
        state.remove(at.expect("it is there"));
    }

    /// All objects of that kind.
    pub(crate) fn objects(&self, plural: &str) -> Vec<Value> {
        let state = self.0.lock().unwrap();
        let found = state.objects.iter().filter(|(place, _)| place.plural == plural);
        found.map(|(_, object)| object.clone()).collect()
    }

    /// Answers every `call` with that status from now on.
    pub(crate) fn refuse(&self, call: &str, code: u16, message: &str) {
        let status = json!({"kind": "Status", "status": "Failure", "code": code, "message": message,
            "reason": "Refused"});
        self.0.lock().unwrap().refusals.push((call.to_owned(), status));
    }

    /// Refuses nothing any more.
    pub(crate) fn relent(&self) {
        self.0.lock().unwrap().refusals.clear();
    }

    /// Ends every watch, as a server does that has forgotten what happened since it began.
    pub(crate) fn expire(&self) {
        let event = json!({"type": "ERROR", "object": {"code": 410, "message": "too old"}});
        for watch in self.0.lock().unwrap().watches.drain(..) {
            let _ = watch.events.send(format!("{event}\n").into());
        }
    }

    fn answer(&self, request: &hyper::http::request::Parts, body: &[u8]) -> Answer {
        let mut state = self.0.lock().unwrap();
        let place = Place::of(request.uri.path());
        let query = request.uri.query().unwrap_or_default().to_owned();
        let verb = match request.method.as_str() {
            "GET" if query.contains("watch=true") => "WATCH",
            "GET" if place.name.is_none() => "LIST",
            method => method,
        };
        let mut call = format!("{verb} {}", place.plural);
        if let Some(bearer) = request.headers.get("authorization") {
            call += &format!(" by {}", bearer.to_str().unwrap());
        }
        state.calls.push(call.clone());
        if let Some((_, status)) = state.refusals.iter().find(|(refused, _)| *refused == call) {
            let code = status["code"].as_u64().unwrap() as u16;
            return json_answer(StatusCode::from_u16(code).unwrap(), status);
        }
        let at = state.objects.iter().position(|(other, _)| *other == place);
        match (verb, at) {
            ("WATCH", _) => {
                let (events, received) = mpsc::unbounded_channel();
                state.watches.push(Watch { place, query, events });
                let frames =
                    UnboundedReceiverStream::new(received).map(|bytes| Ok(Frame::data(bytes)));
                Response::new(StreamBody::new(frames).boxed_unsync())
            }
            ("LIST", _) => {
                let found = state
                    .objects
                    .iter()
                    .filter(|(other, object)| place.holds(other) && selects(&query, object));
                let items: Vec<_> = found.map(|(_, object)| object).collect();
                let version = state.version.to_string();
                let list = json!({"metadata": {"resourceVersion": version}, "items": items});
                json_answer(StatusCode::OK, &list)
            }
            ("POST", _) => {
                let object: Value = serde_json::from_slice(body).unwrap();
                let name = object["metadata"]["name"].as_str().map(str::to_owned);
                let place = Place { name, ..place };
                if state.objects.iter().any(|(other, _)| *other == place) {
                    return failure(StatusCode::CONFLICT, "AlreadyExists");
                }
                let stored = state.store(place, object);
                json_answer(StatusCode::CREATED, &stored)
            }
            ("GET", Some(at)) => json_answer(StatusCode::OK, &state.objects[at].1),
            ("DELETE", Some(at)) => {
                let deleted = state.remove(at);
                json_answer(StatusCode::OK, &deleted)
            }
            ("PATCH", None) if query.contains(APPLIED_BY) => {
                let stored = state.store(place, serde_json::from_slice(body).unwrap());
                json_answer(StatusCode::CREATED, &stored)
            }
            ("PATCH", Some(at))
                if query.contains(APPLIED_BY)
                    && differs(&state.objects[at].1, &serde_json::from_slice(body).unwrap()) =>
            {
                failure(StatusCode::CONFLICT, "Conflict")
            }
            ("PATCH", Some(at)) => {
                let mut object = state.objects[at].1.clone();
                merge(&mut object, serde_json::from_slice(body).unwrap());
                let stored = state.store(place, object);
                json_answer(StatusCode::OK, &stored)
            }
            _ => failure(StatusCode::NOT_FOUND, "NotFound"),
        }
    }
}

/// A client of a server that stores nothing: `answer` makes status and body of path and body.
pub(crate) fn client_of(
    answer: impl Fn(&str, &Value) -> (u16, Value) + Send + Sync + 'static,
) -> Client {
    let answer = Arc::new(answer);
    let service = tower::service_fn(move |request: Request<Body>| {
        let answer = Arc::clone(&answer);
        async move {
            let path = request.uri().path().to_owned();
            let body = request.into_body().collect_bytes().await.unwrap();
            let (code, body) = answer(&path, &serde_json::from_slice(&body).unwrap_or_default());
            Ok::<_, Infallible>(json_answer(StatusCode::from_u16(code).unwrap(), &body))
        }
    });
    Client::new(service, "certmount-system")
}

impl State {
    fn store(&mut self, place: Place, mut object: Value) -> Value {
        self.version += 1;
        object["metadata"]["resourceVersion"] = self.version.to_string().into();
        let at = self.objects.iter().position(|(other, _)| *other == place);
        match at {
            Some(at) => self.objects[at].1 = object.clone(),
            None => self.objects.push((place.clone(), object.clone())),
        }
        self.tell(if at.is_some() { "MODIFIED" } else { "ADDED" }, &place, &object);
        object
    }

    fn remove(&mut self, at: usize) -> Value {
        let (place, mut object) = self.objects.remove(at);
        self.version += 1;
        object["metadata"]["resourceVersion"] = self.version.to_string().into();
        self.tell("DELETED", &place, &object);
        object
    }

    fn tell(&self, kind: &str, place: &Place, object: &Value) {
        let event = format!("{}\n", json!({"type": kind, "object": object}));
        for watch in &self.watches {
            if watch.place.holds(place) && selects(&watch.query, object) {
                let _ = watch.events.send(event.clone().into());
            }
        }
    }
}

impl Place {
    fn of(path: &str) -> Self {
        let mut parts = path.trim_start_matches('/').split('/').map(str::to_owned);
        let root = parts.next();
        // The group, where there is one, and the version.
        let _ = parts.by_ref().nth(usize::from(root.as_deref() == Some("apis")));
        let mut namespace = None;
        let mut plural = parts.next().unwrap();
        if plural == "namespaces" {
            namespace = parts.next();
            plural = parts.next().unwrap();
        }
        Self { namespace, plural, name: parts.next() }
    }

    /// Whether `other` is in this collection.
    fn holds(&self, other: &Self) -> bool {
        self.plural == other.plural
            && (self.namespace.is_none() || self.namespace == other.namespace)
    }
}

/// Whether `object` has the label and the name that `query` selects.
fn selects(query: &str, object: &Value) -> bool {
    query.split('&').all(|parameter| {
        let Some((key, value)) = parameter.split_once('=') else { return true };
        let value = value.replace("%3D", "=").replace("%2F", "/");
        match (key, value.split_once('=')) {
            ("labelSelector", Some((label, wanted))) => {
                object["metadata"]["labels"][label] == wanted
            }
            ("fieldSelector", Some(("metadata.name", wanted))) => {
                object["metadata"]["name"] == wanted
            }
            ("fieldSelector", Some(("spec.signerName", wanted))) => {
                object["spec"]["signerName"] == wanted
            }
            ("fieldSelector" | "labelSelector", _) => panic!("no such selector here: {value}"),
            _ => true,
        }
    })
}

/// What tells server-side apply from other patches. Everybody here is a manager of their own.
const APPLIED_BY: &str = "fieldManager=";

/// Whether both have a value in the same place, and not the same.
fn differs(object: &Value, applied: &Value) -> bool {
    match (object, applied) {
        (Value::Null, _) => false,
        (Value::Object(object), Value::Object(applied)) => applied
            .iter()
            .any(|(key, value)| object.get(key).is_some_and(|there| differs(there, value))),
        (object, applied) => object != applied,
    }
}

/// RFC 7386.
fn merge(target: &mut Value, patch: Value) {
    let Value::Object(patch) = patch else {
        *target = patch;
        return;
    };
    for (key, value) in patch {
        match value {
            Value::Null => {
                target.as_object_mut().unwrap().remove(&key);
            }
            value => merge(&mut target[key], value),
        }
    }
}

fn failure(code: StatusCode, reason: &str) -> Answer {
    let status = json!({"kind": "Status", "status": "Failure", "code": code.as_u16(),
        "reason": reason, "message": reason});
    json_answer(code, &status)
}

fn json_answer(code: StatusCode, body: &Value) -> Answer {
    let body = Full::new(Bytes::from(body.to_string())).boxed_unsync();
    Response::builder().status(code).body(body).unwrap()
}
