//! What `score` and `replay` have in common: how to score, and how to stay interruptible.

use std::path::{Path, PathBuf};

use candle_core::Device;
use clap::{Args, ValueEnum};

use crate::failure::Failure;
use crate::score::Scorer;

/// How to score.
#[derive(Debug, Clone, Args)]
pub(crate) struct Options {
    /// At most this many examples of each task [default: all]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    examples: Option<u32>,
    /// Write a page with pictures, too
    #[arg(long, value_name = "FILE")]
    pub(crate) html: Option<PathBuf>,
    /// Where scores are kept [default: kmerge/scores.jsonl in $XDG_CACHE_HOME or ~/.cache]
    #[arg(long, value_name = "FILE")]
    cache: Option<PathBuf>,
    /// Decides every random draw
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) seed: u64,
    /// Where the model runs
    #[arg(long, value_name = "DEVICE", value_enum, default_value = "cpu")]
    device: Place,
}

/// Where the model runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Place {
    /// The processor
    Cpu,
    /// The first GPU, by Metal
    #[cfg(feature = "metal")]
    Metal,
    /// The first GPU, by CUDA
    #[cfg(feature = "cuda")]
    Cuda,
}

impl Place {
    fn device(self) -> candle_core::Result<Device> {
        match self {
            Self::Cpu => Ok(Device::Cpu),
            #[cfg(feature = "metal")]
            Self::Metal => Device::new_metal(0),
            #[cfg(feature = "cuda")]
            Self::Cuda => Device::new_cuda(0),
        }
    }
}

impl Options {
    /// Reads the model and the scores that are known.
    pub(crate) fn scorer(&self, model: &Path) -> Result<Scorer, Failure> {
        let device = self
            .device
            .device()
            .map_err(crate::score::error::Error::from)?;
        let cache = match &self.cache {
            Some(path) => path.clone(),
            None => default_cache()?,
        };
        let examples = self.examples.map(usize::try_from);
        let examples = examples.and_then(Result::ok).unwrap_or(usize::MAX);
        Ok(Scorer::open(model, &device, &cache, examples)?)
    }
}

fn default_cache() -> Result<PathBuf, Failure> {
    let variable = |name: &str| {
        let value = std::env::var_os(name)?;
        Some(PathBuf::from(value)).filter(|path| path.is_absolute())
    };
    let directory = variable("XDG_CACHE_HOME")
        .or_else(|| Some(variable("HOME")?.join(".cache")))
        .ok_or_else(|| Failure::usage("there is no home to keep scores in").hint("say --cache"))?;
    Ok(directory.join("kmerge/scores.jsonl"))
}

/// Runs long work on a thread of its own, which an interrupt does not wait for.
pub(crate) async fn aside<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    let (sender, receiver) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        // Nobody waits any more after an interrupt.
        let _ = sender.send(work());
    });
    receiver
        .await
        .unwrap_or_else(|_| Err(Failure::failed("SCORE", "scoring ended without a result")))
}
