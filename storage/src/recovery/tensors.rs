//! The second half of step 4: generations whose tensor file is lost.
//!
//! A generation without its tensors cannot be served. If its slot has an earlier one that is
//! whole, that one comes back as a new generation, so that generations still only rise; the tasks
//! that had joined since are gone, and their jobs say so.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::{Recovery, set_aside};
use crate::catalog::SlotState;
use crate::digest::Digest;
use crate::durable;
use crate::error::{FileError, OpenError};
use crate::ids::{BaseModelName, Generation, JobId, SlotIndex};
use crate::records::{GenerationRecord, JobFailure, JobRecord, JobState};
use crate::tensors::TensorFile;

/// The canonical code for data that are lost.
pub(super) const DATA_LOSS: i32 = 15;

impl Recovery<'_> {
    /// Whether a tensor file is there with the right length and content.
    pub(super) fn is_tensor_whole(&self, digest: &Digest, bytes: u64) -> Result<bool, OpenError> {
        let path = self.shared.layout.tensor(digest);
        if durable::length_if_there(&path)? != Some(bytes) {
            return Ok(false);
        }
        let found = TensorFile::open(&path)?
            .digest()
            .map_err(|source| FileError {
                verb: "read",
                path,
                source,
            })?;
        Ok(found == *digest)
    }

    /// Gives up every generation whose tensor file is missing or damaged. Length is looked at
    /// always, content of what was `taken_in` just now.
    pub(super) fn give_up_lost_tensors(
        &mut self,
        taken_in: &[GenerationRecord],
    ) -> Result<(), OpenError> {
        let mut bad = BTreeSet::new();
        let mut seen = BTreeSet::new();
        let content: BTreeSet<Digest> = taken_in.iter().map(|record| record.digest).collect();
        for record in self.transaction.catalog().generations() {
            if !seen.insert((record.digest, record.bytes)) {
                continue;
            }
            let path = self.shared.layout.tensor(&record.digest);
            let is_whole = if self.rebuilding && content.contains(&record.digest) {
                self.is_tensor_whole(&record.digest, record.bytes)?
            } else {
                durable::length_if_there(&path)? == Some(record.bytes)
            };
            if !is_whole {
                bad.insert(record.digest);
            }
        }
        if bad.is_empty() {
            return Ok(());
        }
        let slots: Vec<(BaseModelName, SlotIndex, Arc<SlotState>)> = self
            .transaction
            .catalog()
            .base_models
            .iter()
            .flat_map(|(name, state)| {
                state
                    .slots
                    .iter()
                    .map(|(slot, state)| (name.clone(), *slot, Arc::clone(state)))
            })
            .collect();
        for (base_model, slot, state) in slots {
            self.give_up_in_slot(&base_model, slot, &state, &bad)?;
        }
        for digest in bad {
            let path = self.shared.layout.tensor(&digest);
            if durable::exists(&path) {
                set_aside(self.shared, &path, self.now)?;
            }
        }
        Ok(())
    }

    fn give_up_in_slot(
        &mut self,
        base_model: &BaseModelName,
        slot: SlotIndex,
        state: &SlotState,
        bad: &BTreeSet<Digest>,
    ) -> Result<(), OpenError> {
        let current = state.current();
        let lost = state
            .generations
            .values()
            .filter(|record| bad.contains(&record.digest));
        for record in lost {
            self.transaction.remove_generation(record);
            self.note(format!(
                "the tensor file {} of generation {} of slot {slot} of {base_model} is missing or \
                 damaged; the generation is lost",
                record.digest, record.generation
            ));
        }
        if !bad.contains(&current.digest) {
            return Ok(());
        }
        let whole = state
            .generations
            .values()
            .rev()
            .find(|record| !bad.contains(&record.digest));
        let dropped = match whole {
            Some(whole) => {
                self.serve_again(whole, current.generation)?;
                self.transaction
                    .truncate_members(base_model, slot, whole.members)
            }
            None => {
                self.note(format!(
                    "slot {slot} of {base_model} has no whole generation left"
                ));
                let dropped = self.transaction.truncate_members(base_model, slot, 0);
                self.transaction.remove_slot(base_model, slot);
                dropped
            }
        };
        for job in dropped {
            self.mark_lost(job)?;
        }
        Ok(())
    }

    /// Commits an earlier generation again, after the lost one.
    fn serve_again(&mut self, whole: &GenerationRecord, lost: Generation) -> Result<(), OpenError> {
        let again = GenerationRecord {
            generation: lost.next(),
            revision: self.transaction.catalog().revision,
            committed: self.now,
            superseded: None,
            ..whole.clone()
        };
        self.note(format!(
            "slot {} of {} serves generation {} again, as generation {}",
            whole.slot, whole.base_model, whole.generation, again.generation
        ));
        let superseded = GenerationRecord {
            superseded: Some(self.now),
            ..whole.clone()
        };
        self.transaction.put_generation(superseded)?;
        self.transaction.put_generation(again)?;
        Ok(())
    }

    /// Lets a job whose task is gone say so, so that the same adapter can be sent again.
    fn mark_lost(&mut self, job: JobId) -> Result<(), OpenError> {
        let Some(record) = self.transaction.catalog().jobs.get(&job) else {
            return Ok(());
        };
        let failure = JobFailure {
            code: DATA_LOSS,
            reason: "TENSORS_LOST".to_owned(),
            message: "The slot's tensors were lost on the disk; send the adapter again.".to_owned(),
        };
        let failed = JobRecord {
            state: JobState::Failed,
            failure: Some(failure),
            result: None,
            ..JobRecord::clone(record)
        };
        self.transaction.put_job(failed)?;
        Ok(())
    }
}
