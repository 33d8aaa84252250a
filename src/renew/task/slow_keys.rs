//! Making RSA keys, which takes from a tenth of a second to minutes of a core.

use std::sync::Arc;

use tokio::sync::Semaphore;

use crate::renew::blocking;
use crate::x509::{KeyAlgorithm, KeyError, PrivateKey};

/// How many slow keys are made at a time: they must starve neither the rest of the driver nor, the
/// largest ones, each other. Any pod can ask for 8192 bits, so those wait only for their like.
#[derive(Debug)]
pub(in crate::renew) struct SlowKeys {
    common: Arc<Semaphore>,
    large: Arc<Semaphore>,
}

impl Default for SlowKeys {
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            common: Arc::new(Semaphore::new((cores / 2).clamp(1, MOST_COMMON))),
            large: Arc::new(Semaphore::new(1)),
        }
    }
}

/// With the one large key fewer than the driver has blocking threads, which are four.
const MOST_COMMON: usize = 2;

impl SlowKeys {
    /// Makes a key when it is its turn. Dropping this gives up the turn; a key that is being made
    /// by then holds on to it until it is done, and is thrown away.
    pub(super) async fn make(&self, algorithm: KeyAlgorithm) -> Result<PrivateKey, KeyError> {
        let lane = match algorithm {
            KeyAlgorithm::Rsa4096 | KeyAlgorithm::Rsa8192 => &self.large,
            _ => &self.common,
        };
        let turn = Arc::clone(lane).acquire_owned().await.expect("the lanes are never closed");
        blocking(move || {
            let key = PrivateKey::generate(algorithm);
            drop(turn);
            key
        })
        .await
    }
}
