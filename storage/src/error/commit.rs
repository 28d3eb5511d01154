//! What the committer refuses and what it may meet.

use crate::digest::Digest;
use crate::error::{CatalogError, FileError, RecordTooLarge};
use crate::ids::{BaseModelName, Generation, JobId, SlotIndex, TaskName};
use crate::records::JobState;

/// What stands in the way of something new.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Existing {
    /// The request id belongs to another upload.
    #[error("request id {request_id:?} was used for other content by job {job}; choose a new one")]
    RequestId {
        /// The id.
        request_id: String,
        /// The job that it belongs to.
        job: JobId,
    },
    /// The task has another adapter.
    #[error(
        "task {task} of base model {base_model} has another adapter (job {job}); forget the \
         task first, or choose another name"
    )]
    Task {
        /// The base model.
        base_model: BaseModelName,
        /// The task.
        task: TaskName,
        /// The job that brought its adapter.
        job: JobId,
    },
    /// The base model is registered with other content.
    #[error("base model {base_model} is registered with other content; choose another name")]
    BaseModel {
        /// Its name.
        base_model: BaseModelName,
    },
}

/// Why a commit makes no sense, whatever the catalog holds. A mistake of the caller.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CommitDefect {
    /// It changes nothing.
    #[error("it changes no slot")]
    Empty,
    /// It changes a slot twice.
    #[error("it changes slot {slot} twice")]
    SlotTwice {
        /// The slot.
        slot: SlotIndex,
    },
    /// It brings a task in twice.
    #[error("it has more than one newcomer")]
    NewcomerTwice,
    /// The newcomer is not the job's task.
    #[error("its newcomer is {newcomer}, but its job brings {task}")]
    ForeignNewcomer {
        /// The newcomer.
        newcomer: TaskName,
        /// The job's task.
        task: TaskName,
    },
    /// A weight is not a number.
    #[error("the weight of {newcomer} is not a finite number")]
    Weight {
        /// The newcomer.
        newcomer: TaskName,
    },
    /// A job that brings no upload lets a task join.
    #[error("it lets {newcomer} join, but its job brings no upload")]
    NoUpload {
        /// The newcomer.
        newcomer: TaskName,
    },
    /// A job that needs an upload was asked for without one.
    #[error("a job of this kind needs an upload")]
    NeedsUpload,
    /// A placed task is in none of the base model's slots.
    #[error("it places {task}, which is in no slot and is not what its job brings")]
    UnknownTask {
        /// The task.
        task: TaskName,
    },
    /// A task would be in two places.
    #[error("it leaves {task} in more than one place")]
    TaskTwice {
        /// The task.
        task: TaskName,
    },
    /// A slot that holds nothing is emptied.
    #[error("it empties slot {slot}, which holds nothing")]
    EmptiesNothing {
        /// The slot.
        slot: SlotIndex,
    },
    /// A slot would have no members.
    #[error("it opens slot {slot} without a member")]
    NoMember {
        /// The slot.
        slot: SlotIndex,
    },
    /// The slot has as many members as can be counted.
    #[error("slot {slot} is full")]
    TooManyMembers {
        /// The slot.
        slot: SlotIndex,
    },
}

/// Why the catalog could not be changed.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// The state can no longer be written.
    #[error("the state can only be read since a write failed ({why}); restart the daemon")]
    ReadOnly {
        /// The failure.
        why: String,
    },
    /// There is no such base model.
    #[error("there is no base model {base_model}; register it first")]
    UnknownBaseModel {
        /// Its name.
        base_model: BaseModelName,
    },
    /// There is no such job.
    #[error("there is no job {job}")]
    UnknownJob {
        /// Its number.
        job: JobId,
    },
    /// The job is in another state than this needs.
    #[error("job {job} is {}, not {}", state_word(*state), state_word(*needed))]
    JobState {
        /// The job.
        job: JobId,
        /// The state that it is in.
        state: JobState,
        /// The state that it would have to be in.
        needed: JobState,
    },
    /// Something else has the place.
    #[error("{existing}")]
    AlreadyExists {
        /// What it is.
        existing: Existing,
    },
    /// A slot has moved since the decision was made.
    #[error(
        "slot {slot} is at {}, but the decision was made for {}; decide again",
        generation_word(*found),
        generation_word(*expected)
    )]
    GenerationMoved {
        /// The slot.
        slot: SlotIndex,
        /// The generation that the decision was made for; none for an empty slot.
        expected: Option<Generation>,
        /// The generation that the slot is at.
        found: Option<Generation>,
    },
    /// The commit makes no sense.
    #[error("the commit of job {job} is not valid: {defect}")]
    Invalid {
        /// The job.
        job: JobId,
        /// What is wrong with it.
        defect: CommitDefect,
    },
    /// The tensor file of a change is not there, or not as long as it should be.
    #[error(
        "the tensor file {digest} of slot {slot} is missing or has another length than {bytes}"
    )]
    TensorMissing {
        /// The slot.
        slot: SlotIndex,
        /// The digest.
        digest: Digest,
        /// The length that it should have.
        bytes: u64,
    },
    /// The text of a base model is too large.
    #[error(
        "the configuration of base model {base_model} has {bytes} bytes; at most {limit} are taken"
    )]
    ConfigTooLarge {
        /// The base model.
        base_model: BaseModelName,
        /// How large it is.
        bytes: usize,
        /// How large it may be.
        limit: usize,
    },
    /// A record is too large.
    #[error(transparent)]
    Record(#[from] RecordTooLarge),
    /// A file operation failed.
    #[error(transparent)]
    File(#[from] FileError),
    /// The catalog failed; the state can only be read from now on.
    #[error("the catalog could not be written; restart the daemon")]
    Catalog(#[from] CatalogError),
}

impl CommitError {
    /// A word for programs.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::ReadOnly { .. } => "READ_ONLY",
            Self::UnknownBaseModel { .. } => "BASE_MODEL_UNKNOWN",
            Self::UnknownJob { .. } => "JOB_UNKNOWN",
            Self::JobState { .. } => "JOB_STATE",
            Self::AlreadyExists { existing } => match existing {
                Existing::RequestId { .. } => "REQUEST_ID_REUSED",
                Existing::Task { .. } => "TASK_EXISTS",
                Existing::BaseModel { .. } => "BASE_MODEL_EXISTS",
            },
            Self::GenerationMoved { .. } => "GENERATION_MOVED",
            Self::Invalid { .. } => "COMMIT_INVALID",
            Self::TensorMissing { .. } => "TENSOR_MISSING",
            Self::ConfigTooLarge { .. } => "CONFIG_TOO_LARGE",
            Self::Record(_) => "RECORD_TOO_LARGE",
            Self::File(error) => error.reason(),
            Self::Catalog(_) => "CATALOG_ERROR",
        }
    }
}

fn state_word(state: JobState) -> &'static str {
    match state {
        JobState::Queued => "queued",
        JobState::Running => "running",
        JobState::Done => "done",
        JobState::Failed => "failed",
        JobState::Cancelled => "cancelled",
    }
}

fn generation_word(generation: Option<Generation>) -> String {
    generation.map_or_else(|| "no generation".to_owned(), |g| format!("generation {g}"))
}
