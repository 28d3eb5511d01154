//! The config.json that says what a model's header says, or why there is none.

use serde_json::{Value, json};

use super::header::{Header, Number};

/// llama.cpp's architectures and the transformers classes that they stand for, with the model types.
/// One that stands for models of several shapes is not among them.
const CLASSES: [(&str, &str, &str); 15] = [
    ("llama", "LlamaForCausalLM", "llama"),
    ("qwen2", "Qwen2ForCausalLM", "qwen2"),
    ("qwen3", "Qwen3ForCausalLM", "qwen3"),
    ("gemma", "GemmaForCausalLM", "gemma"),
    ("gemma2", "Gemma2ForCausalLM", "gemma2"),
    ("gemma3", "Gemma3ForCausalLM", "gemma3_text"),
    ("granite", "GraniteForCausalLM", "granite"),
    ("smollm3", "SmolLM3ForCausalLM", "smollm3"),
    ("olmo", "OlmoForCausalLM", "olmo"),
    ("olmo2", "Olmo2ForCausalLM", "olmo2"),
    ("command-r", "CohereForCausalLM", "cohere"),
    ("stablelm", "StableLmForCausalLM", "stablelm"),
    ("phi2", "PhiForCausalLM", "phi"),
    ("phi3", "Phi3ForCausalLM", "phi3"),
    ("starcoder2", "Starcoder2ForCausalLM", "starcoder2"),
];

/// Converts what the header says; the error goes behind the file's name.
pub(super) fn convert(header: &Header) -> Result<Value, String> {
    match header.text("general.type") {
        None | Some("model") => {}
        Some(other) => return Err(format!("is of the type {other:?}, not a model")),
    }
    let architecture = header
        .text("general.architecture")
        .ok_or("does not say its architecture")?;
    let (_, class, model_type) = CLASSES
        .iter()
        .find(|(name, ..)| *name == architecture)
        .ok_or_else(|| format!("has the architecture {architecture:?}, which is not known here"))?;
    let key = |name: &str| format!("{architecture}.{name}");
    let optional = |name: &str| match header.number(&key(name)) {
        None => Ok(None),
        Some(Number::Whole(number)) => Ok(Some(number)),
        // One for each layer, or not a number.
        Some(Number::Other) => Err(format!("has no single number as {}", key(name))),
    };
    let need = |name: &str| optional(name)?.ok_or_else(|| format!("has no {}", key(name)));
    if optional("expert_count")?.is_some_and(|count| count > 0) {
        return Err("is a mixture of experts, whose modules are not known here".to_owned());
    }
    let hidden = need("embedding_length")?;
    let intermediate = need("feed_forward_length")?;
    let heads = need("attention.head_count")?;
    let kv_heads = optional("attention.head_count_kv")?.unwrap_or(heads);
    let head_size = match optional("attention.key_length")? {
        Some(size) => size,
        None => hidden
            .checked_div(heads)
            .ok_or_else(|| format!("has {heads} heads"))?,
    };
    if let Some(values) = optional("attention.value_length")?
        && values != head_size
    {
        return Err(format!(
            "has keys of {head_size} and values of {values}, which no class that is known has"
        ));
    }
    for (name, expected) in [
        ("attn_q", [hidden, heads.saturating_mul(head_size)]),
        ("attn_k", [hidden, kv_heads.saturating_mul(head_size)]),
        ("ffn_down", [intermediate, hidden]),
    ] {
        let name = format!("blk.0.{name}.weight");
        if let Some(found) = header.dimensions(&name)
            && found != expected
        {
            return Err(format!(
                "says that {name} has the dimensions {expected:?}, and the tensor has {found:?}"
            ));
        }
    }
    Ok(json!({
        "architectures": [class],
        "head_dim": head_size,
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "model_type": model_type,
        "num_attention_heads": heads,
        "num_hidden_layers": need("block_count")?,
        "num_key_value_heads": kv_heads,
    }))
}
