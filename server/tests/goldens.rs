//! The goldens through the real daemon: uploaded adapter by adapter, decided, merged, committed,
//! exported and fetched, they must come out as PEFT and the reference formulas say.
//!
//! Tolerances are those of the goldens' README: similarities 1e-5, factors 1e-5 of the tensor's
//! largest value, every decision the same.

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]
#![expect(clippy::disallowed_methods, reason = "the tests read their own files")]

#[path = "goldens/exact.rs"]
mod exact;
#[path = "goldens/replay.rs"]
mod replay;
mod support;

use kmerge_client::v1;
use support::calls::policy;

/// Similarities: absolute. Factors: relative to the tensor's largest value.
const TOLERANCE: f64 = 1e-5;

#[tokio::test]
async fn kmerge_with_one_to_three_slots() {
    for slots in 1..=3 {
        replay::run(&format!("kmerge-K{slots}"), policy(slots)).await;
    }
}

#[tokio::test]
async fn kmerge_plus_plus() {
    let policy = v1::MergePolicy {
        assignment: v1::AssignmentRule::KmergePlusPlus.into(),
        threshold: Some(0.35),
        ..policy(3)
    };
    replay::run("kmergepp-K3-t0.35", policy).await;
}

#[tokio::test]
async fn the_linear_control() {
    let policy = v1::MergePolicy {
        operator: v1::Operator::Linear.into(),
        ..policy(2)
    };
    replay::run("linear-K2", policy).await;
}

#[tokio::test]
async fn newcomers_of_three_types() {
    let policy = v1::MergePolicy {
        dtype: v1::SlotDtype::F32.into(),
        ..policy(2)
    };
    replay::run("kmerge-K2-dtypes", policy).await;
}
