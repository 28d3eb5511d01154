//! Reads everything again that is kept, and compares it with what was written: slowly by itself, so
//! that a bit that has fallen over is found while it can still be made good, and at once when asked.
//!
//! Owned by nobody in particular: it only reads. What it finds damaged is given up at once, as `doubts`
//! says, and told to whoever asks.

mod own;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use kmerge_storage::{Catalog, GenerationRecord, JobState, ReadError, Reader, UnixMillis};
use tokio::sync::mpsc::{Receiver, channel};
use tokio::sync::watch;
use tokio_util::task::TaskTracker;

use crate::clock;
use crate::config;
use crate::doubts::Doubts;
use crate::error::ServerError;
use crate::grpc::status;
use crate::shutdown::Stop;
use crate::uploads::Uploads;
pub use own::{Own, OwnState};

/// What was found to be other than it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// The generation that it belongs to.
    pub generation: GenerationRecord,
    /// What is wrong, without paths.
    pub what: String,
    /// Whether the slot still is at this generation.
    pub is_current: bool,
    /// What was done about it, one sentence each.
    pub done: Vec<String>,
}

/// How far a scrub is; the last one of a scrub is its result.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Scrubbed {
    /// Generations looked at, and all there are.
    pub generations: (u32, u32),
    /// Bytes read, and all there are.
    pub bytes: (u64, u64),
    /// What was found.
    pub damaged: Vec<Damage>,
    /// When it ended; none while it runs.
    pub ended: Option<UnixMillis>,
}

/// Scrubs.
#[derive(Debug, Clone)]
pub struct Scrubber {
    /// Reads.
    pub reader: Reader,
    /// The catalog as it is now.
    pub view: watch::Receiver<Arc<Catalog>>,
    /// What is done about damage.
    pub doubts: Doubts,
    /// Ends it.
    pub stop: Stop,
    /// Keeps a stop waiting until the last file is let go.
    pub tracker: TaskTracker,
    /// The result of the last scrub that came to its end.
    pub last: Arc<Mutex<Option<Scrubbed>>>,
    /// Those that nobody asked for.
    pub own: Arc<Own>,
    /// They wait for these.
    pub uploads: Uploads,
}

/// Bytes that are read between two looks at the clock.
const LOOK: u64 = 1 << 20;
/// How often what was looked at is noted on the disk.
const KEEP: Duration = Duration::from_secs(30);
/// The longest sleep in one piece.
const PIECE: Duration = Duration::from_millis(200);

impl Scrubber {
    /// What the last scrub of this process that came to its end has found.
    pub fn last(&self) -> Option<Scrubbed> {
        self.last
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Scrubs at `rate` bytes a second, or as fast as the disk is; tells how far it is. Ends early
    /// when nobody listens any more.
    pub fn start(&self, rate: Option<u64>) -> Receiver<Result<Scrubbed, ServerError>> {
        let (sender, receiver) = channel(1);
        let (scrubber, token) = (self.clone(), self.tracker.token());
        tokio::task::spawn_blocking(move || {
            let _token = token;
            let mut told = Instant::now();
            let catalog = Arc::clone(&scrubber.view.borrow());
            let all = catalog.generations().cloned().collect();
            let done = scrubber.scrub(all, rate, false, &mut |so_far| {
                // A slow reader is told less often, and never waited for.
                if told.elapsed() >= Duration::from_millis(100) {
                    told = Instant::now();
                    let _ = sender.try_send(Ok(so_far.clone()));
                }
                !sender.is_closed()
            });
            if let Some(done) = done {
                let _ = sender.blocking_send(Ok(done));
            } else if scrubber.stop.reason().is_some() {
                let _ = sender.blocking_send(Err(ServerError::Stopping));
            }
        });
        receiver
    }

    /// Scrubs now and then, until the stop.
    pub async fn keep(self, when: config::Scrub) {
        let Some(every) = when.every else {
            return;
        };
        loop {
            let wait = self.own.wait(&self.view.borrow(), every, clock::now());
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = self.own.changed.notified() => continue,
                () = self.stop.requested() => return,
            }
            if self.own.is_paused() {
                continue;
            }
            let catalog = Arc::clone(&self.view.borrow());
            let due = self.own.due(&catalog, clock::now());
            if due.is_empty() {
                continue;
            }
            let scrubber = self.clone();
            let scrubbed = tokio::task::spawn_blocking(move || {
                let done = scrubber.scrub(due, Some(when.bytes_per_second), true, &mut |_| true);
                scrubber.own.show(None, false);
                done
            });
            // One that panicked is told by the panic itself.
            drop(scrubbed.await);
        }
    }

    /// The result; `None` if it was cut short.
    fn scrub(
        &self,
        all: Vec<Arc<GenerationRecord>>,
        rate: Option<u64>,
        is_own: bool,
        go_on: &mut dyn FnMut(&Scrubbed) -> bool,
    ) -> Option<Scrubbed> {
        let mut so_far = Scrubbed {
            generations: (0, u32::try_from(all.len()).unwrap_or(u32::MAX)),
            bytes: (0, all.iter().map(|record| record.bytes).sum()),
            ..Scrubbed::default()
        };
        let (started, mut kept) = (Instant::now(), Instant::now());
        let mut yielded = Duration::ZERO;
        for record in all {
            let before = so_far.bytes.0;
            let mut cut_short = false;
            let verified = self.reader.verify(&record, LOOK, &mut |read| {
                so_far.bytes.0 = before + read;
                loop {
                    cut_short = self.stop.reason().is_some()
                        || is_own && self.own.is_paused()
                        || !go_on(&so_far);
                    let yields = is_own && self.is_busy();
                    if is_own {
                        self.own.show(Some(&so_far), yields);
                    }
                    if yields && !cut_short {
                        std::thread::sleep(PIECE);
                        yielded += PIECE;
                        continue;
                    }
                    let elapsed = started.elapsed().saturating_sub(yielded);
                    let ahead = ahead(elapsed, so_far.bytes.0, rate);
                    if cut_short || ahead.is_zero() {
                        return !cut_short;
                    }
                    // In short pieces, so that a stop need not wait for a long one.
                    std::thread::sleep(ahead.min(PIECE));
                }
            });
            if cut_short {
                self.own.keep(&self.view.borrow());
                return None;
            }
            self.own.looked_at(&record, clock::now());
            if kept.elapsed() > KEEP {
                kept = Instant::now();
                self.own.keep(&self.view.borrow());
            }
            if let Err(error) = verified
                && self.is_there(&record)
            {
                so_far.damaged.extend(self.damage(&record, error));
            }
            so_far.bytes.0 = before + record.bytes;
            so_far.generations.0 += 1;
        }
        self.own.keep(&self.view.borrow());
        so_far.ended = Some(clock::now());
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(so_far.clone());
        tracing::info!(
            generations = so_far.generations.0,
            bytes = so_far.bytes.0,
            damaged = so_far.damaged.len(),
            "scrubbed"
        );
        Some(so_far)
    }

    /// Whether something goes on that is to have the disk for itself.
    fn is_busy(&self) -> bool {
        let catalog = self.view.borrow();
        let mut jobs = catalog.unfinished_jobs();
        jobs.any(|job| job.state == JobState::Running) || self.uploads.under_way() > 0
    }

    /// Whether a generation is still kept: the grace of an older one may have ended meanwhile.
    fn is_there(&self, record: &GenerationRecord) -> bool {
        let catalog = self.view.borrow();
        let found = catalog.generation(&record.base_model, record.slot, record.generation);
        found.is_some()
    }

    fn is_current(&self, record: &GenerationRecord) -> bool {
        let catalog = self.view.borrow();
        let slot = catalog.slot(&record.base_model, record.slot);
        slot.is_some_and(|slot| slot.current().generation == record.generation)
    }

    /// Deals with what was found; none if it was only that the generation has gone meanwhile.
    fn damage(&self, record: &GenerationRecord, error: ReadError) -> Option<Damage> {
        let what = status::message(&ServerError::Read(error));
        let is_current = self.is_current(record);
        let done = self.doubts.look_into(record).unwrap_or_else(|error| {
            let error = &error as &dyn std::error::Error;
            tracing::error!(error, "could not give the generation up");
            vec!["it could not be given up; the log has the reason".to_owned()]
        });
        // Files go before the view tells it.
        let gone = || self.doubts.catch_up().is_err() || !self.is_there(record);
        if done.is_empty() && gone() {
            return None;
        }
        tracing::error!(
            base_model = %record.base_model,
            slot = %record.slot,
            generation = %record.generation,
            what,
            "damaged"
        );
        Some(Damage {
            done,
            generation: record.clone(),
            what,
            is_current,
        })
    }
}

/// How much sooner than at `rate` bytes a second `read` bytes were read.
fn ahead(elapsed: Duration, read: u64, rate: Option<u64>) -> Duration {
    let Some(rate) = rate.filter(|&rate| rate > 0) else {
        return Duration::ZERO;
    };
    Duration::from_millis(read.saturating_mul(1000) / rate).saturating_sub(elapsed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_kept_on_average() {
        let after = |millis, read, rate| ahead(Duration::from_millis(millis), read, rate);
        assert_eq!(after(0, 500, Some(1000)), Duration::from_millis(500));
        assert_eq!(after(400, 500, Some(1000)), Duration::from_millis(100));
        assert_eq!(after(900, 500, Some(1000)), Duration::ZERO);
        assert_eq!(after(0, u64::MAX, None), Duration::ZERO);
        assert!(after(0, u64::MAX, Some(1)) > Duration::from_secs(1 << 40));
    }
}
