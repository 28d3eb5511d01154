//! Each message as JSON, as scripts will see it.

use serde_json::json;

use super::*;

fn timestamp() -> Option<prost_types::Timestamp> {
    Some(prost_types::Timestamp {
        seconds: 1_700_000_000,
        nanos: 250_000_000,
    })
}

fn decision() -> v1::Decision {
    v1::Decision {
        assignment: v1::Assignment::Merged.into(),
        slot: 1,
        generation: 3,
        similarities: vec![
            v1::SlotSimilarity {
                slot: 0,
                similarity: -0.25,
            },
            v1::SlotSimilarity {
                slot: 1,
                similarity: 0.5,
            },
        ],
        reason: "slot 1 is the most similar".into(),
        members: vec![v1::Member {
            task: "slug-en".into(),
            weight: 0.5,
            ..v1::Member::default()
        }],
        rank: 16,
        bytes: 1024,
        energy_kept: None,
        ..v1::Decision::default()
    }
}

#[test]
fn every_described_message_is_in_the_contract() {
    for name in DESCRIBED {
        assert!(CONTRACT.get_message_by_name(name).is_some(), "{name}");
    }
}

#[test]
fn a_job_with_its_decision() {
    let job = v1::Job {
        id: u64::MAX,
        task: "slug-en".into(),
        base_model: "smollm2-135m".into(),
        state: v1::JobState::Done.into(),
        stage: v1::JobStage::Unspecified.into(),
        percent: 100,
        decision: Some(decision()),
        error: None,
        size_bytes: 491_608,
        sha256: "ab".repeat(32),
        request_id: String::new(),
        attempts: 1,
        create_time: timestamp(),
        start_time: None,
        end_time: timestamp(),
        kind: v1::JobKind::Upload.into(),
        change: None,
    };
    insta::assert_snapshot!(pretty(&message(&job)));
}

#[test]
fn a_default_job_has_all_its_fields() {
    insta::assert_snapshot!(pretty(&message(&v1::Job::default())));
}

#[test]
fn a_slot() {
    let slot = v1::Slot {
        base_model: "smollm2-135m".into(),
        slot: 0,
        generation: 2,
        members: vec![
            v1::Member {
                task: "slug-en".into(),
                weight: 0.5,
                ..v1::Member::default()
            },
            v1::Member {
                task: "slug-de".into(),
                weight: 0.5,
                ..v1::Member::default()
            },
        ],
        rank: 2,
        bytes: 491_608,
        dtype: v1::Dtype::F16.into(),
        modules: 120,
        sha256: "cd".repeat(32),
        path: "/var/lib/kmerge/exports/x".into(),
        revision: 9,
        update_time: timestamp(),
        ..v1::Slot::default()
    };
    insta::assert_snapshot!(pretty(&message(&slot)));
}

#[test]
fn a_base_model_with_its_policy() {
    let base = v1::BaseModel {
        name: "smollm2-135m".into(),
        architecture: "LlamaForCausalLM".into(),
        layers: 30,
        hidden_size: 576,
        policy: Some(v1::MergePolicy {
            slots: Some(3),
            max_bytes: Some(0),
            assignment: v1::AssignmentRule::KmergePlusPlus.into(),
            threshold: Some(0.5),
            operator: v1::Operator::KmergeLinear.into(),
            dtype: v1::SlotDtype::Widest.into(),
            ..v1::MergePolicy::default()
        }),
        served_as: "SmolLM2-135M-Instruct".into(),
        config_sha256: "ef".repeat(32),
        slots_used: 2,
        bytes_used: 983_216,
        tasks: 5,
        create_time: timestamp(),
    };
    insta::assert_snapshot!(pretty(&message(&base)));
}

#[test]
fn the_status() {
    let status = v1::GetStatusResponse {
        disk: Some(v1::DiskUsage {
            total: 10,
            free: u64::MAX,
            ..v1::DiskUsage::default()
        }),
        recovery: Some(v1::RecoveryReport {
            catalog_rebuilt: true,
            notes: vec!["set the catalog aside".into()],
            ..v1::RecoveryReport::default()
        }),
        ..v1::GetStatusResponse::default()
    };
    insta::assert_snapshot!(pretty(&message(&status)));
}

#[test]
fn an_adapter_an_export_and_a_resolved_task() {
    let adapter = v1::Adapter {
        format: v1::AdapterFormat::Peft.into(),
        create_time: timestamp(),
        ..v1::Adapter::default()
    };
    let header = v1::ExportHeader {
        format: v1::AdapterFormat::Peft.into(),
        files: vec![v1::ExportFile {
            name: "adapter_config.json".into(),
            ..Default::default()
        }],
        ..v1::ExportHeader::default()
    };
    let resolved = v1::ResolveTaskResponse {
        task: "slug-en".into(),
        ..Default::default()
    };
    let all = json!([message(&adapter), message(&header), message(&resolved)]);
    insta::assert_snapshot!(pretty(&all));
}

#[test]
fn an_upload_that_was_only_validated() {
    let answer = v1::UploadAdapterResponse {
        decision: Some(v1::Decision {
            energy_kept: Some(0.75),
            ..decision()
        }),
        warnings: vec!["lora_dropout is ignored".into()],
        ..v1::UploadAdapterResponse::default()
    };
    let json = message(&answer);
    assert_eq!(json["job"], Json::Null);
    assert_eq!(json["decision"]["energy_kept"], json!(0.75));
    assert_eq!(json["existing"], json!(false));
}

#[test]
fn words_of_enums() {
    let words = [
        word_of(v1::AssignmentRule::Kmerge),
        word_of(v1::AssignmentRule::KmergePlusPlus),
        word_of(v1::Operator::KmergeLinear),
        word_of(v1::Operator::Exact),
        word_of(v1::SlotDtype::Bf16),
        word_of(v1::JobState::Cancelled),
        word_of(v1::Assignment::Opened),
        word_of(v1::AdapterFormat::Peft),
    ]
    .map(Option::unwrap);
    let expected = [
        "kmerge",
        "kmerge++",
        "kmerge-linear",
        "exact",
        "bf16",
        "cancelled",
        "opened",
        "peft",
    ];
    assert_eq!(words, expected);
    assert_eq!(word_of(v1::JobState::Unspecified), None);
}

#[test]
fn a_value_from_the_future_is_its_number() {
    let job = v1::Job {
        state: 77,
        ..v1::Job::default()
    };
    assert_eq!(message(&job)["state"], json!(77));
}

#[test]
fn numbers_that_json_has_not_are_null() {
    let similarity = v1::SlotSimilarity {
        slot: 0,
        similarity: f64::NAN,
    };
    assert_eq!(
        message(&similarity),
        json!({ "slot": 0, "similarity": null })
    );
}

fn pretty(json: &Json) -> String {
    serde_json::to_string_pretty(json).unwrap()
}
