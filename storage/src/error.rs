//! What can go wrong, one enum per capability.
//!
//! Each message says what happened and to what, and, where there is something to do, what that is;
//! the cause is in `source`, not in the message. Whoever handles an error logs it; nothing here
//! does.

mod backup;
mod commit;
mod ingest;
mod read;

use std::io;
use std::path::PathBuf;
use std::time::Duration;

pub use backup::{BackupError, RestoreError};
pub use commit::{CommitDefect, CommitError, Existing};
pub use ingest::IngestError;
pub use read::{ExportError, ReadError};

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

    /// A word for programs.
    pub fn reason(&self) -> &'static str {
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
    /// The database below did not come back. What it has done and will still do is not known.
    #[error("the catalog did not {during} within {} s", patience.as_secs_f64())]
    Hung {
        /// What was tried.
        during: &'static str,
        /// How long it was waited for.
        patience: Duration,
    },
    /// A file of the catalog could not be reached.
    #[error(transparent)]
    File(#[from] FileError),
}

impl CatalogError {
    /// Whether the disk, or the caller's share of it, is full.
    pub fn is_disk_full(&self) -> bool {
        matches!(self, Self::File(error) if error.is_disk_full())
    }
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
    /// The catalog did not open in time and was moved away. The thread that waits for it lives as
    /// long as this process, so it must not be made again here.
    #[error(
        "the catalog did not open within {} s and was moved to {}; start again, and it is made \
         again from the files beside it", patience.as_secs_f64(), quarantined.display()
    )]
    CatalogHung {
        /// How long it was waited for.
        patience: Duration,
        /// Where it is now.
        quarantined: PathBuf,
    },
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
            Self::Catalog(_) | Self::CatalogHung { .. } | Self::Record(_) => "CATALOG_ERROR",
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
