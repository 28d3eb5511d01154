//! What a job does to slots, as plain data.
//!
//! A [`Commit`] is what a merge needs: tasks join and stay. A [`Rearrangement`] says everything:
//! tasks also leave and move, and slots are emptied.

use crate::ids::{Generation, JobId, SlotIndex, TaskName};
use crate::tensors::StoredTensor;

/// The outcome of a job.
#[derive(Debug)]
pub struct Commit {
    /// The job. It must be running.
    pub job: JobId,
    /// The slots that change: at least one, each once.
    pub changes: Vec<SlotChange>,
    /// Opaque JSON: the decision.
    pub result: String,
}

/// A slot's next generation.
#[derive(Debug)]
pub struct SlotChange {
    /// The slot.
    pub slot: SlotIndex,
    /// The generation that the decision was made for; none if the slot must be empty.
    pub expected: Option<Generation>,
    /// The new tensor file.
    pub tensor: StoredTensor,
    /// The task that joins, if one does. It must be the job's task.
    pub newcomer: Option<NewMember>,
    /// Opaque JSON: what the tensors are.
    pub facts: String,
}

/// A task that joins a slot.
#[derive(Debug, Clone, PartialEq)]
pub struct NewMember {
    /// The task.
    pub task: TaskName,
    /// Its weight at joining; those before it are scaled by the rest. A finite number.
    pub weight: f64,
}

/// The outcome of a job, in full.
#[derive(Debug)]
pub struct Rearrangement {
    /// The job. It must be running.
    pub job: JobId,
    /// The slots that change, each once: at least one, unless the job brings no upload.
    pub steps: Vec<SlotStep>,
    /// Opaque JSON: what the base model's settings are from here on, if they change.
    pub settings: Option<String>,
    /// Opaque JSON: the decision.
    pub result: String,
}

/// What becomes of a slot.
#[derive(Debug)]
pub struct SlotStep {
    /// The slot.
    pub slot: SlotIndex,
    /// The generation that the decision was made for; none if the slot must be empty.
    pub expected: Option<Generation>,
    /// What it becomes.
    pub outcome: SlotOutcome,
}

/// What a slot becomes.
#[derive(Debug)]
pub enum SlotOutcome {
    /// It moves to its next generation.
    Next(NextGeneration),
    /// It holds nothing any more. Its members that no other step places are forgotten.
    Emptied,
}

/// A slot's next generation, with its members.
#[derive(Debug)]
pub struct NextGeneration {
    /// The new tensor file.
    pub tensor: StoredTensor,
    /// Opaque JSON: what the tensors are.
    pub facts: String,
    /// What becomes of the members.
    pub members: MembersChange,
}

/// What becomes of a slot's members.
#[derive(Debug, Clone, PartialEq)]
pub enum MembersChange {
    /// They stay, and one joins: the job's task.
    Join(NewMember),
    /// They stay as they are.
    Keep,
    /// These are all of them from here on: at least one. Each is a task of some slot of the base
    /// model, or the job's own. A task that is in no slot any more after the whole rearrangement is
    /// forgotten: its name is free, and what was known of its upload goes.
    Replace(Vec<PlacedMember>),
}

/// A member with its weight.
#[derive(Debug, Clone, PartialEq)]
pub struct PlacedMember {
    /// The task.
    pub task: TaskName,
    /// Its weight in the generation. A finite number.
    pub weight: f64,
}

impl From<Commit> for Rearrangement {
    fn from(commit: Commit) -> Self {
        let Commit {
            job,
            changes,
            result,
        } = commit;
        let steps = changes.into_iter().map(SlotStep::from).collect();
        Self {
            job,
            steps,
            settings: None,
            result,
        }
    }
}

impl From<SlotChange> for SlotStep {
    fn from(change: SlotChange) -> Self {
        let SlotChange {
            slot,
            expected,
            tensor,
            newcomer,
            facts,
        } = change;
        let members = newcomer.map_or(MembersChange::Keep, MembersChange::Join);
        let next = NextGeneration {
            tensor,
            facts,
            members,
        };
        Self {
            slot,
            expected,
            outcome: SlotOutcome::Next(next),
        }
    }
}
