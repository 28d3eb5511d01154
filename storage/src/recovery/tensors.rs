//! The second half of step 4: generations whose tensor file is lost. Finds them; what becomes of them
//! is the rule in `give_up.rs`.

use std::collections::BTreeSet;

use super::{Recovery, set_aside};
use crate::digest::Digest;
use crate::durable;
use crate::error::{FileError, OpenError};
use crate::give_up::{GiveUp, LostSlot};
use crate::records::GenerationRecord;
use crate::tensors::TensorFile;

impl Recovery<'_> {
    /// Whether a tensor file is there with the right length and content.
    pub(super) fn is_tensor_whole(&self, digest: &Digest, bytes: u64) -> Result<bool, OpenError> {
        let path = self.shared.layout.tensor(digest);
        if durable::length_if_there(&path)? != Some(bytes) {
            return Ok(false);
        }
        let found = TensorFile::open(&path)?
            .digest()
            .map_err(|source| FileError {
                verb: "read",
                path,
                source,
            })?;
        Ok(found == *digest)
    }

    /// Gives up every generation whose tensor file is missing or damaged. Length is looked at
    /// always, content of what was `taken_in` just now.
    pub(super) fn give_up_lost_tensors(
        &mut self,
        taken_in: &[GenerationRecord],
    ) -> Result<(), OpenError> {
        let mut bad = BTreeSet::new();
        let mut seen = BTreeSet::new();
        let content: BTreeSet<Digest> = taken_in.iter().map(|record| record.digest).collect();
        for record in self.transaction.catalog().generations() {
            if !seen.insert((record.digest, record.bytes)) {
                continue;
            }
            let path = self.shared.layout.tensor(&record.digest);
            let is_whole = if self.rebuilding && content.contains(&record.digest) {
                self.is_tensor_whole(&record.digest, record.bytes)?
            } else {
                durable::length_if_there(&path)? == Some(record.bytes)
            };
            if !is_whole {
                bad.insert(record.digest);
            }
        }
        if bad.is_empty() {
            return Ok(());
        }
        let mut notes = Vec::new();
        for lost in LostSlot::all(self.transaction.catalog(), &bad) {
            let listed = match lost.whole(&bad).filter(|whole| lost.needs_manifest(whole)) {
                Some(whole) => {
                    let key = (whole.base_model.clone(), whole.slot);
                    self.entries(&key, whole.generation)?
                }
                None => Vec::new(),
            };
            let mut give_up = GiveUp {
                transaction: &mut self.transaction,
                now: self.now,
                notes: &mut notes,
                bad: &bad,
            };
            give_up.in_slot(&lost, listed)?;
        }
        let mut give_up = GiveUp {
            transaction: &mut self.transaction,
            now: self.now,
            notes: &mut notes,
            bad: &bad,
        };
        give_up.in_grace();
        self.report.notes.append(&mut notes);
        for digest in bad {
            let path = self.shared.layout.tensor(&digest);
            if durable::exists(&path) {
                set_aside(self.shared, &path, self.now)?;
            }
        }
        Ok(())
    }
}
