//! What kmerge keeps on disk.
//!
//! One process per state directory, held by a lock. [`open`](open()) recovers whatever the last run left
//! and gives three capabilities:
//!
//! | capability | may | held by |
//! |---|---|---|
//! | [`Ingest`] (clone) | stage an upload | whoever receives uploads |
//! | [`Committer`] (one) | change the catalog: jobs, slots, base models, removal | one owner |
//! | [`Reader`] (clone) | read tensors and exports, write new tensor files and exports | the rest |
//!
//! What is committed is read from an [`Arc<Catalog>`](Catalog), in memory and never changed in
//! place; readers never touch the database below.
//!
//! Everything is synchronous. The meaning of a tensor is not known here, nothing is logged (what
//! happened is returned), and no wire format is spoken. `DESIGN.md` beside this crate says what
//! lies where, in which order it is written, and how it is recovered.

mod backup;
mod base_model_file;
mod catalog;
#[cfg(test)]
mod catalog_memory;
mod catalog_patient;
mod catalog_sled;
mod catalog_store;
mod commit;
mod compact;
mod counter;
mod derived;
mod digest;
mod durable;
mod envelope;
mod error;
mod exports;
pub mod failpoint;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod give_up;
mod health;
mod held;
mod ids;
mod ingest;
mod layout;
mod load;
mod lock;
mod manifest;
mod open;
mod read;
mod records;
mod recovery;
mod reserve;
mod restore;
mod scrub_book;
mod sealed;
mod shared;
mod staging;
mod stored;
mod tensors;
mod transaction;
mod usage;

pub use backup::{Backup, BackupContents, Snapshot, Written};
pub use catalog::{BaseModelState, Catalog, EmptiedSlot, SlotState};
pub use commit::{
    Collected, Commit, Committer, Distrusted, Enqueued, MembersChange, NewMember, NextGeneration,
    PlacedMember, Rearrangement, Registered, SlotChange, SlotOutcome, SlotStep,
};
pub use derived::{Derived, DerivedLimit, DerivedName, DerivedWriter};
pub use digest::{Digest, DigestError};
pub use error::{
    BackupError, CatalogError, CommitDefect, CommitError, Existing, ExportError, FileError,
    IngestError, OpenError, ReadError, RecordTooLarge, RestoreError,
};
pub use exports::{ExportWriter, ExportedFile};
pub use held::Holdings;
pub use ids::{
    BaseModelName, Generation, JobId, NAME_LIMIT, NameError, Revision, SlotIndex, TaskName,
    UnixMillis,
};
pub use ingest::{Ingest, StageRequest, Staged, StagingWriter};
pub use open::{Opened, Options, RecoveryReport, open};
pub use read::{Reader, StagedFiles};
pub use records::{
    BaseModelRecord, EmptiedRecord, Event, EventRecord, GenerationRecord, JobFailure, JobKind,
    JobRecord, JobState, MemberRecord, SettingsChange, TaskRecord, UploadFacts,
};
pub use restore::{RestoreOptions, open_backup, restore, verify_backup};
pub use scrub_book::ScrubBook;
pub use tensors::{StoredTensor, TensorFile, TensorWriter};
pub use usage::DiskUsage;
