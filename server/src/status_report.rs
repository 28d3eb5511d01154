//! What `GetStatus` tells: the daemon, its load, its disk, and what start-up did.

use std::path::PathBuf;
use std::sync::Arc;

use kmerge_storage::{Catalog, DiskUsage, JobState, RecoveryReport, UnixMillis};

use crate::config::Config;
use crate::error::ServerError;
use crate::facts::saturate;
use crate::serving::Serving;
use crate::shutdown::{Stop, StopReason};

/// What does not change while kmerged runs.
#[derive(Debug)]
pub struct About {
    /// When it started.
    pub started: UnixMillis,
    /// The state directory.
    pub state_directory: PathBuf,
    /// The socket.
    pub socket: PathBuf,
    /// Jobs that may wait or run.
    pub queue_limit: usize,
    /// Threads of the mathematics.
    pub worker_threads: usize,
    /// What start-up found and did.
    pub recovery: RecoveryReport,
}

impl About {
    /// The facts of this process under `config`.
    pub fn new(config: &Config, started: UnixMillis, recovery: RecoveryReport) -> Self {
        Self {
            started,
            state_directory: config.state.directory.clone(),
            socket: config.listen.socket.clone(),
            queue_limit: config.uploads.queue,
            worker_threads: config.workers.threads,
            recovery,
        }
    }
}

/// How things stand.
#[derive(Debug)]
pub struct StatusReport {
    /// The catalog that was current.
    pub catalog: Arc<Catalog>,
    /// Jobs that wait.
    pub queued: u32,
    /// Jobs that run.
    pub running: u32,
    /// Bytes on disk.
    pub disk: DiskUsage,
    /// Resident memory in bytes; 0 where the system does not tell.
    pub resident_bytes: u64,
    /// Whether writes are accepted.
    pub accepts_writes: bool,
    /// For people.
    pub state: String,
}

/// Looks at everything. Blocks on the disk.
///
/// # Errors
/// If the state directory cannot be read.
pub fn report(serving: &Serving, stop: &Stop) -> Result<StatusReport, ServerError> {
    let catalog = serving.catalog();
    let count = |state| {
        saturate(
            catalog
                .jobs
                .values()
                .filter(|job| job.state == state)
                .count(),
        )
    };
    let (accepts_writes, state) = match stop.reason() {
        None => (true, ready(serving.progress().waiting_for_disk_space())),
        Some(StopReason::Asked) => (false, "stopping".to_owned()),
        Some(StopReason::StateUnsafe(why)) => (false, format!("read-only: {why}")),
    };
    Ok(StatusReport {
        queued: count(JobState::Queued),
        running: count(JobState::Running),
        disk: serving.reader().disk_usage(&catalog)?,
        resident_bytes: resident_bytes(),
        accepts_writes,
        state,
        catalog,
    })
}

fn ready(waiting: usize) -> String {
    match waiting {
        0 => "ready".to_owned(),
        1 => "ready; 1 job waits for disk space".to_owned(),
        jobs => format!("ready; {jobs} jobs wait for disk space"),
    }
}

/// Resident memory, from the second number of `/proc/self/statm`, which counts pages.
#[expect(
    clippy::disallowed_methods,
    reason = "procfs is not the state directory"
)]
fn resident_bytes() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm")
        .ok()
        .and_then(|text| text.split_whitespace().nth(1)?.parse::<u64>().ok());
    pages.unwrap_or(0) * rustix::param::page_size() as u64
}
