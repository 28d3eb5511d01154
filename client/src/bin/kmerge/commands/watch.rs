//! `kmerge watch`: the slots as they change.

use clap::Args;
use kmerge_client::{SlotEvent, json};
use serde_json::json;

use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::output::views;
use crate::values;

/// Arguments of `watch`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Watch {
    /// Only those of this base model
    #[arg(long, value_name = "NAME", value_parser = values::name)]
    base: Option<String>,
    /// Go on after this revision; 0 begins with every slot as it is
    #[arg(long, value_name = "REVISION", default_value_t = 0)]
    after: u64,
}

const EXAMPLES: &str = "\
EXAMPLES:
  kmerge watch
  kmerge watch --after 41
  kmerge watch --json | while read -r slot; do reload \"$slot\"; done

Ends when interrupted, or when the daemon stays away. With JSON there is one slot a line, and an
object with `emptied` for a slot that holds nothing any more.";

impl Watch {
    pub(crate) async fn run(self, context: &Context) -> Result<Exit, Failure> {
        let client = context.client().await?;
        let mut watch = client.watch_slots(self.base.as_deref(), self.after);
        loop {
            let event = watch.next().await?;
            let revision = watch.revision();
            match event {
                SlotEvent::Changed(slot) => context
                    .output
                    .event(&json::message(&*slot), || views::slot_line(&slot))?,
                SlotEvent::Emptied(slot) => {
                    let document = json!({"emptied": json::message(&slot), "revision": revision});
                    context
                        .output
                        .event(&document, || views::emptied(&slot, revision))?;
                }
            }
        }
    }
}
