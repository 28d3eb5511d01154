//! The formats in which adapters come and go.

use crate::{AdapterError, BaseModel, Decoded, TensorSource, decode, gguf, mlx};

/// How an adapter is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Format {
    /// PEFT's directory: `adapter_config.json` and `adapter_model.safetensors`.
    Peft,
    /// llama.cpp's single file.
    Gguf,
    /// mlx-lm's directory: `adapter_config.json` and `adapters.safetensors`.
    Mlx,
}

impl Format {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Peft, Self::Gguf, Self::Mlx];

    /// A plain word for it: `peft`, `gguf`, `mlx`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Peft => "peft",
            Self::Gguf => "gguf",
            Self::Mlx => "mlx",
        }
    }

    /// The format of that name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|format| format.name() == name)
    }

    /// Reads what there is to be read before any value; a GGUF file has no `config` of its own.
    ///
    /// # Errors
    ///
    /// As [`decode()`], [`gguf::decode`] and [`mlx::decode`].
    pub fn decode(
        self,
        config: &[u8],
        source: &dyn TensorSource,
        base: &BaseModel,
    ) -> Result<Decoded, AdapterError> {
        match self {
            Self::Peft => decode(config, source, base),
            Self::Gguf => gguf::decode(source, base),
            Self::Mlx => mlx::decode(config, source, base),
        }
    }
}
