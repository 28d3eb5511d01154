//! The workload that all figures are stated for: one arrival at the attention shape of
//! Llama-3.2-1B, 16 layers of q, k, v and o projections at r = 32, and the yardsticks beside it.

use std::hint::black_box;

use candle_core::Device;
use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};
use kmerge_merge::{
    AdapterLayout, AdapterView, AssignmentRule, BaseModel, MergeError, ModuleNorms, Operator, Plan,
    Policy, SlotDtype, SlotView, TensorSink, decode_slot, execute, plan,
};
use rayon::prelude::*;

/// Every operator that makes one adapter of two.
pub(crate) const OPERATORS: [Operator; 8] = [
    Operator::KMergeLinear,
    Operator::Linear,
    Operator::Exact,
    Operator::Ties,
    Operator::DareLinear,
    Operator::DareTies,
    Operator::Opcm,
    Operator::Svd,
];

/// Rank of every adapter.
const RANK: usize = 32;
const LAYERS: usize = 16;
/// Name, rows and columns of each module of a layer.
const MODULES: [(&str, usize, usize); 4] = [
    ("self_attn.k_proj", 512, 2048),
    ("self_attn.o_proj", 2048, 2048),
    ("self_attn.q_proj", 2048, 2048),
    ("self_attn.v_proj", 512, 2048),
];

/// One adapter in memory.
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

/// K slots and a newcomer.
pub(crate) struct Workload {
    pub(crate) slots: Vec<(Adapter, ModuleNorms)>,
    pub(crate) newcomer: Adapter,
}

/// Floating-point operations of the Gram products of one arrival: K inner products and the
/// newcomer's norm, each 2·r²·(out + in) a module.
pub(crate) fn search_flop(slots: usize) -> usize {
    let widths: usize = MODULES
        .iter()
        .map(|(_, rows, columns)| rows + columns)
        .sum();
    2 * RANK * RANK * widths * LAYERS * (slots + 1)
}

impl Workload {
    /// Random adapters, stored in `dtype`.
    pub(crate) fn new(slots: u32, dtype: SlotDtype) -> Self {
        let stored = |seed: u64| {
            let adapter = random_adapter(seed);
            let policy = policy(1, Operator::KMergeLinear, dtype);
            let plan = plan(&policy, &[], adapter.view(), &|_| ()).expect("a free slot");
            let mut bytes = Vec::new();
            let outcome = execute(&plan, &[], adapter.view(), &mut bytes, &|_| ()).expect("finite");
            (
                Adapter {
                    layout: outcome.layout,
                    bytes,
                },
                outcome.norms,
            )
        };
        Self {
            slots: (1..=u64::from(slots)).map(stored).collect(),
            newcomer: stored(0).0,
        }
    }

    pub(crate) fn views(&self) -> Vec<SlotView<'_>> {
        (0..)
            .zip(&self.slots)
            .map(|(slot, (adapter, norms))| SlotView {
                slot,
                generation: 1,
                members: 1,
                adapter: adapter.view(),
                norms: Some(norms),
            })
            .collect()
    }

    /// The similarity search of one arrival, all slots taken.
    pub(crate) fn search(&self, operator: Operator) -> Plan {
        let slots = u32::try_from(self.slots.len()).expect("a few");
        let policy = policy(slots, operator, SlotDtype::Widest);
        plan(&policy, &self.views(), self.newcomer.view(), &|_| ()).expect("finite")
    }

    /// The whole merge of one arrival into memory that is already there.
    pub(crate) fn merge(&self, plan: &Plan, sink: &mut Memory) -> Result<(), MergeError> {
        sink.0.clear();
        execute(plan, &self.views(), self.newcomer.view(), sink, &|_| ()).map(drop)
    }

    /// Reads the bytes of all slots and of the newcomer once, by all threads.
    pub(crate) fn read_once(&self) {
        let files = self
            .slots
            .iter()
            .map(|(slot, _)| &slot.bytes)
            .chain([&self.newcomer.bytes]);
        for file in files {
            let words = |chunk: &[u8]| {
                chunk.chunks_exact(8).fold(0_u64, |sum, word| {
                    sum.wrapping_add(u64::from_le_bytes(word.try_into().expect("8 bytes")))
                })
            };
            black_box(
                file.par_chunks(1 << 18)
                    .map(words)
                    .reduce(|| 0, u64::wrapping_add),
            );
        }
    }

    /// Copies what a merge reads, one slot and the newcomer, by all threads.
    pub(crate) fn copy(&self, to: &mut [Vec<u8>; 2]) {
        for (from, to) in [&self.slots[0].0.bytes, &self.newcomer.bytes]
            .into_iter()
            .zip(to)
        {
            to.resize(from.len(), 0);
            to.par_chunks_mut(1 << 18)
                .zip(from.par_chunks(1 << 18))
                .for_each(|(to, from)| to.copy_from_slice(from));
            black_box(to);
        }
    }

    /// The search as the reference code does it, for one module of 2048 x 2048: every update
    /// formed, then compared. Returns the share of the whole that this module is.
    pub(crate) fn dense_module(&self) -> f64 {
        let (name, rows, columns) = MODULES[2];
        let path = format!("model.layers.0.{name}");
        let update = |adapter: &Adapter| {
            let module = adapter.layout.module(&path).expect("every adapter has it");
            let (a, b) = adapter
                .view()
                .factors(module, &Device::Cpu)
                .expect("in memory");
            b.matmul(&a).expect("shapes agree")
        };
        for (slot, _) in &self.slots {
            let (new, old) = (update(&self.newcomer), update(slot));
            let sum = |product: candle_core::Result<candle_core::Tensor>| {
                product
                    .and_then(|p| p.sum_all()?.to_scalar::<f32>())
                    .expect("on the CPU")
            };
            black_box(sum(&new * &old) / (sum(new.sqr()) * sum(old.sqr())).sqrt());
        }
        let all: usize = MODULES
            .iter()
            .map(|(_, rows, columns)| rows * columns)
            .sum();
        count(rows * columns) / count(all * LAYERS)
    }
}

/// A sink that keeps its memory from one merge to the next.
#[derive(Default)]
pub(crate) struct Memory(Vec<u8>);

impl TensorSink for Memory {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.0.extend_from_slice(bytes);
        Ok(())
    }
}

/// Products of square f32 matrices of this size, one for each thread: the yardstick for arithmetic.
const GEMM: usize = 1024;

/// One round of the GEMM yardstick; returns its operations.
pub(crate) fn gemm_round(scratch: &mut GemmScratch) -> f64 {
    let GemmScratch { x, y, out } = scratch;
    out.par_iter_mut().for_each(|out| {
        matmul(
            MatMut::from_row_major_slice_mut(out, GEMM, GEMM),
            Accum::Replace,
            MatRef::from_row_major_slice(x, GEMM, GEMM),
            MatRef::from_row_major_slice(y, GEMM, GEMM),
            1.0,
            Par::Seq,
        );
    });
    2.0 * count(GEMM * GEMM * GEMM) * count(out.len())
}

/// Matrices of the GEMM yardstick.
pub(crate) struct GemmScratch {
    x: Vec<f32>,
    y: Vec<f32>,
    out: Vec<Vec<f32>>,
}

impl GemmScratch {
    pub(crate) fn new() -> Self {
        let mut random = Random(7);
        let mut matrix = || (0..GEMM * GEMM).map(|_| random.next()).collect();
        Self {
            x: matrix(),
            y: matrix(),
            out: vec![vec![0.0; GEMM * GEMM]; rayon::current_num_threads()],
        }
    }
}

fn policy(slots: u32, operator: Operator, dtype: SlotDtype) -> Policy {
    let assignment = AssignmentRule::KMerge;
    Policy {
        slots,
        max_bytes: None,
        assignment,
        operator,
        dtype,
        ..Policy::default()
    }
}

/// Uniform values in [-1, 1), the same for the same seed.
struct Random(u64);

impl Random {
    fn next(&mut self) -> f32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        f32::from(u16::try_from(self.0 >> 48).expect("16 bits")) / 32768.0 - 1.0
    }
}

/// A file in normal form with random factors of about the size that training gives.
fn random_adapter(seed: u64) -> Adapter {
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let mut header = serde_json::Map::new();
    let mut data = Vec::new();
    for layer in 0..LAYERS {
        for (name, rows, columns) in MODULES {
            for (factor, shape) in [("lora_A", [RANK, columns]), ("lora_B", [rows, RANK])] {
                let begin = data.len();
                for _ in 0..shape[0] * shape[1] {
                    data.extend((random.next() * 0.05).to_le_bytes());
                }
                header.insert(
                    format!("base_model.model.model.layers.{layer}.{name}.{factor}.weight"),
                    serde_json::json!({
                        "dtype": "F32", "shape": shape, "data_offsets": [begin, data.len()],
                    }),
                );
            }
        }
    }
    let header = serde_json::Value::Object(header).to_string();
    let length = u64::try_from(header.len()).expect("short");
    let bytes = [&length.to_le_bytes()[..], header.as_bytes(), &data].concat();
    let layout = decode_slot(&bytes).expect("normal form");
    assert!(
        layout
            .modules
            .iter()
            .all(|module| base().module_shape(&module.path).is_some())
    );
    Adapter { layout, bytes }
}

/// The base model whose shape this is.
fn base() -> BaseModel {
    BaseModel::from_config_json(
        br#"{"architectures":["LlamaForCausalLM"],"hidden_size":2048,"intermediate_size":8192,
            "num_hidden_layers":16,"num_attention_heads":32,"num_key_value_heads":8}"#,
    )
    .expect("a known family")
}

#[expect(
    clippy::cast_precision_loss,
    reason = "counts of operations, far inside f64"
)]
pub(crate) fn count(number: usize) -> f64 {
    number as f64
}
