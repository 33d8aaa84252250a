//! What people and machines see of a running driver: metrics, health, logs, events on pods,
//! traces, the admin socket.
//!
//! Everything here is fed from above: lower layers send [`Report`](crate::renew::Report)s and know
//! nothing of who listens. Nothing here ever holds a secret, because nothing here is given one.

mod events;
mod health;
mod http;
mod issuers;
mod metrics;
mod report;
mod traces;

pub use events::Events;
pub use health::{Gate, Readiness, answers};
pub use http::{Endpoints, bind_private};
pub use issuers::{IssuerHealth, IssuerStatus, IssuersFn};
pub use metrics::{Metrics, VolumesFn, registry};
pub use report::consume;
pub use traces::{Exporter, Sampler, TraceLayer, TraceOptions, pipeline};
