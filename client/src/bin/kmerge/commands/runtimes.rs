//! `kmerge runtimes`: the local runtimes that the daemon keeps up to date.

use std::time::SystemTime;

use clap::Args;
use kmerge_client::json;

use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::output::views;

/// Arguments of `runtimes`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Runtimes {
    /// Only this one, with the names of its adapters
    #[arg(value_name = "NAME")]
    name: Option<String>,
    /// Follow them: a line for each change
    #[arg(long, short)]
    watch: bool,
}

const EXAMPLES: &str = "\
EXAMPLES:
  kmerge runtimes
  kmerge runtimes gpu
  kmerge runtimes --watch
  kmerge runtimes gpu --json | jq -r '.adapters[] | select(.tasks[] == \"mail\").serving'

Which runtimes there are is the daemon's configuration. With --watch and JSON there is one
document a line; it ends when interrupted, or when the daemon stays away.";

impl Runtimes {
    pub(crate) async fn run(self, context: &Context) -> Result<Exit, Failure> {
        let client = context.client().await?;
        let name = self.name.as_deref();
        if self.watch {
            let mut watch = client.watch_runtimes(name);
            loop {
                let runtime = watch.next().await?;
                let line = || views::runtime_change(&runtime);
                context.output.event(&json::message(&runtime), line)?;
            }
        }
        let now = SystemTime::now();
        if name.is_some() {
            // A watch begins with the runtime as it is, and knows when there is none such.
            let runtime = client.watch_runtimes(name).next().await?;
            let text = || views::runtime(&runtime, now);
            context.output.document(&json::message(&runtime), text)?;
        } else {
            let runtimes = client.list_runtimes().await?;
            let text = || views::runtimes(&runtimes, now);
            context
                .output
                .list("runtimes", json::messages(&runtimes), text)?;
        }
        Ok(Exit::Done)
    }
}
