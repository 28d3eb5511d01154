//! `kmerge pull`: a slot's adapter into a directory.

use std::path::PathBuf;

use clap::Args;
use kmerge_client::{Client, Fetch, Fetched, json};

use crate::bake::bake;
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
    /// With --as model: the base's own weights, a safetensors file or the directory of a model
    #[arg(long, value_name = "PATH", required_if_eq("export_format", "model"))]
    base_weights: Option<PathBuf>,
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
  kmerge pull slug-en --as model --base-weights ./SmolLM2-135M --out ./SmolLM2-slug-en
  kmerge pull 0 --base smollm2-135m --out ./slot-0 --generation 3
  kmerge pull slug-en --out ./slug-en --force

A name of digits only is a slot. The directory appears whole, or not at all.";

impl Pull {
    pub(crate) async fn run(self, context: &Context) -> Result<Exit, Failure> {
        let weights = match (self.export_format, &self.base_weights) {
            (ExportFormat::Model, Some(weights)) => Some(weights.clone()),
            (ExportFormat::Model, None) => {
                return Err(Failure::usage("--as model needs --base-weights"));
            }
            (ExportFormat::Peft | ExportFormat::Gguf | ExportFormat::Mlx, None) => None,
            (ExportFormat::Peft | ExportFormat::Gguf | ExportFormat::Mlx, Some(_)) => {
                return Err(Failure::usage("--base-weights is for --as model only"));
            }
        };
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
        match weights {
            None => {
                let fetched = get(&client, fetch, self.what).await?;
                context
                    .output
                    .document(&document(&fetched), || view(&fetched))?;
            }
            Some(weights) => model(context, &client, fetch, self.what, weights).await?,
        }
        Ok(Exit::Done)
    }
}

async fn get(client: &Client, fetch: Fetch, what: SlotOrTask) -> Result<Fetched, Failure> {
    Ok(match what {
        SlotOrTask::Slot(slot) => client.fetch_slot(&Fetch { slot, ..fetch }).await?,
        // The daemon finds the slot, and gives the task's own adapter where there is one.
        SlotOrTask::Task(task) => client.fetch_task(&fetch, &task).await?,
    })
}

/// Fetches the adapter to a place of its own and works it into a copy of the base's weights.
async fn model(
    context: &Context,
    client: &Client,
    fetch: Fetch,
    what: SlotOrTask,
    weights: PathBuf,
) -> Result<(), Failure> {
    let room = tempfile::tempdir()
        .map_err(|error| Failure::system("create a temporary directory", &error))?;
    let out = fetch.into.clone();
    let fetch = Fetch {
        into: room.path().join("adapter"),
        ..fetch
    };
    let fetched = get(client, fetch, what).await?;
    let adapter = fetched.directory.clone();
    let baked = tokio::task::spawn_blocking(move || bake(&adapter, &weights, &out))
        .await
        .map_err(|_| Failure::failed("BUG", "working the adapter in panicked"))??;
    let mut facts = json::message(&fetched.header);
    // Those were the adapter's files.
    facts.as_object_mut().map(|facts| facts.remove("files"));
    facts["format"] = "model".into();
    facts["out"] = baked.directory.display().to_string().into();
    facts["modules"] = baked.modules.into();
    facts["tensors"] = baked.tensors.into();
    facts["bytes"] = baked.bytes.into();
    context.output.document(&facts, || {
        format!(
            "{} of {} tensors changed, {}, in {}",
            baked.modules,
            baked.tensors,
            text::bytes(baked.bytes),
            baked.directory.display()
        )
    })?;
    Ok(())
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
