//! `kmerge demo`: the whole way with real adapters, on a daemon of its own.
//!
//! 1. A private kmerged is started on a temporary directory.
//! 2. A base model is registered, and eight adapters are pushed, one after the other.
//! 3. The slots are shown, two tasks are resolved, and one slot is pulled.
//! 4. The daemon is stopped and its directory removed; the pulled export stays.
//!
//! Whatever happens in 2 and 3, an interrupt included, 4 comes after it. Only if something failed
//! the directory stays, for its log.

mod adapters;
mod story;

use std::path::PathBuf;

use clap::Args;
use kmerge_client::v1;

use crate::context::Context;
use crate::daemon::{self, Daemon};
use crate::failure::{Exit, Failure};
use crate::policy::Merging;

/// Arguments of `demo`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Demo {
    /// K: at most this many slots
    #[arg(long, value_name = "K", default_value_t = 3)]
    slots: u32,
    #[command(flatten)]
    merging: Merging,
    /// The directory for the pulled export [default: a new one in the temporary directory]
    #[arg(long, short, value_name = "DIR")]
    out: Option<PathBuf>,
    /// The daemon's program [default: beside kmerge, else on PATH]
    #[arg(long, value_name = "PATH")]
    kmerged: Option<PathBuf>,
}

const EXAMPLES: &str = "\
EXAMPLES:
  kmerge demo
  kmerge demo --slots 4 --operator kmerge-linear
  kmerge demo --assignment kmerge++ --out ./kmerge-demo

Works offline; the adapters are compiled in. Your own kmerged is not touched.";

impl Demo {
    pub(crate) async fn run(self, context: &Context) -> Result<Exit, Failure> {
        let kmerged = daemon::find(self.kmerged.clone(), "kmerge demo")?;
        let room = tempfile::Builder::new()
            .prefix("kmerge-demo-")
            .tempdir()
            .map_err(|error| Failure::system("create a temporary directory", &error))?;
        let mut daemon = Daemon::start(&kmerged, room.path())?;
        let story = tokio::select! {
            story = story::tell(&self, context, &mut daemon) => story,
            interrupted = tokio::signal::ctrl_c() => match interrupted {
                Ok(()) => Err(Failure::interrupted()),
                Err(error) => Err(Failure::system("listen for interrupts", &error)),
            },
        };
        let log = daemon.log().to_owned();
        let stopped = daemon.stop().await;
        match (story, stopped) {
            (Ok(story), Ok(())) => {
                story.end(context)?;
                Ok(Exit::Done)
            }
            (Err(failure), _) if !is_the_daemons(&failure) => Err(failure),
            (Err(failure), _) | (Ok(_), Err(failure)) => {
                let _ = room.keep();
                let hint = match &failure.hint {
                    Some(hint) => format!("{hint}; kmerged's log is {}", log.display()),
                    None => format!("kmerged's log is {}", log.display()),
                };
                Err(failure.hint(hint))
            }
        }
    }

    /// What the demo registers its base model with.
    fn policy(&self) -> v1::MergePolicy {
        v1::MergePolicy {
            slots: Some(self.slots),
            ..self.merging.policy()
        }
    }
}

/// Whether the daemon's log may tell more about a failure. It does not about arguments, nor about
/// someone who did not want to see the rest.
fn is_the_daemons(failure: &Failure) -> bool {
    let of_the_user = matches!(failure.exit, Exit::Interrupted | Exit::Done)
        || failure.code == "INVALID_ARGUMENT";
    !of_the_user
}
