//! The real `kmerge` against the real `kmerged`: what every command says in both formats, how it
//! ends, and what it leaves.
//!
//! | module | shows |
//! |---|---|
//! | `said` | the words of every command, as snapshots |
//! | `exits` | the exit codes, colours, and which base model is meant |
//! | `work` | push, watch, pull, resolve, cancel: what they do |

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]
#![expect(clippy::disallowed_methods, reason = "the tests read their own files")]

#[path = "cli/exits.rs"]
mod exits;
#[path = "cli/said.rs"]
mod said;
mod support;
#[path = "cli/work.rs"]
mod work;

use support::command::Cli;
use support::{BASE, Daemon, Setup, goldens};

/// The path of a golden adapter's directory.
fn golden(name: &str) -> String {
    goldens().join("adapters").join(name).display().to_string()
}

/// The path of the base model's config.json.
fn config() -> String {
    goldens().join("base/config.json").display().to_string()
}

/// A daemon with one base model of two slots, registered by the command line.
async fn furnished() -> (Daemon, Cli) {
    furnish(Setup::default()).await
}

async fn furnish(setup: Setup) -> (Daemon, Cli) {
    let daemon = setup.start().await;
    let cli = Cli::new(&daemon.socket());
    // As published: what is pulled is then the file that is stored.
    cli.done(&[
        "base",
        "add",
        BASE,
        "--config",
        &config(),
        "--slots",
        "2",
        "--operator",
        "kmerge-linear",
    ]);
    (daemon, cli)
}

/// Pushes golden adapters, each under its own name, and waits for each.
fn push(cli: &Cli, names: &[&str]) {
    for name in names {
        cli.done(&["push", &golden(name), "--task", name, "--wait"]);
    }
}
