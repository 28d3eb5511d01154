//! `kmerge slots` and `kmerge slot`.

use std::time::SystemTime;

use clap::Args;
use kmerge_client::json;

use crate::context::{Context, base_model};
use crate::failure::{Exit, Failure};
use crate::output::views;
use crate::values;

/// Arguments of `slots`.
#[derive(Debug, Args)]
#[command(
    after_help = "EXAMPLES:\n  kmerge slots\n  kmerge slots --base smollm2-135m --json | jq '.slots[].members'"
)]
pub(crate) struct Slots {
    /// Only those of this base model
    #[arg(long, value_name = "NAME", value_parser = values::name)]
    base: Option<String>,
}

impl Slots {
    pub(crate) async fn run(self, context: &Context) -> Result<Exit, Failure> {
        let slots = context
            .client()
            .await?
            .list_slots(self.base.as_deref())
            .await?;
        let now = SystemTime::now();
        context.output.list("slots", json::messages(&slots), || {
            views::slots(&slots, now)
        })?;
        Ok(Exit::Done)
    }
}

/// Arguments of `slot`.
#[derive(Debug, Args)]
#[command(
    after_help = "EXAMPLES:\n  kmerge slot 0\n  kmerge slot 2 --base smollm2-135m --json | jq -r .path"
)]
pub(crate) struct Slot {
    /// Its number, from 0
    slot: u32,
    /// Its base model [default: the only one that is registered]
    #[arg(long, value_name = "NAME", value_parser = values::name)]
    base: Option<String>,
}

impl Slot {
    pub(crate) async fn run(self, context: &Context) -> Result<Exit, Failure> {
        let client = context.client().await?;
        let base_model = base_model(&client, self.base).await?;
        let slot = client.get_slot(&base_model, self.slot).await?;
        let now = SystemTime::now();
        context
            .output
            .document(&json::message(&slot), || views::slot(&slot, now))?;
        Ok(Exit::Done)
    }
}
