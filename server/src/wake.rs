//! A wake-up without data: "something may have changed, look again".
//!
//! The one who changes things calls [`Wake::notify`] after the change is visible; the one who
//! waits looks at the world under the same lock, so that no change falls between the look and
//! the wait.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use kmerge_storage::{BaseModelName, JobId};

/// A job that met a disk which was full or failed.
#[derive(Debug, Clone, Copy, Default)]
pub struct Setback {
    /// How often it was full.
    pub count: u32,
    /// How often it failed.
    pub failures: u32,
    /// When it may be tried again, if it must wait.
    pub not_before: Option<Instant>,
}

/// What the dispatch threads share: which base models have a job running.
#[derive(Debug, Default)]
pub struct Dispatch {
    /// Their jobs wait for the one that runs.
    pub busy: BTreeSet<BaseModelName>,
    /// Unfinished jobs that met a disk which was full or failed when they ran.
    pub setbacks: BTreeMap<JobId, Setback>,
    /// No new job is taken.
    pub stopping: bool,
}

/// What a look at the world has found.
#[derive(Debug)]
pub enum Look<R> {
    /// What was looked for.
    Found(R),
    /// Nothing; a ring will tell when to look again.
    Wait,
    /// Nothing; what is waited for may come without a ring, so that long at most.
    WaitAtMost(Duration),
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

    /// Waits until `look` finds something. `look` runs at once, after each ring, and when the time
    /// that it named is over.
    pub fn wait_for<R>(&self, mut look: impl FnMut(&mut T) -> Look<R>) -> R {
        let mut state = self.lock();
        loop {
            state = match look(&mut state) {
                Look::Found(found) => return found,
                Look::Wait => self
                    .bell
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner),
                Look::WaitAtMost(time) => {
                    let waited = self.bell.wait_timeout(state, time);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }

    /// Makes every waiter look again.
    pub fn notify(&self) {
        drop(self.lock());
        self.bell.notify_all();
    }
}
