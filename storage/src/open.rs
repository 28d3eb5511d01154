//! Opening a state directory.
//!
//! Takes the lock, makes what is missing, lets recovery do its work, and hands out the three
//! capabilities. What holds: there is one [`Committer`] in one process per directory.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::catalog_patient::PatientStore;
use crate::catalog_sled::SledStore;
use crate::catalog_store::{CatalogStore, StoreOpener};
use crate::commit::Committer;
use crate::derived::DerivedBook;
use crate::durable::{self, Disk};
use crate::error::OpenError;
use crate::ids::UnixMillis;
use crate::ingest::Ingest;
use crate::layout::Layout;
use crate::lock::Lock;
use crate::read::Reader;
use crate::recovery;
use crate::reserve::Reserve;
use crate::shared::Shared;
use crate::tensors::Leases;

/// How a state directory is opened.
#[derive(Debug, Clone)]
pub struct Options {
    /// How much memory the database may use as a cache, in bytes.
    pub cache_bytes: u64,
    /// How many finished jobs are remembered. At least one always is.
    pub finished_jobs_kept: usize,
    /// How many changes the event log holds.
    pub events_kept: usize,
    /// How large the database may always be, in bytes. Beyond, it is written again once it is much
    /// larger than what it holds.
    pub catalog_floor_bytes: u64,
    /// How long the database is waited for, when it is opened and in each operation. After that the
    /// catalog is set aside, or the state can only be read, and this process should end.
    pub catalog_patience: Duration,
    /// How many set-aside catalogs and files are kept.
    pub quarantines_kept: usize,
    /// How many bytes are kept back for what must work on a full disk; at most a thirty-second of
    /// the file system, or 4 MiB.
    pub reserve_bytes: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            cache_bytes: 8 * 1024 * 1024,
            finished_jobs_kept: 1000,
            events_kept: 256,
            catalog_floor_bytes: 4 * 1024 * 1024,
            catalog_patience: Duration::from_secs(30),
            quarantines_kept: 2,
            reserve_bytes: 0,
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

/// Opens the state in `directory`, which is made if it is not there. Whatever the last run left
/// is recovered first; the report says what that was.
///
/// # Errors
/// If another process has it open, if a later version wrote it, if what is lost cannot be made
/// again from what is there, or if the disk refuses.
pub fn open(directory: &Path, options: &Options, now: UnixMillis) -> Result<Opened, OpenError> {
    let disk = Disk::default();
    let (store_disk, cache_bytes) = (disk.clone(), options.cache_bytes);
    let opener = StoreOpener::new(move |path| {
        let store = SledStore::open(path, cache_bytes, &store_disk)?;
        Ok(Box::new(store) as Box<dyn CatalogStore>)
    });
    let opener = PatientStore::opener(opener, options.catalog_patience);
    open_with(directory, options, now, disk, opener)
}

/// As [`open`], on a database of the caller's choice.
pub(crate) fn open_with(
    directory: &Path,
    options: &Options,
    now: UnixMillis,
    disk: Disk,
    opener: StoreOpener,
) -> Result<Opened, OpenError> {
    durable::create_root(directory)?;
    let layout = Layout::new(directory.to_owned());
    let lock = Lock::take(&layout, now)?;
    // Whatever the disk is like, a start needs some room.
    let reserve = Reserve::find(&layout, options.reserve_bytes)?;
    reserve.lend_for_start(0)?;
    // A cache of the last run: nobody knows any more what is in it.
    durable::remove_tree(&layout.derived())?;
    for path in [
        layout.base_models(),
        layout.manifests(),
        layout.tensors(),
        layout.staging(),
        layout.exports(),
        layout.derived(),
        layout.quarantine(),
    ] {
        disk.ensure_directory(layout.root(), &path)?;
    }
    let shared = Arc::new(Shared {
        layout,
        disk,
        leases: Leases::default(),
        exports: Mutex::default(),
        derived: DerivedBook::default(),
        reserve,
        _lock: lock,
    });
    let (committer, report) = recovery::recover(&shared, options, now, opener)?;
    Ok(Opened {
        committer,
        ingest: Ingest::new(Arc::clone(&shared)),
        reader: Reader::new(shared),
        report,
    })
}

#[cfg(test)]
mod hanging;
#[cfg(test)]
mod tests;
