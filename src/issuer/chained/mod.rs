//! `chained`: an intermediate CA on this node signs, which another issuer, the upstream, signs.
//!
//! What this promises:
//!
//! - A certificate costs no network call. The upstream is asked by the first order, and then once
//!   in half of an intermediate's life, while there are orders; the next intermediate has a new key.
//! - It is asked once at a time for all volumes of the node, and ever more rarely while it fails.
//!   Meanwhile the intermediate that is there goes on to its end.
//! - An intermediate is used only if it is what was asked for: see [`intermediate`].
//! - What it signs ends before it does, holds only names that its name constraints allow, and is
//!   never a CA.
//! - Its key is in memory and on a tmpfs, so that a new process goes on with it, and never on a disk;
//!   so is that of an order under way. Both go with the issuer's object, and with what its spec says:
//!   another issuer of the same name has nothing of them.
//!   What an old one signed stays good to its end: a chain is whole in each volume.

mod intermediate;
mod keeper;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use tokio_util::task::AbortOnDropHandle;

use self::keeper::Keeper;
use super::{IssueError, IssueErrorKind, Issuer, IssuerKey, Issuers, Order};
use crate::clock::{Clock, Timestamp};
use crate::spec::object::ChainedSpec;
use crate::sync::lock;
use crate::x509::{BasicConstraints, Issued};

/// Signs with an intermediate CA of this node.
#[derive(Debug)]
pub struct Chained {
    keeper: Arc<Keeper>,
    /// Brings intermediates, from the first order on.
    task: Mutex<Option<AbortOnDropHandle<()>>>,
}

impl Chained {
    /// The issuer `key`, whose object has that `uid`, of the node `node_name`, at the times of
    /// `clock`. Asks for nothing before the first order.
    pub fn new(
        key: IssuerKey,
        uid: Option<&str>,
        spec: ChainedSpec,
        node_name: &str,
        clock: &Clock,
    ) -> Self {
        let keeper = Keeper::new(key, uid, spec, node_name, clock.clone());
        Self { keeper: Arc::new(keeper), task: Mutex::default() }
    }

    /// Starts the task, or starts it again where a bug has ended it.
    fn keep(&self, order: &Order<'_>) {
        let mut task = lock(&self.task);
        if task.as_ref().is_none_or(AbortOnDropHandle::is_finished) {
            let run = Arc::clone(&self.keeper).run(order.issuers.downgrade());
            *task = Some(AbortOnDropHandle::new(tokio::spawn(run)));
        }
    }
}

#[async_trait]
impl Issuer for Chained {
    async fn issue(&self, order: Order<'_>) -> Result<Issued, IssueError> {
        // Also what keeps two of these from waiting for each other.
        if order.spec.template.basic_constraints != BasicConstraints::EndEntity {
            let message = "a chained issuer signs no CAs: the path length of its intermediates is \
                           zero; ask the issuer that its issuerRef names, or take out is-ca";
            return Err(IssueError::new(IssueErrorKind::Denied, message));
        }
        self.keep(&order);
        self.keeper.intermediate().await?.ca.issue(order).await
    }

    async fn probe(&self, issuers: &Issuers) -> Result<(), IssueError> {
        self.keeper.check(issuers)
    }

    fn fault(&self, now: Timestamp) -> Option<String> {
        self.keeper.fault(now)
    }

    fn keeps(&self) -> &[String] {
        self.keeper.keeps()
    }

    fn warning(&self, now: Timestamp) -> Option<String> {
        self.keeper.warning(now)
    }
}
