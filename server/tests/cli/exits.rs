//! How commands end: exit codes, colours, and which base model is meant when none is named.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::support::command::{Cli, kmerge, run};
use crate::support::{BASE, Setup};
use crate::{config, furnish, furnished, golden, push};

#[tokio::test]
async fn each_outcome_has_its_code() {
    let (daemon, cli) = furnished().await;
    push(&cli, &["a0"]);
    let nowhere = Cli::new(&daemon.room().join("no.sock"));
    let missing = daemon.room().join("missing").display().to_string();
    for (code, ran) in [
        (0, cli.run(&["slots"])),
        (0, cli.run(&["--help"])),
        (0, cli.run(&["--version"])),
        (1, cli.run(&["cancel", "1"])),
        (1, cli.run(&["push", &golden("a1"), "--task", "a0"])),
        (
            1,
            cli.run(&["base", "add", BASE, "--config", &config(), "--slots", "9"]),
        ),
        (1, nowhere.run(&["doctor"])),
        (2, cli.run(&[])),
        (2, cli.run(&["frobnicate"])),
        (2, cli.run(&["slots", "--format", "yaml"])),
        (2, cli.run(&["push", &golden("a1"), "--task", "Not A Name"])),
        (2, cli.run(&["push", &missing, "--task", "x"])),
        (3, nowhere.run(&["slots"])),
        (3, nowhere.run(&["push", &golden("a1"), "--task", "a1"])),
        (4, cli.run(&["slot", "1"])),
        (4, cli.run(&["job", "99"])),
        (4, cli.run(&["resolve", "nobody"])),
        (4, cli.run(&["base", "show", "nobody"])),
        (4, cli.run(&["slot", "0", "--base", "nobody"])),
    ] {
        assert_eq!(ran.code, code, "{ran:?}");
        // What went wrong is never mixed into results.
        assert!(
            code == 0 || ran.stdout.is_empty() || ran.stdout.contains("fail"),
            "{ran:?}"
        );
        assert_eq!(
            ran.stderr.is_empty(),
            code == 0 || ran.stdout.contains("fail"),
            "{ran:?}"
        );
    }
}

#[tokio::test]
async fn errors_are_json_where_results_are() {
    let (daemon, cli) = furnished().await;
    let nowhere = Cli::new(&daemon.room().join("no.sock"));
    for (cli, arguments, code, reason) in [
        (&cli, ["resolve", "nobody"], "NOT_FOUND", "TASK_UNKNOWN"),
        (&cli, ["cancel", "99"], "NOT_FOUND", "JOB_UNKNOWN"),
        (&nowhere, ["job", "1"], "UNAVAILABLE", "UNREACHABLE"),
    ] {
        let ran = cli.run(&[&arguments[..], &["--json"]].concat());
        assert_eq!(ran.stdout, "", "{ran:?}");
        let error: Value = serde_json::from_str(&ran.stderr).unwrap();
        let found = (
            error["error"]["code"].as_str(),
            error["error"]["reason"].as_str(),
        );
        assert_eq!(found, (Some(code), Some(reason)), "{ran:?}");
        assert!(
            error["error"]["message"]
                .as_str()
                .is_some_and(|text| !text.is_empty()),
            "{ran:?}"
        );
    }
}

#[tokio::test]
async fn a_job_that_fails_ends_the_wait_with_1() {
    // Room for one slot of a0; what a0 and an adapter of other modules make together is larger.
    let (_daemon, cli) = furnish(Setup::default()).await;
    let out = cli.done(&[
        "base",
        "add",
        "small",
        "--config",
        &config(),
        "--slots",
        "1",
        "--operator",
        "kmerge-linear",
        "--max-bytes",
        "30000",
    ]);
    assert!(out.stdout.contains("small"), "{out:?}");
    let room = tempfile::tempdir().unwrap();
    let directory = room.path().join("mlp").display().to_string();
    crate::work::mlp_adapter().write(std::path::Path::new(&directory));
    cli.done(&[
        "push",
        &golden("a0"),
        "--task",
        "a0",
        "--base",
        "small",
        "--wait",
    ]);
    let ran = cli.run(&[
        "push", &directory, "--task", "mlp", "--base", "small", "--wait",
    ]);
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(
        ran.stderr.contains("failed") && ran.stderr.contains("bytes"),
        "{ran:?}"
    );
    let jobs = cli.json(&["jobs", "--base", "small", "--state", "failed"]);
    assert_eq!(jobs["jobs"][0]["error"]["reason"], "OVER_BYTE_BUDGET");
    let id = jobs["jobs"][0]["id"].to_string();
    assert_eq!(cli.run(&["job", &id, "--watch"]).code, 1);
    // To look at it is no failure.
    assert_eq!(cli.run(&["job", &id]).code, 0);
}

#[tokio::test]
async fn colours_only_where_they_are_wanted() {
    let (_daemon, cli) = furnished().await;
    push(&cli, &["a0"]);
    let colours = |text: &str| text.contains('\u{1b}');
    assert!(
        !colours(&cli.done(&["slots"]).stdout),
        "stdout is no terminal"
    );
    assert!(colours(&cli.done(&["slots", "--color", "always"]).stdout));
    assert!(!colours(&cli.done(&["slots", "--color", "never"]).stdout));
    for (value, coloured) in [("1", false), ("", true)] {
        // As on a terminal; NO_COLOR counts only if it is not empty.
        let ran = run(cli
            .command(&["slots"])
            .env("CLICOLOR_FORCE", "1")
            .env("NO_COLOR", value));
        assert_eq!(
            colours(&ran.stdout),
            coloured,
            "NO_COLOR={value:?}: {ran:?}"
        );
    }
    assert!(!colours(
        &cli.done(&["slots", "--json", "--color", "always"]).stdout
    ));
}

#[tokio::test]
async fn the_only_base_model_is_meant() {
    let daemon = Setup::default().start().await;
    let cli = Cli::new(&daemon.socket());
    let none = cli.run(&["push", &golden("a0"), "--task", "a0"]);
    assert_eq!(none.code, 4, "{none:?}");
    assert!(none.stderr.contains("kmerge base add"), "{none:?}");
    cli.done(&["base", "add", BASE, "--config", &config()]);
    push(&cli, &["a0"]);
    assert_eq!(cli.json(&["slot", "0"])["base_model"], BASE);
    cli.done(&["base", "add", "second", "--config", &config()]);
    for arguments in [vec!["slot", "0"], vec!["resolve", "a0"]] {
        let several = cli.run(&arguments);
        assert_eq!(several.code, 2, "{several:?}");
        assert!(
            several.stderr.contains(&format!("second, {BASE}")),
            "{several:?}"
        );
        cli.done(&[&arguments[..], &["--base", BASE]].concat());
    }
}

#[tokio::test]
async fn the_socket_may_come_from_the_environment() {
    let (daemon, _cli) = furnished().await;
    let ran = run(kmerge().env("KMERGE_SOCKET", daemon.socket()).arg("status"));
    assert_eq!(ran.code, 0, "{ran:?}");
}

#[tokio::test]
async fn the_doctor_tells_healthy_from_unhealthy() {
    let (mut daemon, cli) = furnished().await;
    let states = |cli: &Cli, code| -> BTreeSet<(String, String)> {
        let ran = cli.run(&["doctor", "--json"]);
        assert_eq!(ran.code, code, "{ran:?}");
        let document = ran.json();
        let checks = document["checks"].as_array().unwrap().iter();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        checks
            .map(|check| (text(&check["name"]), text(&check["state"])))
            .collect()
    };
    let healthy = states(&cli, 0);
    for name in ["socket", "daemon", "health"] {
        assert!(
            healthy.contains(&(name.into(), "ok".into())),
            "{name}: {healthy:?}"
        );
    }
    assert!(cli.done(&["doctor"]).stdout.contains("ok"));
    let status = cli.json(&["status"]);
    assert_eq!(status["state"], "ready");
    assert_eq!(status["process_id"], daemon.pid());
    assert_eq!(status["base_models"], 1);
    assert!(cli.done(&["status"]).stdout.contains("ready"));
    daemon.kill();
    let killed = states(&cli, 1);
    assert!(
        killed.iter().any(|(_, state)| state == "fail"),
        "{killed:?}"
    );
    let ran = cli.run(&["doctor"]);
    assert!(ran.stdout.contains("->"), "it says what to do: {ran:?}");
}
