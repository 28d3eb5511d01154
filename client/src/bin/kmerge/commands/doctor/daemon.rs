//! What the daemon says about itself, judged.

use std::path::Path;

use kmerge_client::{Address, Error, Health, v1};

use super::Check;
use crate::failure::Failure;
use crate::output::text;

/// Less free space than this is worth a warning, in bytes: a few adapters' worth.
const LITTLE_SPACE: u64 = 1 << 30;

/// What directories without files may take themselves, in bytes: a few blocks.
const EMPTY_DIRECTORIES: u64 = 64 << 10;

/// Nobody answers on the socket.
pub(super) fn silent(error: Error) -> Check {
    let failure = Failure::from(error);
    let hint = failure.hint.unwrap_or_else(|| "start kmerged".to_owned());
    Check::fail("daemon", failure.message, hint)
}

/// A call that should have answered did not.
pub(super) fn unasked(name: &'static str, error: Error) -> Check {
    let failure = Failure::from(error);
    let hint = failure
        .hint
        .unwrap_or_else(|| "look at kmerged's log".to_owned());
    Check::fail(name, failure.message, hint)
}

/// What grpc.health.v1 says.
pub(super) fn health(health: Result<Health, Error>) -> Check {
    match health {
        Ok(Health::Serving) => Check::ok("health", "serving"),
        Ok(Health::NotServing) => {
            Check::fail("health", "not serving", "wait: it is starting or stopping")
        }
        Ok(Health::Unknown) => Check::fail("health", "it does not say", "look at kmerged's log"),
        Err(error) => unasked("health", error),
    }
}

/// Everything in the daemon's status.
pub(super) fn status(status: &v1::GetStatusResponse, address: &Address) -> Vec<Check> {
    let mut checks = vec![version(&status.version), writes(status)];
    // Strangers are not told where things are.
    if let Address::Socket(socket) = address
        && !status.socket.is_empty()
    {
        checks.push(directory(status, socket));
    }
    checks.extend(status.disk.as_ref().map(disk));
    checks.extend(status.recovery.as_ref().map(catalog));
    checks.push(queue(status));
    checks.extend(status.runtimes.iter().map(runtime));
    checks
}

fn runtime(runtime: &v1::RuntimeSummary) -> Check {
    let found = format!(
        "{} serves {} of {} adapters at their newest",
        runtime.name, runtime.up_to_date, runtime.adapters
    );
    match runtime.condition() {
        v1::RuntimeCondition::Troubled | v1::RuntimeCondition::Unreachable => Check::warn(
            "runtime",
            format!("{found}: it {}", runtime.message),
            format!(
                "see `kmerge runtimes {}`, and the page of {} in deploy/runtimes",
                runtime.name, runtime.kind
            ),
        ),
        v1::RuntimeCondition::Unspecified
        | v1::RuntimeCondition::Starting
        | v1::RuntimeCondition::Ready
        | v1::RuntimeCondition::Working => Check::ok("runtime", found),
    }
}

fn version(daemon: &str) -> Check {
    let own = env!("CARGO_PKG_VERSION");
    if daemon == own {
        Check::ok("version", own)
    } else {
        Check::warn(
            "version",
            format!("kmerged is {daemon}, kmerge is {own}"),
            "install both from the same release, and restart kmerged",
        )
    }
}

fn writes(status: &v1::GetStatusResponse) -> Check {
    if status.accepts_writes {
        Check::ok("writes", &status.state)
    } else {
        Check::fail(
            "writes",
            format!("refused: {}", status.state),
            "see kmerged's log for the cause, remove it, and restart kmerged",
        )
    }
}

fn directory(status: &v1::GetStatusResponse, asked: &Path) -> Check {
    let state = &status.state_directory;
    let told = Path::new(&status.socket);
    // Behind socket activation or a bind mount the two may differ and be the same file.
    let same = told == asked
        || matches!((told.canonicalize(), asked.canonicalize()), (Ok(a), Ok(b)) if a == b);
    if same {
        Check::ok("configuration", format!("state in {state}"))
    } else {
        Check::warn(
            "configuration",
            format!(
                "state in {state}; kmerged says that its socket is {}",
                told.display()
            ),
            "make sure that this is the kmerged you mean: name another one with --socket",
        )
    }
}

fn disk(disk: &v1::DiskUsage) -> Check {
    let found = format!(
        "{} used, {} free",
        text::bytes(disk.total),
        text::bytes(disk.free)
    );
    if disk.free < LITTLE_SPACE {
        Check::warn(
            "disk",
            found,
            "make room on the file system of the state directory",
        )
    } else if disk.quarantine > EMPTY_DIRECTORIES {
        let set_aside = text::bytes(disk.quarantine);
        Check::warn(
            "disk",
            format!("{found}, {set_aside} of it set aside as damaged"),
            "look into quarantine/ in the state directory, and delete it once it is of no use",
        )
    } else {
        Check::ok("disk", found)
    }
}

fn catalog(report: &v1::RecoveryReport) -> Check {
    if report.catalog_rebuilt {
        let mut found = format!(
            "rebuilt at the last start, {} recovered",
            text::count(report.generations_recovered.into(), "generation")
        );
        if !report.quarantined.is_empty() {
            found += &format!("; the damaged one is {}", report.quarantined);
        }
        Check::warn(
            "catalog",
            found,
            "check the disk: a catalog is not damaged by itself",
        )
    } else {
        let found = format!(
            "sound; at the last start {} queued again",
            text::count(report.jobs_requeued.into(), "job")
        );
        Check::ok("catalog", found)
    }
}

fn queue(status: &v1::GetStatusResponse) -> Check {
    let busy = status.jobs_queued.saturating_add(status.jobs_running);
    let found = format!(
        "{} queued, {} running, at most {}",
        status.jobs_queued, status.jobs_running, status.queue_limit
    );
    if status.queue_limit > 0 && busy >= status.queue_limit {
        Check::warn(
            "queue",
            found,
            "wait, or cancel jobs: kmerge jobs --state queued",
        )
    } else {
        Check::ok("queue", found)
    }
}

/// How much of its budget each base model has used.
pub(super) fn budgets(bases: &[v1::BaseModel]) -> Vec<Check> {
    if bases.is_empty() {
        let hint = "kmerge base add NAME --config config.json";
        return vec![Check::warn("budget", "no base model is registered", hint)];
    }
    bases.iter().map(budget).collect()
}

fn budget(base: &v1::BaseModel) -> Check {
    let policy = base.policy.unwrap_or_default();
    let limit = policy.max_bytes();
    let found = format!(
        "{}: {} of {} slots, {}",
        base.name,
        base.slots_used,
        policy.slots(),
        text::of_limit(base.bytes_used, limit)
    );
    // Nine tenths, without leaving whole numbers.
    if limit > 0 && u128::from(base.bytes_used) * 10 >= u128::from(limit) * 9 {
        let hint = "the next adapter may be refused: register the base model with a larger limit";
        Check::warn("budget", found, hint)
    } else {
        Check::ok("budget", found)
    }
}
