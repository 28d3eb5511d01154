//! Named points at which a test can end this process, slow it down, or fail a step.
//!
//! Without the feature `failpoints` every function here is empty. With it the environment variable
//! `KMERGE_FAILPOINT` holds one action: `name=kill@N` sends this process SIGKILL at the Nth hit of
//! the point, `name=sleep@N:millis` lets the Nth hit and all later ones take that long, and
//! `name=error@N` lets the Nth file operation of that name fail with an I/O error.

use std::io;

/// Every point there is. The `durable.` points are the file operations, wherever they happen; the
/// others stand between the numbered steps of the functions that they are named after.
pub const NAMES: &[&str] = &[
    "durable.create",
    "durable.link",
    "durable.rename",
    "durable.sync",
    "durable.sync_dir",
    "durable.unlink",
    "durable.write",
    "backup.file_written",
    "backup.held",
    "base_model.file_durable",
    "catalog.applied",
    "catalog.flushed",
    "catalog.synced",
    "collect.exports_removed",
    "collect.manifests_removed",
    "collect.tensors_removed",
    "commit.checked",
    "commit.manifest_written",
    "commit.manifests_durable",
    "commit.remains_removed",
    "commit.settings_durable",
    "commit.staging_removed",
    "compact.exchanged",
    "compact.old_removed",
    "compact.written",
    "counter.reserved",
    "enqueue.directory_durable",
    "enqueue.header_durable",
    "enqueue.renamed",
    "export.current_moved",
    "export.files_durable",
    "export.renamed",
    "job_end.staging_removed",
    "restore.catalog_written",
    "restore.files_written",
    "restore.opened",
    "restore.renamed",
    "staging.created",
    "staging.data_durable",
    "tensor.data_durable",
    "tensor.directory_durable",
    "tensor.renamed",
];

/// Marks a point. Does nothing unless the environment asks for something at this very point.
pub fn hit(name: &'static str) {
    #[cfg(feature = "failpoints")]
    active::hit(name);
    #[cfg(not(feature = "failpoints"))]
    let _ = name;
}

/// Marks a file operation, which may be asked to fail.
pub(crate) fn operation(name: &'static str) -> io::Result<()> {
    #[cfg(feature = "failpoints")]
    return active::operation(name);
    #[cfg(not(feature = "failpoints"))]
    {
        let _ = name;
        Ok(())
    }
}

#[cfg(feature = "failpoints")]
mod active {
    //! The part that acts. The environment is read once.

    use std::io;
    use std::sync::LazyLock;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::Duration;

    #[derive(Debug, PartialEq, Eq)]
    pub(super) enum Action {
        Kill,
        Sleep(Duration),
        Error,
    }

    #[derive(Debug, PartialEq, Eq)]
    pub(super) struct Plan {
        pub(super) name: String,
        pub(super) action: Action,
        pub(super) at: u64,
    }

    static PLAN: LazyLock<Option<Plan>> = LazyLock::new(|| {
        let text = std::env::var("KMERGE_FAILPOINT").ok()?;
        // A plan that means nothing would let a test pass that tests nothing.
        Some(parse(&text).unwrap_or_else(|| panic!("KMERGE_FAILPOINT={text:?} is no plan")))
    });

    static HITS: AtomicU64 = AtomicU64::new(0);

    pub(super) fn parse(text: &str) -> Option<Plan> {
        let (name, action) = text.split_once('=')?;
        let (verb, rest) = action.split_once('@')?;
        let (at, millis) = match rest.split_once(':') {
            Some((at, millis)) => (at, Some(millis)),
            None => (rest, None),
        };
        let action = match (verb, millis) {
            ("kill", None) => Action::Kill,
            ("error", None) => Action::Error,
            ("sleep", Some(millis)) => Action::Sleep(Duration::from_millis(millis.parse().ok()?)),
            _ => return None,
        };
        Some(Plan {
            name: name.to_owned(),
            action,
            at: at.parse().ok()?,
        })
    }

    pub(super) fn hit(name: &'static str) {
        // A point that is not a file operation has nothing to fail.
        let _ = operation(name);
    }

    pub(super) fn operation(name: &'static str) -> io::Result<()> {
        debug_assert!(super::NAMES.contains(&name), "{name} is missing in NAMES");
        let Some(plan) = PLAN.as_ref().filter(|plan| plan.name == name) else {
            return Ok(());
        };
        let count = HITS.fetch_add(1, Ordering::SeqCst) + 1;
        match plan.action {
            Action::Kill if count == plan.at => {
                let this = rustix::process::getpid();
                rustix::process::kill_process(this, rustix::process::Signal::KILL)
                    .expect("a process may always end itself");
                // The signal may be delivered to another thread first.
                loop {
                    std::thread::park();
                }
            }
            Action::Error if count == plan.at => Err(io::Error::from_raw_os_error(
                rustix::io::Errno::IO.raw_os_error(),
            )),
            Action::Sleep(time) if count >= plan.at => {
                std::thread::sleep(time);
                Ok(())
            }
            Action::Kill | Action::Error | Action::Sleep(_) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
