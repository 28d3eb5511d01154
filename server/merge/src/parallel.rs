//! Work on many modules by the threads of rayon's current pool, with a result that does not depend
//! on how many there are.
//!
//! Each lane takes the next module as it becomes free and keeps its own scratch memory, so there is
//! as much of it as there are threads, not modules. Results come back in order. When several
//! modules fail, the first in order is reported: indices are taken in order, so every earlier one
//! has been started and is waited for.

use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rayon::prelude::*;

/// Runs `work` for 0 .. `count`, each call with its lane's scratch.
pub(crate) fn try_map<S, R, E>(
    count: usize,
    scratch: impl Fn() -> S + Sync,
    work: impl Fn(&mut S, usize) -> Result<R, E> + Sync,
) -> Result<Vec<R>, E>
where
    R: Send,
    E: Send,
{
    let next = AtomicUsize::new(0);
    let stopped = AtomicBool::new(false);
    let lanes = rayon::current_num_threads().min(count);
    let lane = |_| {
        let mut scratch = scratch();
        let mut results = Vec::new();
        while !stopped.load(Ordering::Relaxed) {
            let index = next.fetch_add(1, Ordering::Relaxed);
            if index >= count {
                break;
            }
            let result = work(&mut scratch, index);
            if result.is_err() {
                stopped.store(true, Ordering::Relaxed);
            }
            results.push((index, result));
        }
        results
    };
    let mut results: Vec<_> = (0..lanes)
        .into_par_iter()
        .with_max_len(1)
        .flat_map_iter(lane)
        .collect();
    results.sort_unstable_by_key(|&(index, _)| index);
    results.into_iter().map(|(_, result)| result).collect()
}

/// Memory that outlives the lane that used it, so that the next one need not allocate.
#[derive(Debug, Default)]
pub(crate) struct Pool<T> {
    idle: Mutex<Vec<T>>,
}

/// Something taken from a pool; goes back when dropped.
#[derive(Debug)]
pub(crate) struct Pooled<'a, T: Default> {
    pool: &'a Pool<T>,
    value: T,
}

impl<T: Default> Pool<T> {
    /// An idle one with whatever it was left with, or a new one.
    pub(crate) fn take(&self) -> Pooled<'_, T> {
        Pooled {
            pool: self,
            value: self.idle().pop().unwrap_or_default(),
        }
    }

    fn idle(&self) -> MutexGuard<'_, Vec<T>> {
        // A panic elsewhere leaves only scratch memory behind.
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: Default> Drop for Pooled<'_, T> {
    fn drop(&mut self) {
        let value = std::mem::take(&mut self.value);
        self.pool.idle().push(value);
    }
}

impl<T: Default> Deref for Pooled<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T: Default> DerefMut for Pooled<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_threads<R: Send>(threads: usize, run: impl FnOnce() -> R + Send) -> R {
        rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap()
            .install(run)
    }

    #[test]
    fn results_are_in_order_and_complete() {
        for threads in [1, 2, 5] {
            let squares: Result<Vec<_>, ()> = with_threads(threads, || {
                try_map(100, || (), |(), index| Ok(index * index))
            });
            assert_eq!(squares, Ok((0..100).map(|index| index * index).collect()));
        }
        assert_eq!(try_map(0, || (), |(), _| Ok::<_, ()>(0)), Ok(vec![]));
    }

    #[test]
    fn the_first_failure_in_order_is_reported() {
        for threads in [1, 2, 5] {
            for _ in 0..50 {
                let failed = with_threads(threads, || {
                    try_map(
                        64,
                        || (),
                        |(), index| if index < 7 { Ok(()) } else { Err(index) },
                    )
                });
                assert_eq!(failed, Err(7));
            }
        }
    }

    #[test]
    fn scratch_is_made_at_most_once_for_each_thread() {
        let made = AtomicUsize::new(0);
        let count = || made.fetch_add(1, Ordering::Relaxed);
        with_threads(3, || try_map(1000, count, |_, _| Ok::<_, ()>(()))).unwrap();
        assert!((1..=3).contains(&made.load(Ordering::Relaxed)));
    }
}
