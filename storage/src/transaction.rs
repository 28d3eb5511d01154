//! The next catalog in the making.
//!
//! Owned by the committer and by recovery, one at a time. Each step changes the view that readers
//! will get and the batch that the database will get, together, so that the two cannot differ.
//! Nothing is visible or written before the transaction is finished.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::catalog::{BaseModelState, Catalog, EmptiedSlot, SlotState};
use crate::catalog_store::Batch;
use crate::error::RecordTooLarge;
use crate::ids::{BaseModelName, JobId, Revision, SlotIndex, TaskName, UnixMillis};
use crate::manifest::MemberEntry;
use crate::records::{
    BaseModelRecord, EmptiedRecord, Event, EventRecord, GenerationRecord, JobRecord, MemberRecord,
    SettingsChange, TaskRecord,
};
use crate::stored::{BaseModelHead, Position, Stored, config_pieces, generation_key, key};

/// How much of the past a catalog keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Retention {
    pub(crate) finished_jobs: usize,
    pub(crate) events: usize,
}

/// One change of the catalog.
#[derive(Debug)]
pub(crate) struct Transaction {
    next: Catalog,
    batch: Batch,
    at: UnixMillis,
}

impl Transaction {
    /// Begins the change that leads from `current` to `revision`.
    pub(crate) fn new(current: &Catalog, revision: Revision, at: UnixMillis) -> Self {
        let mut next = current.clone();
        next.revision = revision;
        Self {
            next,
            batch: Batch::default(),
            at,
        }
    }

    /// The catalog as it would be now.
    pub(crate) fn catalog(&self) -> &Catalog {
        &self.next
    }

    /// A base model as it would be now. It must be there.
    pub(crate) fn base_model_state(&self, name: &BaseModelName) -> &BaseModelState {
        self.next
            .base_models
            .get(name)
            .expect("whoever changes a base model has looked it up")
    }

    /// Whether nothing was changed so far.
    pub(crate) fn is_empty(&self) -> bool {
        self.batch.is_empty()
    }

    fn put(&mut self, record: &Stored) -> Result<(), RecordTooLarge> {
        let value = record.value()?;
        self.batch.put(record.key(), value);
        Ok(())
    }

    fn base_model(&mut self, name: &BaseModelName) -> &mut BaseModelState {
        let state = self.next.base_models.get_mut(name);
        Arc::make_mut(state.expect("whoever changes a base model has looked it up"))
    }

    fn slot(&mut self, base_model: &BaseModelName, slot: SlotIndex) -> &mut SlotState {
        Arc::make_mut(self.base_model(base_model).slots.entry(slot).or_default())
    }

    /// Adds a base model without slots, whose settings have changed, or have not.
    pub(crate) fn put_base_model(
        &mut self,
        record: &Arc<BaseModelRecord>,
        settings_change: Option<SettingsChange>,
    ) -> Result<(), RecordTooLarge> {
        self.put(&Stored::BaseModel(BaseModelHead::new(
            record,
            settings_change,
        )))?;
        for piece in config_pieces(record) {
            self.put(&piece)?;
        }
        let state = BaseModelState {
            record: Arc::clone(record),
            settings_change,
            slots: Default::default(),
            emptied: Default::default(),
            tasks: Default::default(),
        };
        self.next
            .base_models
            .insert(record.name.clone(), Arc::new(state));
        Ok(())
    }

    /// Gives a base model the settings that `revision` brings.
    pub(crate) fn set_settings(
        &mut self,
        name: &BaseModelName,
        settings: String,
        revision: Revision,
    ) -> Result<(), RecordTooLarge> {
        let state = self.base_model(name);
        let record = BaseModelRecord {
            settings,
            ..BaseModelRecord::clone(&state.record)
        };
        let change = Some(SettingsChange {
            registered_as: state.registered_as(),
            revision,
        });
        let head = BaseModelHead::new(&record, change);
        state.record = Arc::new(record);
        state.settings_change = change;
        self.put(&Stored::BaseModel(head))
    }

    /// Adds or replaces a generation.
    pub(crate) fn put_generation(
        &mut self,
        record: GenerationRecord,
    ) -> Result<(), RecordTooLarge> {
        let stored = Stored::Generation(record.clone());
        self.put(&stored)?;
        let slot = self.slot(&record.base_model, record.slot);
        slot.generations.insert(record.generation, Arc::new(record));
        Ok(())
    }

    /// Marks the slot's current generation, if there is one, as superseded.
    pub(crate) fn supersede(
        &mut self,
        base_model: &BaseModelName,
        slot: SlotIndex,
        when: UnixMillis,
    ) -> Result<(), RecordTooLarge> {
        let generations = self.next.slot(base_model, slot);
        let current = generations.and_then(|slot| slot.generations.last_key_value());
        let Some((_, current)) = current else {
            return Ok(());
        };
        let superseded = GenerationRecord {
            superseded: Some(when),
            ..GenerationRecord::clone(current)
        };
        self.put_generation(superseded)
    }

    /// Removes a generation. The slot must have another one, or be removed or emptied as well.
    pub(crate) fn remove_generation(&mut self, record: &GenerationRecord) {
        self.batch.remove(generation_key(record));
        let base_model = self.base_model(&record.base_model);
        if let Some(slot) = base_model.slots.get_mut(&record.slot) {
            Arc::make_mut(slot).generations.remove(&record.generation);
        } else if let Some(slot) = base_model.emptied.get_mut(&record.slot) {
            Arc::make_mut(slot).generations.remove(&record.generation);
        }
    }

    /// Empties a slot: its members go, its generations, which are superseded, stay in grace.
    pub(crate) fn empty_slot(&mut self, record: EmptiedRecord) -> Result<(), RecordTooLarge> {
        self.put(&Stored::Emptied(record.clone()))?;
        let (name, slot) = (record.base_model.clone(), record.slot);
        self.replace_members(&name, slot, &[])?;
        let base_model = self.base_model(&name);
        let mut generations = base_model
            .slots
            .remove(&slot)
            .map(|state| state.generations.clone())
            .unwrap_or_default();
        if let Some(earlier) = base_model.emptied.get(&slot) {
            generations.extend(earlier.generations.clone());
        }
        let state = EmptiedSlot {
            record,
            generations,
        };
        base_model.emptied.insert(slot, Arc::new(state));
        Ok(())
    }

    /// Makes an emptied slot one that a generation can be put into, which must follow. Nothing
    /// happens to any other slot.
    pub(crate) fn open_again(&mut self, base_model: &BaseModelName, slot: SlotIndex) {
        let Some(emptied) = self.base_model(base_model).emptied.remove(&slot) else {
            return;
        };
        self.batch.remove(key::emptied(base_model, slot));
        self.slot(base_model, slot).generations = emptied.generations.clone();
    }

    /// Makes `entries` the member list of a slot. A task that left it and is in no other slot is
    /// forgotten.
    pub(crate) fn replace_members(
        &mut self,
        base_model: &BaseModelName,
        slot: SlotIndex,
        entries: &[MemberEntry],
    ) -> Result<(), RecordTooLarge> {
        let members = entries.iter().map(|entry| Arc::new(entry.member()));
        let list = &mut self.slot(base_model, slot).members;
        let before = std::mem::replace(list, members.collect());
        let kept: BTreeSet<&TaskName> = entries.iter().map(|entry| &entry.task).collect();
        for member in &before {
            let tasks = &mut self.base_model(base_model).tasks;
            // One that is in another slot already has moved there in this transaction.
            let is_here = |task: &Arc<TaskRecord>| task.slot == slot;
            if !kept.contains(&member.task) && tasks.get(&member.task).is_some_and(is_here) {
                tasks.remove(&member.task);
            }
        }
        for (entry, place) in entries.iter().zip(0_u32..) {
            let task = Arc::new(entry.task(base_model, slot));
            let tasks = &mut self.base_model(base_model).tasks;
            let known = tasks.insert(entry.task.clone(), Arc::clone(&task));
            let index = usize::try_from(place).unwrap_or(usize::MAX);
            let is_same = |member: &Arc<MemberRecord>| **member == entry.member();
            if known.as_ref() != Some(&task) || !before.get(index).is_some_and(is_same) {
                let stored = Stored::Member(base_model.clone(), slot, place, entry.clone());
                self.put(&stored)?;
            }
        }
        for (_, place) in before.iter().zip(0_u32..).skip(entries.len()) {
            self.batch.remove(key::member(base_model, slot, place));
        }
        Ok(())
    }

    /// Adds a member at the end of a slot, and its task.
    pub(crate) fn push_member(
        &mut self,
        base_model: &BaseModelName,
        slot: SlotIndex,
        entry: &MemberEntry,
    ) -> Result<(), RecordTooLarge> {
        let members = &mut self.slot(base_model, slot).members;
        let place = u32::try_from(members.len()).expect("the number of members is checked before");
        members.push(Arc::new(entry.member()));
        let task = Arc::new(entry.task(base_model, slot));
        self.base_model(base_model)
            .tasks
            .insert(entry.task.clone(), task);
        self.put(&Stored::Member(
            base_model.clone(),
            slot,
            place,
            entry.clone(),
        ))
    }

    /// Adds or replaces a job.
    pub(crate) fn put_job(&mut self, job: JobRecord) -> Result<Arc<JobRecord>, RecordTooLarge> {
        self.put(&Stored::Job(JobRecord {
            result: None,
            ..job.clone()
        }))?;
        match &job.result {
            Some(result) => self.put(&Stored::JobResult(job.id, result.clone()))?,
            None => self.batch.remove(key::job_result(job.id)),
        }
        let job = Arc::new(job);
        self.next.last_job = self.next.last_job.max(job.id);
        self.next.jobs.insert(job.id, Arc::clone(&job));
        Ok(job)
    }

    /// Never gives out a job id up to `id` again.
    pub(crate) fn skip_jobs_to(&mut self, id: JobId) {
        self.next.last_job = self.next.last_job.max(id);
    }

    /// Ends the transaction: `event` is logged, what need not be kept is dropped. A finished job
    /// that is `just_finished` stays in any case, because its files may still be there and the
    /// catalog must know that they are needed no more.
    pub(crate) fn finish(
        mut self,
        event: Event,
        just_finished: Option<JobId>,
        retention: Retention,
    ) -> Result<(Catalog, Batch), RecordTooLarge> {
        let event = EventRecord {
            revision: self.next.revision,
            at: self.at,
            event,
        };
        self.put(&Stored::Event(event.clone()))?;
        self.next.events.push_back(Arc::new(event));
        while self.next.events.len() > retention.events.max(1) {
            if let Some(old) = self.next.events.pop_front() {
                self.batch.remove(key::event(old.revision));
            }
        }
        self.forget_jobs(just_finished, retention.finished_jobs.max(1));
        let position = Position {
            revision: self.next.revision,
            last_job: self.next.last_job,
        };
        self.put(&Stored::Position(position))?;
        Ok((self.next, self.batch))
    }

    /// Drops the jobs that ended first, beyond the `kept` last ones.
    fn forget_jobs(&mut self, just_finished: Option<JobId>, kept: usize) {
        let finished = self
            .next
            .jobs
            .values()
            .filter(|job| job.state.is_finished());
        let count = finished.clone().count();
        if count <= kept {
            return;
        }
        let mut by_end: Vec<_> = finished
            .map(|job| (just_finished == Some(job.id), job.ended, job.id))
            .collect();
        // The one just finished comes last, whatever the clock says; the others by their end.
        by_end.sort_unstable();
        for (_, _, id) in by_end.into_iter().take(count - kept) {
            self.next.jobs.remove(&id);
            self.batch.remove(key::job(id));
            self.batch.remove(key::job_result(id));
        }
    }
}

#[cfg(test)]
mod tests;
