//! `kmerge tasks` and `kmerge resolve`.

use std::time::SystemTime;

use clap::Args;
use kmerge_client::json;

use crate::context::{Context, base_model};
use crate::failure::{Exit, Failure};
use crate::output::views;
use crate::values;

/// Arguments of `tasks`.
#[derive(Debug, Args)]
#[command(
    after_help = "EXAMPLES:\n  kmerge tasks\n  kmerge tasks --base smollm2-135m --json | jq -r '.tasks[].task'"
)]
pub(crate) struct Tasks {
    /// Only those of this base model
    #[arg(long, value_name = "NAME", value_parser = values::name)]
    base: Option<String>,
}

impl Tasks {
    pub(crate) async fn run(self, context: &Context) -> Result<Exit, Failure> {
        let tasks = context
            .client()
            .await?
            .list_adapters(self.base.as_deref())
            .await?;
        let now = SystemTime::now();
        context.output.list("tasks", json::messages(&tasks), || {
            views::adapters(&tasks, now)
        })?;
        Ok(Exit::Done)
    }
}

/// Arguments of `resolve`.
#[derive(Debug, Args)]
#[command(
    after_help = "EXAMPLES:\n  kmerge resolve slug-en\n  kmerge resolve slug-en --base smollm2-135m --json | jq -r .path"
)]
pub(crate) struct Resolve {
    /// The name under which the adapter was pushed
    #[arg(value_parser = values::name)]
    task: String,
    /// Its base model [default: the only one that is registered]
    #[arg(long, value_name = "NAME", value_parser = values::name)]
    base: Option<String>,
}

impl Resolve {
    pub(crate) async fn run(self, context: &Context) -> Result<Exit, Failure> {
        let client = context.client().await?;
        let base_model = base_model(&client, self.base).await?;
        let resolved = client.resolve_task(&base_model, &self.task).await?;
        context
            .output
            .document(&json::message(&resolved), || views::resolved(&resolved))?;
        Ok(Exit::Done)
    }
}
