//! A wake-up without data: "something may have changed, look again".
//!
//! The one who changes things calls [`Wake::notify`] after the change is visible; the one who
//! waits looks at the world under the same lock, so that no change falls between the look and
//! the wait.

use std::collections::BTreeSet;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use kmerge_storage::BaseModelName;

/// What the dispatch threads share: which base models have a job running.
#[derive(Debug, Default)]
pub struct Dispatch {
    /// Their jobs wait for the one that runs.
    pub busy: BTreeSet<BaseModelName>,
    /// No new job is taken.
    pub stopping: bool,
}

/// Rings when there may be a job to run.
pub type WorkSignal = Arc<Wake<Dispatch>>;

/// A lock around what the waiters share, and the bell that rings when they should look again.
#[derive(Debug, Default)]
pub struct Wake<T> {
    state: Mutex<T>,
    bell: Condvar,
}

impl<T> Wake<T> {
    /// The shared state. A panic elsewhere does not make plain data unusable.
    pub fn lock(&self) -> MutexGuard<'_, T> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until `look` finds something. `look` runs at once and after each ring.
    pub fn wait_for<R>(&self, mut look: impl FnMut(&mut T) -> Option<R>) -> R {
        let mut state = self.lock();
        loop {
            if let Some(found) = look(&mut state) {
                return found;
            }
            state = self
                .bell
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Makes every waiter look again.
    pub fn notify(&self) {
        drop(self.lock());
        self.bell.notify_all();
    }
}
