//! What lies in `staging/`: the files of a job, and the header that describes them.
//!
//! Written by [`Ingest`](crate::Ingest) and the committer, read by workers and by recovery. What
//! holds: a directory that is named by a job is whole and durable, and its header alone is enough
//! to queue the job again.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::durable;
use crate::error::FileError;
use crate::ids::{BaseModelName, JobId, TaskName, UnixMillis};
use crate::records::{JobKind, JobRecord, JobState, UploadFacts};
use crate::sealed::{Document, SealError, unseal};
use crate::shared::Shared;

const HEADER: &str = "header.json";
const CONFIG: &str = "config.json";
const TENSORS: &str = "tensors";

/// Where the header of the upload in `directory` is.
pub(crate) fn header_path(directory: &Path) -> PathBuf {
    directory.join(HEADER)
}

/// Where the configuration of the upload in `directory` is.
pub(crate) fn config_path(directory: &Path) -> PathBuf {
    directory.join(CONFIG)
}

/// Where the tensor file of the upload in `directory` is.
pub(crate) fn tensors_path(directory: &Path) -> PathBuf {
    directory.join(TENSORS)
}

/// The job as it was when it was queued.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StagedHeader {
    pub(crate) job: JobId,
    pub(crate) base_model: BaseModelName,
    #[serde(default, skip_serializing_if = "JobKind::is_upload")]
    pub(crate) kind: JobKind,
    pub(crate) task: TaskName,
    pub(crate) request_id: Option<String>,
    pub(crate) upload: UploadFacts,
    pub(crate) created: UnixMillis,
}

impl Document for StagedHeader {
    const KIND: &'static str = "staged-upload";
}

impl StagedHeader {
    /// The header of a job.
    pub(crate) fn of(job: &JobRecord) -> Self {
        Self {
            job: job.id,
            base_model: job.base_model.clone(),
            kind: job.kind.clone(),
            task: job.task.clone(),
            request_id: job.request_id.clone(),
            upload: job.upload.clone(),
            created: job.created,
        }
    }

    /// The job, queued.
    pub(crate) fn job(&self) -> JobRecord {
        JobRecord {
            id: self.job,
            base_model: self.base_model.clone(),
            kind: self.kind.clone(),
            task: self.task.clone(),
            state: JobState::Queued,
            attempts: 0,
            request_id: self.request_id.clone(),
            upload: self.upload.clone(),
            created: self.created,
            started: None,
            ended: None,
            result: None,
            failure: None,
        }
    }

    /// Whether the files beside the header, if it needs any, are as long as it says. Their content
    /// is checked when a worker reads it.
    pub(crate) fn files_are_there(&self, directory: &Path) -> Result<bool, FileError> {
        if !self.kind.is_upload() {
            return Ok(true);
        }
        let tensors = durable::length_if_there(&tensors_path(directory))?;
        let config = durable::length_if_there(&config_path(directory))?;
        Ok(tensors == Some(self.upload.size_bytes) && config.is_some())
    }
}

/// Reads the header of the upload in `directory`; nothing if there is none.
pub(crate) fn read_header(
    directory: &Path,
) -> Result<Option<Result<StagedHeader, SealError>>, FileError> {
    let bytes = durable::read_if_there(&header_path(directory))?;
    Ok(bytes.map(|bytes| unseal(&bytes)))
}

/// A directory that is not whole yet. Dropped, it is removed.
#[derive(Debug)]
pub(crate) struct Unfinished {
    shared: Arc<Shared>,
    /// There until the directory has its final name.
    path: Option<PathBuf>,
}

impl Unfinished {
    /// Makes the directory.
    pub(crate) fn create(shared: &Arc<Shared>, purpose: &str) -> Result<Self, FileError> {
        let path = shared.layout.temporary(purpose);
        durable::create_directory(&path)?;
        Ok(Self {
            shared: Arc::clone(shared),
            path: Some(path),
        })
    }

    /// The state directory that it belongs to.
    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        self.path
            .as_deref()
            .expect("the path is taken only by what ends it")
    }

    /// Gives it its final name. That name is not yet durable.
    pub(crate) fn rename(mut self, to: &Path) -> Result<(), FileError> {
        durable::rename(self.path(), to)?;
        self.path = None;
        Ok(())
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if let Some(path) = &self.path {
            // What cannot be removed is swept by the next start.
            drop(durable::remove_tree(path));
        }
    }
}
