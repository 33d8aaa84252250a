use tracing::{Instrument as _, trace_span};
use tracing_subscriber::Layer as _;
use tracing_subscriber::layer::SubscriberExt as _;

use super::*;
use crate::trace::TARGET;

const ALWAYS: Sampler = Sampler { parent_based: true, ratio: 1.0 };

/// What closes while `work` is done, in order.
fn closed(sampler: Sampler, room: usize, work: impl FnOnce()) -> (Vec<Closed>, u64) {
    let (sender, mut receiver) = mpsc::channel(room);
    let layer = TraceLayer::new(sampler, sender, Clock::system());
    let dropped = layer.dropped();
    let subscriber = tracing_subscriber::registry().with(layer.with_filter(TraceLayer::filter()));
    tracing::subscriber::with_default(subscriber, work);
    let spans = std::iter::from_fn(|| receiver.try_recv().ok()).collect();
    (spans, dropped.load(std::sync::atomic::Ordering::Relaxed))
}

#[test]
fn spans_know_their_parents_and_what_went_wrong() {
    let (spans, _) = closed(ALWAYS, 8, || {
        let call =
            trace_span!(target: TARGET, "call", otel.kind = "server", k8s.pod.name = "web-0");
        let _entered = call.enter();
        tracing::info_span!("of somebody else").in_scope(|| {
            let span =
                trace_span!(target: TARGET, "sign", renewal = true, error = tracing::field::Empty);
            span.record("error", "the CA does not answer");
        });
    });
    let [sign, call] = &spans[..] else { panic!("{spans:?}") };
    assert_eq!((sign.name, call.name), ("sign", "call"));
    assert_eq!((sign.trace_id, sign.parent_id), (call.trace_id, Some(call.span_id)));
    assert_eq!(call.parent_id, None);
    assert_eq!(sign.error.as_deref(), Some("the CA does not answer"));
    let json = call.to_json();
    assert_eq!(json["kind"], 2);
    assert_eq!(json["attributes"][0]["key"], "k8s.pod.name");
    assert_eq!(json["attributes"][0]["value"]["stringValue"], "web-0");
    assert_eq!(json["traceId"].as_str().unwrap().len(), 32);
    assert!(json.get("parentSpanId").is_none() && json.get("status").is_none());
    let json = sign.to_json();
    assert_eq!(json["status"]["code"], 2);
    assert_eq!(json["attributes"][0]["value"]["boolValue"], true);
}

#[test]
fn the_caller_decides_about_its_own_traces() {
    let of_caller = |sampler: Sampler, flags: &str| {
        let traceparent = format!("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-{flags}");
        closed(sampler, 8, || {
            let call = trace_span!(target: TARGET, "call", traceparent);
            call.in_scope(|| trace_span!(target: TARGET, "sign"));
        })
        .0
    };
    let never = Sampler { parent_based: true, ratio: 0.0 };
    let spans = of_caller(never, "01");
    assert_eq!(spans.len(), 2);
    assert_eq!(spans[1].trace_id[..2], [0x0a, 0xf7]);
    assert_eq!(spans[1].parent_id.unwrap()[7], 0x31);
    assert_eq!(of_caller(ALWAYS, "00").len(), 0);
    assert_eq!(of_caller(Sampler { parent_based: false, ratio: 1.0 }, "00").len(), 2);
}

#[test]
fn a_part_of_all_traces_is_whole_traces() {
    let half = Sampler { parent_based: true, ratio: 0.5 };
    let (spans, _) = closed(half, 4096, || {
        for _ in 0..1000 {
            let call = trace_span!(target: TARGET, "call");
            call.in_scope(|| trace_span!(target: TARGET, "sign"));
        }
    });
    let calls = spans.iter().filter(|span| span.name == "call").count();
    assert_eq!(spans.len(), 2 * calls);
    assert!((300..700).contains(&calls), "{calls}");
}

#[test]
fn spans_without_room_are_counted_and_hold_up_nobody() {
    let (spans, dropped) = closed(ALWAYS, 2, || {
        for _ in 0..5 {
            trace_span!(target: TARGET, "call");
        }
    });
    assert_eq!((spans.len(), dropped), (2, 3));
}

/// A span ends with the work in it, however long somebody holds on to it.
#[tokio::test]
async fn a_span_ends_with_its_work() {
    let (sender, mut receiver) = mpsc::channel(8);
    let layer = TraceLayer::new(ALWAYS, sender, Clock::system());
    let subscriber = tracing_subscriber::registry().with(layer.with_filter(TraceLayer::filter()));
    let _default = tracing::subscriber::set_default(subscriber);
    let call = trace_span!(target: TARGET, "call");
    async {}.instrument(call.clone()).await;
    let after = Clock::system().now().as_nanosecond();
    std::thread::sleep(std::time::Duration::from_millis(5));
    drop(call);
    assert!(receiver.recv().await.unwrap().end <= after);
}
