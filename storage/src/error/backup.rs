//! What can go wrong with backups: when one is made, and when one comes back.

use std::io;
use std::path::PathBuf;

use crate::error::{CatalogError, FileError, OpenError};
use crate::ids::JobId;

/// Why a backup could not be made.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// A failed write has made the state read-only.
    #[error("the state can only be read until the next start: {why}")]
    ReadOnly {
        /// The failure.
        why: String,
    },
    /// Something that the catalog names is not there.
    #[error("{entry} is missing on the disk; restart kmerged, which finds out what is lost")]
    Missing {
        /// Its name in the backup.
        entry: String,
    },
    /// Something is not what was written. The bytes that were given out so far are no backup.
    #[error("{entry} is not what was written; run kmerge scrub, then make the backup again")]
    Damaged {
        /// Its name in the backup.
        entry: String,
    },
    /// Something is larger than a backup takes.
    #[error("{entry} has {bytes} bytes, and a backup takes {limit} of it")]
    TooLarge {
        /// Its name in the backup.
        entry: String,
        /// Its length.
        bytes: u64,
        /// The largest length.
        limit: u64,
    },
    /// Whoever takes the bytes does not take them any more.
    #[error("the backup could not be written")]
    Sink(#[source] io::Error),
    /// A file operation failed.
    #[error(transparent)]
    File(#[from] FileError),
}

impl BackupError {
    /// A word for programs.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::ReadOnly { .. } => "READ_ONLY",
            Self::Missing { .. } | Self::Damaged { .. } => "TENSOR_DAMAGED",
            Self::TooLarge { .. } => "BACKUP_TOO_LARGE",
            Self::Sink(_) => "BACKUP_NOT_TAKEN",
            Self::File(error) => error.reason(),
        }
    }
}

/// Why a backup was not restored. The target is as it was.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The target holds something.
    #[error(
        "{} is not empty; restore into a directory that is empty or not there, and move the old \
         state away first",
        directory.display()
    )]
    NotEmpty {
        /// The target.
        directory: PathBuf,
    },
    /// The target, or the place beside it, is in use.
    #[error(
        "{} is in use by {holder}; stop that process first, or choose another directory",
        directory.display()
    )]
    InUse {
        /// The process.
        holder: String,
        /// The directory.
        directory: PathBuf,
    },
    /// It is no backup at all.
    #[error("this is no backup that kmerge made: {what}")]
    NotABackup {
        /// What gives it away.
        what: &'static str,
    },
    /// A later version made it.
    #[error(
        "a later version of kmerge made this backup (format {found}, this version reads up to \
         {supported}); restore it with that version"
    )]
    NewerFormat {
        /// The format found.
        found: u16,
        /// The latest that this version reads.
        supported: u16,
    },
    /// Not all bytes are what was written.
    #[error("the backup is damaged at byte {offset}, in {entry}: {what}; use another copy of it")]
    Damaged {
        /// Where it was noticed.
        offset: u64,
        /// The entry, or where in the archive.
        entry: String,
        /// What is wrong.
        what: &'static str,
    },
    /// Its entries do not belong together.
    #[error("the backup's entries do not belong together: {what}; use another copy of it")]
    Inconsistent {
        /// What does not fit.
        what: String,
    },
    /// A job's record and files do not belong together.
    #[error("the backup holds job {job} without what it needs; use another copy of it")]
    Job {
        /// The job.
        job: JobId,
    },
    /// There is no room for it.
    #[error(
        "{} has {free} bytes free, and the backup needs {needed}; make room, or restore elsewhere",
        directory.display()
    )]
    NoRoom {
        /// The directory whose file system is meant.
        directory: PathBuf,
        /// Bytes needed.
        needed: u64,
        /// Bytes free.
        free: u64,
    },
    /// The backup cannot be read.
    #[error("the backup could not be read")]
    Source(#[source] io::Error),
    /// The restored state does not open.
    #[error("the restored state does not open")]
    Open(#[source] Box<OpenError>),
    /// The catalog could not be written.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// A file operation failed.
    #[error(transparent)]
    File(#[from] FileError),
}

impl RestoreError {
    /// A word for programs.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NotEmpty { .. } => "STATE_NOT_EMPTY",
            Self::InUse { .. } => "STATE_LOCKED",
            Self::NotABackup { .. } => "NOT_A_BACKUP",
            Self::NewerFormat { .. } => "BACKUP_NEWER",
            Self::Damaged { .. } => "BACKUP_DAMAGED",
            Self::Inconsistent { .. } | Self::Job { .. } => "BACKUP_INCONSISTENT",
            Self::NoRoom { .. } => "DISK_FULL",
            Self::Source(_) => "BACKUP_UNREADABLE",
            Self::Open(error) => error.reason(),
            Self::Catalog(_) => "CATALOG_ERROR",
            Self::File(error) => error.reason(),
        }
    }
}
