//! The harness of the daemon's tests: a real `kmerged` on a temporary directory, real and made
//! adapters to send to it, and the few calls that every test makes.
//!
//! | module | has |
//! |---|---|
//! | `daemon` | the process: start, stop, kill, restart, its log |
//! | `calls` | register, push, wait, and what a refusal carries |
//! | `command` | the real `kmerge`, run as a user runs it |
//! | `adapters` | golden and demo adapters, and small ones made here |
//! | `namespace` | a small file system that can be filled |
//! | `tensors` | exports read back and compared |
//!
//! Nothing here outlives its test: a daemon that is dropped is killed, and its directory removed.

#![allow(
    dead_code,
    unused_imports,
    reason = "each test file uses its own part of this"
)]

pub(crate) mod adapters;
pub(crate) mod calls;
pub(crate) mod command;
pub(crate) mod daemon;
pub(crate) mod namespace;
pub(crate) mod tensors;

use std::path::{Path, PathBuf};

pub(crate) use daemon::{Daemon, Setup};

/// The base model that most tests register.
pub(crate) const BASE: &str = "tiny";

/// The workspace's root.
pub(crate) fn workspace() -> PathBuf {
    let server = Path::new(env!("CARGO_MANIFEST_DIR"));
    server.parent().unwrap().to_owned()
}

/// The goldens of the mathematics.
pub(crate) fn goldens() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("merge/tests/goldens")
}

/// All files below `directory`, as paths relative to it, in order. What is removed during the walk
/// is left out.
pub(crate) fn files_below(directory: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut open = vec![directory.to_owned()];
    while let Some(next) = open.pop() {
        let Ok(entries) = std::fs::read_dir(&next) else {
            continue;
        };
        for entry in entries.flatten() {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => open.push(entry.path()),
                Ok(_) => files.push(entry.path().strip_prefix(directory).unwrap().to_owned()),
                Err(_) => {}
            }
        }
    }
    files.sort();
    files
}

/// Calls `done` until it says yes. For what happens soon, but not before a call returns.
pub(crate) async fn eventually(what: &str, mut done: impl AsyncFnMut() -> bool) {
    let deadline = std::time::Instant::now() + daemon::PATIENCE;
    while !done().await {
        assert!(
            std::time::Instant::now() < deadline,
            "{what}: still not so after {:?}",
            daemon::PATIENCE
        );
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
}
