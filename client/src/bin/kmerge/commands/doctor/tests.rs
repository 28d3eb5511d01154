//! What the doctor finds in the daemon's words, and how it is shown.

use kmerge_client::{Health, v1};

use super::*;

const SOCKET: &str = "/run/kmerge/kmerged.sock";

fn healthy() -> v1::GetStatusResponse {
    v1::GetStatusResponse {
        version: env!("CARGO_PKG_VERSION").into(),
        state_directory: "/var/lib/kmerge".into(),
        socket: SOCKET.into(),
        queue_limit: 64,
        disk: Some(v1::DiskUsage {
            total: 3 << 20,
            free: 40 << 30,
            ..Default::default()
        }),
        recovery: Some(v1::RecoveryReport::default()),
        accepts_writes: true,
        state: "ready".into(),
        ..v1::GetStatusResponse::default()
    }
}

fn verdict(status: &v1::GetStatusResponse, name: &str) -> Verdict {
    let checks = daemon::status(status, &Address::Socket(SOCKET.into()));
    checks
        .iter()
        .find(|check| check.name == name)
        .expect("it was checked")
        .verdict
}

#[test]
fn a_healthy_daemon_passes_every_check() {
    let checks = daemon::status(&healthy(), &Address::Socket(SOCKET.into()));
    assert!(
        checks.iter().all(|check| check.verdict == Verdict::Ok),
        "{checks:#?}"
    );
    assert_eq!(checks.len(), 6);
}

#[test]
fn each_trouble_is_found_by_its_check() {
    let with = |change: fn(&mut v1::GetStatusResponse)| {
        let mut status = healthy();
        change(&mut status);
        status
    };
    let disk = |change: fn(&mut v1::DiskUsage)| {
        let mut status = healthy();
        status.disk.as_mut().map(change);
        status
    };
    let cases = [
        (
            with(|s| s.version = "9.9.9".into()),
            "version",
            Verdict::Warn,
        ),
        (with(|s| s.accepts_writes = false), "writes", Verdict::Fail),
        (
            with(|s| s.socket = "/elsewhere.sock".into()),
            "configuration",
            Verdict::Warn,
        ),
        (with(|s| s.jobs_queued = 64), "queue", Verdict::Warn),
        (disk(|d| d.free = 1 << 20), "disk", Verdict::Warn),
        (disk(|d| d.quarantine = 1 << 20), "disk", Verdict::Warn),
        (
            with(|s| s.recovery.as_mut().unwrap().catalog_rebuilt = true),
            "catalog",
            Verdict::Warn,
        ),
    ];
    for (condition, expected) in [
        (v1::RuntimeCondition::Ready, Verdict::Ok),
        (v1::RuntimeCondition::Troubled, Verdict::Warn),
        (v1::RuntimeCondition::Unreachable, Verdict::Warn),
    ] {
        let mut status = healthy();
        status.runtimes.push(v1::RuntimeSummary {
            condition: condition.into(),
            ..v1::RuntimeSummary::default()
        });
        assert_eq!(verdict(&status, "runtime"), expected, "{condition:?}");
    }
    for (status, name, expected) in cases {
        assert_eq!(verdict(&status, name), expected, "{name}");
    }
}

#[test]
fn budgets_warn_from_nine_tenths() {
    let base = |used, limit| v1::BaseModel {
        bytes_used: used,
        policy: Some(v1::MergePolicy {
            max_bytes: Some(limit),
            ..Default::default()
        }),
        ..v1::BaseModel::default()
    };
    let cases = [
        (0, 0, Verdict::Ok),
        (u64::MAX, 0, Verdict::Ok),
        (89, 100, Verdict::Ok),
        (90, 100, Verdict::Warn),
    ];
    for (used, limit, expected) in cases {
        let checks = daemon::budgets(&[base(used, limit)]);
        assert_eq!(checks[0].verdict, expected, "{used} of {limit}");
    }
    assert_eq!(daemon::budgets(&[])[0].verdict, Verdict::Warn);
}

#[test]
fn health_is_serving_or_a_failure() {
    assert_eq!(daemon::health(Ok(Health::Serving)).verdict, Verdict::Ok);
    for other in [Health::NotServing, Health::Unknown] {
        assert_eq!(daemon::health(Ok(other)).verdict, Verdict::Fail);
    }
}

#[test]
fn the_table_says_what_to_do() {
    let checks = [
        Check::ok("daemon", "answers"),
        Check::warn("disk", "3.0 MiB used, 1.0 MiB free", "make room"),
        Check::fail("health", "not serving", "wait"),
    ];
    insta::assert_snapshot!(anstream::adapter::strip_str(&view(&checks)).to_string());
}
