//! `kmerge push`: an adapter on its way to the daemon, and into a slot.

use std::path::PathBuf;
use std::time::SystemTime;

use clap::Args;
use kmerge_client::{Adapter, Client, Upload, json, v1};
use serde_json::json;

use super::jobs;
use crate::context::{Context, base_model};
use crate::failure::{Exit, Failure};
use crate::output::progress::Bar;
use crate::output::views;
use crate::values;

/// Arguments of `push`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Push {
    /// A PEFT directory, a LoRA in a GGUF file, or a directory of mlx-lm
    path: PathBuf,
    /// The name under which apps will ask for it
    #[arg(long, value_name = "NAME", value_parser = values::name)]
    task: String,
    /// The base model it was trained on [default: the only one that is registered]
    #[arg(long, value_name = "NAME", value_parser = values::name)]
    base: Option<String>,
    /// Wait until it is in its slot, and show the decision
    #[arg(long, conflicts_with = "dry_run")]
    wait: bool,
    /// Show which slot it would go to and why, and change nothing
    #[arg(long, short = 'n')]
    dry_run: bool,
    /// Names this push, so that repeating it gives the same job [default: a new one]
    #[arg(long, value_name = "ID", value_parser = values::request_id)]
    request_id: Option<String>,
}

const EXAMPLES: &str = "\
EXAMPLES:
  kmerge push adapters/slug-en --task slug-en --wait
  kmerge push adapters/slug-en --task slug-en --base smollm2-135m --dry-run
  kmerge push out/checkpoint-500 --task mail --json | jq .id
  kmerge push slug-F16-LoRA.gguf --task slug

The same bytes pushed again for the same task give the same job.";

impl Push {
    pub(crate) async fn run(self, context: &Context) -> Result<Exit, Failure> {
        let client = context.client().await?;
        let base_model = base_model(&client, self.base).await?;
        let adapter = Adapter::open(self.path).await?;
        let upload = Upload {
            request_id: self.request_id,
            validate_only: self.dry_run,
            ..Upload::new(self.task, base_model)
        };
        let answer = send(context, &client, &adapter, &upload).await?;
        for warning in &answer.warnings {
            context.output.note(&format!("warning: {warning}"));
        }
        match answer {
            v1::UploadAdapterResponse {
                job: Some(job),
                existing,
                ..
            } => {
                if self.wait {
                    wait(context, &client, job.id).await
                } else {
                    accepted(context, &job, existing)
                }
            }
            v1::UploadAdapterResponse {
                decision: Some(decision),
                warnings,
                ..
            } => rehearsed(context, &upload, &decision, &warnings),
            v1::UploadAdapterResponse {
                job: None,
                decision: None,
                ..
            } => Err(Failure::failed(
                "PROTOCOL",
                "kmerged answered with neither job nor decision",
            )),
        }
    }
}

/// Uploads with a progress bar.
async fn send(
    context: &Context,
    client: &Client,
    adapter: &Adapter,
    upload: &Upload,
) -> Result<v1::UploadAdapterResponse, Failure> {
    let bar = Bar::upload(&context.output, &upload.task, adapter.size_bytes());
    let events = bar.clone();
    let answer = client
        .upload_adapter(adapter, upload, move |event| events.uploading(&event))
        .await;
    bar.finish();
    Ok(answer?)
}

/// Follows a job to its end with a progress bar, and shows what came of it.
async fn wait(context: &Context, client: &Client, id: u64) -> Result<Exit, Failure> {
    let job = jobs::followed(context, client, id).await?;
    context
        .output
        .document(&json::message(&job), || match &job.decision {
            Some(decision) => {
                format!(
                    "job {}: {} of {}\n{}",
                    job.id,
                    job.task,
                    job.base_model,
                    views::decision(decision)
                )
            }
            None => views::job(&job, SystemTime::now()),
        })?;
    jobs::outcome(&job)
}

fn accepted(context: &Context, job: &v1::Job, existing: bool) -> Result<Exit, Failure> {
    context.output.document(&json::message(job), || {
        let made = if existing {
            ", from an earlier push of the same"
        } else {
            ""
        };
        format!(
            "job {}: {} of {}, {}{made}",
            job.id,
            job.task,
            job.base_model,
            views::state(job)
        )
    })?;
    context
        .output
        .note(&format!("next: kmerge job {} --watch", job.id));
    Ok(Exit::Done)
}

fn rehearsed(
    context: &Context,
    upload: &Upload,
    decision: &v1::Decision,
    warnings: &[String],
) -> Result<Exit, Failure> {
    let document = json!({
        "task": upload.task,
        "base_model": upload.base_model,
        "decision": json::message(decision),
        "warnings": warnings,
    });
    context.output.document(&document, || {
        format!(
            "{} of {} would be:\n{}",
            upload.task,
            upload.base_model,
            views::decision(decision)
        )
    })?;
    context
        .output
        .note("nothing was committed: this was a dry run");
    Ok(Exit::Done)
}
