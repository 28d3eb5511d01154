//! `kmerge scrub`: have everything read again that is kept.

use std::time::SystemTime;

use clap::Args;
use kmerge_client::{json, v1};
use owo_colors::OwoColorize as _;

use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::output::progress::Bar;
use crate::output::table::{Column, Table};
use crate::output::text;
use crate::values;

/// Arguments of `scrub`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Scrub {
    /// At most this fast, as 16MiB a second [default: as fast as the disk is]
    #[arg(long, value_name = "SIZE", value_parser = values::bytes)]
    rate: Option<u64>,
    /// Hold the daemon's own scrubbing until --resume, over restarts too
    #[arg(long, conflicts_with_all = ["rate", "resume", "status"])]
    pause: bool,
    /// Let the daemon's own scrubbing go on
    #[arg(long, conflicts_with_all = ["rate", "status"])]
    resume: bool,
    /// Say what the daemon's own scrubbing does
    #[arg(long, conflicts_with = "rate")]
    status: bool,
}

const EXAMPLES: &str = "\
EXAMPLES:
  kmerge scrub
  kmerge scrub --rate 16MiB --json | jq '.damaged[]'
  kmerge scrub --pause

Every generation's tensors and manifest are compared with what was written. If anything is damaged
the exit code is 1. kmerged does the same by itself now and then, while nothing is merged or uploaded:
see [scrub] in its configuration. --pause holds that, but never a scrub that was asked for.";

impl Scrub {
    pub(crate) async fn run(self, context: &Context) -> Result<Exit, Failure> {
        let client = context.client().await?;
        if self.pause || self.resume || self.status {
            let own = if self.status {
                client.get_status().await?.scrub.unwrap_or_default()
            } else {
                client.set_scrub(self.pause).await?
            };
            context
                .output
                .document(&json::message(&own), || own_state(&own))?;
            return Ok(Exit::Done);
        }
        let bar = Bar::bytes(&context.output, "reading");
        let scrubbed = client
            .scrub(self.rate.unwrap_or(0), |state| {
                bar.reached(state.bytes_checked, state.bytes);
            })
            .await;
        bar.finish();
        let scrubbed = scrubbed?;
        context
            .output
            .document(&json::message(&scrubbed), || view(&scrubbed))?;
        if scrubbed.damaged.is_empty() {
            return Ok(Exit::Done);
        }
        context
            .output
            .note("next: push the adapters again that are lost, and ask the disk why");
        Ok(Exit::Refused)
    }
}

/// What was found.
fn view(scrubbed: &v1::Scrubbed) -> String {
    let read = format!(
        "{} of {}",
        text::bytes(scrubbed.bytes),
        text::count(scrubbed.generations.into(), "generation"),
    );
    if scrubbed.damaged.is_empty() {
        return format!("{read}: {}", "nothing is damaged".green());
    }
    let mut table = Table::new(&[
        Column::Left("BASE"),
        Column::Right("SLOT"),
        Column::Right("GENERATION"),
        Column::Left("DAMAGE"),
    ]);
    for damage in &scrubbed.damaged {
        let mark = if damage.current { "" } else { " (superseded)" };
        table.row([
            damage.base_model.clone(),
            damage.slot.bold().to_string(),
            format!("{}{mark}", damage.generation),
            std::iter::once(&damage.what)
                .chain(&damage.done)
                .map(String::as_str)
                .collect::<Vec<_>>()
                .join("\n"),
        ]);
    }
    let count = u64::try_from(scrubbed.damaged.len()).unwrap_or(u64::MAX);
    let said = format!("{} damaged", text::count(count, "generation"));
    format!("{read}: {}\n{}", said.red(), table.render())
}

/// What the daemon's own scrubbing does.
pub(super) fn own_state(own: &v1::ScrubState) -> String {
    let far = own.progress.as_ref().map_or_else(String::new, |so_far| {
        let (done, all) = (so_far.bytes_checked, so_far.bytes);
        format!(", {} of {}", text::bytes(done), text::bytes(all))
    });
    match own {
        v1::ScrubState { enabled: false, .. } => "off by configuration".to_owned(),
        v1::ScrubState { paused: true, .. } => "paused; next: kmerge scrub --resume".to_owned(),
        v1::ScrubState { yielding: true, .. } => format!("waits for merges and uploads{far}"),
        v1::ScrubState { running: true, .. } => format!("running{far}"),
        _ => "waiting for its time".to_owned(),
    }
}

/// The last scrub, for the status.
pub(super) fn summary(scrubbed: &v1::Scrubbed, now: SystemTime) -> String {
    let when = text::ago(scrubbed.end_time.as_ref(), now);
    match scrubbed.damaged.len() {
        0 => format!("{when}, nothing damaged"),
        damaged => format!("{when}, {damaged} damaged: see kmerge scrub")
            .red()
            .to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_damaged_is_listed() {
        let damage = |generation, current| v1::Damage {
            base_model: "smollm2".into(),
            slot: 1,
            generation,
            current,
            what: "the bytes of tensor file ab are not those that were written".into(),
            done: match current {
                true => vec!["slot 1 of smollm2 serves generation 2 again, as generation 5".into()],
                false => Vec::new(),
            },
        };
        let mut scrubbed = v1::Scrubbed {
            generations_checked: 3,
            generations: 3,
            bytes_checked: 3 << 20,
            bytes: 3 << 20,
            damaged: Vec::new(),
            end_time: None,
        };
        let plain =
            |scrubbed: &v1::Scrubbed| anstream::adapter::strip_str(&view(scrubbed)).to_string();
        assert_eq!(
            plain(&scrubbed),
            "3.0 MiB of 3 generations: nothing is damaged"
        );
        scrubbed.damaged = vec![damage(4, true), damage(3, false)];
        insta::assert_snapshot!(plain(&scrubbed));
    }
}
