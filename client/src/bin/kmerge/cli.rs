//! The arguments, their help, and which command they name. Each group's own arguments are with
//! its commands.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use kmerge_client::address::ADDRESS_VARIABLE;
use kmerge_client::socket::SOCKET_VARIABLE;
use kmerge_client::{Address, Network};

use crate::commands::{
    backup, base, demo, jobs, pull, push, runtimes, scrub, shell, slots, tasks, upkeep, watch,
};
#[cfg(feature = "score")]
use crate::commands::{replay, score};
use crate::failure::Failure;
use crate::output::{ColorWish, Format};

/// Merges LoRA adapters into a few slots, and hands the right one to your runtime.
///
/// kmerge talks to kmerged, the daemon. Start with `kmerge demo`: it shows the whole way with
/// real adapters, on a daemon of its own.
#[derive(Debug, Parser)]
#[command(
    name = "kmerge",
    version,
    max_term_width = 100,
    after_help = AFTER_HELP,
    after_long_help = AFTER_HELP,
    disable_help_subcommand = true
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) globals: Globals,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Options of every command.
#[derive(Debug, Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Globals {
    /// The daemon's Unix socket [env: KMERGE_SOCKET] [default: in $XDG_RUNTIME_DIR, /run or the
    /// temporary directory]
    #[arg(long, global = true, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// The daemon's port instead: http://127.0.0.1:PORT or https://HOST:PORT [env: KMERGE_ADDRESS]
    #[arg(long, global = true, value_name = "URL", conflicts_with = "socket")]
    address: Option<String>,
    /// For http: a file with the daemon's token [env: KMERGE_TOKEN_FILE]
    #[arg(long, global = true, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// For https: the root of the daemon's certificate, PEM [env: KMERGE_CA]
    #[arg(long, global = true, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// For https: your certificate, PEM [env: KMERGE_CERTIFICATE]
    #[arg(long, global = true, value_name = "FILE")]
    certificate: Option<PathBuf>,
    /// For https: its private key, PEM [env: KMERGE_KEY]
    #[arg(long, global = true, value_name = "FILE")]
    key: Option<PathBuf>,
    /// How results are written: for people, as one JSON document, or as one a line
    #[arg(
        long,
        global = true,
        value_name = "FORMAT",
        value_enum,
        default_value = "table"
    )]
    format: Format,
    /// Short for --format json
    #[arg(long, global = true, conflicts_with = "format")]
    json: bool,
    /// When to use colours; auto: on a terminal, unless NO_COLOR is set or TERM is dumb
    #[arg(
        long,
        global = true,
        value_name = "WHEN",
        value_enum,
        default_value = "auto"
    )]
    pub(crate) color: ColorWish,
    /// Write results and errors, and nothing else
    #[arg(long, short, global = true)]
    pub(crate) quiet: bool,
}

impl Globals {
    /// Where the daemon is. What is said on the command line counts before what is said in the
    /// environment, and there an address before a socket.
    pub(crate) fn target(
        &self,
        environment: impl Fn(&str) -> Option<OsString>,
    ) -> Result<Address, Failure> {
        let named = |name| environment(name).filter(|value| !value.is_empty());
        let address = match (&self.address, &self.socket) {
            (Some(address), _) => Some(OsString::from(address)),
            (None, Some(_)) => None,
            (None, None) => named(ADDRESS_VARIABLE),
        };
        let Some(address) = address else {
            let socket = self.socket.clone();
            let socket = socket.or_else(|| named(SOCKET_VARIABLE).map(PathBuf::from));
            return Ok(Address::Socket(
                socket.unwrap_or_else(kmerge_client::default_socket),
            ));
        };
        let file = |flag: &Option<PathBuf>, name| {
            let flag = flag.clone();
            flag.or_else(|| named(name).map(PathBuf::from))
        };
        let mut network = Network::new(&address.to_string_lossy())?;
        network.token_file = file(&self.token_file, "KMERGE_TOKEN_FILE");
        network.ca = file(&self.ca, "KMERGE_CA");
        network.certificate = file(&self.certificate, "KMERGE_CERTIFICATE");
        network.key = file(&self.key, "KMERGE_KEY");
        Ok(Address::Network(network))
    }

    pub(crate) fn format(&self) -> Format {
        if self.json { Format::Json } else { self.format }
    }
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Register base models and look at them
    #[command(subcommand)]
    Base(base::Base),
    /// Send an adapter to be merged
    Push(push::Push),
    /// List the slots in use
    Slots(slots::Slots),
    /// Show one slot
    Slot(slots::Slot),
    /// List the tasks that have been merged
    Tasks(tasks::Tasks),
    /// List the jobs, the newest first
    Jobs(jobs::Jobs),
    /// Show or watch one job
    Job(jobs::Job),
    /// Take a queued job back
    Cancel(jobs::Cancel),
    /// Watch the slots change
    Watch(watch::Watch),
    /// Tell which slot serves a task, and where its files are
    Resolve(tasks::Resolve),
    /// Copy a slot's adapter into a directory
    Pull(pull::Pull),
    /// Take a task out of its slot
    Forget(upkeep::Forget),
    /// Let a slot hold again what an earlier generation held
    Rollback(upkeep::Rollback),
    /// Keep a slot as it is
    Pin(upkeep::Pin),
    /// Let a pinned slot change again
    Unpin(upkeep::Pin),
    /// List or watch the runtimes that are told of new generations
    Runtimes(runtimes::Runtimes),
    /// Show how the daemon is
    #[command(after_help = "EXAMPLES:\n  kmerge status\n  kmerge status --json | jq .disk.free")]
    Status,
    /// Read everything again that is kept, and say what is damaged
    Scrub(scrub::Scrub),
    /// Write the whole state into one file, while the daemon goes on
    Backup(backup::Backup),
    /// Make a state directory from a backup, while no daemon runs on it
    Restore(backup::Restore),
    /// Check the daemon and what is around it, and say what to do
    #[command(
        after_help = "EXAMPLES:\n  kmerge doctor\n  kmerge --socket /run/kmerge/kmerged.sock doctor"
    )]
    Doctor,
    /// Tell how well the served adapters do their tasks on the real model
    #[cfg(feature = "score")]
    Score(score::Score),
    /// Compare operators and sizes by sending a folder of adapters to a daemon of its own
    #[cfg(feature = "score")]
    Replay(replay::Replay),
    /// Show the whole way with real adapters, on a daemon of its own
    Demo(demo::Demo),
    /// Write a completion script for a shell to stdout
    Completions(shell::Completions),
    /// Write the man pages
    Man(shell::Man),
}

const AFTER_HELP: &str = "\
EXAMPLES:
  kmerge demo
  kmerge base add smollm2-135m --config config.json --slots 4
  kmerge push adapters/slug-en --task slug-en --wait
  kmerge resolve slug-en
  kmerge --format json slots | jq '.slots[].members'

EXIT CODES:
  0    done
  1    the daemon refused or failed; a job that was waited for failed or was cancelled
  2    wrong usage
  3    the daemon cannot be reached
  4    not found
  130  interrupted

ENVIRONMENT:
  KMERGE_SOCKET       the daemon's socket, as --socket
  KMERGE_ADDRESS      the daemon's port, as --address; counts before KMERGE_SOCKET
  KMERGE_TOKEN_FILE   as --token-file; so KMERGE_CA, KMERGE_CERTIFICATE, KMERGE_KEY
  NO_COLOR            if set, no colours";

/// Whether arguments that could not be read ask for JSON.
pub(crate) fn wants_json(arguments: impl IntoIterator<Item = OsString>) -> bool {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    let is_json = |text: &OsString| text == "json" || text == "jsonl";
    arguments.iter().any(|argument| {
        argument == "--json" || argument == "--format=json" || argument == "--format=jsonl"
    }) || arguments
        .windows(2)
        .any(|pair| pair[0] == "--format" && is_json(&pair[1]))
}

#[cfg(test)]
mod tests;
