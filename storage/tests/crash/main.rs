//! A process that works on a state directory is ended, or meets a failing disk, at every point
//! that has a name; another one then finds what was acknowledged, whole, and nothing half.
//!
//! The child is this very test binary, started again for the one test that works. It writes what
//! it is about to do and what was acknowledged into a journal outside the state directory. The
//! letters of the checks are those of the invariants in DESIGN.md.

#![expect(clippy::unwrap_used, reason = "a test that fails may panic")]

mod child;
#[path = "../common/mod.rs"]
mod common;
mod oracle;

use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};

use kmerge_storage::failpoint;

/// SIGKILL.
const KILLED: i32 = 9;

/// Lets a child work on a fresh directory under `plan`, checks what it leaves, and says how it
/// ended.
fn run(plan: &str) -> ExitStatus {
    run_and(plan, oracle::check)
}

/// As [`run`], with another check.
fn run_and(plan: &str, check: fn(&Path, &Path, &str)) -> ExitStatus {
    let root = common::scratch();
    let state = root.path().join("state");
    let journal = root.path().join("journal");
    let status = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child::works_until_it_is_ended", "--ignored"])
        .env(child::STATE, &state)
        .env(child::JOURNAL, &journal)
        .env("KMERGE_FAILPOINT", plan)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .unwrap();
    check(&state, &journal, plan);
    status
}

/// Ends children at the first, the second … hit of a point, until one lives to its end.
fn kill_at_each_hit(name: &str, check: fn(&Path, &Path, &str)) -> u32 {
    let mut kills = 0;
    for at in 1.. {
        let status = run_and(&format!("{name}=kill@{at}"), check);
        if status.signal() != Some(KILLED) {
            assert!(status.success(), "{name}@{at}: {status}");
            break;
        }
        kills += 1;
    }
    assert!(kills > 0, "{name} is never hit");
    kills
}

#[test]
fn nothing_is_lost_when_the_process_is_killed_at_any_point() {
    let kills: u32 = failpoint::NAMES
        .iter()
        .map(|name| kill_at_each_hit(name, oracle::check))
        .sum();
    assert!(kills >= 300, "{kills}");
}

#[test]
fn what_was_acknowledged_outlives_a_kill_that_takes_the_catalog_along() {
    let points = ["commit.", "enqueue.", "collect."];
    let is_one = |name: &&&str| points.iter().any(|point| name.starts_with(point));
    for name in failpoint::NAMES.iter().filter(is_one) {
        kill_at_each_hit(name, oracle::check_without_catalog);
    }
}

#[test]
fn a_failing_disk_is_reported_and_nothing_acknowledged_is_lost() {
    for name in failpoint::NAMES
        .iter()
        .filter(|name| name.starts_with("durable."))
    {
        let mut reported = 0;
        for at in 1..=60 {
            let status = run(&format!("{name}=error@{at}"));
            assert!(
                status.success() || status.code() == Some(child::DISK_FAILED),
                "{name}@{at}: {status}"
            );
            reported += u32::from(!status.success());
        }
        // A file that cannot be removed is swept by the next start, and stops nothing.
        let may_be_silent = *name == "durable.unlink";
        assert!(
            reported > 0 || may_be_silent,
            "no failure of {name} was reported"
        );
    }
}
