//! What is done about a tensor file that is not what was written: it is set aside, and the generation
//! before it serves again, by the same rule as at a start.
//!
//! Called by whoever notices, on a thread that may block: scrubs, answers, merges, runtimes. One doubt at
//! a time is looked into. What holds: a file is given up only after all of it was read once more and
//! differed, and what serves instead was read as well.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use kmerge_storage::{BaseModelName, Catalog, GenerationRecord, ReadError};
use tokio::sync::watch;

use crate::error::ServerError;
use crate::grpc::status;
use crate::owner::Owner;
use crate::packs::Packs;

/// Looks into doubts.
#[derive(Debug, Clone)]
pub struct Doubts {
    owner: Owner,
    packs: Packs,
    view: watch::Receiver<Arc<Catalog>>,
    turn: Arc<Mutex<()>>,
}

impl Doubts {
    /// Looks into doubts about what `view` shows.
    pub fn new(owner: Owner, packs: Packs, view: watch::Receiver<Arc<Catalog>>) -> Self {
        Self {
            owner,
            packs,
            view,
            turn: Arc::default(),
        }
    }

    /// Whether an error may come from a damaged file.
    pub fn is_reason(error: &ServerError) -> bool {
        status::code(error) == tonic::Code::DataLoss
    }

    /// Reads the file of a generation again, and gives it up if it is damaged. Gives what was done, one
    /// sentence each; none if there is nothing wrong, or nobody has the file any more.
    ///
    /// # Errors
    /// If the catalog cannot be written.
    pub fn look_into(&self, doubted: &GenerationRecord) -> Result<Vec<String>, ServerError> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let catalog = Arc::clone(&self.view.borrow());
        let is_kept = catalog
            .generations()
            .any(|record| record.digest == doubted.digest);
        if !is_kept || !self.is_damaged(doubted) {
            return Ok(Vec::new());
        }
        let mut bad = BTreeSet::from([doubted.digest]);
        let slots = catalog
            .base_models
            .values()
            .flat_map(|base| base.slots.values());
        for slot in slots.filter(|slot| slot.current().digest == doubted.digest) {
            // The newest that is whole is to serve again.
            for record in slot.generations.values().rev().skip(1) {
                if bad.contains(&record.digest) {
                    continue;
                }
                if !self.is_damaged(record) {
                    break;
                }
                bad.insert(record.digest);
            }
        }
        for digest in &bad {
            self.packs.distrust(*digest);
        }
        let owner = self.owner.clone();
        // A thread of its own: whoever calls may be one that must not wait for the owner.
        let distrusted = std::thread::scope(|scope| {
            let asked = scope.spawn(|| owner.distrust_blocking(bad));
            asked.join().unwrap_or(Err(ServerError::Panicked))
        })?;
        for note in &distrusted.notes {
            tracing::error!("damage: {note}");
        }
        Ok(distrusted.notes)
    }

    /// Waits until the view shows all that the owner has done: what it has just removed is gone from there,
    /// too.
    ///
    /// # Errors
    /// If kmerged stops.
    pub fn catch_up(&self) -> Result<(), ServerError> {
        self.owner.distrust_blocking(BTreeSet::new()).map(drop)
    }

    /// The same for all current generations of a base model. Whether anything was done.
    ///
    /// # Errors
    /// As [`Doubts::look_into`].
    pub fn look_into_all(&self, base_model: &BaseModelName) -> Result<bool, ServerError> {
        let catalog = Arc::clone(&self.view.borrow());
        let slots = catalog.base_model(base_model).into_iter();
        let mut any = false;
        for slot in slots.flat_map(|base| base.slots.values()) {
            any |= !self.look_into(slot.current())?.is_empty();
        }
        Ok(any)
    }

    /// Whether all bytes of a file were read and are not those that were written, or some cannot be
    /// read at all.
    fn is_damaged(&self, record: &GenerationRecord) -> bool {
        let verified = self.packs.reader().verify(record, u64::MAX, &mut |_| true);
        match verified {
            Ok(()) => false,
            Err(
                ReadError::TensorMissing { .. }
                | ReadError::TensorLength { .. }
                | ReadError::TensorAltered { .. },
            ) => true,
            // A sector that cannot be read, and nothing that passes by itself.
            Err(ReadError::File(error)) => {
                error.verb == "read" && error.source.raw_os_error() == Some(EIO)
            }
            Err(
                ReadError::ManifestAltered { .. }
                | ReadError::StagedMissing { .. }
                | ReadError::StagedDamaged { .. }
                | ReadError::ExportMissing { .. }
                | ReadError::ReadOnly { .. },
            ) => false,
        }
    }
}

/// An input or output error of the medium.
const EIO: i32 = rustix::io::Errno::IO.raw_os_error();
