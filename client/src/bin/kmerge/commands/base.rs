//! `kmerge base`: register base models and look at them.

use std::path::PathBuf;
use std::time::SystemTime;

use clap::{Args, Subcommand};
use kmerge_client::{json, v1};

use super::upkeep::How;
use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::output::views;
use crate::policy::Merging;
use crate::{files, gguf_model, values};

/// Register base models and look at them.
#[derive(Debug, Subcommand)]
pub(crate) enum Base {
    /// Register a base model from its config.json or its GGUF file
    Add(Add),
    /// Change how many slots a base model has, and how many bytes
    Set(Set),
    /// List the base models
    #[command(after_help = "EXAMPLES:\n  kmerge base list\n  kmerge base list --json")]
    List,
    /// Show one base model
    #[command(after_help = "EXAMPLES:\n  kmerge base show smollm2-135m")]
    Show {
        /// Its name
        #[arg(value_parser = values::name)]
        name: String,
    },
}

/// Arguments of `base add`. What is left out is the daemon's configured default.
#[derive(Debug, Args)]
#[command(after_help = ADD_EXAMPLES)]
pub(crate) struct Add {
    /// The name by which adapters will say what they were trained on
    #[arg(value_parser = values::name)]
    name: String,
    /// The model's config.json, as Hugging Face has it; - reads stdin
    #[arg(long, value_name = "FILE", required_unless_present = "gguf")]
    config: Option<PathBuf>,
    /// The model as a GGUF file, of which only the header is read, where there is no config.json
    #[arg(long, value_name = "FILE", conflicts_with = "config")]
    gguf: Option<PathBuf>,
    /// K: at most this many slots
    #[arg(long, value_name = "K")]
    slots: Option<u32>,
    /// At most this many bytes for all slots together, as 64MiB or 1GB; 0: no limit
    #[arg(long, value_name = "SIZE", value_parser = values::bytes)]
    max_bytes: Option<u64>,
    #[command(flatten)]
    merging: Merging,
    /// What exports carry as base_model_name_or_path [default: from config.json]
    #[arg(long, value_name = "NAME")]
    served_as: Option<String>,
}

/// Arguments of `base set`. What is left out stays as it is.
#[derive(Debug, Args)]
#[command(after_help = SET_EXAMPLES)]
pub(crate) struct Set {
    /// Its name
    #[arg(value_parser = values::name)]
    name: String,
    #[command(flatten)]
    budget: Budget,
    #[command(flatten)]
    how: How,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = true)]
struct Budget {
    /// K: at most this many slots
    #[arg(long, value_name = "K")]
    slots: Option<u32>,
    /// At most this many bytes for all slots together, as 64MiB or 1GB; 0: no limit
    #[arg(long, value_name = "SIZE", value_parser = values::bytes)]
    max_bytes: Option<u64>,
    /// For progressive: bytes of one slot with all that belongs to it, as 480KiB; 0: each slot
    /// keeps its own
    #[arg(long, value_name = "SIZE", value_parser = values::bytes)]
    slot_bytes: Option<u64>,
    /// For progressive: refuse what would push a member's retention below this, in [0, 1)
    #[arg(long, value_name = "F")]
    floor: Option<f64>,
}

const SET_EXAMPLES: &str = "\
EXAMPLES:
  kmerge base set smollm2-135m --slots 2 --dry-run
  kmerge base set phone --slot-bytes 1MiB
  kmerge base set phone --max-bytes 0 --floor 0.9

The slots follow at once: members of slots that go move to where the worst kept one stays best
kept, and slots that are averages become one with the most similar other. --dry-run says beforehand
what it costs.";

const ADD_EXAMPLES: &str = "\
EXAMPLES:
  kmerge base add smollm2-135m --config config.json
  kmerge base add llama-3.2-1b --config config.json --slots 8 --max-bytes 128MiB --operator exact
  kmerge base add qwen3-0.6b --config config.json --assignment kmerge++ --threshold 0.05
  kmerge base add phone --config config.json --operator progressive --slot-bytes 2MiB
  kmerge base add smollm2-135m --gguf SmolLM2-135M-Instruct-Q4_K_M.gguf";

impl Base {
    pub(crate) async fn run(self, context: &Context) -> Result<Exit, Failure> {
        match self {
            Self::Add(add) => add.run(context).await,
            Self::Set(set) => set.run(context).await,
            Self::List => list(context).await,
            Self::Show { name } => {
                let base = context.client().await?.get_base_model(&name).await?;
                show(context, &base)
            }
        }
    }
}

impl Add {
    async fn run(self, context: &Context) -> Result<Exit, Failure> {
        let config = match (&self.config, &self.gguf) {
            (_, Some(model)) => gguf_model::config(model)?,
            (Some(config), None) => files::read_config(config)?,
            (None, None) => return Err(Failure::usage("a config.json or a GGUF file is needed")),
        };
        let client = context.client().await?;
        let base = client.register_base_model(self.request(config)).await?;
        show(context, &base)?;
        let name = &base.name;
        context.output.note(&format!(
            "next: kmerge push PATH --task NAME --base {name} --wait"
        ));
        Ok(Exit::Done)
    }

    fn request(self, config: Vec<u8>) -> v1::RegisterBaseModelRequest {
        v1::RegisterBaseModelRequest {
            name: self.name,
            config,
            policy: Some(v1::MergePolicy {
                slots: self.slots,
                max_bytes: self.max_bytes,
                ..self.merging.policy()
            }),
            served_as: self.served_as.unwrap_or_default(),
        }
    }
}

impl Set {
    async fn run(self, context: &Context) -> Result<Exit, Failure> {
        let client = context.client().await?;
        let request = v1::SetBudgetRequest {
            base_model: self.name,
            slots: self.budget.slots,
            max_bytes: self.budget.max_bytes,
            slot_bytes: self.budget.slot_bytes,
            floor: self.budget.floor,
            request_id: self.how.request_id(),
            validate_only: self.how.is_dry_run(),
        };
        let done = client.set_budget(request).await?;
        self.how.finish(context, &client, done).await
    }
}

async fn list(context: &Context) -> Result<Exit, Failure> {
    let bases = context.client().await?.list_base_models().await?;
    context
        .output
        .list("base_models", json::messages(&bases), || {
            views::base_models(&bases)
        })?;
    Ok(Exit::Done)
}

fn show(context: &Context, base: &v1::BaseModel) -> Result<Exit, Failure> {
    let now = SystemTime::now();
    context
        .output
        .document(&json::message(base), || views::base_model(base, now))?;
    Ok(Exit::Done)
}
