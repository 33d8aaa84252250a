//! What spans of a trace have in common, wherever they are made.
//!
//! A publish is one trace: the call of kubelet, and below it `parse`, `policy`, `issue` (with `key`,
//! `sign` and `write`) and `mount`. A renewal is a trace of its own that begins with `issue`. Spans
//! hold names of pods, volumes and issuers and what went wrong, in a field `error`; never anything
//! secret.

/// The target of all spans. They have the level TRACE, so that no log filter asks for them by
/// accident: where nobody collects traces, a span costs one look at a flag.
pub(crate) const TARGET: &str = "otlp";
