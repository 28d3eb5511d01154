//! One golden run: every arrival's decision, then every slot as it is served.

use std::path::Path;

use kmerge_client::{Client, v1};
use kmerge_storage::Digest;
use serde_json::Value;
use tonic::transport::Channel;

use crate::TOLERANCE;
use crate::support::calls::{golden, merge, register};
use crate::support::tensors::{self, Export};
use crate::support::{BASE, Daemon, goldens};

/// A JSON file of the goldens.
pub(crate) fn json(path: &str) -> Value {
    let text = std::fs::read_to_string(goldens().join("expected").join(path)).unwrap();
    serde_json::from_str(&text).unwrap()
}

/// The names in a JSON list.
pub(crate) fn names(list: &Value) -> Vec<&str> {
    let names = list.as_array().unwrap().iter();
    names.map(|name| name.as_str().unwrap()).collect()
}

/// Replays the run in the goldens' directory `name` on a daemon of its own.
pub(crate) async fn run(name: &str, policy: v1::MergePolicy) {
    let expected = json(&format!("{name}/assignment.json"));
    let mut daemon = Daemon::start().await;
    let client = daemon.client().await;
    register(&client, BASE, policy).await;
    for wanted in expected["decisions"].as_array().unwrap() {
        let task = wanted["adapter"].as_str().unwrap();
        let found = merge(&client, task, &golden(task)).await;
        decision(&format!("{name}, {task}"), &found, wanted);
        let slot = client.get_slot(BASE, found.slot).await.unwrap();
        assert_eq!(slot.generation, found.generation, "{name}, {task}");
        assert_eq!(slot.members, found.members, "{name}, {task}");
        assert_eq!((slot.rank, slot.bytes), (found.rank, found.bytes));
    }
    let slots = client.list_slots(Some(BASE)).await.unwrap();
    let wanted = expected["slots"].as_array().unwrap();
    assert_eq!(slots.len(), wanted.len(), "{name}");
    let channel = daemon.channel().await;
    for (slot, wanted) in slots.iter().zip(wanted) {
        served(name, &client, &channel, slot, wanted).await;
    }
    daemon.stop().await;
    daemon.assert_quiet(&[]);
}

fn decision(context: &str, found: &v1::Decision, wanted: &Value) {
    let assignment = match found.assignment() {
        v1::Assignment::Opened => "opened",
        v1::Assignment::Merged => "merged",
        v1::Assignment::Unspecified => "unspecified",
    };
    assert_eq!(assignment, wanted["assignment"], "{context}");
    assert_eq!(u64::from(found.slot), wanted["slot"], "{context}");
    assert_eq!(found.generation, wanted["generation"], "{context}");
    assert!(!found.reason.is_empty(), "{context}");
    let similarities = wanted["similarities"].as_array().unwrap();
    assert_eq!(found.similarities.len(), similarities.len(), "{context}");
    for (found, wanted) in found.similarities.iter().zip(similarities) {
        assert_eq!(u64::from(found.slot), wanted["slot"], "{context}");
        let difference = found.similarity - wanted["similarity"].as_f64().unwrap();
        assert!(difference.abs() <= TOLERANCE, "{context}: {found:?}");
    }
    let members: Vec<&str> = found
        .members
        .iter()
        .map(|member| member.task.as_str())
        .collect();
    assert_eq!(members, names(&wanted["members_after"]), "{context}");
    weights(context, &found.members, wanted);
}

/// The weights given to PEFT are those of the slot as it was and of the newcomer, so the last
/// member's is the newcomer's, and all together are one.
fn weights(context: &str, members: &[v1::Member], wanted: &Value) {
    let newcomer = wanted["weights"]
        .as_array()
        .map_or(1.0, |pair| pair[1].as_f64().unwrap());
    let found = members.last().unwrap().weight;
    assert!((found - newcomer).abs() < 1e-12, "{context}: {members:?}");
    let sum: f64 = members.iter().map(|member| member.weight).sum();
    assert!((sum - 1.0).abs() < 1e-12, "{context}: {members:?}");
}

/// What is fetched, what lies in the export's directory and what `ResolveTask` says are one, and
/// the factors are the goldens'.
async fn served(name: &str, client: &Client, channel: &Channel, slot: &v1::Slot, wanted: &Value) {
    let context = format!("{name}, slot {}", slot.slot);
    let export = tensors::fetch(channel, BASE, slot.slot, 0).await.unwrap();
    assert_eq!(export.header.slot, slot.slot, "{context}");
    assert_eq!(export.header.generation, slot.generation, "{context}");
    assert_eq!(export.header.base_model, BASE, "{context}");
    for file in &export.header.files {
        let bytes = &export.files[&file.name];
        assert_eq!(
            u64::try_from(bytes.len()).unwrap(),
            file.size_bytes,
            "{context}"
        );
        assert_eq!(
            Digest::of(bytes).to_string(),
            file.sha256,
            "{context}: {}",
            file.name
        );
        let on_disk = std::fs::read(Path::new(&slot.path).join(&file.name)).unwrap();
        assert!(
            *bytes == on_disk,
            "{context}: {} differs on disk",
            file.name
        );
    }
    let sha256 = Digest::of(export.tensors()).to_string();
    assert_eq!(sha256, slot.sha256, "{context}");
    for member in &slot.members {
        let resolved = client.resolve_task(BASE, &member.task).await.unwrap();
        assert_eq!(resolved.slot, slot.slot, "{context}: {}", member.task);
        assert_eq!(
            resolved.generation, slot.generation,
            "{context}: {}",
            member.task
        );
        assert_eq!(
            (&resolved.path, &resolved.sha256),
            (&slot.path, &sha256),
            "{context}"
        );
    }
    configuration(&context, &export, slot);
    factors(name, &context, &export, slot.slot, wanted);
}

/// What every runtime relies on.
fn configuration(context: &str, export: &Export, slot: &v1::Slot) {
    let config = export.config();
    assert_eq!(config["peft_type"], "LORA", "{context}");
    assert_eq!(
        config["r"].as_u64(),
        Some(u64::from(slot.rank)),
        "{context}"
    );
    // As an integer: some readers take nothing else.
    assert_eq!(
        config["lora_alpha"].as_u64(),
        Some(u64::from(slot.rank)),
        "{context}"
    );
    for pattern in ["rank_pattern", "alpha_pattern"] {
        assert_eq!(config[pattern], serde_json::json!({}), "{context}");
    }
    for off in ["use_rslora", "use_dora", "fan_in_fan_out"] {
        assert_eq!(config[off], false, "{context}");
    }
    assert_eq!(config["bias"], "none", "{context}");
    assert_eq!(config["base_model_name_or_path"], BASE, "{context}");
    let mut targets = names(&config["target_modules"]);
    targets.sort_unstable();
    assert_eq!(
        targets,
        ["k_proj", "o_proj", "q_proj", "v_proj"],
        "{context}"
    );
}

fn factors(name: &str, context: &str, export: &Export, slot: u32, wanted: &Value) {
    let directory = goldens().join(format!("expected/{name}/slot-{slot}"));
    let bytes = std::fs::read(directory.join("adapter_model.safetensors")).unwrap();
    let config = json(&format!("{name}/slot-{slot}/adapter_config.json"));
    // PEFT saved a slot of one member with that member's own alpha; served slots have it folded
    // into both factors alike.
    let fold = if wanted["single_member"].as_bool().unwrap() {
        (config["lora_alpha"].as_f64().unwrap() / config["r"].as_f64().unwrap()).sqrt()
    } else {
        assert_eq!(
            config["lora_alpha"].as_f64(),
            config["r"].as_f64(),
            "{context}"
        );
        1.0
    };
    let found = tensors::read(export.tensors());
    let wanted = tensors::read(&bytes);
    assert!(
        found.keys().eq(wanted.keys()),
        "{context}: {:?}",
        found.keys()
    );
    for (tensor, wanted) in &wanted {
        let wanted = wanted.scaled(fold);
        let difference = found[tensor].difference(&wanted);
        assert!(
            difference <= TOLERANCE * wanted.largest(),
            "{context}, {tensor}: {difference:e} of {:e}",
            wanted.largest()
        );
    }
}
