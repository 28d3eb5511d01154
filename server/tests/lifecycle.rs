//! The daemon as the system sees it: starting, refusing to start, health, signals, permissions,
//! the service manager.

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]
#![expect(clippy::print_stdout, reason = "a test that is skipped says why")]
#![expect(
    clippy::disallowed_methods,
    reason = "the tests look at files from outside"
)]

#[path = "lifecycle/configuration.rs"]
mod configuration;
#[path = "lifecycle/peers.rs"]
mod peers;
#[path = "lifecycle/service_manager.rs"]
mod service_manager;
#[path = "lifecycle/starting.rs"]
mod starting;
#[path = "lifecycle/stopping.rs"]
mod stopping;
mod support;

use std::path::Path;
use std::process::{Command, Output};

use support::Daemon;

/// A `kmerged` on other paths than a test's daemon has, run to its end.
fn run(daemon: &Daemon, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kmerged"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("KMERGE_") {
            command.env_remove(&name);
        }
    }
    command
        .args(arguments)
        .current_dir(daemon.room())
        .output()
        .unwrap()
}

/// The permission bits of a file.
fn mode(path: &Path) -> u32 {
    use std::os::unix::fs::PermissionsExt as _;
    path.symlink_metadata().unwrap().permissions().mode() & 0o7777
}
