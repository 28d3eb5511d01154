//! Adapters of every shape, and of values that no training would give.

use kmerge_merge::{BaseModel, Dtype, MergeError};
use proptest::prelude::*;
use serde_json::json;

use super::shelf::{Shelf, policy};
use super::synthetic::{Adapter, Form, Module, Random, TRAINED, llama, write};
use super::{arrive, check_members, model, norm, served, task};
use crate::support::dense::updates;

/// Lets adapters arrive one after the other in one slot and checks all members each time.
fn all_arrive(adapters: &[Adapter], budget: u64) -> Shelf {
    let mut shelf = Shelf::default();
    for (index, adapter) in adapters.iter().enumerate() {
        arrive(&mut shelf, &policy(1, budget), &index.to_string(), adapter).unwrap();
        check_members(&shelf.slots[&0], &|name| {
            updates(adapters[name.parse::<usize>().unwrap()].view())
        });
    }
    shelf
}

/// A module with the given directions.
fn made(base: &BaseModel, path: &str, directions: &[(f64, Vec<f64>, Vec<f64>)]) -> Module {
    let mut module = Module::empty(base, path);
    for (size, left, right) in directions {
        module.push(*size, left, right);
    }
    module
}

fn one_hot(entries: usize, place: usize) -> Vec<f64> {
    (0..entries)
        .map(|entry| f64::from(u8::from(entry == place)))
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 10, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_mix_of_ranks_types_scales_and_modules_is_kept(
        ranks in prop::collection::vec(prop::collection::vec(0_usize..20, 8), 1..4),
        alpha in 0.5_f64..64.0,
        rslora in any::<bool>(),
        dtype in prop::sample::select(vec![Dtype::F32, Dtype::F16, Dtype::Bf16]),
        seed in any::<u64>(),
        budget in 6_000_u64..40_000,
    ) {
        let (base, paths) = model();
        let mut random = Random::new(seed);
        let adapters: Vec<Adapter> = ranks.iter().map(|ranks| {
            let mut modules: Vec<Module> = paths.iter().zip(ranks)
                // Rank 0: the adapter does not have the module.
                .filter(|&(_, &rank)| rank > 0)
                .map(|(path, &rank)| {
                    let energies: Vec<f64> = (0..rank).map(|_| random.uniform().powi(4) + 1e-4).collect();
                    Module::trained(&base, path, random.bits() % 1000, &energies).gauged(random.bits(), 3.0)
                })
                .collect();
            if modules.is_empty() {
                modules.push(Module::trained(&base, &paths[3], 1, &TRAINED));
            }
            write(&base, &modules, Form { dtype, alpha, rslora })
        }).collect();
        all_arrive(&adapters, budget);
    }
}

#[test]
fn members_with_different_modules_share_a_table_in_natural_order() {
    let base = llama(96, 12);
    let path = |layer: usize, name: &str| format!("model.layers.{layer}.{name}");
    let sets = [
        vec![path(10, "self_attn.q_proj"), path(2, "mlp.up_proj")],
        vec![path(2, "self_attn.q_proj"), path(11, "mlp.down_proj")],
        vec![
            path(0, "self_attn.k_proj"),
            path(10, "self_attn.q_proj"),
            path(2, "mlp.up_proj"),
        ],
    ];
    let adapters: Vec<Adapter> = (0..)
        .zip(&sets)
        .map(|(task, paths)| {
            let modules: Vec<Module> = paths
                .iter()
                .map(|path| Module::trained(&base, path, task, &TRAINED))
                .collect();
            write(&base, &modules, Form::default())
        })
        .collect();
    let alone: Vec<_> = adapters
        .iter()
        .map(|adapter| all_arrive(std::slice::from_ref(adapter), 1 << 20))
        .collect();
    let shelf = all_arrive(&adapters, 1 << 20);
    let packed = &shelf.slots[&0].packed;
    assert_eq!(packed.modules(), 5);
    for (index, alone) in alone.iter().enumerate() {
        let alone = &alone.slots[&0];
        let together = served(packed, &shelf.slots[&0].file, index, Dtype::F32);
        assert_eq!(together, served(&alone.packed, &alone.file, 0, Dtype::F32));
        assert_eq!(together.len(), sets[index].len());
    }
}

#[test]
fn nothing_is_kept_of_nothing() {
    let (base, paths) = model();
    let zero: Vec<Module> = paths
        .iter()
        .map(|path| Module::trained(&base, path, 1, &TRAINED).times(0.0))
        .collect();
    let zero = write(&base, &zero, Form::default());
    let shelf = all_arrive(&[zero.clone(), task(1), zero, task(2)], 9_000);
    let stored = &shelf.slots[&0];
    for index in [0, 2] {
        let (_, figures) = stored.packed.fidelities().nth(index).unwrap();
        assert_eq!(
            (figures.retention, figures.error_bound, figures.rank),
            (1.0, 0.0, 0)
        );
        assert_eq!(
            norm(&served(&stored.packed, &stored.file, index, Dtype::F16)),
            0.0
        );
    }
    let mut mean = Vec::new();
    stored
        .packed
        .export_mean(&stored.file, Dtype::F32, &mut mean)
        .unwrap();
}

#[test]
fn a_zero_module_among_others_stays_zero() {
    let (base, paths) = model();
    let mut modules: Vec<Module> = paths
        .iter()
        .map(|path| Module::trained(&base, path, 1, &TRAINED))
        .collect();
    modules[2] = modules[2].clone().times(0.0);
    // So small that it is rounding beside the others.
    modules[5] = modules[5].clone().times(1e-8);
    let shelf = all_arrive(&[write(&base, &modules, Form::default()), task(2)], 12_000);
    let stored = &shelf.slots[&0];
    let found = served(&stored.packed, &stored.file, 0, Dtype::F32);
    assert_eq!(found[&paths[2]].norm_max(), 0.0);
    assert!(found[&paths[3]].norm_max() > 0.0);
}

#[test]
fn single_directions_and_single_entries_are_kept() {
    let (base, paths) = model();
    let single: Vec<Module> = paths
        .iter()
        .map(|path| Module::trained(&base, path, 3, &[1.0]))
        .collect();
    let mut random = Random::new(1);
    let skewed: Vec<Module> = paths
        .iter()
        .map(|path| {
            let empty = Module::empty(&base, path);
            let (out, width) = (empty.out_features, empty.in_features);
            // One entry holds nearly all of a vector, and one direction is a single entry of D.
            let mut mixed = random.unit(width);
            mixed.iter_mut().for_each(|entry| *entry *= 1e-3);
            mixed[7] = 1.0;
            made(
                &base,
                path,
                &[
                    (1.0, one_hot(out, 3), one_hot(width, 90)),
                    (0.3, random.unit(out), mixed),
                    (0.1, one_hot(out, 0), random.unit(width)),
                ],
            )
        })
        .collect();
    let adapters = [single, skewed].map(|modules| write(&base, &modules, Form::default()));
    for budget in [2_500, 5_000, 60_000] {
        all_arrive(&adapters, budget);
    }
}

#[test]
fn sides_of_one_and_ranks_beyond_the_sides_are_kept() {
    // Heads of one entry: the key projection has one row.
    let config = json!({
        "architectures": ["LlamaForCausalLM"], "hidden_size": 8, "intermediate_size": 1,
        "num_hidden_layers": 1, "num_attention_heads": 8, "num_key_value_heads": 1,
    });
    let base = BaseModel::from_config_json(config.to_string().as_bytes()).unwrap();
    let paths = [
        "self_attn.k_proj",
        "self_attn.q_proj",
        "mlp.up_proj",
        "mlp.down_proj",
    ]
    .map(|name| format!("model.layers.0.{name}"));
    let adapters = [(1, 1), (2, 12), (3, 40)].map(|(task, rank)| {
        let energies = vec![1.0; rank];
        let modules = paths
            .each_ref()
            .map(|path| Module::trained(&base, path, task, &energies));
        write(&base, &modules, Form::default())
    });
    let shelf = all_arrive(&adapters, 4_000);
    let ranks: Vec<usize> = shelf.slots[&0]
        .packed
        .fidelities()
        .map(|(_, kept)| kept.rank)
        .collect();
    assert!(
        ranks[1] > 1 && ranks.iter().all(|&rank| rank <= 8),
        "{ranks:?}"
    );
}

#[test]
fn values_near_the_ends_of_half_precision_are_kept_or_refused_by_name() {
    let (base, paths) = model();
    let sized = |size: f64| {
        let modules: Vec<Module> = paths
            .iter()
            .map(|path| Module::trained(&base, path, 5, &TRAINED).times(size))
            .collect();
        write(
            &base,
            &modules,
            Form {
                alpha: 1e4,
                ..Form::default()
            },
        )
    };
    all_arrive(&[sized(1e-6), sized(1e6)], 9_000);

    // Factors of 63,245 are finite in F16, factors of 70,710 are not.
    let largest = |size: f64| {
        let only = made(&base, &paths[0], &[(size, one_hot(96, 1), one_hot(96, 2))]);
        write(&base, &[only], Form::default())
    };
    all_arrive(&[largest(4e9)], 3_000);
    let mut shelf = Shelf::default();
    arrive(&mut shelf, &policy(1, 3_000), "t", &largest(5e9)).unwrap();
    let stored = &shelf.slots[&0];
    let refused = stored
        .packed
        .export_member(&stored.file, 0, Dtype::F16, &mut Vec::new());
    assert!(
        matches!(&refused, Err(MergeError::NotFinite { module, dtype: Dtype::F16 }) if *module == paths[0]),
        "{refused:?}"
    );
    served(&stored.packed, &stored.file, 0, Dtype::F32);
}
