//! Errors that only an adapter of mlx-lm can have; the rest are those of any configuration and any
//! safetensors file.

use thiserror::Error;

use super::adapter::AdapterErrorKind;

/// Why an adapter of mlx-lm is refused.
#[derive(Debug, Error)]
pub enum MlxError {
    /// Not a LoRA.
    #[error("fine_tune_type is {got}; only lora can be merged")]
    FineTuneType {
        /// What it is, escaped and cut.
        got: String,
    },
    /// A needed field is absent.
    #[error(
        "adapter_config.json has no `{key}`; send the one that mlx-lm wrote beside adapters.safetensors"
    )]
    MissingField {
        /// The field.
        key: &'static str,
    },
    /// A scale that is zero, negative or absurd.
    #[error(
        "adapter_config.json: `lora_parameters.scale` is {got}; it must be between {lowest} and {highest}"
    )]
    Scale {
        /// The value.
        got: String,
        /// Smallest scale allowed.
        lowest: f64,
        /// Largest scale allowed.
        highest: f64,
    },
    /// More layer-relative paths than allowed.
    #[error("adapter_config.json lists {got} `lora_parameters.keys`; at most {limit} are read")]
    TooManyKeys {
        /// Entries given.
        got: usize,
        /// Entries allowed.
        limit: usize,
    },
    /// A tensor that is nothing known.
    #[error("{name} is not a factor of an mlx-lm LoRA; expected <module>.lora_a or .lora_b")]
    UnknownTensor {
        /// Tensor name.
        name: String,
    },
    /// A module that `keys` leaves out, so that mlx-lm itself would not load the file.
    #[error(
        "{module} is not among `lora_parameters.keys`, so mlx-lm would refuse it; the two files do not belong together"
    )]
    OutsideKeys {
        /// Module path.
        module: String,
    },
    /// A layer that `num_layers` leaves out, so that mlx-lm itself would not load the file.
    #[error(
        "{module} is not in the last {num_layers} layers, which `num_layers` says were trained; the two files do not belong together"
    )]
    OutsideLayers {
        /// Module path.
        module: String,
        /// The field's value.
        num_layers: u64,
    },
    /// A base model that mlx-lm has in another form.
    #[error(
        "{architecture} has no form in mlx-lm that is known here; send the adapter as a PEFT directory"
    )]
    UnknownBase {
        /// The base model's architecture.
        architecture: String,
    },
}

impl MlxError {
    /// What sort of answer the defect deserves.
    #[must_use]
    pub fn kind(&self) -> AdapterErrorKind {
        self.facts().0
    }

    /// Which part of the upload is wrong: `"config"` or `"tensors"`.
    #[must_use]
    pub fn field(&self) -> &'static str {
        self.facts().1
    }

    /// A stable word for machines, UPPER_SNAKE, at most 63 characters.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        self.facts().2
    }

    fn facts(&self) -> (AdapterErrorKind, &'static str, &'static str) {
        use AdapterErrorKind::{Malformed, Unsupported};
        const CONFIG: &str = "config";
        const TENSORS: &str = "tensors";
        match self {
            Self::FineTuneType { .. } => (Unsupported, CONFIG, "MLX_FINE_TUNE_TYPE"),
            Self::MissingField { .. } => (Malformed, CONFIG, "MLX_MISSING_FIELD"),
            Self::Scale { .. } => (Malformed, CONFIG, "MLX_SCALE"),
            Self::TooManyKeys { .. } => (Malformed, CONFIG, "MLX_TOO_MANY_KEYS"),
            Self::UnknownTensor { .. } => (Malformed, TENSORS, "MLX_UNKNOWN_TENSOR"),
            Self::OutsideKeys { .. } => (Malformed, TENSORS, "MLX_OUTSIDE_KEYS"),
            Self::OutsideLayers { .. } => (Malformed, TENSORS, "MLX_OUTSIDE_LAYERS"),
            Self::UnknownBase { .. } => (Unsupported, TENSORS, "MLX_UNKNOWN_BASE"),
        }
    }
}
