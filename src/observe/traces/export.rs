//! Sends spans in batches: OTLP over HTTP, with bodies in JSON.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use data_encoding::HEXLOWER;
use hyper::header::HeaderName;
use serde_json::{Value as Json, json};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::{Closed, TraceOptions, Value};
use crate::clock::Clock;
use crate::error::with_causes;
use crate::issuer::{Reach, Web, WebOptions};

/// What sends spans.
pub struct Exporter {
    options: TraceOptions,
    closed: mpsc::Receiver<Closed>,
    dropped: Arc<AtomicU64>,
    clock: Clock,
}

/// How long spans wait for others to go with.
const GATHERING: Duration = Duration::from_secs(1);
const LARGEST_BATCH: usize = 512;
/// How long a collector may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long it may take while the driver ends, which does so in less than two seconds.
const LAST_PATIENCE: Duration = Duration::from_millis(500);

impl Exporter {
    pub(super) fn new(
        options: TraceOptions,
        closed: mpsc::Receiver<Closed>,
        dropped: Arc<AtomicU64>,
        clock: Clock,
    ) -> Self {
        Self { options, closed, dropped, clock }
    }

    /// Sends what closes, until `stop` and then what is left.
    pub async fn run(mut self, stop: CancellationToken) {
        let web_options = WebOptions {
            reach: Reach::Anywhere,
            ca_bundle: self.options.ca_bundle.take(),
            plaintext: true,
            ..WebOptions::default()
        };
        let web = match Web::new(web_options, self.clock.clone()) {
            Ok(web) => web,
            Err(error) => {
                let error = with_causes(&error);
                return tracing::error!(error, "there are no traces");
            }
        };
        // Since it last worked.
        let mut lost: u64 = 0;
        let mut batch = Vec::new();
        while self.gather(&mut batch, &stop).await {
            let sent = tokio::select! {
                sent = self.send(&web, &batch) => sent,
                () = overtime(&stop) => Err("the driver ends".to_owned()),
            };
            let dropped = self.dropped.swap(0, Ordering::Relaxed);
            match sent {
                Ok(()) if lost + dropped == 0 => {}
                Ok(()) => {
                    let spans = std::mem::take(&mut lost) + dropped;
                    tracing::warn!(spans, "spans were lost; now they are sent again");
                }
                Err(reason) => {
                    // Once, and not for each batch.
                    if lost == 0 {
                        tracing::warn!(reason, "spans cannot be sent, and are lost");
                    }
                    lost += dropped + u64::try_from(batch.len()).unwrap_or(u64::MAX);
                    if stop.is_cancelled() {
                        return;
                    }
                }
            }
            batch.clear();
        }
    }

    /// Waits for spans, and for those that follow soon; answers whether there will be more.
    async fn gather(&mut self, batch: &mut Vec<Closed>, stop: &CancellationToken) -> bool {
        let gathering = async {
            if self.closed.recv_many(batch, LARGEST_BATCH).await == 0 {
                return;
            }
            let more = async {
                while batch.len() < LARGEST_BATCH
                    && self.closed.recv_many(batch, LARGEST_BATCH - batch.len()).await > 0
                {
                }
            };
            let _ = timeout(GATHERING, more).await;
        };
        tokio::select! {
            () = gathering => {}
            () = stop.cancelled() => {}
        }
        while batch.len() < LARGEST_BATCH
            && let Ok(closed) = self.closed.try_recv()
        {
            batch.push(closed);
        }
        !batch.is_empty()
    }

    async fn send(&self, web: &Web, batch: &[Closed]) -> Result<(), String> {
        let mut request =
            web.post(&self.options.endpoint).timeout(PATIENCE).json(&self.body(batch));
        for (name, value) in &self.options.headers {
            if let Ok(name) = HeaderName::try_from(name) {
                request = request.secret(name, value);
            }
        }
        let answer = request.send().await.map_err(|error| with_causes(&error))?;
        match answer.status.is_success() {
            true => Ok(()),
            false => Err(with_causes(&answer.error(None))),
        }
    }

    /// `ExportTraceServiceRequest`, as OTLP has it in JSON.
    fn body(&self, batch: &[Closed]) -> Json {
        let version = env!("CARGO_PKG_VERSION");
        let text = |key: &str, value: &str| json!({"key": key, "value": {"stringValue": value}});
        json!({"resourceSpans": [{
            "resource": {"attributes": [
                text("service.name", &self.options.service),
                text("service.version", version),
                text("k8s.node.name", &self.options.node),
            ]},
            "scopeSpans": [{
                "scope": {"name": "certmount", "version": version},
                "spans": batch.iter().map(Closed::to_json).collect::<Vec<_>>(),
            }],
        }]})
    }
}

impl Closed {
    /// `Span`, as OTLP has it in JSON: ids in hexadecimal, times as text, since no number of
    /// JavaScript is that large.
    pub(super) fn to_json(&self) -> Json {
        /// `STATUS_CODE_ERROR`.
        const ERROR: u8 = 2;
        let attributes = self.attributes.iter().map(|(key, value)| {
            let value = match value {
                Value::Bool(value) => json!({"boolValue": value}),
                Value::Text(value) => json!({"stringValue": value}),
            };
            json!({"key": key, "value": value})
        });
        let mut span = json!({
            "traceId": HEXLOWER.encode(&self.trace_id),
            "spanId": HEXLOWER.encode(&self.span_id),
            "name": self.name,
            "kind": self.kind as u8,
            "startTimeUnixNano": self.start.to_string(),
            "endTimeUnixNano": self.end.max(self.start).to_string(),
            "attributes": attributes.collect::<Vec<_>>(),
        });
        if let Some(parent) = &self.parent_id {
            span["parentSpanId"] = HEXLOWER.encode(parent).into();
        }
        if let Some(error) = &self.error {
            span["status"] = json!({"code": ERROR, "message": error});
        }
        span
    }
}

impl fmt::Debug for Exporter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exporter").field("options", &self.options).finish_non_exhaustive()
    }
}

/// Returns when the driver has waited for the collector for long enough.
async fn overtime(stop: &CancellationToken) {
    stop.cancelled().await;
    tokio::time::sleep(LAST_PATIENCE).await;
}
