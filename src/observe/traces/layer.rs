//! Takes spans down as they close.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::mpsc;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;

use super::context::RemoteParent;
use super::{Closed, Kind, Sampler, Value};
use crate::clock::Clock;
use crate::error::excerpt;
use crate::trace::TARGET;

/// Takes down the spans of [`crate::trace`], and nothing else if it is put below
/// [`TraceLayer::filter`].
#[derive(Debug)]
pub struct TraceLayer {
    sampler: Sampler,
    spans: mpsc::Sender<Closed>,
    /// How many nobody had room for.
    dropped: Arc<AtomicU64>,
    clock: Clock,
}

/// A span that is open.
enum Open {
    Sampled(Box<Closed>),
    /// One of a trace that nobody wants to have.
    Unsampled,
}

impl TraceLayer {
    pub(super) fn new(sampler: Sampler, spans: mpsc::Sender<Closed>, clock: Clock) -> Self {
        Self { sampler, spans, dropped: Arc::default(), clock }
    }

    /// What lets through the spans that this layer is for.
    pub fn filter() -> Targets {
        Targets::new().with_target(TARGET, Level::TRACE)
    }

    pub(super) fn dropped(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.dropped)
    }

    fn now(&self) -> i128 {
        self.clock.now().as_nanosecond()
    }

    /// A trace that begins here, or that `remote` began; `None` for one that is not wanted.
    fn begin(&self, remote: Option<RemoteParent>) -> Option<([u8; 16], Option<[u8; 8]>)> {
        let trace_id = match remote {
            Some(remote) => remote.trace_id,
            None => random()?,
        };
        let wanted = match remote {
            Some(remote) if self.sampler.parent_based => remote.sampled,
            _ => is_among(trace_id, self.sampler.ratio),
        };
        wanted.then(|| (trace_id, remote.map(|remote| remote.span_id)))
    }
}

/// Whether a trace is among the `ratio` of all that are sent: whoever is asked says the same.
fn is_among(trace_id: [u8; 16], ratio: f64) -> bool {
    let [.., a, b, c, d] = trace_id;
    f64::from(u32::from_be_bytes([a, b, c, d])) < ratio * (f64::from(u32::MAX) + 1.0)
}

fn random<const N: usize>() -> Option<[u8; N]> {
    let mut bytes = [0; N];
    aws_lc_rs::rand::fill(&mut bytes).ok()?;
    Some(bytes)
}

impl<S> Layer<S> for TraceLayer
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        let parent = span.parent().and_then(|parent| {
            let extensions = parent.extensions();
            Some(match extensions.get::<Open>()? {
                Open::Sampled(parent) => Some((parent.trace_id, Some(parent.span_id))),
                Open::Unsampled => None,
            })
        });
        let place = parent.unwrap_or_else(|| self.begin(fields.remote));
        let open = match place.zip(random()) {
            None => Open::Unsampled,
            Some(((trace_id, parent_id), span_id)) => {
                let start = self.now();
                Open::Sampled(Box::new(Closed {
                    trace_id,
                    span_id,
                    parent_id,
                    name: attributes.metadata().name(),
                    kind: fields.kind,
                    start,
                    end: start,
                    attributes: fields.attributes,
                    error: fields.error,
                }))
            }
        };
        span.extensions_mut().insert(open);
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        let mut extensions = span.extensions_mut();
        let Some(Open::Sampled(open)) = extensions.get_mut() else { return };
        let mut fields = Fields::default();
        values.record(&mut fields);
        open.attributes.append(&mut fields.attributes);
        open.error = fields.error.or_else(|| open.error.take());
    }

    /// A span may be held for longer than anybody works in it.
    fn on_exit(&self, id: &Id, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        if let Some(Open::Sampled(open)) = span.extensions_mut().get_mut() {
            open.end = self.now();
        }
    }

    fn on_close(&self, id: Id, context: Context<'_, S>) {
        let Some(span) = context.span(&id) else { return };
        let open = span.extensions_mut().remove::<Open>();
        if let Some(Open::Sampled(closed)) = open
            && self.spans.try_send(*closed).is_err()
        {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// What the fields of a span say.
struct Fields {
    attributes: Vec<(&'static str, Value)>,
    kind: Kind,
    error: Option<String>,
    remote: Option<RemoteParent>,
}

impl Default for Fields {
    fn default() -> Self {
        Self { attributes: Vec::new(), kind: Kind::Internal, error: None, remote: None }
    }
}

/// More is not written about anything.
const LONGEST_TEXT: usize = 1024;

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        match (field.name(), value) {
            ("error", error) => self.error = Some(excerpt(error, LONGEST_TEXT)),
            ("otel.kind", "server") => self.kind = Kind::Server,
            ("traceparent", parent) => self.remote = RemoteParent::parse(parent),
            (name, text) => {
                self.attributes.push((name, Value::Text(excerpt(text, LONGEST_TEXT))));
            }
        }
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.attributes.push((field.name(), Value::Bool(value)));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.record_str(field, &format!("{value:?}"));
    }
}
