//! What can be wrong, one variant per defect.
//!
//! Each enum belongs to one operation, so a caller is never asked about a defect that cannot occur
//! there: [`BaseModelError`] to reading a base model's config, [`AdapterError`] to reading an
//! adapter ([`GgufError`] and [`MlxError`] where it comes in those formats), [`FormatError`] to
//! writing one for another runtime, [`MergeError`] to planning and executing a merge. Messages say what happened, to what,
//! and what to do. `reason()` is a stable word for machines; messages may change.

mod adapter;
mod base;
mod facts;
mod format;
mod gguf;
mod merge;
mod mlx;

pub use adapter::{AdapterError, AdapterErrorKind, Evidence};
pub use base::BaseModelError;
pub use format::FormatError;
pub use gguf::GgufError;
pub use merge::MergeError;
pub use mlx::MlxError;
