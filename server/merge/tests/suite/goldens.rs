//! K-Merge, K-Merge++ and linear against what PEFT and the reference formulas gave.
//!
//! Tolerances are those of the goldens' README: similarities 1e-5, factors 1e-5 of the tensor's
//! largest value, every decision the same.

use kmerge_merge::{Assignment, AssignmentRule, Operator, Policy, SlotDtype, similarity};
use serde_json::Value;

use crate::support::dense::factors;
use crate::support::files::{Adapter, golden, golden_adapter, golden_json};
use crate::support::store::{Store, policy};

const TOLERANCE: f64 = 1e-5;

#[test]
fn the_similarity_matrix_agrees() {
    let expected = golden_json("expected/similarity.json");
    let names: Vec<&str> = expected["adapters"]
        .as_array()
        .unwrap()
        .iter()
        .map(|name| name.as_str().unwrap())
        .collect();
    let adapters: Vec<Adapter> = names.iter().map(|name| golden_adapter(name)).collect();
    for (i, left) in adapters.iter().enumerate() {
        for (j, right) in adapters.iter().enumerate() {
            let found = similarity(left.view(), right.view()).unwrap();
            let wanted = expected["matrix"][i][j].as_f64().unwrap();
            assert!(
                (found - wanted).abs() <= TOLERANCE,
                "{} {}: {found}",
                names[i],
                names[j]
            );
        }
    }
}

/// Replays a golden run and compares every decision and every final slot.
fn replay(name: &str, policy: &Policy) {
    let run = golden_json(&format!("expected/{name}/assignment.json"));
    let mut store = Store::default();
    for decision in run["decisions"].as_array().unwrap() {
        let adapter = decision["adapter"].as_str().unwrap();
        let (plan, _) = store.arrive(policy, &golden_adapter(adapter)).unwrap();
        let context = format!("{name}, arrival of {adapter}: {}", plan.reason);
        let assignment = match plan.assignment {
            Assignment::Opened => "opened",
            Assignment::Merged => "merged",
        };
        assert_eq!(
            assignment,
            decision["assignment"].as_str().unwrap(),
            "{context}"
        );
        assert_eq!(
            u64::from(plan.slot),
            decision["slot"].as_u64().unwrap(),
            "{context}"
        );
        assert_eq!(
            plan.generation,
            decision["generation"].as_u64().unwrap(),
            "{context}"
        );
        let n = u64::from(store.slots[&plan.slot].members);
        assert_eq!(n, decision["n"].as_u64().unwrap(), "{context}");
        if let Some(weights) = decision["weights"].as_array() {
            let wanted = weights[1].as_f64().unwrap();
            assert!((plan.newcomer_weight - wanted).abs() < 1e-12, "{context}");
        }
        let wanted = decision["similarities"].as_array().unwrap();
        assert_eq!(plan.similarities.len(), wanted.len(), "{context}");
        for ((slot, found), wanted) in plan.similarities.iter().zip(wanted) {
            assert_eq!(
                u64::from(*slot),
                wanted["slot"].as_u64().unwrap(),
                "{context}"
            );
            let wanted = wanted["similarity"].as_f64().unwrap();
            assert!(
                (found - wanted).abs() <= TOLERANCE,
                "{context}: slot {slot} {found}"
            );
        }
        norms(&store, plan.slot, &decision["slot_norms"], &context);
    }
    for slot in run["slots"].as_array().unwrap() {
        final_slot(name, &store, slot);
    }
}

/// Norm of the slot's update after a step, over all modules together.
fn norms(store: &Store, slot: u32, wanted: &Value, context: &str) {
    let squares = store.slots[&slot]
        .norms
        .as_slice()
        .iter()
        .map(|&norm| f64::from(norm).powi(2));
    let found = squares.sum::<f64>().sqrt();
    let wanted = wanted["update"].as_f64().unwrap();
    assert!(
        (found - wanted).abs() <= TOLERANCE * wanted,
        "{context}: norm {found}, not {wanted}"
    );
}

fn final_slot(name: &str, store: &Store, slot: &Value) {
    let number = u32::try_from(slot["slot"].as_u64().unwrap()).unwrap();
    let stored = &store.slots[&number];
    // A slot with one member was saved by PEFT with its own alpha; ours is in normal form.
    let single = slot["single_member"].as_bool().unwrap();
    let config = golden_json(&format!(
        "expected/{name}/slot-{number}/adapter_config.json"
    ));
    let fold = if single {
        (config["lora_alpha"].as_f64().unwrap() / config["r"].as_f64().unwrap()).sqrt()
    } else {
        1.0
    };
    let bytes = golden(&format!(
        "expected/{name}/slot-{number}/adapter_model.safetensors"
    ));
    let wanted = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(wanted.len(), 2 * stored.layout.modules.len());
    for module in &stored.layout.modules {
        let (a, b) = factors(stored.view(), &module.path);
        for (factor, found) in [("lora_A", a), ("lora_B", b)] {
            let tensor = wanted
                .tensor(&format!("base_model.model.{}.{factor}.weight", module.path))
                .unwrap();
            assert_eq!(tensor.shape(), [found.nrows(), found.ncols()]);
            let values: Vec<f64> = tensor
                .data()
                .chunks_exact(4)
                .map(|bytes| fold * f64::from(f32::from_le_bytes(bytes.try_into().unwrap())))
                .collect();
            let largest = values
                .iter()
                .fold(0.0, |largest: f64, value| largest.max(value.abs()));
            for (index, value) in values.iter().enumerate() {
                let found = found[(index / found.ncols(), index % found.ncols())];
                assert!(
                    (found - value).abs() <= TOLERANCE * largest,
                    "{name}, slot {number}, {} {factor}[{index}]: {found} against {value}",
                    module.path
                );
            }
        }
    }
}

#[test]
fn kmerge_agrees_for_one_to_three_slots() {
    for slots in 1..=3 {
        let policy = policy(slots, AssignmentRule::KMerge, Operator::KMergeLinear);
        replay(&format!("kmerge-K{slots}"), &policy);
    }
}

#[test]
fn kmerge_plus_plus_agrees() {
    let rule = AssignmentRule::KMergePlusPlus {
        threshold: Some(0.35),
    };
    replay(
        "kmergepp-K3-t0.35",
        &policy(3, rule, Operator::KMergeLinear),
    );
}

#[test]
fn the_linear_control_agrees() {
    replay(
        "linear-K2",
        &policy(2, AssignmentRule::KMerge, Operator::Linear),
    );
}

#[test]
fn mixed_dtypes_agree_when_slots_are_f32() {
    let mut policy = policy(2, AssignmentRule::KMerge, Operator::KMergeLinear);
    policy.dtype = SlotDtype::F32;
    replay("kmerge-K2-dtypes", &policy);
}
