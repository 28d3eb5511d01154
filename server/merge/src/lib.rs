//! The mathematics of kmerge: adapters, similarity, assignment, operators.
//!
//! Pure: bytes and tensors in, values out. No async, no files, no clock, no logging, no threads of
//! its own: parallel code runs on rayon's *current* pool, so callers choose the threads with
//! [`rayon::ThreadPool::install`]. Deterministic: the same input gives the same bytes, whatever the
//! number of threads. Working memory is a few modules, never a whole adapter.
//!
//! The way of a newcomer: [`Format::decode`] reads its configuration and header, [`check_values`] its
//! values, [`plan()`] decides its slot, [`execute()`] writes the slot's next generation,
//! [`export_config`] makes that file a PEFT adapter; [`gguf`] and [`mlx`] write it for llama.cpp and
//! mlx-lm.
//!
//! `DESIGN.md` in the crate has notation, formulas with their sources, and invariants.

mod adapter;
mod arrange;
pub mod assign;
mod base;
mod device;
mod dtype;
mod element;
mod error;
mod execute;
mod format;
pub mod gguf;
mod gram;
mod header;
mod history;
mod json;
mod linalg;
pub mod mlx;
mod modules;
mod operator;
mod parallel;
mod peft;
mod plan;
mod policy;
pub mod progressive;
mod similarity;
mod source;

pub use adapter::{AdapterLayout, AdapterView, ModuleLayout, TensorRange, compare_paths};
pub use arrange::{Arranged, Arrangement};
pub use base::{BaseModel, ModuleShape};
pub use dtype::Dtype;
pub use error::{
    AdapterError, AdapterErrorKind, BaseModelError, Evidence, FormatError, GgufError, MergeError,
    MlxError,
};
pub use execute::{Outcome, execute, execute_joined};
pub use format::Format;
pub use history::History;
pub use peft::{
    Decoded, EXPORT_CONFIG, EXPORT_TENSORS, check_values, decode, decode_slot, export_config,
};
pub use plan::{Assignment, Joined, Plan, Progress, SlotView, plan, plan_after, unite};
pub use policy::{AssignmentRule, Operator, Policy, PolicyError, SlotDtype, Weighting};
pub use similarity::{ModuleNorms, similarity};
pub use source::{TensorSink, TensorSource};
