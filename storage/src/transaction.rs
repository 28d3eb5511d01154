//! The next catalog in the making.
//!
//! Owned by the committer and by recovery, one at a time. Each step changes the view that readers
//! will get and the batch that the database will get, together, so that the two cannot differ.
//! Nothing is visible or written before the transaction is finished.

use std::sync::Arc;

use crate::catalog::{BaseModelState, Catalog, SlotState};
use crate::catalog_store::Batch;
use crate::error::RecordTooLarge;
use crate::ids::{BaseModelName, JobId, Revision, SlotIndex, UnixMillis};
use crate::manifest::MemberEntry;
use crate::records::{BaseModelRecord, Event, EventRecord, GenerationRecord, JobRecord};
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

    /// Adds a base model without slots.
    pub(crate) fn put_base_model(
        &mut self,
        record: &Arc<BaseModelRecord>,
    ) -> Result<(), RecordTooLarge> {
        self.put(&Stored::BaseModel(BaseModelHead::from(&**record)))?;
        for piece in config_pieces(record) {
            self.put(&piece)?;
        }
        let state = BaseModelState {
            record: Arc::clone(record),
            slots: Default::default(),
            tasks: Default::default(),
        };
        self.next
            .base_models
            .insert(record.name.clone(), Arc::new(state));
        Ok(())
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
        let Some(slot) = self.next.slot(base_model, slot) else {
            return Ok(());
        };
        let superseded = GenerationRecord {
            superseded: Some(when),
            ..slot.current().clone()
        };
        self.put_generation(superseded)
    }

    /// Removes a generation. The slot must have another one, or be removed as well.
    pub(crate) fn remove_generation(&mut self, record: &GenerationRecord) {
        self.batch.remove(generation_key(record));
        self.slot(&record.base_model, record.slot)
            .generations
            .remove(&record.generation);
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

    /// Keeps the first `count` members of a slot and takes the others out, with their tasks. Gives
    /// the jobs that had brought them.
    pub(crate) fn truncate_members(
        &mut self,
        base_model: &BaseModelName,
        slot: SlotIndex,
        count: u32,
    ) -> Vec<JobId> {
        let kept = usize::try_from(count).unwrap_or(usize::MAX);
        let members = &mut self.slot(base_model, slot).members;
        let removed = members.split_off(kept.min(members.len()));
        for (member, place) in removed.iter().zip(count..) {
            self.base_model(base_model).tasks.remove(&member.task);
            self.batch.remove(key::member(base_model, slot, place));
        }
        removed.iter().map(|member| member.job).collect()
    }

    /// Removes a slot that has neither generations nor members.
    pub(crate) fn remove_slot(&mut self, base_model: &BaseModelName, slot: SlotIndex) {
        self.base_model(base_model).slots.remove(&slot);
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
