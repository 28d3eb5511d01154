//! Outcomes that are known already, a JSON line each, so that a long run goes on where it stopped
//! and nothing is scored twice.
//!
//! A line is only ever added. One that cannot be read, as the last one after a power cut, counts
//! as absent.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde_json::{Value as Json, json};
use sha2::{Digest as _, Sha256};

use super::error::Error;
use super::files;
use super::metrics::Outcome;

/// Changes whenever the same inputs would give other outcomes.
const VERSION: u32 = 1;

/// What an outcome depends on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Key<'a> {
    /// SHA-256 of the model's files.
    pub(crate) model: &'a str,
    /// Digest of the adapter; none for the model alone.
    pub(crate) adapter: Option<&'a str>,
    /// SHA-256 of the task's file.
    pub(crate) task: &'a str,
    pub(crate) examples: usize,
}

impl Key<'_> {
    fn digest(&self) -> String {
        let Self {
            model,
            adapter,
            task,
            examples,
        } = self;
        let adapter = adapter.unwrap_or("none");
        let text = format!("{VERSION} {model} {adapter} {task} {examples}");
        files::hex(&Sha256::digest(text))
    }
}

/// The outcomes in a file.
#[derive(Debug)]
pub(crate) struct Cache {
    path: PathBuf,
    known: HashMap<String, Vec<Outcome>>,
    /// Whether the last line was cut off.
    cut: bool,
}

impl Cache {
    /// Reads a file, if it is there.
    pub(crate) fn open(path: &Path) -> Result<Self, Error> {
        files::create_parent(path)?;
        let text = if path.exists() {
            String::from_utf8_lossy(&files::read(path)?).into_owned()
        } else {
            String::new()
        };
        Ok(Self {
            path: path.to_owned(),
            known: text.lines().filter_map(read).collect(),
            cut: !text.is_empty() && !text.ends_with('\n'),
        })
    }

    /// The outcomes for `key`, if they are known.
    pub(crate) fn get(&self, key: &Key<'_>) -> Option<&Vec<Outcome>> {
        self.known.get(&key.digest())
    }

    /// Adds outcomes; `task` is for people who read the file.
    pub(crate) fn add(
        &mut self,
        key: &Key<'_>,
        task: &str,
        outcomes: &[Outcome],
    ) -> Result<(), Error> {
        let digest = key.digest();
        let rows: Vec<Json> = outcomes
            .iter()
            .map(|outcome| json!([outcome.tokens, outcome.right, outcome.loss]))
            .collect();
        let line = json!({ "key": digest, "task": task, "outcomes": rows });
        let start = if std::mem::take(&mut self.cut) {
            "\n"
        } else {
            ""
        };
        files::append(&self.path, &format!("{start}{line}"))?;
        self.known.insert(digest, outcomes.to_vec());
        Ok(())
    }
}

fn read(line: &str) -> Option<(String, Vec<Outcome>)> {
    let line: Json = serde_json::from_str(line).ok()?;
    let outcome = |row: &Json| {
        Some(Outcome {
            tokens: u32::try_from(row[0].as_u64()?).ok()?,
            right: u32::try_from(row[1].as_u64()?).ok()?,
            loss: row[2].as_f64()?,
        })
    };
    let rows = line["outcomes"].as_array()?;
    let outcomes = rows.iter().map(outcome).collect::<Option<Vec<_>>>()?;
    Some((line["key"].as_str()?.to_owned(), outcomes))
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: Key<'_> = Key {
        model: "m",
        adapter: None,
        task: "t",
        examples: 2,
    };

    fn outcomes() -> Vec<Outcome> {
        vec![Outcome {
            tokens: 3,
            right: 2,
            loss: 0.1 + 0.2,
        }]
    }

    #[test]
    fn what_was_added_is_known_after_opening_again() {
        let room = tempfile::tempdir().unwrap();
        let path = room.path().join("kmerge/scores.jsonl");
        let mut cache = Cache::open(&path).unwrap();
        assert_eq!(cache.get(&KEY), None);
        cache.add(&KEY, "slug", &outcomes()).unwrap();
        assert_eq!(cache.get(&KEY), Some(&outcomes()));
        let again = Cache::open(&path).unwrap();
        assert_eq!(again.get(&KEY), Some(&outcomes()));
        for other in [
            Key {
                adapter: Some("a"),
                ..KEY
            },
            Key { task: "u", ..KEY },
            Key { model: "n", ..KEY },
            Key { examples: 3, ..KEY },
        ] {
            assert_eq!(again.get(&other), None, "{other:?}");
        }
    }

    #[test]
    fn a_line_that_was_cut_off_costs_only_itself() {
        let room = tempfile::tempdir().unwrap();
        let path = room.path().join("scores.jsonl");
        let mut cache = Cache::open(&path).unwrap();
        cache.add(&KEY, "slug", &outcomes()).unwrap();
        files::append(&path, "x").unwrap();
        let mut text = files::read_text(&path).unwrap();
        text.truncate(text.len() - 2);
        text += "{\"key\": \"cu";
        files::write(&path, text.as_bytes()).unwrap();
        let mut cache = Cache::open(&path).unwrap();
        assert_eq!(cache.get(&KEY), Some(&outcomes()));
        let other = Key { task: "u", ..KEY };
        cache.add(&other, "mail", &outcomes()).unwrap();
        assert_eq!(Cache::open(&path).unwrap().get(&other), Some(&outcomes()));
    }
}
