//! Configuration as the process takes it: everything wrong at once, before anything is opened.

use std::process::Output;

use crate::run;
use crate::support::calls::{golden, merge, policy, register};
use crate::support::{BASE, Daemon, Setup, workspace};

/// Four things that are wrong, in three sections.
const WRONG: &str = r#"
[uploads]
parallel = 0
max_bytes = "many"

[listen]
socket_mode = "0999"

[merge]
operator = "magic"

[surprise]
key = 1
"#;

const COMPLAINTS: [&str; 5] = [
    "uploads.parallel",
    "uploads.max_bytes",
    "listen.socket_mode",
    "merge.operator",
    "surprise.key",
];

fn assert_refused(output: &Output) {
    let complaint = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!(output.status.code(), Some(64), "{complaint}");
    assert!(complaint.contains("5 problem"), "{complaint}");
    for key in COMPLAINTS {
        assert!(complaint.contains(key), "{key} is missing in: {complaint}");
    }
    assert!(output.stdout.is_empty());
}

#[test]
fn a_bad_configuration_is_refused_before_anything_is_opened() {
    let daemon = Setup::default().config(WRONG).prepare();
    for check in [false, true] {
        let mut command = daemon.command();
        if check {
            command.arg("--check-config");
        }
        assert_refused(&command.output().unwrap());
        assert!(!daemon.state().exists(), "the state directory was made");
        assert!(!daemon.socket().exists(), "the socket was made");
    }
}

#[test]
fn a_file_that_is_missing_or_no_toml_is_refused() {
    let daemon = Setup::default().config("[listen").prepare();
    let output = daemon.command().output().unwrap();
    let complaint = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(64), "{complaint}");
    assert!(complaint.contains("kmerged.toml"), "{complaint}");

    let output = run(&daemon, &["--config", "nowhere.toml"]);
    let complaint = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(64), "{complaint}");
    assert!(complaint.contains("nowhere.toml"), "{complaint}");
    assert!(!daemon.state().exists());
}

#[test]
fn a_good_configuration_can_be_checked_without_starting() {
    let daemon = Setup::default().config("[merge]\nslots = 3").prepare();
    let output = daemon.command().arg("--check-config").output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(output.stdout, b"the configuration is valid\n");
    assert!(!daemon.state().exists());
}

#[test]
fn the_default_configuration_is_the_shipped_file() {
    let daemon = Setup::default().prepare();
    let output = run(&daemon, &["--print-default-config"]);
    assert_eq!(output.status.code(), Some(0));
    let shipped = std::fs::read_to_string(workspace().join("deploy/config.toml")).unwrap();
    let printed = String::from_utf8(output.stdout).unwrap();
    assert_eq!(printed, shipped);

    let file = daemon.room().join("default.toml");
    std::fs::write(&file, printed).unwrap();
    let output = run(
        &daemon,
        &["--config", file.to_str().unwrap(), "--check-config"],
    );
    assert_eq!(output.status.code(), Some(0), "{output:?}");
}

#[tokio::test]
async fn json_logs_are_one_object_a_line() {
    let mut daemon = Setup::default()
        .env("KMERGE_LOG__FORMAT", "json")
        .start()
        .await;
    let client = daemon.client().await;
    register(&client, BASE, policy(1)).await;
    merge(&client, "a", &golden("a0")).await;
    daemon.stop().await;
    let log = daemon.log();
    let lines: Vec<serde_json::Value> = log
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect();
    for line in &lines {
        assert!(line["timestamp"].is_string(), "{line}");
        assert!(
            matches!(line["level"].as_str(), Some("INFO" | "DEBUG")),
            "{line}"
        );
        assert!(line["fields"]["message"].is_string(), "{line}");
    }
    let done = lines
        .iter()
        .find(|line| line["fields"]["message"] == "done")
        .unwrap();
    // One span for each job.
    assert_eq!(done["span"]["name"], "job", "{done}");
    assert_eq!(done["span"]["id"], 1, "{done}");
    assert_eq!(done["span"]["base_model"], BASE, "{done}");
}

#[tokio::test]
async fn the_environment_wins_over_the_file() {
    let daemon = Setup::default()
        .config("[uploads]\nqueue = 5\n[workers]\nthreads = 3")
        .env("KMERGE_UPLOADS__QUEUE", "7")
        .start()
        .await;
    let status = daemon.client().await.get_status().await.unwrap();
    assert_eq!((status.queue_limit, status.worker_threads), (7, 3));
    daemon.assert_quiet(&[]);
}

#[tokio::test]
async fn the_status_says_where_everything_is() {
    let daemon = Daemon::start().await;
    let status = daemon.client().await.get_status().await.unwrap();
    assert_eq!(status.state_directory, daemon.state().to_str().unwrap());
    assert_eq!(status.socket, daemon.socket().to_str().unwrap());
    assert_eq!(status.process_id, daemon.pid());
    assert!(status.accepts_writes);
    assert_eq!(status.state, "ready");
    assert_eq!(status.version, env!("CARGO_PKG_VERSION"));
}
