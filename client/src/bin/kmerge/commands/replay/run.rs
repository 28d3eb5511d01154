//! One order of arrival through one daemon, and the scores of what it then serves.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use kmerge_client::{Adapter as Upload, Client, Upload as Wish, v1};
use serde_json::{Value as Json, json};
use tempfile::TempDir;

use super::Replay;
use super::membership::{Arrival, Arrivals};
use super::plan::{Combination, Order, combinations, orders};
use crate::commands::score::view::kept_json;
use crate::commands::score::{aside, fetch, temporary};
use crate::context::Context;
use crate::daemon::Daemon;
use crate::failure::Failure;
use crate::files as user_files;
use crate::output::progress::Bar;
use crate::score::adapter::Adapter;
use crate::score::bootstrap::{Kept, Pair, kept};
use crate::score::examples::{Task, files_of};
use crate::score::metrics::{Figures, Outcome};
use crate::score::{Scorer, files};

/// The base model's name in a replay.
const BASE: &str = "replay";

/// What became of one order.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) combination: Combination,
    pub(super) order: Order,
    slots: Vec<v1::Slot>,
    /// Tasks that the daemon refused, as below its floor.
    pub(super) refused: Vec<String>,
    /// Mean over tasks, where the daemon tells.
    pub(super) retention: Option<f64>,
    /// Mean bytes of an adapter as it was sent.
    adapter_bytes: f64,
    pub(super) kept: Option<Kept>,
    /// Each task's figures with the adapter that served it.
    figures: BTreeMap<String, Figures>,
}

/// A model with all examples, and the outcomes of the originals.
struct Bench {
    scorer: Scorer,
    tasks: Vec<Task>,
    originals: BTreeMap<String, Vec<Outcome>>,
    bar: Bar,
}

/// What a daemon served in the end.
struct Served {
    slots: Vec<v1::Slot>,
    adapters: Vec<v1::Adapter>,
    refused: Vec<String>,
    /// A directory for each task that was merged.
    room: TempDir,
}

/// The tasks that have an adapter in the folder, by name.
pub(super) fn tasks(replay: &Replay) -> Result<Vec<String>, Failure> {
    let mut adapters = Vec::new();
    for path in files::list(&replay.folder)? {
        if path.join("adapter_config.json").is_file()
            && let Some(name) = path.file_name().and_then(|name| name.to_str())
        {
            adapters.push(name.to_owned());
        }
    }
    if adapters.is_empty() {
        let message = format!("{} has no adapters", replay.folder.display());
        let hint = "each folder in it is a PEFT directory, named after its task";
        return Err(Failure::usage(message).hint(hint));
    }
    Ok(adapters)
}

/// Runs everything that the arguments name, with the tasks of the folder.
pub(super) async fn all(
    replay: &Replay,
    adapters: Vec<String>,
    kmerged: &Path,
    context: &Context,
) -> Result<Vec<Run>, Failure> {
    let config = match &replay.config {
        Some(path) => path.clone(),
        None => replay.folder.join("../base/config.json"),
    };
    let config = user_files::read_config(&config)?;
    let orders = orders(
        &adapters,
        replay.orders,
        replay.adversarial,
        replay.options.seed,
    );
    let combinations = combinations(replay);
    let steps = combinations.len() * orders.len();
    // The bar counts examples where there are some, else orders.
    let bar = Bar::steps(&context.output, steps);
    let bench = match (&replay.model, &replay.tasks) {
        (Some(model), Some(tasks)) if !replay.no_score => {
            bar.at("scoring the originals");
            let (model, tasks) = (model.clone(), tasks.clone());
            let (options, folder) = (replay.options.clone(), replay.folder.clone());
            let shown = bar.clone();
            let open = move || {
                let scorer = options.scorer(&model)?;
                Bench::open(scorer, &tasks, &folder, &adapters, steps, shown)
            };
            Some(Arc::new(Mutex::new(interruptible(aside(open)).await?)))
        }
        _ => None,
    };
    let mut runs = Vec::with_capacity(steps);
    for combination in combinations {
        for order in &orders {
            bar.at(&format!("{}, {}", combination.name(), order.name));
            let served = serve(replay, kmerged, &config, combination, order).await?;
            let run = Run::new(combination, order, served, bench.as_ref(), replay).await?;
            runs.push(run);
            if bench.is_none() {
                bar.steps_done(1);
            }
        }
    }
    bar.finish();
    Ok(runs)
}

/// Work that ends when the user interrupts.
async fn interruptible<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    tokio::select! {
        result = work => result,
        interrupted = tokio::signal::ctrl_c() => match interrupted {
            Ok(()) => Err(Failure::interrupted()),
            Err(error) => Err(Failure::system("listen for interrupts", &error)),
        },
    }
}

/// Starts a daemon, pushes all adapters, fetches what it serves, and stops it.
async fn serve(
    replay: &Replay,
    kmerged: &Path,
    config: &[u8],
    combination: Combination,
    order: &Order,
) -> Result<Served, Failure> {
    let state = tempfile::Builder::new()
        .prefix("kmerge-replay-")
        .tempdir()
        .map_err(|error| Failure::system("create a temporary directory", &error))?;
    let mut daemon = Daemon::start(kmerged, state.path())?;
    let work = async {
        let client = daemon.ready().await?;
        let Combination {
            operator,
            slots,
            slot_bytes,
        } = combination;
        let request = v1::RegisterBaseModelRequest {
            name: BASE.to_owned(),
            config: config.to_vec(),
            policy: Some(replay.policy(operator, slots, slot_bytes)),
            served_as: String::new(),
        };
        client.register_base_model(request).await?;
        let mut refused = Vec::new();
        for task in &order.tasks {
            let done = push(&client, task, replay.folder.join(task)).await?;
            if !done {
                refused.push(task.clone());
            }
        }
        let adapters = client.list_adapters(Some(BASE)).await?;
        let room = temporary()?;
        let names = adapters.iter().map(|adapter| adapter.task.as_str());
        fetch(&client, BASE, names, room.path()).await?;
        Ok(Served {
            slots: client.list_slots(Some(BASE)).await?,
            adapters,
            refused,
            room,
        })
    };
    let served = interruptible(work).await;
    let stopped = daemon.stop().await;
    let served = served?;
    stopped?;
    Ok(served)
}

/// Pushes one adapter and waits; whether it is in a slot now. What is refused because it would
/// push a member below the floor is no failure of the replay.
async fn push(client: &Client, task: &str, path: PathBuf) -> Result<bool, Failure> {
    let adapter = Upload::open(path).await?;
    let wish = Wish::new(task, BASE);
    let answer = client.upload_adapter(&adapter, &wish, |_| ()).await?;
    let id = answer.job.map(|job| job.id).unwrap_or_default();
    let job = client.watch_job(id).ended().await?;
    let below_floor = |error: &v1::JobError| error.reason.contains("FLOOR");
    match job.state() {
        v1::JobState::Done => Ok(true),
        v1::JobState::Failed if job.error.as_ref().is_some_and(below_floor) => Ok(false),
        v1::JobState::Unspecified
        | v1::JobState::Queued
        | v1::JobState::Running
        | v1::JobState::Failed
        | v1::JobState::Cancelled => Err(Failure::job(&job)),
    }
}

impl Bench {
    /// Reads the examples of all adapters that have some, and scores the originals; `runs` are
    /// to come after them.
    fn open(
        scorer: Scorer,
        tasks: &Path,
        folder: &Path,
        adapters: &[String],
        runs: usize,
        bar: Bar,
    ) -> Result<Self, Failure> {
        let mut bench_tasks = Vec::new();
        for (name, path) in files_of(tasks)? {
            if adapters.contains(&name) {
                bench_tasks.push(scorer.task(&name, &path)?);
            }
        }
        if bench_tasks.is_empty() {
            let message = format!("no adapter has examples in {}", tasks.display());
            let hint = "name the files after the adapters' folders: TASK.jsonl";
            return Err(Failure::usage(message).hint(hint));
        }
        let examples: usize = bench_tasks.iter().map(|task| task.examples.len()).sum();
        bar.of(examples * (runs + 1));
        let mut bench = Self {
            scorer,
            tasks: bench_tasks,
            originals: BTreeMap::new(),
            bar,
        };
        bench.originals = bench.score(folder)?;
        Ok(bench)
    }

    /// Scores the adapters in the folders of a directory that are named after tasks.
    fn score(&mut self, room: &Path) -> Result<BTreeMap<String, Vec<Outcome>>, Failure> {
        let mut outcomes = BTreeMap::new();
        let done = |examples| self.bar.steps_done(examples);
        for task in &self.tasks {
            let path = room.join(&task.name);
            if path.is_dir() {
                let adapter = Adapter::read(&path)?;
                let outcome = self.scorer.score(task, Some(&adapter), &done)?;
                outcomes.insert(task.name.clone(), outcome);
            } else {
                done(task.examples.len());
            }
        }
        Ok(outcomes)
    }
}

impl Run {
    async fn new(
        combination: Combination,
        order: &Order,
        served: Served,
        bench: Option<&Arc<Mutex<Bench>>>,
        replay: &Replay,
    ) -> Result<Self, Failure> {
        let Served {
            slots,
            adapters,
            refused,
            room,
        } = served;
        let seed = replay.options.seed;
        let mut scored = (None, BTreeMap::new());
        if let Some(bench) = bench {
            let bench = Arc::clone(bench);
            let path = room.path().to_owned();
            let work = move || {
                let mut bench = bench.lock().unwrap_or_else(PoisonError::into_inner);
                let outcomes = bench.score(&path)?;
                let pairs: Vec<Pair<'_>> = outcomes
                    .iter()
                    .filter_map(|(task, served)| {
                        let original = bench.originals.get(task)?;
                        Some(Pair { served, original })
                    })
                    .collect();
                let figures = outcomes
                    .iter()
                    .map(|(task, outcomes)| (task.clone(), Figures::of(outcomes)));
                Ok((Some(kept(&pairs, seed)), figures.collect()))
            };
            scored = interruptible(aside(work)).await?;
        }
        let count = real(u64::try_from(adapters.len()).unwrap_or(u64::MAX));
        let sent = adapters.iter().map(|adapter| real(adapter.size_bytes));
        let fidelities: Option<Vec<f64>> = adapters
            .iter()
            .map(|adapter| Some(adapter.fidelity.as_ref()?.retention))
            .collect();
        Ok(Self {
            combination,
            order: order.clone(),
            refused,
            retention: fidelities.map(|all| all.iter().sum::<f64>() / count),
            adapter_bytes: sent.sum::<f64>() / count,
            slots,
            kept: scored.0,
            figures: scored.1,
        })
    }

    /// Bytes of all slots together.
    pub(super) fn stored(&self) -> f64 {
        self.slots.iter().map(|slot| real(slot.bytes)).sum()
    }

    /// Those bytes for each task, as a share of an adapter's own.
    pub(super) fn share(&self) -> f64 {
        let members = self
            .slots
            .iter()
            .map(|slot| slot.members.len())
            .sum::<usize>();
        let members = real(u64::try_from(members).unwrap_or(u64::MAX));
        self.stored() / members / self.adapter_bytes
    }

    /// Where each task went.
    pub(super) fn arrivals(&self) -> Arrivals {
        let slot_of = |task: &str| {
            let has = |slot: &&v1::Slot| slot.members.iter().any(|member| member.task == task);
            self.slots.iter().find(has).map(|slot| slot.slot)
        };
        let mut tasks: Vec<Arrival> = (1..)
            .zip(&self.order.tasks)
            .map(|(place, task)| Arrival {
                task: task.clone(),
                place,
                slot: slot_of(task),
            })
            .collect();
        tasks.sort_by(|a, b| a.task.cmp(&b.task));
        Arrivals {
            order: self.order.name.clone(),
            tasks,
        }
    }

    /// As a document.
    pub(super) fn json(&self) -> Json {
        let figures: serde_json::Map<String, Json> = self
            .figures
            .iter()
            .map(|(task, figures)| {
                let figures = json!({
                    "accuracy": figures.accuracy, "loss": figures.loss,
                    "exact_match": figures.exact,
                });
                (task.clone(), figures)
            })
            .collect();
        json!({
            "operator": super::word(self.combination.operator),
            "slots": self.combination.slots,
            "slot_bytes": self.combination.slot_bytes,
            "order": self.order.name,
            "tasks": self.order.tasks,
            "refused": self.refused,
            "stored_bytes": self.stored(),
            "bytes_per_task": self.share(),
            "retention": self.retention,
            "kept": self.kept.map(kept_json),
            "served": figures,
            "members": self.slots.iter().map(|slot| {
                slot.members.iter().map(|member| member.task.as_str()).collect::<Vec<_>>()
            }).collect::<Vec<_>>(),
        })
    }
}

/// A number of bytes to calculate with.
fn real(count: u64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "exact up to 2^53 bytes")]
    {
        count as f64
    }
}
