use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use serde_json::Value;

use super::*;
use crate::kubernetes::fake::FakeApi;
use crate::spec::fixture;

struct Bench {
    api: FakeApi,
    now: Arc<AtomicI64>,
    events: Events,
}

/// A report on one and the same volume.
fn of_volume(outcome: Outcome) -> Report {
    Report {
        volume: VolumeId::of_inline_volume("uid-1", "tls"),
        pod: fixture::pod("shop", "web-0", "web"),
        issuer: fixture::cluster_issuer("ca"),
        outcome,
    }
}

const START: i64 = 1_800_000_000;
const DAY: i64 = 86_400;

impl Bench {
    fn new() -> Self {
        let (api, now) = (FakeApi::default(), Arc::new(AtomicI64::new(START)));
        let seen = Arc::clone(&now);
        let clock = Clock::from_fn(move || at(seen.load(Ordering::SeqCst)));
        let events = Events::start(api.client(), "csi.certmount.dev", "node-1", clock);
        Self { api, now, events }
    }

    /// Reports `outcome`, and waits until what there is to write is written.
    async fn report(&self, outcome: Outcome) {
        self.events.observe(&of_volume(outcome));
        self.all_is_written().await;
    }

    async fn all_is_written(&self) {
        while self.events.reports.capacity() < MOST_WAITING {
            tokio::time::sleep(PACE).await;
        }
        // The last one may still be on its way.
        tokio::time::sleep(Duration::from_secs(1)).await;
    }

    fn pass(&self, seconds: i64) {
        self.now.fetch_add(seconds, Ordering::SeqCst);
    }

    fn written(&self) -> Vec<Value> {
        self.api.objects("events")
    }

    fn reasons(&self) -> Vec<String> {
        let reason = |event: &Value| event["reason"].as_str().unwrap().to_owned();
        self.written().iter().map(reason).collect()
    }
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn failed(kind: IssueErrorKind, message: &str, not_after: Option<i64>) -> Outcome {
    Outcome::Failed {
        renewal: not_after.is_some(),
        kind,
        by_issuer: true,
        message: message.to_owned(),
        retry_at: at(START + 60),
        not_after: not_after.map(at),
    }
}

fn issued(renewal: bool) -> Outcome {
    Outcome::Issued {
        renewal,
        took: Duration::from_millis(5),
        serial: "0badc0de".to_owned(),
        not_after: at(START + 90 * DAY),
        renew_at: at(START + 60 * DAY),
    }
}

#[tokio::test(start_paused = true)]
async fn a_pod_s_owner_sees_that_a_certificate_came_and_until_when_it_holds() {
    let bench = Bench::new();
    bench.report(issued(false)).await;
    let event = bench.written().remove(0);
    assert_eq!(event["reason"], "CertificateIssued");
    assert_eq!(event["type"], "Normal");
    assert_eq!(
        event["message"],
        "ClusterIssuer ca issued a certificate: serial number 0badc0de, holds until \
         2027-04-15T08:00:00Z, renewal at 2027-03-16T08:00:00Z"
    );
    let pod = &event["involvedObject"];
    let pod = ["kind", "namespace", "name", "uid"].map(|field| pod[field].as_str().unwrap());
    assert_eq!(pod, ["Pod", "shop", "web-0", "uid-1"]);
    assert_eq!(event["metadata"]["namespace"], "shop");
    assert_eq!(event["source"]["component"], "csi.certmount.dev");
    assert_eq!(event["source"]["host"], "node-1");
    assert_eq!(event["lastTimestamp"], "2027-01-15T08:00:00Z");
}

#[tokio::test(start_paused = true)]
async fn each_kind_of_trouble_has_its_reason_and_says_who_what_and_when() {
    use IssueErrorKind::{Config, Denied, Pending, Unavailable};
    let in_a_day = Some(START + DAY);
    let table = [
        (Pending, None, "Normal", "CertificatePending"),
        (Denied, None, "Warning", "CertificateDenied"),
        (Config, None, "Warning", "CertificateNotIssued"),
        (Unavailable, None, "Warning", "CertificateNotIssued"),
        (Denied, in_a_day, "Warning", "RenewalDenied"),
        (Pending, in_a_day, "Warning", "RenewalPending"),
        (Unavailable, in_a_day, "Warning", "RenewalFailing"),
        (Unavailable, Some(START - 1), "Warning", "CertificateExpired"),
    ];
    for (kind, not_after, severity, reason) in table {
        let bench = Bench::new();
        bench.report(failed(kind, "the CA is asleep", not_after)).await;
        let event = bench.written().remove(0);
        assert_eq!(
            (event["type"].as_str(), event["reason"].as_str()),
            (Some(severity), Some(reason))
        );
        let message = event["message"].as_str().unwrap();
        assert!(message.starts_with("ClusterIssuer ca: the CA is asleep; "), "{message}");
        assert!(message.ends_with("next try at 2027-01-15T08:01:00Z"), "{message}");
        assert_eq!(message.contains("the certificate"), not_after.is_some(), "{message}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_failure_that_repeats_is_one_event_with_a_count() {
    let bench = Bench::new();
    let failure = || failed(IssueErrorKind::Unavailable, "the CA is asleep", None);
    for _ in 0..10 {
        bench.report(failure()).await;
        bench.pass(60);
    }
    let event = bench.written().remove(0);
    assert_eq!(bench.written().len(), 1);
    assert_eq!(event["count"], 6);
    assert_eq!(event["firstTimestamp"], "2027-01-15T08:00:00Z");
    assert_eq!(event["lastTimestamp"], "2027-01-15T08:05:00Z");
    assert_eq!(bench.api.calls(), ["POST events", "PATCH events"]);

    // Another cause is news, and so is the end of it.
    bench.report(failed(IssueErrorKind::Unavailable, "the CA is gone", None)).await;
    bench.pass(1);
    bench.report(issued(false)).await;
    bench.pass(1);
    bench.report(failure()).await;
    assert_eq!(
        bench.reasons(),
        [
            "CertificateNotIssued",
            "CertificateNotIssued",
            "CertificateIssued",
            "CertificateNotIssued"
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn a_renewal_that_goes_on_failing_becomes_urgent() {
    let bench = Bench::new();
    let failure =
        || failed(IssueErrorKind::Unavailable, "the CA is asleep", Some(START + 30 * DAY));
    for days in [20, 5, 10] {
        bench.report(failure()).await;
        bench.pass(days * DAY);
    }
    bench.report(failure()).await;
    assert_eq!(bench.reasons(), ["RenewalFailing", "CertificateExpiring", "CertificateExpired"]);
    bench.pass(1);
    bench.report(issued(true)).await;
    assert_eq!(bench.reasons().last().unwrap(), "CertificateRenewed");
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_for_an_api_server_that_does_not_answer() {
    let bench = Bench::new();
    bench.api.refuse("POST events", 403, "events is forbidden");
    for _ in 0..(2 * MOST_WAITING) {
        bench.events.observe(&of_volume(issued(true)));
    }
    assert_eq!(bench.events.reports.capacity(), 0);
    bench.all_is_written().await;
    bench.api.relent();
    bench.report(issued(true)).await;
    assert_eq!(bench.reasons(), ["CertificateRenewed"]);
}

#[tokio::test(start_paused = true)]
async fn a_pod_s_owner_sees_what_the_ca_had_to_say() {
    let bench = Bench::new();
    let message = "https://vault: TTL is longer than permitted".to_owned();
    bench.report(Outcome::Warned { message }).await;
    let event = bench.written().remove(0);
    assert_eq!((&event["reason"], &event["type"]), (&"IssuerWarning".into(), &"Warning".into()));
    assert_eq!(event["message"], "ClusterIssuer ca: https://vault: TTL is longer than permitted");
}

#[tokio::test(start_paused = true)]
async fn events_of_many_volumes_come_one_by_one_and_say_when_it_happened() {
    let bench = Bench::new();
    for number in 0..60 {
        bench.events.observe(&of_volume(Outcome::Warned { message: format!("warning {number}") }));
        bench.pass(1);
    }
    tokio::time::sleep(Duration::from_millis(10)).await;
    assert_eq!(bench.written().len(), 1, "the first does not wait");
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(bench.written().len(), 21);
    bench.all_is_written().await;
    let written = bench.written();
    assert_eq!(written.len(), 60);
    for (number, event) in written.iter().enumerate() {
        let message = event["message"].as_str().unwrap();
        assert!(message.ends_with(&format!("warning {number}")), "{message}");
    }
    assert_eq!(written[0]["lastTimestamp"], "2027-01-15T08:00:00Z");
    assert_eq!(written[59]["lastTimestamp"], "2027-01-15T08:00:59Z");
}

#[tokio::test(start_paused = true)]
async fn what_waits_is_written_before_the_end() {
    let bench = Bench::new();
    for _ in 0..60 {
        bench.events.observe(&of_volume(issued(true)));
        bench.pass(1);
    }
    let began = tokio::time::Instant::now();
    bench.events.close().await;
    assert!(began.elapsed() < PACE, "{:?}", began.elapsed());
    assert_eq!(bench.api.objects("events").len(), 60);
}
