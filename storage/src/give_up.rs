//! What becomes of generations whose tensor file is lost: one rule, for start-up and for a daemon that
//! finds damage while it runs.
//!
//! A generation without its tensors cannot be served. If its slot has an earlier one that is
//! whole, that one comes back as a new generation, so that generations still only rise; the tasks
//! that had joined since are gone, and their jobs say so. Owned by whoever has the transaction.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::catalog::{Catalog, SlotState};
use crate::digest::Digest;
use crate::error::RecordTooLarge;
use crate::ids::{BaseModelName, JobId, SlotIndex, UnixMillis};
use crate::manifest::MemberEntry;
use crate::records::{EmptiedRecord, GenerationRecord, JobFailure, JobRecord, JobState};
use crate::transaction::Transaction;

/// The canonical code for data that are lost.
pub(crate) const DATA_LOSS: i32 = 15;

/// Gives generations up.
#[derive(Debug)]
pub(crate) struct GiveUp<'a> {
    pub(crate) transaction: &'a mut Transaction,
    pub(crate) now: UnixMillis,
    /// What was done, one sentence each.
    pub(crate) notes: &'a mut Vec<String>,
    /// The files that are lost.
    pub(crate) bad: &'a BTreeSet<Digest>,
}

/// A slot with a generation that is lost.
#[derive(Debug, Clone)]
pub(crate) struct LostSlot {
    pub(crate) base_model: BaseModelName,
    pub(crate) slot: SlotIndex,
    pub(crate) state: Arc<SlotState>,
}

impl LostSlot {
    /// The slots that have a generation that is lost.
    pub(crate) fn all(catalog: &Catalog, bad: &BTreeSet<Digest>) -> Vec<Self> {
        let slots = catalog.base_models.iter().flat_map(|(name, base_model)| {
            base_model.slots.iter().map(|(&slot, state)| Self {
                base_model: name.clone(),
                slot,
                state: Arc::clone(state),
            })
        });
        let is_lost = |lost: &Self| {
            let mut generations = lost.state.generations.values();
            generations.any(|record| bad.contains(&record.digest))
        };
        slots.filter(is_lost).collect()
    }

    /// The generation that comes back, if the current one is lost and there is one.
    pub(crate) fn whole(&self, bad: &BTreeSet<Digest>) -> Option<&GenerationRecord> {
        let generations = self.state.generations.values().rev();
        let mut whole = generations.filter(|record| !bad.contains(&record.digest));
        let is_lost = bad.contains(&self.state.current().digest);
        whole.next().filter(|_| is_lost).map(Arc::as_ref)
    }

    /// Whether what the generation that comes back holds is told by its manifest alone.
    pub(crate) fn needs_manifest(&self, whole: &GenerationRecord) -> bool {
        self.state.members_of(whole).is_none()
    }
}

impl GiveUp<'_> {
    /// Gives up what a slot has lost. `listed` are the members of the generation that comes back, as
    /// its manifest names them, if nothing else tells them.
    pub(crate) fn in_slot(
        &mut self,
        lost: &LostSlot,
        listed: Vec<MemberEntry>,
    ) -> Result<(), RecordTooLarge> {
        let LostSlot {
            base_model,
            slot,
            state,
        } = lost;
        let slot = *slot;
        let current = state.current();
        let generations = state.generations.values();
        self.remove(generations.filter(|record| self.bad.contains(&record.digest)));
        if !self.bad.contains(&current.digest) {
            return Ok(());
        }
        let found = lost.whole(self.bad).and_then(|whole| {
            let members = self.members_left(state, whole, listed);
            (!members.is_empty()).then_some((whole, members))
        });
        let members = state.members.iter().map(|member| member.job);
        let dropped: Vec<JobId> = match &found {
            Some((_, left)) => {
                let kept: BTreeSet<JobId> = left.iter().map(|entry| entry.job).collect();
                members.filter(|job| !kept.contains(job)).collect()
            }
            None => members.collect(),
        };
        match found {
            Some((whole, members)) => {
                self.transaction
                    .replace_members(base_model, slot, &members)?;
                self.serve_again(whole, current, members.len())?;
            }
            None => {
                self.notes.push(format!(
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

    /// Gives up what slots that were emptied have in grace.
    pub(crate) fn in_grace(&mut self) {
        let catalog = self.transaction.catalog();
        let lost = catalog.generations();
        let lost = lost.filter(|record| self.bad.contains(&record.digest));
        let lost: Vec<Arc<GenerationRecord>> = lost.cloned().collect();
        self.remove(lost.iter());
    }

    /// Takes generations out whose tensors are lost.
    fn remove<'r>(&mut self, lost: impl Iterator<Item = &'r Arc<GenerationRecord>>) {
        for record in lost {
            self.transaction.remove_generation(record);
            let GenerationRecord {
                base_model,
                slot,
                generation,
                digest,
                ..
            } = &**record;
            self.notes.push(format!(
                "the tensor file {digest} of generation {generation} of slot {slot} of \
                 {base_model} is missing or damaged; the generation is lost"
            ));
        }
    }

    /// The members that an earlier generation of a slot still has: those that have not left the
    /// slot since.
    fn members_left(
        &self,
        state: &SlotState,
        whole: &GenerationRecord,
        mut listed: Vec<MemberEntry>,
    ) -> Vec<MemberEntry> {
        let base_model = self.transaction.base_model_state(&whole.base_model);
        let Some(members) = state.members_of(whole) else {
            listed.retain(|entry| {
                let task = base_model.tasks.get(&entry.task);
                task.is_some_and(|task| task.slot == whole.slot && task.job == entry.job)
            });
            return listed;
        };
        let entries = members.iter().filter_map(|member| {
            let task = base_model.tasks.get(&member.task)?;
            Some(MemberEntry::new(member, task))
        });
        entries.collect()
    }

    /// Commits an earlier generation again, after the lost one, with so many members.
    fn serve_again(
        &mut self,
        whole: &GenerationRecord,
        lost: &GenerationRecord,
        members: usize,
    ) -> Result<(), RecordTooLarge> {
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
        self.notes.push(format!(
            "slot {} of {} serves generation {} again, as generation {}",
            whole.slot, whole.base_model, whole.generation, again.generation
        ));
        let superseded = GenerationRecord {
            superseded: Some(self.now),
            ..whole.clone()
        };
        self.transaction.put_generation(superseded)?;
        self.transaction.put_generation(again)
    }

    /// Lets a job whose task is gone say so, so that the same adapter can be sent again.
    fn mark_lost(&mut self, job: JobId) -> Result<(), RecordTooLarge> {
        let Some(record) = self.transaction.catalog().jobs.get(&job) else {
            return Ok(());
        };
        self.notes.push(format!(
            "task {} of {} is lost with it; send its adapter again",
            record.task, record.base_model
        ));
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
