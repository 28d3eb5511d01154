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
    /// llama.cpp's name of the tensor inside `blk.N.`; none where its converter changes more than
    /// the name in a way that is not known here.
    pub(super) gguf: Option<&'static str>,
}

/// How llama.cpp knows a class, after its `conversion/` and `gguf-py/gguf/tensor_mapping.py`.
#[derive(Debug, PartialEq)]
pub(super) struct LlamaCpp {
    /// `general.architecture`.
    pub(super) architecture: &'static str,
    /// Whether its converter interleaves the halves of each head of q and k, for the rotary
    /// embedding of Llama as first released. The architecture does not tell: it depends on the
    /// class that was converted.
    pub(super) interleaved: bool,
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
    pub(super) llama_cpp: LlamaCpp,
    /// Everything before the layer number in mlx-lm; none where mlx-lm has the model in another
    /// form or not at all.
    pub(super) mlx_prefix: Option<&'static str>,
}

const fn module(
    name: &'static str,
    out_features: Dimension,
    in_features: Dimension,
    gguf: &'static str,
) -> Module {
    Module {
        name,
        out_features,
        in_features,
        gguf: Some(gguf),
    }
}

const LAYERS: &str = "model.layers.";
/// Where the text blocks of a multimodal wrapper are, since transformers 4.52.
const WRAPPED_LAYERS: &str = "model.language_model.layers.";
/// Where mlx-lm has those.
const MLX_WRAPPED_LAYERS: &str = "language_model.model.layers.";

const QUERY: Module = module(
    "self_attn.q_proj",
    Dimension::Query,
    Dimension::Hidden,
    "attn_q",
);
const KEY: Module = module(
    "self_attn.k_proj",
    Dimension::KeyValue,
    Dimension::Hidden,
    "attn_k",
);
const VALUE: Module = module(
    "self_attn.v_proj",
    Dimension::KeyValue,
    Dimension::Hidden,
    "attn_v",
);
const OUTPUT: Module = module(
    "self_attn.o_proj",
    Dimension::Hidden,
    Dimension::Query,
    "attn_output",
);
const DOWN: Module = module(
    "mlp.down_proj",
    Dimension::Hidden,
    Dimension::Intermediate,
    "ffn_down",
);

const LLAMA: &[Module] = &[
    QUERY,
    KEY,
    VALUE,
    OUTPUT,
    module(
        "mlp.gate_proj",
        Dimension::Intermediate,
        Dimension::Hidden,
        "ffn_gate",
    ),
    module(
        "mlp.up_proj",
        Dimension::Intermediate,
        Dimension::Hidden,
        "ffn_up",
    ),
    DOWN,
];

const PHI: &[Module] = &[
    QUERY,
    KEY,
    VALUE,
    module(
        "self_attn.dense",
        Dimension::Hidden,
        Dimension::Query,
        "attn_output",
    ),
    module(
        "mlp.fc1",
        Dimension::Intermediate,
        Dimension::Hidden,
        "ffn_up",
    ),
    module(
        "mlp.fc2",
        Dimension::Hidden,
        Dimension::Intermediate,
        "ffn_down",
    ),
];

const PHI3: &[Module] = &[
    module(
        "self_attn.qkv_proj",
        Dimension::QueryKeyValue,
        Dimension::Hidden,
        "attn_qkv",
    ),
    OUTPUT,
    module(
        "mlp.gate_up_proj",
        Dimension::GateUp,
        Dimension::Hidden,
        "ffn_up",
    ),
    DOWN,
];

const STARCODER2: &[Module] = &[
    QUERY,
    KEY,
    VALUE,
    OUTPUT,
    module(
        "mlp.c_fc",
        Dimension::Intermediate,
        Dimension::Hidden,
        "ffn_up",
    ),
    module(
        "mlp.c_proj",
        Dimension::Hidden,
        Dimension::Intermediate,
        "ffn_down",
    ),
];

const GPT_NEOX: &[Module] = &[
    Module {
        name: "attention.query_key_value",
        out_features: Dimension::QueryKeyValue,
        in_features: Dimension::Hidden,
        // Its converter takes the heads' queries, keys and values apart.
        gguf: None,
    },
    module(
        "attention.dense",
        Dimension::Hidden,
        Dimension::Query,
        "attn_output",
    ),
    module(
        "mlp.dense_h_to_4h",
        Dimension::Intermediate,
        Dimension::Hidden,
        "ffn_up",
    ),
    module(
        "mlp.dense_4h_to_h",
        Dimension::Hidden,
        Dimension::Intermediate,
        "ffn_down",
    ),
];

/// A family whose absent fields are derived, as in the Llama class itself.
const fn family(
    architecture: &'static str,
    model_type: &'static str,
    llama_cpp: &'static str,
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
        llama_cpp: LlamaCpp {
            architecture: llama_cpp,
            interleaved: false,
        },
        mlx_prefix: Some(LAYERS),
    }
}

/// A family that llama.cpp's converter interleaves.
const fn interleaved(family: Family) -> Family {
    Family {
        llama_cpp: LlamaCpp {
            interleaved: true,
            ..family.llama_cpp
        },
        ..family
    }
}

/// A family whose class has another default for key-value heads than the number of heads; since
/// configurations are saved in full, absence means that something is wrong.
const fn grouped(
    architecture: &'static str,
    model_type: &'static str,
    llama_cpp: &'static str,
    modules: &'static [Module],
) -> Family {
    Family {
        kv_heads: Absent::Refuse,
        ..family(architecture, model_type, llama_cpp, modules)
    }
}

/// A Gemma: its heads are wider than hidden size over heads would give.
const fn gemma(
    architecture: &'static str,
    model_type: &'static str,
    llama_cpp: &'static str,
) -> Family {
    Family {
        head_size: Absent::Value(256),
        ..grouped(architecture, model_type, llama_cpp, LLAMA)
    }
}

/// Gemma 3's published wrapper configurations leave out what equals the class's defaults.
const GEMMA3: Family = Family {
    heads: Absent::Value(8),
    kv_heads: Absent::Value(4),
    ..gemma("Gemma3ForCausalLM", "gemma3_text", "gemma3")
};

/// All families, in the order in which messages list them.
pub(super) static FAMILIES: &[Family] = &[
    interleaved(family("LlamaForCausalLM", "llama", "llama", LLAMA)),
    interleaved(grouped("MistralForCausalLM", "mistral", "llama", LLAMA)),
    grouped("Qwen2ForCausalLM", "qwen2", "qwen2", LLAMA),
    Family {
        head_size: Absent::Value(128),
        ..grouped("Qwen3ForCausalLM", "qwen3", "qwen3", LLAMA)
    },
    gemma("GemmaForCausalLM", "gemma", "gemma"),
    gemma("Gemma2ForCausalLM", "gemma2", "gemma2"),
    GEMMA3,
    Family {
        architecture: "Gemma3ForConditionalGeneration",
        model_type: "gemma3",
        prefix: WRAPPED_LAYERS,
        mlx_prefix: Some(MLX_WRAPPED_LAYERS),
        ..GEMMA3
    },
    Family {
        prefix: WRAPPED_LAYERS,
        mlx_prefix: Some(MLX_WRAPPED_LAYERS),
        ..interleaved(grouped(
            "Mistral3ForConditionalGeneration",
            "mistral3",
            "mistral3",
            LLAMA,
        ))
    },
    interleaved(family("GraniteForCausalLM", "granite", "granite", LLAMA)),
    interleaved(grouped("SmolLM3ForCausalLM", "smollm3", "smollm3", LLAMA)),
    Family {
        // mlx-lm has OLMo as it was before it came to transformers.
        mlx_prefix: None,
        ..interleaved(family("OlmoForCausalLM", "olmo", "olmo", LLAMA))
    },
    family("Olmo2ForCausalLM", "olmo2", "olmo2", LLAMA),
    family("CohereForCausalLM", "cohere", "command-r", LLAMA),
    grouped("StableLmForCausalLM", "stablelm", "stablelm", LLAMA),
    family("PhiForCausalLM", "phi", "phi2", PHI),
    family("Phi3ForCausalLM", "phi3", "phi3", PHI3),
    grouped(
        "Starcoder2ForCausalLM",
        "starcoder2",
        "starcoder2",
        STARCODER2,
    ),
    Family {
        prefix: "gpt_neox.layers.",
        mlx_prefix: Some("model.h."),
        ..family("GPTNeoXForCausalLM", "gpt_neox", "gptneox", GPT_NEOX)
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
