//! `kmerge jobs`, `kmerge job` and `kmerge cancel`.

use std::time::SystemTime;

use clap::Args;
use kmerge_client::{Client, json, v1};

use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::output::progress::Bar;
use crate::output::views;
use crate::values;

/// Arguments of `jobs`.
#[derive(Debug, Args)]
#[command(
    after_help = "EXAMPLES:\n  kmerge jobs\n  kmerge jobs --state failed --json | jq '.jobs[].error.message'"
)]
pub(crate) struct Jobs {
    /// Only those of this base model
    #[arg(long, value_name = "NAME", value_parser = values::name)]
    base: Option<String>,
    /// Only those in this state
    #[arg(long, value_name = "STATE", value_enum)]
    state: Option<values::State>,
}

impl Jobs {
    pub(crate) async fn run(self, context: &Context) -> Result<Exit, Failure> {
        let state = self.state.map(v1::JobState::from);
        let jobs = context
            .client()
            .await?
            .list_jobs(self.base.as_deref(), state)
            .await?;
        let now = SystemTime::now();
        context
            .output
            .list("jobs", json::messages(&jobs), || views::jobs(&jobs, now))?;
        Ok(Exit::Done)
    }
}

/// Arguments of `job`.
#[derive(Debug, Args)]
#[command(
    after_help = "EXAMPLES:\n  kmerge job 7\n  kmerge job 7 --watch\n\nWith --watch and JSON there is one document a line, as the job changes. If the job failed or\nwas cancelled, --watch ends with exit code 1."
)]
pub(crate) struct Job {
    /// Its number, as push tells it
    #[arg(value_name = "ID")]
    id: u64,
    /// Follow it until it has ended
    #[arg(long, short)]
    watch: bool,
}

impl Job {
    pub(crate) async fn run(self, context: &Context) -> Result<Exit, Failure> {
        let client = context.client().await?;
        if !self.watch {
            let job = client.get_job(self.id).await?;
            return show(context, &job);
        }
        let bar = Bar::job(&context.output);
        let mut watch = client.watch_job(self.id);
        let mut last = None;
        while let Some(job) = watch.next().await.inspect_err(|_| bar.finish())? {
            bar.watching(&job);
            if !context.output.is_table() {
                context.output.event(&json::message(&job), String::new)?;
            }
            last = Some(job);
        }
        bar.finish();
        let job = last.expect("a watch gives the job before it ends");
        context.output.say(&views::job(&job, SystemTime::now()))?;
        outcome(&job)
    }
}

/// Follows a job to its end with a progress bar.
pub(super) async fn followed(
    context: &Context,
    client: &Client,
    id: u64,
) -> Result<v1::Job, Failure> {
    let bar = Bar::job(&context.output);
    let mut watch = client.watch_job(id);
    let mut last = None;
    while let Some(job) = watch.next().await.inspect_err(|_| bar.finish())? {
        bar.watching(&job);
        last = Some(job);
    }
    bar.finish();
    Ok(last.expect("a watch gives the job before it ends"))
}

/// How a command ends whose job has ended.
pub(super) fn outcome(job: &v1::Job) -> Result<Exit, Failure> {
    if job.state() == v1::JobState::Done {
        Ok(Exit::Done)
    } else {
        Err(Failure::job(job))
    }
}

/// Arguments of `cancel`.
#[derive(Debug, Args)]
#[command(
    after_help = "EXAMPLES:\n  kmerge cancel 7\n\nA job that runs or has ended is left alone."
)]
pub(crate) struct Cancel {
    /// The job's number
    #[arg(value_name = "JOB")]
    id: u64,
}

impl Cancel {
    pub(crate) async fn run(self, context: &Context) -> Result<Exit, Failure> {
        let job = context.client().await?.cancel_job(self.id).await?;
        context
            .output
            .document(&json::message(&job), || views::job_line(&job))?;
        Ok(Exit::Done)
    }
}

fn show(context: &Context, job: &v1::Job) -> Result<Exit, Failure> {
    context
        .output
        .document(&json::message(job), || views::job(job, SystemTime::now()))?;
    Ok(Exit::Done)
}
