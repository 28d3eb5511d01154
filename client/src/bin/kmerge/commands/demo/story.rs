//! What the demo does with its daemon, and how it tells it: a line for each step as it happens,
//! or one JSON document at the end.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use kmerge_client::{Client, Fetch, Fetched, Upload, json, v1};
use owo_colors::OwoColorize as _;
use serde_json::json;

use super::Demo;
use super::adapters::{ADAPTERS, BASE_CONFIG};
use crate::commands::pull;
use crate::context::Context;
use crate::daemon::Daemon;
use crate::failure::Failure;
use crate::output::{text, views};

/// The base model's name in the demo.
const BASE: &str = "smollm2-135m";

/// The tasks that are resolved at the end: one problem type in both languages.
const ASKED: [&str; 2] = ["slug-en", "slug-de"];

/// The width that is left for a decision's reason.
const REASON_WIDTH: usize = 52;

/// Everything that happened, for the JSON document and the last words.
#[derive(Debug)]
pub(super) struct Story {
    base_model: v1::BaseModel,
    jobs: Vec<v1::Job>,
    slots: Vec<v1::Slot>,
    resolved: Vec<v1::ResolveTaskResponse>,
    export: Fetched,
}

/// Lives through the demo.
pub(super) async fn tell(
    demo: &Demo,
    context: &Context,
    daemon: &mut Daemon,
) -> Result<Story, Failure> {
    let output = &context.output;
    output.say("Starting a kmerged of its own ...")?;
    let client = daemon.ready().await?;
    output.say(&format!("It is ready, on {}.\n", daemon.socket().display()))?;

    let base_model = client
        .register_base_model(v1::RegisterBaseModelRequest {
            name: BASE.to_owned(),
            config: BASE_CONFIG.to_vec(),
            policy: Some(demo.policy()),
            served_as: String::new(),
        })
        .await?;
    output.say(&introduction(&base_model))?;

    let mut jobs = Vec::new();
    for adapter in ADAPTERS {
        let job = push(&client, adapter.task, &adapter.open()).await?;
        output.say(&line(&job))?;
        jobs.push(job);
    }

    let slots = client.list_slots(Some(BASE)).await?;
    output.say(&format!(
        "\n{}\n{}",
        "The slots:".bold(),
        views::slots(&slots, SystemTime::now())
    ))?;

    let mut resolved = Vec::new();
    for task in ASKED {
        resolved.push(client.resolve_task(BASE, task).await?);
    }
    output.say(&answers(&resolved))?;

    let export = pull(&client, &resolved[0], demo.out.as_deref()).await?;
    Ok(Story {
        base_model,
        jobs,
        slots,
        resolved,
        export,
    })
}

impl Story {
    /// The last words, once the daemon has stopped.
    pub(super) fn end(&self, context: &Context) -> Result<(), Failure> {
        let document = json!({
            "base_model": json::message(&self.base_model),
            "jobs": json::messages(&self.jobs),
            "slots": json::messages(&self.slots),
            "resolved": json::messages(&self.resolved),
            "export": pull::document(&self.export),
        });
        context.output.document(&document, || {
            let header = &self.export.header;
            format!(
                "\n{}\n  {}\n  slot {}, generation {}: a PEFT adapter like any other\n\n\
                 kmerged has stopped, and its directory is gone.\n\n{}",
                "An export, which stays:".bold(),
                self.export.directory.display(),
                header.slot,
                header.generation,
                next_steps(),
            )
        })
    }
}

/// Pushes one adapter and waits until it is in its slot.
async fn push(
    client: &Client,
    task: &str,
    adapter: &kmerge_client::Adapter,
) -> Result<v1::Job, Failure> {
    let answer = client
        .upload_adapter(adapter, &Upload::new(task, BASE), |_| ())
        .await?;
    let id = answer.job.map(|job| job.id).unwrap_or_default();
    let job = client.watch_job(id).ended().await?;
    if job.state() == v1::JobState::Done {
        Ok(job)
    } else {
        Err(Failure::job(&job))
    }
}

/// Pulls the slot that serves a task, to where the user said or to a new directory that stays.
async fn pull(
    client: &Client,
    resolved: &v1::ResolveTaskResponse,
    out: Option<&Path>,
) -> Result<Fetched, Failure> {
    let fetch = |into: PathBuf| Fetch {
        base_model: BASE.to_owned(),
        slot: resolved.slot,
        generation: resolved.generation,
        format: v1::AdapterFormat::Peft,
        into,
        replace: true,
    };
    if let Some(out) = out {
        return Ok(client
            .fetch_task(&fetch(out.to_owned()), &resolved.task)
            .await?);
    }
    let room = tempfile::Builder::new()
        .prefix("kmerge-demo-export-")
        .tempdir()
        .map_err(|error| Failure::system("create a temporary directory", &error))?;
    let fetched = client
        .fetch_task(&fetch(room.path().join(&resolved.task)), &resolved.task)
        .await?;
    let _ = room.keep();
    Ok(fetched)
}

fn introduction(base: &v1::BaseModel) -> String {
    let policy = base.policy.unwrap_or_default();
    format!(
        "{} {}, {} layers; {}, assignment {}, operator {}.\n\n{}",
        base.name.bold(),
        base.architecture,
        base.layers,
        text::count(policy.slots().into(), "slot"),
        json::word_of(policy.assignment()).unwrap_or_default(),
        json::word_of(policy.operator()).unwrap_or_default(),
        columns("TASK", "DECISION", "SIMILARITY", "WHY").dimmed(),
    )
}

/// One adapter's fate, a line.
fn line(job: &v1::Job) -> String {
    let decision = job.decision.clone().unwrap_or_default();
    let best = decision
        .similarities
        .iter()
        .map(|compared| compared.similarity);
    let best = best
        .reduce(f64::max)
        .map_or_else(|| "-".to_owned(), text::similarity);
    let verb = match decision.assignment() {
        v1::Assignment::Opened => "opened",
        v1::Assignment::Merged => "merged",
        v1::Assignment::Unspecified => "put",
    };
    let what = format!("{verb} slot {}", decision.slot);
    columns(
        &job.task,
        &what,
        &best,
        &text::shorten(&decision.reason, REASON_WIDTH),
    )
}

fn columns(task: &str, decision: &str, similarity: &str, why: &str) -> String {
    format!("{task:<14} {decision:<15} {similarity:>10}  {why}")
}

fn answers(resolved: &[v1::ResolveTaskResponse]) -> String {
    let mut said = format!("\n{}\n", "Which slot serves a task:".bold());
    for answer in resolved {
        let arrow = "->".dimmed();
        said += &format!(
            "  {} {arrow} slot {}, generation {}, {}\n",
            answer.task, answer.slot, answer.generation, answer.path
        );
    }
    said
}

fn next_steps() -> String {
    format!(
        "{}\n\
         \x20 kmerged &                                        start a daemon of your own\n\
         \x20 kmerge base add NAME --config config.json        tell it which model you run\n\
         \x20 kmerge push ADAPTER_DIRECTORY --task NAME --wait bring in an adapter\n\
         \x20 kmerge resolve NAME                              ask where it is served from",
        "What to type next:".bold()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_the_best_similarity_and_a_short_reason() {
        let decision = v1::Decision {
            assignment: v1::Assignment::Merged.into(),
            slot: 2,
            similarities: [0.01, 0.0784, -0.2]
                .into_iter()
                .zip(0..)
                .map(|(similarity, slot)| v1::SlotSimilarity { slot, similarity })
                .collect(),
            reason: "all 3 slots are taken, and slot 1 is the most similar of them all by far"
                .into(),
            ..v1::Decision::default()
        };
        let job = v1::Job {
            task: "slug-de".into(),
            decision: Some(decision),
            ..v1::Job::default()
        };
        assert_eq!(
            line(&job),
            "slug-de        merged slot 2       0.0784  all 3 slots are taken, and slot 1 is the most simil…"
        );
        let first = v1::Decision {
            assignment: v1::Assignment::Opened.into(),
            ..Default::default()
        };
        let job = v1::Job {
            task: "a".into(),
            decision: Some(first),
            ..v1::Job::default()
        };
        assert_eq!(
            line(&job).trim_end(),
            "a              opened slot 0            -"
        );
    }
}
