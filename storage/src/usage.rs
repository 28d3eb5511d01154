//! What the state takes on disk.

/// Bytes on disk by purpose; each file is counted once, whatever names it has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DiskUsage {
    /// The tensor files of current generations.
    pub tensors_live: u64,
    /// The tensor files of superseded generations in grace, and of commits under way.
    pub tensors_grace: u64,
    /// Uploads.
    pub staging: u64,
    /// The database.
    pub catalog: u64,
    /// Manifests, base models and counters.
    pub manifests: u64,
    /// Exports beyond the tensor files that they share.
    pub exports: u64,
    /// What recovery has set aside.
    pub quarantine: u64,
    /// All of the above.
    pub total: u64,
    /// What the file system still has for us.
    pub free: u64,
}
