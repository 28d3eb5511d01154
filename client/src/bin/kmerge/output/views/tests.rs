//! What people see of each thing, without its colours.

use std::time::{Duration, UNIX_EPOCH};

use prost_types::Timestamp;

use super::*;

/// Ten minutes after everything in these tests.
fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_000_600)
}

fn then() -> Option<Timestamp> {
    Some(Timestamp {
        seconds: 1_000_000,
        nanos: 0,
    })
}

fn plain(styled: &str) -> String {
    anstream::adapter::strip_str(styled).to_string()
}

fn merged() -> v1::Decision {
    v1::Decision {
        assignment: v1::Assignment::Merged.into(),
        slot: 1,
        generation: 3,
        similarities: vec![
            v1::SlotSimilarity {
                slot: 0,
                similarity: -0.0123,
            },
            v1::SlotSimilarity {
                slot: 1,
                similarity: 0.0784,
            },
        ],
        reason: "all 2 slots are taken, and slot 1 is the most similar".into(),
        members: members(),
        rank: 2,
        bytes: 491_608,
        energy_kept: Some(0.612),
        ..v1::Decision::default()
    }
}

fn members() -> Vec<v1::Member> {
    ["slug-en", "slug-de"]
        .map(|task| v1::Member {
            task: task.into(),
            weight: 0.5,
            fidelity: None,
        })
        .into()
}

fn job(id: u64, state: v1::JobState) -> v1::Job {
    v1::Job {
        id,
        task: "slug-de".into(),
        base_model: "smollm2-135m".into(),
        state: state.into(),
        size_bytes: 491_608,
        sha256: "ab".repeat(32),
        attempts: 1,
        create_time: then(),
        ..v1::Job::default()
    }
}

fn slot_of(number: u32, bytes: u64) -> v1::Slot {
    v1::Slot {
        base_model: "smollm2-135m".into(),
        slot: number,
        generation: 3,
        members: members(),
        rank: 16,
        bytes,
        dtype: v1::Dtype::F16.into(),
        modules: 120,
        sha256: "cd".repeat(32),
        path: "/var/lib/kmerge/exports/smollm2-135m/1/3".into(),
        revision: 12,
        update_time: then(),
        operator: v1::Operator::Exact.into(),
        budget_bytes: None,
        pinned: false,
        earlier_generations: Vec::new(),
    }
}

fn base() -> v1::BaseModel {
    v1::BaseModel {
        name: "smollm2-135m".into(),
        architecture: "LlamaForCausalLM".into(),
        layers: 30,
        hidden_size: 576,
        policy: Some(v1::MergePolicy {
            slots: Some(4),
            max_bytes: Some(64 << 20),
            assignment: v1::AssignmentRule::KmergePlusPlus.into(),
            threshold: Some(0.05),
            operator: v1::Operator::Exact.into(),
            dtype: v1::SlotDtype::Widest.into(),
            slot_bytes: Some(0),
            ..v1::MergePolicy::default()
        }),
        served_as: "SmolLM2-135M-Instruct".into(),
        config_sha256: "ef".repeat(32),
        slots_used: 3,
        bytes_used: 1_474_824,
        tasks: 8,
        create_time: then(),
    }
}

#[test]
fn slots_as_a_table() {
    let view = slots(&[slot_of(0, 491_608), slot_of(11, 14 << 20)], now());
    insta::assert_snapshot!(plain(&view));
}

#[test]
fn one_slot_with_its_members() {
    insta::assert_snapshot!(plain(&slot(&slot_of(1, 491_608), now())));
}

#[test]
fn jobs_as_a_table() {
    let mut running = job(4, v1::JobState::Running);
    running.stage = v1::JobStage::Merge.into();
    running.percent = 40;
    let done = v1::Job {
        decision: Some(merged()),
        ..job(3, v1::JobState::Done)
    };
    let failed = v1::Job {
        error: Some(v1::JobError {
            code: 9,
            reason: "DORA".into(),
            message:
                "DoRA adapters cannot be merged honestly: train without use_dora and push again"
                    .into(),
        }),
        ..job(2, v1::JobState::Failed)
    };
    let all = [
        job(5, v1::JobState::Queued),
        running,
        done,
        failed,
        job(1, v1::JobState::Cancelled),
    ];
    insta::assert_snapshot!(plain(&jobs(&all, now())));
}

#[test]
fn one_job_with_its_decision() {
    let done = v1::Job {
        decision: Some(merged()),
        attempts: 2,
        end_time: then(),
        request_id: "r-1".into(),
        ..job(3, v1::JobState::Done)
    };
    insta::assert_snapshot!(plain(&super::job(&done, now())));
}

#[test]
fn a_decision_that_opened_the_first_slot() {
    let opened = v1::Decision {
        assignment: v1::Assignment::Opened.into(),
        generation: 1,
        reason: "slot 0 of 3 was free".into(),
        members: vec![v1::Member {
            task: "slug-en".into(),
            weight: 1.0,
            ..v1::Member::default()
        }],
        rank: 2,
        bytes: 491_608,
        ..v1::Decision::default()
    };
    insta::assert_snapshot!(plain(&decision(&opened)));
}

#[test]
fn base_models_as_a_table_and_one_by_one() {
    insta::assert_snapshot!(plain(&format!(
        "{}\n{}",
        base_models(&[base()]),
        base_model(&base(), now())
    )));
}

#[test]
fn tasks_as_a_table() {
    let adapter = v1::Adapter {
        task: "slug-en".into(),
        base_model: "smollm2-135m".into(),
        format: v1::AdapterFormat::Peft.into(),
        size_bytes: 491_608,
        sha256: "ab".repeat(32),
        slot: 1,
        generation: 3,
        job_id: 7,
        create_time: then(),
        ..v1::Adapter::default()
    };
    insta::assert_snapshot!(plain(&adapters(&[adapter], now())));
}

#[test]
fn a_resolved_task() {
    let answer = v1::ResolveTaskResponse {
        task: "slug-en".into(),
        base_model: "smollm2-135m".into(),
        slot: 1,
        generation: 3,
        path: "/var/lib/kmerge/exports/smollm2-135m/1/3".into(),
        sha256: "cd".repeat(32),
        ..v1::ResolveTaskResponse::default()
    };
    insta::assert_snapshot!(plain(&resolved(&answer)));
}

#[test]
fn a_change_is_a_line() {
    let line = plain(&slot_line(&slot_of(1, 1)));
    assert_eq!(
        line,
        "revision 12     slot 1 generation 3 (smollm2-135m) slug-en, slug-de"
    );
}

#[test]
fn empty_lists_say_so() {
    assert_eq!(slots(&[], now()), "no slot is in use");
    assert_eq!(jobs(&[], now()), "there are no jobs");
    assert_eq!(adapters(&[], now()), "no task has been merged");
    assert_eq!(base_models(&[]), "no base model is registered");
}
