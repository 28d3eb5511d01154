//! A backup: the whole state at one revision, in one file that can be looked into without kmerge.
//!
//! It is a POSIX tar archive (ustar) with these entries, in this order and each at most once:
//!
//! ```text
//! kmerge-backup.json                            what is in it: version, revision, counts, bytes
//! catalog.jsonl                                 the catalog's records, a line each
//! base-models/<name>/base-model.json
//! manifests/<base model>/<slot>/<generation>.json   of current generations and emptied slots
//! staging/<job>/{header.json,config.json,tensors}   of jobs that have not ended
//! tensors/<2 digits>/<sha256>                   each once
//! SHA256SUMS                                    of all of the above, as sha256sum writes it
//! ```
//!
//! Made by [`Committer::snapshot`](crate::Committer::snapshot), written by [`Snapshot`], read by
//! [`restore`](crate::restore()). What holds: every byte of an archive is either covered by a digest in it or
//! can have one value only, so that no change of it is taken for a backup; and all of it is of one
//! revision. Generations in grace are left out, and with them everything of tasks that were forgotten.

mod contents;
pub(crate) mod read;
mod snapshot;
pub(crate) mod tar;
mod write;

pub use contents::BackupContents;
pub(crate) use contents::EntryName;
pub use snapshot::Snapshot;
pub use write::{Backup, Written};

/// The longest document in a backup, in bytes. Documents are read into memory whole.
pub(crate) const DOCUMENT_LIMIT: u64 = 64 * 1024 * 1024;
