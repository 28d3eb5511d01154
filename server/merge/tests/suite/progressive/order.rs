//! The order of arrival does not decide what is kept.

use std::collections::{BTreeMap, BTreeSet};

use kmerge_merge::progressive::Fidelity;

use super::shelf::{Shelf, policy};
use super::synthetic::Random;
use super::{adapter_bytes, arrive, task};

const TASKS: u64 = 6;
/// No more than one rung lies between two orders, for any member; a rung adds at most this to a
/// retention of .9 and more.
const SPREAD: f64 = 0.02;

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
            // The water level depends on who is there, not on who came first; what it leaves over
            // is less than a rung for everybody, and may buy the one member a rung or the other.
            let bytes: BTreeSet<u64> = ends.iter().map(|end| end[task].bytes).collect();
            assert!(bytes.len() <= 2, "1/{divisor} {task}: {bytes:?}");
        }
        let means = ends.iter().map(|end| {
            let sum: f64 = end.values().map(|kept| kept.retention).sum();
            sum / f64::from(u32::try_from(TASKS).unwrap())
        });
        let (least, most) = means.fold((f64::INFINITY, 0.0), |(least, most): (f64, f64), mean| {
            (least.min(mean), most.max(mean))
        });
        println!("1/{divisor}: mean retention {least:.5} to {most:.5}");
        assert!(most - least <= SPREAD, "1/{divisor}: {least} {most}");
    }
}
