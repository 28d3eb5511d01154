//! A model from a GGUF file, dequantised to F32.
//!
//! A GGUF of the Llama architecture has the rows of q and k in another order, for a rotation of
//! neighbours; here they are put back, so that adapters fit.

use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use candle_core::quantized::gguf_file::{Content, Value};
use candle_core::{Device, Tensor};

use super::error::Error;
use super::files;
use super::model::{Model, Weights};
use super::shape::Shape;
use super::tokenizer::{Tokenizer, Vocabulary};

/// Names of tensors in a block, and their Hugging Face names in a layer.
const NAMES: [(&str, &str); 9] = [
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_output", "self_attn.o_proj"),
    ("ffn_gate", "mlp.gate_proj"),
    ("ffn_up", "mlp.up_proj"),
    ("ffn_down", "mlp.down_proj"),
    ("attn_norm", "input_layernorm"),
    ("ffn_norm", "post_attention_layernorm"),
];

/// Reads model and tokenizer.
pub(crate) fn load(path: &Path, device: &Device) -> Result<(Model, Tokenizer), Error> {
    let mut file = BufReader::new(files::open(path)?);
    let content = Content::read(&mut file).map_err(|error| Error::unusable(path, error))?;
    let metadata = Metadata {
        path,
        content: &content,
    };
    let architecture = metadata.text("general.architecture")?;
    let shape = shape(&metadata, &architecture)?;
    let tokenizer = Tokenizer::from_vocabulary(path, &vocabulary(&metadata)?)?;
    let mut reader = Reader {
        path,
        content: &content,
        file,
        device,
    };
    let mut weights = Weights::new();
    for (from, to) in [
        ("token_embd.weight", "embed_tokens.weight"),
        ("output_norm.weight", "norm.weight"),
        ("output.weight", "lm_head.weight"),
    ] {
        if let Some(tensor) = reader.tensor(from)? {
            weights.insert(to.to_owned(), tensor);
        }
    }
    for layer in 0..shape.layers {
        for (from, to) in NAMES {
            for part in ["weight", "bias"] {
                let Some(tensor) = reader.tensor(&format!("blk.{layer}.{from}.{part}"))? else {
                    continue;
                };
                let tensor = match from {
                    "attn_q" if architecture == "llama" => in_order(&tensor, shape.heads)?,
                    "attn_k" if architecture == "llama" => in_order(&tensor, shape.kv_heads)?,
                    _ => tensor,
                };
                weights.insert(format!("layers.{layer}.{to}.{part}"), tensor);
            }
        }
    }
    // Llama 3's stretching is written down as the divisors that it comes to.
    let factors = match reader.tensor("rope_freqs.weight")? {
        Some(factors) => Some(factors.flatten_all()?.to_vec1::<f32>()?),
        None => None,
    };
    let model = Model::new(shape, weights, factors.as_deref(), device)?;
    Ok((model, tokenizer))
}

/// Rows from neighbours that turn together to halves that turn together.
fn in_order(tensor: &Tensor, heads: usize) -> candle_core::Result<Tensor> {
    let dims = tensor.dims().to_vec();
    let half = dims[0] / heads / 2;
    let columns = tensor.elem_count() / dims[0];
    tensor
        .reshape((heads, half, 2, columns))?
        .transpose(1, 2)?
        .contiguous()?
        .reshape(dims)
}

fn shape(metadata: &Metadata<'_>, architecture: &str) -> Result<Shape, Error> {
    let path = metadata.path;
    if !matches!(architecture, "llama" | "qwen2") {
        let why = format!("its architecture is {architecture}; llama and qwen2 can be run");
        return Err(Error::unusable(path, why));
    }
    let key = |name: &str| format!("{architecture}.{name}");
    if let Ok(kind) = metadata.text(&key("rope.scaling.type"))
        && kind != "none"
    {
        let why = format!("rope scaling {kind} cannot be run");
        return Err(Error::unusable(path, why));
    }
    let heads = metadata.count(&key("attention.head_count"))?;
    if heads == 0 {
        return Err(Error::unusable(path, "it has no heads"));
    }
    let width = match metadata.count(&key("attention.key_length")) {
        Ok(width) => width,
        Err(_) => metadata.count(&key("embedding_length"))? / heads,
    };
    let shape = Shape {
        layers: metadata.count(&key("block_count"))?,
        heads,
        kv_heads: metadata
            .count(&key("attention.head_count_kv"))
            .unwrap_or(heads),
        head_width: width,
        norm_epsilon: metadata.number(&key("attention.layer_norm_rms_epsilon"))?,
        rope_theta: metadata.number(&key("rope.freq_base")).unwrap_or(10_000.0),
        stretch: None,
    };
    shape.check().map_err(|why| Error::unusable(path, why))?;
    Ok(shape)
}

fn vocabulary(metadata: &Metadata<'_>) -> Result<Vocabulary, Error> {
    let kind = metadata.text("tokenizer.ggml.model")?;
    if kind != "gpt2" {
        let why = format!(
            "its tokenizer is {kind}, and only gpt2 can be rebuilt from a GGUF; use the model's \
             directory with its tokenizer.json"
        );
        return Err(Error::unusable(metadata.path, why));
    }
    let kinds = metadata.list("tokenizer.ggml.token_type", number)?;
    Ok(Vocabulary {
        cut: metadata.text("tokenizer.ggml.pre").unwrap_or_default(),
        tokens: metadata.list("tokenizer.ggml.tokens", text)?,
        kinds,
        merges: metadata.list("tokenizer.ggml.merges", text)?,
    })
}

fn text(value: &Value) -> Option<String> {
    value.to_string().ok().cloned()
}

fn number(value: &Value) -> Option<u32> {
    let signed = || {
        value
            .to_i32()
            .ok()
            .and_then(|value| u32::try_from(value).ok())
    };
    value.to_u32().ok().or_else(signed)
}

/// The metadata, with errors that name the key.
struct Metadata<'a> {
    path: &'a Path,
    content: &'a Content,
}

impl Metadata<'_> {
    fn get<T>(&self, key: &str, read: impl FnOnce(&Value) -> Option<T>) -> Result<T, Error> {
        let value = self.content.metadata.get(key).and_then(read);
        value.ok_or_else(|| Error::unusable(self.path, format!("it has no {key}")))
    }

    fn text(&self, key: &str) -> Result<String, Error> {
        self.get(key, text)
    }

    fn count(&self, key: &str) -> Result<usize, Error> {
        self.get(key, |value| usize::try_from(number(value)?).ok())
    }

    fn number(&self, key: &str) -> Result<f64, Error> {
        self.get(key, |value| {
            let single = value.to_f32().ok().map(f64::from);
            single.or_else(|| value.to_f64().ok())
        })
    }

    fn list<T>(&self, key: &str, item: impl Fn(&Value) -> Option<T>) -> Result<Vec<T>, Error> {
        self.get(key, |value| value.to_vec().ok()?.iter().map(item).collect())
    }
}

/// The tensors, dequantised as they are read.
struct Reader<'a> {
    path: &'a Path,
    content: &'a Content,
    file: BufReader<File>,
    device: &'a Device,
}

impl Reader<'_> {
    fn tensor(&mut self, name: &str) -> Result<Option<Tensor>, Error> {
        if !self.content.tensor_infos.contains_key(name) {
            return Ok(None);
        }
        let tensor = self
            .content
            .tensor(&mut self.file, name, self.device)
            .and_then(|tensor| tensor.dequantize(self.device));
        tensor.map(Some).map_err(|error| {
            Error::unusable(self.path, format!("tensor {name} cannot be read: {error}"))
        })
    }
}
