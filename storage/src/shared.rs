//! What the capabilities of one open state directory share.

use std::sync::Mutex;

use crate::derived::DerivedBook;
use crate::durable::Disk;
use crate::layout::Layout;
use crate::lock::Lock;
use crate::reserve::Reserve;
use crate::tensors::Leases;

/// The directory, its health and its lock. Given back when the last capability is dropped.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) layout: Layout,
    pub(crate) disk: Disk,
    /// The tensor files that a commit may still name.
    pub(crate) leases: Leases,
    /// Held while an export is put in place or exports are removed, so that neither sees half of
    /// the other.
    pub(crate) exports: Mutex<()>,
    /// The exports that were made on demand.
    pub(crate) derived: DerivedBook,
    /// Room for what must work on a full disk.
    pub(crate) reserve: Reserve,
    pub(crate) _lock: Lock,
}

impl Shared {
    /// The failure after which nothing more must be written.
    pub(crate) fn failure(&self) -> Option<&str> {
        self.disk.health().failure()
    }
}
