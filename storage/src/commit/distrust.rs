//! Tensor files that were found damaged while the daemon runs.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::doubt::Traces;
use super::{Committer, Room};
use crate::digest::Digest;
use crate::durable;
use crate::error::CommitError;
use crate::failpoint;
use crate::give_up::{GiveUp, LostSlot};
use crate::ids::UnixMillis;
use crate::manifest::{Manifest, MemberEntry};
use crate::records::{Event, GenerationRecord};
use crate::recovery;
use crate::sealed;

/// What became of files that are not to be trusted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Distrusted {
    /// What was done, one sentence each. None if no generation has those files any more.
    pub notes: Vec<String>,
}

impl Committer {
    /// Gives up every generation whose tensor file is one of `bad`, by the same rule as a start: the
    /// generation before serves again under the next number, without the tasks that had joined since,
    /// whose jobs say so; a slot without a whole generation is emptied. Whoever calls has read the files
    /// of the generations that are to serve again. Durable on return.
    ///
    /// 1. The damaged files are set aside. From here on a start does the same.
    /// 2. The catalog learns of it.
    /// 3. The manifests of the new generations are written. A start writes them too.
    /// 4. What else there is of the lost generations goes.
    ///
    /// # Errors
    /// What any write may meet.
    pub fn distrust(
        &mut self,
        bad: &BTreeSet<Digest>,
        now: UnixMillis,
    ) -> Result<Distrusted, CommitError> {
        self.check_writable()?;
        let before = self.catalog();
        let lost: Vec<Arc<GenerationRecord>> = before
            .generations()
            .filter(|record| bad.contains(&record.digest))
            .cloned()
            .collect();
        if lost.is_empty() {
            return Ok(Distrusted::default());
        }
        let mut transaction = self.begin(now);
        let mut notes = Vec::new();
        for slot in LostSlot::all(&before, bad) {
            let listed = match slot.whole(bad).filter(|whole| slot.needs_manifest(whole)) {
                Some(whole) => self.listed(whole)?,
                None => Vec::new(),
            };
            let mut give_up = GiveUp {
                transaction: &mut transaction,
                now,
                notes: &mut notes,
                bad,
            };
            give_up.in_slot(&slot, listed)?;
        }
        let mut give_up = GiveUp {
            transaction: &mut transaction,
            now,
            notes: &mut notes,
            bad,
        };
        give_up.in_grace();
        let files = u32::try_from(bad.len()).unwrap_or(u32::MAX);
        let event = Event::TensorsLost { files };
        let prepared = self.prepare(transaction, event, None, Room::FILES)?;
        // 1.
        for digest in bad {
            // While the book is open nobody decides to use one of these files.
            let _leases = self.shared.leases.lock();
            let path = self.shared.layout.tensor(digest);
            if durable::exists(&path) {
                recovery::set_aside(&self.shared, &path, now)?;
            }
        }
        failpoint::hit("distrust.set_aside");
        // 2.
        self.persist(prepared, Traces::default())?;
        failpoint::hit("distrust.recorded");
        // 3.
        let after = self.catalog();
        let mut manifests = Vec::new();
        for record in after.generations() {
            if record.revision == after.revision
                && let Some(state) = after.base_model(&record.base_model)
            {
                let name = &record.base_model;
                let (job, job_dropped) =
                    recovery::find_job(&after, name, record.job, record.committed);
                let commit = recovery::siblings(&after, name, record.revision);
                manifests.push(Manifest {
                    job_dropped,
                    ..Manifest::new(record, state, &job, commit)
                });
            }
        }
        for record in after.emptied_slots() {
            if record.revision == after.revision
                && let Some(state) = after.base_model(&record.base_model)
            {
                let name = &record.base_model;
                let (job, job_dropped) =
                    recovery::find_job(&after, name, record.job, record.committed);
                let commit = recovery::siblings(&after, name, record.revision);
                manifests.push(Manifest {
                    job_dropped,
                    ..Manifest::of_emptied(record, state, &job, commit)
                });
            }
        }
        self.try_write_manifests(&manifests)?;
        // 4. What cannot be removed is swept by the next start.
        self.remove_files(&lost);
        Ok(Distrusted { notes })
    }

    /// The members that the manifest of a generation names; none if it cannot be read.
    fn listed(&self, whole: &GenerationRecord) -> Result<Vec<MemberEntry>, CommitError> {
        let layout = &self.shared.layout;
        let path = layout.manifest(&whole.base_model, whole.slot, whole.generation);
        let bytes = durable::read_if_there(&path)?.unwrap_or_default();
        let manifest = sealed::unseal::<Manifest>(&bytes).ok();
        let manifest = manifest.filter(|manifest| manifest.revision == whole.revision);
        Ok(manifest
            .map(|manifest| manifest.members)
            .unwrap_or_default())
    }
}
