//! Adapters and base models of any size, made here: the values are noise, the shapes are real.

use std::fmt::Write as _;
use std::io::{BufWriter, Write as _};
use std::path::Path;

/// A Llama-like base model.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    pub layers: usize,
    pub hidden: usize,
    pub key_value: usize,
    pub intermediate: usize,
    /// Whether the MLP is targeted too.
    pub mlp: bool,
}

/// Llama-3.2-1B, attention only.
pub const LLAMA_1B: Shape = Shape {
    layers: 16,
    hidden: 2048,
    key_value: 512,
    intermediate: 8192,
    mlp: false,
};

/// Llama-3.1-8B, all linear modules.
pub const LLAMA_8B: Shape = Shape {
    layers: 32,
    hidden: 4096,
    key_value: 1024,
    intermediate: 14336,
    mlp: true,
};

impl Shape {
    /// Its config.json.
    pub fn config(self) -> String {
        let heads = self.hidden / 64;
        let key_value_heads = self.key_value / 64;
        format!(
            r#"{{"architectures":["LlamaForCausalLM"],"model_type":"llama","hidden_size":{},
            "intermediate_size":{},"num_hidden_layers":{},"num_attention_heads":{heads},
            "num_key_value_heads":{key_value_heads},"head_dim":64,"vocab_size":128256}}"#,
            self.hidden, self.intermediate, self.layers
        )
    }

    /// (module, out features, in features) of one layer.
    fn modules(self) -> Vec<(&'static str, usize, usize)> {
        let mut modules = vec![
            ("self_attn.q_proj", self.hidden, self.hidden),
            ("self_attn.k_proj", self.key_value, self.hidden),
            ("self_attn.v_proj", self.key_value, self.hidden),
            ("self_attn.o_proj", self.hidden, self.hidden),
        ];
        if self.mlp {
            modules.extend([
                ("mlp.gate_proj", self.intermediate, self.hidden),
                ("mlp.up_proj", self.intermediate, self.hidden),
                ("mlp.down_proj", self.hidden, self.intermediate),
            ]);
        }
        modules
    }
}

/// The type of the values, 16 or 32 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Width {
    F16,
    F32,
}

/// Writes a PEFT directory of noise and returns the size of its tensor file.
pub fn write(directory: &Path, shape: Shape, rank: usize, width: Width, seed: u64) -> u64 {
    std::fs::create_dir_all(directory).unwrap();
    let config = format!(
        r#"{{"peft_type":"LORA","task_type":"CAUSAL_LM","r":{rank},"lora_alpha":{rank},
        "target_modules":"all-linear","bias":"none"}}"#
    );
    std::fs::write(directory.join("adapter_config.json"), config).unwrap();
    let (name, bytes) = match width {
        Width::F16 => ("F16", 2),
        Width::F32 => ("F32", 4),
    };
    let mut header = String::from("{");
    let mut offset = 0;
    for layer in 0..shape.layers {
        for (module, outputs, inputs) in shape.modules() {
            for (factor, rows, columns) in [("A", rank, inputs), ("B", outputs, rank)] {
                let end = offset + rows * columns * bytes;
                let comma = if offset == 0 { "" } else { "," };
                write!(
                    header,
                    "{comma}\"base_model.model.model.layers.{layer}.{module}.lora_{factor}.weight\":\
                     {{\"dtype\":\"{name}\",\"shape\":[{rows},{columns}],\
                     \"data_offsets\":[{offset},{end}]}}"
                )
                .unwrap();
                offset = end;
            }
        }
    }
    header.push('}');
    while header.len() % 8 != 0 {
        header.push(' ');
    }
    let file = std::fs::File::create(directory.join("adapter_model.safetensors")).unwrap();
    let mut file = BufWriter::with_capacity(1 << 20, file);
    file.write_all(&(header.len() as u64).to_le_bytes())
        .unwrap();
    file.write_all(header.as_bytes()).unwrap();
    let mut noise = Noise(seed.wrapping_mul(2).wrapping_add(1));
    for _ in 0..offset / bytes {
        match width {
            Width::F16 => file.write_all(&noise.half().to_le_bytes()).unwrap(),
            Width::F32 => file.write_all(&noise.single().to_le_bytes()).unwrap(),
        }
    }
    file.into_inner().unwrap().sync_all().unwrap();
    (8 + header.len() + offset) as u64
}

/// A small generator (xorshift64*): the values need only look different.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// An F16 of either sign between 2^-9 and 2^-5.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "bits are cut out on purpose"
    )]
    fn half(&mut self) -> u16 {
        let bits = self.next() >> 40;
        let exponent = 6 + (bits >> 11 & 3);
        ((bits & 0x8000) | exponent << 10 | (bits & 0x3ff)) as u16
    }

    /// An F32 between -1/32 and 1/32.
    fn single(&mut self) -> f32 {
        ((self.next() >> 40) as f32 / (1 << 23) as f32 - 1.0) / 32.0
    }
}
