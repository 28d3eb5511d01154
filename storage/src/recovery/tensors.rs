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
use crate::ids::{BaseModelName, JobId, SlotIndex};
use crate::manifest::MemberEntry;
use crate::records::{EmptiedRecord, GenerationRecord, JobFailure, JobRecord, JobState};
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
        let in_grace: Vec<Arc<GenerationRecord>> = self
            .transaction
            .catalog()
            .generations()
            .filter(|record| bad.contains(&record.digest))
            .cloned()
            .collect();
        self.give_up(in_grace.iter());
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
        let generations = state.generations.values();
        self.give_up(
            generations
                .clone()
                .filter(|record| bad.contains(&record.digest)),
        );
        if !bad.contains(&current.digest) {
            return Ok(());
        }
        let mut whole = generations
            .rev()
            .filter(|record| !bad.contains(&record.digest));
        let found = match whole.next() {
            Some(whole) => self
                .members_left(state, whole)?
                .map(|members| (whole, members)),
            None => None,
        };
        let dropped: Vec<JobId> = match &found {
            Some((_, members)) => {
                let kept: BTreeSet<JobId> = members.iter().map(|entry| entry.job).collect();
                let members = state.members.iter().map(|member| member.job);
                members.filter(|job| !kept.contains(job)).collect()
            }
            None => state.members.iter().map(|member| member.job).collect(),
        };
        match found {
            Some((whole, members)) => {
                self.transaction
                    .replace_members(base_model, slot, &members)?;
                self.serve_again(whole, current, members.len())?;
            }
            None => {
                self.note(format!(
                    "slot {slot} of {base_model} has no whole generation left"
                ));
                // Its number stays known: what was committed together with it must not be taken
                // for half a commit later.
                self.transaction.supersede(base_model, slot, self.now)?;
                self.transaction.empty_slot(EmptiedRecord {
                    base_model: base_model.clone(),
                    slot,
                    generation: current.generation.next(),
                    job: current.job,
                    revision: self.transaction.catalog().revision,
                    committed: self.now,
                })?;
            }
        }
        for job in dropped {
            self.mark_lost(job)?;
        }
        Ok(())
    }

    /// Takes generations out whose tensors are lost.
    fn give_up<'r>(&mut self, lost: impl Iterator<Item = &'r Arc<GenerationRecord>>) {
        for record in lost {
            self.transaction.remove_generation(record);
            let GenerationRecord {
                base_model,
                slot,
                generation,
                digest,
                ..
            } = &**record;
            self.note(format!(
                "the tensor file {digest} of generation {generation} of slot {slot} of \
                 {base_model} is missing or damaged; the generation is lost"
            ));
        }
    }

    /// The members that an earlier generation of a slot still has: those that have not left the
    /// slot since. None if there is no telling, or nobody is left.
    fn members_left(
        &self,
        state: &SlotState,
        whole: &GenerationRecord,
    ) -> Result<Option<Vec<MemberEntry>>, OpenError> {
        let base_model = self.transaction.base_model_state(&whole.base_model);
        let entries = match state.members_of(whole) {
            Some(members) => members
                .iter()
                .filter_map(|member| {
                    let task = base_model.tasks.get(&member.task)?;
                    Some(MemberEntry::new(member, task))
                })
                .collect(),
            None => {
                let key = (whole.base_model.clone(), whole.slot);
                let mut entries = self.entries(&key, whole.generation)?;
                entries.retain(|entry| {
                    let task = base_model.tasks.get(&entry.task);
                    task.is_some_and(|task| task.slot == whole.slot && task.job == entry.job)
                });
                entries
            }
        };
        Ok(Some(entries).filter(|entries| !entries.is_empty()))
    }

    /// Commits an earlier generation again, after the lost one, with so many members.
    fn serve_again(
        &mut self,
        whole: &GenerationRecord,
        lost: &GenerationRecord,
        members: usize,
    ) -> Result<(), OpenError> {
        let generation = lost.generation.next();
        let is_same_list = whole.members_since == lost.members_since;
        let again = GenerationRecord {
            generation,
            members: u32::try_from(members).unwrap_or(u32::MAX),
            members_since: if is_same_list {
                whole.members_since
            } else {
                generation
            },
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
