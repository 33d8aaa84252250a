//! Traces of publishes, for a collector that speaks OTLP.
//!
//! [`pipeline`] makes two ends: a layer that takes down each span of [`crate::trace`] as it closes,
//! and an exporter that sends them in batches. What this promises: nobody waits for the collector.
//! Spans that it takes too long for are dropped, and the log says how many.

mod context;
mod export;
mod layer;

use std::fmt;

use tokio::sync::mpsc;
use url::Url;
use zeroize::Zeroizing;

pub use self::export::Exporter;
pub use self::layer::TraceLayer;
use crate::clock::Clock;

/// Where traces go and which.
pub struct TraceOptions {
    /// The URL that takes `POST`s of spans.
    pub endpoint: Url,
    /// Headers to send, which may hold passwords.
    pub headers: Vec<(String, Zeroizing<String>)>,
    /// PEM certificates that the collector must chain to; `None` for the system's.
    pub ca_bundle: Option<Vec<u8>>,
    /// Which traces are sent.
    pub sampler: Sampler,
    /// The name that the collector knows us by.
    pub service: String,
    /// The node's name.
    pub node: String,
}

/// Which traces are sent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampler {
    /// Whether the caller decides about a trace that it began.
    pub parent_based: bool,
    /// How many of the others, from 0 to 1.
    pub ratio: f64,
}

/// The two ends: what takes spans down, to be put under a subscriber, and what sends them.
pub fn pipeline(options: TraceOptions, clock: Clock) -> (TraceLayer, Exporter) {
    let (spans, closed) = mpsc::channel(MOST_UNSENT);
    let layer = TraceLayer::new(options.sampler, spans, clock.clone());
    let exporter = Exporter::new(options, closed, layer.dropped(), clock);
    (layer, exporter)
}

/// How many spans may wait: those of some two hundred publishes.
const MOST_UNSENT: usize = 2048;

/// A span that is over.
#[derive(Debug)]
struct Closed {
    trace_id: [u8; 16],
    span_id: [u8; 8],
    parent_id: Option<[u8; 8]>,
    name: &'static str,
    kind: Kind,
    /// Nanoseconds since 1970.
    start: i128,
    end: i128,
    attributes: Vec<(&'static str, Value)>,
    error: Option<String>,
}

/// `SpanKind` of OTLP.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Internal = 1,
    Server = 2,
}

/// The value of an attribute.
#[derive(Debug)]
enum Value {
    Bool(bool),
    Text(String),
}

impl fmt::Debug for TraceOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TraceOptions")
            .field("endpoint", &self.endpoint.as_str())
            .field("sampler", &self.sampler)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
