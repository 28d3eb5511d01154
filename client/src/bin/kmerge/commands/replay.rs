//! `kmerge replay`: operators and sizes compared, on a folder of adapters and a real model.
//!
//! For each combination of operator, K and bytes of a slot, and for each order of arrival:
//!
//! 1. A private kmerged is started on a temporary directory, and a base model registered.
//! 2. The adapters are pushed one after the other, and what the daemon then serves is fetched.
//! 3. The daemon is stopped and its directory removed.
//! 4. Each task is scored with the adapter that served it.
//!
//! One daemon runs at a time. Whatever happens in 2, an interrupt included, 3 comes after it.

pub(crate) mod membership;
mod plan;
mod run;
pub(crate) mod summary;

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::Args;
use kmerge_client::json::word_of;
use kmerge_client::v1;
use serde_json::json;

use crate::commands::score::Options;
use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::output::table::{Column, Table};
use crate::policy::Rules;
use crate::score::adapter::Adapter;
use crate::score::compare::Similarities;
use crate::score::error::Error;
use crate::score::{files, report};
use crate::{daemon, values};
use summary::Row;

/// Arguments of `replay`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Replay {
    /// A folder of PEFT directories, each named after its task
    folder: PathBuf,
    /// The model: a GGUF file, or a directory with config.json, safetensors and tokenizer.json
    #[arg(long, value_name = "FILE|DIR", required_unless_present = "no_score")]
    model: Option<PathBuf>,
    /// The directory with TASK.jsonl for each task: a prompt and a target a line
    #[arg(long, value_name = "DIR", required_unless_present = "no_score")]
    tasks: Option<PathBuf>,
    /// The base model's config.json [default: FOLDER/../base/config.json]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// How a newcomer and a slot become one; several, with commas between
    #[arg(
        long,
        value_name = "OPERATOR",
        value_enum,
        value_delimiter = ',',
        default_value = "progressive,kmerge-linear"
    )]
    operator: Vec<values::Operator>,
    /// K: at most this many slots; several, with commas between
    #[arg(
        long = "k",
        value_name = "K",
        value_delimiter = ',',
        default_value = "1"
    )]
    slots: Vec<u32>,
    /// For progressive: bytes of one slot, as 480KiB; several, with commas between
    #[arg(long, value_name = "SIZE", value_delimiter = ',', value_parser = values::bytes)]
    slot_bytes: Vec<u64>,
    /// Orders of arrival that are drawn at random
    #[arg(long, value_name = "N", default_value_t = 1)]
    orders: u32,
    /// Also the order in which the most alike come in a row, by the first part of their names
    #[arg(long)]
    adversarial: bool,
    /// Merge only, and tell sizes and retention
    #[arg(long)]
    no_score: bool,
    /// The daemon's program [default: beside kmerge, else on PATH]
    #[arg(long, value_name = "PATH")]
    kmerged: Option<PathBuf>,
    #[command(flatten)]
    rules: Rules,
    #[command(flatten)]
    options: Options,
}

const EXAMPLES: &str = "\
EXAMPLES:
  kmerge replay adapters --model smollm2.gguf --tasks tasks --operator progressive,exact --k 1,3
  kmerge replay adapters --model smollm2.gguf --tasks tasks --slot-bytes 1MiB,2MiB --orders 3
  kmerge replay adapters --no-score --operator ties,dare-ties --k 1

S is the mean over tasks of served / original (for the loss: original / served); shown is the mean
over orders, and from the least to the most. Scores are kept in the cache, so that a run that was
stopped goes on. Your own kmerged is not touched.";

impl Replay {
    pub(crate) async fn run(self, context: &Context) -> Result<Exit, Failure> {
        let command = format!("kmerge replay {} …", self.folder.display());
        let kmerged = daemon::find(self.kmerged.clone(), &command)?;
        let tasks = run::tasks(&self)?;
        // Before the long part, so that an adapter that cannot be read is named at once.
        let alike = self.compare(&tasks, context)?;
        let runs = run::all(&self, tasks, &kmerged, context).await?;
        let rows = Row::of(&runs);
        if let Some(path) = &self.options.html {
            let replayed = report::Replayed {
                folder: &self.folder.display().to_string(),
                rows: &rows,
                alike: alike.as_ref(),
                memberships: &membership::of(&runs),
            };
            files::write(path, report::replays(&replayed).as_bytes())?;
        }
        let alike = alike.map(|alike| json!({ "tasks": alike.tasks, "values": alike.values }));
        let document = json!({
            "folder": self.folder.display().to_string(),
            "seed": self.options.seed,
            "similarities": alike,
            "rows": rows.iter().map(Row::json).collect::<Vec<_>>(),
            "runs": runs.iter().map(run::Run::json).collect::<Vec<_>>(),
        });
        context.output.document(&document, || {
            let columns = Row::HEAD.map(|name| match name {
                "K" | "SLOT" | "STORED" | "PER TASK" | "RETENTION" => Column::Right(name),
                name => Column::Left(name),
            });
            let mut table = Table::new(&columns);
            for row in &rows {
                table.row(row.cells());
            }
            table.render()
        })?;
        Ok(Exit::Done)
    }

    /// How alike the adapters are, where that is shown: on a page, or in JSON.
    fn compare(
        &self,
        tasks: &[String],
        context: &Context,
    ) -> Result<Option<Similarities>, Failure> {
        if self.options.html.is_none() && context.output.is_table() {
            return Ok(None);
        }
        let mut adapters = BTreeMap::new();
        for task in tasks {
            adapters.insert(task.clone(), Adapter::read(&self.folder.join(task))?);
        }
        Ok(Some(Similarities::of(&adapters).map_err(Error::from)?))
    }

    /// The policy of one combination. What an operator has no use for is not sent.
    fn policy(
        &self,
        operator: values::Operator,
        slots: u32,
        slot_bytes: Option<u64>,
    ) -> v1::MergePolicy {
        let operator = v1::Operator::from(operator);
        let progressive = operator == v1::Operator::Progressive;
        let sparse = matches!(
            operator,
            v1::Operator::Ties | v1::Operator::DareLinear | v1::Operator::DareTies
        );
        let mut policy = v1::MergePolicy {
            slots: Some(slots),
            operator: operator.into(),
            slot_bytes: slot_bytes.filter(|_| progressive),
            ..self.rules.policy()
        };
        if !progressive {
            policy.floor = None;
            if policy.assignment() == v1::AssignmentRule::Roomiest {
                policy.assignment = v1::AssignmentRule::Unspecified.into();
            }
        } else if policy.assignment() == v1::AssignmentRule::BestPair {
            policy.assignment = v1::AssignmentRule::Unspecified.into();
        }
        if !sparse {
            policy.density = None;
        }
        policy
    }
}

/// An operator's word.
fn word(operator: values::Operator) -> String {
    word_of(v1::Operator::from(operator)).unwrap_or_default()
}
