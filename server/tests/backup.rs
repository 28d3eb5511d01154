//! A backup is taken while everything goes on, and brings everything back: every task with the same
//! bytes, every job with its ids. Kills, failures and full disks leave nothing or all of it.
//!
//! `KMERGE_BACKUP_STEPS=all` kills a restore at every step instead of a part of them.

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]
#![expect(
    clippy::disallowed_methods,
    reason = "backups are the test's own files, and states are looked at from outside"
)]

mod support;

use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use kmerge_client::{Client, Fetch, Upload, retry::Policy, v1};
use support::adapters::small;
use support::calls::{ended, merge, policy, progressive, refusal, register};
use support::command::{Cli, kmerge, run};
use support::{BASE, Daemon, Setup, eventually, files_below};
use tonic::Code;

/// A worker that does not get through its next merge, so that what waits keeps waiting.
const STUCK: (&str, &str) = ("KMERGE_FAILPOINT", "tensor.data_durable=sleep@1:600000");

async fn send(client: &Client, task: &str, seed: u64) -> v1::Job {
    send_to(client, BASE, task, seed).await
}

async fn send_to(client: &Client, base_model: &str, task: &str, seed: u64) -> v1::Job {
    let upload = Upload {
        request_id: Some(format!("request-{task}")),
        policy: Policy::NEVER,
        ..Upload::new(task, base_model)
    };
    let adapter = small(2, seed).adapter();
    let answer = client.upload_adapter(&adapter, &upload, |_| ()).await;
    answer.unwrap().job.unwrap()
}

/// Each task with the SHA-256 that it resolves to and that a fetch gives.
async fn served(client: &Client, room: &Path) -> Vec<(String, String, String)> {
    let mut served = Vec::new();
    for adapter in client.list_adapters(None).await.unwrap() {
        let base_model = &adapter.base_model;
        let resolved = client
            .resolve_task(base_model, &adapter.task)
            .await
            .unwrap();
        let fetch = Fetch {
            base_model: base_model.clone(),
            slot: 0,
            generation: 0,
            format: v1::AdapterFormat::Peft,
            into: room.join("fetched"),
            replace: true,
        };
        let files = client.fetch_task(&fetch, &adapter.task).await.unwrap();
        let tensors = files.header.files.into_iter();
        let mut tensors = tensors.filter(|file| file.name.ends_with(".safetensors"));
        served.push((
            format!("{}/{}", adapter.base_model, adapter.task),
            resolved.sha256,
            tensors.next().unwrap().sha256,
        ));
    }
    served
}

async fn taken(client: &Client) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut sink = |piece: &[u8], _| {
        bytes.extend_from_slice(piece);
        Ok(())
    };
    client.backup(&mut sink).await.unwrap();
    bytes
}

/// A daemon that is down, on the state that `backup` brings.
fn restored(backup: &Path) -> Daemon {
    let daemon = Setup::default().prepare();
    let ran = restore(&daemon.state(), backup, &[]);
    assert!(ran.status.success(), "{ran:?}");
    daemon
}

fn restore(state: &Path, backup: &Path, environment: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kmerged"));
    command.args(["--json", "--restore"]).arg(backup);
    command.arg("--state-dir").arg(state);
    command.envs(environment.iter().copied());
    command.output().unwrap()
}

fn reason(ran: &Output) -> String {
    let said: serde_json::Value = serde_json::from_slice(&ran.stdout).unwrap();
    said["error"]["reason"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_comes_back_on_an_empty_device() {
    let mut daemon = Setup::default()
        .config("[serving]\ngrace_seconds = 3600")
        .start()
        .await;
    let client = daemon.client().await;
    register(&client, BASE, policy(2)).await;
    let packed = progressive(1, 12_000);
    register(&client, "packed", packed).await;
    register(&client, "queue", policy(1)).await;
    for (task, seed) in [("a", 1), ("b", 2), ("c", 3), ("d", 4)] {
        ended(&client, send(&client, task, seed).await.id).await;
        let upload = Upload::new(task, "packed");
        let adapter = small(2, seed).adapter();
        let answer = client.upload_adapter(&adapter, &upload, |_| ()).await;
        let job = ended(&client, answer.unwrap().job.unwrap().id).await;
        assert_eq!(job.state(), v1::JobState::Done, "{job:?}");
    }
    let cli = Cli::new(&daemon.socket());
    cli.done(&["forget", "b", "--base", "packed"]);
    cli.done(&["pin", "0", "--base", BASE]);
    daemon.env(STUCK.0, STUCK.1);
    daemon.restart().await;
    let client = daemon.client().await;
    let waiting = send_to(&client, "queue", "waiting", 5).await;
    let before = served(&client, daemon.room()).await;
    let slots = client.list_slots(None).await.unwrap();
    let jobs = client.list_jobs(None, None).await.unwrap();

    let file = daemon.room().join("kmerge.tar");
    let said = cli.json(&["backup", file.to_str().unwrap()]);
    assert_eq!(
        (said["tasks"].as_u64(), said["unfinished_jobs"].as_u64()),
        (Some(7), Some(1))
    );
    let mode = std::fs::metadata(&file).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    daemon.kill();

    let mut other = restored(&file);
    other.launch();
    other.ready().await;
    other.assert_quiet(&[]);
    let client = other.client().await;
    let again = ended(&client, waiting.id).await;
    assert_eq!(again.state(), v1::JobState::Done, "{again:?}");
    let same = send_to(&client, "queue", "waiting", 5).await;
    assert_eq!(same.id, waiting.id, "the same request is the same job");
    let mut after = served(&client, other.room()).await;
    after.retain(|(task, ..)| task != "queue/waiting");
    assert_eq!(after, before);
    for job in jobs.iter().filter(|job| job.end_time.is_some()) {
        let known = client.get_job(job.id).await.unwrap();
        assert_eq!(&known, job);
    }
    let listed = client.list_slots(None).await.unwrap();
    let older = |slot: &v1::Slot| v1::Slot {
        // Where it lies, and what is in grace, are not part of a backup.
        path: String::new(),
        earlier_generations: Vec::new(),
        ..slot.clone()
    };
    let listed: Vec<_> = listed
        .iter()
        .filter(|slot| slot.base_model != "queue")
        .map(older)
        .collect();
    assert_eq!(listed, slots.iter().map(older).collect::<Vec<_>>());
    assert!(
        client.get_adapter("packed", "b").await.is_err(),
        "it was forgotten"
    );
    let newest = jobs.iter().map(|job| job.id).max().unwrap();
    let job = send(&client, "new", 6).await;
    assert!(job.id > newest);
    assert_eq!(ended(&client, job.id).await.state(), v1::JobState::Done);
    other.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn backups_during_work_are_of_one_moment_each() {
    let mut daemon = Setup::default()
        .config("[serving]\ngrace_seconds = 0")
        .start()
        .await;
    let client = daemon.client().await;
    register(&client, BASE, policy(2)).await;
    let packed = progressive(2, 1 << 20);
    register(&client, "packed", packed).await;
    merge(&client, "first", &small(2, 99).adapter()).await;
    let worker = {
        let client = daemon.client().await;
        tokio::spawn(async move {
            for number in 0..24 {
                let task = format!("task-{number}");
                send(&client, &task, number).await;
                let upload = Upload::new(&task, "packed");
                let adapter = small(2, number).adapter();
                let answer = client.upload_adapter(&adapter, &upload, |_| ()).await;
                ended(&client, answer.unwrap().job.unwrap().id).await;
                if number % 3 == 2 {
                    let request = v1::ForgetTaskRequest {
                        base_model: "packed".to_owned(),
                        task: task.clone(),
                        ..v1::ForgetTaskRequest::default()
                    };
                    client.forget_task(request).await.unwrap();
                }
            }
        })
    };
    // What was done before a backup began is in it.
    let mut backups = Vec::new();
    while !worker.is_finished() {
        let before = client.list_jobs(None, None).await.unwrap();
        let bytes = taken(&client).await;
        backups.push((before, bytes));
    }
    worker.await.unwrap();
    assert!(backups.len() > 2, "only {} backups", backups.len());
    daemon.assert_quiet(&[]);
    let left = daemon.staged();
    assert!(
        left.iter()
            .all(|path| !path.to_string_lossy().contains("backup")),
        "{left:?}"
    );
    daemon.stop().await;
    let step = backups.len().div_ceil(4);
    for (before, bytes) in backups.into_iter().step_by(step) {
        let file = daemon.room().join("one.tar");
        std::fs::write(&file, bytes).unwrap();
        let mut other = restored(&file);
        other.launch();
        other.ready().await;
        other.assert_quiet(&[]);
        let client = other.client().await;
        for job in before {
            let again = ended(&client, job.id).await;
            assert_eq!(again.state(), v1::JobState::Done);
            assert_eq!((again.task, again.request_id), (job.task, job.request_id));
        }
        // What was under way ends too: a forgetting takes its task out.
        for job in client.list_jobs(None, None).await.unwrap() {
            ended(&client, job.id).await;
        }
        for adapter in client.list_adapters(None).await.unwrap() {
            client
                .resolve_task(&adapter.base_model, &adapter.task)
                .await
                .unwrap();
        }
        assert!(client.scrub(0, |_| {}).await.unwrap().damaged.is_empty());
        other.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_at_a_time_and_a_reader_that_takes_nothing_is_dropped() {
    let daemon = Setup::default()
        .config("[listen]\nstream_idle_seconds = 1")
        .start()
        .await;
    let client = daemon.client().await;
    register(&client, BASE, policy(8)).await;
    for seed in 0..8 {
        // Beyond what a connection holds for a reader that does not read.
        let task = format!("wide-{seed}");
        merge(&client, &task, &small(64, seed).adapter()).await;
    }
    let mut admin = v1::admin_service_client::AdminServiceClient::new(daemon.channel().await);
    let unread = admin.backup(v1::BackupRequest {}).await.unwrap();
    let error = client.backup(&mut |_, _| Ok(())).await.unwrap_err();
    let error = refusal(error);
    assert_eq!(
        (error.code, error.reason.as_str()),
        (Code::ResourceExhausted, "BACKUP_RUNNING")
    );
    let held = || files_below(&daemon.state().join("staging")).len();
    assert!(held() > 8);
    eventually("it lets go by itself", async || held() == 0).await;
    drop(unread);
    // One that goes in the middle lets go at once.
    eventually("the next one may begin", async || {
        admin.backup(v1::BackupRequest {}).await.map(drop).is_ok()
    })
    .await;
    eventually("it lets go", async || {
        client.backup(&mut |_, _| Ok(())).await.is_ok()
    })
    .await;
    assert_eq!(held(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_during_a_backup_leaves_nothing() {
    let mut daemon = Setup::default().start().await;
    let client = daemon.client().await;
    register(&client, BASE, policy(2)).await;
    for (task, seed) in [("a", 1), ("b", 2), ("c", 3)] {
        merge(&client, task, &small(2, seed).adapter()).await;
    }
    let before = served(&client, daemon.room()).await;
    for point in ["backup.held=kill@1", "backup.file_written=kill@2"] {
        daemon.stop().await;
        daemon.env("KMERGE_FAILPOINT", point);
        daemon.launch();
        daemon.ready().await;
        let file = daemon.room().join("cut.tar");
        let ran = Cli::new(&daemon.socket()).run(&["backup", file.to_str().unwrap()]);
        assert_ne!(ran.code, 0, "{ran:?}");
        let names = std::fs::read_dir(daemon.room()).unwrap();
        let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        assert!(!names.into_iter().any(|name| name.starts_with("cut")));
        daemon.kill();
        daemon.clear("KMERGE_FAILPOINT");
        daemon.launch();
        daemon.ready().await;
        assert!(daemon.staged().is_empty(), "{:?}", daemon.staged());
        let client = daemon.client().await;
        assert_eq!(served(&client, daemon.room()).await, before);
    }
}

/// A small backup with something of everything, in a file.
async fn small_backup(daemon: &mut Daemon) -> PathBuf {
    let client = daemon.client().await;
    register(&client, BASE, policy(2)).await;
    for (task, seed) in [("a", 1), ("b", 2), ("c", 3)] {
        merge(&client, task, &small(2, seed).adapter()).await;
    }
    daemon.env(STUCK.0, STUCK.1);
    daemon.restart().await;
    send(&daemon.client().await, "waiting", 4).await;
    let file = daemon.room().join("small.tar");
    std::fs::write(&file, taken(&daemon.client().await).await).unwrap();
    daemon.kill();
    file
}

/// The points that a restore passes.
const POINTS: [&str; 12] = [
    "durable.create",
    "durable.write",
    "durable.sync",
    "durable.sync_dir",
    "durable.rename",
    "durable.unlink",
    "counter.reserved",
    "catalog.synced",
    "restore.files_written",
    "restore.catalog_written",
    "restore.opened",
    "restore.renamed",
];

#[tokio::test]
async fn a_restore_that_is_cut_at_any_step_leaves_nothing_or_all() {
    let mut daemon = Setup::default().start().await;
    let file = small_backup(&mut daemon).await;
    let every = std::env::var("KMERGE_BACKUP_STEPS").is_ok_and(|text| text == "all");
    // In memory where there is such a file system: many flushes, and no medium is what is tested.
    let memory = Path::new("/dev/shm");
    let memory = memory.is_dir().then(|| tempfile::tempdir_in(memory));
    let room = memory.unwrap_or_else(tempfile::tempdir).unwrap();
    let state = room.path().join("state");
    let whole = |state: &Path| {
        let ran = restore(state, &file, &[]);
        !ran.status.success() && reason(&ran) == "STATE_NOT_EMPTY"
    };
    let (mut kills, mut errors) = (0, 0);
    for point in POINTS {
        for action in ["kill", "error"] {
            let mut hit = 1;
            loop {
                let plan = format!("{point}={action}@{hit}");
                let ran = restore(&state, &file, &[("KMERGE_FAILPOINT", &plan)]);
                let beside = room.path().join(".state.restoring");
                if ran.status.success() {
                    assert!(whole(&state), "{plan}");
                    std::fs::remove_dir_all(&state).unwrap();
                    break;
                }
                if action == "kill" {
                    assert_eq!(ran.status.signal(), Some(9), "{plan}: {ran:?}");
                    kills += 1;
                } else {
                    assert_eq!(ran.status.code(), Some(1), "{plan}: {ran:?}");
                    errors += 1;
                }
                if state.exists() {
                    // Past the rename: all of it.
                    assert!(whole(&state), "{plan}");
                    assert!(!beside.exists(), "{plan}");
                    std::fs::remove_dir_all(&state).unwrap();
                } else {
                    // What a kill leaves is in nobody's way; an error leaves nothing, unless it was
                    // the removal that failed.
                    assert!(
                        action == "kill" || point == "durable.unlink" || !beside.exists(),
                        "{plan}"
                    );
                    let ran = restore(&state, &file, &[]);
                    assert!(ran.status.success(), "{plan}: {ran:?}");
                    assert!(!beside.exists(), "{plan}");
                    std::fs::remove_dir_all(&state).unwrap();
                }
                hit += if every || hit < 3 { 1 } else { 7 };
            }
        }
    }
    assert!(kills > 15 && errors > 10, "{kills} kills, {errors} errors");
    println!("{kills} kills and {errors} errors");
}

#[tokio::test]
async fn a_full_disk_and_a_damaged_backup_are_said_by_name() {
    let mut daemon = Setup::default().start().await;
    let file = small_backup(&mut daemon).await;
    let room = tempfile::tempdir().unwrap();
    let state = room.path().join("state");
    // The largest file may have a block or two: as full as a disk can be.
    let script = "trap '' XFSZ; ulimit -f 2; exec \"$@\"";
    let mut command = Command::new("sh");
    command.args([
        "-c",
        script,
        "sh",
        env!("CARGO_BIN_EXE_kmerged"),
        "--json",
        "--restore",
    ]);
    let ran = command
        .arg(&file)
        .arg("--state-dir")
        .arg(&state)
        .output()
        .unwrap();
    assert_eq!(
        (ran.status.code(), reason(&ran).as_str()),
        (Some(1), "DISK_FULL"),
        "{ran:?}"
    );
    assert_eq!(std::fs::read_dir(room.path()).unwrap().count(), 0);

    let mut bytes = std::fs::read(&file).unwrap();
    let place = bytes.len() * 2 / 3;
    bytes[place] ^= 1;
    let spoilt = room.path().join("spoilt.tar");
    std::fs::write(&spoilt, &bytes).unwrap();
    let ran = restore(&state, &spoilt, &[]);
    assert_eq!(reason(&ran), "BACKUP_DAMAGED");
    let ran = restore(&state, &room.path().join("missing.tar"), &[]);
    assert_eq!(reason(&ran), "BACKUP_UNREADABLE");
    assert!(!state.exists());
}

#[tokio::test]
async fn the_commands_say_no_and_say_what_is_in_it() {
    let mut daemon = Setup::default().start().await;
    let file = small_backup(&mut daemon).await;
    let file = file.to_str().unwrap();
    let kmerged = env!("CARGO_BIN_EXE_kmerged");
    let mut check = kmerge();
    check.args(["restore", file, "--dry-run", "--kmerged", kmerged, "--json"]);
    let said = run(&mut check).json();
    assert_eq!(
        (said["tasks"].as_u64(), said["state_directory"].as_str()),
        (Some(3), None)
    );
    // A daemon that runs there keeps its state.
    daemon.clear(STUCK.0);
    daemon.launch();
    daemon.ready().await;
    let client = daemon.client().await;
    for job in client.list_jobs(None, None).await.unwrap() {
        ended(&client, job.id).await;
    }
    let state = daemon.state();
    let onto = |state: &Path| {
        let mut command = kmerge();
        command.args(["restore", file, "--kmerged", kmerged, "--state-dir"]);
        run(command.arg(state))
    };
    let ran = onto(&state);
    assert_eq!(ran.code, 1);
    assert!(ran.stderr.contains("is in use by process"), "{ran:?}");
    let cli = Cli::new(&daemon.socket());
    let ran = cli.run(&["backup", file]);
    assert_eq!(ran.code, 2, "{ran:?}");
    assert!(ran.stderr.contains("--force"), "{ran:?}");
    cli.done(&["backup", file, "--force"]);
    let piped = cli.command(&["backup", "-"]).output().unwrap();
    assert!(piped.status.success() && piped.stdout.starts_with(b"kmerge-backup.json\0"));
    let elsewhere = daemon.room().join("other/state");
    let ran = onto(&elsewhere);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.stdout.contains("4 tasks"), "{ran:?}");
    assert_eq!(onto(&elsewhere).code, 1, "not twice");
    daemon.stop().await;
}
