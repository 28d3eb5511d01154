//! `kmerge forget`, `rollback`, `pin`, `unpin`: what changes slots and brings no adapter.

use clap::Args;
use kmerge_client::upkeep::Maintained;
use kmerge_client::{Client, json, v1};

use super::jobs;
use crate::context::{Context, base_model};
use crate::failure::{Exit, Failure};
use crate::output::views;
use crate::values;

/// Options of every such command.
#[derive(Debug, Args)]
pub(crate) struct How {
    /// Show what it would do and cost, and change nothing
    #[arg(long, short = 'n', conflicts_with = "no_wait")]
    dry_run: bool,
    /// Do not wait until it is done
    #[arg(long)]
    no_wait: bool,
    /// Names this request, so that repeating it gives the same job [default: a new one]
    #[arg(long, value_name = "ID", value_parser = values::request_id)]
    request_id: Option<String>,
}

impl How {
    pub(super) fn request_id(&self) -> String {
        self.request_id.clone().unwrap_or_default()
    }

    pub(super) fn is_dry_run(&self) -> bool {
        self.dry_run
    }

    /// Shows what came of a request, once it is done.
    pub(super) async fn finish(
        &self,
        context: &Context,
        client: &Client,
        done: Maintained,
    ) -> Result<Exit, Failure> {
        let job = match done {
            Maintained {
                job: Some(job),
                change: _,
            } => job,
            Maintained {
                job: None,
                change: Some(change),
            } => {
                context
                    .output
                    .document(&json::message(&change), || views::change(&change, true))?;
                context
                    .output
                    .note("nothing was changed: this was a dry run");
                return Ok(Exit::Done);
            }
            Maintained {
                job: None,
                change: None,
            } => {
                let problem = "kmerged answered with neither job nor change";
                return Err(Failure::failed("PROTOCOL", problem));
            }
        };
        if self.no_wait {
            context
                .output
                .document(&json::message(&job), || views::job_line(&job))?;
            return Ok(Exit::Done);
        }
        let job = jobs::followed(context, client, job.id).await?;
        context.output.document(&json::message(&job), || {
            let change = job.change.as_ref();
            change.map_or_else(
                || views::job_line(&job),
                |change| views::change(change, false),
            )
        })?;
        jobs::outcome(&job)
    }
}

/// Arguments of `forget`.
#[derive(Debug, Args)]
#[command(after_help = FORGET_EXAMPLES)]
pub(crate) struct Forget {
    /// The task
    #[arg(value_parser = values::name)]
    task: String,
    /// Its base model [default: the only one that is registered]
    #[arg(long, value_name = "NAME", value_parser = values::name)]
    base: Option<String>,
    #[command(flatten)]
    how: How,
}

const FORGET_EXAMPLES: &str = "\
EXAMPLES:
  kmerge forget slug-en
  kmerge forget slug-en --base smollm2-135m --dry-run

The task's name is free at once. Its bytes leave the disk with the last generation that held them,
once that one's grace is over, and no slot can be rolled back to it. A slot that is an average can
forget only the task that came last.";

impl Forget {
    pub(crate) async fn run(self, context: &Context) -> Result<Exit, Failure> {
        let client = context.client().await?;
        let request = v1::ForgetTaskRequest {
            base_model: base_model(&client, self.base).await?,
            task: self.task,
            request_id: self.how.request_id(),
            validate_only: self.how.is_dry_run(),
        };
        let done = client.forget_task(request).await?;
        self.how.finish(context, &client, done).await
    }
}

/// Arguments of `rollback`.
#[derive(Debug, Args)]
#[command(after_help = ROLLBACK_EXAMPLES)]
pub(crate) struct Rollback {
    /// The slot's number
    slot: u32,
    /// Its base model [default: the only one that is registered]
    #[arg(long, value_name = "NAME", value_parser = values::name)]
    base: Option<String>,
    /// The generation to go back to [default: the one before]
    #[arg(long, value_name = "GENERATION")]
    to: Option<u64>,
    #[command(flatten)]
    how: How,
}

const ROLLBACK_EXAMPLES: &str = "\
EXAMPLES:
  kmerge rollback 0
  kmerge rollback 0 --to 3 --dry-run
  kmerge slot 0

The slot holds exactly what it held then, as a new generation; tasks that came later are forgotten.
`kmerge slot` lists the generations that are still kept.";

impl Rollback {
    pub(crate) async fn run(self, context: &Context) -> Result<Exit, Failure> {
        let client = context.client().await?;
        let request = v1::RollbackSlotRequest {
            base_model: base_model(&client, self.base).await?,
            slot: self.slot,
            generation: self.to.unwrap_or(0),
            request_id: self.how.request_id(),
            validate_only: self.how.is_dry_run(),
        };
        let done = client.rollback_slot(request).await?;
        self.how.finish(context, &client, done).await
    }
}

/// Arguments of `pin` and `unpin`.
#[derive(Debug, Args)]
#[command(
    after_help = "EXAMPLES:\n  kmerge pin 0\n  kmerge unpin 0 --base smollm2-135m\n\nA pinned slot stays as it is: newcomers go elsewhere, and it can be neither rolled back, repacked\nnor made to forget."
)]
pub(crate) struct Pin {
    /// The slot's number
    slot: u32,
    /// Its base model [default: the only one that is registered]
    #[arg(long, value_name = "NAME", value_parser = values::name)]
    base: Option<String>,
    /// Do not wait until it is done
    #[arg(long)]
    no_wait: bool,
}

impl Pin {
    pub(crate) async fn run(self, context: &Context, pinned: bool) -> Result<Exit, Failure> {
        let client = context.client().await?;
        let request = v1::PinSlotRequest {
            base_model: base_model(&client, self.base).await?,
            slot: self.slot,
            pinned: Some(pinned),
            request_id: String::new(),
        };
        let done = client.pin_slot(request).await?;
        let how = How {
            dry_run: false,
            no_wait: self.no_wait,
            request_id: None,
        };
        how.finish(context, &client, done).await
    }
}
