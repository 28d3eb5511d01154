//! Errors of writing an adapter for another runtime.

use std::io;

use thiserror::Error;

/// Why an adapter cannot be written in a format. It is refused rather than written wrongly.
#[derive(Debug, Error)]
pub enum FormatError {
    /// The adapter's bytes could not be read.
    #[error("reading the adapter's tensors failed")]
    Source(#[source] io::Error),
    /// What was written could not be kept.
    #[error("writing the converted adapter failed")]
    Sink(#[source] io::Error),
    /// A module whose form in llama.cpp is not known.
    #[error(
        "how llama.cpp stores {module} of {architecture} is not known here, so no GGUF can be written; pull the adapter as peft and convert it with llama.cpp's convert_lora_to_gguf.py"
    )]
    NoGgufModule {
        /// Module path.
        module: String,
        /// The base model's architecture.
        architecture: String,
    },
    /// The halves of a head that has none.
    #[error(
        "{module} has heads of {rows} rows, which have no halves to interleave, so no GGUF can be written; check num_attention_heads and head_dim in the base model's config.json"
    )]
    OddHead {
        /// Module path.
        module: String,
        /// Rows of a head.
        rows: usize,
    },
    /// A base model whose form in mlx-lm is not known.
    #[error(
        "how mlx-lm stores {architecture} is not known here, so nothing can be written for it; pull the adapter as peft"
    )]
    NoMlxModule {
        /// The base model's architecture.
        architecture: String,
    },
    /// A layout that is not in normal form.
    #[error(
        "{module} has rank {rank} and scaling {scaling} beside modules of another rank or scaling, which {format} cannot say; pull the adapter as peft"
    )]
    SeveralScales {
        /// Module path.
        module: String,
        /// Its rank.
        rank: usize,
        /// Its scaling.
        scaling: f64,
        /// The format.
        format: &'static str,
    },
}

impl FormatError {
    /// A stable word for machines, UPPER_SNAKE, at most 63 characters.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Source(_) => "FORMAT_SOURCE_FAILED",
            Self::Sink(_) => "FORMAT_SINK_FAILED",
            Self::NoGgufModule { .. } => "NO_GGUF_FORM",
            Self::OddHead { .. } => "NO_GGUF_ODD_HEAD",
            Self::NoMlxModule { .. } => "NO_MLX_FORM",
            Self::SeveralScales { .. } => "SEVERAL_SCALES",
        }
    }

    /// The operating system's part in it, where it has one.
    #[must_use]
    pub fn io(&self) -> Option<&io::Error> {
        match self {
            Self::Source(error) | Self::Sink(error) => Some(error),
            Self::NoGgufModule { .. }
            | Self::OddHead { .. }
            | Self::NoMlxModule { .. }
            | Self::SeveralScales { .. } => None,
        }
    }
}
