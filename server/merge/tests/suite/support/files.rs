//! Files: the goldens on disk, and safetensors files made in memory byte by byte.

use std::path::PathBuf;

use half::{bf16, f16};
use kmerge_merge::{AdapterLayout, AdapterView, BaseModel, Dtype, decode};
use serde_json::{Value, json};

/// Reads a file below `tests/goldens`.
#[expect(clippy::disallowed_methods, reason = "tests read their own data")]
pub(crate) fn golden(path: &str) -> Vec<u8> {
    let file = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/goldens")
        .join(path);
    std::fs::read(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

/// Reads a JSON file below `tests/goldens`.
pub(crate) fn golden_json(path: &str) -> Value {
    serde_json::from_slice(&golden(path)).unwrap()
}

/// An adapter: where everything is, and the bytes.
#[derive(Debug, Clone)]
pub(crate) struct Adapter {
    pub(crate) layout: AdapterLayout,
    pub(crate) bytes: Vec<u8>,
}

impl Adapter {
    pub(crate) fn view(&self) -> AdapterView<'_> {
        AdapterView {
            layout: &self.layout,
            source: &self.bytes,
        }
    }
}

/// A golden adapter by name.
pub(crate) fn golden_adapter(name: &str) -> Adapter {
    let base = BaseModel::from_config_json(&golden("base/config.json")).unwrap();
    let config = golden(&format!("adapters/{name}/adapter_config.json"));
    let bytes = golden(&format!("adapters/{name}/adapter_model.safetensors"));
    let decoded = decode(&config, &bytes, &base).unwrap();
    assert_eq!(decoded.warnings, [""; 0], "{name}");
    Adapter {
        layout: decoded.layout,
        bytes,
    }
}

/// One tensor to be written.
#[derive(Debug, Clone)]
pub(crate) struct Tensor {
    pub(crate) name: String,
    pub(crate) dtype: Dtype,
    pub(crate) shape: Vec<usize>,
    pub(crate) values: Vec<f32>,
}

impl Tensor {
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let each = |value: &f32| match self.dtype {
            Dtype::F32 => value.to_le_bytes().to_vec(),
            Dtype::F16 => f16::from_f32(*value).to_le_bytes().to_vec(),
            Dtype::Bf16 => bf16::from_f32(*value).to_le_bytes().to_vec(),
        };
        self.values.iter().flat_map(each).collect()
    }
}

/// A safetensors file with the given header and data.
pub(crate) fn container(header: &[u8], data: &[u8]) -> Vec<u8> {
    [
        &u64::try_from(header.len()).unwrap().to_le_bytes()[..],
        header,
        data,
    ]
    .concat()
}

/// A correct safetensors file.
pub(crate) fn safetensors(tensors: &[Tensor]) -> Vec<u8> {
    let mut header = serde_json::Map::new();
    let mut data = Vec::new();
    for tensor in tensors {
        let begin = data.len();
        data.extend(tensor.bytes());
        header.insert(
            tensor.name.clone(),
            json!({
                "dtype": tensor.dtype.safetensors_name(),
                "shape": tensor.shape,
                "data_offsets": [begin, data.len()],
            }),
        );
    }
    container(Value::Object(header).to_string().as_bytes(), &data)
}

/// The two factors of one module.
#[derive(Debug, Clone)]
pub(crate) struct Module {
    /// Such as `0.self_attn.q_proj`.
    pub(crate) path: String,
    pub(crate) out_features: usize,
    pub(crate) in_features: usize,
    pub(crate) rank: usize,
    pub(crate) a: Vec<f32>,
    pub(crate) b: Vec<f32>,
}

impl Module {
    /// Deterministic values of unit size, different for each seed.
    pub(crate) fn random(
        path: &str,
        [out_features, in_features]: [usize; 2],
        rank: usize,
        seed: u64,
    ) -> Self {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x2545_f491_4f6c_dd1d;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            f32::from(u16::try_from(state >> 48).unwrap()) / 32768.0 - 1.0
        };
        for byte in path.bytes() {
            for _ in 0..byte % 7 {
                next();
            }
        }
        Self {
            path: path.to_owned(),
            out_features,
            in_features,
            rank,
            a: (0..rank * in_features).map(|_| next()).collect(),
            b: (0..out_features * rank).map(|_| next()).collect(),
        }
    }

    pub(crate) fn tensors(&self, dtype: Dtype) -> [Tensor; 2] {
        let name = |factor| {
            format!(
                "base_model.model.model.layers.{}.{factor}.weight",
                self.path
            )
        };
        [
            Tensor {
                name: name("lora_A"),
                dtype,
                shape: vec![self.rank, self.in_features],
                values: self.a.clone(),
            },
            Tensor {
                name: name("lora_B"),
                dtype,
                shape: vec![self.out_features, self.rank],
                values: self.b.clone(),
            },
        ]
    }
}

/// An adapter of the tiny base: `alpha` for all modules, ranks told by `rank_pattern`.
pub(crate) fn adapter(modules: &[Module], alpha: f64, dtype: Dtype) -> Adapter {
    let tensors: Vec<Tensor> = modules
        .iter()
        .flat_map(|module| module.tensors(dtype))
        .collect();
    let ranks: serde_json::Map<String, Value> = modules
        .iter()
        .map(|m| (format!("layers.{}", m.path), m.rank.into()))
        .collect();
    let config = json!({
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 8, "lora_alpha": alpha,
        "rank_pattern": ranks,
    });
    let bytes = safetensors(&tensors);
    let decoded = decode(config.to_string().as_bytes(), &bytes, &super::tiny_base()).unwrap();
    Adapter {
        layout: decoded.layout,
        bytes,
    }
}
