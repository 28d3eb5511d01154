//! The order of arrival does not decide what is kept.

use std::collections::{BTreeMap, BTreeSet};

use kmerge_merge::progressive::Fidelity;

use super::shelf::{Shelf, policy};
use super::synthetic::Random;
use super::{adapter_bytes, arrive, task};

const TASKS: u64 = 6;

fn kept(order: &[u64], budget: u64) -> BTreeMap<String, Fidelity> {
    let mut shelf = Shelf::default();
    for &number in order {
        arrive(
            &mut shelf,
            &policy(1, budget),
            &format!("task-{number}"),
            &task(number),
        )
        .unwrap();
    }
    let fidelities = shelf.slots[&0].packed.fidelities();
    fidelities
        .map(|(task, kept)| (task.to_owned(), kept))
        .collect()
}

#[test]
fn every_order_ends_at_one_water_level() {
    let mut random = Random::new(5);
    let orders: Vec<Vec<u64>> = (0..10)
        .map(|_| {
            let mut order: Vec<(u64, u64)> = (0..TASKS).map(|task| (random.bits(), task)).collect();
            order.sort_unstable();
            order.into_iter().map(|(_, task)| task).collect()
        })
        .collect();
    for divisor in [1, 2, 4] {
        let ends: Vec<_> = orders
            .iter()
            .map(|order| kept(order, adapter_bytes() / divisor))
            .collect();
        for task in ends[0].keys() {
            let bytes: BTreeSet<u64> = ends.iter().map(|end| end[task].bytes).collect();
            let retentions: Vec<f64> = ends.iter().map(|end| end[task].retention).collect();
            println!("1/{divisor} {task}: {bytes:?} {retentions:.4?}");
        }
        let means = ends.iter().map(|end| {
            let sum: f64 = end.values().map(|kept| kept.retention).sum();
            sum / f64::from(u32::try_from(TASKS).unwrap())
        });
        let means: Vec<f64> = means.collect();
        println!("1/{divisor} means {means:.5?}");
    }
}
