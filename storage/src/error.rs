//! What can go wrong, one enum per capability.
//!
//! Each message says what happened and to what, and, where there is something to do, what that is;
//! the cause is in `source`, not in the message. Whoever handles an error logs it; nothing here
//! does.

use std::io;
use std::path::PathBuf;

use crate::digest::Digest;
use crate::ids::{BaseModelName, Generation, JobId, NameError, SlotIndex, TaskName};
use crate::records::JobState;

/// The verb of a failed flush to the medium; after it the state must not be written any more.
pub(crate) const SYNC: &str = "flush to the disk";

/// A file operation that the system refused.
#[derive(Debug, thiserror::Error)]
#[error("could not {verb} {}", path.display())]
pub struct FileError {
    /// What was tried.
    pub verb: &'static str,
    /// On which file or directory.
    pub path: PathBuf,
    /// What the system answered.
    pub source: io::Error,
}

impl FileError {
    /// Whether the file was not there.
    pub fn is_missing(&self) -> bool {
        self.source.kind() == io::ErrorKind::NotFound
    }

    /// Whether the disk, or the caller's share of it, is full.
    pub fn is_disk_full(&self) -> bool {
        matches!(
            self.source.kind(),
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
        )
    }

    /// Whether bytes that were written may not have reached the medium.
    pub fn is_sync_failure(&self) -> bool {
        self.verb == SYNC
    }

    fn reason(&self) -> &'static str {
        if self.is_disk_full() {
            "DISK_FULL"
        } else {
            "FILE_ERROR"
        }
    }
}

/// A catalog operation that failed.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    /// The database below refused.
    #[error("the catalog could not {during}")]
    Engine {
        /// What was tried.
        during: &'static str,
        /// What the database answered.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The database below broke off in the middle.
    #[error("the catalog broke off when it was to {during}: {message}")]
    Panicked {
        /// What was tried.
        during: &'static str,
        /// Its last words.
        message: String,
    },
    /// A file of the catalog could not be reached.
    #[error(transparent)]
    File(#[from] FileError),
}

/// Why a state directory could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it open.
    #[error(
        "{} is in use by {holder}; stop that process first, or choose another state directory",
        directory.display()
    )]
    Locked {
        /// The process that holds it and since when, as that process wrote it down.
        holder: String,
        /// The state directory.
        directory: PathBuf,
    },
    /// It was written by a later version. Nothing was touched.
    #[error(
        "{} was written by a later version of kmerge (schema {found}, this version knows up to \
         {supported}); start that version, or restore a backup that this one made",
        path.display()
    )]
    NewerSchema {
        /// The file or directory.
        path: PathBuf,
        /// The schema found.
        found: u16,
        /// The latest schema that this version reads.
        supported: u16,
    },
    /// The catalog is lost, and so is the file of a base model that has slots. Nothing of it was
    /// touched.
    #[error(
        "the catalog must be made again, but {} is missing or damaged; restore that file from a \
         backup, or move the base model's manifests away to give up its slots",
        path.display()
    )]
    BaseModelLost {
        /// The file.
        path: PathBuf,
    },
    /// Neither the catalog that was there nor a new one could be opened.
    #[error(
        "the catalog cannot be opened; start again, and if that does not help, look at the disk"
    )]
    Catalog(#[from] CatalogError),
    /// A record that recovery wanted to write does not fit the catalog.
    #[error("recovery could not write the catalog")]
    Record(#[from] RecordTooLarge),
    /// A file operation failed.
    #[error(transparent)]
    File(#[from] FileError),
}

impl OpenError {
    /// A word for programs.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Locked { .. } => "STATE_LOCKED",
            Self::NewerSchema { .. } => "STATE_NEWER",
            Self::BaseModelLost { .. } => "BASE_MODEL_LOST",
            Self::Catalog(_) | Self::Record(_) => "CATALOG_ERROR",
            Self::File(error) => error.reason(),
        }
    }
}

/// A value that is larger than the catalog takes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} takes {bytes} bytes in the catalog, and a record has room for {limit}")]
pub struct RecordTooLarge {
    /// Which record.
    pub what: &'static str,
    /// How large it is.
    pub bytes: usize,
    /// How large it may be.
    pub limit: usize,
}

/// Why an upload could not be staged.
#[derive(Debug, thiserror::Error)]
pub enum IngestError {
    /// More bytes came than were declared.
    #[error("the upload is longer than the {declared} bytes that its header declares")]
    TooLong {
        /// The declared length.
        declared: u64,
    },
    /// The upload ended early.
    #[error("the upload ended after {received} of the {declared} bytes that its header declares")]
    TooShort {
        /// The declared length.
        declared: u64,
        /// What came.
        received: u64,
    },
    /// The bytes are not those that the header promises.
    #[error(
        "the upload's SHA-256 is {computed}, but its header declares {declared}; send it again"
    )]
    DigestMismatch {
        /// The declared digest.
        declared: Digest,
        /// The digest of what came.
        computed: Digest,
    },
    /// The configuration is too large.
    #[error("the adapter's configuration has {bytes} bytes; at most {limit} are taken")]
    ConfigTooLarge {
        /// How large it is.
        bytes: usize,
        /// How large it may be.
        limit: usize,
    },
    /// The request id is too long.
    #[error("the request id has {bytes} bytes; it may have 1 to {limit}")]
    RequestIdLength {
        /// Its length in bytes.
        bytes: usize,
        /// The longest allowed.
        limit: usize,
    },
    /// The format is not a plain word.
    #[error("the upload's format is not a plain word")]
    Format(#[source] NameError),
    /// The state can no longer be written.
    #[error("the state can only be read since a write failed ({why}); restart the daemon")]
    ReadOnly {
        /// The failure.
        why: String,
    },
    /// A file operation failed.
    #[error(transparent)]
    File(#[from] FileError),
}

impl IngestError {
    /// A word for programs.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::TooLong { .. } | Self::TooShort { .. } => "SIZE_MISMATCH",
            Self::DigestMismatch { .. } => "DIGEST_MISMATCH",
            Self::ConfigTooLarge { .. } => "CONFIG_TOO_LARGE",
            Self::RequestIdLength { .. } => "REQUEST_ID_LENGTH",
            Self::Format(_) => "FORMAT_INVALID",
            Self::ReadOnly { .. } => "READ_ONLY",
            Self::File(error) => error.reason(),
        }
    }
}

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
        "task {task} of base model {base_model} has another adapter (job {job}); choose another \
         task name"
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

/// Why something could not be read, or a tensor file not be written.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The tensor file is not there: the generation was removed meanwhile, or the disk lost it.
    #[error("the tensor file {digest} is not there")]
    TensorMissing {
        /// Its digest.
        digest: Digest,
    },
    /// The tensor file is damaged.
    #[error("the tensor file {digest} has {found} bytes instead of {expected}; it is damaged")]
    TensorLength {
        /// Its digest.
        digest: Digest,
        /// The length that it should have.
        expected: u64,
        /// The length that it has.
        found: u64,
    },
    /// The job has no staged files: it has ended, or never was.
    #[error("job {job} has no staged files")]
    StagedMissing {
        /// The job.
        job: JobId,
    },
    /// The staged files are damaged.
    #[error("the staged files of job {job} are damaged; send the adapter again")]
    StagedDamaged {
        /// The job.
        job: JobId,
    },
    /// The generation has no export of that format.
    #[error("generation {generation} of slot {slot} has no {format} export")]
    ExportMissing {
        /// The slot.
        slot: SlotIndex,
        /// The generation.
        generation: Generation,
        /// The format.
        format: String,
    },
    /// The state can no longer be written.
    #[error("the state can only be read since a write failed ({why}); restart the daemon")]
    ReadOnly {
        /// The failure.
        why: String,
    },
    /// A file operation failed.
    #[error(transparent)]
    File(#[from] FileError),
}

impl ReadError {
    /// A word for programs.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::TensorMissing { .. } => "TENSOR_MISSING",
            Self::TensorLength { .. } => "TENSOR_DAMAGED",
            Self::StagedMissing { .. } => "STAGED_MISSING",
            Self::StagedDamaged { .. } => "STAGED_DAMAGED",
            Self::ExportMissing { .. } => "EXPORT_MISSING",
            Self::ReadOnly { .. } => "READ_ONLY",
            Self::File(error) => error.reason(),
        }
    }
}

/// Why an export could not be written.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The format is not a name.
    #[error("the export format {format:?} is not a plain word")]
    Format {
        /// The format.
        format: String,
        /// What is wrong with it.
        source: NameError,
    },
    /// A file name of the export is not a plain file name, or is there twice.
    #[error("{name:?} cannot be a file name in an export")]
    FileName {
        /// The name.
        name: String,
    },
    /// The generation has been removed.
    #[error("generation {generation} of slot {slot} has been removed")]
    GenerationRemoved {
        /// The slot.
        slot: SlotIndex,
        /// The generation.
        generation: Generation,
    },
    /// The state can no longer be written.
    #[error("the state can only be read since a write failed ({why}); restart the daemon")]
    ReadOnly {
        /// The failure.
        why: String,
    },
    /// A file operation failed.
    #[error(transparent)]
    File(#[from] FileError),
}

impl ExportError {
    /// A word for programs.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Format { .. } | Self::FileName { .. } => "EXPORT_INVALID",
            Self::GenerationRemoved { .. } => "GENERATION_REMOVED",
            Self::ReadOnly { .. } => "READ_ONLY",
            Self::File(error) => error.reason(),
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
