//! Why no certificate came, sorted by whose fault it is.

use std::time::Duration;

/// A failed attempt. `Display` says its own part; the cause is its `source`.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct IssueError {
    /// Whose fault it is.
    pub kind: IssueErrorKind,
    /// What went wrong and what to do, fit for a pod's owner to read.
    pub message: String,
    /// How long the CA asked us to stay away.
    pub retry_after: Option<Duration>,
    /// What caused it.
    #[source]
    pub source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

/// Whose fault it is.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum IssueErrorKind {
    /// The CA's answer was not what was asked for.
    BadResponse,
    /// The issuer or what it refers to is missing or wrong.
    Config,
    /// The CA or a policy refused.
    Denied,
    /// This node failed: a mount, memory, a key that could not be made.
    Node,
    /// The CA has not decided yet.
    Pending,
    /// The CA asked to slow down.
    RateLimited,
    /// What the volume asks for is nothing that its issuer could sign, however healthy it is.
    Request,
    /// The CA cannot be reached.
    Unavailable,
}

impl IssueError {
    /// An error without a cause, to be tried again whenever the renewer likes.
    pub fn new(kind: IssueErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), retry_after: None, source: None }
    }

    /// The same with its cause.
    #[must_use]
    pub fn caused_by(self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self { source: Some(source.into()), ..self }
    }
}

impl IssueErrorKind {
    /// A short fixed word, for metrics and events.
    pub fn reason(self) -> &'static str {
        match self {
            Self::BadResponse => "BadResponse",
            Self::Config => "Config",
            Self::Denied => "Denied",
            Self::Node => "Node",
            Self::Pending => "Pending",
            Self::RateLimited => "RateLimited",
            Self::Request => "Request",
            Self::Unavailable => "Unavailable",
        }
    }
}
