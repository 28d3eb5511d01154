//! What the catalog holds, as plain data.
//!
//! Owned by no one: the catalog hands these out behind `Arc`, and nobody changes one in place.
//! Texts called opaque are kept as they came; storage never looks into them.

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::ids::{BaseModelName, Generation, JobId, Revision, SlotIndex, TaskName, UnixMillis};

/// What is known of an upload before anyone understands it. Two uploads with equal facts are the
/// same bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UploadFacts {
    /// An opaque word for how the adapter is written, for example `peft`.
    pub format: String,
    /// The length of the tensor file in bytes.
    pub size_bytes: u64,
    /// The SHA-256 of the tensor file.
    pub digest: Digest,
    /// The SHA-256 of the configuration that came with it.
    pub config_digest: Digest,
}

impl UploadFacts {
    /// What is said of the upload of a job that has none.
    pub(crate) fn none() -> Self {
        Self {
            format: "none".to_owned(),
            size_bytes: 0,
            digest: Digest::of(b""),
            config_digest: Digest::of(b""),
        }
    }
}

/// A base model that slots belong to. Only its settings ever change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BaseModelRecord {
    /// Its name.
    pub name: BaseModelName,
    /// The text of its `config.json`.
    pub config: String,
    /// Opaque JSON: the policy that its slots follow.
    pub settings: String,
    /// The name by which exports call it.
    pub served_as: String,
    /// When it was registered.
    pub created: UnixMillis,
}

impl BaseModelRecord {
    /// Whether `other` registers the same thing; when it was registered does not matter.
    pub fn same_content(&self, other: &Self) -> bool {
        let Self {
            name,
            config,
            settings,
            served_as,
            created: _,
        } = self;
        *name == other.name
            && *config == other.config
            && *settings == other.settings
            && *served_as == other.served_as
    }

    /// A digest of all that it says except the time. What a base model was registered with stays
    /// the name by which manifests know it.
    pub fn fingerprint(&self) -> Digest {
        let mut hasher = crate::digest::Hasher::default();
        let Self {
            name,
            config,
            settings,
            served_as,
            created: _,
        } = self;
        for part in [name.as_str(), config, settings, served_as] {
            // The length in front keeps the parts apart.
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part.as_bytes());
        }
        hasher.finish()
    }
}

/// That a base model has other settings than it was registered with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SettingsChange {
    /// The fingerprint that it was registered with.
    pub registered_as: Digest,
    /// The revision that changed the settings last.
    pub revision: Revision,
}

/// A task's place in a slot.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MemberRecord {
    /// The task.
    pub task: TaskName,
    /// The weight of the newcomer when it joined; those before it were scaled by the rest.
    pub weight_at_join: f64,
    /// Whether it did not join those before it but was placed together with them: then its weight
    /// is the final one of that moment, and only those that joined later scale it.
    pub placed: bool,
    /// The job that brought it.
    pub job: JobId,
    /// The generation that it joined in.
    pub generation: Generation,
}

/// One version of a slot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GenerationRecord {
    /// The base model of the slot.
    pub base_model: BaseModelName,
    /// The slot.
    pub slot: SlotIndex,
    /// The version.
    pub generation: Generation,
    /// The SHA-256 of its tensor file.
    pub digest: Digest,
    /// The length of its tensor file in bytes.
    pub bytes: u64,
    /// How many members it holds: the first so many of its member list.
    pub members: u32,
    /// The generation that began its member list. Generations of one list share its members;
    /// a slot in memory has the list of its current one.
    #[serde(default = "first_generation")]
    pub members_since: Generation,
    /// Opaque JSON: what the tensors are.
    pub facts: String,
    /// The job that made it.
    pub job: JobId,
    /// The catalog revision that it appeared in.
    pub revision: Revision,
    /// When it was committed.
    pub committed: UnixMillis,
    /// When a later generation took its place, if one has.
    pub superseded: Option<UnixMillis>,
}

fn first_generation() -> Generation {
    Generation::FIRST
}

/// That a slot was emptied: its number may be opened again, above this generation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EmptiedRecord {
    /// The base model of the slot.
    pub base_model: BaseModelName,
    /// The slot.
    pub slot: SlotIndex,
    /// The generation number that stands for its being empty. It has no tensors.
    pub generation: Generation,
    /// The job that emptied it.
    pub job: JobId,
    /// The catalog revision that emptied it.
    pub revision: Revision,
    /// When it was emptied.
    pub committed: UnixMillis,
}

/// Where a task's adapter went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskRecord {
    /// The base model.
    pub base_model: BaseModelName,
    /// The task.
    pub task: TaskName,
    /// The slot that holds it.
    pub slot: SlotIndex,
    /// The generation that it joined in.
    pub generation: Generation,
    /// The job that brought it.
    pub job: JobId,
    /// The request id that the upload carried.
    pub request_id: Option<String>,
    /// The adapter as it was uploaded.
    pub upload: UploadFacts,
    /// When it was uploaded.
    pub created: UnixMillis,
}

/// How far a job is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobState {
    /// Waiting for a worker.
    Queued,
    /// In the hands of a worker.
    Running,
    /// Its generation is committed.
    Done,
    /// It ended without a generation; the job's failure says why.
    Failed,
    /// It was taken back before it ran.
    Cancelled,
}

impl JobState {
    /// Whether nothing more will happen to the job.
    pub fn is_finished(self) -> bool {
        match self {
            Self::Queued | Self::Running => false,
            Self::Done | Self::Failed | Self::Cancelled => true,
        }
    }
}

/// Why a job failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobFailure {
    /// A number that the caller understands; failures found by storage itself use the canonical
    /// gRPC codes.
    pub code: i32,
    /// A word for programs, in upper snake case.
    pub reason: String,
    /// A sentence for people.
    pub message: String,
}

/// What a job does.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobKind {
    /// It brings an uploaded adapter into a slot.
    #[default]
    Upload,
    /// It takes a task out.
    Forget {
        /// The task.
        task: TaskName,
    },
    /// It lets a slot hold again what an earlier generation held.
    Rollback {
        /// The slot.
        slot: SlotIndex,
        /// The generation.
        to: Generation,
    },
    /// It makes the slots follow other settings.
    Repack {
        /// Opaque JSON: the settings.
        settings: String,
    },
}

impl JobKind {
    /// Whether the job brings an uploaded adapter.
    pub fn is_upload(&self) -> bool {
        match self {
            Self::Upload => true,
            Self::Forget { .. } | Self::Rollback { .. } | Self::Repack { .. } => false,
        }
    }

    /// The task of a job of this kind, if it is not an upload: the one that it takes out, or a word
    /// for what it works on.
    pub(crate) fn task(&self) -> TaskName {
        let word = match self {
            Self::Forget { task } => return task.clone(),
            Self::Rollback { slot, .. } => format!("slot-{slot}"),
            Self::Upload | Self::Repack { .. } => "repack".to_owned(),
        };
        word.parse()
            .expect("small letters, a hyphen and a number make a name")
    }
}

/// One accepted upload on its way into a slot, or another piece of work in the same queue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobRecord {
    /// Its number, in arrival order.
    pub id: JobId,
    /// The base model.
    pub base_model: BaseModelName,
    /// What it does.
    #[serde(default, skip_serializing_if = "JobKind::is_upload")]
    pub kind: JobKind,
    /// The task. Of a job without an upload it is the task that is taken out, or else a word for
    /// what the job works on.
    pub task: TaskName,
    /// How far it is.
    pub state: JobState,
    /// How often a worker has begun it.
    pub attempts: u32,
    /// The id that the caller gave the request, unique among all requests.
    pub request_id: Option<String>,
    /// The adapter as it was uploaded; of no bytes for a job without an upload.
    pub upload: UploadFacts,
    /// When it was accepted.
    pub created: UnixMillis,
    /// When a worker last began it.
    pub started: Option<UnixMillis>,
    /// When it ended.
    pub ended: Option<UnixMillis>,
    /// Opaque JSON: the decision, once it is done.
    pub result: Option<String>,
    /// Why it failed, if it did.
    pub failure: Option<JobFailure>,
}

impl JobRecord {
    /// What is left to say of the job that brought a task, when the job's own record has gone.
    pub(crate) fn of_task(task: &TaskRecord) -> Self {
        Self {
            id: task.job,
            base_model: task.base_model.clone(),
            kind: JobKind::Upload,
            task: task.task.clone(),
            state: JobState::Done,
            attempts: 1,
            request_id: task.request_id.clone(),
            upload: task.upload.clone(),
            created: task.created,
            started: None,
            ended: None,
            result: None,
            failure: None,
        }
    }

    /// A place for the number of a job of which nothing else is known.
    pub(crate) fn dropped(base_model: &BaseModelName, id: JobId, ended: UnixMillis) -> Self {
        let kind = JobKind::Repack {
            settings: String::new(),
        };
        Self {
            id,
            base_model: base_model.clone(),
            task: kind.task(),
            kind,
            state: JobState::Done,
            attempts: 1,
            request_id: None,
            upload: UploadFacts::none(),
            created: ended,
            started: None,
            ended: Some(ended),
            result: None,
            failure: None,
        }
    }
}

/// One change of the catalog, as the event log keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventRecord {
    /// The revision that the change made.
    pub revision: Revision,
    /// When it was made.
    pub at: UnixMillis,
    /// What was done.
    pub event: Event,
}

/// What a change did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// The state directory was made.
    Created,
    /// A base model was registered.
    BaseModelRegistered {
        /// Its name.
        base_model: BaseModelName,
    },
    /// A job was accepted.
    JobEnqueued {
        /// The job.
        job: JobId,
    },
    /// A worker began a job.
    JobStarted {
        /// The job.
        job: JobId,
    },
    /// A job ended without a generation.
    JobEnded {
        /// The job.
        job: JobId,
        /// How it ended.
        state: JobState,
    },
    /// A job ended with new generations.
    SlotsCommitted {
        /// The base model of the slots.
        base_model: BaseModelName,
        /// The job.
        job: JobId,
        /// The new generation of each changed slot.
        slots: Vec<(SlotIndex, Generation)>,
    },
    /// Superseded generations were removed after their grace.
    GenerationsRemoved {
        /// How many.
        count: u32,
    },
    /// Tensor files were found damaged while the daemon ran; what they held was given up, and an
    /// earlier generation serves again where there is one.
    TensorsLost {
        /// How many files.
        files: u32,
    },
    /// A start found the last run interrupted, or the catalog damaged, and repaired the state.
    Recovered,
}
