//! LoRAs as llama.cpp loads them: one GGUF file.
//!
//! The format is that of ggml's `docs/gguf.md`, the keys and names those of llama.cpp's
//! `src/llama-adapter.cpp`. The reader trusts no byte: it allocates nothing from declared sizes and
//! refuses what llama.cpp would refuse. In llama.cpp some classes have the rows of q and k
//! interleaved within each head (`conversion/llama.py`); of a LoRA that concerns B alone. Reading
//! says so in the [`Arrangement`](crate::Arrangement), writing does it. Nothing else is changed:
//! alpha stays alpha, and every element keeps its bits.
//!
//! | part | of |
//! |---|---|
//! | `cursor` | bounded reading from front to back |
//! | `header` | keys, values and tensor descriptions, checked |
//! | `decode` | an adapter's modules |
//! | `export` | writing |

mod cursor;
mod decode;
mod export;
mod header;

pub use decode::decode;
pub use export::{GgufFacts, export};

/// The first bytes of every GGUF file.
pub const MAGIC: [u8; 4] = *b"GGUF";

/// The name under which a LoRA is written; llama.cpp takes any.
pub const EXPORT_FILE: &str = "adapter.gguf";

/// The version read and written.
const VERSION: u32 = 3;
/// What tensors and data are aligned to unless the file says otherwise.
const DEFAULT_ALIGNMENT: u64 = 32;

/// The keys that an adapter is known by.
mod key {
    pub(super) const TYPE: &str = "general.type";
    pub(super) const ARCHITECTURE: &str = "general.architecture";
    pub(super) const ALIGNMENT: &str = "general.alignment";
    pub(super) const NAME: &str = "general.name";
    pub(super) const FILE_TYPE: &str = "general.file_type";
    pub(super) const BASE_COUNT: &str = "general.base_model.count";
    pub(super) const BASE_NAME: &str = "general.base_model.0.name";
    pub(super) const ADAPTER_TYPE: &str = "adapter.type";
    pub(super) const ALPHA: &str = "adapter.lora.alpha";
    pub(super) const TASK_NAME: &str = "adapter.lora.task_name";
    pub(super) const PROMPT_PREFIX: &str = "adapter.lora.prompt_prefix";
    pub(super) const INVOCATION: &str = "adapter.alora.invocation_tokens";
}

/// The numbers of the types that values may have.
mod value_type {
    pub(super) const U8: u32 = 0;
    pub(super) const I8: u32 = 1;
    pub(super) const U16: u32 = 2;
    pub(super) const I16: u32 = 3;
    pub(super) const U32: u32 = 4;
    pub(super) const I32: u32 = 5;
    pub(super) const F32: u32 = 6;
    pub(super) const BOOL: u32 = 7;
    pub(super) const TEXT: u32 = 8;
    pub(super) const ARRAY: u32 = 9;
    pub(super) const U64: u32 = 10;
    pub(super) const I64: u32 = 11;
    pub(super) const F64: u32 = 12;
}
