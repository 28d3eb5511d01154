//! A task's examples: prompts and targets from JSON lines, as tokens.

use std::path::{Path, PathBuf};

use serde_json::Value as Json;

use super::error::Error;
use super::files;
use super::tokenizer::Tokenizer;

/// One task's examples.
#[derive(Debug)]
pub(crate) struct Task {
    pub(crate) name: String,
    pub(crate) examples: Vec<Example>,
    /// SHA-256 of the file.
    pub(crate) digest: String,
}

/// A prompt and what should follow it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Example {
    /// Prompt and target.
    pub(crate) tokens: Vec<u32>,
    /// How many of them are the prompt; at least 1.
    pub(crate) prompt: usize,
}

impl Example {
    /// The tokens that should follow the prompt.
    pub(crate) fn target(&self) -> &[u32] {
        self.tokens.get(self.prompt..).unwrap_or_default()
    }
}

/// The files of a directory that hold examples, with the tasks' names.
pub(crate) fn files_of(directory: &Path) -> Result<Vec<(String, PathBuf)>, Error> {
    let paths = files::list(directory)?.into_iter();
    let named = paths.filter_map(|path| {
        let name = path
            .file_name()?
            .to_str()?
            .strip_suffix(".jsonl")?
            .to_owned();
        Some((name, path))
    });
    Ok(named.collect())
}

impl Task {
    /// Reads the first `count` examples of a file.
    pub(crate) fn read(
        name: &str,
        path: &Path,
        count: usize,
        tokenizer: &Tokenizer,
    ) -> Result<Self, Error> {
        let text = files::read_text(path)?;
        let mut examples = Vec::new();
        let lines = (1..).zip(text.lines());
        for (number, line) in lines
            .filter(|(_, line)| !line.trim().is_empty())
            .take(count)
        {
            let bad = |why: &str| Error::unusable(path, format!("line {number}: {why}"));
            let line: Json = serde_json::from_str(line).map_err(|error| bad(&error.to_string()))?;
            let part = |name: &str| {
                let text = line[name].as_str();
                let text = text.ok_or_else(|| bad(&format!("it has no text {name}")))?;
                tokenizer.encode(text).map_err(|error| bad(&error))
            };
            let (mut tokens, target) = (part("prompt")?, part("target")?);
            let prompt = tokens.len();
            if prompt == 0 || target.is_empty() {
                return Err(bad("prompt and target both need at least one token"));
            }
            tokens.extend(target);
            examples.push(Example { tokens, prompt });
        }
        if examples.is_empty() {
            return Err(Error::unusable(path, "it has no examples"));
        }
        Ok(Self {
            name: name.to_owned(),
            examples,
            digest: files::digest(&[path.to_owned()])?,
        })
    }
}

/// Runs of examples of at most `most` tokens together, or of one that is longer.
pub(crate) fn batches(examples: &[Example], most: usize) -> Vec<&[Example]> {
    let mut batches = Vec::new();
    let mut rest = examples;
    while !rest.is_empty() {
        let mut tokens = 0;
        let fits = rest.iter().take_while(|example| {
            tokens += example.tokens.len();
            tokens <= most
        });
        let (batch, left) = rest.split_at(fits.count().max(1));
        batches.push(batch);
        rest = left;
    }
    batches
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_keep_order_and_their_bound() {
        let example = |length| Example {
            tokens: vec![0; length],
            prompt: 1,
        };
        let examples: Vec<_> = [3, 4, 9, 2, 2, 2].map(example).into();
        let lengths: Vec<Vec<usize>> = batches(&examples, 7)
            .into_iter()
            .map(|batch| batch.iter().map(|example| example.tokens.len()).collect())
            .collect();
        assert_eq!(lengths, [vec![3, 4], vec![9], vec![2, 2, 2]]);
    }
}
