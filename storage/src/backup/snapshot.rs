//! The state at one revision, held so that it stays readable however long a backup takes.
//!
//! Taken by the committer between two changes. Every file gets a second name in a temporary
//! directory: that costs no room and no time to speak of, and a file that is removed meanwhile stays
//! readable under that name. Dropped, the names go; those of a process that was killed are swept by the
//! next start.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use super::contents::{EntryName, StagedPart};
use crate::catalog::{BaseModelState, Catalog, EmptiedSlot, SlotState};
use crate::commit::Committer;
use crate::durable;
use crate::error::BackupError;
use crate::failpoint;
use crate::ids::UnixMillis;
use crate::layout::Layout;
use crate::records::{JobRecord, JobState};
use crate::staging::Unfinished;

/// The state at one revision.
#[derive(Debug)]
pub struct Snapshot {
    pub(super) directory: Unfinished,
    /// The catalog that the backup holds.
    pub(super) catalog: Catalog,
    /// The files, in the order of the archive. Each lies in the directory under its place here.
    pub(super) files: Vec<(EntryName, u64)>,
    pub(super) now: UnixMillis,
    /// No job id and no revision above these had been given out.
    pub(super) job_ids: u64,
    pub(super) revisions: u64,
}

impl Committer {
    /// Holds all that a backup needs of the state as it is now. Dropped, it lets go.
    ///
    /// # Errors
    /// If the state can only be read, a file is missing, or the disk refuses.
    pub fn snapshot(&self, now: UnixMillis) -> Result<Snapshot, BackupError> {
        if let Some(why) = self.read_only_reason() {
            let why = why.to_owned();
            return Err(BackupError::ReadOnly { why });
        }
        let catalog = kept(&self.catalog());
        let directory = Unfinished::create(self.shared(), "backup")?;
        let names = names(&catalog);
        let layout = &self.shared().layout;
        let mut files = Vec::with_capacity(names.len());
        for (name, number) in names.into_iter().zip(0..) {
            let length = hold(layout, &name, file(&directory, number))?;
            files.push((name, length));
        }
        failpoint::hit("backup.held");
        let (job_ids, revisions) = self.ceilings();
        Ok(Snapshot {
            directory,
            catalog,
            files,
            now,
            job_ids,
            revisions,
        })
    }
}

/// Where a file of a snapshot lies.
pub(super) fn file(directory: &Unfinished, number: usize) -> PathBuf {
    directory.path().join(number.to_string())
}

/// Gives a file its second name; its length.
fn hold(layout: &Layout, name: &EntryName, held: PathBuf) -> Result<u64, BackupError> {
    let missing = || BackupError::Missing {
        entry: name.to_string(),
    };
    let path = name.place(layout).ok_or_else(missing)?;
    match durable::link(&path, &held) {
        Ok(()) => {}
        Err(error) if error.is_missing() => return Err(missing()),
        Err(error) => return Err(error.into()),
    }
    durable::length_if_there(&held)?.ok_or_else(missing)
}

/// The catalog without what a backup leaves out: generations in grace. What was running will have to
/// run again, and that is not its fault.
fn kept(catalog: &Catalog) -> Catalog {
    let mut kept = catalog.clone();
    for base_model in kept.base_models.values_mut() {
        let BaseModelState { slots, emptied, .. } = Arc::make_mut(base_model);
        for slot in slots.values_mut() {
            let SlotState { generations, .. } = Arc::make_mut(slot);
            let newest = generations.pop_last();
            generations.clear();
            generations.extend(newest);
        }
        for slot in emptied.values_mut() {
            let EmptiedSlot { generations, .. } = Arc::make_mut(slot);
            generations.clear();
        }
    }
    for job in kept.jobs.values_mut() {
        if job.state == JobState::Running {
            *job = Arc::new(JobRecord {
                state: JobState::Queued,
                attempts: job.attempts.saturating_sub(1),
                started: None,
                ..JobRecord::clone(job)
            });
        }
    }
    kept
}

/// The files that belong to a catalog, in the order of the archive.
fn names(catalog: &Catalog) -> Vec<EntryName> {
    let mut names = BTreeSet::new();
    for record in catalog.generations() {
        let (base_model, slot) = (record.base_model.clone(), record.slot);
        names.insert(EntryName::Manifest(base_model, slot, record.generation));
        names.insert(EntryName::Tensor(record.digest));
    }
    for record in catalog.emptied_slots() {
        let (base_model, slot) = (record.base_model.clone(), record.slot);
        names.insert(EntryName::Manifest(base_model, slot, record.generation));
    }
    for job in catalog.unfinished_jobs() {
        names.insert(EntryName::Staged(job.id, StagedPart::Header));
        if job.kind.is_upload() {
            names.insert(EntryName::Staged(job.id, StagedPart::Config));
            names.insert(EntryName::Staged(job.id, StagedPart::Tensors));
        }
    }
    names.into_iter().collect()
}
