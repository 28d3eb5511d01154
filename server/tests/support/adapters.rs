//! Adapters to send: the goldens, the demo's, and small ones made here, right or wrong by choice.
//!
//! Made adapters fit the goldens' tiny Llama: 3 layers, hidden 64, 4 heads of 16, 2 key-value
//! heads, intermediate 96.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::{goldens, workspace};

/// An adapter's two files.
#[derive(Debug, Clone)]
pub(crate) struct Files {
    pub(crate) config: Vec<u8>,
    pub(crate) tensors: Vec<u8>,
}

impl Files {
    /// Reads a PEFT directory.
    pub(crate) fn read(directory: &Path) -> Self {
        let read = |name| std::fs::read(directory.join(name)).unwrap();
        Self {
            config: read("adapter_config.json"),
            tensors: read("adapter_model.safetensors"),
        }
    }

    /// Writes a PEFT directory.
    pub(crate) fn write(&self, directory: &Path) {
        std::fs::create_dir_all(directory).unwrap();
        std::fs::write(directory.join("adapter_config.json"), &self.config).unwrap();
        std::fs::write(directory.join("adapter_model.safetensors"), &self.tensors).unwrap();
    }

    /// The adapter as the client library sends it.
    pub(crate) fn adapter(&self) -> kmerge_client::Adapter {
        kmerge_client::Adapter::from_bytes(self.config.clone(), self.tensors.clone().into())
    }
}

/// A golden adapter.
pub(crate) fn golden(name: &str) -> Files {
    Files::read(&goldens().join("adapters").join(name))
}

/// Where the demo's adapters and their base model's config.json are.
pub(crate) fn demo_directory() -> PathBuf {
    workspace().join("client/demo")
}

/// The configuration that goes with [`Tensors::fitting`].
pub(crate) fn config(rank: usize) -> Map<String, Value> {
    let config = json!({
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": "kmerge-tiny-llama-3x64",
        "r": rank,
        "lora_alpha": 2 * rank,
        "target_modules": ["q_proj", "v_proj"],
        "bias": "none",
    });
    config.as_object().unwrap().clone()
}

/// One tensor: how it is described, and its bytes.
#[derive(Debug, Clone)]
pub(crate) struct Tensor {
    pub(crate) name: String,
    pub(crate) dtype: String,
    pub(crate) shape: Vec<u64>,
    pub(crate) bytes: Vec<u8>,
}

/// The tensors of a file that is being made.
#[derive(Debug, Clone)]
pub(crate) struct Tensors(pub(crate) Vec<Tensor>);

/// The name of a factor of a module in a layer.
pub(crate) fn factor(layer: usize, module: &str, factor: &str) -> String {
    format!("base_model.model.model.layers.{layer}.{module}.lora_{factor}.weight")
}

impl Tensor {
    /// An F32 tensor of numbers that differ from seed to seed.
    pub(crate) fn random(name: String, shape: &[u64], seed: u64) -> Self {
        let mut state = seed.wrapping_mul(2).wrapping_add(1);
        let count = shape.iter().product();
        let values = (0..count).map(|_| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            f32::from(i16::from_le_bytes([
                state.to_be_bytes()[0],
                state.to_be_bytes()[1],
            ])) / 65536.0
        });
        Self {
            name,
            dtype: "F32".to_owned(),
            shape: shape.to_vec(),
            bytes: values.flat_map(f32::to_le_bytes).collect(),
        }
    }

    /// Puts an F32 value at an index.
    pub(crate) fn set(&mut self, index: usize, value: f32) {
        self.bytes[4 * index..4 * index + 4].copy_from_slice(&value.to_le_bytes());
    }

    fn describe(&self, begin: usize) -> Value {
        json!({
            "dtype": self.dtype,
            "shape": self.shape,
            "data_offsets": [begin, begin + self.bytes.len()],
        })
    }
}

impl Tensors {
    /// Factors of q_proj and v_proj in all three layers.
    pub(crate) fn fitting(rank: usize, seed: u64) -> Self {
        let r = u64::try_from(rank).unwrap();
        let mut tensors = Vec::new();
        for layer in 0..3 {
            for (module, out) in [("self_attn.q_proj", 64), ("self_attn.v_proj", 32)] {
                for (name, shape) in [("A", [r, 64]), ("B", [out, r])] {
                    let seed = seed.wrapping_mul(1000) + u64::try_from(tensors.len()).unwrap();
                    tensors.push(Tensor::random(factor(layer, module, name), &shape, seed));
                }
            }
        }
        Self(tensors)
    }

    /// The first tensor: A of the first layer's q_proj.
    pub(crate) fn first(&mut self) -> &mut Tensor {
        &mut self.0[0]
    }

    /// The header's JSON, tensors one after the other.
    pub(crate) fn header(&self) -> Map<String, Value> {
        let mut header = Map::new();
        let mut begin = 0;
        for tensor in &self.0 {
            header.insert(tensor.name.clone(), tensor.describe(begin));
            begin += tensor.bytes.len();
        }
        header
    }

    /// The bytes after the header.
    pub(crate) fn data(&self) -> Vec<u8> {
        self.0
            .iter()
            .flat_map(|tensor| tensor.bytes.clone())
            .collect()
    }

    /// The file.
    pub(crate) fn file(&self) -> Vec<u8> {
        container(
            Value::Object(self.header()).to_string().as_bytes(),
            &self.data(),
        )
    }
}

/// A file of a header and data, whatever they hold.
pub(crate) fn container(header: &[u8], data: &[u8]) -> Vec<u8> {
    let length = u64::try_from(header.len()).unwrap();
    [&length.to_le_bytes()[..], header, data].concat()
}

/// A small adapter that is right, different for each seed.
pub(crate) fn small(rank: usize, seed: u64) -> Files {
    Files {
        config: Value::Object(config(rank)).to_string().into_bytes(),
        tensors: Tensors::fitting(rank, seed).file(),
    }
}
