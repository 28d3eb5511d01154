//! Removing what is no longer needed: generations whose grace is over, and tensor files that were
//! written for a commit that did not come.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::doubt::Traces;
use super::{Committer, Room};
use crate::derived;
use crate::digest::Digest;
use crate::durable;
use crate::error::{CommitError, FileError};
use crate::exports;
use crate::failpoint;
use crate::ids::{BaseModelName, Generation, SlotIndex, UnixMillis};
use crate::layout::CURRENT;
use crate::records::{Event, GenerationRecord};

/// What a collection did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Collected {
    /// The generations that are gone.
    pub removed: Vec<(BaseModelName, SlotIndex, Generation)>,
    /// When the next grace ends, if there is one.
    pub next_due: Option<UnixMillis>,
    /// How many files or directories could not be removed. Nothing refers to them, and the next
    /// start removes them.
    pub left_behind: u32,
}

impl Committer {
    /// Removes the superseded generations whose grace is over at `now`, and writes the database
    /// again if it has grown too far beyond what it holds.
    ///
    /// 1. The catalog forgets them. From here on they are gone.
    /// 2. Their manifests go, and that is made durable, so that no rebuild brings them back.
    /// 3. Their exports go.
    /// 4. Their tensor files go, unless a live generation has the same bytes or a commit under
    ///    way may name them.
    ///
    /// # Errors
    /// What any write may meet. Nothing is removed then, unless the state is read-only from now
    /// on.
    pub fn collect(&mut self, grace: Duration, now: UnixMillis) -> Result<Collected, CommitError> {
        self.check_writable()?;
        let mut collected = Collected::default();
        let mut due: Vec<Arc<GenerationRecord>> = Vec::new();
        for record in self.catalog.generations() {
            let Some(superseded) = record.superseded else {
                continue;
            };
            let end = superseded.saturating_add(grace);
            if end <= now {
                due.push(Arc::clone(record));
            } else if collected.next_due.is_none_or(|next| end < next) {
                collected.next_due = Some(end);
            }
        }
        if !due.is_empty() {
            // 1.
            let mut transaction = self.begin(now);
            for record in &due {
                transaction.remove_generation(record);
            }
            let count = u32::try_from(due.len()).unwrap_or(u32::MAX);
            let event = Event::GenerationsRemoved { count };
            let prepared = self.prepare(transaction, event, None, Room::CATALOG)?;
            self.persist(prepared, Traces::default())?;
            collected.left_behind += self.remove_files(&due);
            collected.removed = due
                .iter()
                .map(|record| (record.base_model.clone(), record.slot, record.generation))
                .collect();
        }
        collected.left_behind += self.remove_returned_tensors();
        self.compact_if_due()?;
        Ok(collected)
    }

    /// Steps 2 to 4. Gives the number of removals that failed.
    pub(super) fn remove_files(&self, gone: &[Arc<GenerationRecord>]) -> u32 {
        let layout = &self.shared.layout;
        let mut failures = Failures(0);
        let _exports = exports::hold(&self.shared);
        // 2.
        let mut directories = BTreeSet::new();
        for record in gone {
            let (base_model, slot) = (&record.base_model, record.slot);
            let manifest = layout.manifest(base_model, slot, record.generation);
            failures.count(durable::unlink(&manifest));
            directories.insert(layout.slot_manifests(base_model, slot));
        }
        for directory in directories {
            failures.count(self.shared.disk.sync_directory(&directory));
        }
        failpoint::hit("collect.manifests_removed");
        // 3.
        let formats = durable::list(&layout.exports());
        for format in formats.iter().flatten() {
            for record in gone {
                let slot = layout.slot_exports(&format.name, &record.base_model, record.slot);
                // Only an export that was never followed by a later one; better none than a link
                // that leads nowhere.
                if let Ok(Some(current)) = exports::current_export(&slot)
                    && current == record.generation
                {
                    failures.count(durable::unlink(&slot.join(CURRENT)));
                }
                failures.count(durable::remove_tree(
                    &slot.join(record.generation.to_string()),
                ));
            }
        }
        for record in gone {
            failures.count(derived::remove_generation(&self.shared, record));
        }
        failpoint::hit("collect.exports_removed");
        // 4.
        let candidates = gone.iter().map(|record| record.digest).collect();
        failures.0 += self.remove_unused_tensors(&candidates);
        failpoint::hit("collect.tensors_removed");
        failures.0
    }

    /// Removes the tensor files whose leases have ended without a commit.
    pub(super) fn remove_returned_tensors(&self) -> u32 {
        // The change in doubt may be in the database, and name them. They are looked at later.
        if self.is_in_doubt() {
            return 0;
        }
        let returned = self.shared.leases.lock().take_returned();
        self.remove_unused_tensors(&returned)
    }

    fn remove_unused_tensors(&self, candidates: &BTreeSet<Digest>) -> u32 {
        // After a failed write the next start may find more generations than are known here.
        if candidates.is_empty() || self.is_read_only() {
            return 0;
        }
        let live: BTreeSet<Digest> = self
            .catalog
            .generations()
            .map(|record| record.digest)
            .collect();
        let mut failures = Failures(0);
        // While the leases are held, no writer can decide to use one of these files.
        let leases = self.shared.leases.lock();
        for digest in candidates {
            if !live.contains(digest) && !leases.is_held(digest) {
                failures.count(durable::unlink(&self.shared.layout.tensor(digest)));
            }
        }
        failures.0
    }
}

/// Counts removals that failed. They harm nothing: the next start removes what is left.
struct Failures(u32);

impl Failures {
    fn count(&mut self, result: Result<(), FileError>) {
        self.0 += u32::from(result.is_err());
    }
}
