//! A disk that others fill, to the last byte if need be: what is new is refused with a reason, what
//! is there can be read and forgotten, what was acknowledged waits, and all of it goes on by itself
//! when there is room again.
//!
//! Each test runs in a namespace of its own, on a tmpfs of some MiB; where there are none it says
//! that it was skipped.

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]
#![expect(clippy::print_stdout, reason = "times are for people")]
#![expect(
    clippy::disallowed_methods,
    reason = "the tests fill the disk and read files of their own"
)]

#[path = "disk_full/campaign.rs"]
mod campaign;
mod support;

use std::time::{Duration, Instant};

use kmerge_client::{Client, Fetch, v1};
use support::adapters::small;
use support::calls::{Refusal, ended, merge, policy, refusal, register, upload};
use support::namespace::{SmallDisk, entered};
use support::{BASE, Daemon, Setup, eventually};
use tonic::Code;

/// The base model whose slots keep their members apart. [`BASE`] has averages.
const PACKED: &str = "packed";

const DISK: u64 = 24 << 20;

/// A daemon on a small disk, with two base models, and two tasks in each.
async fn start(setup: Setup) -> (Daemon, SmallDisk, Client) {
    let mut daemon = setup.env("KMERGE_STATE__RESERVE_BYTES", "64MiB").prepare();
    let disk = SmallDisk::mount(&daemon.state(), DISK);
    daemon.launch();
    daemon.ready().await;
    let client = daemon.client().await;
    register(&client, BASE, policy(1)).await;
    let packed = v1::MergePolicy {
        operator: v1::Operator::Progressive.into(),
        assignment: v1::AssignmentRule::Roomiest.into(),
        slot_bytes: Some(256 << 10),
        ..policy(1)
    };
    register(&client, PACKED, packed).await;
    for (task, seed) in [("a", 1), ("b", 2)] {
        merge(&client, task, &small(4, seed).adapter()).await;
        let job = push_to(&client, PACKED, task, seed).await.unwrap();
        assert_eq!(ended(&client, job).await.state(), v1::JobState::Done);
    }
    // Decoded once, they are there.
    for task in ["a", "b"] {
        client.resolve_task(PACKED, task).await.unwrap();
    }
    (daemon, disk, client)
}

/// Sends an adapter; the job, or the refusal.
async fn push_to(client: &Client, base: &str, task: &str, seed: u64) -> Result<u64, Refusal> {
    let upload = kmerge_client::Upload {
        base_model: base.to_owned(),
        ..upload(task)
    };
    let adapter = small(4, seed).adapter();
    match client.upload_adapter(&adapter, &upload, |_| ()).await {
        Ok(answer) => Ok(answer.job.unwrap().id),
        Err(error) => Err(refusal(error)),
    }
}

fn assert_full(refusal: &Refusal) {
    assert_eq!(
        (refusal.code, refusal.reason.as_str()),
        (Code::ResourceExhausted, "DISK_FULL"),
        "{refusal:?}"
    );
    assert!(refusal.message.contains("free some space"), "{refusal:?}");
    assert!(refusal.details.retry_info().is_some(), "{refusal:?}");
}

/// Everything that is read is there.
async fn assert_readable(daemon: &Daemon, client: &Client, tasks: &[(&str, &str)]) {
    for (base, task) in tasks {
        let resolved = client.resolve_task(base, task).await.unwrap();
        let path = std::path::PathBuf::from(&resolved.path).join("adapter_model.safetensors");
        assert!(path.is_file(), "{base}/{task}: {}", path.display());
        let fetch = Fetch {
            base_model: (*base).to_owned(),
            slot: 0,
            generation: 0,
            format: v1::AdapterFormat::Peft,
            into: daemon.room().join("fetched"),
            replace: true,
        };
        client.fetch_task(&fetch, task).await.unwrap();
    }
    assert!(!client.list_slots(None).await.unwrap().is_empty());
    assert!(!client.list_adapters(None).await.unwrap().is_empty());
    let jobs = client.list_jobs(None, None).await.unwrap();
    client.get_job(jobs[0].id).await.unwrap();
    client.watch_job(jobs[0].id).next().await.unwrap().unwrap();
    client.watch_slots(None, 0).next().await.unwrap();
    assert!(client.get_status().await.unwrap().accepts_writes);
}

async fn forget(client: &Client, base: &str, task: &str) -> v1::Job {
    let request = v1::ForgetTaskRequest {
        base_model: base.to_owned(),
        task: task.to_owned(),
        ..v1::ForgetTaskRequest::default()
    };
    let job = client.forget_task(request).await.unwrap().job.unwrap();
    ended(client, job.id).await
}

/// Forgets a task while the disk is full, which must work.
async fn assert_forgotten(client: &Client, base: &str, task: &str) {
    let job = forget(client, base, task).await;
    assert_eq!(job.state(), v1::JobState::Done, "{base}/{task}: {job:?}");
    let error = client.resolve_task(base, task).await.unwrap_err();
    assert_eq!(refusal(error).code, Code::NotFound);
}

/// The log tells of no end of the state, and of no failure but a full disk's.
fn assert_undisturbed(daemon: &mut Daemon) {
    assert!(daemon.exited().is_none(), "kmerged has ended");
    let log = daemon.log();
    for words in [
        "can no longer be written",
        "panicked",
        "next start",
        " failed",
    ] {
        assert!(!log.contains(words), "{words}");
    }
}

/// At each level of fullness: refusals say so, reads and forgetting work, and afterwards uploads.
#[test]
fn a_full_disk_refuses_what_is_new_and_nothing_else() {
    if !entered("a_full_disk_refuses_what_is_new_and_nothing_else") {
        return;
    }
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let (mut daemon, disk, client) = start(Setup::default()).await;
        for (round, left) in [(1_u64, 0), (2, 100 << 10), (3, 300 << 10)] {
            let reserve = client.get_status().await.unwrap().disk.unwrap().reserve;
            assert!(reserve >= 2 << 20, "{reserve} bytes are kept back");
            disk.fill(left);
            println!("{} bytes are free", disk.free());
            let tasks = [(BASE, "a"), (BASE, "b"), (PACKED, "a"), (PACKED, "b")];
            assert_readable(&daemon, &client, &tasks).await;
            if left == 0 {
                for base in [BASE, PACKED] {
                    let refusal = push_to(&client, base, "new", 5).await.unwrap_err();
                    assert_full(&refusal);
                }
            }
            assert_forgotten(&client, BASE, "b").await;
            assert_forgotten(&client, PACKED, "b").await;
            let tasks = [(BASE, "a"), (PACKED, "a")];
            client.resolve_task(BASE, "a").await.unwrap();
            assert!(client.list_adapters(None).await.unwrap().len() >= tasks.len());

            disk.clear();
            let cleared = Instant::now();
            for (base, seed) in [(BASE, 20), (PACKED, 30)] {
                let job = push_to(&client, base, "b", seed + round).await.unwrap();
                let job = ended(&client, job).await;
                assert_eq!(job.state(), v1::JobState::Done, "{job:?}");
            }
            println!(
                "taken in again {:?} after there was room",
                cleared.elapsed()
            );
            for task in ["a", "b"] {
                client.resolve_task(PACKED, task).await.unwrap();
            }
            eventually("the reserve is whole again", async || {
                let status = client.get_status().await.unwrap();
                status.disk.unwrap().reserve >= reserve / 2
            })
            .await;
        }
        assert_undisturbed(&mut daemon);
        daemon.stop().await;
    });
}

/// What was acknowledged before the disk was full waits, says why, can be taken back, and ends done.
#[test]
fn what_was_acknowledged_waits_for_room() {
    if !entered("what_was_acknowledged_waits_for_room") {
        return;
    }
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let (mut daemon, disk, _) = start(Setup::default()).await;
        daemon.stop().await;
        // Every new tensor file takes a while, so that jobs are waiting when the disk fills.
        daemon.env("KMERGE_FAILPOINT", "tensor.data_durable=sleep@1:700");
        daemon.launch();
        daemon.ready().await;
        for left in [0, 100 << 10, 1 << 20] {
            let client = daemon.client().await;
            let mut jobs = Vec::new();
            for seed in 0..4 {
                for base in [BASE, PACKED] {
                    let task = format!("t-{left}-{seed}");
                    let job = push_to(&client, base, &task, left + seed + 50)
                        .await
                        .unwrap();
                    jobs.push((base, task, job));
                }
            }
            disk.fill(left);
            let waiting = async |job| {
                let job = client.get_job(job).await.unwrap();
                job.state() == v1::JobState::Queued && job.stage() == v1::JobStage::DiskSpace
            };
            eventually("somebody waits for the disk", async || {
                let status = client.get_status().await.unwrap();
                status.state.contains("for disk space")
            })
            .await;
            let mut waits = 0;
            for (_, _, job) in &jobs {
                waits += u32::from(waiting(*job).await);
            }
            assert!(waits > 0, "no job says that it waits for the disk");
            // The last in line is taken back, and what is in front of it is passed.
            let (_, _, last) = jobs.pop().unwrap();
            let taken_back = client.cancel_job(last).await.unwrap();
            assert_eq!(taken_back.state(), v1::JobState::Cancelled);
            assert_forgotten(&client, PACKED, "b").await;

            disk.clear();
            let cleared = Instant::now();
            for (base, task, job) in &jobs {
                let job = ended(&client, *job).await;
                assert_eq!(job.state(), v1::JobState::Done, "{base}/{task}: {job:?}");
                client.resolve_task(base, task).await.unwrap();
            }
            println!("all were done {:?} after there was room", cleared.elapsed());
            let status = client.get_status().await.unwrap();
            assert_eq!(status.state, "ready");
            let job = push_to(&client, PACKED, "b", left + 99).await.unwrap();
            assert_eq!(ended(&client, job).await.state(), v1::JobState::Done);
        }
        assert_undisturbed(&mut daemon);
        daemon.stop().await;
    });
}

/// A start on a disk without a free byte serves, and forgets.
#[test]
fn it_starts_on_a_full_disk() {
    if !entered("it_starts_on_a_full_disk") {
        return;
    }
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let (mut daemon, disk, client) = start(Setup::default()).await;
        drop(client);
        for is_killed in [false, true] {
            eventually("the reserve is whole", async || {
                let reserve = daemon.state().join("reserve");
                std::fs::metadata(reserve).is_ok_and(|file| file.len() >= 2 << 20)
            })
            .await;
            disk.fill(0);
            if is_killed {
                daemon.kill();
            } else {
                daemon.stop().await;
            }
            disk.fill(0);
            daemon.launch();
            daemon.ready().await;
            let client = daemon.client().await;
            client.resolve_task(BASE, "a").await.unwrap();
            assert_forgotten(&client, PACKED, "b").await;
            disk.clear();
            tokio::time::sleep(Duration::from_millis(10)).await;
            let job = push_to(&client, PACKED, "b", 7).await.unwrap();
            assert_eq!(ended(&client, job).await.state(), v1::JobState::Done);
            assert_undisturbed(&mut daemon);
        }
        daemon.stop().await;
    });
}
