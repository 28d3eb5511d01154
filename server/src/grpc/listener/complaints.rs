//! Log lines that somebody outside can cause: one at once, then at most one in a while, with how
//! many were left out. Else a flood of connections would be a flood of the log.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The least time between two lines.
const INTERVAL: Duration = Duration::from_secs(10);

/// One kind of complaint.
#[derive(Debug, Default)]
pub(in crate::grpc) struct Complaints {
    state: Mutex<(Option<Instant>, u64)>,
}

impl Complaints {
    /// Whether to say it now, and how many were left out since the last time.
    pub(in crate::grpc) fn due(&self) -> Option<u64> {
        self.due_at(Instant::now())
    }

    fn due_at(&self, now: Instant) -> Option<u64> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state
            .0
            .is_some_and(|last| now.duration_since(last) < INTERVAL)
        {
            state.1 += 1;
            return None;
        }
        state.0 = Some(now);
        Some(std::mem::take(&mut state.1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_is_said_and_the_others_are_counted() {
        let (complaints, start) = (Complaints::default(), Instant::now());
        assert_eq!(complaints.due_at(start), Some(0));
        assert_eq!(complaints.due_at(start), None);
        assert_eq!(complaints.due_at(start + INTERVAL / 2), None);
        assert_eq!(complaints.due_at(start + INTERVAL), Some(2));
        assert_eq!(complaints.due_at(start + INTERVAL), None);
    }
}
