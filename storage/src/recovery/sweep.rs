//! Step 7 of recovery: nothing stays that nothing refers to.
//!
//! No age is asked for: under the lock, before any capability exists, nobody else can be writing.
//! What is not of our making is left alone and named in the report. A removal that fails is named
//! too; it stops nothing.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::survey::{Survey, number};
use crate::catalog::Catalog;
use crate::digest::Digest;
use crate::durable;
use crate::error::FileError;
use crate::exports::current_export;
use crate::ids::{BaseModelName, Generation, SlotIndex};
use crate::layout::CURRENT;
use crate::open::RecoveryReport;
use crate::shared::Shared;

/// Removes all that `catalog` does not refer to, and the `unneeded` staged files.
pub(super) fn sweep(
    shared: &Shared,
    survey: &Survey,
    catalog: &Catalog,
    unneeded: Vec<PathBuf>,
    quarantines_kept: usize,
    report: &mut RecoveryReport,
) -> Result<(), FileError> {
    let mut sweep = Sweep {
        shared,
        catalog,
        report,
    };
    for path in &survey.strangers {
        sweep.stranger(path);
    }
    sweep.staging(survey, unneeded);
    // Manifests first: one whose tensors are gone must not be found by a later rebuild.
    sweep.manifests(survey)?;
    sweep.exports()?;
    sweep.tensors()?;
    sweep.quarantine(quarantines_kept)
}

/// The names of uploads that were not finished start with this.
const UPLOAD: &str = "tmp-upload";

struct Sweep<'a> {
    shared: &'a Shared,
    catalog: &'a Catalog,
    report: &'a mut RecoveryReport,
}

impl Sweep<'_> {
    fn stranger(&mut self, path: &Path) {
        self.report.notes.push(format!(
            "{} is not of kmerge's making; left alone",
            path.display()
        ));
    }

    /// Whether a removal succeeded.
    fn succeeded(&mut self, removal: Result<(), FileError>) -> bool {
        if let Err(error) = &removal {
            self.report.notes.push(super::in_full(error));
        }
        removal.is_ok()
    }

    fn orphan(&mut self, removal: Result<(), FileError>) {
        self.report.orphans_removed += u32::from(self.succeeded(removal));
    }

    fn staging(&mut self, survey: &Survey, unneeded: Vec<PathBuf>) {
        for entry in &survey.temporaries {
            if entry.name.starts_with(UPLOAD) {
                let removed = durable::remove_tree(&entry.path);
                self.report.uploads_swept += u32::from(self.succeeded(removed));
            } else {
                let removed = if entry.is_directory {
                    durable::remove_tree(&entry.path)
                } else {
                    durable::unlink(&entry.path)
                };
                self.orphan(removed);
            }
        }
        for path in unneeded {
            let removed = durable::remove_tree(&path);
            self.report.uploads_swept += u32::from(self.succeeded(removed));
        }
    }

    fn is_live(&self, name: &BaseModelName, slot: SlotIndex, generation: Generation) -> bool {
        self.catalog.generation(name, slot, generation).is_some()
    }

    fn manifests(&mut self, survey: &Survey) -> Result<(), FileError> {
        let mut changed = BTreeSet::new();
        let listed = survey
            .manifests
            .iter()
            .flat_map(|((name, slot), manifests)| {
                manifests
                    .iter()
                    .map(move |(&generation, path)| (name, *slot, generation, path))
            });
        for (name, slot, generation, path) in listed {
            let is_empty_since = self
                .catalog
                .emptied(name, slot)
                .is_some_and(|emptied| emptied.record.generation == generation);
            if !is_empty_since && !self.is_live(name, slot, generation) {
                self.orphan(durable::unlink(path));
                changed.insert(path.parent());
            }
        }
        for path in &survey.damaged_manifests {
            // A live generation's manifest has been written again, in the place of the damaged one.
            let layout = &self.shared.layout;
            let is_of = |base_model, slot, generation| {
                *path == layout.manifest(base_model, slot, generation)
            };
            let live = self
                .catalog
                .generations()
                .any(|record| is_of(&record.base_model, record.slot, record.generation))
                || self
                    .catalog
                    .emptied_slots()
                    .any(|record| is_of(&record.base_model, record.slot, record.generation));
            if !live {
                self.orphan(durable::unlink(path));
                changed.insert(path.parent());
            }
        }
        for directory in changed.into_iter().flatten() {
            self.shared.disk.sync_directory(directory)?;
        }
        Ok(())
    }

    fn exports(&mut self) -> Result<(), FileError> {
        for format in durable::list(&self.shared.layout.exports())? {
            for base_model in durable::list(&format.path)? {
                let Ok(name) = base_model.name.parse::<BaseModelName>() else {
                    self.stranger(&base_model.path);
                    continue;
                };
                for slot in durable::list(&base_model.path)? {
                    match slot.name.strip_prefix("slot-").and_then(number) {
                        Some(index) => self.slot_exports(&name, SlotIndex(index), &slot.path)?,
                        None => self.stranger(&slot.path),
                    }
                }
            }
        }
        Ok(())
    }

    fn slot_exports(
        &mut self,
        name: &BaseModelName,
        slot: SlotIndex,
        directory: &Path,
    ) -> Result<(), FileError> {
        for entry in durable::list(directory)? {
            match number(&entry.name).map(Generation) {
                Some(generation) if self.is_live(name, slot, generation) => {}
                Some(_) => self.orphan(durable::remove_tree(&entry.path)),
                None if entry.name == CURRENT => {}
                None => self.stranger(&entry.path),
            }
        }
        let link = directory.join(CURRENT);
        let serves =
            self.catalog.slot(name, slot).is_some() && current_export(directory)?.is_some();
        if !serves && durable::exists(&link) {
            self.orphan(durable::unlink(&link));
        }
        Ok(())
    }

    fn tensors(&mut self) -> Result<(), FileError> {
        let live: BTreeSet<Digest> = self
            .catalog
            .generations()
            .map(|record| record.digest)
            .collect();
        for directory in durable::list(&self.shared.layout.tensors())? {
            for entry in durable::list(&directory.path)? {
                match entry.name.parse::<Digest>() {
                    Ok(digest) if live.contains(&digest) => {}
                    Ok(_) => self.orphan(durable::unlink(&entry.path)),
                    Err(_) => self.stranger(&entry.path),
                }
            }
            let removed = durable::remove_if_empty(&directory.path);
            self.succeeded(removed);
        }
        Ok(())
    }

    /// Keeps the last few things set aside; more would fill the disk.
    fn quarantine(&mut self, kept: usize) -> Result<(), FileError> {
        let entries = durable::list(&self.shared.layout.quarantine())?;
        let superfluous = entries.len().saturating_sub(kept);
        for entry in entries.into_iter().take(superfluous) {
            self.orphan(durable::remove_tree(&entry.path));
        }
        Ok(())
    }
}
