//! A publish as a collector of traces sees it, and that nobody waits for one.

#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;
use tonic::Request;

use common::{Plugin, SELF_SIGNED, inline_volume, namespaced_async};

fn traced(endpoint: &str) -> Plugin {
    Plugin::with_arguments(&[SELF_SIGNED], &["--otlp-endpoint", endpoint])
}

#[test]
fn each_publish_is_a_trace() {
    namespaced_async(|| async {
        let collector = Collector::start();
        let mut plugin = traced(&collector.endpoint());
        let mut volume = inline_volume("web-0", "self-signed");
        let planted = "planted-7c1f9e";
        volume
            .secrets
            .insert("csi.storage.k8s.io/serviceAccount.tokens".to_owned(), planted.to_owned());
        let kubelet = plugin.kubelet();
        kubelet.publish(&volume).await.unwrap();
        plugin.wait("the spans", || collector.of_pod("web-0").len() == 8);

        let spans = collector.of_pod("web-0");
        let named = |name: &str| spans.iter().find(|span| span["name"] == name).unwrap();
        let call = named("csi.v1.Node/NodePublishVolume");
        assert!(call.get("parentSpanId").is_none(), "{call}");
        assert_eq!(call["kind"], 2);
        assert_eq!(attribute(call, "csi.volume.id"), volume.id());
        assert_eq!(attribute(call, "k8s.namespace.name"), "shop");
        assert_eq!(attribute(named("issue"), "certmount.issuer.name"), "self-signed");
        for (parent, names) in [
            (call, ["parse", "policy", "issue", "mount"].as_slice()),
            (named("issue"), &["key", "sign", "write"]),
        ] {
            for name in names {
                let span = named(name);
                assert_eq!(span["parentSpanId"], parent["spanId"], "{name}");
                assert_eq!(span["traceId"], parent["traceId"], "{name}");
                assert!(nanos(parent, "startTimeUnixNano") <= nanos(span, "startTimeUnixNano"));
                assert!(nanos(span, "startTimeUnixNano") <= nanos(span, "endTimeUnixNano"));
                assert!(span.get("status").is_none(), "{span}");
            }
        }
        let requests = collector.requests();
        let (head, body) = &requests[0];
        assert!(head.starts_with("POST /v1/traces HTTP/1.1"), "{head}");
        assert!(head.to_ascii_lowercase().contains("content-type: application/json"), "{head}");
        let resource = &body["resourceSpans"][0]["resource"];
        assert_eq!(attribute(resource, "service.name"), "certmount");
        assert_eq!(attribute(resource, "k8s.node.name"), "node-1");
        for (_, body) in &requests {
            assert!(!body.to_string().contains(planted), "{body}");
        }

        // Kubelet that traces its own calls.
        let (trace, span) = ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331");
        let mut request = Request::new(kubelet.publish_request(&volume).await.unwrap());
        let parent = format!("00-{trace}-{span}-01").parse().unwrap();
        request.metadata_mut().insert("traceparent", parent);
        kubelet.node().await.unwrap().node_publish_volume(request).await.unwrap();
        plugin.wait("the call below kubelet's", || {
            collector.spans().iter().any(|it| it["traceId"] == trace && it["parentSpanId"] == span)
        });

        // What fails says so, and what closed last is sent before the end.
        kubelet.publish(&inline_volume("web-1", "missing")).await.unwrap_err();
        assert!(plugin.terminate().success());
        let spans = collector.of_pod("web-1");
        for name in ["csi.v1.Node/NodePublishVolume", "issue"] {
            let span = spans.iter().find(|span| span["name"] == name).unwrap();
            assert_eq!(span["status"]["code"], 2, "{span}");
            let message = span["status"]["message"].as_str().unwrap();
            assert!(message.contains("there is no ClusterIssuer missing"), "{message}");
        }
    });
}

#[test]
fn nobody_waits_for_a_collector() {
    namespaced_async(|| async {
        // One that takes connections and never answers, and one that is not there.
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let silent_at = silent.local_addr().unwrap();
        for address in [silent_at, gone] {
            let mut plugin = traced(&format!("http://{address}"));
            for pod in ["web-0", "web-1"] {
                plugin.kubelet().publish(&inline_volume(pod, "self-signed")).await.unwrap();
            }
            if address == gone {
                plugin.wait("it is told once", || plugin.log().contains("spans cannot be sent"));
            }
            let began = Instant::now();
            assert!(plugin.terminate().success());
            // The exporter would wait for ten seconds.
            assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
        }
    });
}

#[test]
fn without_a_collector_nothing_is_made() {
    namespaced_async(|| async {
        let plugin = Plugin::with_arguments(
            &[SELF_SIGNED],
            &["--log-level", "trace", "--log-format", "json", "--otel-exporter-otlp-endpoint", ""],
        );
        plugin.kubelet().publish(&inline_volume("web-0", "self-signed")).await.unwrap();
        // Spans are nowhere, not even in a log that has all there is.
        plugin.wait("the certificate is told", || plugin.log().contains("certificate issued"));
        let log = plugin.log();
        assert!(!log.contains("NodePublishVolume\""), "{log}");
        assert!(!log.contains("\"spans\""), "{log}");
    });
}

/// What takes OTLP over HTTP, and answers as a collector does.
struct Collector {
    port: u16,
    requests: Arc<Mutex<Vec<(String, Value)>>>,
}

impl Collector {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let requests: Arc<Mutex<Vec<(String, Value)>>> = Arc::default();
        let received = Arc::clone(&requests);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let received = Arc::clone(&received);
                std::thread::spawn(move || serve(stream.unwrap(), &received));
            }
        });
        Self { port, requests }
    }

    fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The head and the body of each request.
    fn requests(&self) -> Vec<(String, Value)> {
        self.requests.lock().unwrap().clone()
    }

    fn spans(&self) -> Vec<Value> {
        let array = |value: &Value| value.as_array().unwrap().clone();
        let requests = self.requests();
        let resources = requests.iter().flat_map(|(_, body)| array(&body["resourceSpans"]));
        let scopes = resources.flat_map(|resource| array(&resource["scopeSpans"]));
        scopes.flat_map(|scope| array(&scope["spans"])).collect()
    }

    /// All spans of the traces in which that pod is named.
    fn of_pod(&self, pod: &str) -> Vec<Value> {
        let spans = self.spans();
        let of_pod: Vec<Value> = spans
            .iter()
            .filter(|span| attribute(span, "k8s.pod.name") == pod)
            .map(|span| span["traceId"].clone())
            .collect();
        spans.into_iter().filter(|span| of_pod.contains(&span["traceId"])).collect()
    }
}

/// Answers requests on one connection until it ends.
fn serve(stream: TcpStream, received: &Mutex<Vec<(String, Value)>>) {
    let mut reader = BufReader::new(stream);
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if reader.read_line(&mut head).unwrap_or(0) == 0 {
                return;
            }
        }
        let lines = head.lines().filter_map(|line| line.split_once(": "));
        let length = lines
            .filter(|(name, _)| name.eq_ignore_ascii_case("content-length"))
            .map(|(_, value)| value.parse().unwrap())
            .next();
        let mut body = vec![0; length.unwrap_or(0)];
        reader.read_exact(&mut body).unwrap();
        received.lock().unwrap().push((head, serde_json::from_slice(&body).unwrap()));
        let answer =
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}";
        if reader.get_mut().write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}

/// The text of an attribute of a span or a resource; empty where it has none.
fn attribute(of: &Value, key: &str) -> String {
    let attributes = of["attributes"].as_array().unwrap();
    let found = attributes.iter().find(|attribute| attribute["key"] == key);
    let value = found.and_then(|attribute| attribute["value"]["stringValue"].as_str());
    value.unwrap_or_default().to_owned()
}

fn nanos(span: &Value, field: &str) -> u128 {
    span[field].as_str().unwrap().parse().unwrap()
}
