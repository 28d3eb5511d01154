//! The files that runtimes read: for each current generation a PEFT directory named by the
//! generation, its tensors shared with the slot, and `current` pointing to it.
//!
//! Used by the catalog's owner alone. A generation is exported before it is shown to anyone. An
//! export that fails is reported and tried again at the next change and at the next start; the
//! generation itself is safe.

use std::collections::BTreeMap;
use std::path::PathBuf;

use kmerge_merge::{EXPORT_CONFIG, EXPORT_TENSORS, decode_slot, export_config};
use kmerge_storage::{
    BaseModelName, BaseModelRecord, Catalog, Generation, GenerationRecord, Reader, SlotIndex,
};

use crate::error::ServerError;
use crate::packs;
use crate::tensors::FileSource;

/// The directory name of PEFT exports.
pub const PEFT: &str = "peft";

/// Writes the exports.
#[derive(Debug)]
pub struct Exports {
    reader: Reader,
    /// What is known to be on disk, so that a change elsewhere costs no look at the disk.
    exported: BTreeMap<(BaseModelName, SlotIndex), Generation>,
}

impl Exports {
    /// Exports what `reader` can read.
    pub fn new(reader: Reader) -> Self {
        Self {
            reader,
            exported: BTreeMap::new(),
        }
    }

    /// Makes the export of every current generation that has none.
    pub fn bring_up_to_date(&mut self, catalog: &Catalog) {
        for base_model in catalog.base_models.values() {
            for slot in base_model.slots.values() {
                let generation = slot.current();
                let key = (generation.base_model.clone(), generation.slot);
                if self.exported.get(&key) == Some(&generation.generation) {
                    continue;
                }
                // Slots that keep their members apart are exported task by task, when asked for.
                if packs::is_packed(generation).unwrap_or(false) {
                    continue;
                }
                match publish(&self.reader, &base_model.record, generation) {
                    Ok(_) => {
                        self.exported.insert(key, generation.generation);
                    }
                    Err(error) => tracing::error!(
                        error = &error as &dyn std::error::Error,
                        base_model = %generation.base_model,
                        slot = %generation.slot,
                        generation = %generation.generation,
                        "could not write the export; it is tried again at the next change"
                    ),
                }
            }
        }
    }
}

/// Writes the export of one generation, or finds it already there.
///
/// # Errors
/// If the tensors cannot be read or the files cannot be written.
pub fn publish(
    reader: &Reader,
    base_model: &BaseModelRecord,
    generation: &GenerationRecord,
) -> Result<PathBuf, ServerError> {
    let tensors = FileSource(reader.tensor(generation)?);
    let layout = decode_slot(&tensors).map_err(ServerError::StoredAdapter)?;
    let config = export_config(&layout, &base_model.served_as);
    let files = [(EXPORT_CONFIG, config.as_slice())];
    Ok(reader.publish_export(generation, PEFT, EXPORT_TENSORS, &files)?)
}
