//! Many tasks: a daemon that was killed serves all of them again. The state is made with storage
//! itself, because thousands of uploads would take longer than they teach. Times are printed, and
//! never judged.

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]
#![expect(clippy::print_stdout, reason = "the times are for people")]
#![expect(
    clippy::disallowed_methods,
    reason = "the state is made and damaged from outside"
)]

mod support;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use kmerge_client::Client;
use kmerge_merge::{
    AdapterView, AssignmentRule, BaseModel, Operator, Policy, SlotDtype, decode, execute, plan,
};
use kmerge_storage::{
    BaseModelName, BaseModelRecord, Commit, Digest, NewMember, Opened, Options, SlotChange,
    SlotIndex, StageRequest, TaskName, UnixMillis,
};
use support::adapters::{Files, golden};
use support::{BASE, Daemon, Setup, calls, goldens};

const SLOTS: u32 = 8;

/// Where a state is made quickly: in memory, where the system has a place for that.
fn workshop() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() {
        tempfile::tempdir_in(memory).unwrap()
    } else {
        tempfile::tempdir().unwrap()
    }
}

/// The tensors of a slot that holds one adapter.
fn slot_tensors(adapter: &Files, base: &str) -> Vec<u8> {
    let base = BaseModel::from_config_json(base.as_bytes()).unwrap();
    let decoded = decode(&adapter.config, &adapter.tensors, &base).unwrap();
    let newcomer = AdapterView {
        layout: &decoded.layout,
        source: &adapter.tensors,
    };
    let policy = Policy {
        slots: SLOTS,
        max_bytes: None,
        assignment: AssignmentRule::KMerge,
        operator: Operator::KMergeLinear,
        dtype: SlotDtype::Widest,
        ..Policy::default()
    };
    let plan = plan(&policy, &[], newcomer, &|_| ()).unwrap();
    let mut bytes = Vec::new();
    execute(&plan, &[], newcomer, &mut bytes, &|_| ()).unwrap();
    bytes
}

fn task(number: u32) -> String {
    format!("task-{number:05}")
}

/// Makes a state of that many merged tasks, evenly over the slots.
fn make(state: &Path, tasks: u32) {
    let now = UnixMillis(1_700_000_000_000);
    let Opened {
        mut committer,
        ingest,
        reader,
        ..
    } = kmerge_storage::open(state, &Options::default(), now).unwrap();
    let base_model: BaseModelName = BASE.parse().unwrap();
    let config = std::fs::read_to_string(goldens().join("base/config.json")).unwrap();
    let adapter = golden("a0");
    let tensors = slot_tensors(&adapter, &config);
    let record = BaseModelRecord {
        name: base_model.clone(),
        config,
        settings: format!(r#"{{"slots":{SLOTS}}}"#),
        served_as: BASE.to_owned(),
        created: now,
    };
    committer.register_base_model(record).unwrap();
    for number in 0..tasks {
        let task: TaskName = task(number).parse().unwrap();
        let request = StageRequest {
            base_model: base_model.clone(),
            task: task.clone(),
            format: "peft".to_owned(),
            config: adapter.config.clone(),
            size_bytes: u64::try_from(adapter.tensors.len()).unwrap(),
            digest: Digest::of(&adapter.tensors),
            request_id: None,
        };
        let mut staging = ingest.stage(request).unwrap();
        staging.write(&adapter.tensors).unwrap();
        let staged = staging.finish().unwrap();
        let job = committer.enqueue(staged, now).unwrap().job.id;
        committer.start_job(job, now).unwrap();
        let slot = SlotIndex(number % SLOTS);
        let members = number / SLOTS + 1;
        let mut writer = reader.new_tensor().unwrap();
        writer.write(&tensors).unwrap();
        let change = SlotChange {
            slot,
            expected: committer
                .catalog()
                .slot(&base_model, slot)
                .map(|slot| slot.current().generation),
            tensor: writer.finish().unwrap(),
            newcomer: Some(NewMember {
                task,
                weight: 1.0 / f64::from(members),
            }),
            facts: r#"{"rank":4,"dtype":"F32","modules":12,"operator":"kmerge-linear"}"#.to_owned(),
        };
        let result = format!(
            r#"{{"assignment":"merged","slot":{slot},"generation":{members},"similarities":[],
                "reason":"made for a test","rank":4,"bytes":{}}}"#,
            tensors.len()
        );
        let commit = Commit {
            job,
            changes: vec![change],
            result,
        };
        committer.commit(commit, now).unwrap();
        if number % 100 == 99 {
            committer.collect(Duration::ZERO, now).unwrap();
        }
    }
    committer.close().unwrap();
}

/// Every task is in one slot, with its place among the members, and resolves to it.
async fn assert_all_served(client: &Client, tasks: u32) {
    let slots = client.list_slots(Some(BASE)).await.unwrap();
    assert_eq!(slots.len(), usize::try_from(SLOTS).unwrap());
    let mut members = BTreeSet::new();
    for slot in &slots {
        assert_eq!(
            u64::try_from(slot.members.len()).unwrap(),
            slot.generation,
            "slot {}",
            slot.slot
        );
        for member in &slot.members {
            assert!(members.insert(member.task.clone()), "{} twice", member.task);
        }
        let sum: f64 = slot.members.iter().map(|member| member.weight).sum();
        assert!((sum - 1.0).abs() < 1e-9, "weights of slot {}", slot.slot);
    }
    assert!((0..tasks).all(|number| members.contains(&task(number))));
    for number in (0..tasks).step_by(97) {
        let resolved = client.resolve_task(BASE, &task(number)).await.unwrap();
        assert_eq!(resolved.slot, number % SLOTS);
        let path = PathBuf::from(resolved.path).join("adapter_model.safetensors");
        assert_eq!(
            Digest::of(&std::fs::read(path).unwrap()).to_string(),
            resolved.sha256
        );
    }
}

/// Starts, waits for SERVING, and prints how long that took.
async fn timed(daemon: &mut Daemon, what: &str) {
    let started = Instant::now();
    daemon.launch();
    daemon.ready().await;
    println!("{what}: serving after {:?}", started.elapsed());
}

async fn run(tasks: u32) {
    let mut daemon = Setup::default().prepare();
    let workshop = workshop();
    let made = workshop.path().join("state");
    let started = Instant::now();
    make(&made, tasks);
    println!("{tasks} tasks made in {:?}", started.elapsed());
    let status = Command::new("cp")
        .arg("-a")
        .args([&made, &daemon.state()])
        .status();
    assert!(status.unwrap().success());

    timed(&mut daemon, "first start").await;
    let client = daemon.client().await;
    assert_all_served(&client, tasks).await;
    let newest = calls::merge(&client, "newest", &calls::golden("a1")).await;
    daemon.kill();
    daemon.assert_quiet(&[]);

    timed(&mut daemon, "after SIGKILL").await;
    let client = daemon.client().await;
    assert_all_served(&client, tasks).await;
    let status = client.get_status().await.unwrap();
    assert_eq!(status.tasks, u64::from(tasks) + 1);
    assert!(!status.recovery.unwrap().catalog_rebuilt);
    let resolved = client.resolve_task(BASE, "newest").await.unwrap();
    assert_eq!(
        (resolved.slot, resolved.generation),
        (newest.slot, newest.generation)
    );
    daemon.kill();
    daemon.assert_quiet(&[]);

    std::fs::remove_dir_all(daemon.state().join("catalog")).unwrap();
    timed(&mut daemon, "after SIGKILL, without a catalog").await;
    let client = daemon.client().await;
    assert_all_served(&client, tasks).await;
    let status = client.get_status().await.unwrap();
    assert_eq!(status.tasks, u64::from(tasks) + 1);
    assert!(status.recovery.unwrap().catalog_rebuilt);
    daemon.stop().await;
    daemon.assert_quiet(&["recovery: the catalog was missing"]);
}

#[tokio::test]
async fn two_thousand_tasks_survive_a_kill() {
    run(2_000).await;
}

#[tokio::test]
#[ignore = "takes minutes"]
async fn ten_thousand_tasks_survive_a_kill() {
    run(10_000).await;
}
