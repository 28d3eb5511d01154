//! The scrubs that the daemon makes by itself: which files are due, whether they are held, and where the
//! one under way is.
//!
//! Shared by the task that scrubs and by whoever asks or holds. What is remembered over restarts is
//! storage's `ScrubBook`; which files are due is a plain function of it.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kmerge_storage::{Catalog, GenerationRecord, Reader, ScrubBook, UnixMillis};
use tokio::sync::Notify;

use super::Scrubbed;

/// The shortest wait before one begins: a start has better things to do.
const REST: Duration = Duration::from_secs(10);

/// What the daemon's own scrubbing does.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OwnState {
    /// Whether it is held because it was told so.
    pub paused: bool,
    /// Whether it is in the middle of one.
    pub running: bool,
    /// Whether it waits because merges or uploads run.
    pub yielding: bool,
    /// How far it is, if it is in the middle of one.
    pub progress: Option<Scrubbed>,
    /// Whether the configuration lets it happen at all.
    pub enabled: bool,
}

/// The daemon's own scrubs.
#[derive(Debug)]
pub struct Own {
    reader: Reader,
    every: Option<Duration>,
    book: Mutex<ScrubBook>,
    state: Mutex<OwnState>,
    /// Held by whoever writes the book to the disk, so that nobody who only looks waits for the disk.
    keeping: Mutex<()>,
    /// Rings when they are held or let go on.
    pub(super) changed: Notify,
}

impl Own {
    /// What was remembered, for scrubs that come so often; none: only when asked.
    pub fn new(reader: Reader, every: Option<Duration>) -> Self {
        Self {
            book: Mutex::new(reader.scrub_book()),
            reader,
            every,
            state: Mutex::default(),
            keeping: Mutex::default(),
            changed: Notify::new(),
        }
    }

    fn book(&self) -> MutexGuard<'_, ScrubBook> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn keeping(&self) -> MutexGuard<'_, ()> {
        self.keeping.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn state_now(&self) -> MutexGuard<'_, OwnState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What it does now.
    pub fn state(&self) -> OwnState {
        let paused = self.book().paused;
        OwnState {
            paused,
            enabled: self.every.is_some(),
            ..self.state_now().clone()
        }
    }

    /// Whether it is held.
    pub(super) fn is_paused(&self) -> bool {
        self.book().paused
    }

    /// Holds it, or lets it go on. Durable on return.
    ///
    /// # Errors
    /// If the disk refuses.
    pub fn pause(&self, paused: bool) -> Result<(), kmerge_storage::ReadError> {
        let keeping = self.keeping();
        let next = ScrubBook {
            paused,
            ..self.book().clone()
        };
        self.reader.keep_scrub_book(&next)?;
        self.book().paused = paused;
        drop(keeping);
        self.changed.notify_one();
        Ok(())
    }

    /// Notes where the one under way is; none: there is none.
    pub(super) fn show(&self, progress: Option<&Scrubbed>, yielding: bool) {
        let mut state = self.state_now();
        state.running = progress.is_some();
        state.yielding = yielding;
        state.progress = progress.cloned();
    }

    /// Notes that a file was read just now; one found damaged too, or it would come again at once.
    pub(super) fn looked_at(&self, record: &GenerationRecord, now: UnixMillis) {
        self.book().looked_at.insert(record.digest, now);
    }

    /// Keeps what was noted. A disk that refuses costs a second look after the next start.
    pub(super) fn keep(&self, catalog: &Catalog) {
        let _keeping = self.keeping();
        let live: BTreeSet<_> = catalog.generations().map(|record| record.digest).collect();
        let kept = {
            let mut book = self.book();
            book.looked_at.retain(|digest, _| live.contains(digest));
            book.clone()
        };
        if let Err(error) = self.reader.keep_scrub_book(&kept) {
            tracing::warn!(%error, "could not note what was scrubbed");
        }
    }

    /// When the next one begins, if nothing changes.
    pub(super) fn wait(&self, catalog: &Catalog, every: Duration, now: UnixMillis) -> Duration {
        let book = self.book();
        if book.paused {
            return every;
        }
        wait(&book, catalog, every, now)
    }

    /// What is to be read, that not looked at for longest first.
    pub(super) fn due(&self, catalog: &Catalog, now: UnixMillis) -> Vec<Arc<GenerationRecord>> {
        due(&self.book(), catalog, self.every.unwrap_or_default(), now)
    }
}

/// When a generation's file was last read, or written.
fn seen(book: &ScrubBook, record: &GenerationRecord) -> UnixMillis {
    let looked = book.looked_at.get(&record.digest).copied();
    looked.unwrap_or(record.committed)
}

fn wait(book: &ScrubBook, catalog: &Catalog, every: Duration, now: UnixMillis) -> Duration {
    let oldest = catalog.generations().map(|record| seen(book, record)).min();
    let due = oldest.map_or(now, |oldest| oldest.saturating_add(every));
    let wait = Duration::from_millis(due.0.saturating_sub(now.0));
    match oldest {
        None => every,
        Some(_) => wait.clamp(REST, every.max(REST)),
    }
}

/// Once one is due, all that will be soon are read with it.
fn due(
    book: &ScrubBook,
    catalog: &Catalog,
    every: Duration,
    now: UnixMillis,
) -> Vec<Arc<GenerationRecord>> {
    let all = catalog.generations();
    let is_due =
        |record: &&Arc<GenerationRecord>| seen(book, record).saturating_add(every / 2) <= now;
    let mut due: Vec<_> = all.filter(is_due).cloned().collect();
    due.sort_by_key(|record| seen(book, record));
    due
}

#[cfg(test)]
mod tests {
    use super::*;

    fn catalog(committed: &[u64]) -> Catalog {
        let base: kmerge_storage::BaseModelName = "tiny".parse().unwrap();
        let generations = committed.iter().zip(1..).map(|(&committed, number)| {
            let record = GenerationRecord {
                base_model: base.clone(),
                slot: kmerge_storage::SlotIndex(0),
                generation: kmerge_storage::Generation(number),
                digest: kmerge_storage::Digest::of(&[u8::try_from(number).unwrap()]),
                bytes: 1,
                members: 1,
                members_since: kmerge_storage::Generation(1),
                facts: String::new(),
                job: kmerge_storage::JobId(number),
                revision: kmerge_storage::Revision(number),
                committed: UnixMillis(committed),
                superseded: None,
            };
            (record.generation, Arc::new(record))
        });
        let slot = kmerge_storage::SlotState {
            generations: generations.collect(),
            members: Vec::new(),
        };
        let record = kmerge_storage::BaseModelRecord {
            name: base.clone(),
            config: String::new(),
            settings: String::new(),
            served_as: String::new(),
            created: UnixMillis(0),
        };
        let state = kmerge_storage::BaseModelState {
            record: Arc::new(record),
            settings_change: None,
            slots: [(kmerge_storage::SlotIndex(0), Arc::new(slot))].into(),
            emptied: Default::default(),
            tasks: Default::default(),
        };
        Catalog {
            base_models: [(base, Arc::new(state))].into(),
            ..Catalog::default()
        }
    }

    #[test]
    fn that_not_looked_at_for_longest_comes_first_and_what_was_just_read_does_not_come() {
        let (hour, every) = (3_600_000, Duration::from_secs(36_000));
        let catalog = catalog(&[5 * hour, hour, 2 * hour]);
        let mut book = ScrubBook::default();
        let numbers = |book: &ScrubBook, now| {
            let due = due(book, &catalog, every, UnixMillis(now));
            due.iter().map(|it| it.generation.0).collect::<Vec<_>>()
        };
        assert_eq!(numbers(&book, 11 * hour), [2, 3, 1]);
        assert_eq!(
            wait(&book, &catalog, every, UnixMillis(2 * hour)),
            Duration::from_secs(9 * 3600)
        );
        assert_eq!(wait(&book, &catalog, every, UnixMillis(50 * hour)), REST);
        // Cut short after the first: a restart goes on with the second.
        let first = kmerge_storage::Digest::of(&[2]);
        book.looked_at.insert(first, UnixMillis(11 * hour));
        assert_eq!(numbers(&book, 11 * hour), [3, 1]);
        assert_eq!(
            wait(&book, &Catalog::default(), every, UnixMillis(0)),
            every
        );
    }
}
