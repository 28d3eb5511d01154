//! `kmerge backup` and `kmerge restore`: the whole state into one file, and back.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use clap::Args;
use kmerge_client::{Client, json};
use serde_json::Value as Json;
use tokio::process::Command;

use crate::context::Context;
use crate::daemon;
use crate::failure::{Exit, Failure};
use crate::files;
use crate::output::progress::Bar;
use crate::output::text;

/// Arguments of `backup`.
#[derive(Debug, Args)]
#[command(after_help = BACKUP_EXAMPLES)]
pub(crate) struct Backup {
    /// The file to write, a tar archive; - for stdout
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Replace FILE if it is there
    #[arg(long, short)]
    force: bool,
}

const BACKUP_EXAMPLES: &str = "\
EXAMPLES:
  kmerge backup kmerge.tar
  kmerge backup kmerge.tar --force --json | jq .sha256
  kmerge backup - | ssh other 'cat > kmerge.tar'

Everything at one moment, while the daemon goes on: base models, slots, tasks, jobs, and uploads that
wait. Superseded generations are not in it. FILE appears whole, or not at all.";

/// Arguments of `restore`.
#[derive(Debug, Args)]
#[command(after_help = RESTORE_EXAMPLES)]
pub(crate) struct Restore {
    /// The backup; - for stdin
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// The state directory to make; it must be empty or not there, and no daemon run on it
    #[arg(
        long,
        value_name = "DIR",
        env = "KMERGE_STATE_DIR",
        hide_env_values = true,
        required_unless_present = "dry_run"
    )]
    state_dir: Option<PathBuf>,
    /// Check the backup, every byte of it, and say what it holds; change nothing
    #[arg(long, visible_alias = "verify")]
    dry_run: bool,
    /// The kmerged that restores [default: beside kmerge, or on PATH]
    #[arg(long, value_name = "PATH")]
    kmerged: Option<PathBuf>,
}

const RESTORE_EXAMPLES: &str = "\
EXAMPLES:
  kmerge restore kmerge.tar --dry-run
  kmerge restore kmerge.tar --state-dir ~/.local/state/kmerge
  ssh other cat kmerge.tar | kmerge restore - --state-dir /var/lib/kmerge

All of the backup is checked before anything is put in place; then start kmerged. Restored as root for
a daemon that runs as another user, the directory must be given to that user: chown -R.";

impl Backup {
    pub(crate) async fn run(self, context: &Context) -> Result<Exit, Failure> {
        let client = context.client().await?;
        if self.file == Path::new("-") {
            let mut stdout = std::io::stdout();
            let taken = client
                .backup(&mut |bytes, _| stdout.write_all(bytes))
                .await?;
            std::io::stdout()
                .flush()
                .map_err(|error| Failure::system("write to stdout", &error))?;
            context.output.note(&view(&document(&taken), None));
            return Ok(Exit::Done);
        }
        if self.file.exists() && !self.force {
            let message = format!("{} is there already", self.file.display());
            return Err(
                Failure::usage(message).hint("name another file, or replace it with --force")
            );
        }
        let mut part = self.file.clone().into_os_string();
        part.push(".part");
        let part = PathBuf::from(part);
        files::remove(&part)?;
        let taken = take(&client, context, &part).await;
        let taken = match taken {
            Ok(taken) => taken,
            Err(failure) => {
                // The first failure is the one to tell.
                let _ = files::remove(&part);
                return Err(failure);
            }
        };
        files::rename(&part, &self.file)?;
        files::settle_name(&self.file)?;
        let mut facts = document(&taken);
        facts["file"] = self.file.display().to_string().into();
        context
            .output
            .document(&facts, || view(&facts, Some(&self.file)))?;
        Ok(Exit::Done)
    }
}

async fn take(
    client: &Client,
    context: &Context,
    part: &Path,
) -> Result<kmerge_client::Backup, Failure> {
    let mut file = files::create_private(part)?;
    let bar = Bar::bytes(&context.output, "backing up");
    let mut done = 0;
    let taken = client
        .backup(&mut |bytes, total| {
            done += bytes.len() as u64;
            bar.reached(done, total);
            file.write_all(bytes)
        })
        .await;
    bar.finish();
    let taken = taken?;
    files::settle(&file, part)?;
    Ok(taken)
}

/// What a backup holds, and its digest.
fn document(taken: &kmerge_client::Backup) -> Json {
    let mut facts = json::message(&taken.contents);
    facts["sha256"] = taken.sha256.clone().into();
    facts["length"] = taken.length.into();
    facts
}

/// What a backup holds, for people.
fn view(facts: &Json, at: Option<&Path>) -> String {
    let number = |name: &str| facts[name].as_u64().unwrap_or(0);
    let count = |name: &str, what: &str| text::count(number(name), what);
    let mut lines = format!(
        "{}, {}, {}, {} ({} to run), {}, at revision {}",
        count("base_models", "base model"),
        count("slots", "slot"),
        count("tasks", "task"),
        count("jobs", "job"),
        number("unfinished_jobs"),
        text::bytes(number("bytes")),
        number("revision"),
    );
    if let (Some(made), Some(version)) = (facts["create_time"].as_str(), facts["version"].as_str())
    {
        lines += &format!("\nmade {made} by kmerge {version}");
    }
    if let Some(sha256) = facts["sha256"].as_str() {
        lines += &format!("\nsha256 {sha256}");
    }
    match at {
        Some(at) => format!("{}\n{lines}", at.display()),
        None => lines,
    }
}

impl Restore {
    pub(crate) async fn run(self, context: &Context) -> Result<Exit, Failure> {
        let kmerged = daemon::find(self.kmerged, "kmerge restore")?;
        let mut command = Command::new(&kmerged);
        command.arg("--restore").arg(&self.file).arg("--json");
        if let Some(directory) = &self.state_dir {
            command.arg("--state-dir").arg(directory);
        }
        if self.dry_run {
            command.arg("--dry-run");
        }
        let ran = command
            .stdin(Stdio::inherit())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .output()
            .await
            .map_err(|error| Failure::system(&format!("start {}", kmerged.display()), &error))?;
        let facts: Json = serde_json::from_slice(&ran.stdout).unwrap_or(Json::Null);
        if !ran.status.success() || !facts.is_object() {
            let said = String::from_utf8_lossy(&ran.stderr);
            let said = said.trim().trim_start_matches("kmerged: ").to_owned();
            let reason = facts["error"]["reason"]
                .as_str()
                .unwrap_or("RESTORE_FAILED");
            let message = facts["error"]["message"]
                .as_str()
                .map_or(said, str::to_owned);
            return Err(Failure::failed(reason, message));
        }
        context.output.document(&facts, || {
            let directory = self.state_dir.as_deref().filter(|_| !self.dry_run);
            let done = match directory {
                Some(_) => "restored",
                None => "the backup is whole",
            };
            format!("{done}: {}", view(&facts, directory))
        })?;
        if !self.dry_run {
            context.output.note("next: start kmerged on that directory");
        }
        Ok(Exit::Done)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_a_backup_holds_is_said() {
        let facts = json!({
            "version": "0.1.0", "create_time": "2026-11-24T16:00:00Z", "revision": 7,
            "base_models": 1, "slots": 2, "tasks": 3, "jobs": 5, "unfinished_jobs": 1,
            "tensors": 2, "bytes": 3 << 20, "sha256": "ab",
        });
        assert_eq!(
            view(&facts, Some(Path::new("k.tar"))),
            "k.tar\n1 base model, 2 slots, 3 tasks, 5 jobs (1 to run), 3.0 MiB, at revision 7\n\
             made 2026-11-24T16:00:00Z by kmerge 0.1.0\nsha256 ab"
        );
    }
}
