//! Errors of reading a GGUF file: which defect, in which key or tensor, and what to do about it.

use std::io;

use thiserror::Error;

use super::adapter::AdapterErrorKind;

/// Why a GGUF file is refused.
#[derive(Debug, Error)]
pub enum GgufError {
    /// The source failed.
    #[error("reading the GGUF file failed")]
    Source(#[source] io::Error),

    // The container.
    /// Too short for the fixed part of a header.
    #[error("the file has {bytes} bytes, too few for a GGUF header; it was cut short")]
    TooShort {
        /// Bytes in the file.
        bytes: u64,
    },
    /// Another file format.
    #[error("the file does not start with \"GGUF\"; send a LoRA that llama.cpp can load")]
    NotGguf,
    /// Written on a big-endian machine.
    #[error("the GGUF file is big-endian; convert it on a little-endian machine")]
    BigEndian,
    /// A version that is not read.
    #[error(
        "the GGUF file has version {got}; version 3 is read. Convert it with a current llama.cpp"
    )]
    Version {
        /// The version.
        got: u32,
    },
    /// More tensors than any adapter has.
    #[error("the GGUF header announces {got} tensors; at most {limit} are read")]
    TooManyTensors {
        /// Tensors announced.
        got: u64,
        /// Tensors allowed.
        limit: u64,
    },
    /// More keys than any model has.
    #[error("the GGUF header announces {got} keys; at most {limit} are read")]
    TooManyKeys {
        /// Keys announced.
        got: u64,
        /// Keys allowed.
        limit: u64,
    },
    /// The header goes on beyond the end of the file.
    #[error(
        "the GGUF header goes on beyond the end of the file, at byte {at}; it was cut short or is damaged"
    )]
    CutShort {
        /// Where more was expected.
        at: u64,
    },
    /// A header over the limit.
    #[error("the GGUF header has more than {limit} bytes")]
    HeaderTooLarge {
        /// Bytes allowed.
        limit: u64,
    },

    // Keys and values.
    /// A key of no or absurd length.
    #[error("a GGUF key has {got} bytes; it must have 1 to {limit}")]
    KeyLength {
        /// Bytes claimed.
        got: u64,
        /// Bytes allowed.
        limit: u64,
    },
    /// A key with characters that no key has.
    #[error("the GGUF key \"{key}\" is not allowed: keys are of A-Z a-z 0-9 . _ -")]
    KeyText {
        /// The key, escaped and cut.
        key: String,
    },
    /// The same key twice.
    #[error("the GGUF key `{key}` is there twice; which one counts is undefined")]
    DuplicateKey {
        /// The key.
        key: String,
    },
    /// A type of value that GGUF does not have.
    #[error("the GGUF key `{key}` has a value of type {got}, which GGUF does not know")]
    ValueType {
        /// The key.
        key: String,
        /// The type's number.
        got: u32,
    },
    /// A text longer than any real one.
    #[error("the GGUF key `{key}` holds a text of {got} bytes; at most {limit} are read")]
    TextLength {
        /// The key.
        key: String,
        /// Bytes claimed.
        got: u64,
        /// Bytes allowed.
        limit: u64,
    },
    /// A text that is no UTF-8.
    #[error("the GGUF key `{key}` holds a text that is not UTF-8")]
    TextEncoding {
        /// The key.
        key: String,
    },
    /// A truth value that is neither.
    #[error("the GGUF key `{key}` is a truth value of {got}; it must be 0 or 1")]
    BoolValue {
        /// The key.
        key: String,
        /// The byte.
        got: u8,
    },
    /// An array of arrays.
    #[error("the GGUF key `{key}` is an array of arrays, which llama.cpp does not load either")]
    NestedArray {
        /// The key.
        key: String,
    },
    /// An array that the file has no room for.
    #[error("the GGUF key `{key}` is an array of {got} elements, more than the file has room for")]
    ArrayLength {
        /// The key.
        key: String,
        /// Elements claimed.
        got: u64,
    },
    /// A known key with a value of another type.
    #[error("the GGUF key `{key}` must be {expected}")]
    KeyType {
        /// The key.
        key: String,
        /// What it should be.
        expected: &'static str,
    },
    /// A needed key is absent.
    #[error("the GGUF file has no `{key}`; {remedy}")]
    MissingKey {
        /// The key.
        key: String,
        /// What to do.
        remedy: &'static str,
    },
    /// An alignment that is none.
    #[error("general.alignment is {got}; it must be a power of two between 1 and {limit}")]
    Alignment {
        /// The value.
        got: u64,
        /// Largest allowed.
        limit: u64,
    },

    // Tensors.
    /// A name of no or absurd length.
    #[error("a GGUF tensor's name has {got} bytes; it must have 1 to {limit}")]
    NameLength {
        /// Bytes claimed.
        got: u64,
        /// Bytes allowed.
        limit: u64,
    },
    /// A name with characters that no tensor's name has.
    #[error("the GGUF tensor name \"{name}\" is not allowed: names are of A-Z a-z 0-9 . _ - /")]
    NameText {
        /// The name, escaped and cut.
        name: String,
    },
    /// One tensor name twice.
    #[error("the tensor {name} is listed twice in the GGUF header")]
    DuplicateTensor {
        /// Tensor name.
        name: String,
    },
    /// No or too many dimensions.
    #[error("{name} has {got} dimensions; a GGUF tensor has 1 to {limit}")]
    Dimensions {
        /// Tensor name.
        name: String,
        /// Dimensions declared.
        got: u32,
        /// Dimensions allowed.
        limit: u32,
    },
    /// A dimension of zero or of absurd size.
    #[error("{name} has a dimension of {got}; each must be between 1 and {limit}")]
    DimensionOutOfRange {
        /// Tensor name.
        name: String,
        /// The dimension.
        got: u64,
        /// Largest allowed.
        limit: u64,
    },
    /// More elements than any factor has.
    #[error("{name} declares more than {limit} elements")]
    TensorTooLarge {
        /// Tensor name.
        name: String,
        /// Elements allowed.
        limit: u64,
    },
    /// A quantised tensor, or a type that is not known.
    #[error(
        "{name} is stored as {got}; factors must be F32, F16 or BF16. Convert the adapter again with --outtype f16"
    )]
    TensorType {
        /// Tensor name.
        name: String,
        /// The type's name or number.
        got: String,
    },
    /// An offset between two alignments.
    #[error("{name} starts at byte {got} of the data, which is no multiple of {alignment}")]
    OffsetUnaligned {
        /// Tensor name.
        name: String,
        /// Its offset.
        got: u64,
        /// The alignment.
        alignment: u64,
    },
    /// Two tensors share bytes, or come in another order than their descriptions.
    #[error(
        "{name} starts at byte {got} of the data, inside what comes before it, which ends at {expected}"
    )]
    TensorOverlap {
        /// Tensor name.
        name: String,
        /// Where it may begin.
        expected: u64,
        /// Where it begins.
        got: u64,
    },
    /// A hole before a tensor.
    #[error(
        "{name} starts at byte {got} of the data where {expected} was expected; tensors must follow each other"
    )]
    TensorGap {
        /// Tensor name.
        name: String,
        /// Where it should begin.
        expected: u64,
        /// Where it begins.
        got: u64,
    },
    /// A tensor that the file ends before.
    #[error(
        "{name} ends at byte {end} of the data, of which there are {data}; the file was cut short"
    )]
    TensorBeyondFile {
        /// Tensor name.
        name: String,
        /// Where it ends.
        end: u64,
        /// Bytes of data.
        data: u64,
    },
    /// Bytes after the last tensor.
    #[error("the tensors cover {covered} of {data} bytes of data; the rest belongs to nothing")]
    TrailingBytes {
        /// Bytes covered, padding included.
        covered: u64,
        /// Bytes of data in the file.
        data: u64,
    },

    // The adapter.
    /// A model, not an adapter.
    #[error(
        "general.type of the GGUF file is {got}, not adapter; send the LoRA, not the model it belongs to"
    )]
    NotAnAdapter {
        /// What it is, escaped and cut.
        got: String,
    },
    /// An adapter of another kind.
    #[error("adapter.type of the GGUF file is {got}; only lora can be merged")]
    AdapterType {
        /// What it is, escaped and cut.
        got: String,
    },
    /// Activated LoRA.
    #[error(
        "this is an activated LoRA (adapter.alora.invocation_tokens): it acts only after given tokens, which a merged slot cannot do"
    )]
    Activated,
    /// A LoRA for another architecture.
    #[error(
        "the GGUF LoRA is for the architecture {got}, and the base model is {expected} in llama.cpp; it was made for another base model"
    )]
    Architecture {
        /// What it is for, escaped and cut.
        got: String,
        /// The base model's.
        expected: &'static str,
    },
    /// An alpha that is negative, not finite or absurd.
    #[error(
        "adapter.lora.alpha is {got}; it must be 0, for a scaling of 1, or between {lowest} and {highest}"
    )]
    Alpha {
        /// The value.
        got: f64,
        /// Smallest alpha allowed.
        lowest: f64,
        /// Largest alpha allowed.
        highest: f64,
    },
    /// A tensor that is nothing known.
    #[error("{name} is not a LoRA factor; expected <tensor of the base>.lora_a or .lora_b")]
    UnknownTensor {
        /// Tensor name.
        name: String,
    },
    /// A tensor of a base model that is not known in full.
    #[error(
        "how llama.cpp stores {name} of {architecture} is not known here; send the adapter as a PEFT directory"
    )]
    NoForm {
        /// Tensor name.
        name: String,
        /// The base model's architecture.
        architecture: String,
    },
    /// The halves of a head that has none.
    #[error(
        "{module} has heads of {rows} rows, which have no halves; llama.cpp cannot have interleaved them"
    )]
    OddHead {
        /// Module path.
        module: String,
        /// Rows of a head.
        rows: usize,
    },
}

impl GgufError {
    /// What sort of answer the defect deserves.
    #[must_use]
    pub fn kind(&self) -> AdapterErrorKind {
        self.facts().0
    }

    /// A stable word for machines, UPPER_SNAKE, at most 63 characters.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        self.facts().1
    }

    fn facts(&self) -> (AdapterErrorKind, &'static str) {
        use AdapterErrorKind::{Io, Malformed, Unsupported, WrongBase};
        match self {
            Self::Source(_) => (Io, "TENSOR_SOURCE_FAILED"),
            Self::TooShort { .. } => (Malformed, "GGUF_TOO_SHORT"),
            Self::NotGguf => (Malformed, "NOT_GGUF"),
            Self::BigEndian => (Unsupported, "GGUF_BIG_ENDIAN"),
            Self::Version { .. } => (Unsupported, "GGUF_VERSION"),
            Self::TooManyTensors { .. } => (Malformed, "GGUF_TOO_MANY_TENSORS"),
            Self::TooManyKeys { .. } => (Malformed, "GGUF_TOO_MANY_KEYS"),
            Self::CutShort { .. } => (Malformed, "GGUF_CUT_SHORT"),
            Self::HeaderTooLarge { .. } => (Malformed, "GGUF_HEADER_TOO_LARGE"),
            Self::KeyLength { .. } => (Malformed, "GGUF_KEY_LENGTH"),
            Self::KeyText { .. } => (Malformed, "GGUF_KEY_TEXT"),
            Self::DuplicateKey { .. } => (Malformed, "GGUF_DUPLICATE_KEY"),
            Self::ValueType { .. } => (Malformed, "GGUF_VALUE_TYPE"),
            Self::TextLength { .. } => (Malformed, "GGUF_TEXT_LENGTH"),
            Self::TextEncoding { .. } => (Malformed, "GGUF_TEXT_ENCODING"),
            Self::BoolValue { .. } => (Malformed, "GGUF_BOOL_VALUE"),
            Self::NestedArray { .. } => (Malformed, "GGUF_NESTED_ARRAY"),
            Self::ArrayLength { .. } => (Malformed, "GGUF_ARRAY_LENGTH"),
            Self::KeyType { .. } => (Malformed, "GGUF_KEY_TYPE"),
            Self::MissingKey { .. } => (Malformed, "GGUF_MISSING_KEY"),
            Self::Alignment { .. } => (Malformed, "GGUF_ALIGNMENT"),
            Self::NameLength { .. } => (Malformed, "GGUF_NAME_LENGTH"),
            Self::NameText { .. } => (Malformed, "GGUF_NAME_TEXT"),
            Self::DuplicateTensor { .. } => (Malformed, "GGUF_DUPLICATE_TENSOR"),
            Self::Dimensions { .. } => (Malformed, "GGUF_DIMENSIONS"),
            Self::DimensionOutOfRange { .. } => (Malformed, "GGUF_DIMENSION_OUT_OF_RANGE"),
            Self::TensorTooLarge { .. } => (Malformed, "GGUF_TENSOR_TOO_LARGE"),
            Self::TensorType { .. } => (Unsupported, "GGUF_TENSOR_TYPE"),
            Self::OffsetUnaligned { .. } => (Malformed, "GGUF_OFFSET_UNALIGNED"),
            Self::TensorOverlap { .. } => (Malformed, "GGUF_TENSOR_OVERLAP"),
            Self::TensorGap { .. } => (Malformed, "GGUF_TENSOR_GAP"),
            Self::TensorBeyondFile { .. } => (Malformed, "GGUF_TENSOR_BEYOND_FILE"),
            Self::TrailingBytes { .. } => (Malformed, "GGUF_TRAILING_BYTES"),
            Self::NotAnAdapter { .. } => (Unsupported, "GGUF_NOT_AN_ADAPTER"),
            Self::AdapterType { .. } => (Unsupported, "GGUF_ADAPTER_TYPE"),
            Self::Activated => (Unsupported, "GGUF_ACTIVATED_LORA"),
            Self::Architecture { .. } => (WrongBase, "GGUF_ARCHITECTURE"),
            Self::Alpha { .. } => (Malformed, "GGUF_ALPHA"),
            Self::UnknownTensor { .. } => (Malformed, "GGUF_UNKNOWN_TENSOR"),
            Self::NoForm { .. } => (Unsupported, "GGUF_NO_FORM"),
            Self::OddHead { .. } => (WrongBase, "GGUF_ODD_HEAD"),
        }
    }
}
