//! A process that works on a state directory is ended, or meets a failing or a full disk, at every
//! file operation that it makes; another one then finds what was acknowledged, whole, and nothing
//! half.
//!
//! The child is this very test binary, started again for the one test that works. It writes what
//! it is about to do and what was acknowledged into a journal outside the state directory. The
//! letters of the checks are those of the invariants in DESIGN.md.
//!
//! `KMERGE_FAULT_CASES` says how many cases of each kind are tried, spread over all there are; `all`
//! tries every one.

#![expect(clippy::unwrap_used, reason = "a test that fails may panic")]
#![expect(
    dead_code,
    reason = "the child and the oracle are shared with the test of power cuts"
)]

mod child;
#[path = "../common/mod.rs"]
mod common;
mod oracle;

use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::OnceLock;

use oracle::Journal;

/// SIGKILL.
const KILLED: i32 = 9;

/// How many cases of a kind are tried without being asked for more.
const CASES: usize = 70;

/// What a child left.
struct Ended {
    status: ExitStatus,
    journal: Journal,
}

/// Lets a child work on `state` under a plan.
fn start(state: &Path, journal: &Path, plan: &str, only_open: bool) -> ExitStatus {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "child::works_until_it_is_ended", "--ignored"])
        .env(child::STATE, state)
        .env(child::JOURNAL, journal)
        .env("KMERGE_FAILPOINT", plan)
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    if only_open {
        command.env(child::ONLY_OPEN, "1");
    }
    command.status().unwrap()
}

/// Lets a child work on a fresh directory under a plan, checks what it leaves, and says how it
/// ended.
fn run_and(plan: &str, check: fn(&Path, &Path, &str)) -> Ended {
    let root = common::scratch();
    let state = root.path().join("state");
    let journal = root.path().join("journal");
    let status = start(&state, &journal, plan, false);
    check(&state, &journal, plan);
    let journal = oracle::read_journal(&journal);
    Ended { status, journal }
}

fn run(plan: &str) -> Ended {
    run_and(plan, oracle::check)
}

/// The names of the file operations that the child makes when nothing goes wrong.
fn operations() -> &'static [String] {
    static OPERATIONS: OnceLock<Vec<String>> = OnceLock::new();
    OPERATIONS.get_or_init(|| {
        let ended = run("*=list@1");
        assert!(ended.status.success());
        ended.journal.operations
    })
}

/// The numbers of the operations that `of_kind` holds for, or as many of them as are to be tried.
fn cases(of_kind: impl Fn(&str) -> bool) -> Vec<usize> {
    let numbered = (1..).zip(operations());
    let all: Vec<usize> = numbered
        .filter(|(_, name)| of_kind(name))
        .map(|(number, _)| number)
        .collect();
    let wanted = match std::env::var("KMERGE_FAULT_CASES").as_deref() {
        Ok("all") => all.len(),
        Ok(number) => number.parse().unwrap(),
        Err(_) => CASES,
    };
    let wanted = wanted.clamp(1, all.len());
    (0..wanted)
        .map(|case| all[case * all.len() / wanted])
        .collect()
}

fn is_sync(name: &str) -> bool {
    name.starts_with("durable.sync")
}

fn takes_room(name: &str) -> bool {
    !is_sync(name) && name != "durable.unlink"
}

#[test]
fn the_child_does_every_kind_of_operation() {
    let kinds = kmerge_storage::failpoint::NAMES
        .iter()
        .filter(|name| name.starts_with("durable.") || **name == "database.apply");
    for kind in kinds {
        assert!(operations().iter().any(|name| name == kind), "{kind}");
    }
    assert!(operations().len() >= 300, "{}", operations().len());
}

#[test]
fn a_process_that_is_killed_at_any_operation_loses_nothing() {
    let cases = cases(|_| true);
    println!("{} of {} operations", cases.len(), operations().len());
    for at in cases {
        let ended = run(&format!("*=kill@{at}"));
        assert_eq!(ended.status.signal(), Some(KILLED), "{at}");
    }
}

#[test]
fn a_kill_that_takes_the_catalog_along_loses_nothing_that_files_tell() {
    for at in cases(|_| true) {
        let ended = run_and(&format!("*=kill@{at}"), oracle::check_without_catalog);
        assert_eq!(ended.status.signal(), Some(KILLED), "{at}");
    }
}

#[test]
fn a_write_that_is_torn_loses_nothing() {
    let cases = cases(|name| name == "durable.write");
    println!("{} writes", cases.len());
    for at in cases {
        let ended = run(&format!("*=torn@{at}"));
        assert_eq!(ended.status.signal(), Some(KILLED), "{at}");
    }
}

#[test]
fn a_start_that_is_killed_as_well_loses_nothing() {
    let mut all_starts = 0;
    for at in cases(|_| true).into_iter().step_by(8) {
        let root = common::scratch();
        let state = root.path().join("state");
        let journal = root.path().join("journal");
        start(&state, &journal, &format!("*=kill@{at}"), false);
        // Each start comes one operation further than the one before.
        let mut starts = 1;
        while start(&state, &journal, &format!("*=kill@{starts}"), true).signal() == Some(KILLED) {
            starts += 1;
        }
        oracle::check(&state, &journal, &format!("kill@{at} and {starts} starts"));
        all_starts += starts;
    }
    println!("{all_starts} starts");
}

#[test]
fn a_flush_that_fails_is_not_tried_again_and_loses_nothing() {
    let cases = cases(is_sync);
    println!("{} flushes", cases.len());
    for at in cases {
        let ended = run(&format!("*=error@{at}"));
        let Ended { status, journal } = ended;
        assert_eq!(status.code(), Some(child::DISK_FAILED), "{at}: {status}");
        // Either the start failed, or the work ended and nothing was written any more.
        assert_eq!(journal.failed, journal.read_only, "{at}");
    }
}

#[test]
fn an_operation_that_fails_is_reported_and_loses_nothing() {
    let cases_with_room = cases(takes_room);
    let mut reported = 0;
    for &at in &cases_with_room {
        let status = run(&format!("*=error@{at}")).status;
        let behaved = status.success() || status.code() == Some(child::DISK_FAILED);
        assert!(behaved, "{at}: {status}");
        reported += usize::from(!status.success());
    }
    // The rest is what writes the database again, which is put off when it fails.
    assert!(reported * 10 >= cases_with_room.len() * 8, "{reported}");
    for at in cases(|name| name == "durable.unlink") {
        // What cannot be removed is swept by the next start, and stops nothing, unless it would
        // come back.
        let status = run(&format!("*=error@{at}")).status;
        let behaved = status.success() || status.code() == Some(child::DISK_FAILED);
        assert!(behaved, "{at}: {status}");
    }
}

#[test]
fn a_full_disk_refuses_politely_and_work_goes_on_when_there_is_room() {
    let cases = cases(takes_room);
    let mut told = 0;
    for (case, &at) in cases.iter().enumerate() {
        let refused = [1, 2, 9][case % 3];
        let Ended { status, journal } = run(&format!("*=full@{at}:{refused}"));
        let lines = journal.lines.join("\n");
        assert!(status.success(), "{at}: {status}\n{lines}");
        assert!(!journal.read_only, "{at}\n{lines}");
        told += usize::from(journal.refused > 0);
    }
    // The rest is what writes the database again, which is put off when it fails.
    assert!(told * 10 >= cases.len() * 8, "{told}");
    println!("{} operations that take room", cases.len());
}

#[test]
fn a_write_that_meets_the_end_of_the_disk_is_taken_back() {
    let cases = cases(|name| name == "durable.write");
    let mut told = 0;
    for at in &cases {
        let Ended { status, journal } = run(&format!("*=short@{at}"));
        assert!(status.success(), "{at}: {status}");
        told += usize::from(journal.refused > 0);
    }
    // The lock holds without the sentence that says who has it.
    assert!(told + 1 >= cases.len(), "{told} of {}", cases.len());
}

#[test]
fn a_disk_that_stays_full_loses_nothing() {
    for at in cases(takes_room) {
        let status = run(&format!("*=full@{at}")).status;
        assert_eq!(status.code(), Some(child::DISK_FAILED), "{at}: {status}");
    }
}
