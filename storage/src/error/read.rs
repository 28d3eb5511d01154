//! What readers and writers of exports may meet.

use crate::digest::Digest;
use crate::error::FileError;
use crate::ids::{Generation, JobId, NameError, SlotIndex};

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
    /// The tensor file has other bytes than were written.
    #[error("the bytes of tensor file {digest} are not those that were written; it is damaged")]
    TensorAltered {
        /// Its digest as it should be.
        digest: Digest,
    },
    /// The manifest of a generation is not what was written.
    #[error(
        "the manifest of generation {generation} of slot {slot} is damaged; a restart writes it again"
    )]
    ManifestAltered {
        /// The slot.
        slot: SlotIndex,
        /// The generation.
        generation: Generation,
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
            Self::TensorLength { .. } | Self::TensorAltered { .. } => "TENSOR_DAMAGED",
            Self::ManifestAltered { .. } => "MANIFEST_DAMAGED",
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
