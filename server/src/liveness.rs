//! Whether the parts of the daemon make progress: each has a heartbeat, and one that works must beat at
//! least as often as it has said. Who rests is not expected to.
//!
//! Written by the parts, read by `watchdog`. The rule is a plain function of what was seen. Time is the
//! system's monotonic clock, which stands still while a device sleeps.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Says that a part rests.
const RESTING: u64 = u64::MAX;

/// The heartbeats of all parts.
#[derive(Debug, Clone)]
pub struct Liveness {
    start: Instant,
    parts: Arc<Mutex<Vec<Arc<Part>>>>,
}

impl Default for Liveness {
    fn default() -> Self {
        Self {
            start: Instant::now(),
            parts: Arc::default(),
        }
    }
}

#[derive(Debug)]
struct Part {
    name: String,
    patience: Option<Duration>,
    /// Milliseconds from the start to the last beat.
    beat: AtomicU64,
}

/// The heartbeat of one part.
#[derive(Debug, Clone)]
pub struct Pulse {
    start: Instant,
    part: Arc<Part>,
}

/// A part as it was seen at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Its name, for people.
    pub name: String,
    /// How long it may work without a beat; none: as long as the one who looks is patient.
    pub patience: Option<Duration>,
    /// How long ago it last beat; none if it rests.
    pub silent: Option<Duration>,
}

impl Liveness {
    /// A part that rests at first. It may work for `patience` without a beat.
    pub fn part(&self, name: &str, patience: Option<Duration>) -> Pulse {
        let part = Arc::new(Part {
            name: name.to_owned(),
            patience,
            beat: AtomicU64::new(RESTING),
        });
        let mut parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        parts.push(Arc::clone(&part));
        Pulse {
            start: self.start,
            part,
        }
    }

    /// All parts as they are now.
    pub fn look(&self) -> Vec<Seen> {
        let now = self.start.elapsed();
        let parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        let seen = parts.iter().map(|part| {
            let beat = part.beat.load(Ordering::Relaxed);
            let silent = now.saturating_sub(Duration::from_millis(beat));
            Seen {
                name: part.name.clone(),
                patience: part.patience,
                silent: (beat != RESTING).then_some(silent),
            }
        });
        seen.collect()
    }
}

impl Pulse {
    /// It works, and has just got on.
    pub fn beat(&self) {
        let millis = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(RESTING - 1);
        self.part.beat.store(millis, Ordering::Relaxed);
    }

    /// It has nothing to do.
    pub fn rest(&self) {
        self.part.beat.store(RESTING, Ordering::Relaxed);
    }
}

/// The parts that have been silent for too long, as a list for people; none if all is well. `patience` is
/// that of the one who looks.
pub fn overdue(seen: &[Seen], patience: Duration) -> Option<String> {
    let late = seen.iter().filter_map(|part| {
        let silent = part.silent?;
        let is_late = silent > part.patience.unwrap_or(patience);
        is_late.then(|| format!("{} for {} s", part.name, silent.as_secs()))
    });
    let late: Vec<String> = late.collect();
    (!late.is_empty()).then(|| late.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(name: &str, patience: Option<u64>, silent: Option<u64>) -> Seen {
        Seen {
            name: name.to_owned(),
            patience: patience.map(Duration::from_secs),
            silent: silent.map(Duration::from_secs),
        }
    }

    #[test]
    fn who_works_must_beat_and_who_rests_need_not() {
        let late = |parts: &[Seen]| overdue(parts, Duration::from_secs(15));
        assert_eq!(late(&[]), None);
        assert_eq!(
            late(&[seen("a", None, None), seen("b", None, Some(15))]),
            None
        );
        assert_eq!(
            late(&[seen("a", None, Some(16))]),
            Some("a for 16 s".into())
        );
        // A job may take longer, and one that takes longer still is told beside the other.
        let job = |silent| seen("job-0", Some(600), Some(silent));
        assert_eq!(late(&[job(600)]), None);
        assert_eq!(
            late(&[seen("the catalog", None, Some(20)), job(601)]),
            Some("the catalog for 20 s, job-0 for 601 s".into())
        );
    }

    #[test]
    fn a_pulse_is_seen() {
        let liveness = Liveness::default();
        let pulse = liveness.part("a", None);
        assert_eq!(liveness.look(), [seen("a", None, None)]);
        pulse.beat();
        assert!(liveness.look()[0].silent.is_some());
        pulse.rest();
        assert_eq!(liveness.look()[0].silent, None);
    }
}
