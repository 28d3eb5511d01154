//! Named points at which a test can end this process, slow it down, or fail a step.
//!
//! Without the feature `failpoints` every function here is empty. With it the environment variable
//! `KMERGE_FAILPOINT` holds one plan, `name=fault@N`: the fault happens at the Nth hit of the point
//! of that name. The name `*` stands for every file operation, counted together, so that a test can
//! go through all that a piece of work does to the disk, one after the other.
//!
//! | plan | what happens |
//! |---|---|
//! | `name=kill@N` | SIGKILL before the operation |
//! | `name=error@N` | the operation fails with EIO |
//! | `name=full@N` | ENOSPC, and so for every later operation that takes room |
//! | `name=full@N:count` | as before, until so many were refused; then there is room again |
//! | `name=short@N` | a write writes a part of its bytes, and the rest meets ENOSPC |
//! | `name=torn@N` | a write writes some whole sectors, and then SIGKILL |
//! | `name=panic@N` | the thread panics, once |
//! | `name=sleep@N:millis` | this hit and all later ones take that long |
//! | `*=list@1` | nothing; `operations` tells what the operations were |

use std::io;

#[cfg(feature = "failpoints")]
mod active;
#[cfg(feature = "failpoints")]
mod plan;

#[cfg(feature = "failpoints")]
pub use active::operations;

/// Every point there is. The `durable.` points are the file operations, wherever they happen, and
/// three more are those of the database; the others stand between the numbered steps of the
/// functions that they are named after.
pub const NAMES: &[&str] = &[
    "durable.allocate",
    "durable.create",
    "durable.link",
    "durable.rename",
    "durable.sync",
    "durable.sync_dir",
    "durable.truncate",
    "durable.unlink",
    "durable.write",
    "database.apply",
    "database.flush",
    "database.open",
    "backup.file_written",
    "backup.held",
    "base_model.file_durable",
    "catalog.applied",
    "catalog.flushed",
    "catalog.synced",
    "collect.exports_removed",
    "collect.manifests_removed",
    "collect.tensors_removed",
    "commit.checked",
    "commit.manifest_written",
    "commit.manifests_durable",
    "commit.remains_removed",
    "commit.settings_durable",
    "commit.staging_removed",
    "compact.exchanged",
    "compact.old_removed",
    "compact.written",
    "counter.reserved",
    "distrust.recorded",
    "distrust.set_aside",
    "enqueue.directory_durable",
    "enqueue.header_durable",
    "enqueue.renamed",
    "export.current_moved",
    "export.files_durable",
    "export.renamed",
    "job_end.staging_removed",
    "restore.catalog_written",
    "restore.files_written",
    "restore.opened",
    "restore.renamed",
    "staging.created",
    "staging.data_durable",
    "tensor.data_durable",
    "tensor.directory_durable",
    "tensor.read",
    "tensor.renamed",
];

/// Marks a point. Does nothing unless the environment asks for something at this very point.
pub fn hit(name: &'static str) {
    #[cfg(feature = "failpoints")]
    active::hit(name);
    #[cfg(not(feature = "failpoints"))]
    let _ = name;
}

/// Marks a file operation, which may be asked to fail.
pub(crate) fn operation(name: &'static str) -> io::Result<()> {
    #[cfg(feature = "failpoints")]
    return active::operation(name);
    #[cfg(not(feature = "failpoints"))]
    {
        let _ = name;
        Ok(())
    }
}

/// Marks a write of `length` bytes, which may be asked to fail or to break off. Gives how many
/// bytes are to be written; if they are not all, [`broken_off`] says what follows.
pub(crate) fn writing(name: &'static str, length: usize) -> io::Result<usize> {
    #[cfg(feature = "failpoints")]
    return active::writing(name, length);
    #[cfg(not(feature = "failpoints"))]
    {
        let _ = name;
        Ok(length)
    }
}

/// Ends a write that was asked to break off, after what was to be written is written.
pub(crate) fn broken_off(written: usize, length: usize) -> io::Result<()> {
    #[cfg(feature = "failpoints")]
    if written < length {
        return Err(active::broken_off());
    }
    let _ = (written, length);
    Ok(())
}

#[cfg(test)]
mod tests;
