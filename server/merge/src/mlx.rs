//! LoRAs as mlx-lm loads them: `adapters.safetensors` and `adapter_config.json`.
//!
//! mlx-lm computes y += scale · (x·a)·b, so both factors are PEFT's transposed, and its scale is the
//! final factor, not alpha. It knows one rank and one scale for all modules and checks names and
//! shapes strictly (`mlx_lm/tuner/utils.py`); reading here is as strict. Paths are those of
//! transformers without PEFT's prefix, but for multimodal wrappers, whose blocks mlx-lm keeps
//! elsewhere.

mod config;
mod decode;
mod export;

pub use decode::decode;
pub use export::{MlxFacts, export, export_config};

/// The name under which mlx-lm looks for the factors.
pub const EXPORT_TENSORS: &str = "adapters.safetensors";
/// The name under which mlx-lm looks for the configuration.
pub const EXPORT_CONFIG: &str = "adapter_config.json";
