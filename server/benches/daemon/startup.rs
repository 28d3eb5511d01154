//! From exec to SERVING with 10,000 tasks, after a SIGKILL. The state is made with storage itself,
//! since ten thousand uploads would take longer than they teach.

use std::time::Instant;

use kmerge_storage::{
    BaseModelRecord, Commit, Digest, NewMember, Opened, Options, SlotChange, SlotIndex,
    StageRequest, UnixMillis,
};

use crate::process::{Daemon, disk_usage};
use crate::scratch;
use crate::synthetic::{LLAMA_1B, Width, write};

const TASKS: u64 = 10_000;
const SLOTS: u32 = 8;
const ROUNDS: usize = 5;

/// Measures and prints.
pub async fn run() {
    let directory = scratch();
    prepare(&directory.path().join("state"), directory.path());
    let mut times = Vec::new();
    for _ in 0..ROUNDS {
        let started = Instant::now();
        let (daemon, client) = Daemon::start(directory.path()).await;
        times.push(started.elapsed().as_secs_f64());
        assert_eq!(client.get_status().await.unwrap().tasks, TASKS);
        daemon.kill();
    }
    println!("\nstart-up with {TASKS} tasks after a SIGKILL, exec to SERVING, {ROUNDS} rounds");
    println!("  median {:.0} ms", crate::median(times) * 1e3);
    let disk = disk_usage(&directory.path().join("state"));
    println!(
        "  disk in use {:.1} MB, tensors included",
        disk as f64 / 1e6
    );
}

fn prepare(state: &std::path::Path, scratch: &std::path::Path) {
    let now = UnixMillis(1_700_000_000_000);
    let Opened {
        mut committer,
        ingest,
        reader,
        ..
    } = kmerge_storage::open(state, &Options::default(), now).unwrap();
    let base_model = "llama-1b".parse().unwrap();
    committer
        .register_base_model(BaseModelRecord {
            name: "llama-1b".parse().unwrap(),
            config: LLAMA_1B.config(),
            settings: r#"{"slots":8}"#.into(),
            served_as: "llama-1b".into(),
            created: now,
        })
        .unwrap();
    let source = scratch.join("adapter");
    write(&source, LLAMA_1B, 1, Width::F16, 1);
    let tensors = std::fs::read(source.join("adapter_model.safetensors")).unwrap();
    let config = std::fs::read(source.join("adapter_config.json")).unwrap();
    let facts = r#"{"rank":1,"dtype":"F16","modules":64,"operator":"exact"}"#;
    for number in 0..TASKS {
        let task: kmerge_storage::TaskName = format!("task-{number:05}").parse().unwrap();
        let mut staging = ingest
            .stage(StageRequest {
                base_model: kmerge_storage::BaseModelName::clone(&base_model),
                task: task.clone(),
                format: "peft".into(),
                config: config.clone(),
                size_bytes: tensors.len() as u64,
                digest: Digest::of(&tensors),
                request_id: None,
            })
            .unwrap();
        staging.write(&tensors).unwrap();
        let job = committer
            .enqueue(staging.finish().unwrap(), now)
            .unwrap()
            .job;
        committer.start_job(job.id, now).unwrap();
        let slot = SlotIndex(u32::try_from(number).unwrap() % SLOTS);
        let mut writer = reader.new_tensor().unwrap();
        writer.write(&tensors).unwrap();
        let expected = committer
            .catalog()
            .slot(&base_model, slot)
            .map(|slot| slot.current().generation);
        let members = number / u64::from(SLOTS) + 1;
        let change = SlotChange {
            slot,
            expected,
            tensor: writer.finish().unwrap(),
            newcomer: Some(NewMember {
                task,
                weight: 1.0 / members as f64,
            }),
            facts: facts.into(),
        };
        let result = format!(
            r#"{{"assignment":"merged","slot":{},"generation":{members},"similarities":[],"reason":"made for a bench","rank":1,"bytes":1}}"#,
            slot.0
        );
        committer
            .commit(
                Commit {
                    job: job.id,
                    changes: vec![change],
                    result,
                },
                now,
            )
            .unwrap();
        committer.collect(std::time::Duration::ZERO, now).unwrap();
    }
    committer.close().unwrap();
}
