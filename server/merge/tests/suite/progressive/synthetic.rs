//! Adapters as training makes them, without training: a few strong directions, Gaussian vectors,
//! tasks in families. Shared with the benches and the example, so it stands alone.
//!
//! Measured on real adapters of rank 16: .74, .87, .94 and .98 of a module's energy in its first 1,
//! 2, 4 and 8 directions; vectors with the kurtosis of a normal distribution; similarity about .08
//! between tasks of one family and .02 between others; sizes of modules that differ by half an
//! octave (standard deviation).

use half::{bf16, f16};
use kmerge_merge::{AdapterLayout, AdapterView, BaseModel, Dtype, decode};
use serde_json::{Map, Value, json};

/// Similarity of tasks of one family, and of any two tasks.
const ALIKE: [f64; 2] = [0.08, 0.02];
/// Tasks of one family.
const FAMILY: u64 = 6;

/// The share of a module's energy in each of 16 directions.
pub(crate) const TRAINED: [f64; 16] = [
    0.74, 0.13, 0.035, 0.035, 0.01, 0.01, 0.01, 0.01, 0.0025, 0.0025, 0.0025, 0.0025, 0.0025,
    0.0025, 0.0025, 0.0025,
];

/// An adapter in memory.
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

/// The factors of one module: D = B·A.
#[derive(Debug, Clone)]
pub(crate) struct Module {
    pub(crate) path: String,
    pub(crate) out_features: usize,
    pub(crate) in_features: usize,
    pub(crate) rank: usize,
    /// rank × in.
    pub(crate) a: Vec<f64>,
    /// out × rank.
    pub(crate) b: Vec<f64>,
}

impl Module {
    /// Nothing at all, at rank 0.
    pub(crate) fn empty(base: &BaseModel, path: &str) -> Self {
        let shape = base.module_shape(path).expect("the base has the module");
        Self {
            path: path.to_owned(),
            out_features: shape.out_features,
            in_features: shape.in_features,
            rank: 0,
            a: Vec::new(),
            b: Vec::new(),
        }
    }

    /// D of a task: energies as told, vectors from the task, its family and everybody's.
    pub(crate) fn trained(base: &BaseModel, path: &str, task: u64, energies: &[f64]) -> Self {
        let mut module = Self::empty(base, path);
        // Two vectors of every direction agree, so each agrees as much as the root says.
        let [alike, anyone] = ALIKE.map(f64::sqrt);
        let shares = [anyone, alike - anyone, 1.0 - alike];
        let place = path.bytes().fold(0_u64, |hash, byte| {
            hash.wrapping_mul(0x0100_0000_01b3) ^ u64::from(byte)
        });
        let mut sources = [1, 1_000 + task / FAMILY, 1_000_000 + task]
            .map(|seed: u64| Random::new(place ^ seed.wrapping_mul(0x9e37_79b9_7f4a_7c15)));
        let [_, of_module, of_task] = sources.each_mut().map(Random::normal);
        let octaves = 0.5 * of_module + 0.25 * of_task;
        for &energy in energies {
            let mut vector = |entries: usize| -> Vec<f64> {
                let parts = sources.each_mut().map(|source| source.unit(entries));
                let mixed = (0..entries).map(|entry| {
                    (0..3)
                        .map(|part| shares[part].sqrt() * parts[part][entry])
                        .sum()
                });
                unit(mixed.collect())
            };
            let (left, right) = (vector(module.out_features), vector(module.in_features));
            module.push(energy.sqrt() * octaves.exp2(), &left, &right);
        }
        module
    }

    /// Adds `size`·left·rightᵀ, shared out evenly between the factors.
    pub(crate) fn push(&mut self, size: f64, left: &[f64], right: &[f64]) {
        let root = size.sqrt();
        self.a.extend(right.iter().map(|entry| entry * root));
        let mut b = Vec::with_capacity(self.b.len() + self.out_features);
        for (row, &entry) in left.iter().enumerate() {
            b.extend_from_slice(&self.b[row * self.rank..(row + 1) * self.rank]);
            b.push(entry * root);
        }
        self.b = b;
        self.rank += 1;
    }

    /// D times a number.
    pub(crate) fn times(mut self, factor: f64) -> Self {
        self.b.iter_mut().for_each(|entry| *entry *= factor);
        self
    }

    /// The same D by other factors: (B·R, R⁻¹·A) with R of rotations and of scales up to `most`.
    pub(crate) fn gauged(mut self, seed: u64, most: f64) -> Self {
        let mut random = Random::new(seed);
        for one in 0..self.rank {
            for other in 0..one {
                let (sine, cosine) = (random.uniform() * std::f64::consts::TAU).sin_cos();
                for row in self.b.chunks_exact_mut(self.rank) {
                    let (x, y) = (row[one], row[other]);
                    (row[one], row[other]) = (cosine * x + sine * y, cosine * y - sine * x);
                }
                for column in 0..self.in_features {
                    let (i, j) = (
                        one * self.in_features + column,
                        other * self.in_features + column,
                    );
                    let (x, y) = (self.a[i], self.a[j]);
                    (self.a[i], self.a[j]) = (cosine * x + sine * y, cosine * y - sine * x);
                }
            }
        }
        for index in 0..self.rank {
            let scale = most.powf(2.0 * random.uniform() - 1.0);
            let row = index * self.in_features..(index + 1) * self.in_features;
            self.a[row].iter_mut().for_each(|entry| *entry /= scale);
            let column = self.b.iter_mut().skip(index).step_by(self.rank);
            column.for_each(|entry| *entry *= scale);
        }
        self
    }

    /// The same D at a higher rank: new rows of A are whatever, new columns of B are zero.
    pub(crate) fn padded(mut self, rank: usize, seed: u64) -> Self {
        let nothing = vec![0.0; self.out_features];
        let mut random = Random::new(seed);
        while self.rank < rank {
            let whatever = random.unit(self.in_features);
            self.push(1.0, &nothing, &whatever);
        }
        self
    }
}

/// How an adapter is written down.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Form {
    pub(crate) dtype: Dtype,
    pub(crate) alpha: f64,
    pub(crate) rslora: bool,
}

impl Default for Form {
    fn default() -> Self {
        Self {
            dtype: Dtype::F32,
            alpha: 16.0,
            rslora: false,
        }
    }
}

/// Writes an adapter as PEFT would, scaling taken out of B, and reads its layout back.
pub(crate) fn write(base: &BaseModel, modules: &[Module], form: Form) -> Adapter {
    let mut header = Map::new();
    let mut data = Vec::new();
    let mut ranks = Map::new();
    for module in modules {
        ranks.insert(module.path.clone(), module.rank.into());
        let rank = as_float(module.rank);
        let scaling = form.alpha / if form.rslora { rank.sqrt() } else { rank };
        let factors = [
            ("lora_A", [module.rank, module.in_features], &module.a, 1.0),
            (
                "lora_B",
                [module.out_features, module.rank],
                &module.b,
                scaling,
            ),
        ];
        for (factor, shape, values, divisor) in factors {
            let begin = data.len();
            for value in values {
                let value = as_f32(value / divisor);
                match form.dtype {
                    Dtype::F32 => data.extend(value.to_le_bytes()),
                    Dtype::F16 => data.extend(f16::from_f32(value).to_le_bytes()),
                    Dtype::Bf16 => data.extend(bf16::from_f32(value).to_le_bytes()),
                }
            }
            header.insert(
                format!("base_model.model.{}.{factor}.weight", module.path),
                json!({
                    "dtype": form.dtype.safetensors_name(),
                    "shape": shape,
                    "data_offsets": [begin, data.len()],
                }),
            );
        }
    }
    let config = json!({
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 8, "lora_alpha": form.alpha,
        "use_rslora": form.rslora, "rank_pattern": ranks,
    });
    let header = Value::Object(header).to_string();
    let length = u64::try_from(header.len()).expect("short");
    let bytes = [&length.to_le_bytes()[..], header.as_bytes(), &data].concat();
    let decoded = decode(config.to_string().as_bytes(), &bytes, base).expect("well formed");
    Adapter {
        layout: decoded.layout,
        bytes,
    }
}

/// A Llama of the given width and depth, with one key-value head for four heads.
pub(crate) fn llama(hidden: usize, layers: usize) -> BaseModel {
    let config = json!({
        "architectures": ["LlamaForCausalLM"], "hidden_size": hidden,
        "intermediate_size": 2 * hidden, "num_hidden_layers": layers,
        "num_attention_heads": 8, "num_key_value_heads": 2,
    });
    BaseModel::from_config_json(config.to_string().as_bytes()).expect("a known family")
}

/// The attention projections of every layer.
pub(crate) fn attention(layers: usize) -> Vec<String> {
    let names = ["q_proj", "k_proj", "v_proj", "o_proj"];
    (0..layers)
        .flat_map(|layer| names.map(|name| format!("model.layers.{layer}.self_attn.{name}")))
        .collect()
}

/// A task's adapter with a realistic spectrum in every module.
pub(crate) fn trained(base: &BaseModel, paths: &[String], task: u64, form: Form) -> Adapter {
    let modules: Vec<Module> = paths
        .iter()
        .map(|path| Module::trained(base, path, task, &TRAINED))
        .collect();
    write(base, &modules, form)
}

/// Numbers that are the same for the same seed.
#[derive(Debug, Clone)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        let mut random =
            Self((seed ^ 0x2545_f491_4f6c_dd1d).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        // Seeds that differ in few bits begin alike.
        for _ in 0..8 {
            random.bits();
        }
        random
    }

    pub(crate) fn bits(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// In [0, 1).
    pub(crate) fn uniform(&mut self) -> f64 {
        f64::from(u32::try_from(self.bits() >> 32).expect("32 bits")) / 4_294_967_296.0
    }

    /// Nearly normally distributed: a sum of eight uniform numbers, whose kurtosis is 2.85.
    pub(crate) fn normal(&mut self) -> f64 {
        let parts = [self.bits(), self.bits()].map(|bits| {
            let sums = [
                bits & 0xffff,
                bits >> 16 & 0xffff,
                bits >> 32 & 0xffff,
                bits >> 48,
            ];
            sums.iter().sum::<u64>()
        });
        let sum = u32::try_from(parts[0] + parts[1]).expect("8 times 16 bits");
        (f64::from(sum) / 65_536.0 - 4.0) * 1.224_744_871_391_589
    }

    /// A vector of length 1 in any direction.
    pub(crate) fn unit(&mut self, entries: usize) -> Vec<f64> {
        unit((0..entries).map(|_| self.normal()).collect())
    }
}

fn unit(mut vector: Vec<f64>) -> Vec<f64> {
    let length = vector.iter().map(|entry| entry * entry).sum::<f64>().sqrt();
    vector.iter_mut().for_each(|entry| *entry /= length);
    vector
}

/// A count as a number.
pub(crate) fn as_float(count: usize) -> f64 {
    f64::from(u32::try_from(count).expect("far below 2^32"))
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "rounding to f32 is the purpose"
)]
fn as_f32(value: f64) -> f32 {
    value as f32
}
