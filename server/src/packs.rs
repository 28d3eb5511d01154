//! The heads of packed slots, kept in memory: what each member keeps, and where its layers are.
//!
//! Shared by merges, which read them, and by the answers to questions. Filled by whoever misses one.
//! What holds: a head belongs to the digest that it is kept under, and files never change, so a head
//! is never stale; heads that no current generation has are forgotten at the next commit.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kmerge_merge::progressive::{Fidelity, PackedSlot};
use kmerge_storage::{Catalog, Digest, GenerationRecord, ReadError, Reader};

use crate::error::ServerError;
use crate::facts;
use crate::tensors::FileSource;

/// Heads by the digest of their file.
#[derive(Debug, Clone)]
pub struct Packs {
    reader: Reader,
    heads: Arc<Mutex<Heads>>,
}

#[derive(Debug, Default)]
struct Heads {
    known: HashMap<Digest, Arc<PackedSlot>>,
    /// Files of which all bytes were compared with their digest, or written by this process.
    verified: HashSet<Digest>,
    /// Files that were found to be other than they were written.
    distrusted: HashSet<Digest>,
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

    /// What the files are read through.
    pub fn reader(&self) -> &Reader {
        &self.reader
    }

    /// Compares all of a generation's file with its digest, the first time that this process is asked.
    ///
    /// # Errors
    /// If it cannot be read or is damaged.
    pub fn check(&self, generation: &GenerationRecord) -> Result<(), ServerError> {
        let digest = generation.digest;
        {
            let heads = self.heads();
            if heads.distrusted.contains(&digest) {
                return Err(ReadError::TensorAltered { digest }.into());
            }
            if heads.verified.contains(&digest) {
                return Ok(());
            }
        }
        self.reader.verify(generation, u64::MAX, &mut |_| true)?;
        self.heads().verified.insert(digest);
        Ok(())
    }

    /// Notes that this process has just written a file.
    pub fn trust(&self, digest: Digest) {
        let mut heads = self.heads();
        heads.verified.insert(digest);
        heads.distrusted.remove(&digest);
    }

    /// Whether the head of a generation is in memory.
    pub fn knows(&self, generation: &GenerationRecord) -> bool {
        self.heads().known.contains_key(&generation.digest)
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
        if let Some(head) = self.heads().known.get(&generation.digest) {
            return Ok(Some(Arc::clone(head)));
        }
        let source = FileSource(self.reader.tensor(generation)?);
        self.read_head(generation, &source).map(Some)
    }

    /// The head alone, which figures are told from: no layer is decoded for that.
    fn read_head(
        &self,
        generation: &GenerationRecord,
        source: &FileSource,
    ) -> Result<Arc<PackedSlot>, ServerError> {
        let head = Arc::new(PackedSlot::read(source)?);
        let known = &mut self.heads().known;
        known.insert(generation.digest, Arc::clone(&head));
        Ok(head)
    }

    /// Opens the file of a packed generation. The first time all of it is read and compared with its
    /// digest: a layer that is damaged decodes to an adapter like any other.
    ///
    /// # Errors
    /// If it cannot be read or is damaged.
    pub fn open(&self, generation: &GenerationRecord) -> Result<OpenPack, ServerError> {
        let source = FileSource(self.reader.tensor(generation)?);
        let digest = generation.digest;
        self.check(generation)?;
        let known = self.heads().known.get(&digest).cloned();
        let packed = match known {
            Some(head) => head,
            None => self.read_head(generation, &source)?,
        };
        Ok(OpenPack { packed, source })
    }

    /// Keeps the head of a file that has just been written.
    pub fn insert(&self, digest: Digest, head: Arc<PackedSlot>) {
        let mut heads = self.heads();
        heads.known.insert(digest, head);
        heads.verified.insert(digest);
        heads.distrusted.remove(&digest);
    }

    /// Decodes nothing more of a file that is not what was written.
    pub fn distrust(&self, digest: Digest) {
        let mut heads = self.heads();
        heads.known.remove(&digest);
        heads.verified.remove(&digest);
        heads.distrusted.insert(digest);
    }

    /// Forgets what no current generation has.
    pub fn retain_current(&self, catalog: &Catalog) {
        let slots = || {
            catalog
                .base_models
                .values()
                .flat_map(|base| base.slots.values())
        };
        let mut heads = self.heads();
        let is_current = |digest: &Digest| slots().any(|slot| slot.current().digest == *digest);
        heads.known.retain(|digest, _| is_current(digest));
        heads.verified.retain(is_current);
        heads.distrusted.retain(is_current);
    }

    fn heads(&self) -> MutexGuard<'_, Heads> {
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
