//! Opening a state directory.

use std::path::{Path, PathBuf};

use crate::commit::Committer;
use crate::error::OpenError;
use crate::ids::UnixMillis;
use crate::ingest::Ingest;
use crate::read::Reader;

/// How a state directory is opened.
#[derive(Debug, Clone)]
pub struct Options {
    /// How much memory the database may use as a cache, in bytes.
    pub cache_bytes: u64,
    /// How many finished jobs are remembered. At least one always is.
    pub finished_jobs_kept: usize,
    /// How many changes the event log holds.
    pub events_kept: usize,
    /// How many set-aside catalogs and files are kept.
    pub quarantines_kept: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            cache_bytes: 8 * 1024 * 1024,
            finished_jobs_kept: 1000,
            events_kept: 1000,
            quarantines_kept: 2,
        }
    }
}

/// An open state directory.
#[derive(Debug)]
pub struct Opened {
    /// The only writer of the catalog.
    pub committer: Committer,
    /// Takes uploads.
    pub ingest: Ingest,
    /// Reads, and writes what needs no record.
    pub reader: Reader,
    /// What was found and done.
    pub report: RecoveryReport,
}

/// What opening found and did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RecoveryReport {
    /// The catalog was lost or damaged and was made again from the files beside it.
    pub catalog_rebuilt: bool,
    /// Where the damaged catalog was put.
    pub quarantined: Option<PathBuf>,
    /// Generations that were durable, but not yet in the catalog.
    pub generations_recovered: u32,
    /// Jobs that were interrupted and are queued again, or were staged but not yet in the catalog.
    pub jobs_requeued: u32,
    /// Uploads that were not finished, and staged files that no job needs any more.
    pub uploads_swept: u32,
    /// Tensor files, manifests and exports that nothing refers to.
    pub orphans_removed: u32,
    /// What a person should know, one sentence each.
    pub notes: Vec<String>,
}

/// Opens the state in `directory`, which is made if it is not there.
///
/// # Errors
/// If another process has it open, if a later version wrote it, or if the disk refuses.
pub fn open(
    _directory: &Path,
    _options: &Options,
    _now: UnixMillis,
) -> Result<Opened, OpenError> {
    unimplemented!()
}
