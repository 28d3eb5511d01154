//! `kmerged --restore`: makes a state directory from a backup, and serves nothing.
//!
//! Called by `main` instead of the app. What holds: it says what it has done on stdout, as text or as one
//! JSON document, and a failure leaves the directory as it was.

use std::io::{self, BufReader, Read};
use std::path::Path;

use kmerge_storage::{BackupContents, Options, RestoreError, RestoreOptions};
use serde_json::json;

use crate::clock;
use crate::config::Config;

/// What became of it, to be said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said {
    /// For stdout.
    pub text: String,
    /// Whether it is done.
    pub is_done: bool,
}

/// Restores the backup in `file` into the configured state directory, or only checks it.
pub fn run(config: &Config, file: &Path, dry_run: bool, json: bool) -> Said {
    let directory = &config.state.directory;
    let restored = open(file).and_then(|mut input| {
        if dry_run {
            return kmerge_storage::verify_backup(&mut input);
        }
        let options = RestoreOptions {
            open: Options {
                cache_bytes: config.state.cache_bytes,
                finished_jobs_kept: config.state.finished_jobs,
                ..Options::default()
            },
        };
        kmerge_storage::restore(&mut input, directory, &options, clock::now())
    });
    match (restored, json) {
        (Ok(contents), true) => Said {
            text: facts(&contents, (!dry_run).then_some(directory)).to_string(),
            is_done: true,
        },
        (Ok(contents), false) => Said {
            text: format!(
                "{}: {} base models, {} slots, {} tasks, {} jobs, at revision {}",
                if dry_run {
                    "the backup is whole"
                } else {
                    "restored"
                },
                contents.base_models,
                contents.slots,
                contents.tasks,
                contents.jobs,
                contents.revision
            ),
            is_done: true,
        },
        (Err(error), true) => Said {
            text: json!({"error": {"reason": error.reason(), "message": in_full(&error)}})
                .to_string(),
            is_done: false,
        },
        (Err(error), false) => Said {
            text: in_full(&error),
            is_done: false,
        },
    }
}

fn open(file: &Path) -> Result<Box<dyn Read>, RestoreError> {
    if file == Path::new("-") {
        return Ok(Box::new(io::stdin().lock()));
    }
    let opened = kmerge_storage::open_backup(file)?;
    Ok(Box::new(BufReader::with_capacity(1 << 16, opened)))
}

fn facts(contents: &BackupContents, directory: Option<&Path>) -> serde_json::Value {
    json!({
        "version": contents.version,
        "create_time": contents.created.to_rfc3339(),
        "revision": contents.revision.0,
        "base_models": contents.base_models,
        "slots": contents.slots,
        "tasks": contents.tasks,
        "jobs": contents.jobs,
        "unfinished_jobs": contents.unfinished_jobs,
        "tensors": contents.tensors,
        "bytes": contents.bytes,
        "state_directory": directory.map(|path| path.display().to_string()),
    })
}

fn in_full(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    let mut said: Vec<String> = causes.map(ToString::to_string).collect();
    said.dedup();
    said.join(": ")
}
