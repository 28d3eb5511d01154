//! PEFT adapters: `adapter_config.json` and `adapter_model.safetensors`.
//!
//! Reading trusts neither file. The configuration says how factors are scaled and which variant it
//! is; every variant whose update is not scaling · B · A on the published base is refused by name.
//! The tensors say which modules there are and their ranks. Writing knows one form: normal form,
//! where scaling is 1 and every runtime agrees on the meaning.

mod config;
mod decode;
mod export;
mod names;
mod pattern;
mod refuse;
mod slot;
mod values;

pub(crate) use config::{MAX_ALPHA, MIN_ALPHA, defect, rank};
pub(crate) use decode::Pair;
pub use decode::{Decoded, decode};
pub use export::export_config;
pub(crate) use names::Factor;
pub use slot::decode_slot;
pub use values::check_values;

/// The name under which PEFT looks for the factors.
pub const EXPORT_TENSORS: &str = "adapter_model.safetensors";
/// The name under which PEFT looks for the configuration.
pub const EXPORT_CONFIG: &str = "adapter_config.json";

/// Largest rank merged.
pub(crate) const MAX_RANK: usize = 1024;
