//! State that a released version wrote opens in this one, with everything that was in it; and so does
//! a backup that it made. A state of a later format is refused untouched.
//!
//! `storage/tests/fixtures/<version>/` holds for each version a state as its kmerged left it when it was
//! killed (`state.tar.gz`, with the database's own files), a backup (`backup.tar`), and what is in both
//! (`expected.json`). When releasing, make one for the version:
//!
//! ```sh
//! cargo test -p kmerge-server --test fixtures -- --ignored make_a_fixture
//! ```

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]
#![expect(
    clippy::disallowed_methods,
    reason = "fixtures are read and written from outside"
)]

mod support;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use kmerge_client::{Client, Upload, v1};
use serde_json::{Value, json};
use sha2::Digest as _;
use support::adapters::small;
use support::calls::{ended, policy, register};
use support::command::Cli;
use support::{BASE, Daemon, Setup, files_below, workspace};

/// As long as can be, so that superseded generations are there when a fixture is made.
const GRACE: &str = "[serving]\ngrace_seconds = 604800";

fn fixtures() -> PathBuf {
    workspace().join("storage/tests/fixtures")
}

fn tar(arguments: &[&str], directory: &Path) {
    let status = Command::new("tar")
        .args(arguments)
        .current_dir(directory)
        .status();
    assert!(status.unwrap().success(), "tar {arguments:?}");
}

async fn send(client: &Client, base_model: &str, task: &str, seed: u64) -> v1::Job {
    let upload = Upload {
        request_id: Some(format!("request-{base_model}-{task}")),
        ..Upload::new(task, base_model)
    };
    let adapter = small(2, seed).adapter();
    let answer = client.upload_adapter(&adapter, &upload, |_| ()).await;
    answer.unwrap().job.unwrap()
}

/// All that can be asked of a state that must stay the same.
async fn picture(client: &Client) -> Value {
    let mut resolved = BTreeMap::new();
    for adapter in client.list_adapters(None).await.unwrap() {
        let found = client
            .resolve_task(&adapter.base_model, &adapter.task)
            .await;
        let name = format!("{}/{}", adapter.base_model, adapter.task);
        let served = found.unwrap().sha256;
        resolved.insert(name, json!({"served": served, "upload": adapter.sha256}));
    }
    let slots = client.list_slots(None).await.unwrap();
    let slots = slots.iter().map(|slot| {
        let members: Vec<_> = slot
            .members
            .iter()
            .map(|it| (&it.task, it.weight))
            .collect();
        json!({
            "slot": format!("{}/{}", slot.base_model, slot.slot),
            "generation": slot.generation,
            "sha256": slot.sha256,
            "members": members,
            "pinned": slot.pinned,
            "rank": slot.rank,
        })
    });
    let jobs = client.list_jobs(None, None).await.unwrap();
    let jobs = jobs.iter().filter(|job| job.end_time.is_some()).map(|job| {
        json!({
            "id": job.id,
            "task": job.task,
            "request_id": job.request_id,
            "state": job.state().as_str_name(),
            "reason": job.error.as_ref().map(|error| &error.reason),
        })
    });
    let base_models = client.list_base_models().await.unwrap();
    // Field by field: later versions have more fields.
    let base_models = base_models.iter().map(|base| {
        let policy = base.policy.unwrap();
        json!({
            "name": base.name,
            "config_sha256": base.config_sha256,
            "served_as": base.served_as,
            "slots": policy.slots,
            "slot_bytes": policy.slot_bytes,
            "operator": policy.operator().as_str_name(),
            "assignment": policy.assignment().as_str_name(),
        })
    });
    json!({
        "base_models": base_models.collect::<Vec<_>>(),
        "tasks": resolved,
        "slots": slots.collect::<Vec<_>>(),
        "ended_jobs": jobs.collect::<Vec<_>>(),
    })
}

#[tokio::test]
#[ignore = "run by hand, once for each release"]
async fn make_a_fixture() {
    let mut daemon = Setup::default().config(GRACE).start().await;
    let client = daemon.client().await;
    register(&client, BASE, policy(2)).await;
    let packed = v1::MergePolicy {
        operator: v1::Operator::Progressive.into(),
        assignment: v1::AssignmentRule::Roomiest.into(),
        slot_bytes: Some(12_000),
        ..policy(1)
    };
    register(&client, "packed", packed).await;
    register(&client, "queue", policy(1)).await;
    for (seed, task) in (1..).zip(["a", "b", "c", "d"]) {
        for base_model in [BASE, "packed"] {
            let job = send(&client, base_model, task, seed).await;
            assert_eq!(ended(&client, job.id).await.state(), v1::JobState::Done);
        }
    }
    let cli = Cli::new(&daemon.socket());
    cli.done(&["forget", "b", "--base", "packed"]);
    cli.done(&["pin", "1", "--base", BASE]);
    daemon.env("KMERGE_FAILPOINT", "tensor.data_durable=sleep@1:600000");
    daemon.restart().await;
    let client = daemon.client().await;
    let waiting = send(&client, "queue", "waiting", 9).await;
    let cancelled = send(&client, "queue", "cancelled", 10).await;
    client.cancel_job(cancelled.id).await.unwrap();
    let mut expected = picture(&client).await;
    expected["waiting_job"] = waiting.id.into();
    expected["generations"] = files_below(&daemon.state().join("manifests")).len().into();
    let into = fixtures().join(env!("CARGO_PKG_VERSION"));
    std::fs::create_dir_all(&into).unwrap();
    let cli = Cli::new(&daemon.socket());
    let backup = into.join("backup.tar");
    cli.done(&["backup", backup.to_str().unwrap(), "--force"]);
    daemon.kill();
    let state = into.join("state.tar.gz");
    let skipped = ["--exclude=state/LOCK", "--exclude=state/derived"];
    let skipped = [
        skipped[0],
        skipped[1],
        "-czf",
        state.to_str().unwrap(),
        "state",
    ];
    tar(&skipped, daemon.room());
    let text = format!("{expected:#}\n");
    std::fs::write(into.join("expected.json"), text).unwrap();
}

/// What must be found, and what must go on.
async fn check(daemon: &mut Daemon, expected: &Value) {
    daemon.launch();
    daemon.ready().await;
    let client = daemon.client().await;
    let waiting = expected["waiting_job"].as_u64().unwrap();
    let job = ended(&client, waiting).await;
    assert_eq!(job.state(), v1::JobState::Done, "{job:?}");
    let mut found = picture(&client).await;
    let mut expected = expected.clone();
    for own in ["waiting_job", "generations"] {
        expected.as_object_mut().unwrap().remove(own);
    }
    // What waited has come.
    let tasks = found["tasks"].as_object_mut().unwrap();
    assert!(tasks.remove("queue/waiting").is_some());
    let slots = found["slots"].as_array_mut().unwrap();
    slots.retain(|slot| !slot["slot"].as_str().unwrap().starts_with("queue/"));
    let jobs = found["ended_jobs"].as_array_mut().unwrap();
    jobs.retain(|job| job["id"].as_u64() != Some(waiting));
    assert_eq!(found, expected);
    // The same request is the same job, and new ones go on above.
    let again = send(&client, "queue", "waiting", 9).await;
    assert_eq!(again.id, waiting);
    let new = send(&client, BASE, "new", 11).await;
    assert!(new.id > waiting);
    assert_eq!(ended(&client, new.id).await.state(), v1::JobState::Done);
    assert!(client.scrub(0, |_| {}).await.unwrap().damaged.is_empty());
    daemon.stop().await;
}

fn versions() -> Vec<PathBuf> {
    let entries = std::fs::read_dir(fixtures()).unwrap();
    let mut found: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    found.retain(|path| path.is_dir());
    found.sort();
    assert!(!found.is_empty());
    found
}

fn expected(version: &Path) -> Value {
    let text = std::fs::read(version.join("expected.json")).unwrap();
    serde_json::from_slice(&text).unwrap()
}

#[tokio::test]
async fn a_state_of_each_version_opens_with_and_without_its_catalog() {
    for version in versions() {
        let expected = expected(&version);
        let state = version.join("state.tar.gz");
        let mut daemon = Setup::default().config(GRACE).prepare();
        tar(&["-xzf", state.to_str().unwrap()], daemon.room());
        // A daemon ends the grace of what was superseded long ago, so storage is asked for it.
        let now = kmerge_storage::UnixMillis(0);
        let options = kmerge_storage::Options::default();
        let opened = kmerge_storage::open(&daemon.state(), &options, now).unwrap();
        assert_eq!(opened.report.quarantined, None);
        assert!(!opened.report.catalog_rebuilt);
        let kept = opened.committer.catalog().generations().count();
        assert_eq!(Some(kept as u64), expected["generations"].as_u64());
        drop(opened);
        let saved = daemon.room().join("saved");
        let copied = Command::new("cp")
            .arg("-a")
            .arg(daemon.state())
            .arg(&saved)
            .status();
        assert!(copied.unwrap().success());
        check(&mut daemon, &expected).await;
        std::fs::remove_dir_all(daemon.state()).unwrap();
        std::fs::rename(&saved, daemon.state()).unwrap();
        std::fs::remove_dir_all(daemon.state().join("catalog")).unwrap();
        let mut without = expected.clone();
        // Jobs that did not end well, or changed settings alone, are told by the catalog alone.
        let jobs = without["ended_jobs"].as_array_mut().unwrap();
        jobs.retain(|job| job["state"] == "JOB_STATE_DONE" && job["task"] != "repack");
        check(&mut daemon, &without).await;
    }
}

#[tokio::test]
async fn a_backup_of_each_version_restores() {
    for version in versions() {
        let mut daemon = Setup::default().config(GRACE).prepare();
        let ran = Command::new(env!("CARGO_BIN_EXE_kmerged"))
            .arg("--restore")
            .arg(version.join("backup.tar"))
            .arg("--state-dir")
            .arg(daemon.state())
            .status();
        assert!(ran.unwrap().success(), "{}", version.display());
        check(&mut daemon, &expected(&version)).await;
    }
}

#[tokio::test]
async fn a_state_of_a_later_format_is_refused_untouched() {
    let version = versions().pop().unwrap();
    let mut daemon = Setup::default().config(GRACE).prepare();
    tar(
        &["-xzf", version.join("state.tar.gz").to_str().unwrap()],
        daemon.room(),
    );
    // Sealed as a later version would: the digest covers kind, schema and body.
    let path = daemon
        .state()
        .join("base-models")
        .join(format!("{BASE}.json"));
    let sealed: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    let (kind, body) = (sealed["kind"].as_str().unwrap(), sealed["body"].to_string());
    let digest = sha2::Sha256::digest(format!("{kind}\n7\n{body}"));
    let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    let later =
        format!("{{\"kind\":\"{kind}\",\"schema\":7,\"sha256\":\"{digest}\",\"body\":{body}}}\n");
    std::fs::write(&path, later).unwrap();
    let files = |daemon: &Daemon| {
        let state = daemon.state();
        let below = files_below(&state).into_iter();
        // The lock is signed by whoever comes, and a cache is emptied by whoever comes.
        let kept = below.filter(|path| path != Path::new("LOCK") && !path.starts_with("derived"));
        kept.map(|path| {
            let content = std::fs::read(state.join(&path)).unwrap_or_default();
            (sha2::Sha256::digest(content).to_vec(), path)
        })
        .collect::<Vec<_>>()
    };
    let before = files(&daemon);
    daemon.launch();
    let status = daemon.wait().await;
    assert_eq!(status.code(), Some(1));
    assert!(daemon.log().contains("later version"), "{}", daemon.log());
    assert_eq!(files(&daemon), before);
}
