//! Staging uploads.

use crate::digest::Digest;
use crate::error::IngestError;
use crate::ids::{BaseModelName, TaskName};
use crate::tensors::TensorFile;

/// Takes uploads.
#[derive(Debug, Clone)]
pub struct Ingest;

/// What is known of an upload before its bytes come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StageRequest {
    /// The base model.
    pub base_model: BaseModelName,
    /// The task.
    pub task: TaskName,
    /// An opaque word for how the adapter is written.
    pub format: String,
    /// The adapter's configuration, as it came.
    pub config: Vec<u8>,
    /// The length of the tensor file in bytes.
    pub size_bytes: u64,
    /// The SHA-256 of the tensor file.
    pub digest: Digest,
    /// The id that the caller gave the request, unique among all requests.
    pub request_id: Option<String>,
}

/// An upload on its way in. Dropped, it leaves nothing.
#[derive(Debug)]
pub struct StagingWriter;

/// A whole upload that is not yet a job. Dropped, it leaves nothing.
#[derive(Debug)]
pub struct Staged;

impl Ingest {
    /// Begins an upload.
    ///
    /// # Errors
    /// If the request is not one, or the disk refuses.
    pub fn stage(&self, _request: StageRequest) -> Result<StagingWriter, IngestError> {
        unimplemented!()
    }
}

impl StagingWriter {
    /// Takes the next bytes.
    ///
    /// # Errors
    /// If they are more than declared, or the disk refuses.
    pub fn write(&mut self, _bytes: &[u8]) -> Result<(), IngestError> {
        unimplemented!()
    }

    /// How many bytes have come.
    pub fn received(&self) -> u64 {
        unimplemented!()
    }

    /// Ends the upload: length and SHA-256 are checked, the data are made durable.
    ///
    /// # Errors
    /// If the bytes are not those declared, or the disk refuses.
    pub fn finish(self) -> Result<Staged, IngestError> {
        unimplemented!()
    }
}

impl Staged {
    /// The tensor file.
    pub fn tensor(&self) -> &TensorFile {
        unimplemented!()
    }

    /// What was declared.
    pub fn request(&self) -> &StageRequest {
        unimplemented!()
    }
}
