//! A wake-up without data: "something may have changed, look again".
//!
//! The one who changes things calls [`Wake::notify`] after the change is visible; the one who
//! waits looks at the world under the same lock, so that no change falls between the look and
//! the wait.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

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
