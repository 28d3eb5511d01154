//! When a slot refuses, it says what would help, and that helps.

use kmerge_merge::{AssignmentRule, MergeError, Policy};

use super::shelf::{Shelf, policy};
use super::{adapter_bytes, arrive, check_members, task};
use crate::support::dense::updates;

#[test]
fn a_slot_that_is_full_says_how_many_bytes_it_needs() {
    let mut shelf = Shelf::default();
    for members in 1..=6 {
        let number = u64::try_from(members).unwrap();
        let Err(MergeError::SlotFull {
            slot,
            needed,
            allowed,
            members: counted,
        }) = shelf.place(&policy(1, 150), "t", &task(number))
        else {
            panic!("150 bytes hold nobody");
        };
        assert_eq!((slot, allowed, counted), (0, 150, members));
        let one_less = shelf
            .place(&policy(1, needed - 1), "t", &task(number))
            .unwrap_err();
        assert_eq!(one_less.reason(), "SLOT_FULL", "{one_less}");
        let just = shelf.place(&policy(1, needed), "t", &task(number)).unwrap();
        assert_eq!(just.packed.bytes(), needed);
        arrive(
            &mut shelf,
            &policy(1, 30_000),
            &number.to_string(),
            &task(number),
        )
        .unwrap();
    }
}

#[test]
fn a_floor_says_how_many_bytes_would_hold_it() {
    let mut shelf = Shelf::default();
    let with_floor = |bytes: u64, floor: f64| Policy {
        floor,
        ..policy(1, bytes)
    };
    let tight = adapter_bytes() / 8;
    for number in 0..3 {
        arrive(
            &mut shelf,
            &policy(1, 1 << 20),
            &number.to_string(),
            &task(number),
        )
        .unwrap();
    }
    for floor in [0.9, 0.95, 0.99] {
        let error = shelf
            .place(&with_floor(tight, floor), "t", &task(7))
            .unwrap_err();
        let MergeError::BelowFloor {
            slot,
            retention,
            floor: stated,
            allowed,
            needed,
            ..
        } = &error
        else {
            panic!("{error}");
        };
        assert_eq!((*slot, *stated, *allowed), (0, floor, tight));
        assert!(*retention < floor && *needed > tight, "{error}");
        let placement = shelf
            .place(&with_floor(*needed, floor), "t", &task(7))
            .unwrap();
        assert!(
            placement
                .costs
                .iter()
                .all(|cost| cost.after.retention >= floor)
        );
        // "About": a fifth less is not enough.
        let less = shelf.place(&with_floor(*needed * 4 / 5, floor), "t", &task(7));
        assert!(less.is_err(), "{floor} {needed}");
    }
    let accepted = shelf.place(&with_floor(tight, 0.5), "t", &task(7)).unwrap();
    assert!(
        accepted
            .costs
            .iter()
            .all(|cost| cost.after.retention >= 0.5)
    );
}

#[test]
fn who_was_below_the_floor_before_does_not_block_others() {
    let mut shelf = Shelf::default();
    for number in 0..3 {
        arrive(
            &mut shelf,
            &policy(1, 4_000),
            &number.to_string(),
            &task(number),
        )
        .unwrap();
    }
    let roomy = Policy {
        floor: 0.98,
        ..policy(1, 1 << 20)
    };
    let placement = arrive(&mut shelf, &roomy, "t", &task(3)).unwrap();
    assert!(placement.costs[0].after.retention < 0.98);
    assert!(placement.costs[3].after.retention > 0.98);
}

#[test]
fn fewer_bytes_are_kept_to_at_the_next_arrival() {
    let mut shelf = Shelf::default();
    for number in 0..3 {
        arrive(
            &mut shelf,
            &policy(1, 40_000),
            &number.to_string(),
            &task(number),
        )
        .unwrap();
    }
    let placement = arrive(&mut shelf, &policy(1, 8_000), "3", &task(3)).unwrap();
    assert_eq!(placement.packed.budget, 8_000);
    for cost in &placement.costs[..3] {
        assert!(cost.after.retention < cost.before.unwrap().retention);
    }
    check_members(&shelf.slots[&0], &|name| {
        updates(task(name.parse().unwrap()).view())
    });
    // What was given up does not come back.
    let raised = arrive(&mut shelf, &policy(1, 80_000), "4", &task(4)).unwrap();
    for (before, after) in placement.costs.iter().zip(&raised.costs) {
        assert_eq!(before.after, after.after);
    }
}

#[test]
fn the_roomiest_slot_is_the_one_whose_worst_member_stays_best() {
    let rule = |slots| Policy {
        assignment: AssignmentRule::Roomiest,
        ..policy(slots, 8_000)
    };
    let mut shelf = Shelf::default();
    for number in 0..7 {
        arrive(&mut shelf, &rule(2), &number.to_string(), &task(number)).unwrap();
    }
    let members = |slot| shelf.slots[&slot].packed.members.len();
    assert_eq!(members(0).abs_diff(members(1)), 1);
}

#[test]
fn a_slot_that_has_moved_on_is_noticed() {
    let mut shelf = Shelf::default();
    let policy = policy(1, 9_000);
    arrive(&mut shelf, &policy, "0", &task(0)).unwrap();
    let planned = shelf.place(&policy, "1", &task(1)).unwrap();
    arrive(&mut shelf, &policy, "2", &task(2)).unwrap();
    let refused = planned
        .write(&shelf.views(), task(1).view(), &mut Vec::new())
        .unwrap_err();
    assert_eq!(refused.reason(), "STALE_PLAN");
}
