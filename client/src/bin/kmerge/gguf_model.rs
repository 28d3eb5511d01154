//! A base model's config.json from the header of its GGUF file, for those who have nothing else.
//!
//! Only what shapes derive from is taken over, under the names of the transformers class that
//! llama.cpp's architecture stands for; the daemon checks the result as it checks any config.json.
//! What always holds: what the header says of the model and what the shapes of its first block say
//! agree, or there is no configuration. No weight is read.

mod header;
#[cfg(test)]
mod tests;

use std::path::Path;

use serde_json::{Value, json};

use crate::failure::Failure;
use crate::files;
use header::{Header, Number};

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

/// Reads the header of a model and gives the config.json that says the same.
pub(crate) fn config(path: &Path) -> Result<Vec<u8>, Failure> {
    let header = files::open(path).and_then(|file| {
        Header::read(std::io::BufReader::new(file)).map_err(|why| unusable(path, &why))
    })?;
    let config = convert(&header).map_err(|why| unusable(path, &why))?;
    let mut text = serde_json::to_vec_pretty(&config).expect("strings and numbers serialise");
    text.push(b'\n');
    Ok(text)
}

fn unusable(path: &Path, why: &str) -> Failure {
    Failure::usage(format!("{} {why}", path.display()))
        .hint("name the model's own config.json with --config")
}

fn convert(header: &Header) -> Result<Value, String> {
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
