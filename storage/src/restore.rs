//! Restoring a backup: a whole state directory where there was none.
//!
//! Runs without a daemon, in a process that does nothing else. What holds: the target is an empty
//! directory, or none, until it is a whole state that this version has opened once; a process that is
//! killed in between leaves a directory beside it, which the next restore removes.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use crate::backup::read::{Archive, Held, Nobody, Taker, inconsistent};
use crate::backup::{BackupContents, EntryName};
use crate::catalog::Catalog;
use crate::catalog_sled::SledStore;
use crate::catalog_store::{Batch, CatalogStore};
use crate::compact::WHOLE_BATCH;
use crate::counter::Counter;
use crate::durable::{self, Disk};
use crate::error::{FileError, OpenError, RestoreError};
use crate::failpoint;
use crate::ids::{JobId, Revision, UnixMillis};
use crate::layout::Layout;
use crate::lock::Lock;
use crate::open::{self, Options};
use crate::stored::{Position, Stored};

/// Numbers that are skipped, so that what was given out after the backup was made is not given out
/// again.
const SKIPPED: u64 = 1000;

/// How a backup is restored.
#[derive(Debug, Clone)]
pub struct RestoreOptions {
    /// How the restored state is opened to try it.
    pub open: Options,
}

/// Opens the file of a backup, wherever the user has put it.
///
/// # Errors
/// If it cannot be opened.
pub fn open_backup(path: &Path) -> Result<impl Read + use<>, RestoreError> {
    durable::open_foreign(path).map_err(|error| RestoreError::Source(error.source))
}

/// Reads all of a backup and changes nothing.
///
/// # Errors
/// If it is not a backup, or damaged in any way.
pub fn verify_backup(input: &mut dyn Read) -> Result<BackupContents, RestoreError> {
    Ok(Archive::new(input).read(&mut Nobody)?.contents)
}

/// Makes the state of a backup in `target`, which must be empty or not there.
///
/// 1. A directory is made beside the target, and locked.
/// 2. The entries are read, checked and written there, each durable.
/// 3. The catalog is written there from its records; job ids and revisions go on above all that may
///    have been given out.
/// 4. The state is opened as any start opens it, and must need no repair.
/// 5. The directory gets the target's name, durably.
///
/// # Errors
/// If the target holds something or is in use, the backup is not one or is damaged, or the disk
/// refuses. Then nothing has changed.
pub fn restore(
    input: &mut dyn Read,
    target: &Path,
    options: &RestoreOptions,
    now: UnixMillis,
) -> Result<BackupContents, RestoreError> {
    let target = Target::look(target, now)?;
    // 1.
    let mut site = Site::make(&target, now)?;
    // 2.
    let held = Archive::new(input).read(&mut site)?;
    site.sync_directories()?;
    failpoint::hit("restore.files_written");
    // 3.
    site.write_catalog(&held, options)?;
    failpoint::hit("restore.catalog_written");
    // 4.
    site.lock = None;
    let opened = open::open(site.layout.root(), &options.open, now).map_err(as_open)?;
    let catalog = opened.committer.catalog();
    if let Some(note) = opened.report.notes.first() {
        return Err(inconsistent(note));
    }
    if !is_same(&catalog, &held.catalog) {
        return Err(inconsistent(
            "the catalog that opens is not the one that was written",
        ));
    }
    opened
        .committer
        .close()
        .map_err(|error| inconsistent(&error.to_string()))?;
    failpoint::hit("restore.opened");
    // 5. The readers still hold the lock, which moves along.
    durable::rename(site.layout.root(), &target.path)?;
    site.is_done = true;
    failpoint::hit("restore.renamed");
    site.disk.sync_directory(&target.parent)?;
    Ok(held.contents)
}

/// Whether a catalog is the one of a backup, but for the numbers that it goes on with.
fn is_same(opened: &Catalog, held: &Catalog) -> bool {
    opened.base_models == held.base_models
        && opened.jobs == held.jobs
        && opened.revision >= held.revision
        && opened.last_job >= held.last_job
}

fn as_open(error: OpenError) -> RestoreError {
    match error {
        OpenError::Locked { holder, directory } => RestoreError::InUse { holder, directory },
        OpenError::File(error) => RestoreError::File(error),
        error @ (OpenError::NewerSchema { .. }
        | OpenError::BaseModelLost { .. }
        | OpenError::Catalog(_)
        | OpenError::CatalogHung { .. }
        | OpenError::Record(_)) => RestoreError::Open(Box::new(error)),
    }
}

/// Where the state is to be.
#[derive(Debug)]
struct Target {
    path: PathBuf,
    parent: PathBuf,
    name: String,
}

impl Target {
    /// Refuses what is not empty.
    fn look(path: &Path, now: UnixMillis) -> Result<Self, RestoreError> {
        let not_empty = || RestoreError::NotEmpty {
            directory: path.to_owned(),
        };
        let entries = match durable::list(path) {
            Ok(entries) => entries,
            // Something is there, and it is no directory.
            Err(_) if durable::exists(path) && !path.is_dir() => return Err(not_empty()),
            Err(error) => return Err(error.into()),
        };
        if entries.iter().any(|entry| entry.name == "LOCK") {
            // It is not empty either way, but who has it is the better thing to say.
            Lock::take(&Layout::new(path.to_owned()), now).map_err(as_open)?;
        }
        if !entries.is_empty() {
            return Err(not_empty());
        }
        let absolute = durable::absolute(path)?;
        let (parent, name) = absolute
            .parent()
            .zip(absolute.file_name())
            .ok_or_else(not_empty)?;
        Ok(Self {
            parent: parent.to_owned(),
            name: name.to_string_lossy().into_owned(),
            path: absolute,
        })
    }
}

/// The directory that becomes the state. Dropped before, it goes.
#[derive(Debug)]
struct Site {
    layout: Layout,
    disk: Disk,
    lock: Option<Lock>,
    directories: BTreeSet<PathBuf>,
    file: Option<(File, PathBuf)>,
    is_done: bool,
}

impl Site {
    fn make(target: &Target, now: UnixMillis) -> Result<Self, RestoreError> {
        durable::create_root(&target.parent)?;
        let root = target.parent.join(format!(".{}.restoring", target.name));
        let layout = Layout::new(root.clone());
        if durable::exists(&root) {
            // Of a restore that was killed, unless somebody has the lock.
            if !durable::exists(&layout.lock()) && !durable::list(&root)?.is_empty() {
                return Err(RestoreError::NotEmpty { directory: root });
            }
            let lock = Lock::take(&layout, now).map_err(as_open)?;
            durable::remove_tree(&root)?;
            drop(lock);
        }
        durable::create_directory(&root)?;
        let mut site = Self {
            layout,
            disk: Disk::default(),
            lock: None,
            directories: BTreeSet::from([root]),
            file: None,
            is_done: false,
        };
        site.lock = Some(Lock::take(&site.layout, now).map_err(as_open)?);
        Ok(site)
    }

    fn sync_directories(&self) -> Result<(), FileError> {
        for directory in &self.directories {
            self.disk.sync_directory(directory)?;
        }
        Ok(())
    }

    fn write_catalog(&self, held: &Held, options: &RestoreOptions) -> Result<(), RestoreError> {
        let (disk, layout) = (&self.disk, &self.layout);
        let mut batch = Batch::default();
        let last = Position {
            revision: Revision(held.contents.revisions.max(held.catalog.revision.0) + SKIPPED),
            last_job: JobId(held.contents.job_ids.max(held.catalog.last_job.0) + SKIPPED),
        };
        let position = Stored::Position(last);
        for record in held.records.iter().chain([&position]) {
            let value = record
                .value()
                .map_err(|error| inconsistent(&error.to_string()))?;
            // The position comes last and takes the place of the one in the backup.
            batch.put(record.key(), value);
        }
        let path = layout.catalog();
        disk.ensure_directory(layout.root(), &path)?;
        let mut store = Box::new(SledStore::open(&path, options.open.cache_bytes, disk)?);
        for batch in batch.split(WHOLE_BATCH) {
            store.apply(&batch)?;
            store.flush()?;
        }
        store.close()?;
        disk.sync_directory(&path)?;
        disk.ensure_directory(layout.root(), &layout.staging())?;
        for (path, purpose, number) in [
            (layout.revisions(), "revisions", last.revision.0),
            (layout.job_ids(), "job-ids", last.last_job.0),
        ] {
            Counter::new(path, 0).reserve(disk, layout.temporary(purpose), number)?;
        }
        Ok(())
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        if !self.is_done {
            // What cannot be removed is removed by the next restore.
            drop(durable::remove_tree(self.layout.root()));
        }
    }
}

impl Taker for Site {
    fn contents(&mut self, contents: &BackupContents) -> Result<(), RestoreError> {
        let directory = self.layout.root();
        let free = durable::free_space(directory)?;
        if contents.bytes > free {
            return Err(RestoreError::NoRoom {
                directory: directory.to_owned(),
                needed: contents.bytes,
                free,
            });
        }
        Ok(())
    }

    fn begin(&mut self, name: &EntryName) -> Result<(), RestoreError> {
        let Some(path) = name.place(&self.layout) else {
            return Ok(());
        };
        if let Some(directory) = path.parent() {
            self.disk.ensure_directory(self.layout.root(), directory)?;
            self.directories.insert(directory.to_owned());
        }
        self.file = Some((durable::create(&path)?, path));
        Ok(())
    }

    fn bytes(&mut self, bytes: &[u8]) -> Result<(), RestoreError> {
        match &self.file {
            Some((file, path)) => Ok(durable::write(file, path, bytes)?),
            None => Ok(()),
        }
    }

    fn end(&mut self) -> Result<(), RestoreError> {
        if let Some((file, path)) = self.file.take() {
            if path.starts_with(self.layout.tensors()) {
                durable::seal(&file, &path)?;
            }
            self.disk.sync(&file, &path)?;
        }
        Ok(())
    }
}
