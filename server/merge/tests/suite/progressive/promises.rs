//! Bytes never exceed the budget, and certificates hold at every generation.

use std::sync::Mutex;

use kmerge_merge::Dtype;
use kmerge_merge::progressive::{Beside, Newcomer, place};
use proptest::prelude::*;

use super::shelf::{Shelf, policy};
use super::synthetic::{Form, trained};
use super::{adapter_bytes, arrive, check_members, fixed_bytes, member_bytes, model, task};
use crate::support::dense::updates;
use crate::support::with_threads;

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn files_fit_and_figures_are_true_at_every_generation(
        first in 0_u64..10_000,
        members in 1_u64..7,
        share in 0.08_f64..1.3,
        slot in 0_u64..600,
        member in 0_u64..200,
        dtype in prop::sample::select(vec![Dtype::F32, Dtype::F16, Dtype::Bf16]),
    ) {
        let (base, paths) = model();
        let form = Form { dtype, ..Form::default() };
        let of = |number: u64| trained(&base, &paths, number, form);
        let mut shelf = Shelf { beside: Beside { slot, member }, ..Shelf::default() };
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a few thousand")]
        let budget = (f64::from(u32::try_from(adapter_bytes()).unwrap()) * share) as u64 + slot;
        let policy = policy(1, budget + 700 * members);
        for number in first..first + members {
            let placement = arrive(&mut shelf, &policy, &number.to_string(), &of(number)).unwrap();
            let packed = &placement.packed;
            let fixed = fixed_bytes(&[of(number)], packed.members.len());
            prop_assert_eq!(member_bytes(packed) + fixed, packed.bytes());
            check_members(&shelf.slots[&0], &|name| updates(of(name.parse().unwrap()).view()));
        }
    }
}

#[test]
fn more_bytes_keep_more_until_everything_is_kept() {
    let adapter = task(3);
    let retentions: Vec<f64> = [35, 24, 12, 6, 2]
        .map(|divisor| {
            let policy = policy(1, adapter_bytes() / divisor);
            let placement = arrive(&mut Shelf::default(), &policy, "t", &adapter).unwrap();
            placement.costs[0].after.retention
        })
        .to_vec();
    assert!(retentions.is_sorted(), "{retentions:?}");
    assert!(
        retentions[0] > 0.5 && retentions[0] < 0.905,
        "{retentions:?}"
    );
    assert!(retentions[4] > 0.999, "{retentions:?}");
}

#[test]
fn any_number_of_threads_gives_the_same_bytes() {
    let run = |threads| {
        with_threads(threads, || {
            let mut shelf = Shelf::default();
            let policy = policy(2, adapter_bytes() / 3);
            for number in 0..5 {
                arrive(&mut shelf, &policy, &number.to_string(), &task(number)).unwrap();
            }
            let exports = shelf.slots.values().map(|stored| {
                let mut bytes = Vec::new();
                let export = |index, out: &mut Vec<u8>| {
                    stored
                        .packed
                        .export_member(&stored.file, index, Dtype::F16, out)
                        .unwrap();
                };
                (0..stored.packed.members.len()).for_each(|index| export(index, &mut bytes));
                stored
                    .packed
                    .export_mean(&stored.file, Dtype::F32, &mut bytes)
                    .unwrap();
                (stored.file.clone(), bytes)
            });
            exports.collect::<Vec<_>>()
        })
    };
    let alone = run(1);
    assert_eq!(alone.len(), 2);
    for threads in [2, 5] {
        assert!(run(threads) == alone, "{threads} threads");
    }
}

#[test]
fn progress_rises_from_the_start_to_the_end() {
    let told = Mutex::new(Vec::new());
    let tell = |share| told.lock().unwrap().push(share);
    let adapter = task(1);
    let newcomer = Newcomer {
        task: "t",
        adapter: adapter.view(),
    };
    with_threads(1, || {
        place(&policy(1, 9_000), &[], newcomer, Beside::default(), &tell).unwrap()
    });
    let told = told.into_inner().unwrap();
    assert!(told.is_sorted(), "{told:?}");
    assert!(told.iter().all(|share| (0.0..=1.0).contains(share)));
    assert_eq!(told.last(), Some(&1.0));
    assert!(told.len() >= 3, "{told:?}");
}

#[test]
fn similar_tasks_are_found_alike() {
    let mut shelf = Shelf::default();
    let policy = policy(2, adapter_bytes() / 4);
    // Tasks 0 to 5 are of one family, 6 to 11 of another.
    for number in [0, 6] {
        arrive(&mut shelf, &policy, &number.to_string(), &task(number)).unwrap();
    }
    for number in [1, 7, 8, 2, 3, 9] {
        let placement = arrive(&mut shelf, &policy, &number.to_string(), &task(number)).unwrap();
        let expected = u32::from(number > 5);
        assert_eq!(placement.slot, expected, "{:?}", placement.similarities);
        for &(slot, similarity) in &placement.similarities {
            let range = if slot == expected {
                0.01..0.2
            } else {
                -0.03..0.05
            };
            assert!(range.contains(&similarity), "{number} {slot} {similarity}");
        }
    }
}
