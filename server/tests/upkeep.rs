//! What changes slots and brings no adapter: tasks are forgotten, slots go back, are pinned, become
//! fewer or smaller; in turn with the uploads, durably, all or nothing.

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]
#![expect(
    clippy::disallowed_methods,
    reason = "the tests look at files from outside"
)]

#[path = "upkeep/budget.rs"]
mod budget;
#[path = "upkeep/forgetting.rs"]
mod forgetting;
#[path = "upkeep/going_back.rs"]
mod going_back;
#[path = "upkeep/kills.rs"]
mod kills;
#[path = "upkeep/pins.rs"]
mod pins;
mod support;

use kmerge_client::upkeep::Maintained;
use kmerge_client::{Client, Error, v1};
use support::adapters::{Files, demo_directory};
use support::calls::{ended, merge, progressive};
use support::{BASE, Daemon, Setup};

/// Superseded generations stay, so that slots can go back to them.
const LONG: &str = "[serving]\ngrace_seconds = 3600";
/// They go at once.
const NONE: &str = "[serving]\ngrace_seconds = 0\ncache_seconds = 0";

/// A daemon with the demo's base model.
async fn started(config: &str, policy: v1::MergePolicy) -> (Daemon, Client) {
    let daemon = Setup::default().config(config).start().await;
    let client = daemon.client().await;
    let request = v1::RegisterBaseModelRequest {
        name: BASE.to_owned(),
        config: std::fs::read(demo_directory().join("config.json")).unwrap(),
        policy: Some(policy),
        served_as: String::new(),
    };
    client.register_base_model(request).await.unwrap();
    (daemon, client)
}

/// One of the demo's real adapters.
fn demo(task: &str) -> kmerge_client::Adapter {
    Files::read(&demo_directory().join(task)).adapter()
}

async fn merge_all(client: &Client, tasks: &[&str]) {
    for task in tasks {
        merge(client, task, &demo(task)).await;
    }
}

/// Loses the process and the catalog.
async fn lose_catalog(daemon: &mut Daemon) -> Client {
    daemon.kill();
    std::fs::remove_dir_all(daemon.state().join("catalog")).unwrap();
    daemon.launch();
    daemon.ready().await;
    daemon.client().await
}

/// What a job did that came out well.
async fn done(client: &Client, maintained: Maintained) -> v1::Change {
    let job = ended(client, maintained.job.unwrap().id).await;
    assert_eq!(job.state(), v1::JobState::Done, "{:?}", job.error);
    assert_eq!((job.percent, job.decision), (100, None));
    job.change.unwrap()
}

/// What would be done.
fn foreseen(maintained: Maintained) -> v1::Change {
    assert_eq!(maintained.job, None);
    maintained.change.unwrap()
}

fn forgetting(task: &str, validate_only: bool) -> v1::ForgetTaskRequest {
    v1::ForgetTaskRequest {
        base_model: BASE.to_owned(),
        task: task.to_owned(),
        request_id: String::new(),
        validate_only,
    }
}

async fn forget(client: &Client, task: &str) -> Result<v1::Change, Error> {
    let maintained = client.forget_task(forgetting(task, false)).await?;
    Ok(done(client, maintained).await)
}

fn going_back(slot: u32, generation: u64, validate_only: bool) -> v1::RollbackSlotRequest {
    v1::RollbackSlotRequest {
        base_model: BASE.to_owned(),
        slot,
        generation,
        request_id: String::new(),
        validate_only,
    }
}

async fn roll_back(client: &Client, slot: u32, generation: u64) -> Result<v1::Change, Error> {
    let request = going_back(slot, generation, false);
    let maintained = client.rollback_slot(request).await?;
    Ok(done(client, maintained).await)
}

async fn pin(client: &Client, slot: u32, pinned: bool) -> Result<v1::Change, Error> {
    let request = v1::PinSlotRequest {
        base_model: BASE.to_owned(),
        slot,
        pinned: Some(pinned),
        request_id: String::new(),
    };
    let maintained = client.pin_slot(request).await?;
    Ok(done(client, maintained).await)
}

/// The tasks of each slot.
async fn tasks(client: &Client) -> Vec<(u32, Vec<String>)> {
    let slots = client.list_slots(Some(BASE)).await.unwrap();
    let names = |slot: v1::Slot| slot.members.into_iter().map(|member| member.task).collect();
    slots
        .into_iter()
        .map(|slot| (slot.slot, names(slot)))
        .collect()
}

/// Digest and certified figures of the adapter that serves a task.
async fn served(client: &Client, task: &str) -> (String, Option<v1::Fidelity>) {
    let resolved = client.resolve_task(BASE, task).await.unwrap();
    let directory = std::path::Path::new(&resolved.path);
    let bytes = std::fs::read(directory.join("adapter_model.safetensors")).unwrap();
    let found = kmerge_storage::Digest::of(&bytes).to_string();
    assert_eq!(found, resolved.sha256, "{task}");
    (resolved.sha256, resolved.fidelity)
}
