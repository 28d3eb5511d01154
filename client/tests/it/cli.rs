//! The command line as people use it: text, exit codes, files.

use std::path::Path;
use std::process::Output;

use assert_cmd::Command;
use kmerge_client::v1;

use crate::adapter_directory;
use crate::fake::{Fake, Messages, OnUpload, Script, base_model, export, job, slot};

/// A command with a clean environment.
pub(crate) fn kmerge(socket: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::cargo_bin("kmerge").unwrap();
    command
        .env_remove("KMERGE_SOCKET")
        .env_remove("NO_COLOR")
        .arg("--socket")
        .arg(socket);
    command.args(arguments);
    command
}

/// Runs a command and gives its exit code, stdout and stderr.
pub(crate) fn run(socket: &Path, arguments: &[&str]) -> (i32, String, String) {
    let Output {
        status,
        stdout,
        stderr,
    } = kmerge(socket, arguments).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code().unwrap(), text(stdout), text(stderr))
}

/// A daemon with one base model, two slots and a few jobs.
pub(crate) fn furnished() -> Script {
    Script {
        base_models: vec![base_model("smollm2")],
        slots: vec![slot(0, 1), slot(1, 2)],
        jobs: vec![job(7, v1::JobState::Done), job(6, v1::JobState::Failed)],
        ..Script::default()
    }
}

fn ending(state: v1::JobState) -> Messages<v1::WatchJobResponse> {
    [v1::JobState::Running, state]
        .map(|state| {
            Ok(v1::WatchJobResponse {
                job: Some(job(7, state)),
            })
        })
        .into()
}

#[test]
fn nobody_there_is_3() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("no.sock");
    for arguments in [
        vec!["status"],
        vec!["slots"],
        vec!["job", "7"],
        vec!["resolve", "a"],
    ] {
        let (code, stdout, stderr) = run(&socket, &arguments);
        assert_eq!((code, stdout.as_str()), (3, ""), "{arguments:?}");
        let at = socket.display();
        let expected = format!(
            "error: cannot reach kmerged at {at}: there is no such socket\n\
             hint: start the daemon (kmerged), or name its socket with --socket or KMERGE_SOCKET\n"
        );
        assert_eq!(stderr, expected);
    }
}

#[test]
fn the_socket_can_come_from_the_environment() {
    let mut command = Command::cargo_bin("kmerge").unwrap();
    let output = command
        .env("KMERGE_SOCKET", "/no/such.sock")
        .arg("status")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(3));
    assert!(String::from_utf8_lossy(&output.stderr).contains("/no/such.sock"));
}

#[test]
fn wrong_usage_is_2_and_help_is_0() {
    let nowhere = Path::new("/no/such.sock");
    for arguments in [
        vec![],
        vec!["frobnicate"],
        vec!["slot", "x"],
        vec!["push", "d"],
    ] {
        let (code, stdout, stderr) = run(nowhere, &arguments);
        assert_eq!((code, stdout.as_str()), (2, ""), "{arguments:?}: {stderr}");
    }
    let (code, stdout, stderr) = run(nowhere, &["--help"]);
    assert_eq!((code, stderr.as_str()), (0, ""));
    assert!(stdout.contains("EXIT CODES:"), "{stdout}");
    assert_eq!(run(nowhere, &["--version"]).0, 0);
}

#[tokio::test]
async fn what_is_not_there_is_4() {
    let fake = Fake::start(furnished()).await;
    for arguments in [
        ["slot", "9"],
        ["job", "9"],
        ["resolve", "nobody"],
        ["pull", "nobody"],
    ] {
        let mut arguments = arguments.to_vec();
        if arguments[0] == "pull" {
            arguments.extend(["--out", "/tmp/never-made"]);
        }
        let (code, stdout, stderr) = run(&fake.socket(), &arguments);
        assert_eq!((code, stdout.as_str()), (4, ""), "{arguments:?}: {stderr}");
        assert!(stderr.starts_with("error: "), "{stderr}");
    }
}

#[tokio::test]
async fn a_refusal_is_1() {
    let fake = Fake::start(furnished()).await;
    let (code, _, stderr) = run(&fake.socket(), &["cancel", "1"]);
    assert_eq!(
        (code, stderr.as_str()),
        (1, "error: job 1 runs and cannot be cancelled\n")
    );
}

#[tokio::test]
async fn without_a_base_model_it_says_how_to_get_one() {
    let fake = Fake::start(Script::default()).await;
    let (code, _, stderr) = run(&fake.socket(), &["slot", "0"]);
    assert_eq!(code, 4);
    assert_eq!(
        stderr,
        "error: no base model is registered\nhint: kmerge base add NAME --config config.json\n"
    );
}

#[tokio::test]
async fn with_several_base_models_one_must_be_named() {
    let mut script = furnished();
    script.base_models.push(base_model("llama"));
    let fake = Fake::start(script).await;
    let (code, _, stderr) = run(&fake.socket(), &["slot", "0"]);
    assert_eq!(code, 2, "{stderr}");
    assert!(
        stderr.contains("hint: say --base and one of: smollm2, llama"),
        "{stderr}"
    );
    assert_eq!(
        run(&fake.socket(), &["slot", "0", "--base", "smollm2"]).0,
        0
    );
}

#[tokio::test]
async fn push_says_what_to_type_next() {
    let fake = Fake::start(furnished()).await;
    let adapter = adapter_directory(1000);
    let path = adapter.path().to_str().unwrap();
    let (code, stdout, stderr) = run(&fake.socket(), &["push", path, "--task", "slug-de"]);
    assert_eq!(
        (code, stdout.as_str()),
        (0, "job 7: slug-de of smollm2, queued\n")
    );
    assert_eq!(
        stderr,
        "warning: lora_dropout is 0.1 and is ignored\nnext: kmerge job 7 --watch\n"
    );
    let quiet = run(
        &fake.socket(),
        &["--quiet", "push", path, "--task", "slug-de"],
    );
    assert_eq!(quiet, (0, stdout, String::new()));
}

#[tokio::test]
async fn a_push_that_was_made_before_says_so() {
    let mut script = furnished();
    script.on_upload = [OnUpload::KnownAlready].into();
    let fake = Fake::start(script).await;
    let adapter = adapter_directory(1000);
    let path = adapter.path().to_str().unwrap();
    let (code, stdout, _) = run(&fake.socket(), &["push", path, "--task", "slug-de"]);
    assert_eq!(code, 0);
    assert_eq!(
        stdout,
        "job 7: slug-de of smollm2, done, from an earlier push of the same\n"
    );
}

#[tokio::test]
async fn push_and_wait_shows_the_decision() {
    let mut script = furnished();
    script.job_streams = [ending(v1::JobState::Done)].into();
    let fake = Fake::start(script).await;
    let adapter = adapter_directory(1000);
    let path = adapter.path().to_str().unwrap();
    let (code, stdout, _) = run(
        &fake.socket(),
        &["push", path, "--task", "slug-de", "--wait"],
    );
    assert_eq!(code, 0);
    insta::assert_snapshot!(stdout);
}

#[tokio::test]
async fn a_job_that_was_waited_for_and_failed_is_1() {
    let mut script = furnished();
    script.job_streams = [
        ending(v1::JobState::Failed),
        ending(v1::JobState::Cancelled),
    ]
    .into();
    let fake = Fake::start(script).await;
    let adapter = adapter_directory(1000);
    let path = adapter.path().to_str().unwrap();
    let (code, _, stderr) = run(
        &fake.socket(),
        &["push", path, "--task", "slug-de", "--wait"],
    );
    assert_eq!(code, 1);
    assert!(
        stderr.contains("error: job 7 (slug-de of smollm2) failed: layer 3"),
        "{stderr}"
    );
    let (code, _, stderr) = run(&fake.socket(), &["job", "7", "--watch"]);
    assert_eq!(code, 1);
    assert_eq!(stderr, "error: job 7 (slug-de of smollm2) was cancelled\n");
}

#[tokio::test]
async fn a_dry_run_commits_nothing_and_says_so() {
    let fake = Fake::start(furnished()).await;
    let adapter = adapter_directory(1000);
    let path = adapter.path().to_str().unwrap();
    let arguments = ["push", path, "--task", "slug-de", "--dry-run"];
    let (code, stdout, stderr) = run(&fake.socket(), &arguments);
    assert_eq!(code, 0);
    assert!(
        stderr.ends_with("nothing was committed: this was a dry run\n"),
        "{stderr}"
    );
    assert!(
        stdout.starts_with("slug-de of smollm2 would be:\nmerged into slot 1"),
        "{stdout}"
    );
    assert!(fake.script().uploads[0].0.validate_only);
}

#[tokio::test]
async fn what_is_no_adapter_is_wrong_usage_and_never_sent() {
    let fake = Fake::start(furnished()).await;
    let empty = tempfile::tempdir().unwrap();
    let path = empty.path().to_str().unwrap();
    let (code, _, stderr) = run(&fake.socket(), &["push", path, "--task", "a"]);
    assert_eq!(code, 2);
    let expected = format!(
        "error: {path} is not an adapter: it has no adapter_config.json\n\
         hint: name the directory that PEFT or mlx-lm wrote, or a GGUF file\n"
    );
    assert_eq!(stderr, expected);
    assert!(fake.script().uploads.is_empty());
}

#[tokio::test]
async fn base_add_sends_only_what_was_said() {
    let fake = Fake::start(Script::default()).await;
    let directory = tempfile::tempdir().unwrap();
    let config = directory.path().join("config.json");
    std::fs::write(&config, "{}").unwrap();
    let config = config.to_str().unwrap();
    let add = ["base", "add", "smollm2", "--config", config];
    assert_eq!(run(&fake.socket(), &add).0, 0);
    let more = [
        "--slots",
        "4",
        "--max-bytes",
        "64MiB",
        "--assignment",
        "kmerge++",
    ];
    let more = [
        more.as_slice(),
        &["--threshold", "0.05", "--operator", "exact"],
    ]
    .concat();
    let more = [more.as_slice(), &["--dtype", "bf16", "--served-as", "Smol"]].concat();
    assert_eq!(run(&fake.socket(), &[add.as_slice(), &more].concat()).0, 0);
    let script = fake.script();
    assert_eq!(script.registered[0].config, b"{}");
    assert_eq!(
        script.registered[0].policy,
        Some(v1::MergePolicy::default())
    );
    assert_eq!(script.registered[1].served_as, "Smol");
    let expected = v1::MergePolicy {
        slots: Some(4),
        max_bytes: Some(64 << 20),
        assignment: v1::AssignmentRule::KmergePlusPlus.into(),
        threshold: Some(0.05),
        operator: v1::Operator::Exact.into(),
        dtype: v1::SlotDtype::Bf16.into(),
        ..v1::MergePolicy::default()
    };
    assert_eq!(script.registered[1].policy, Some(expected));
}

#[tokio::test]
async fn a_config_can_come_from_stdin() {
    let fake = Fake::start(Script::default()).await;
    let mut command = kmerge(&fake.socket(), &["base", "add", "smollm2", "--config", "-"]);
    assert!(
        command
            .write_stdin("{\"a\": 1}")
            .output()
            .unwrap()
            .status
            .success()
    );
    assert_eq!(fake.script().registered[0].config, b"{\"a\": 1}");
}

#[tokio::test]
async fn pull_takes_a_slot_or_a_task() {
    let mut script = furnished();
    script.exports = [export(), export()].into();
    let fake = Fake::start(script).await;
    let root = tempfile::tempdir().unwrap();
    let out = root.path().join("out");
    let out = out.to_str().unwrap();
    let arguments = ["pull", "slug-de", "--as", "peft", "--out", out];
    let (code, stdout, stderr) = run(&fake.socket(), &arguments);
    assert_eq!(code, 0, "{stderr}");
    assert!(
        stdout.starts_with("slot 1 of smollm2, generation 2, in "),
        "{stdout}"
    );
    let again = ["pull", "5", "--out", out, "--generation", "2"];
    let (code, _, stderr) = run(&fake.socket(), &again);
    assert_eq!(code, 2);
    assert!(stderr.contains("it is not empty\nhint: "), "{stderr}");
    let forced = [again.as_slice(), &["--force"]].concat();
    assert_eq!(run(&fake.socket(), &forced).0, 0);
    let script = fake.script();
    let asked: Vec<_> = script
        .fetched
        .iter()
        .map(|f| (f.task.as_str(), f.slot, f.generation))
        .collect();
    assert_eq!(asked, [("slug-de", 0, 0), ("", 5, 2)]);
}

#[tokio::test]
async fn colours_only_when_asked_for() {
    let fake = Fake::start(furnished()).await;
    let colored = |arguments: &[&str]| run(&fake.socket(), arguments).1.contains('\u{1b}');
    assert!(!colored(&["slots"]));
    assert!(colored(&["slots", "--color", "always"]));
    assert!(!colored(&["slots", "--color", "always", "--json"]));
    let mut command = kmerge(&fake.socket(), &["slots", "--color", "always"]);
    let output = command.env("NO_COLOR", "1").output().unwrap();
    // What is said on the command line is stronger than the environment.
    assert!(String::from_utf8_lossy(&output.stdout).contains('\u{1b}'));
}

#[tokio::test]
async fn doctor_is_0_where_all_is_well_and_1_where_it_is_not() {
    let mut script = furnished();
    script.status = v1::GetStatusResponse {
        version: env!("CARGO_PKG_VERSION").into(),
        accepts_writes: true,
        state: "ready".into(),
        ..v1::GetStatusResponse::default()
    };
    let mut fake = Fake::start(script).await;
    let (code, stdout, _) = run(&fake.socket(), &["doctor"]);
    assert_eq!(code, 0, "{stdout}");
    fake.script().status.accepts_writes = false;
    let (code, stdout, _) = run(&fake.socket(), &["doctor"]);
    assert_eq!(code, 1);
    assert!(stdout.contains("fail"), "{stdout}");
    fake.stop();
    assert_eq!(run(&fake.socket(), &["doctor"]).0, 1);
}

#[test]
fn completions_and_man_pages_need_no_daemon() {
    let nowhere = Path::new("/no/such.sock");
    for shell in ["bash", "zsh", "fish"] {
        let (code, stdout, _) = run(nowhere, &["completions", shell]);
        assert_eq!(code, 0);
        assert!(stdout.contains("resolve"), "{shell}");
    }
    let directory = tempfile::tempdir().unwrap();
    let out = directory.path().join("man1");
    assert_eq!(run(nowhere, &["man", "--out", out.to_str().unwrap()]).0, 0);
    let page = std::fs::read_to_string(out.join("kmerge.1")).unwrap();
    assert!(page.contains("EXIT CODES"), "{page}");
    for name in ["kmerge-push.1", "kmerge-base-add.1", "kmerge-demo.1"] {
        assert!(out.join(name).exists(), "{name}");
    }
}

#[test]
fn a_demo_without_a_daemon_says_what_to_type() {
    let nowhere = Path::new("/no/such.sock");
    let (code, _, stderr) = run(nowhere, &["demo", "--kmerged", "/no/such/kmerged"]);
    assert_eq!(code, 2);
    assert!(
        stderr.contains("hint: build it with `cargo build --release"),
        "{stderr}"
    );
}
