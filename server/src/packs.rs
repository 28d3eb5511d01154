//! The heads of packed slots, kept in memory: what each member keeps, and where its layers are.
//!
//! Shared by merges, which read them, and by the answers to questions. Filled by whoever misses one.
//! What holds: a head belongs to the digest that it is kept under, and files never change, so a head
//! is never stale; heads that no current generation has are forgotten at the next commit.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kmerge_merge::progressive::{Fidelity, PackedSlot};
use kmerge_storage::{Catalog, Digest, GenerationRecord, Reader};

use crate::error::ServerError;
use crate::facts;
use crate::tensors::FileSource;

/// Heads by the digest of their file.
#[derive(Debug, Clone)]
pub struct Packs {
    reader: Reader,
    heads: Arc<Mutex<HashMap<Digest, Arc<PackedSlot>>>>,
}

/// A packed slot, opened.
#[derive(Debug, Clone)]
pub struct OpenPack {
    /// Its head.
    pub packed: Arc<PackedSlot>,
    /// Its file.
    pub source: FileSource,
}

impl Packs {
    /// Reads through `reader`.
    pub fn new(reader: Reader) -> Self {
        Self {
            reader,
            heads: Arc::default(),
        }
    }

    /// The head of a generation, if that is a packed one.
    ///
    /// # Errors
    /// If its file cannot be read or is damaged.
    pub fn head(
        &self,
        generation: &GenerationRecord,
    ) -> Result<Option<Arc<PackedSlot>>, ServerError> {
        if !is_packed(generation)? {
            return Ok(None);
        }
        if let Some(head) = self.heads().get(&generation.digest) {
            return Ok(Some(Arc::clone(head)));
        }
        self.open(generation).map(|open| Some(open.packed))
    }

    /// Opens the file of a packed generation.
    ///
    /// # Errors
    /// If it cannot be read or is damaged.
    pub fn open(&self, generation: &GenerationRecord) -> Result<OpenPack, ServerError> {
        let source = FileSource(self.reader.tensor(generation)?);
        let known = self.heads().get(&generation.digest).cloned();
        let packed = match known {
            Some(head) => head,
            None => {
                let head = Arc::new(PackedSlot::read(&source)?);
                self.insert(generation.digest, Arc::clone(&head));
                head
            }
        };
        Ok(OpenPack { packed, source })
    }

    /// Keeps the head of a file that has just been written.
    pub fn insert(&self, digest: Digest, head: Arc<PackedSlot>) {
        self.heads().insert(digest, head);
    }

    /// Forgets what no current generation has.
    pub fn retain_current(&self, catalog: &Catalog) {
        let slots = || {
            catalog
                .base_models
                .values()
                .flat_map(|base| base.slots.values())
        };
        self.heads()
            .retain(|digest, _| slots().any(|slot| slot.current().digest == *digest));
    }

    fn heads(&self) -> MutexGuard<'_, HashMap<Digest, Arc<PackedSlot>>> {
        self.heads.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a generation keeps its members apart.
///
/// # Errors
/// If its facts cannot be read.
pub fn is_packed(generation: &GenerationRecord) -> Result<bool, ServerError> {
    Ok(facts::generation(generation)?.operator.is_progressive())
}

/// What the slot keeps of a task.
pub fn fidelity(packed: &PackedSlot, task: &str) -> Option<Fidelity> {
    packed
        .fidelities()
        .find(|(name, _)| *name == task)
        .map(|(_, fidelity)| fidelity)
}
