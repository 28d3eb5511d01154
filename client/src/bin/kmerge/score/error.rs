//! What can go wrong between a model's file and a figure.

use std::path::{Path, PathBuf};

use crate::failure::Failure;

/// Why something could not be scored.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The system refused a file.
    #[error("cannot {verb} {}", path.display())]
    File {
        verb: &'static str,
        path: PathBuf,
        source: std::io::Error,
    },
    /// A file is not what it should be.
    #[error("{} cannot be used: {why}", path.display())]
    Unusable { path: PathBuf, why: String },
    /// An adapter does not fit the model.
    #[error("the adapter does not fit the model: {0}; name the model that it was trained on")]
    Misfit(String),
    /// Tensors could not be computed with.
    #[error("the model could not be run")]
    Tensor(#[from] candle_core::Error),
}

impl Error {
    /// For `map_err` on file operations.
    pub(crate) fn file(verb: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::File { verb, path, source }
    }

    /// A file that is not what it should be.
    pub(crate) fn unusable(path: &Path, why: impl ToString) -> Self {
        Self::Unusable {
            path: path.to_owned(),
            why: why.to_string(),
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let causes = std::iter::successors(Some(&error as &dyn std::error::Error), |e| e.source());
        let said: Vec<String> = causes.map(ToString::to_string).collect();
        let said = said.join(": ");
        match error {
            Error::Unusable { .. } | Error::Misfit(_) => Self::usage(said),
            Error::File { .. } | Error::Tensor(_) => Self::failed("SCORE", said),
        }
    }
}
