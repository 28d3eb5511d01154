//! A decoder-only forward pass for Llama and Qwen2, over sequences laid end to end.
//!
//! The tokens of all sequences of a batch are rows of one matrix, without any padding; only the
//! attention looks at one sequence at a time. All arithmetic is f32. The head is applied only to
//! the positions that are asked for.

use std::collections::HashMap;

use candle_core::{D, DType, Device, Tensor};
use candle_nn::ops::{rms_norm, silu, softmax_last_dim};
use candle_nn::rotary_emb::rope;

use super::adapter::Adapter;
use super::error::Error;
use super::shape::Shape;

/// Tensors by their Hugging Face names without `model.` in front, F32.
pub(crate) type Weights = HashMap<String, Tensor>;

/// The modules of a layer that adapters can change.
const MODULES: [&str; 7] = [
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.o_proj",
    "mlp.gate_proj",
    "mlp.up_proj",
    "mlp.down_proj",
];

/// A model that can be run. Clones share their tensors.
#[derive(Debug, Clone)]
pub(crate) struct Model {
    shape: Shape,
    /// Rotary frequencies of one head.
    frequencies: Tensor,
    /// Vocabulary × width.
    embedding: Tensor,
    layers: Vec<Layer>,
    norm: Tensor,
    /// Vocabulary × width; the embedding where they are tied.
    head: Tensor,
    device: Device,
}

#[derive(Debug, Clone)]
struct Layer {
    /// In the order of [`MODULES`].
    modules: [Linear; MODULES.len()],
    attention_norm: Tensor,
    feed_norm: Tensor,
}

#[derive(Debug, Clone)]
struct Linear {
    /// Out × in.
    weight: Tensor,
    bias: Option<Tensor>,
}

/// One sequence and which of its next tokens are asked for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asked<'a> {
    pub(crate) tokens: &'a [u32],
    /// Logits are given from this position to the last but one: those that predict
    /// `tokens[first + 1..]`.
    pub(crate) first: usize,
}

impl Model {
    /// Puts a model together. `factors`, if any, divide the rotary frequencies.
    pub(crate) fn new(
        shape: Shape,
        mut weights: Weights,
        factors: Option<&[f32]>,
        device: &Device,
    ) -> Result<Self, Error> {
        let mut frequencies = shape.frequencies();
        for (frequency, factor) in frequencies.iter_mut().zip(factors.unwrap_or_default()) {
            *frequency /= factor;
        }
        let half = frequencies.len();
        let layers = (0..shape.layers)
            .map(|layer| Layer::take(&mut weights, layer))
            .collect::<Result<_, _>>()?;
        let embedding = take(&mut weights, "embed_tokens.weight")?;
        let head = weights.remove("lm_head.weight");
        Ok(Self {
            frequencies: Tensor::from_vec(frequencies, (1, half), device)?,
            layers,
            norm: take(&mut weights, "norm.weight")?,
            head: head.unwrap_or_else(|| embedding.clone()),
            embedding,
            device: device.clone(),
            shape,
        })
    }

    /// Where its tensors are.
    pub(crate) fn device(&self) -> &Device {
        &self.device
    }

    /// The size of its vocabulary.
    pub(crate) fn vocabulary(&self) -> usize {
        self.embedding.dims()[0]
    }

    /// The model with an adapter added to its weights. Unchanged modules are shared.
    pub(crate) fn with(&self, adapter: &Adapter) -> Result<Self, Error> {
        let mut model = self.clone();
        for (name, update) in adapter.updates() {
            let weight = model.weight(name)?;
            let update = update.dense(&self.device)?;
            if update.dims() != weight.dims() {
                return Err(Error::Misfit(format!(
                    "{name} has shape {:?}, its update {:?}",
                    weight.dims(),
                    update.dims()
                )));
            }
            *weight = (&*weight + update)?;
        }
        Ok(model)
    }

    /// The weight of a module by name, as `layers.3.self_attn.q_proj`.
    fn weight(&mut self, name: &str) -> Result<&mut Tensor, Error> {
        let parts = name
            .strip_prefix("layers.")
            .and_then(|rest| rest.split_once('.'));
        parts
            .and_then(|(layer, module)| {
                let layer = self.layers.get_mut(layer.parse::<usize>().ok()?)?;
                let index = MODULES.iter().position(|known| *known == module)?;
                Some(&mut layer.modules.get_mut(index)?.weight)
            })
            .ok_or_else(|| Error::Misfit(format!("it has no module {name}")))
    }

    /// The logits of the positions that are asked for, of all sequences in order: rows ×
    /// vocabulary.
    pub(crate) fn logits(&self, sequences: &[Asked<'_>]) -> Result<Tensor, Error> {
        let tokens: Vec<u32> = sequences
            .iter()
            .flat_map(|asked| asked.tokens)
            .copied()
            .collect();
        let mut rows = Vec::new();
        let mut positions = Vec::new();
        for asked in sequences {
            let start = positions.len();
            let end = start + asked.tokens.len().saturating_sub(1);
            rows.extend((start + asked.first..end).filter_map(|row| u32::try_from(row).ok()));
            positions.extend(0..u16::try_from(asked.tokens.len()).unwrap_or(u16::MAX));
        }
        let positions: Vec<f32> = positions.into_iter().map(f32::from).collect();
        let count = positions.len();
        let angles =
            Tensor::from_vec(positions, (count, 1), &self.device)?.matmul(&self.frequencies)?;
        let turns = (angles.cos()?, angles.sin()?);
        let lengths: Vec<usize> = sequences.iter().map(|asked| asked.tokens.len()).collect();
        let tokens = Tensor::from_vec(tokens, count, &self.device)?;
        let mut state = self.embedding.index_select(&tokens, 0)?;
        for layer in &self.layers {
            state = self.layer(layer, &state, &turns, &lengths)?;
        }
        let wanted = rows.len();
        let rows = Tensor::from_vec(rows, wanted, &self.device)?;
        let state = self.normed(&state.index_select(&rows, 0)?, &self.norm)?;
        Ok(state.matmul(&self.head.t()?)?)
    }

    fn layer(
        &self,
        layer: &Layer,
        state: &Tensor,
        turns: &(Tensor, Tensor),
        lengths: &[usize],
    ) -> candle_core::Result<Tensor> {
        let [query, key, value, output, gate, up, down] = &layer.modules;
        let normed = self.normed(state, &layer.attention_norm)?;
        let (heads, kv_heads) = (self.shape.heads, self.shape.kv_heads);
        let query = self.turned(&query.forward(&normed)?, heads, turns)?;
        let key = self.turned(&key.forward(&normed)?, kv_heads, turns)?;
        let value = self.split(&value.forward(&normed)?, kv_heads)?;
        let mixed = self.attention(&query, &key, &value, lengths)?;
        let state = (state + output.forward(&mixed)?)?;
        let normed = self.normed(&state, &layer.feed_norm)?;
        let inner = (silu(&gate.forward(&normed)?)? * up.forward(&normed)?)?;
        state + down.forward(&inner)?
    }

    fn normed(&self, state: &Tensor, weight: &Tensor) -> candle_core::Result<Tensor> {
        #[expect(clippy::cast_possible_truncation, reason = "the model runs in f32")]
        rms_norm(state, weight, self.shape.norm_epsilon as f32)
    }

    /// Tokens × (heads · width) to heads × tokens × width.
    fn split(&self, rows: &Tensor, heads: usize) -> candle_core::Result<Tensor> {
        let tokens = rows.dim(0)?;
        rows.reshape((tokens, heads, self.shape.head_width))?
            .transpose(0, 1)?
            .contiguous()
    }

    /// The same, turned by each token's position.
    fn turned(
        &self,
        rows: &Tensor,
        heads: usize,
        (cos, sin): &(Tensor, Tensor),
    ) -> candle_core::Result<Tensor> {
        rope(&self.split(rows, heads)?.unsqueeze(0)?, cos, sin)?.squeeze(0)
    }

    /// Causal attention, sequence by sequence: tokens × (heads · width).
    fn attention(
        &self,
        query: &Tensor,
        key: &Tensor,
        value: &Tensor,
        lengths: &[usize],
    ) -> candle_core::Result<Tensor> {
        let Shape {
            heads,
            kv_heads,
            head_width,
            ..
        } = self.shape;
        let shared = heads / kv_heads;
        let width = f64::from(u32::try_from(head_width).unwrap_or(u32::MAX));
        let mut mixed = Vec::with_capacity(lengths.len());
        let mut start = 0;
        for &length in lengths {
            let part = |all: &Tensor| all.narrow(1, start, length)?.contiguous();
            // The heads that share a key are rows of one matrix.
            let query = (part(query)? / width.sqrt())?;
            let query = query.reshape((kv_heads, shared * length, head_width))?;
            let scores = query.matmul(&part(key)?.t()?)?;
            let scores = scores.reshape((heads, length, length))?;
            let scores = scores.broadcast_add(&mask(length, &self.device)?)?;
            let shares = softmax_last_dim(&scores)?;
            let shares = shares.reshape((kv_heads, shared * length, length))?;
            let seen = shares.matmul(&part(value)?)?;
            let seen = seen.reshape((heads, length, head_width))?.transpose(0, 1)?;
            mixed.push(seen.reshape((length, heads * head_width))?);
            start += length;
        }
        Tensor::cat(&mixed, 0)
    }
}

impl Layer {
    fn take(weights: &mut Weights, layer: usize) -> Result<Self, Error> {
        let name = |module: &str, part: &str| format!("layers.{layer}.{module}.{part}");
        let mut modules = Vec::with_capacity(MODULES.len());
        for module in MODULES {
            modules.push(Linear {
                weight: take(weights, &name(module, "weight"))?,
                bias: weights.remove(&name(module, "bias")),
            });
        }
        let modules = modules
            .try_into()
            .map_err(|_| Error::Misfit(format!("layer {layer} is not whole")))?;
        Ok(Self {
            modules,
            attention_norm: take(weights, &name("input_layernorm", "weight"))?,
            feed_norm: take(weights, &name("post_attention_layernorm", "weight"))?,
        })
    }
}

impl Linear {
    fn forward(&self, rows: &Tensor) -> candle_core::Result<Tensor> {
        let product = rows.matmul(&self.weight.t()?)?;
        match &self.bias {
            Some(bias) => product.broadcast_add(bias),
            None => Ok(product),
        }
    }
}

fn take(weights: &mut Weights, name: &str) -> Result<Tensor, Error> {
    let tensor = weights.remove(name);
    tensor.ok_or_else(|| Error::Misfit(format!("the model has no tensor {name}")))
}

/// Minus infinity where a token would look ahead, else 0.
fn mask(length: usize, device: &Device) -> candle_core::Result<Tensor> {
    let rows = 0..length;
    let values: Vec<f32> = rows
        .flat_map(|row| {
            (0..length).map(move |seen| if seen > row { f32::NEG_INFINITY } else { 0.0 })
        })
        .collect();
    Tensor::from_vec(values, (length, length), device)
}

/// For each row of logits: the index of the largest, and the negative log likelihood of `wanted`.
pub(crate) fn judged(logits: &Tensor, wanted: &[u32]) -> Result<(Vec<u32>, Vec<f32>), Error> {
    let best = logits.argmax(D::Minus1)?.to_vec1::<u32>()?;
    let count = wanted.len();
    let index = Tensor::from_slice(wanted, (count, 1), logits.device())?;
    let of_wanted = logits.gather(&index, 1)?.squeeze(1)?;
    let total = logits.log_sum_exp(D::Minus1)?;
    let loss = (total - of_wanted)?
        .to_dtype(DType::F32)?
        .to_vec1::<f32>()?;
    Ok((best, loss))
}

#[cfg(test)]
mod tests;
