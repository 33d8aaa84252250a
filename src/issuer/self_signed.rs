//! `selfSigned`: the leaf is signed by its own key.
//!
//! Its trust anchor is itself, so peers must be given each one: for tests, and for the first root.
//! With a new key at each renewal the anchor changes too; `reuse-private-key` keeps the key.

use std::time::Duration;

use async_trait::async_trait;

use super::{IssueError, IssueErrorKind, Issuer, Order, default_usages, later, sign_with};
use crate::clock::Clock;
use crate::x509::{AuthorityInformation, Issued, Validity, self_sign};

/// Signs each certificate with its own key.
#[derive(Debug)]
pub struct SelfSigned {
    information: AuthorityInformation,
    clock: Clock,
}

/// For clocks that are behind this node's.
const BACKDATE: Duration = Duration::from_secs(300);

impl SelfSigned {
    /// An issuer that says `information` in what it signs, at the times of `clock`.
    pub fn new(information: AuthorityInformation, clock: Clock) -> Self {
        Self { information, clock }
    }
}

#[async_trait]
impl Issuer for SelfSigned {
    async fn issue(&self, order: Order<'_>) -> Result<Issued, IssueError> {
        let now = self.clock.now();
        let validity = Validity {
            not_before: now.saturating_sub(BACKDATE).unwrap_or(now),
            not_after: later(now, order.spec.duration),
        };
        let template = default_usages(&order.spec.template);
        let leaf = sign_with(order.key.algorithm(), || {
            self_sign(&template, order.key, validity, &self.information)
        })
        .map_err(|error| {
            let message = "the certificate cannot be signed by its own key";
            IssueError::new(IssueErrorKind::Request, message).caused_by(error)
        })?;
        Ok(Issued { chain: vec![leaf.clone()], trust_anchors: vec![leaf] })
    }

    fn answers_at_once(&self) -> bool {
        true
    }
}
