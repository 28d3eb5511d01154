//! Errors of reading a base model's `config.json`.

use thiserror::Error;

/// Why a `config.json` does not describe a base model that adapters can be merged for.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum BaseModelError {
    /// More bytes than any real configuration has.
    #[error(
        "config.json is {bytes} bytes; at most {limit} are read. Send the model's own config.json, nothing else"
    )]
    TooLarge {
        /// Bytes given.
        bytes: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// Not JSON.
    #[error("config.json is not valid JSON: {detail}")]
    Syntax {
        /// The parser's message with line and column.
        detail: String,
    },
    /// A key occurs twice in one object.
    #[error(
        "config.json has the key `{key}` twice in one object; which one counts is undefined, so remove one"
    )]
    DuplicateKey {
        /// The key.
        key: String,
    },
    /// JSON, but not an object.
    #[error("config.json must be a JSON object")]
    NotAnObject,
    /// A needed field is absent.
    #[error(
        "config.json has no `{field}`, which {architecture} needs; use the config.json of the model as published"
    )]
    MissingField {
        /// The field.
        field: &'static str,
        /// The architecture that needs it.
        architecture: String,
    },
    /// A field has another JSON type than it should.
    #[error("config.json: `{field}` must be {expected}")]
    FieldType {
        /// The field.
        field: &'static str,
        /// What it should be.
        expected: &'static str,
    },
    /// A number outside any real model's range.
    #[error("config.json: `{field}` is {got}; it must be between 1 and {limit}")]
    OutOfRange {
        /// The field.
        field: &'static str,
        /// Its value.
        got: u64,
        /// The largest value allowed.
        limit: u64,
    },
    /// The head size can neither be read nor derived.
    #[error(
        "config.json: hidden_size {hidden_size} is not a multiple of num_attention_heads {heads} and there is no head_dim"
    )]
    HeadSize {
        /// Width of the residual stream.
        hidden_size: u64,
        /// Number of attention heads.
        heads: u64,
    },
    /// Key-value heads that cannot be shared evenly by the attention heads.
    #[error(
        "config.json: num_attention_heads {heads} is not a multiple of num_key_value_heads {kv_heads}"
    )]
    KeyValueHeads {
        /// Number of attention heads.
        heads: u64,
        /// Number of key-value heads.
        kv_heads: u64,
    },
    /// Neither `architectures` nor `model_type` is there.
    #[error(
        "config.json names no architecture; `architectures` or `model_type` must say which it is. Known: {known}"
    )]
    NoArchitecture {
        /// The architectures known, comma-separated.
        known: String,
    },
    /// An architecture whose modules and shapes are not known.
    #[error(
        "the architecture {got} is not known, so the shapes of its modules cannot be checked. Known: {known}"
    )]
    UnknownArchitecture {
        /// The architecture named.
        got: String,
        /// The architectures known, comma-separated.
        known: String,
    },
}

impl BaseModelError {
    /// A stable word for machines, UPPER_SNAKE, at most 63 characters.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::TooLarge { .. } => "BASE_CONFIG_TOO_LARGE",
            Self::Syntax { .. } => "BASE_CONFIG_SYNTAX",
            Self::DuplicateKey { .. } => "BASE_CONFIG_DUPLICATE_KEY",
            Self::NotAnObject => "BASE_CONFIG_NOT_AN_OBJECT",
            Self::MissingField { .. } => "BASE_CONFIG_MISSING_FIELD",
            Self::FieldType { .. } => "BASE_CONFIG_FIELD_TYPE",
            Self::OutOfRange { .. } => "BASE_CONFIG_OUT_OF_RANGE",
            Self::HeadSize { .. } => "BASE_CONFIG_HEAD_SIZE",
            Self::KeyValueHeads { .. } => "BASE_CONFIG_KEY_VALUE_HEADS",
            Self::NoArchitecture { .. } => "BASE_CONFIG_NO_ARCHITECTURE",
            Self::UnknownArchitecture { .. } => "UNKNOWN_ARCHITECTURE",
        }
    }
}
