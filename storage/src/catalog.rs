//! The catalog as readers see it: everything that is committed, in memory, never changed in place.
//!
//! The [`Committer`](crate::Committer) owns the current one and makes the next from it; readers
//! hold an `Arc` of one revision for as long as they like. The sections are shared between
//! revisions, so that the next one costs what has changed and not what there is.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use crate::ids::{BaseModelName, Generation, JobId, Revision, SlotIndex, TaskName};
use crate::records::{
    BaseModelRecord, EventRecord, GenerationRecord, JobRecord, JobState, MemberRecord, TaskRecord,
    UploadFacts,
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
    /// Its slots. Each has at least one generation.
    pub slots: BTreeMap<SlotIndex, Arc<SlotState>>,
    /// The tasks that its slots hold.
    pub tasks: BTreeMap<TaskName, Arc<TaskRecord>>,
}

/// A slot with its members.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct SlotState {
    /// The current generation and those in grace, oldest first. Never empty.
    pub generations: BTreeMap<Generation, Arc<GenerationRecord>>,
    /// The tasks of the current generation in the order in which they joined.
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

    /// The weights of the first `count` members in a generation that holds so many: that of member
    /// j is w_j · Π (1 − w_k) over the members k that joined after it, where w is the weight at
    /// joining. A `count` beyond the members means all of them.
    pub fn weights(&self, count: usize) -> Vec<f64> {
        let members = &self.members[..count.min(self.members.len())];
        let mut rest = 1.0;
        let mut weights: Vec<f64> = members
            .iter()
            .rev()
            .map(|member| {
                let weight = member.weight_at_join * rest;
                rest *= 1.0 - member.weight_at_join;
                weight
            })
            .collect();
        weights.reverse();
        weights
    }
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

    /// A live generation of a slot.
    pub fn generation(
        &self,
        base_model: &BaseModelName,
        slot: SlotIndex,
        generation: Generation,
    ) -> Option<&Arc<GenerationRecord>> {
        self.slot(base_model, slot)?.generations.get(&generation)
    }

    /// All live generations of all slots.
    pub fn generations(&self) -> impl Iterator<Item = &Arc<GenerationRecord>> {
        self.base_models
            .values()
            .flat_map(|base_model| base_model.slots.values())
            .flat_map(|slot| slot.generations.values())
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
            .find(|job| job.base_model == *base_model && job.task == *task)
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
    fn weights_of_a_running_average_are_equal() {
        let weights: Vec<f64> = (1..=10_u32).map(|count| 1.0 / f64::from(count)).collect();
        for weight in slot(&weights).weights(10) {
            assert!((weight - 0.1).abs() < 1e-15, "{weight}");
        }
    }
}
