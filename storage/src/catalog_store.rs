//! What the catalog asks of the database below it, and nothing more.
//!
//! Owned by the committer; called from its thread alone. Two implementations stand behind the
//! trait, sled and one in memory, and the same tests run on both.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use crate::error::CatalogError;

/// Receives the pairs of a scan.
pub(crate) type Visit<'a> = dyn FnMut(&[u8], &[u8]) + 'a;

/// An ordered map of small values.
pub(crate) trait CatalogStore: Send + fmt::Debug {
    /// Shows every pair, in the order of the keys.
    fn scan(&self, visit: &mut Visit<'_>) -> Result<(), CatalogError>;

    /// Sees to it that `bytes` more can be written, so that no change meets a full disk half-way.
    /// Nothing is changed.
    fn make_room(&mut self, bytes: u64) -> Result<(), CatalogError> {
        let _ = bytes;
        Ok(())
    }

    /// Applies a batch as one: after a crash all of it is there or nothing. It is not durable yet.
    fn apply(&mut self, batch: &Batch) -> Result<(), CatalogError>;

    /// Hands all that was applied to the system, so that it survives the end of this process.
    fn flush(&mut self) -> Result<(), CatalogError>;

    /// Waits until the medium has all that was flushed, so that it survives the loss of power.
    fn sync(&mut self) -> Result<(), CatalogError>;

    /// Closes the database, durably.
    fn close(self: Box<Self>) -> Result<(), CatalogError>;
}

type Open = dyn Fn(&Path) -> Result<Box<dyn CatalogStore>, CatalogError> + Send + Sync;

/// Opens the database in a directory.
#[derive(Clone)]
pub(crate) struct StoreOpener(Arc<Open>);

impl StoreOpener {
    /// Opens databases by that function.
    pub(crate) fn new(
        open: impl Fn(&Path) -> Result<Box<dyn CatalogStore>, CatalogError> + Send + Sync + 'static,
    ) -> Self {
        Self(Arc::new(open))
    }

    /// Opens the database in `path`.
    pub(crate) fn open(&self, path: &Path) -> Result<Box<dyn CatalogStore>, CatalogError> {
        (self.0)(path)
    }
}

impl fmt::Debug for StoreOpener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StoreOpener")
    }
}

/// Changes that belong together. The last change of a key counts.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Batch {
    changes: BTreeMap<String, Option<Vec<u8>>>,
}

impl Batch {
    /// Puts a value under a key.
    pub(crate) fn put(&mut self, key: String, value: Vec<u8>) {
        self.changes.insert(key, Some(value));
    }

    /// Removes a key, if it is there.
    pub(crate) fn remove(&mut self, key: String) {
        self.changes.insert(key, None);
    }

    /// Whether there is nothing to change.
    pub(crate) fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// How many bytes the database may write for it: the records, their share of the pages that are
    /// written again after every ten changes, and segments that are begun. Rather too many.
    pub(crate) fn room(&self) -> u64 {
        const SEGMENTS: u64 = 1024 * 1024;
        const RECORD: u64 = 4 * 1024;
        SEGMENTS + RECORD * self.changes.len() as u64
    }

    /// The changes by key; no value means removal.
    pub(crate) fn changes(&self) -> impl Iterator<Item = (&str, Option<&[u8]>)> {
        self.changes
            .iter()
            .map(|(key, value)| (key.as_str(), value.as_deref()))
    }

    /// The same changes in batches of at most `size`.
    pub(crate) fn split(self, size: usize) -> Vec<Self> {
        let mut batches = Vec::new();
        let mut changes = self.changes.into_iter().peekable();
        while changes.peek().is_some() {
            batches.push(Self {
                changes: changes.by_ref().take(size).collect(),
            });
        }
        batches
    }
}

#[cfg(test)]
mod tests;
