//! One arrival at progressive slots, beside the similarity search and one reading of the bytes: the
//! shape that all figures are stated for, 16 layers of q, k, v and o projections of Llama-3.2-1B at
//! r = 32, in slots of one adapter's F16 bytes.
//!
//! Members that were there before arrived at rank 2: of many members in a slot no more than that is
//! left anyway, and a thousand of them are made in a minute.

#[allow(dead_code, reason = "tests use the rest")]
#[path = "../../tests/suite/progressive/shelf.rs"]
mod shelf;
#[allow(dead_code, reason = "tests use the rest")]
#[path = "../../tests/suite/progressive/synthetic.rs"]
mod synthetic;

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion};
use kmerge_merge::{BaseModel, Dtype, Operator, Policy, SlotDtype};
use shelf::{Shelf, policy};
use synthetic::{Adapter, Form, Module, TRAINED, attention, write};

use crate::workload::Workload;

const LAYERS: usize = 16;
const RANK: usize = 32;
/// Adapters that older members take turns to be: what they cost depends on their number only.
const OLDER: usize = 8;

fn adapter(base: &BaseModel, task: u64, energies: &[f64]) -> Adapter {
    let modules: Vec<Module> = attention(LAYERS)
        .iter()
        .map(|path| Module::trained(base, path, task, energies))
        .collect();
    write(base, &modules, Form::default())
}

/// `slots` slots with `members` each.
fn filled(policy: &Policy, older: &[Adapter], slots: u32, members: usize) -> Shelf {
    let mut one = Shelf::default();
    let single = Policy {
        slots: 1,
        ..policy.clone()
    };
    for (number, adapter) in older.iter().cycle().take(members).enumerate() {
        one.arrive(&single, &format!("task-{number}"), adapter)
            .expect("there is room");
    }
    let stored = &one.slots[&0];
    Shelf {
        slots: (0..slots).map(|slot| (slot, stored.clone())).collect(),
        ..Shelf::default()
    }
}

pub(crate) fn progressive(criterion: &mut Criterion) {
    let base = BaseModel::from_config_json(
        br#"{"architectures":["LlamaForCausalLM"],"hidden_size":2048,"intermediate_size":8192,
            "num_hidden_layers":16,"num_attention_heads":32,"num_key_value_heads":8}"#,
    )
    .expect("a known family");
    let older: Vec<Adapter> = (1_u64..)
        .take(OLDER)
        .map(|task| adapter(&base, task, &TRAINED[..2]))
        .collect();
    let mut energies = TRAINED.to_vec();
    energies.resize(RANK, 1e-4);
    let newcomer = adapter(&base, 0, &energies);
    let budget = newcomer.layout.tensor_bytes() / 2;

    let mut group = criterion.benchmark_group("progressive");
    group.sample_size(10);
    {
        let workload = Workload::new(8, SlotDtype::F32);
        group.bench_function("search, 8 slots", |bencher| {
            bencher.iter(|| black_box(workload.search(Operator::KMergeLinear)));
        });
        group.bench_function("read once, 8 slots and newcomer", |bencher| {
            bencher.iter(|| workload.read_once());
        });
    }
    for (slots, members) in [(1, 1), (1, 8), (1, 64), (1, 1000), (8, 8), (64, 8)] {
        let policy = policy(slots, budget);
        let shelf = filled(&policy, &older, slots, members);
        let name = format!("{slots} slots of {members}");
        group.bench_function(BenchmarkId::new("arrival", name), |bencher| {
            bencher.iter(|| {
                let placement = shelf
                    .place(&policy, "new", &newcomer)
                    .expect("there is room");
                let mut file = Vec::new();
                placement
                    .write(&shelf.views(), newcomer.view(), &mut file)
                    .expect("memory takes everything");
                black_box(file)
            });
        });
        if slots == 1 {
            let stored = &shelf.slots[&0];
            group.bench_function(BenchmarkId::new("export of one of", members), |bencher| {
                bencher.iter(|| {
                    let mut bytes = Vec::new();
                    stored
                        .packed
                        .export_member(&stored.file, 0, Dtype::F16, &mut bytes)
                        .expect("every member can be served");
                    black_box(bytes)
                });
            });
        }
    }
    group.finish();
}
