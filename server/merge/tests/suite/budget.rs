//! Slots, byte limits and plans that went stale.

use kmerge_merge::{
    Assignment, AssignmentRule, Dtype, MergeError, Operator, SlotDtype, execute, plan,
};

use crate::support::files::{Adapter, Module, adapter};
use crate::support::store::{Store, policy};

fn simple(seed: u64) -> Adapter {
    adapter(
        &[Module::random("0.self_attn.q_proj", [12, 12], 2, seed)],
        2.0,
        Dtype::F32,
    )
}

#[test]
fn the_lowest_free_number_is_opened() {
    let policy = policy(3, AssignmentRule::KMerge, Operator::KMergeLinear);
    let mut store = Store::default();
    for seed in 0..3 {
        assert_eq!(
            u64::from(store.arrive(&policy, &simple(seed)).unwrap().0.slot),
            seed
        );
    }
    store.slots.remove(&1);
    let (plan, _) = store.arrive(&policy, &simple(9)).unwrap();
    assert_eq!(
        (plan.assignment, plan.slot, plan.generation),
        (Assignment::Opened, 1, 1)
    );
    assert_eq!(
        plan.similarities
            .iter()
            .map(|&(slot, _)| slot)
            .collect::<Vec<_>>(),
        [0, 2]
    );
}

#[test]
fn the_order_of_the_views_does_not_matter() {
    let policy = policy(3, AssignmentRule::KMerge, Operator::Exact);
    let mut store = Store::default();
    for seed in 0..3 {
        store.arrive(&policy, &simple(seed)).unwrap();
    }
    let newcomer = simple(7);
    let mut views = store.views();
    let forward = plan(&policy, &views, newcomer.view(), &|_| ()).unwrap();
    views.reverse();
    assert_eq!(
        plan(&policy, &views, newcomer.view(), &|_| ()).unwrap(),
        forward
    );
}

#[test]
fn without_bytes_for_another_slot_the_nearest_takes_the_newcomer() {
    let mut policy = policy(4, AssignmentRule::KMerge, Operator::KMergeLinear);
    let mut store = Store::default();
    let (first, _) = store.arrive(&policy, &simple(1)).unwrap();
    policy.max_bytes = Some(2 * first.bytes);
    assert_eq!(
        store.arrive(&policy, &simple(2)).unwrap().0.assignment,
        Assignment::Opened
    );
    let (third, _) = store.arrive(&policy, &simple(3)).unwrap();
    assert_eq!(third.assignment, Assignment::Merged);
    assert!(
        third.reason.contains(&format!("{} bytes", 3 * first.bytes)),
        "{}",
        third.reason
    );
    policy.max_bytes = Some(2 * first.bytes - 1);
    let refused = store.arrive(&policy, &simple(4)).unwrap_err();
    assert!(
        matches!(refused, MergeError::OverBudget { needed, allowed }
            if needed == 2 * first.bytes && allowed == 2 * first.bytes - 1),
        "{refused}"
    );
}

#[test]
fn a_first_adapter_that_does_not_fit_is_refused() {
    let mut policy = policy(4, AssignmentRule::KMerge, Operator::KMergeLinear);
    policy.max_bytes = Some(100);
    let refused = Store::default().arrive(&policy, &simple(1)).unwrap_err();
    assert_eq!(refused.reason(), "OVER_BYTE_BUDGET");
    // Half the width fits in less.
    let mut store = Store::default();
    policy.max_bytes = None;
    let wide = store.arrive(&policy, &simple(1)).unwrap().0.bytes;
    policy.max_bytes = Some(wide - 1);
    policy.dtype = SlotDtype::F16;
    assert!(Store::default().arrive(&policy, &simple(1)).is_ok());
}

#[test]
fn contradictory_input_is_refused() {
    let base = policy(2, AssignmentRule::KMerge, Operator::KMergeLinear);
    let mut store = Store::default();
    store.arrive(&base, &simple(1)).unwrap();
    let newcomer = simple(2);
    let view = store.views()[0];
    let refused = |policy, views: &[_]| plan(policy, views, newcomer.view(), &|_| ()).unwrap_err();
    assert_eq!(refused(&base, &[view, view]).reason(), "DUPLICATE_SLOT");
    let mut outside = view;
    outside.slot = 2;
    assert_eq!(refused(&base, &[outside]).reason(), "SLOT_OUT_OF_RANGE");
    assert_eq!(
        refused(&policy(0, base.assignment, base.operator), &[]).reason(),
        "NO_SLOTS"
    );
    let other = adapter(
        &[Module::random("0.self_attn.q_proj", [12, 12], 2, 1)],
        2.0,
        Dtype::F32,
    );
    let mut layout = other.layout.clone();
    layout.modules[0].in_features = 6;
    layout.modules[0].rank = 4;
    let wrong = Adapter {
        layout,
        bytes: other.bytes,
    };
    let error = plan(&base, &[view], wrong.view(), &|_| ()).unwrap_err();
    assert_eq!(error.reason(), "MODULE_SHAPE_MISMATCH");
}

#[test]
fn a_plan_only_runs_on_what_it_was_made_for() {
    let policy = policy(1, AssignmentRule::KMerge, Operator::KMergeLinear);
    let newcomer = simple(2);
    let run = |made: &kmerge_merge::Plan, store: &Store, newcomer: &Adapter| {
        execute(
            made,
            &store.views(),
            newcomer.view(),
            &mut Vec::new(),
            &|_| (),
        )
        .map(|_| ())
        .map_err(|error| error.reason())
    };
    let mut store = Store::default();
    let opening = plan(&policy, &[], newcomer.view(), &|_| ()).unwrap();
    assert_eq!(run(&opening, &store, &newcomer), Ok(()));
    store.arrive(&policy, &simple(1)).unwrap();
    assert_eq!(run(&opening, &store, &newcomer), Err("STALE_PLAN"));

    let merging = plan(&policy, &store.views(), newcomer.view(), &|_| ()).unwrap();
    assert_eq!(run(&merging, &store, &newcomer), Ok(()));
    let other = adapter(
        &[Module::random("1.self_attn.q_proj", [12, 12], 2, 2)],
        2.0,
        Dtype::F32,
    );
    assert_eq!(
        run(&merging, &store, &other),
        Err("PLAN_FOR_OTHER_ADAPTERS")
    );
    assert_eq!(
        run(&merging, &Store::default(), &newcomer),
        Err("STALE_PLAN")
    );
    store.arrive(&policy, &simple(3)).unwrap();
    assert_eq!(run(&merging, &store, &newcomer), Err("STALE_PLAN"));
}

#[test]
fn progress_ends_at_one() {
    let policy = policy(1, AssignmentRule::KMerge, Operator::Exact);
    let mut store = Store::default();
    store.arrive(&policy, &simple(1)).unwrap();
    let seen = std::sync::Mutex::new(Vec::new());
    let note = |share: f32| seen.lock().unwrap().push(share);
    let newcomer = simple(2);
    let made = plan(&policy, &store.views(), newcomer.view(), &note).unwrap();
    execute(
        &made,
        &store.views(),
        newcomer.view(),
        &mut Vec::new(),
        &note,
    )
    .unwrap();
    assert_eq!(*seen.lock().unwrap(), [1.0, 1.0]);
}
