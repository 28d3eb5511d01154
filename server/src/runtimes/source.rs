//! Where the files of an adapter are, in the format that a runtime reads, and how they come to be
//! held for it. The one place where runtimes meet what the daemon serves. Blocks on the disk, and on
//! the pool where an adapter has to be made.

use std::path::PathBuf;
use std::sync::Arc;

use kmerge_merge::Format;
use kmerge_storage::{Catalog, ExportError, GenerationRecord, Holdings, Reader};
use tokio::sync::watch;

use super::desired::Wanted;
use crate::converted::Foreign;
use crate::doubts::Doubts;
use crate::error::ServerError;
use crate::exports;
use crate::packs;
use crate::served::Served;

/// Finds and makes adapters for runtimes.
#[derive(Debug, Clone)]
pub struct Source {
    /// The catalog as it is now.
    pub view: watch::Receiver<Arc<Catalog>>,
    /// Reads the state.
    pub reader: Reader,
    /// Makes adapters on demand.
    pub served: Served,
    /// What is done about damage.
    pub doubts: Doubts,
}

/// Why an adapter cannot be handed over.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// A newer generation has come, and this one has gone.
    #[error("generation {0} has gone meanwhile")]
    Gone(kmerge_storage::Generation),
    /// It could not be made.
    #[error(transparent)]
    Make(#[from] ServerError),
    /// It could not be held.
    #[error(transparent)]
    Hold(#[from] ExportError),
}

impl Source {
    /// The directory with the files of an adapter in a format. It stays for as long as serving keeps
    /// it; who needs it for longer holds it.
    ///
    /// # Errors
    /// If its generation has gone, the format is not written, or the disk refuses.
    pub fn export_path(&self, wanted: &Wanted, format: Format) -> Result<PathBuf, SourceError> {
        let catalog = Arc::clone(&self.view.borrow());
        let gone = || SourceError::Gone(wanted.generation);
        let base_model = catalog.base_model(&wanted.base_model).ok_or_else(gone)?;
        let record = Self::find(&catalog, wanted).ok_or_else(gone)?;
        let name = format.name();
        // A runtime keeps what it has loaded, so all of it is looked at before.
        if let Err(error) = self.served.packs().check(&record) {
            if Doubts::is_reason(&error) && !self.doubts.look_into(&record)?.is_empty() {
                return Err(gone());
            }
            return Err(error.into());
        }
        if !packs::is_packed(&record)? && self.reader.has_export(&record, name) {
            return Ok(self.reader.export_path(&record, name));
        }
        let (base_model, of) = (&base_model.record, &wanted.of);
        if let Some(foreign) = Foreign::of(format) {
            return Ok(self
                .served
                .locate_converted(base_model, &record, of, foreign)?);
        }
        if packs::is_packed(&record)? {
            return Ok(self.served.locate(base_model, &record, of)?.0);
        }
        Ok(exports::publish(&self.reader, base_model, &record)?)
    }

    /// Holds an adapter's files under `name`.
    ///
    /// # Errors
    /// As for [`Source::export_path`], or if the disk refuses.
    pub fn hold(
        &self,
        holdings: &Holdings,
        name: &str,
        wanted: &Wanted,
        format: Format,
    ) -> Result<PathBuf, SourceError> {
        if let Some(path) = holdings.find(name) {
            return Ok(path);
        }
        let held = self
            .export_path(wanted, format)
            .and_then(|path| Ok(holdings.hold(name, &path)?));
        // What fails because a newer generation took its place in the middle of it, has not failed.
        held.map_err(|error| match Self::find(&self.view.borrow(), wanted) {
            Some(_) => error,
            None => SourceError::Gone(wanted.generation),
        })
    }

    fn find(catalog: &Catalog, wanted: &Wanted) -> Option<Arc<GenerationRecord>> {
        catalog
            .generation(&wanted.base_model, wanted.slot, wanted.generation)
            .filter(|record| record.digest == wanted.digest)
            .cloned()
    }
}
