//! The files that runtimes read: for each current generation a PEFT directory named by the
//! generation, its tensors shared with the slot, and `current` pointing to it; and the same in every
//! other format that is configured, with tensors of its own.
//!
//! Used by the catalog's owner alone. A generation is exported before it is shown to anyone. An
//! export that fails is reported and tried again every two seconds, at the next change, and at the
//! next start; the generation itself is safe.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use kmerge_merge::{EXPORT_CONFIG, EXPORT_TENSORS, TensorSink, decode_slot, export_config};
use kmerge_storage::{
    BaseModelName, BaseModelRecord, Catalog, ExportWriter, Generation, GenerationRecord, Reader,
    SlotIndex,
};

use crate::converted::{self, Foreign};
use crate::error::ServerError;
use crate::liveness::Pulse;
use crate::packs;
use crate::tensors::FileSource;

/// What an export takes that shares its tensors with the slot, in bytes, and more.
const LENT: u64 = 256 * 1024;

/// The directory name of PEFT exports.
pub const PEFT: &str = "peft";

/// Writes the exports.
#[derive(Debug)]
pub struct Exports {
    reader: Reader,
    /// What is published beside PEFT.
    formats: Vec<Foreign>,
    /// Beats with each piece that is written.
    pulse: Pulse,
    /// What is known to be on disk, or impossible, so that a change elsewhere costs no look at the
    /// disk.
    exported: BTreeMap<(BaseModelName, SlotIndex), Generation>,
    /// The generations whose failure was reported, and that are still to be made.
    behind: BTreeSet<(BaseModelName, SlotIndex, Generation)>,
}

impl Exports {
    /// Exports what `reader` can read.
    pub fn new(reader: Reader, formats: Vec<Foreign>, pulse: Pulse) -> Self {
        Self {
            reader,
            formats,
            pulse,
            exported: BTreeMap::new(),
            behind: BTreeSet::new(),
        }
    }

    /// Makes the exports of every current generation that has none. Gives whether there is nothing
    /// left to be tried again.
    pub fn bring_up_to_date(&mut self, catalog: &Catalog) -> bool {
        let reported = std::mem::take(&mut self.behind);
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
                let (name, slot) = key.clone();
                let this = (name, slot, generation.generation);
                // Said once is enough: it is tried again every few seconds.
                let is_known = reported.contains(&this);
                if self.publish(&base_model.record, generation, is_known) {
                    self.exported.insert(key, generation.generation);
                } else {
                    self.behind.insert(this);
                }
            }
        }
        self.behind.is_empty()
    }

    /// Whether some export is still to be tried again.
    pub fn is_behind(&self) -> bool {
        !self.behind.is_empty()
    }

    /// Publishes a generation in all formats; false if it is worth another try.
    fn publish(
        &self,
        base_model: &BaseModelRecord,
        generation: &GenerationRecord,
        is_known: bool,
    ) -> bool {
        let peft = match publish(&self.reader, base_model, generation) {
            // Little is missing, and without it what is there cannot be read.
            Err(error) if error.is_disk_full() && self.reader.lend_reserve(LENT).is_ok() => {
                publish(&self.reader, base_model, generation)
            }
            published => published,
        };
        let mut done = settled(peft.map(drop), PEFT, generation, is_known);
        for &format in &self.formats {
            let made = self.publish_as(base_model, generation, format);
            done &= settled(made, format.name(), generation, is_known);
        }
        done
    }
}

/// Reports a failure; false if it may go away by itself.
fn settled(
    made: Result<(), ServerError>,
    format: &str,
    generation: &GenerationRecord,
    is_known: bool,
) -> bool {
    let Err(error) = made else {
        return true;
    };
    let cause = &error as &dyn std::error::Error;
    if matches!(&error, ServerError::Format(refused) if refused.io().is_none()) {
        tracing::warn!(
            error = cause,
            base_model = %generation.base_model,
            slot = %generation.slot,
            generation = %generation.generation,
            "no {format} export; its other exports are not affected"
        );
        return true;
    }
    if is_known {
        tracing::debug!(error = cause, "still no {format} export");
    } else {
        tracing::error!(
            error = cause,
            base_model = %generation.base_model,
            slot = %generation.slot,
            generation = %generation.generation,
            "could not write the {format} export; it is tried again every two seconds"
        );
    }
    false
}

struct Sink<'a>(&'a mut ExportWriter, &'a Pulse);

impl TensorSink for Sink<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.1.beat();
        self.0.write(bytes).map_err(std::io::Error::other)
    }
}

impl Exports {
    fn publish_as(
        &self,
        base_model: &BaseModelRecord,
        generation: &GenerationRecord,
        format: Foreign,
    ) -> Result<(), ServerError> {
        let reader = &self.reader;
        if reader.has_export(generation, format.name()) {
            return Ok(());
        }
        let tensors = FileSource(reader.tensor(generation)?);
        let mut writer = reader.new_export(format.tensor_name())?;
        let of = (base_model, generation);
        let files = converted::write(
            format,
            &tensors,
            of,
            None,
            &mut Sink(&mut writer, &self.pulse),
        )?;
        writer.finish(generation, format.name(), &converted::borrowed(&files))?;
        Ok(())
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
