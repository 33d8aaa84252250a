//! What tasks and threads share: locks that survive a panic, and work that holds up its thread.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::runtime::{Handle, RuntimeFlavor};

/// Locks `mutex`, also after a panic of somebody who held it: that was reported when it happened, and
/// one volume's trouble is not every other's.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether the other tasks of this thread go on elsewhere while one of them blocks it in
/// [`tokio::task::block_in_place`], which panics where they do not.
pub(crate) fn can_block_in_place() -> bool {
    Handle::try_current()
        .is_ok_and(|runtime| runtime.runtime_flavor() == RuntimeFlavor::MultiThread)
}
