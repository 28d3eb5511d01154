//! How well tasks are done with adapters on a real model: the model, the examples, the figures.
//!
//! | module | does |
//! |---|---|
//! | [`shape`], [`model`] | a Llama or Qwen2 decoder that runs sequences laid end to end |
//! | [`gguf`], [`directory`] | read a model and its tokenizer from a file, or from a directory |
//! | [`tokenizer`] | text to tokens |
//! | [`adapter`] | a PEFT directory, to be added to a model's weights |
//! | [`examples`], [`metrics`] | a task's examples, and what a model makes of them |
//! | [`bootstrap`] | S and its interval |
//! | [`compare`] | how alike adapters are |
//! | [`cache`] | outcomes that are known already |
//! | [`report`] | a page with pictures |
//! | [`files`], [`error`] | the user's files, and what can go wrong |
//!
//! All of it is synchronous and computes: the commands run it off the reactor.

pub(crate) mod adapter;
pub(crate) mod bootstrap;
mod cache;
pub(crate) mod compare;
mod directory;
pub(crate) mod error;
pub(crate) mod examples;
pub(crate) mod files;
mod gguf;
pub(crate) mod metrics;
mod model;
pub(crate) mod report;
mod shape;
mod tokenizer;

use std::path::Path;

use candle_core::Device;

use adapter::Adapter;
use cache::{Cache, Key};
use error::Error;
use examples::Task;
use metrics::{Done, Outcome};
use model::Model;
use tokenizer::Tokenizer;

/// A model that scores adapters, and remembers what it has scored.
#[derive(Debug)]
pub(crate) struct Scorer {
    model: Model,
    tokenizer: Tokenizer,
    /// SHA-256 of the model's files.
    digest: String,
    cache: Cache,
    /// The most examples of a task.
    examples: usize,
}

impl Scorer {
    /// Reads the model at `path`, a GGUF file or a directory, onto a device.
    pub(crate) fn open(
        path: &Path,
        device: &Device,
        cache: &Path,
        examples: usize,
    ) -> Result<Self, Error> {
        let cache = Cache::open(cache)?;
        let ((model, tokenizer), parts) = if path.is_dir() {
            (directory::load(path, device)?, directory::parts(path)?)
        } else {
            (gguf::load(path, device)?, vec![path.to_owned()])
        };
        Ok(Self {
            model,
            tokenizer,
            digest: files::digest(&parts)?,
            cache,
            examples,
        })
    }

    /// Reads a task's examples.
    pub(crate) fn task(&self, name: &str, path: &Path) -> Result<Task, Error> {
        Task::read(name, path, self.examples, &self.tokenizer)
    }

    /// What the model makes of a task, alone or with an adapter. `done` hears of every example,
    /// of those too that are known already.
    pub(crate) fn score(
        &mut self,
        task: &Task,
        adapter: Option<&Adapter>,
        done: &Done<'_>,
    ) -> Result<Vec<Outcome>, Error> {
        let key = Key {
            model: &self.digest,
            adapter: adapter.map(Adapter::digest),
            task: &task.digest,
            examples: task.examples.len(),
        };
        if let Some(known) = self.cache.get(&key) {
            done(task.examples.len());
            return Ok(known.clone());
        }
        let outcomes = match adapter {
            Some(adapter) => metrics::run(&self.model.with(adapter)?, &task.examples, done)?,
            None => metrics::run(&self.model, &task.examples, done)?,
        };
        self.cache.add(&key, &task.name, &outcomes)?;
        Ok(outcomes)
    }
}
