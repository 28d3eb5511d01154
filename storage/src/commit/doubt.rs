//! A full disk in the middle of a change of the database.
//!
//! The change was refused, but the database may hold it or not, and is not to be used any more.
//! Nothing is lost: the view in memory is what was acknowledged, so the database is written again
//! from it as soon as there is room, and what the refused change left beside it is taken back. Until
//! then every write tries that first. A start in the meantime finds the change whole or not at all,
//! as after a crash at the same moment.

use std::path::PathBuf;

use super::Committer;
use crate::base_model_file::BaseModelFile;
use crate::catalog_store::CatalogStore;
use crate::durable;
use crate::error::{CatalogError, CommitError, FileError};
use crate::ids::BaseModelName;

/// What a change writes beside the database, from which a start would find it.
#[derive(Debug, Default)]
pub(super) struct Traces {
    /// Manifests of new generations and emptied slots.
    pub(super) manifests: Vec<PathBuf>,
    /// The base model whose file was written.
    pub(super) base_model: Option<BaseModelName>,
    /// The directory of a new job.
    pub(super) staged: Option<PathBuf>,
}

impl Committer {
    /// Whether a change was refused of which nobody knows what the database has.
    pub(super) fn is_in_doubt(&self) -> bool {
        self.store.is_none() && !self.is_read_only()
    }

    /// Notes that the database failed during a change. Gives the error for whoever asked for it.
    pub(super) fn fail(&mut self, error: CatalogError, traces: Traces) -> CommitError {
        if self.is_read_only() || !error.is_disk_full() {
            // What the database holds is not known, so nothing may be built on it.
            self.shared.disk.health().fail(&error);
            return error.into();
        }
        drop(self.store.take());
        self.doubt = traces;
        without_catalog(error)
    }

    /// Writes the database again, if the last change left it in doubt.
    ///
    /// 1. A new database is written from memory and takes the place of the old one.
    /// 2. What a start would take the refused change from is removed. Not before: the old database
    ///    may hold the change, and must not be found without its files.
    /// 3. The new database is opened.
    pub(super) fn settle(&mut self) -> Result<(), CommitError> {
        if !self.is_in_doubt() {
            return Ok(());
        }
        let traces = std::mem::take(&mut self.doubt);
        match self.try_settle(&traces) {
            Ok(store) => {
                self.store = Some(store);
                Ok(())
            }
            Err(error) => Err(self.fail(error, traces)),
        }
    }

    fn try_settle(&mut self, traces: &Traces) -> Result<Box<dyn CatalogStore>, CatalogError> {
        // 1.
        self.compactor.renew(&self.shared, &self.catalog)?;
        // 2.
        self.remove(traces)?;
        // 3.
        self.compactor.open(&self.shared)
    }

    fn remove(&self, traces: &Traces) -> Result<(), FileError> {
        let Traces {
            manifests,
            base_model,
            staged,
        } = traces;
        let layout = &self.shared.layout;
        let disk = &self.shared.disk;
        for path in manifests {
            durable::unlink(path)?;
            disk.sync_directory(path.parent().unwrap_or(path))?;
        }
        if let Some(name) = base_model {
            match self.catalog.base_models.get(name) {
                Some(state) => BaseModelFile::of(state).write(&self.shared)?,
                None => {
                    durable::unlink(&layout.base_model(name))?;
                    disk.sync_directory(&layout.base_models())?;
                }
            }
        }
        if let Some(path) = staged
            && durable::exists(path)
        {
            // In one step, so that no half of it is found under the job's name.
            let temporary = layout.temporary("upload");
            durable::rename(path, &temporary)?;
            disk.sync_directory(&layout.staging())?;
            // What cannot be removed is swept by the next start.
            drop(durable::remove_tree(&temporary));
        }
        Ok(())
    }
}

/// The error of a full disk, which is not one of the catalog's: nothing has to be restarted.
fn without_catalog(error: CatalogError) -> CommitError {
    match error {
        CatalogError::File(error) => CommitError::File(error),
        CatalogError::Engine { .. } | CatalogError::Panicked { .. } | CatalogError::Hung { .. } => {
            CommitError::Catalog(error)
        }
    }
}
