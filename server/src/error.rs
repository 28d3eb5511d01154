//! Everything that can go wrong in the server, as one enum with a sentence for people: what
//! happened, to what, and what to do next. `grpc::status` gives each its code, exhaustively.

use std::io::ErrorKind;

use kmerge_merge::{AdapterError, BaseModelError, FormatError, MergeError};
use kmerge_storage::{
    BackupError, BaseModelName, CommitError, ExportError, Generation, IngestError, JobId,
    ReadError, Revision, SlotIndex, TaskName,
};

use crate::access::AccessError;
use crate::admission::Refusal;
use crate::pace::Lag;

/// What kind of thing was not found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resource {
    /// A registered base model.
    BaseModel,
    /// A merged task.
    Task,
    /// An occupied slot.
    Slot,
    /// A configured runtime.
    Runtime,
}

impl Resource {
    /// The type's name on the wire.
    pub fn type_name(self) -> &'static str {
        match self {
            Self::BaseModel => "kmerge.v1.BaseModel",
            Self::Task => "kmerge.v1.Adapter",
            Self::Slot => "kmerge.v1.Slot",
            Self::Runtime => "kmerge.v1.Runtime",
        }
    }
}

/// An error of the server.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// Refused at the door.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// A request field that cannot be used.
    #[error("{field} {problem}")]
    Field {
        /// The field.
        field: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// An upload without its header.
    #[error("an upload must begin with its header: send UploadHeader first")]
    HeaderMissing,
    /// A header where bytes were due.
    #[error("an upload has one header only: send chunks after it")]
    SecondHeader,
    /// A message without content.
    #[error("an upload message had neither header nor chunk")]
    EmptyMessage,
    /// A chunk above the contract's limit.
    #[error(
        "a chunk had {size} bytes; at most {} are allowed: send smaller chunks",
        kmerge_proto::limits::MAX_CHUNK_BYTES
    )]
    ChunkTooLarge {
        /// Its size.
        size: usize,
    },
    /// An upload that stopped coming.
    #[error("the upload sent nothing for {seconds} seconds and was dropped: send it again")]
    UploadSilent {
        /// As configured.
        seconds: u64,
    },
    /// An upload that came too slowly.
    #[error(
        "the upload came at {average} bytes a second and was dropped: at least {floor} are expected \
         (uploads.min_bytes_per_second); send it again over a better connection"
    )]
    UploadSlow {
        /// On average.
        average: u64,
        /// As configured.
        floor: u64,
    },
    /// An upload that took too long.
    #[error(
        "the upload was not complete after {seconds} seconds (uploads.max_seconds) and was dropped: \
         send it again"
    )]
    UploadLong {
        /// As configured.
        seconds: u64,
    },
    /// A reader that took nothing.
    #[error("the reader took nothing for {seconds} seconds and was dropped: ask again")]
    ReaderStalled {
        /// As configured.
        seconds: u64,
    },
    /// Refused before its bytes were read.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The adapter is not one that can be merged.
    #[error(transparent)]
    Adapter(#[from] AdapterError),
    /// The config.json is not one that can be used.
    #[error(transparent)]
    BaseModel(#[from] BaseModelError),
    /// The mathematics could not be carried out.
    #[error(transparent)]
    Merge(#[from] MergeError),
    /// A stored slot is not what was stored.
    #[error("a stored slot is damaged: {0}; restore it from a backup, or push its tasks again")]
    StoredAdapter(#[source] AdapterError),
    /// Nothing of that name.
    #[error("{what}")]
    NotFound {
        /// What kind of thing.
        resource: Resource,
        /// Its name.
        name: String,
        /// The sentence for people.
        what: String,
    },
    /// No such job.
    #[error(
        "there is no job {id}: finished jobs are forgotten in time; `kmerge jobs` lists those known"
    )]
    UnknownJob {
        /// As asked.
        id: JobId,
    },
    /// A generation that is gone, or has not come yet.
    #[error(
        "slot {slot} of base model {base_model} is at generation {current}, and generation \
         {generation} is not kept: ask for the newest"
    )]
    UnknownGeneration {
        /// Whose slot.
        base_model: BaseModelName,
        /// Which slot.
        slot: SlotIndex,
        /// As asked.
        generation: Generation,
        /// The newest.
        current: Generation,
    },
    /// A slot that has no generation before its newest.
    #[error(
        "slot {slot} of base model {base_model} is at generation {current} and none before it is          kept: superseded generations stay for the configured grace"
    )]
    NothingEarlier {
        /// Whose slot.
        base_model: BaseModelName,
        /// Which slot.
        slot: SlotIndex,
        /// The newest.
        current: Generation,
    },
    /// A generation that holds what has left its slot.
    #[error(
        "generation {generation} of slot {slot} holds task {task}, which was forgotten or has moved          since, so the slot cannot go back to it: choose a later generation"
    )]
    CannotReturn {
        /// Which slot.
        slot: SlotIndex,
        /// As asked.
        generation: Generation,
        /// The task.
        task: TaskName,
    },
    /// A task whose slot is an average that cannot be undone.
    #[error(
        "task {task} cannot be taken out of slot {slot}, which is an average of its members: only          the last to come can leave, as long as the generation before it is kept; roll the slot          back, or use the operator progressive, which keeps members apart"
    )]
    InAverage {
        /// The task.
        task: TaskName,
        /// Its slot.
        slot: SlotIndex,
    },
    /// The request id belongs to another upload.
    #[error(
        "request id {request_id} was used for another upload, job {job}: use a new id for new content"
    )]
    RequestIdTaken {
        /// As sent.
        request_id: String,
        /// Whose it is.
        job: JobId,
    },
    /// A watcher that has seen more than there is.
    #[error(
        "revision {asked} is ahead of this daemon's {newest}: the state was replaced; watch from 0"
    )]
    RevisionAhead {
        /// As asked.
        asked: Revision,
        /// The catalog's.
        newest: Revision,
    },
    /// Staging failed.
    #[error(transparent)]
    Ingest(#[from] IngestError),
    /// The catalog refused or failed.
    #[error(transparent)]
    Commit(CommitError),
    /// Stored bytes could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// An export could not be written.
    #[error(transparent)]
    Export(#[from] ExportError),
    /// An adapter cannot be written in a format.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// An upload in a format of a later version.
    #[error(
        "the upload is in the format {format}, which this kmerged does not know; was it taken in by \
         a newer one? Push it again"
    )]
    UnknownFormat {
        /// The word that was recorded.
        format: String,
    },
    /// An opened file could not be read on.
    #[error("a stored file could not be read: {0}; `kmerge doctor` checks the disk")]
    FileUnreadable(#[source] std::io::Error),
    /// Something else wrote the server's own records.
    #[error("{what} {whose} cannot be read; was it written by a newer kmerged?")]
    Facts {
        /// Which record.
        what: &'static str,
        /// Whose.
        whose: String,
        /// Why not.
        source: serde_json::Error,
    },
    /// A backup could not be made.
    #[error(transparent)]
    Backup(#[from] BackupError),
    /// Somebody else makes a backup.
    #[error("a backup is being made already: try again when it is done")]
    BackupRunning,
    /// kmerged is on its way out.
    #[error("kmerged is stopping: try again when it is back")]
    Stopping,
    /// The catalog's owner does not answer.
    #[error("the catalog does not answer: try again; if that lasts, restart kmerged")]
    CatalogStuck,
    /// A bug.
    #[error("a bug in kmerged stopped this call; the log has the details; nothing was changed")]
    Panicked,
}

impl From<Lag> for ServerError {
    fn from(lag: Lag) -> Self {
        match lag {
            Lag::Slow { average, floor } => Self::UploadSlow { average, floor },
            Lag::Long { seconds } => Self::UploadLong { seconds },
        }
    }
}

impl ServerError {
    /// Whether there was no room on the disk for what had to be written. Whatever it was, it can be
    /// done again when there is.
    pub fn is_disk_full(&self) -> bool {
        let kinds = [ErrorKind::StorageFull, ErrorKind::QuotaExceeded];
        self.said_by_system()
            .any(|error| kinds.contains(&error.kind()))
    }

    /// Whether the system refused something that it does on other days: a disk that fails now and
    /// then, too few descriptors. Trying again may help.
    pub fn is_from_system(&self) -> bool {
        self.said_by_system().next().is_some()
    }

    /// What the system itself said, among the causes.
    fn said_by_system(&self) -> impl Iterator<Item = &std::io::Error> {
        let causes =
            std::iter::successors(Some(self as &(dyn std::error::Error + 'static)), |error| {
                error.source()
            });
        causes
            .filter_map(|error| error.downcast_ref::<std::io::Error>())
            .filter(|error| {
                error.raw_os_error().is_some() || error.kind() == ErrorKind::StorageFull
            })
    }

    /// No base model of that name.
    pub fn unknown_base_model(name: &BaseModelName) -> Self {
        Self::NotFound {
            resource: Resource::BaseModel,
            name: name.to_string(),
            what: format!(
                "there is no base model {name}: register it with \
                 `kmerge base add {name} --config config.json`"
            ),
        }
    }

    /// No task of that name in a slot.
    pub fn unknown_task(base_model: &BaseModelName, task: &TaskName) -> Self {
        Self::NotFound {
            resource: Resource::Task,
            name: format!("{base_model}/{task}"),
            what: format!(
                "no adapter for task {task} has been merged for base model {base_model}: push one, \
                 or see `kmerge jobs` for one on its way"
            ),
        }
    }

    /// No runtime of that name.
    pub fn unknown_runtime(name: &str) -> Self {
        Self::NotFound {
            resource: Resource::Runtime,
            name: name.to_owned(),
            what: format!(
                "there is no runtime {name:?} in the configuration: `kmerge runtimes` lists those \
                 that are there"
            ),
        }
    }

    /// No adapter in that slot.
    pub fn unknown_slot(base_model: &BaseModelName, slot: SlotIndex) -> Self {
        Self::NotFound {
            resource: Resource::Slot,
            name: format!("{base_model}/{slot}"),
            what: format!(
                "slot {slot} of base model {base_model} is empty: `kmerge slots` lists those in use"
            ),
        }
    }
}
