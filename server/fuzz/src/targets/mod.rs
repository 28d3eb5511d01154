//! One function for each fuzzer. A function takes the bytes of one input and panics where a promise
//! is broken; what is refused in words is well.
//!
//! | target | reads | and holds |
//! |---|---|---|
//! | `safetensors` | the container, slots | the safetensors crate accepts it too; ranges inside the file |
//! | `peft` | `adapter_config.json`, NUL, the tensors | merged and exported, it is read again as it was |
//! | `pattern` | keys of `rank_pattern` | a key matches what the regex it stands for matches |
//! | `gguf` | a GGUF LoRA | exported as GGUF, it is read again as it was |
//! | `mlx` | mlx-lm's configuration, NUL, the tensors | exported for mlx-lm, it is read again as it was |
//! | `base_model` | config.json, and the header of a GGUF model | shapes have no zero; what is converted is JSON |
//! | `packed_slot` | packed slots | a head is written as it was read; every layer decodes or is refused |
//! | `document` | sealed files and the catalog's records | what is read is written and read again as it was |
//! | `configuration` | config.toml | an error says what is wrong; a configuration is in range |
//! | `upload` | messages of up to three uploads at once | see the module |

mod base_model;
mod configuration;
mod document;
mod foreign;
mod gguf_model;
mod packed_slot;
mod pattern;
mod peft;
mod safetensors;
pub(crate) mod support;
mod upload;

pub use base_model::check as base_model;
pub use configuration::check as configuration;
pub use document::check as document;
pub use foreign::{check_gguf as gguf, check_mlx as mlx};
pub use packed_slot::check as packed_slot;
pub use pattern::check as pattern;
pub use peft::check as peft;
pub use safetensors::check as safetensors;
pub use upload::check as upload;

/// Checks one input.
pub type Target = fn(&[u8]);

/// Every target by its name, which is that of its corpus.
pub const ALL: [(&str, Target); 10] = [
    ("safetensors", safetensors),
    ("peft", peft),
    ("pattern", pattern),
    ("gguf", gguf),
    ("mlx", mlx),
    ("base_model", base_model),
    ("packed_slot", packed_slot),
    ("document", document),
    ("configuration", configuration),
    ("upload", upload),
];
