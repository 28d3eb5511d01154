//! What every command says. Times, paths, digests and the last digits of measured numbers are
//! replaced; everything else must be word for word.

use insta::{Settings, assert_snapshot};

use crate::support::command::{Cli, Ran};
use crate::support::{BASE, Daemon, Setup};
use crate::{config, golden, push};

/// Settings that replace what differs from run to run.
fn settings(daemon: &Daemon) -> Settings {
    let mut settings = Settings::new();
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    for (pattern, word) in [
        (daemon.room().to_str().unwrap(), "[ROOM]"),
        (r"/\S*/goldens/", "[GOLDENS]/"),
        (
            r"\b[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\b",
            "[REQUEST]",
        ),
        (r"\b[0-9a-f]{64}\b", "[SHA256]"),
        (r"\b[0-9a-f]{12}\b", "[SHA256-12]"),
        (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", "[TIME]"),
        (r"just now|\d+ (s|min) ago", "[AGO]"),
        // The same arithmetic may differ in its last digits from machine to machine.
        (r"(\d\.\d{3})\d+", "$1.."),
    ] {
        settings.add_filter(pattern, word);
    }
    settings
}

/// All that a command said, and how it ended.
fn told(ran: &Ran) -> String {
    format!(
        "exit {}\n--- stdout\n{}--- stderr\n{}",
        ran.code, ran.stdout, ran.stderr
    )
}

/// Runs a command in both formats and compares each with its snapshot.
fn both(cli: &Cli, name: &str, arguments: &[&str]) {
    for format in ["table", "json"] {
        let ran = cli.run(&[arguments, &["--format", format]].concat());
        assert_snapshot!(format!("{name}-{format}"), told(&ran));
    }
}

#[tokio::test]
async fn every_command_says_what_it_did() {
    let daemon = Setup::default().start().await;
    let cli = Cli::new(&daemon.socket());
    let _bound = settings(&daemon).bind_to_scope();

    both(&cli, "nothing-yet", &["slots"]);
    let add = [
        "base",
        "add",
        BASE,
        "--config",
        &config(),
        "--slots",
        "2",
        "--operator",
        "exact",
    ];
    both(&cli, "base-add", &add);
    both(&cli, "base-list", &["base", "list"]);
    let dry = ["push", &golden("a0"), "--task", "a0", "--dry-run"];
    both(&cli, "push-dry-run", &dry);
    push(&cli, &["a0", "a1"]);
    let wait = ["push", &golden("a2"), "--task", "a2", "--wait"];
    // The second time it is there already, and that is as good.
    both(&cli, "push-wait", &wait);
    both(&cli, "push-again", &["push", &golden("a2"), "--task", "a2"]);
    both(
        &cli,
        "push-other-content",
        &["push", &golden("a3"), "--task", "a2"],
    );
    both(&cli, "base-show", &["base", "show", BASE]);
    both(&cli, "slots", &["slots"]);
    both(&cli, "slot", &["slot", "0"]);
    both(&cli, "tasks", &["tasks"]);
    both(&cli, "jobs", &["jobs"]);
    both(&cli, "jobs-failed", &["jobs", "--state", "failed"]);
    both(&cli, "job", &["job", "3"]);
    both(&cli, "job-watch", &["job", "3", "--watch"]);
    both(&cli, "resolve", &["resolve", "a2"]);
    let out = daemon.room().join("out").display().to_string();
    both(&cli, "pull", &["pull", "a2", "--out", &out, "--force"]);
    both(&cli, "pull-in-the-way", &["pull", "a2", "--out", &out]);
    both(&cli, "cancel-what-is-done", &["cancel", "3"]);
    both(&cli, "slot-free", &["slot", "7"]);
    both(&cli, "job-unknown", &["job", "99"]);
    both(&cli, "resolve-unknown", &["resolve", "nobody"]);
    both(&cli, "base-unknown", &["slots", "--base", "nobody"]);
    both(
        &cli,
        "push-no-adapter",
        &["push", &daemon.room().display().to_string(), "--task", "x"],
    );
    both(&cli, "usage", &["push"]);
    daemon.assert_quiet(&[]);
}

#[tokio::test]
async fn a_daemon_that_is_gone_is_told_apart_from_one_that_refuses() {
    let mut daemon = Setup::default().start().await;
    let cli = Cli::new(&daemon.socket());
    let _bound = settings(&daemon).bind_to_scope();
    daemon.kill();
    both(&cli, "nobody-listens", &["status"]);
    std::fs::remove_file(daemon.socket()).unwrap();
    both(&cli, "no-socket", &["status"]);
    std::fs::write(daemon.socket(), "").unwrap();
    both(&cli, "not-a-socket", &["status"]);
}
