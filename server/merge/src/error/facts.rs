//! Kind, field and reason of every adapter error: the table that callers answer from.

use super::adapter::{AdapterError, AdapterErrorKind, Evidence};

const CONFIG: &str = "config";
const TENSORS: &str = "tensors";

impl Evidence {
    fn part(&self) -> &'static str {
        match self {
            Self::Field(_) => CONFIG,
            Self::Tensor(_) => TENSORS,
        }
    }
}

impl AdapterError {
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

    /// Kind, field and reason in one exhaustive table, so that a new variant needs all three.
    fn facts(&self) -> (AdapterErrorKind, &'static str, &'static str) {
        use AdapterErrorKind::{Io, Malformed, Unsupported, WrongBase};
        match self {
            Self::Source(_) => (Io, TENSORS, "TENSOR_SOURCE_FAILED"),
            Self::Gguf(defect) => (defect.kind(), TENSORS, defect.reason()),
            Self::Mlx(defect) => (defect.kind(), defect.field(), defect.reason()),
            Self::ForeignFile { .. } => (Malformed, TENSORS, "NOT_SAFETENSORS"),
            Self::FileTooShort { .. } => (Malformed, TENSORS, "FILE_TOO_SHORT"),
            Self::HeaderTooLarge { .. } => (Malformed, TENSORS, "HEADER_TOO_LARGE"),
            Self::HeaderBeyondFile { .. } => (Malformed, TENSORS, "HEADER_BEYOND_FILE"),
            Self::HeaderStart => (Malformed, TENSORS, "HEADER_START"),
            Self::HeaderSyntax { .. } => (Malformed, TENSORS, "HEADER_SYNTAX"),
            Self::DuplicateTensor { .. } => (Malformed, TENSORS, "DUPLICATE_TENSOR"),
            Self::TensorName { .. } => (Malformed, TENSORS, "TENSOR_NAME"),
            Self::TooManyTensors { .. } => (Malformed, TENSORS, "TOO_MANY_TENSORS"),
            Self::TensorDtype { .. } => (Malformed, TENSORS, "TENSOR_DTYPE"),
            Self::TensorDimensions { .. } => (Malformed, TENSORS, "TENSOR_DIMENSIONS"),
            Self::DimensionOutOfRange { .. } => (Malformed, TENSORS, "DIMENSION_OUT_OF_RANGE"),
            Self::TensorTooLarge { .. } => (Malformed, TENSORS, "TENSOR_TOO_LARGE"),
            Self::TensorOffsets { .. } => (Malformed, TENSORS, "TENSOR_OFFSETS"),
            Self::TensorBytes { .. } => (Malformed, TENSORS, "TENSOR_BYTES"),
            Self::TensorGap { .. } => (Malformed, TENSORS, "TENSOR_GAP"),
            Self::TrailingBytes { .. } => (Malformed, TENSORS, "TRAILING_BYTES"),
            Self::ConfigTooLarge { .. } => (Malformed, CONFIG, "CONFIG_TOO_LARGE"),
            Self::ConfigSyntax { .. } => (Malformed, CONFIG, "CONFIG_SYNTAX"),
            Self::ConfigDuplicateKey { .. } => (Malformed, CONFIG, "CONFIG_DUPLICATE_KEY"),
            Self::ConfigNotAnObject => (Malformed, CONFIG, "CONFIG_NOT_AN_OBJECT"),
            Self::ConfigType { .. } => (Malformed, CONFIG, "CONFIG_TYPE"),
            Self::RankOutOfRange { .. } => (Malformed, CONFIG, "RANK_OUT_OF_RANGE"),
            Self::AlphaOutOfRange { .. } => (Malformed, CONFIG, "ALPHA_OUT_OF_RANGE"),
            Self::TooManyTargetModules { .. } => (Malformed, CONFIG, "TOO_MANY_TARGET_MODULES"),
            Self::TooManyPatterns { .. } => (Malformed, CONFIG, "TOO_MANY_PATTERNS"),
            Self::PatternSyntax { .. } => (Malformed, CONFIG, "PATTERN_SYNTAX"),
            Self::NotLora { .. } => (Unsupported, CONFIG, "NOT_LORA"),
            Self::Dora { evidence } => (Unsupported, evidence.part(), "DORA"),
            Self::Bias { evidence } => (Unsupported, evidence.part(), "BIAS"),
            Self::ModulesToSave { .. } => (Unsupported, CONFIG, "MODULES_TO_SAVE"),
            Self::FullTensor { .. } => (Unsupported, TENSORS, "FULL_TENSOR"),
            Self::EmbeddingOrHead { .. } => (Unsupported, TENSORS, "EMBEDDING_OR_HEAD"),
            Self::TrainableTokens { evidence } => {
                (Unsupported, evidence.part(), "TRAINABLE_TOKENS")
            }
            Self::WeightTying => (Unsupported, CONFIG, "WEIGHT_TYING"),
            Self::TargetParameters { evidence } => {
                (Unsupported, evidence.part(), "TARGET_PARAMETERS")
            }
            Self::LayerReplication => (Unsupported, CONFIG, "LAYER_REPLICATION"),
            Self::BaseTransformingInit { .. } => (Unsupported, CONFIG, "BASE_TRANSFORMING_INIT"),
            Self::UnknownInit { .. } => (Unsupported, CONFIG, "UNKNOWN_INIT"),
            Self::ActivatedLora => (Unsupported, CONFIG, "ACTIVATED_LORA"),
            Self::UnsupportedVariant { .. } => (Unsupported, CONFIG, "UNSUPPORTED_VARIANT"),
            Self::UnknownVariant { .. } => (Unsupported, CONFIG, "UNKNOWN_VARIANT"),
            Self::UnknownTensor { .. } => (Malformed, TENSORS, "UNKNOWN_TENSOR"),
            Self::NoModules => (Malformed, TENSORS, "NO_MODULES"),
            Self::SeveralAdapters { .. } => (Malformed, TENSORS, "SEVERAL_ADAPTERS"),
            Self::DuplicateFactor { .. } => (Malformed, TENSORS, "DUPLICATE_FACTOR"),
            Self::MissingFactor { .. } => (Malformed, TENSORS, "MISSING_FACTOR"),
            Self::FactorDimensions { .. } => (Malformed, TENSORS, "FACTOR_DIMENSIONS"),
            Self::FactorRanks { .. } => (Malformed, TENSORS, "FACTOR_RANKS"),
            Self::RankTooLarge { .. } => (Malformed, TENSORS, "RANK_TOO_LARGE"),
            Self::ConfigRank { .. } => (Malformed, CONFIG, "CONFIG_RANK"),
            Self::ModuleNotInBase { .. } => (WrongBase, TENSORS, "MODULE_NOT_IN_BASE"),
            Self::ModuleShape { .. } => (WrongBase, TENSORS, "MODULE_SHAPE"),
            Self::NotFinite { .. } => (Malformed, TENSORS, "NOT_FINITE"),
            Self::Subnormal { .. } => (Malformed, TENSORS, "SUBNORMAL"),
            Self::NoEffect => (Malformed, TENSORS, "NO_EFFECT"),
            Self::SlotName { .. } => (Malformed, TENSORS, "SLOT_NAME"),
            Self::SlotRank { .. } => (Malformed, TENSORS, "SLOT_RANK"),
            Self::SlotDtype { .. } => (Malformed, TENSORS, "SLOT_DTYPE"),
        }
    }
}
