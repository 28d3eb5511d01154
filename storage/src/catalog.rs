//! The catalog as readers see it: everything that is committed, in memory, never changed in place.
//!
//! The [`Committer`](crate::Committer) owns the current one and makes the next from it; readers
//! hold an `Arc` of one revision for as long as they like. The sections are shared between
//! revisions, so that the next one costs what has changed and not what there is.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use crate::digest::Digest;
use crate::ids::{BaseModelName, Generation, JobId, Revision, SlotIndex, TaskName};
use crate::records::{
    BaseModelRecord, EmptiedRecord, EventRecord, GenerationRecord, JobRecord, JobState,
    MemberRecord, SettingsChange, TaskRecord, UploadFacts,
};

/// All that is committed, at one revision.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Catalog {
    /// The revision.
    pub revision: Revision,
    /// The base models with their slots and tasks.
    pub base_models: BTreeMap<BaseModelName, Arc<BaseModelState>>,
    /// The unfinished jobs and the last finished ones.
    pub jobs: BTreeMap<JobId, Arc<JobRecord>>,
    /// The last changes, oldest first.
    pub events: VecDeque<Arc<EventRecord>>,
    /// The highest job id that was ever given out.
    pub last_job: JobId,
}

/// A base model with its slots and tasks.
#[derive(Debug, Clone, PartialEq)]
pub struct BaseModelState {
    /// The base model itself.
    pub record: Arc<BaseModelRecord>,
    /// There if its settings are no longer those of its registration.
    pub settings_change: Option<SettingsChange>,
    /// Its slots. Each has at least one generation.
    pub slots: BTreeMap<SlotIndex, Arc<SlotState>>,
    /// The slots that held something once and hold nothing now.
    pub emptied: BTreeMap<SlotIndex, Arc<EmptiedSlot>>,
    /// The tasks that its slots hold.
    pub tasks: BTreeMap<TaskName, Arc<TaskRecord>>,
}

impl BaseModelState {
    /// The number that a slot's next generation will have. It goes on where the slot was emptied.
    pub fn next_generation(&self, slot: SlotIndex) -> Generation {
        self.number(slot)
            .map_or(Generation::FIRST, Generation::next)
    }

    fn number(&self, slot: SlotIndex) -> Option<Generation> {
        match self.slots.get(&slot) {
            Some(state) => Some(state.current().generation),
            None => Some(self.emptied.get(&slot)?.record.generation),
        }
    }

    /// The fingerprint that the base model was registered with, whatever its settings are now.
    pub(crate) fn registered_as(&self) -> Digest {
        match &self.settings_change {
            Some(change) => change.registered_as,
            None => self.record.fingerprint(),
        }
    }
}

/// A slot that was emptied. It serves nothing, and its number can be opened again.
#[derive(Debug, Clone, PartialEq)]
pub struct EmptiedSlot {
    /// When and by what it was emptied.
    pub record: EmptiedRecord,
    /// Its last generations, in grace, oldest first. All are older than the emptying.
    pub generations: BTreeMap<Generation, Arc<GenerationRecord>>,
}

/// A slot with its members.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct SlotState {
    /// The current generation and those in grace, oldest first. Never empty.
    pub generations: BTreeMap<Generation, Arc<GenerationRecord>>,
    /// The member list of the current generation: its tasks in the order in which they joined.
    pub members: Vec<Arc<MemberRecord>>,
}

impl SlotState {
    /// The generation that the slot is at.
    pub fn current(&self) -> &GenerationRecord {
        self.generations
            .last_key_value()
            .map(|(_, record)| record)
            .expect("a slot is made together with its first generation")
    }

    /// The members of a generation of this slot: the first of the list, if the list is its own. A
    /// generation from before the list was replaced has none here; what it holds is told by
    /// [`Reader::generation_members`](crate::Reader::generation_members).
    pub fn members_of(&self, generation: &GenerationRecord) -> Option<&[Arc<MemberRecord>]> {
        if generation.members_since != self.current().members_since {
            return None;
        }
        self.members
            .get(..usize::try_from(generation.members).ok()?)
    }

    /// The weights of the first `count` members in a generation of this list that holds so many:
    /// that of member j is w_j · Π (1 − w_k) over the members k that joined after it, where w is
    /// the weight at joining. Members that were placed scale none. A `count` beyond the members
    /// means all of them.
    pub fn weights(&self, count: usize) -> Vec<f64> {
        let members = &self.members[..count.min(self.members.len())];
        final_weights(members.iter().map(|member| &**member))
    }
}

/// The weights of members after the last of them has joined.
pub(crate) fn final_weights<'a>(
    members: impl DoubleEndedIterator<Item = &'a MemberRecord>,
) -> Vec<f64> {
    let mut rest = 1.0;
    let mut weights: Vec<f64> = members
        .rev()
        .map(|member| {
            let weight = member.weight_at_join * rest;
            if !member.placed {
                rest *= 1.0 - member.weight_at_join;
            }
            weight
        })
        .collect();
    weights.reverse();
    weights
}

impl Catalog {
    /// The base model of that name.
    pub fn base_model(&self, name: &BaseModelName) -> Option<&Arc<BaseModelState>> {
        self.base_models.get(name)
    }

    /// The slot of a base model.
    pub fn slot(&self, base_model: &BaseModelName, slot: SlotIndex) -> Option<&Arc<SlotState>> {
        self.base_models.get(base_model)?.slots.get(&slot)
    }

    /// The task of a base model.
    pub fn task(&self, base_model: &BaseModelName, task: &TaskName) -> Option<&Arc<TaskRecord>> {
        self.base_models.get(base_model)?.tasks.get(task)
    }

    /// A slot that was emptied and not opened again.
    pub fn emptied(
        &self,
        base_model: &BaseModelName,
        slot: SlotIndex,
    ) -> Option<&Arc<EmptiedSlot>> {
        self.base_models.get(base_model)?.emptied.get(&slot)
    }

    /// A live generation of a slot, of one that was emptied too.
    pub fn generation(
        &self,
        base_model: &BaseModelName,
        slot: SlotIndex,
        generation: Generation,
    ) -> Option<&Arc<GenerationRecord>> {
        let generations = match self.slot(base_model, slot) {
            Some(state) => &state.generations,
            None => &self.emptied(base_model, slot)?.generations,
        };
        generations.get(&generation)
    }

    /// The number that a slot is at: its current generation, or its being empty; none if nothing
    /// ever was in it.
    pub(crate) fn number(&self, base_model: &BaseModelName, slot: SlotIndex) -> Option<Generation> {
        self.base_models.get(base_model)?.number(slot)
    }

    /// All live generations of all slots, of those that were emptied too.
    pub fn generations(&self) -> impl Iterator<Item = &Arc<GenerationRecord>> {
        let base_models = self.base_models.values();
        base_models.flat_map(|base_model| {
            let slots = base_model.slots.values().map(|slot| &slot.generations);
            let emptied = base_model.emptied.values().map(|slot| &slot.generations);
            slots.chain(emptied).flat_map(BTreeMap::values)
        })
    }

    /// All slots that were emptied and not opened again.
    pub fn emptied_slots(&self) -> impl Iterator<Item = &EmptiedRecord> {
        let base_models = self.base_models.values();
        base_models
            .flat_map(|base_model| base_model.emptied.values())
            .map(|slot| &slot.record)
    }

    /// The jobs that are queued or running, oldest first.
    pub fn unfinished_jobs(&self) -> impl Iterator<Item = &Arc<JobRecord>> {
        self.jobs.values().filter(|job| !job.state.is_finished())
    }

    /// The queued jobs of a base model in the order in which they arrived.
    pub fn queued_jobs<'a>(
        &'a self,
        base_model: &'a BaseModelName,
    ) -> impl Iterator<Item = &'a Arc<JobRecord>> {
        self.jobs
            .values()
            .filter(move |job| job.state == JobState::Queued && job.base_model == *base_model)
    }

    /// The job of a request id, in whatever state it is. Request ids are unique among all requests.
    ///
    /// The job of a committed task is found even when its own record has gone.
    pub fn job_by_request(&self, request_id: &str) -> Option<Arc<JobRecord>> {
        let is_it = |id: &Option<String>| id.as_deref() == Some(request_id);
        if let Some(job) = self.jobs.values().rev().find(|job| is_it(&job.request_id)) {
            return Some(Arc::clone(job));
        }
        self.base_models
            .values()
            .flat_map(|base_model| base_model.tasks.values())
            .find(|task| is_it(&task.request_id))
            .map(|task| self.job_of_task(task))
    }

    /// The newest job that brought, or will bring, exactly this upload for this task; jobs that
    /// failed or were cancelled do not count.
    pub fn job_by_content(
        &self,
        base_model: &BaseModelName,
        task: &TaskName,
        upload: &UploadFacts,
    ) -> Option<Arc<JobRecord>> {
        self.job_for_task(base_model, task)
            .filter(|job| job.upload == *upload)
    }

    /// The job that brought, or will bring, the task's adapter. There is at most one.
    pub fn job_for_task(
        &self,
        base_model: &BaseModelName,
        task: &TaskName,
    ) -> Option<Arc<JobRecord>> {
        if let Some(record) = self.task(base_model, task) {
            return Some(self.job_of_task(record));
        }
        self.unfinished_jobs()
            .find(|job| job.kind.is_upload() && job.base_model == *base_model && job.task == *task)
            .map(Arc::clone)
    }

    fn job_of_task(&self, task: &TaskRecord) -> Arc<JobRecord> {
        match self.jobs.get(&task.job) {
            Some(job) => Arc::clone(job),
            None => Arc::new(JobRecord::of_task(task)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot(weights: &[f64]) -> SlotState {
        let member = |(place, &weight_at_join): (usize, &f64)| {
            let task = format!("task-{place}").parse().unwrap();
            let (job, generation) = (JobId(1), Generation(1));
            Arc::new(MemberRecord {
                task,
                weight_at_join,
                placed: false,
                job,
                generation,
            })
        };
        let members = weights.iter().enumerate().map(member).collect();
        SlotState {
            generations: BTreeMap::new(),
            members,
        }
    }

    #[test]
    fn weights_shrink_by_what_came_later() {
        // Powers of two, so that the products are exact.
        let slot = slot(&[1.0, 0.5, 0.25]);
        assert_eq!(slot.weights(3), [0.375, 0.375, 0.25]);
        assert_eq!(slot.weights(2), [0.5, 0.5]);
        assert_eq!(slot.weights(1), [1.0]);
        assert_eq!(slot.weights(0), [0.0; 0]);
        assert_eq!(slot.weights(9), slot.weights(3));
    }

    #[test]
    fn weights_that_were_placed_are_scaled_only_by_what_joins_later() {
        let mut slot = slot(&[0.75, 0.5, 0.25]);
        for member in &mut slot.members[..2] {
            Arc::make_mut(member).placed = true;
        }
        assert_eq!(slot.weights(2), [0.75, 0.5]);
        assert_eq!(slot.weights(3), [0.5625, 0.375, 0.25]);
    }

    #[test]
    fn weights_of_a_running_average_are_equal() {
        let weights: Vec<f64> = (1..=10_u32).map(|count| 1.0 / f64::from(count)).collect();
        for weight in slot(&weights).weights(10) {
            assert!((weight - 0.1).abs() < 1e-15, "{weight}");
        }
    }
}
