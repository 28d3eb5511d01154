//! The model families known: where their blocks are and what linear layers a block has.
//!
//! Names and shapes follow the transformers implementation of each class. A family belongs here
//! only when every linear layer of its blocks is an `nn.Linear` of a shape given by the widths;
//! mixtures of experts and fused custom layers do not qualify.

/// How one side of a weight derives from the model's widths.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dimension {
    Hidden,
    Intermediate,
    /// Attention heads times head size.
    Query,
    /// Key-value heads times head size.
    KeyValue,
    /// Query, key and value in one matrix.
    QueryKeyValue,
    /// Gate and up projection in one matrix.
    GateUp,
}

/// One linear layer of a block.
#[derive(Debug, PartialEq)]
pub(super) struct Module {
    /// Path inside the block.
    pub(super) name: &'static str,
    pub(super) out_features: Dimension,
    pub(super) in_features: Dimension,
}

/// What an absent field means, where the class itself has a default.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Absent {
    /// The field must be there.
    Refuse,
    /// The class's own default.
    Value(u64),
    /// For heads that share nothing: as many key-value heads as heads; for the head size: hidden
    /// size divided by heads.
    Derive,
}

/// One transformers class.
#[derive(Debug, PartialEq)]
pub(super) struct Family {
    pub(super) architecture: &'static str,
    pub(super) model_type: &'static str,
    /// Everything before the layer number.
    pub(super) prefix: &'static str,
    pub(super) heads: Absent,
    pub(super) kv_heads: Absent,
    pub(super) head_size: Absent,
    pub(super) modules: &'static [Module],
}

const fn module(name: &'static str, out_features: Dimension, in_features: Dimension) -> Module {
    Module {
        name,
        out_features,
        in_features,
    }
}

const LAYERS: &str = "model.layers.";
/// Where the text blocks of a multimodal wrapper are, since transformers 4.52.
const WRAPPED_LAYERS: &str = "model.language_model.layers.";

const QUERY: Module = module("self_attn.q_proj", Dimension::Query, Dimension::Hidden);
const KEY: Module = module("self_attn.k_proj", Dimension::KeyValue, Dimension::Hidden);
const VALUE: Module = module("self_attn.v_proj", Dimension::KeyValue, Dimension::Hidden);
const OUTPUT: Module = module("self_attn.o_proj", Dimension::Hidden, Dimension::Query);
const DOWN: Module = module("mlp.down_proj", Dimension::Hidden, Dimension::Intermediate);

const LLAMA: &[Module] = &[
    QUERY,
    KEY,
    VALUE,
    OUTPUT,
    module("mlp.gate_proj", Dimension::Intermediate, Dimension::Hidden),
    module("mlp.up_proj", Dimension::Intermediate, Dimension::Hidden),
    DOWN,
];

const PHI: &[Module] = &[
    QUERY,
    KEY,
    VALUE,
    module("self_attn.dense", Dimension::Hidden, Dimension::Query),
    module("mlp.fc1", Dimension::Intermediate, Dimension::Hidden),
    module("mlp.fc2", Dimension::Hidden, Dimension::Intermediate),
];

const PHI3: &[Module] = &[
    module(
        "self_attn.qkv_proj",
        Dimension::QueryKeyValue,
        Dimension::Hidden,
    ),
    OUTPUT,
    module("mlp.gate_up_proj", Dimension::GateUp, Dimension::Hidden),
    DOWN,
];

const STARCODER2: &[Module] = &[
    QUERY,
    KEY,
    VALUE,
    OUTPUT,
    module("mlp.c_fc", Dimension::Intermediate, Dimension::Hidden),
    module("mlp.c_proj", Dimension::Hidden, Dimension::Intermediate),
];

const GPT_NEOX: &[Module] = &[
    module(
        "attention.query_key_value",
        Dimension::QueryKeyValue,
        Dimension::Hidden,
    ),
    module("attention.dense", Dimension::Hidden, Dimension::Query),
    module(
        "mlp.dense_h_to_4h",
        Dimension::Intermediate,
        Dimension::Hidden,
    ),
    module(
        "mlp.dense_4h_to_h",
        Dimension::Hidden,
        Dimension::Intermediate,
    ),
];

/// A family whose absent fields are derived, as in the Llama class itself.
const fn family(
    architecture: &'static str,
    model_type: &'static str,
    modules: &'static [Module],
) -> Family {
    Family {
        architecture,
        model_type,
        prefix: LAYERS,
        heads: Absent::Refuse,
        kv_heads: Absent::Derive,
        head_size: Absent::Derive,
        modules,
    }
}

/// A family whose class has another default for key-value heads than the number of heads; since
/// configurations are saved in full, absence means that something is wrong.
const fn grouped(
    architecture: &'static str,
    model_type: &'static str,
    modules: &'static [Module],
) -> Family {
    Family {
        kv_heads: Absent::Refuse,
        ..family(architecture, model_type, modules)
    }
}

/// A Gemma: its heads are wider than hidden size over heads would give.
const fn gemma(architecture: &'static str, model_type: &'static str) -> Family {
    Family {
        head_size: Absent::Value(256),
        ..grouped(architecture, model_type, LLAMA)
    }
}

/// Gemma 3's published wrapper configurations leave out what equals the class's defaults.
const GEMMA3: Family = Family {
    heads: Absent::Value(8),
    kv_heads: Absent::Value(4),
    ..gemma("Gemma3ForCausalLM", "gemma3_text")
};

/// All families, in the order in which messages list them.
pub(super) static FAMILIES: &[Family] = &[
    family("LlamaForCausalLM", "llama", LLAMA),
    grouped("MistralForCausalLM", "mistral", LLAMA),
    grouped("Qwen2ForCausalLM", "qwen2", LLAMA),
    Family {
        head_size: Absent::Value(128),
        ..grouped("Qwen3ForCausalLM", "qwen3", LLAMA)
    },
    gemma("GemmaForCausalLM", "gemma"),
    gemma("Gemma2ForCausalLM", "gemma2"),
    GEMMA3,
    Family {
        architecture: "Gemma3ForConditionalGeneration",
        model_type: "gemma3",
        prefix: WRAPPED_LAYERS,
        ..GEMMA3
    },
    Family {
        prefix: WRAPPED_LAYERS,
        ..grouped("Mistral3ForConditionalGeneration", "mistral3", LLAMA)
    },
    family("GraniteForCausalLM", "granite", LLAMA),
    grouped("SmolLM3ForCausalLM", "smollm3", LLAMA),
    family("OlmoForCausalLM", "olmo", LLAMA),
    family("Olmo2ForCausalLM", "olmo2", LLAMA),
    family("CohereForCausalLM", "cohere", LLAMA),
    grouped("StableLmForCausalLM", "stablelm", LLAMA),
    family("PhiForCausalLM", "phi", PHI),
    family("Phi3ForCausalLM", "phi3", PHI3),
    grouped("Starcoder2ForCausalLM", "starcoder2", STARCODER2),
    Family {
        prefix: "gpt_neox.layers.",
        ..family("GPTNeoXForCausalLM", "gpt_neox", GPT_NEOX)
    },
];

/// The names that messages list.
pub(super) fn known() -> String {
    FAMILIES
        .iter()
        .map(|family| family.architecture)
        .collect::<Vec<_>>()
        .join(", ")
}
