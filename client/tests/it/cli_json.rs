//! The command line as programs use it: JSON on stdout and nothing else, JSON errors on stderr.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use kmerge_client::v1;
use serde_json::{Value as Json, json};

use crate::adapter_directory;
use crate::cli::{furnished, run};
use crate::fake::{Fake, Script, export, job, slot};

/// The one document of a command that succeeds.
fn document(fake: &Fake, arguments: &[&str]) -> Json {
    let arguments = [&["--format", "json"], arguments].concat();
    let (code, stdout, stderr) = run(&fake.socket(), &arguments);
    assert_eq!((code, stderr.as_str()), (0, ""), "{arguments:?}");
    serde_json::from_str(&stdout).unwrap()
}

#[tokio::test]
async fn a_list_is_an_object_with_one_array() {
    let fake = Fake::start(furnished()).await;
    for (arguments, name, count) in [
        (vec!["slots"], "slots", 2),
        (vec!["jobs"], "jobs", 2),
        (vec!["tasks"], "tasks", 0),
        (vec!["base", "list"], "base_models", 1),
    ] {
        let document = document(&fake, &arguments);
        let object = document.as_object().unwrap();
        assert_eq!(object.keys().collect::<Vec<_>>(), [name]);
        assert_eq!(
            object[name].as_array().unwrap().len(),
            count,
            "{arguments:?}"
        );
    }
}

#[tokio::test]
async fn json_lines_have_an_item_each() {
    let fake = Fake::start(furnished()).await;
    let (code, stdout, _) = run(&fake.socket(), &["slots", "--format", "jsonl"]);
    assert_eq!(code, 0);
    let generations: Vec<Json> = stdout
        .lines()
        .map(|line| serde_json::from_str::<Json>(line).unwrap()["generation"].take())
        .collect();
    assert_eq!(generations, [1, 2]);
}

#[tokio::test]
async fn one_thing_is_the_thing_itself() {
    let fake = Fake::start(furnished()).await;
    assert_eq!(document(&fake, &["slot", "1"])["generation"], 2);
    assert_eq!(
        document(&fake, &["job", "7"])["decision"]["assignment"],
        "merged"
    );
    assert_eq!(
        document(&fake, &["job", "6"])["error"]["reason"],
        "NON_FINITE"
    );
    assert_eq!(
        document(&fake, &["base", "show", "smollm2"])["policy"]["operator"],
        "exact"
    );
    assert_eq!(document(&fake, &["cancel", "3"])["state"], "cancelled");
    assert_eq!(document(&fake, &["status"])["disk"], Json::Null);
    let resolved = json!({
        "task": "slug-de",
        "base_model": "smollm2",
        "slot": 1,
        "generation": 2,
        "path": "/state/exports/smollm2/1/2",
        "sha256": "cd".repeat(32),
        "fidelity": null,
    });
    assert_eq!(document(&fake, &["resolve", "slug-de"]), resolved);
}

#[tokio::test]
async fn pushing_gives_the_job_and_a_dry_run_the_decision() {
    let mut script = furnished();
    let states = [v1::JobState::Queued, v1::JobState::Done];
    let stream = states.map(|state| {
        Ok(v1::WatchJobResponse {
            job: Some(job(7, state)),
        })
    });
    script.job_streams = [stream.into()].into();
    let fake = Fake::start(script).await;
    let adapter = adapter_directory(1000);
    let push = [
        "push",
        adapter.path().to_str().unwrap(),
        "--task",
        "slug-de",
    ];
    assert_eq!(document(&fake, &push)["state"], "queued");
    let waited = document(&fake, &[push.as_slice(), &["--wait"]].concat());
    assert_eq!(waited["state"], "done");
    assert_eq!(
        waited["decision"]["similarities"][1],
        json!({ "slot": 1, "similarity": 0.0784 })
    );
    let rehearsed = document(&fake, &[push.as_slice(), &["--dry-run"]].concat());
    let keys: Vec<_> = rehearsed.as_object().unwrap().keys().cloned().collect();
    assert_eq!(keys, ["task", "base_model", "decision", "warnings"]);
    assert_eq!(rehearsed["decision"]["slot"], 1);
    assert_eq!(
        rehearsed["warnings"][0],
        "lora_dropout is 0.1 and is ignored"
    );
}

#[tokio::test]
async fn a_pull_says_what_came_and_where_it_is() {
    let fake = Fake::start(Script {
        exports: [export()].into(),
        ..furnished()
    })
    .await;
    let root = tempfile::tempdir().unwrap();
    let out = root.path().canonicalize().unwrap().join("out");
    let pulled = document(&fake, &["pull", "1", "--out", out.to_str().unwrap()]);
    assert_eq!(pulled["format"], "peft");
    assert_eq!(pulled["files"][1]["name"], "adapter_model.safetensors");
    assert_eq!(pulled["out"], out.to_str().unwrap());
}

#[tokio::test]
async fn a_watched_job_is_a_line_for_each_change() {
    let mut script = furnished();
    let states = [
        v1::JobState::Queued,
        v1::JobState::Running,
        v1::JobState::Failed,
    ];
    let stream = states.map(|state| {
        Ok(v1::WatchJobResponse {
            job: Some(job(7, state)),
        })
    });
    script.job_streams = [stream.into()].into();
    let fake = Fake::start(script).await;
    let (code, stdout, stderr) = run(&fake.socket(), &["job", "7", "--watch", "--json"]);
    let states: Vec<Json> = stdout
        .lines()
        .map(|line| serde_json::from_str::<Json>(line).unwrap()["state"].take())
        .collect();
    assert_eq!(states, ["queued", "running", "failed"]);
    // The job failed, and so did the command that waited for it.
    assert_eq!(code, 1);
    let error: Json = serde_json::from_str(&stderr).unwrap();
    assert_eq!(error["error"]["code"], "INVALID_ARGUMENT");
    assert_eq!(error["error"]["reason"], "NON_FINITE");
}

#[tokio::test]
async fn watched_slots_come_as_they_change() {
    // The script's second stream never ends: the command is still there, and is ended here.
    let changes = [(0, 4), (1, 5)]
        .map(|(number, revision)| {
            Ok(v1::WatchSlotsResponse {
                slot: Some(slot(number, revision)),
                revision,
                emptied: None,
            })
        })
        .into();
    let fake = Fake::start(Script {
        slot_streams: [changes].into(),
        ..furnished()
    })
    .await;
    let mut child = Command::new(assert_cmd::cargo::cargo_bin("kmerge"))
        .arg("--socket")
        .arg(fake.socket())
        .args(["watch", "--after", "3", "--format", "json"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines().take(2);
    let revisions: Vec<Json> = lines
        .map(|line| serde_json::from_str::<Json>(&line.unwrap()).unwrap()["revision"].take())
        .collect();
    assert_eq!(revisions, [4, 5]);
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(fake.script().watched_after[0], 3);
}

#[test]
fn errors_are_json_too() {
    let nowhere = Path::new("/no/such.sock");
    let cases = [
        (
            vec!["--format", "json", "status"],
            3,
            "UNAVAILABLE",
            "UNREACHABLE",
        ),
        (vec!["--json", "slot", "x"], 2, "INVALID_ARGUMENT", "USAGE"),
        (
            vec![
                "push",
                "/no/such/dir",
                "--task",
                "a",
                "--base",
                "b",
                "--json",
            ],
            3,
            "UNAVAILABLE",
            "UNREACHABLE",
        ),
    ];
    for (arguments, expected, status, reason) in cases {
        let (code, stdout, stderr) = run(nowhere, &arguments);
        assert_eq!((code, stdout.as_str()), (expected, ""), "{arguments:?}");
        let error: Json = serde_json::from_str(&stderr).unwrap();
        let keys: Vec<_> = error["error"]
            .as_object()
            .unwrap()
            .keys()
            .cloned()
            .collect();
        assert_eq!(keys, ["code", "reason", "message"]);
        assert_eq!(error["error"]["code"], status);
        assert_eq!(error["error"]["reason"], reason);
    }
}

#[tokio::test]
async fn doctor_lists_its_checks() {
    let fake = Fake::start(furnished()).await;
    let (code, stdout, _) = run(&fake.socket(), &["doctor", "--json"]);
    // The scripted status is empty, so the daemon seems to refuse writes.
    assert_eq!(code, 1);
    let document: Json = serde_json::from_str(&stdout).unwrap();
    let checks = document["checks"].as_array().unwrap();
    let state = |name| {
        let check = checks.iter().find(|check| check["name"] == name).unwrap();
        check["state"].as_str().unwrap()
    };
    assert_eq!(
        ["socket", "daemon", "health", "writes"].map(state),
        ["ok", "ok", "ok", "fail"]
    );
}
