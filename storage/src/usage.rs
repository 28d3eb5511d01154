//! What the state takes on disk, by purpose.
//!
//! Used by readers. Pure counting: nothing is changed, and a file that goes away meanwhile counts
//! nothing.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::catalog::Catalog;
use crate::digest::Digest;
use crate::durable;
use crate::error::FileError;
use crate::layout::Layout;

/// Bytes on disk by purpose, as the file system allots them; each file is counted once, whatever
/// names it has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DiskUsage {
    /// The tensor files of current generations.
    pub tensors_live: u64,
    /// All other tensor files: of superseded generations in grace and of commits under way.
    pub tensors_grace: u64,
    /// Uploads and whatever else is not whole yet.
    pub staging: u64,
    /// The database.
    pub catalog: u64,
    /// Manifests, base models, counters and the lock.
    pub manifests: u64,
    /// Exports and what is held by path, beyond the tensor files that they share with the slots.
    pub exports: u64,
    /// What recovery has set aside.
    pub quarantine: u64,
    /// Room that is kept back for when the disk is full, and for the database behind the end of its
    /// log. Nothing is in it, so it is not in the total.
    pub reserve: u64,
    /// All of the above but the reserve.
    pub total: u64,
    /// What the file system still has for this process.
    pub free: u64,
}

/// Counts all files below the state directory.
pub(crate) fn measure(layout: &Layout, catalog: &Catalog) -> Result<DiskUsage, FileError> {
    let current: BTreeSet<Digest> = catalog
        .base_models
        .values()
        .flat_map(|base_model| base_model.slots.values())
        .map(|slot| slot.current().digest)
        .collect();
    let mut walk = Walk::default();
    // Exports share their largest files with these, so these are counted first.
    let mut tensors_live = 0;
    for digest in &current {
        tensors_live += walk.below(&layout.tensor(digest))?;
    }
    let mut usage = DiskUsage {
        tensors_live,
        tensors_grace: walk.below(&layout.tensors())?,
        staging: walk.below(&layout.staging())?,
        catalog: walk.below(&layout.catalog())?,
        manifests: walk.below(&layout.manifests())? + walk.below(&layout.base_models())?,
        exports: walk.below(&layout.exports())?
            + walk.below(&layout.derived())?
            + walk.below(&layout.holders())?,
        quarantine: walk.below(&layout.quarantine())?,
        reserve: walk.below(&layout.reserve())?,
        total: 0,
        free: durable::free_space(layout.root())?,
    };
    // What is left at the top: the lock, the counters, the directory itself.
    usage.manifests += walk.below(layout.root())?;
    usage.reserve += walk.set_aside;
    usage.total = usage.tensors_live
        + usage.tensors_grace
        + usage.staging
        + usage.catalog
        + usage.manifests
        + usage.exports
        + usage.quarantine;
    Ok(usage)
}

/// The bytes of all files at or below `path`, without blocks that were set aside behind their ends.
pub(crate) fn length(path: &Path) -> Result<u64, FileError> {
    let metadata = match durable::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.is_missing() => return Ok(0),
        Err(error) => return Err(error),
    };
    if !metadata.is_dir() {
        return Ok(metadata.len());
    }
    let entries = durable::list(path)?;
    entries.iter().map(|entry| length(&entry.path)).sum()
}

/// Remembers what was counted.
#[derive(Default)]
struct Walk {
    seen: BTreeSet<(u64, u64)>,
    /// What the file system allots to files beyond their ends.
    set_aside: u64,
}

impl Walk {
    /// The bytes of all that is at or below `path` and was not counted before.
    fn below(&mut self, path: &Path) -> Result<u64, FileError> {
        /// The unit in which the system counts allotted blocks.
        const BLOCK: u64 = 512;
        let metadata = match durable::metadata(path) {
            Ok(metadata) => metadata,
            Err(error) if error.is_missing() => return Ok(0),
            Err(error) => return Err(error),
        };
        let mut bytes = 0;
        if self.seen.insert((metadata.dev(), metadata.ino())) {
            let allotted = metadata.blocks() * BLOCK;
            let filled = if metadata.is_dir() {
                allotted
            } else {
                metadata.len().next_multiple_of(metadata.blksize().max(1))
            };
            bytes += allotted.min(filled);
            self.set_aside += allotted - allotted.min(filled);
        }
        if metadata.is_dir() {
            for entry in durable::list(path)? {
                bytes += self.below(&entry.path)?;
            }
        }
        Ok(bytes)
    }
}
