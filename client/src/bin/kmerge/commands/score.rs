//! `kmerge score`: how well the served adapters do their tasks on the real model.
//!
//! 1. The tasks are those that have been merged and have examples.
//! 2. The adapter that serves each is fetched from the daemon, as an app would get it.
//! 3. The model runs alone, with the original adapter if there is one, and with the served one.

mod options;
pub(crate) mod view;

use std::path::PathBuf;

use clap::Args;
use kmerge_client::{Client, Fetch, v1};

use crate::context::{Context, base_model};
use crate::failure::{Exit, Failure};
use crate::output::progress::Bar;
use crate::score::adapter::Adapter;
use crate::score::examples;
use crate::score::metrics::Outcome;
use crate::values;
pub(crate) use options::{Options, aside};

/// Arguments of `score`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Score {
    /// The model: a GGUF file, or a directory with config.json, safetensors and tokenizer.json
    #[arg(long, value_name = "FILE|DIR")]
    model: PathBuf,
    /// The directory with TASK.jsonl for each task: a prompt and a target a line
    #[arg(long, value_name = "DIR")]
    tasks: PathBuf,
    /// The base model in the daemon [default: the only one that is registered]
    #[arg(long, value_name = "NAME", value_parser = values::name)]
    base: Option<String>,
    /// The directory with TASK/ for each task: the adapter as it was trained, to compare with
    #[arg(long, value_name = "DIR")]
    originals: Option<PathBuf>,
    #[command(flatten)]
    options: Options,
}

const EXAMPLES: &str = "\
EXAMPLES:
  kmerge score --model smollm2.gguf --tasks tasks --originals adapters
  kmerge score --model ./Qwen2-0.5B --tasks tasks --examples 40 --html score.html
  kmerge score --model smollm2.gguf --tasks tasks --json | jq .kept

Everything is teacher-forced: at each token of the target the model sees the right ones before.
S is the mean over tasks of served / original (for the loss: original / served), with a 95 %
interval over tasks and examples. What was scored once is kept in the cache.";

/// What became of one task.
#[derive(Debug, Clone)]
pub(crate) struct Scored {
    pub(crate) task: String,
    pub(crate) slot: u32,
    pub(crate) retention: Option<f64>,
    pub(crate) base: Vec<Outcome>,
    pub(crate) served: Vec<Outcome>,
    pub(crate) original: Option<Vec<Outcome>>,
}

/// What is to be scored.
struct Work {
    /// Each task's name, its examples' file, its slot and retention.
    tasks: Vec<(v1::Adapter, PathBuf)>,
    /// The directory with each task's served adapter.
    served: PathBuf,
    originals: Option<PathBuf>,
}

impl Score {
    pub(crate) async fn run(self, context: &Context) -> Result<Exit, Failure> {
        let client = context.client().await?;
        let base_model = base_model(&client, self.base.clone()).await?;
        let merged = client.list_adapters(Some(&base_model)).await?;
        let files = examples::files_of(&self.tasks)?;
        let tasks: Vec<_> = files
            .into_iter()
            .filter_map(|(name, path)| {
                let adapter = merged.iter().find(|adapter| adapter.task == name)?;
                Some((adapter.clone(), path))
            })
            .collect();
        if tasks.is_empty() {
            let message = format!(
                "no task of {base_model} has examples in {}",
                self.tasks.display()
            );
            return Err(Failure::not_found("NO_TASKS", message)
                .hint("name the files after the tasks that `kmerge tasks` lists: TASK.jsonl"));
        }
        let slots = client.list_slots(Some(&base_model)).await?;
        let jobs = client
            .list_jobs(Some(&base_model), Some(v1::JobState::Done))
            .await?;
        let room = temporary()?;
        let names = tasks.iter().map(|(adapter, _)| adapter.task.as_str());
        fetch(&client, &base_model, names, room.path()).await?;
        let work = Work {
            tasks,
            served: room.path().to_owned(),
            originals: self.originals.clone(),
        };
        let (options, model) = (self.options.clone(), self.model.clone());
        let output = context.output;
        let scored = aside(move || work.run(&options, &model, &output)).await?;
        let told = view::Told {
            base_model: &base_model,
            model: &self.model,
            seed: self.options.seed,
            scored: &scored,
            slots: &slots,
            jobs: &jobs,
        };
        told.tell(context, self.options.html.as_deref())?;
        Ok(Exit::Done)
    }
}

/// A directory that goes when it is dropped.
pub(crate) fn temporary() -> Result<tempfile::TempDir, Failure> {
    tempfile::Builder::new()
        .prefix("kmerge-score-")
        .tempdir()
        .map_err(|error| Failure::system("create a temporary directory", &error))
}

/// Fetches the adapter that serves each task into a directory of that name.
pub(crate) async fn fetch(
    client: &Client,
    base_model: &str,
    tasks: impl Iterator<Item = &str>,
    into: &std::path::Path,
) -> Result<(), Failure> {
    for task in tasks {
        let fetch = Fetch {
            base_model: base_model.to_owned(),
            slot: 0,
            generation: 0,
            format: v1::AdapterFormat::Peft,
            into: into.join(task),
            replace: false,
        };
        client.fetch_task(&fetch, task).await?;
    }
    Ok(())
}

impl Work {
    fn run(
        &self,
        options: &Options,
        model: &std::path::Path,
        output: &crate::output::Output,
    ) -> Result<Vec<Scored>, Failure> {
        let bar = Bar::steps(output, 0);
        bar.at("reading the model");
        let mut scorer = options.scorer(model)?;
        let mut tasks = Vec::with_capacity(self.tasks.len());
        let mut steps = 0;
        for (merged, path) in &self.tasks {
            let task = scorer.task(&merged.task, path)?;
            let original = self.originals.as_ref().map(|path| path.join(&merged.task));
            let original = original.filter(|path| path.is_dir());
            steps += task.examples.len() * if original.is_some() { 3 } else { 2 };
            tasks.push((merged, task, original));
        }
        bar.of(steps);
        let done = |examples| bar.steps_done(examples);
        let mut scored = Vec::new();
        for (merged, task, original) in &tasks {
            let name = &merged.task;
            bar.at(&format!("{name}, the model alone"));
            let base = scorer.score(task, None, &done)?;
            bar.at(&format!("{name}, as served"));
            let served = Adapter::read(&self.served.join(name))?;
            let served = scorer.score(task, Some(&served), &done)?;
            let original = match original {
                Some(path) => {
                    bar.at(&format!("{name}, the original"));
                    Some(scorer.score(task, Some(&Adapter::read(path)?), &done)?)
                }
                None => None,
            };
            scored.push(Scored {
                task: name.clone(),
                slot: merged.slot,
                retention: merged.fidelity.as_ref().map(|kept| kept.retention),
                base,
                served,
                original,
            });
        }
        bar.finish();
        Ok(scored)
    }
}
