//! `kmerge pull`: a slot's adapter into a directory.

use std::path::PathBuf;

use clap::Args;
use kmerge_client::{Fetch, Fetched, json};

use crate::context::{Context, base_model};
use crate::failure::{Exit, Failure};
use crate::output::table::{Column, Table};
use crate::output::text;
use crate::values::{self, ExportFormat, SlotOrTask};

/// Arguments of `pull`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Pull {
    /// A slot's number, or a task: then the task's own adapter, where slots keep members apart
    #[arg(value_name = "SLOT|TASK", value_parser = values::slot_or_task)]
    what: SlotOrTask,
    /// Its base model [default: the only one that is registered]
    #[arg(long, value_name = "NAME", value_parser = values::name)]
    base: Option<String>,
    /// The format to write
    #[arg(long = "as", value_name = "FORMAT", value_enum, default_value = "peft")]
    export_format: ExportFormat,
    /// The directory to make; its parents are made as needed
    #[arg(long, short, value_name = "DIR")]
    out: PathBuf,
    /// This generation of the slot [default: the newest]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    generation: Option<u64>,
    /// Replace an earlier export in DIR; anything else that is found there is left alone
    #[arg(long, short)]
    force: bool,
}

const EXAMPLES: &str = "\
EXAMPLES:
  kmerge pull slug-en --as peft --out ./slug-en
  kmerge pull slug-en --as gguf --out ./slug-en.llama
  kmerge pull 0 --base smollm2-135m --out ./slot-0 --generation 3
  kmerge pull slug-en --out ./slug-en --force

A name of digits only is a slot. The directory appears whole, or not at all.";

impl Pull {
    pub(crate) async fn run(self, context: &Context) -> Result<Exit, Failure> {
        let client = context.client().await?;
        let base_model = base_model(&client, self.base).await?;
        let fetch = Fetch {
            base_model,
            slot: 0,
            generation: self.generation.unwrap_or(0),
            format: self.export_format.into(),
            into: self.out,
            replace: self.force,
        };
        let fetched = match self.what {
            SlotOrTask::Slot(slot) => client.fetch_slot(&Fetch { slot, ..fetch }).await?,
            // The daemon finds the slot, and gives the task's own adapter where there is one.
            SlotOrTask::Task(task) => client.fetch_task(&fetch, &task).await?,
        };
        context
            .output
            .document(&document(&fetched), || view(&fetched))?;
        Ok(Exit::Done)
    }
}

/// The export's facts, and where it is.
pub(crate) fn document(fetched: &Fetched) -> serde_json::Value {
    let mut document = json::message(&fetched.header);
    document["out"] = fetched.directory.display().to_string().into();
    document
}

fn view(fetched: &Fetched) -> String {
    let header = &fetched.header;
    let mut table = Table::new(&[
        Column::Left("FILE"),
        Column::Right("SIZE"),
        Column::Left("SHA256"),
    ]);
    for file in &header.files {
        let digest = text::digest(&file.sha256).to_owned();
        table.row([file.name.clone(), text::bytes(file.size_bytes), digest]);
    }
    let of_task = if header.task.is_empty() {
        String::new()
    } else {
        format!("{} in ", header.task)
    };
    format!(
        "{of_task}slot {} of {}, generation {}, in {}\n{}",
        header.slot,
        header.base_model,
        header.generation,
        fetched.directory.display(),
        table.render()
    )
}
