//! Errors of reading an adapter: which defect, in which tensor or field, and what to do about it.

use std::{fmt, io};

use thiserror::Error;

use super::{GgufError, MlxError};

/// What sort of answer a defect deserves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AdapterErrorKind {
    /// Damaged, contradictory or hostile bytes.
    Malformed,
    /// A well-formed variant that cannot be merged honestly.
    Unsupported,
    /// Made for another base model.
    WrongBase,
    /// The bytes could not be read.
    Io,
}

/// Where a refused variant showed itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Evidence {
    /// A field of `adapter_config.json`.
    Field(&'static str),
    /// A tensor's name.
    Tensor(String),
}

impl fmt::Display for Evidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Field(key) => write!(f, "`{key}` in adapter_config.json"),
            Self::Tensor(name) => write!(f, "the tensor {name}"),
        }
    }
}

/// Why an adapter is refused.
#[derive(Debug, Error)]
pub enum AdapterError {
    /// The source failed.
    #[error("reading the adapter's tensors failed")]
    Source(#[source] io::Error),
    /// What only a GGUF file can have.
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// What only an adapter of mlx-lm can have.
    #[error(transparent)]
    Mlx(#[from] MlxError),

    // The container.
    /// Another file format.
    #[error(
        "the tensor file is {looks_like}, not safetensors; save the adapter with save_pretrained(safe_serialization=True)"
    )]
    ForeignFile {
        /// What the first bytes look like.
        looks_like: &'static str,
    },
    /// Not even room for the header's length.
    #[error(
        "the tensor file has {bytes} bytes, too few for a safetensors header; it was cut short"
    )]
    FileTooShort {
        /// Bytes in the file.
        bytes: u64,
    },
    /// A header length over the limit.
    #[error("the safetensors header claims {bytes} bytes; at most {limit} are read")]
    HeaderTooLarge {
        /// Bytes claimed.
        bytes: u64,
        /// Bytes allowed.
        limit: u64,
    },
    /// A header length beyond the end of the file.
    #[error(
        "the safetensors header claims {header} bytes, but the file has only {file}; it was cut short or is damaged"
    )]
    HeaderBeyondFile {
        /// Bytes claimed.
        header: u64,
        /// Bytes in the file.
        file: u64,
    },
    /// The header does not start with `{`.
    #[error(
        "the safetensors header does not start with an opening brace; the file is damaged or another format"
    )]
    HeaderStart,
    /// The header is not the JSON that safetensors prescribes.
    #[error("the safetensors header is malformed: {detail}")]
    HeaderSyntax {
        /// The parser's message with line and column.
        detail: String,
    },
    /// One tensor name twice.
    #[error("the tensor {name} is listed twice in the safetensors header")]
    DuplicateTensor {
        /// Tensor name.
        name: String,
    },
    /// A name too long or with characters that no module path has.
    #[error(
        "the tensor name \"{name}\" is not allowed: up to {limit} characters of A-Z a-z 0-9 . _ - /"
    )]
    TensorName {
        /// The name, escaped and cut.
        name: String,
        /// Longest name allowed.
        limit: usize,
    },
    /// More tensors than allowed.
    #[error("the safetensors header lists more than {limit} tensors")]
    TooManyTensors {
        /// Tensors allowed.
        limit: usize,
    },
    /// A storage type that factors may not have.
    #[error(
        "{name} is stored as {got}; factors must be F32, F16 or BF16. Convert the adapter before sending it"
    )]
    TensorDtype {
        /// Tensor name.
        name: String,
        /// The declared type, escaped and cut.
        got: String,
    },
    /// Too many dimensions for any tensor.
    #[error("{name} has {got} dimensions; at most {limit} are read")]
    TensorDimensions {
        /// Tensor name.
        name: String,
        /// Dimensions declared.
        got: usize,
        /// Dimensions allowed.
        limit: usize,
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
    /// Offsets that are reversed or reach beyond the data.
    #[error(
        "{name} claims bytes {begin} to {end} of {data} bytes of data; the file was cut short or is damaged"
    )]
    TensorOffsets {
        /// Tensor name.
        name: String,
        /// First byte claimed.
        begin: u64,
        /// End claimed.
        end: u64,
        /// Bytes of data in the file.
        data: u64,
    },
    /// Offsets that disagree with shape and type.
    #[error("{name} takes {got} bytes in the file, but its shape and type need {expected}")]
    TensorBytes {
        /// Tensor name.
        name: String,
        /// Bytes that shape and type need.
        expected: u64,
        /// Bytes between the offsets.
        got: u64,
    },
    /// A gap before a tensor, or two tensors sharing bytes.
    #[error(
        "{name} starts at byte {got} of the data where {expected} was expected; tensors must follow each other without gap or overlap"
    )]
    TensorGap {
        /// Tensor name.
        name: String,
        /// Where the previous tensor ended.
        expected: u64,
        /// Where this one begins.
        got: u64,
    },
    /// Bytes after the last tensor.
    #[error("the tensors cover {covered} of {data} bytes of data; the rest belongs to nothing")]
    TrailingBytes {
        /// Bytes covered by tensors.
        covered: u64,
        /// Bytes of data in the file.
        data: u64,
    },

    // The configuration.
    /// More bytes than any real configuration has.
    #[error("adapter_config.json is {bytes} bytes; at most {limit} are read")]
    ConfigTooLarge {
        /// Bytes given.
        bytes: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// Not JSON.
    #[error("adapter_config.json is not valid JSON: {detail}")]
    ConfigSyntax {
        /// The parser's message with line and column.
        detail: String,
    },
    /// A key occurs twice in one object.
    #[error(
        "adapter_config.json has the key `{key}` twice in one object; which one counts is undefined, so remove one"
    )]
    ConfigDuplicateKey {
        /// The key.
        key: String,
    },
    /// JSON, but not an object.
    #[error("adapter_config.json must be a JSON object")]
    ConfigNotAnObject,
    /// A field has another JSON type than it should.
    #[error("adapter_config.json: `{key}` must be {expected}")]
    ConfigType {
        /// The field, with the pattern's key where it is inside a pattern.
        key: String,
        /// What it should be.
        expected: &'static str,
    },
    /// A rank outside 1 ..= limit.
    #[error("adapter_config.json: `{key}` gives rank {got}; ranks must be between 1 and {limit}")]
    RankOutOfRange {
        /// The field, with the pattern's key where it is inside a pattern.
        key: String,
        /// The rank.
        got: String,
        /// Largest rank allowed.
        limit: usize,
    },
    /// An alpha that is zero, negative or absurd.
    #[error(
        "adapter_config.json: `{key}` gives alpha {got}; alpha must be between {lowest} and {highest}"
    )]
    AlphaOutOfRange {
        /// The field, with the pattern's key where it is inside a pattern.
        key: String,
        /// The value.
        got: String,
        /// Smallest alpha allowed.
        lowest: f64,
        /// Largest alpha allowed.
        highest: f64,
    },
    /// More target modules than allowed.
    #[error(
        "adapter_config.json lists {got} target_modules; at most {limit} are read. Name modules by their suffix"
    )]
    TooManyTargetModules {
        /// Entries given.
        got: usize,
        /// Entries allowed.
        limit: usize,
    },
    /// More pattern keys than allowed.
    #[error("adapter_config.json: `{field}` has {got} keys; at most {limit} are read")]
    TooManyPatterns {
        /// `rank_pattern` or `alpha_pattern`.
        field: &'static str,
        /// Keys given.
        got: usize,
        /// Keys allowed.
        limit: usize,
    },
    /// A pattern key that is not a regular expression we can evaluate in bounded time.
    #[error(
        "adapter_config.json: the key \"{key}\" of `{field}` is not a usable pattern: {detail}. Write module paths or plain regular expressions"
    )]
    PatternSyntax {
        /// `rank_pattern` or `alpha_pattern`.
        field: &'static str,
        /// The key, escaped and cut.
        key: String,
        /// Why.
        detail: String,
    },

    // Variants that are refused.
    /// Another PEFT method.
    #[error("peft_type is {got}; only LORA adapters can be merged")]
    NotLora {
        /// The method.
        got: String,
    },
    /// Weight-decomposed LoRA.
    #[error(
        "this is a DoRA adapter ({evidence}): its magnitudes depend on the base weights, so the update is not B·A. Retrain with use_dora false"
    )]
    Dora {
        /// The field or tensor that shows it.
        evidence: Evidence,
    },
    /// Trained biases.
    #[error(
        "the adapter carries biases ({evidence}), which a slot cannot hold. Retrain with bias \"none\" and lora_bias false"
    )]
    Bias {
        /// The field or tensor that shows it.
        evidence: Evidence,
    },
    /// Whole modules trained beside the adapter.
    #[error(
        "the adapter saves whole modules (modules_to_save: {modules}), which a slot cannot hold. Retrain without modules_to_save"
    )]
    ModulesToSave {
        /// The modules, cut.
        modules: String,
    },
    /// A full weight among the factors.
    #[error(
        "{name} is a full weight, not a LoRA factor. Save again without modules_to_save, and with save_embedding_layers=False where embeddings were not trained"
    )]
    FullTensor {
        /// Tensor name.
        name: String,
    },
    /// Factors of an embedding or of the output head.
    #[error(
        "{name} adapts an embedding or the output head, which runtimes refuse. Retrain with linear layers of the blocks as target_modules"
    )]
    EmbeddingOrHead {
        /// Tensor or module name.
        name: String,
    },
    /// Single trained tokens.
    #[error(
        "the adapter trains single tokens ({evidence}), which a slot cannot hold. Retrain without trainable_token_indices"
    )]
    TrainableTokens {
        /// The field or tensor that shows it.
        evidence: Evidence,
    },
    /// Adapters of tied weights.
    #[error(
        "ensure_weight_tying is set: tied embeddings are adapted, which a slot cannot hold. Retrain without it"
    )]
    WeightTying,
    /// LoRA on bare parameters, such as the experts of a mixture.
    #[error(
        "the adapter targets bare parameters or experts ({evidence}), whose factors are not matrices of one linear layer. Retrain with target_modules only"
    )]
    TargetParameters {
        /// The field or tensor that shows it.
        evidence: Evidence,
    },
    /// Another number of layers than the base.
    #[error(
        "layer_replication changes the depth of the model, so the adapter fits no base model as published"
    )]
    LayerReplication,
    /// An initialisation that changed the base weights.
    #[error(
        "init_lora_weights is {init}, which changes the base weights; on the original base the update would be wrong. Convert it first: save_pretrained(path_initial_model_for_weight_conversion=…)"
    )]
    BaseTransformingInit {
        /// The initialisation.
        init: String,
    },
    /// An initialisation that is not known to leave the base alone.
    #[error(
        "init_lora_weights is {init}, which is not known to leave the base weights alone. Use one of true, false, gaussian, eva, orthogonal"
    )]
    UnknownInit {
        /// The initialisation.
        init: String,
    },
    /// Activated LoRA.
    #[error(
        "this is an activated LoRA (alora_invocation_tokens): it acts only after given tokens, which a merged slot cannot do"
    )]
    ActivatedLora,
    /// A named variant whose update is not scaling · B · A.
    #[error("`{key}` is set: this LoRA variant's update is not scaling·B·A. Retrain as plain LoRA")]
    UnsupportedVariant {
        /// The field that selects the variant.
        key: String,
    },
    /// A field that looks like a variant this version does not know.
    #[error(
        "`{key}` is set and not known; it may change what the factors mean. Set it to false or null if it does not"
    )]
    UnknownVariant {
        /// The field.
        key: String,
    },

    // Pairs of factors.
    /// A tensor that is nothing known.
    #[error(
        "{name} is not a LoRA factor; expected base_model.model.<module>.lora_A.weight or .lora_B.weight"
    )]
    UnknownTensor {
        /// Tensor name.
        name: String,
    },
    /// No factor at all.
    #[error("the tensor file has no LoRA factors; it would do nothing")]
    NoModules,
    /// Several adapters in one file.
    #[error(
        "the tensor file holds the adapters \"{first}\" and \"{second}\"; save each one by itself"
    )]
    SeveralAdapters {
        /// One adapter's name.
        first: String,
        /// Another one's name.
        second: String,
    },
    /// The same factor under two spellings.
    #[error("{module} has {factor} twice, under two spellings of its name")]
    DuplicateFactor {
        /// Module path.
        module: String,
        /// `lora_A` or `lora_B`.
        factor: &'static str,
    },
    /// Half a pair.
    #[error("{module} has no {missing}; both factors are needed. The file was cut or filtered")]
    MissingFactor {
        /// Module path.
        module: String,
        /// `lora_A` or `lora_B`.
        missing: &'static str,
    },
    /// A factor that is not a matrix.
    #[error("{name} has {got} dimensions; a factor of a linear layer has 2")]
    FactorDimensions {
        /// Tensor name.
        name: String,
        /// Dimensions declared.
        got: usize,
    },
    /// A and B disagree on the rank.
    #[error("{module}: A has rank {a} and B has rank {b}; they must agree")]
    FactorRanks {
        /// Module path.
        module: String,
        /// Rows of A.
        a: usize,
        /// Columns of B.
        b: usize,
    },
    /// A rank over the limit.
    #[error("{module} has rank {got}; at most {limit} is merged")]
    RankTooLarge {
        /// Module path.
        module: String,
        /// The rank of the tensors.
        got: usize,
        /// Largest rank allowed.
        limit: usize,
    },
    /// The configuration and the tensors disagree on the rank.
    #[error(
        "{module} has rank {tensors}, but {key} in adapter_config.json says {config}; the scaling would be wrong. The two files do not belong together"
    )]
    ConfigRank {
        /// Module path.
        module: String,
        /// Rank of the tensors.
        tensors: usize,
        /// Rank that the configuration gives.
        config: usize,
        /// `r` or `rank_pattern`.
        key: &'static str,
    },

    // The base model.
    /// A module that the base model does not have.
    #[error(
        "{module} is not a linear layer of {architecture} with {layers} layers; the adapter was trained on another base model"
    )]
    ModuleNotInBase {
        /// Module path.
        module: String,
        /// The base model's architecture.
        architecture: String,
        /// The base model's number of layers.
        layers: u32,
    },
    /// A module of another shape than the base model's.
    #[error(
        "{module} is {out_features} x {in_features} in the adapter and {base_out} x {base_in} in the base model; the adapter was trained on another base model"
    )]
    ModuleShape {
        /// Module path.
        module: String,
        /// Rows of B.
        out_features: usize,
        /// Columns of A.
        in_features: usize,
        /// Rows of the base weight.
        base_out: usize,
        /// Columns of the base weight.
        base_in: usize,
    },

    // The values.
    /// NaN or infinity.
    #[error("{name} holds {what}; training diverged or the file is damaged")]
    NotFinite {
        /// Tensor name.
        name: String,
        /// `NaN` or `infinity`.
        what: &'static str,
    },
    /// Mostly denormal numbers, which make arithmetic very slow and mean nothing.
    #[error(
        "{percent:.1} % of the values of {name} are subnormal; at most {limit:.0} % are accepted. The file is damaged or crafted"
    )]
    Subnormal {
        /// Tensor name.
        name: String,
        /// Share found, in percent.
        percent: f64,
        /// Share accepted, in percent.
        limit: f64,
    },
    /// Nothing would change.
    #[error(
        "every module has a zero A or a zero B, so the adapter would do nothing; it was saved before training"
    )]
    NoEffect,

    // Slot files.
    /// A tensor name that normal form does not use.
    #[error(
        "{name} is not a name that a stored slot uses; the file was not written by kmerge or is damaged"
    )]
    SlotName {
        /// Tensor name.
        name: String,
    },
    /// More than one rank in a slot.
    #[error(
        "{module} has rank {got} in a slot of rank {expected}; the file was not written by kmerge or is damaged"
    )]
    SlotRank {
        /// Module path.
        module: String,
        /// Rank of the slot.
        expected: usize,
        /// Rank of this module.
        got: usize,
    },
    /// More than one storage type in a slot.
    #[error(
        "{name} is stored as {got} in a slot of {expected}; the file was not written by kmerge or is damaged"
    )]
    SlotDtype {
        /// Tensor name.
        name: String,
        /// Type of the slot.
        expected: crate::Dtype,
        /// Type of this tensor.
        got: crate::Dtype,
    },
}
