//! The exact operator: against the goldens, against the plain QR and SVD, and against the bound on
//! what repeated truncation can lose.

use std::collections::BTreeMap;

use faer::Mat;
use kmerge_merge::{AssignmentRule, Dtype, Operator};
use serde_json::Value;

use crate::support::dense::{self, Updates, average, updates};
use crate::support::files::{Adapter, Module, adapter, golden, golden_adapter, golden_json};
use crate::support::store::{Store, policy};

const PREFIX: &str = "base_model.model.";

/// Merges `members` in order into one slot; returns the store and, per step, the truncation error
/// of each module: ‖step's target − what was stored‖.
fn merge(members: &[Adapter]) -> (Store, Vec<BTreeMap<String, f64>>) {
    let policy = policy(1, AssignmentRule::KMerge, Operator::Exact);
    let mut store = Store::default();
    let mut steps = Vec::new();
    for (index, member) in members.iter().enumerate() {
        let before = store
            .slots
            .get(&0)
            .map(|slot| updates(slot.view()))
            .unwrap_or_default();
        let w = 1.0 / f64::from(u32::try_from(index + 1).unwrap());
        store.arrive(&policy, member).unwrap();
        let target = average(&[(1.0 - w, &before), (w, &updates(member.view()))]);
        let after = updates(store.slots[&0].view());
        steps.push(
            target
                .iter()
                .map(|(path, d)| (path.clone(), (d - &after[path]).norm_l2()))
                .collect(),
        );
    }
    (store, steps)
}

fn names(value: &Value) -> Vec<&str> {
    value
        .as_array()
        .unwrap()
        .iter()
        .map(|name| name.as_str().unwrap())
        .collect()
}

/// Dense f32 averages of a golden file.
fn deltas(path: &str) -> Updates {
    let bytes = golden(path);
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    tensors
        .iter()
        .map(|(name, tensor)| {
            let columns = tensor.shape()[1];
            let values: Vec<f64> = tensor
                .data()
                .chunks_exact(4)
                .map(|bytes| f64::from(f32::from_le_bytes(bytes.try_into().unwrap())))
                .collect();
            let path = name
                .strip_prefix(PREFIX)
                .unwrap()
                .strip_suffix(".delta")
                .unwrap();
            let update = Mat::from_fn(tensor.shape()[0], columns, |r, c| values[r * columns + c]);
            (path.to_owned(), update)
        })
        .collect()
}

/// One set of members against its golden: the optimum for two, the error recursion for more.
fn check_set(context: &str, members: &[&str], wanted: &Updates, modules: &Value) {
    let adapters: Vec<Adapter> = members.iter().map(|name| golden_adapter(name)).collect();
    let (store, steps) = merge(&adapters);
    let found = updates(store.slots[&0].view());
    let n = f64::from(u32::try_from(members.len()).unwrap());
    for (path, wanted) in wanted {
        let figures = &modules[format!("{PREFIX}{path}")];
        let optimal = figures["optimal_error"].as_f64().unwrap();
        let norm = figures["frobenius"].as_f64().unwrap();
        let error = (wanted - &found[path]).norm_l2();
        assert!(
            error >= optimal - 1e-5 * norm,
            "{context} {path}: {error} below {optimal}"
        );
        // n·E_n ≤ Σ k·T_k with T_k the error of step k: truncation is all that is ever lost.
        let bound = (1..)
            .zip(&steps)
            .map(|(k, step)| f64::from(k) * step[path])
            .sum::<f64>()
            / n;
        assert!(
            error <= bound + 1e-5 * norm,
            "{context} {path}: {error} above {bound}"
        );
        if members.len() == 2 {
            assert!(
                error <= optimal + 1e-5 * norm,
                "{context} {path}: {error}, not {optimal}"
            );
        }
    }
}

#[test]
fn golden_sets_reach_the_optimum() {
    for case in golden_json("expected/exact-sets/cases.json")
        .as_array()
        .unwrap()
    {
        let number = &case["case"];
        let wanted = deltas(&format!("expected/exact-sets/case-{number}.safetensors"));
        let members = names(&case["members"]);
        check_set(
            &format!("case {number}"),
            &members,
            &wanted,
            &case["modules"],
        );
    }
}

#[test]
fn golden_slots_stay_within_the_error_recursion() {
    let truncation = golden_json("expected/exact-K2/truncation.json");
    for (slot, figures) in truncation.as_object().unwrap() {
        let wanted = deltas(&format!("expected/exact-K2/{slot}.safetensors"));
        check_set(
            slot,
            &names(&figures["members"]),
            &wanted,
            &figures["modules"],
        );
    }
}

#[test]
fn equals_the_plain_qr_and_svd() {
    let shapes = [
        ("0.self_attn.q_proj", [12, 12]),
        ("1.self_attn.k_proj", [4, 12]),
        ("2.mlp.up_proj", [20, 12]),
    ];
    for (ranks, seed) in [
        ([4, 4], 1),
        ([2, 5], 2),
        ([5, 2], 3),
        ([8, 8], 4),
        ([1, 1], 5),
    ] {
        let make = |rank: usize, seed: u64| {
            let modules = shapes.map(|(path, shape)| Module::random(path, shape, rank, seed));
            adapter(&modules, 3.0, Dtype::F32)
        };
        let pair = [make(ranks[0], seed), make(ranks[1], seed + 100)];
        let (store, _) = merge(&pair);
        let rank = ranks[0].max(ranks[1]);
        let (found, first) = (updates(store.slots[&0].view()), &pair[0]);
        for (path, _) in shapes {
            let path = format!("model.layers.{path}");
            let terms: Vec<(f64, Mat<f64>, Mat<f64>)> = pair
                .iter()
                .map(|side| {
                    let (a, b) = dense::factors(side.view(), &path);
                    (0.5 * side.layout.module(&path).unwrap().scaling, a, b)
                })
                .collect();
            let wanted = dense::qr_svd(&terms, rank);
            let difference = (&found[&path] - &wanted).norm_l2();
            assert!(
                difference <= 1e-5 * wanted.norm_l2(),
                "{ranks:?} {path}: {difference:e}"
            );
        }
        assert_eq!(first.layout.rank(), ranks[0]);
    }
}

#[test]
fn energy_is_the_share_of_squared_singular_values() {
    let shape = [12, 12];
    let side = |seed| {
        adapter(
            &[Module::random("0.self_attn.q_proj", shape, 3, seed)],
            3.0,
            Dtype::F32,
        )
    };
    let (left, right) = (side(1), side(2));
    let policy = policy(1, AssignmentRule::KMerge, Operator::Exact);
    let mut store = Store::default();
    assert_eq!(
        store.arrive(&policy, &left).unwrap().1.energy_kept,
        None,
        "opening loses nothing"
    );
    let kept = store
        .arrive(&policy, &right)
        .unwrap()
        .1
        .energy_kept
        .unwrap();
    let mean = average(&[(0.5, &updates(left.view())), (0.5, &updates(right.view()))]);
    let squares: Vec<f64> = dense::singular_values(&mean["model.layers.0.self_attn.q_proj"])
        .iter()
        .map(|value| value * value)
        .collect();
    let wanted = squares[..3].iter().sum::<f64>() / squares.iter().sum::<f64>();
    assert!((kept - wanted).abs() < 1e-6, "{kept} against {wanted}");
    assert!(wanted < 0.95, "the case must lose something");
}

#[test]
fn singular_stacks_are_ordinary_input() {
    let path = "0.self_attn.q_proj";
    let plain = Module::random(path, [12, 12], 4, 1);
    // Half of the rank unused, as after zero-padding.
    let mut padded = Module::random(path, [12, 12], 4, 2);
    padded.a[24..].fill(0.0);
    padded.b.chunks_mut(4).for_each(|row| row[2..].fill(0.0));
    // Opposite of the first: the average is zero.
    let mut opposite = plain.clone();
    opposite.b.iter_mut().for_each(|value| *value = -*value);
    for (other, context) in [
        (&plain, "itself"),
        (&padded, "padded"),
        (&opposite, "opposite"),
    ] {
        let pair =
            [&plain, other].map(|module| adapter(std::slice::from_ref(module), 4.0, Dtype::F32));
        let wanted = average(&[
            (0.5, &updates(pair[0].view())),
            (0.5, &updates(pair[1].view())),
        ]);
        let (store, _) = merge(&pair);
        let path = format!("model.layers.{path}");
        let found = &updates(store.slots[&0].view())[&path];
        let optimal = dense::tail(&wanted[&path], 4);
        let scale = updates(pair[0].view())[&path].norm_l2();
        let error = (found - &wanted[&path]).norm_l2();
        assert!(
            error <= optimal + 2e-6 * scale,
            "{context}: {error:e} against {optimal:e}"
        );
    }
}

#[test]
fn modules_without_an_effect_stay_without_one() {
    let paths = ["0.self_attn.q_proj", "1.self_attn.q_proj"];
    let side = |seed| {
        let mut modules = paths.map(|path| Module::random(path, [12, 12], 3, seed));
        modules[0].a.fill(0.0);
        adapter(&modules, 3.0, Dtype::F32)
    };
    let (store, _) = merge(&[side(1), side(2)]);
    let found = updates(store.slots[&0].view());
    assert_eq!(found["model.layers.0.self_attn.q_proj"].norm_max(), 0.0);
    assert!(found["model.layers.1.self_attn.q_proj"].norm_max() > 0.1);
}

#[test]
fn values_that_are_not_finite_are_never_averaged_away() {
    for operator in [Operator::Exact, Operator::KMergeLinear] {
        let mut broken = Module::random("0.self_attn.q_proj", [12, 12], 3, 2);
        broken.a[7] = f32::NAN;
        let policy = policy(1, AssignmentRule::KMerge, operator);
        let plain = [Module::random("0.self_attn.q_proj", [12, 12], 3, 1)];
        let mut store = Store::default();
        store
            .arrive(&policy, &adapter(&plain, 3.0, Dtype::F32))
            .unwrap();
        let newcomer = adapter(&[broken], 3.0, Dtype::F32);
        assert_eq!(
            store.arrive(&policy, &newcomer).unwrap_err().reason(),
            "MERGE_NOT_FINITE"
        );
        // The search finds it first; a plan that came from elsewhere must not hide it either.
        let made = kmerge_merge::plan(
            &policy,
            &store.views(),
            adapter(&plain, 3.0, Dtype::F32).view(),
            &|_| (),
        )
        .unwrap();
        let views = store.views();
        let refused =
            kmerge_merge::execute(&made, &views, newcomer.view(), &mut Vec::new(), &|_| ());
        assert_eq!(refused.unwrap_err().reason(), "MERGE_NOT_FINITE");
    }
}
