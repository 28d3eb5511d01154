//! Slots follow another policy: members move and are cut, none is lost, and nobody is coded again.

use std::collections::BTreeMap;

use kmerge_merge::progressive::{Beside, PackedSlot, Repacking, repack};
use kmerge_merge::{Dtype, MergeError, Policy};
use proptest::prelude::*;

use super::shelf::{Shelf, Stored, policy};
use super::synthetic::{Form, Module, TRAINED, write};
use super::{adapter_bytes, arrive, model, served, task, truth};
use crate::support::dense::updates;

const BESIDE: Beside = Beside {
    slot: 200,
    member: 40,
};

/// Tasks 0 to `tasks` in `slots` slots of that many bytes.
fn filled(slots: u32, tasks: u64, bytes: u64) -> Shelf {
    let mut shelf = Shelf::default();
    for number in 0..tasks {
        let name = format!("task-{number}");
        arrive(&mut shelf, &policy(slots, bytes), &name, &task(number)).unwrap();
    }
    shelf
}

fn names(shelf: &Shelf) -> BTreeMap<u32, Vec<String>> {
    let names = |stored: &Stored| {
        let fidelities = stored.packed.fidelities();
        fidelities.map(|(name, _)| name.to_owned()).collect()
    };
    let slots = shelf.slots.iter();
    slots.map(|(&slot, stored)| (slot, names(stored))).collect()
}

fn all_names(shelf: &Shelf) -> Vec<String> {
    let mut all: Vec<String> = names(shelf).into_values().flatten().collect();
    all.sort();
    all
}

/// Carries a repacking out.
fn apply(shelf: &mut Shelf, repacking: &Repacking) {
    let written: Vec<(u32, Stored)> = repacking
        .written
        .iter()
        .map(|packing| {
            let mut file = Vec::new();
            packing.write(&shelf.views(), &mut file).unwrap();
            assert_eq!(PackedSlot::read(&file).unwrap(), packing.packed);
            let before = shelf.slots.get(&packing.slot);
            assert_eq!(packing.from, before.map(|before| before.generation));
            let stored = Stored {
                packed: packing.packed.clone(),
                file,
                generation: packing.from.unwrap_or(0) + 1,
            };
            (packing.slot, stored)
        })
        .collect();
    for slot in &repacking.emptied {
        shelf.slots.remove(slot).unwrap();
    }
    shelf.slots.extend(written);
}

fn repacked(shelf: &mut Shelf, policy: &Policy) -> Repacking {
    let repacking = repack(policy, &shelf.views(), BESIDE).unwrap();
    apply(shelf, &repacking);
    repacking
}

/// Every task is served within its certified bound of what arrived.
fn check_bounds(shelf: &Shelf) {
    for stored in shelf.slots.values() {
        for (member, (name, fidelity)) in stored.packed.fidelities().enumerate() {
            let number = name.strip_prefix("task-").unwrap().parse().unwrap();
            let original = updates(task(number).view());
            let kept = served(&stored.packed, &stored.file, member, Dtype::F32);
            let (error, cosine) = truth(&original, &kept);
            assert!(error <= fidelity.error_bound, "{name}: {error}");
            assert!(cosine >= fidelity.retention - 2e-3, "{name}: {cosine}");
        }
    }
}

#[test]
fn the_same_policy_and_a_larger_one_change_nothing() {
    let shelf = filled(3, 6, adapter_bytes() / 3);
    for policy in [
        policy(3, adapter_bytes() / 3),
        policy(9, adapter_bytes() / 3),
        policy(3, adapter_bytes()),
    ] {
        let repacking = repack(&policy, &shelf.views(), Beside::default()).unwrap();
        assert!(repacking.written.is_empty() && repacking.emptied.is_empty());
    }
}

#[test]
fn fewer_slots_keep_every_task() {
    let bytes = adapter_bytes() / 3;
    let mut shelf = filled(3, 7, bytes);
    assert_eq!(shelf.slots.len(), 3);
    let before = all_names(&shelf);
    let repacking = repacked(&mut shelf, &policy(1, bytes));
    assert_eq!(repacking.emptied, [1, 2]);
    assert_eq!(all_names(&shelf), before);
    assert_eq!(shelf.slots.keys().collect::<Vec<_>>(), [&0]);
    assert!(shelf.slots[&0].packed.bytes() + 200 + 7 * 40 <= bytes);
    for cost in &repacking.written[0].costs {
        assert!(cost.after.retention <= cost.before.unwrap().retention);
        assert!(cost.after.bytes <= cost.before.unwrap().bytes);
    }
    check_bounds(&shelf);
}

#[test]
fn smaller_slots_are_cut_where_they_are() {
    let bytes = adapter_bytes() / 2;
    let mut shelf = filled(2, 5, bytes);
    let before = names(&shelf);
    let repacking = repacked(&mut shelf, &policy(2, bytes / 2));
    assert_eq!(repacking.written.len(), 2);
    assert!(repacking.emptied.is_empty());
    assert_eq!(names(&shelf), before);
    for (stored, members) in shelf.slots.values().zip(before.values()) {
        let members = u64::try_from(members.len()).unwrap();
        assert!(stored.packed.bytes() + 200 + members * 40 <= bytes / 2);
        assert_eq!(stored.packed.budget, bytes / 2);
    }
    check_bounds(&shelf);
}

#[test]
fn cutting_at_once_is_cutting_on_arrival() {
    // Four members in half the bytes are what they would have been, had the bytes been half from
    // the start: nothing is coded twice.
    let bytes = adapter_bytes() / 2;
    let mut late = filled(1, 4, bytes);
    let repacking = repack(&policy(1, bytes / 2), &late.views(), Beside::default()).unwrap();
    apply(&mut late, &repacking);
    let early = filled(1, 4, bytes / 2);
    let level = |shelf: &Shelf| {
        let fidelities = shelf.slots[&0].packed.fidelities();
        fidelities
            .map(|(_, fidelity)| fidelity.retention)
            .fold(f64::INFINITY, f64::min)
    };
    assert!((level(&late) - level(&early)).abs() < 0.01);
}

#[test]
fn a_byte_limit_for_all_closes_the_emptiest() {
    let bytes = adapter_bytes() / 3;
    let mut shelf = filled(3, 4, bytes);
    let before = all_names(&shelf);
    let limited = Policy {
        max_bytes: Some(2 * bytes + 10),
        ..policy(3, bytes)
    };
    let repacking = repacked(&mut shelf, &limited);
    assert_eq!((repacking.emptied.len(), shelf.slots.len()), (1, 2));
    assert_eq!(all_names(&shelf), before);
    // Even one slot may be too many bytes: then that one is cut.
    let limited = Policy {
        max_bytes: Some(bytes / 2),
        ..policy(3, bytes)
    };
    repacked(&mut shelf, &limited);
    assert_eq!(shelf.slots.len(), 1);
    assert_eq!(all_names(&shelf), before);
    let left = shelf.slots.values().next().unwrap();
    assert!(left.packed.bytes() <= bytes / 2);
    check_bounds(&shelf);
}

#[test]
fn a_slot_beyond_the_new_number_takes_a_free_one_inside_it() {
    let bytes = adapter_bytes() / 3;
    let mut shelf = filled(3, 3, bytes);
    shelf.slots.remove(&0).unwrap();
    let layers = |shelf: &Shelf, slot| shelf.slots[&slot].packed.fidelities().next().unwrap().1;
    let before = layers(&shelf, 2);
    let repacking = repacked(&mut shelf, &policy(2, bytes));
    assert_eq!(repacking.emptied, [2]);
    assert_eq!(repacking.written.len(), 1);
    assert_eq!(repacking.written[0].from, None);
    assert_eq!(
        layers(&shelf, 0),
        before,
        "it had the room and lost nothing"
    );
}

#[test]
fn pinned_slots_stay_as_they_are() {
    let bytes = adapter_bytes() / 3;
    let shelf = filled(3, 6, bytes);
    let pin = |pinned: &[u32], policy: Policy| Policy {
        pinned: pinned.iter().copied().collect(),
        ..policy
    };
    let refused = |policy: &Policy| repack(policy, &shelf.views(), BESIDE).unwrap_err();
    let beyond = refused(&pin(&[2], policy(2, bytes)));
    assert!(matches!(beyond, MergeError::Pinned { slot: 2 }), "{beyond}");
    let smaller = refused(&pin(&[0], policy(3, bytes / 2)));
    assert!(
        matches!(smaller, MergeError::Pinned { slot: 0 }),
        "{smaller}"
    );
    let nowhere = refused(&pin(&[0], policy(1, bytes)));
    assert!(
        matches!(nowhere, MergeError::AllPinned { slots: 1 }),
        "{nowhere}"
    );

    let two = pin(&[0], policy(2, bytes));
    let repacking = repack(&two, &shelf.views(), Beside::default()).unwrap();
    let written: Vec<u32> = repacking
        .written
        .iter()
        .map(|packing| packing.slot)
        .collect();
    assert_eq!(written, [1]);
}

#[test]
fn what_cannot_be_kept_is_refused_whole() {
    let bytes = adapter_bytes() / 3;
    let shelf = filled(2, 4, bytes);
    let full = repack(&policy(1, 500), &shelf.views(), BESIDE).unwrap_err();
    assert!(matches!(full, MergeError::SlotFull { .. }), "{full}");
    let floored = Policy {
        floor: 0.97,
        ..policy(1, bytes / 3)
    };
    let refused = repack(&floored, &shelf.views(), BESIDE).unwrap_err();
    let MergeError::BelowFloor {
        needed, retention, ..
    } = refused
    else {
        panic!("{refused}");
    };
    assert!(retention < 0.97);
    // What it says would be enough is enough.
    let enough = Policy {
        slot_bytes: Some(needed),
        ..floored.clone()
    };
    repack(&enough, &shelf.views(), BESIDE).unwrap();
    let none = repack(
        &Policy {
            slots: 0,
            ..floored
        },
        &shelf.views(),
        BESIDE,
    )
    .unwrap_err();
    assert!(matches!(none, MergeError::NoSlots));
}

#[test]
fn members_with_other_modules_find_their_places() {
    let (base, paths) = model();
    let of = |range: &[usize], task| {
        let modules: Vec<Module> = range
            .iter()
            .map(|&path| Module::trained(&base, &paths[path], task, &TRAINED))
            .collect();
        write(&base, &modules, Form::default())
    };
    let mut shelf = Shelf::default();
    let spread = policy(3, 30_000);
    for (number, range) in (0..).zip([&[1, 4][..], &[0, 1, 5], &[2]]) {
        let name = format!("task-{number}");
        arrive(&mut shelf, &spread, &name, &of(range, number)).unwrap();
    }
    let exports = |shelf: &Shelf| -> BTreeMap<String, _> {
        let mut exports = BTreeMap::new();
        for stored in shelf.slots.values() {
            for (member, (name, _)) in stored.packed.fidelities().enumerate() {
                let adapter = served(&stored.packed, &stored.file, member, Dtype::F32);
                exports.insert(name.to_owned(), adapter);
            }
        }
        exports
    };
    let before = exports(&shelf);
    repacked(&mut shelf, &policy(1, 60_000));
    assert_eq!(shelf.slots[&0].packed.modules(), 5);
    // There was room for all of them, so every one is served as it was.
    assert_eq!(exports(&shelf), before);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Whatever the change, everyone is somewhere, once, within the limits.
    #[test]
    fn nobody_is_lost_and_nothing_exceeds(
        from in 1_u32..5,
        to in 1_u32..5,
        tasks in 1_u64..9,
        share in 2_u64..9,
        limit in prop::option::of(1_u64..4),
    ) {
        let bytes = adapter_bytes() / 2;
        let mut shelf = filled(from, tasks, bytes);
        let before = all_names(&shelf);
        let own = bytes / share;
        let next = Policy {
            max_bytes: limit.map(|slots| slots * own),
            ..policy(to, own)
        };
        let again = repack(&next, &shelf.views(), BESIDE);
        let Ok(repacking) = again else {
            return Ok(());
        };
        apply(&mut shelf, &repacking);
        prop_assert_eq!(all_names(&shelf), before);
        prop_assert!(shelf.slots.keys().all(|&slot| slot < to));
        let mut all = 0;
        for stored in shelf.slots.values() {
            let members = u64::try_from(stored.packed.members.len()).unwrap();
            let taken = stored.packed.bytes() + 200 + members * 40;
            prop_assert!(taken <= next.slot_budget(own));
            all += taken;
        }
        prop_assert!(next.max_bytes.is_none_or(|allowed| all <= allowed));
        // Once done, there is nothing left to do.
        let settled = repack(&next, &shelf.views(), BESIDE).unwrap();
        prop_assert!(settled.written.is_empty() && settled.emptied.is_empty());
    }
}
