//! Staging: an upload's bytes on their way to becoming a job.
//!
//! [`Ingest`] is held by whoever receives uploads. What holds: until the committer has made an
//! upload a job it does not exist, and whoever drops it on the way leaves nothing; what is
//! [`Staged`] has the length and the SHA-256 that were declared, and is durable.

use std::path::PathBuf;
use std::sync::Arc;

use crate::digest::Digest;
use crate::durable;
use crate::error::{FileError, IngestError};
use crate::failpoint;
use crate::ids::{BaseModelName, TaskName, check_name};
use crate::records::UploadFacts;
use crate::shared::Shared;
use crate::staging::{Unfinished, config_path, tensors_path};
use crate::tensors::{HashedFile, TensorFile};

/// The largest configuration of an adapter, in bytes.
const CONFIG_LIMIT: usize = 1024 * 1024;

/// The longest request id, in bytes.
const REQUEST_ID_LIMIT: usize = 128;

/// Takes uploads.
#[derive(Debug, Clone)]
pub struct Ingest {
    shared: Arc<Shared>,
}

/// What is known of an upload before its bytes come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StageRequest {
    /// The base model.
    pub base_model: BaseModelName,
    /// The task.
    pub task: TaskName,
    /// An opaque word for how the adapter is written, for example `peft`. Spelt like a name.
    pub format: String,
    /// The adapter's configuration, as it came; at most 1 MiB.
    pub config: Vec<u8>,
    /// The length of the tensor file in bytes.
    pub size_bytes: u64,
    /// The SHA-256 of the tensor file.
    pub digest: Digest,
    /// The id that the caller gave the request, unique among all requests; 1 to 128 bytes.
    pub request_id: Option<String>,
}

impl StageRequest {
    /// The facts of the upload, if its bytes are those declared.
    pub fn facts(&self) -> UploadFacts {
        UploadFacts {
            format: self.format.clone(),
            size_bytes: self.size_bytes,
            digest: self.digest,
            config_digest: Digest::of(&self.config),
        }
    }

    fn check(&self) -> Result<(), IngestError> {
        check_name(&self.format).map_err(IngestError::Format)?;
        if self.config.len() > CONFIG_LIMIT {
            let (bytes, limit) = (self.config.len(), CONFIG_LIMIT);
            return Err(IngestError::ConfigTooLarge { bytes, limit });
        }
        match &self.request_id {
            Some(id) if !(1..=REQUEST_ID_LIMIT).contains(&id.len()) => {
                let (bytes, limit) = (id.len(), REQUEST_ID_LIMIT);
                Err(IngestError::RequestIdLength { bytes, limit })
            }
            _ => Ok(()),
        }
    }
}

impl Ingest {
    /// Takes uploads into that directory.
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// Begins an upload.
    ///
    /// # Errors
    /// If the request breaks a limit, the state can only be read, or the disk refuses.
    pub fn stage(&self, request: StageRequest) -> Result<StagingWriter, IngestError> {
        request.check()?;
        if let Some(why) = self.shared.failure() {
            return Err(IngestError::ReadOnly {
                why: why.to_owned(),
            });
        }
        let directory = Unfinished::create(&self.shared, "upload")?;
        self.shared
            .disk
            .write_new(&config_path(directory.path()), &request.config)?;
        let tensors = HashedFile::create(tensors_path(directory.path()))?;
        failpoint::hit("staging.created");
        Ok(StagingWriter {
            directory,
            tensors,
            request,
        })
    }
}

/// An upload on its way in. Dropped, it leaves nothing.
#[derive(Debug)]
pub struct StagingWriter {
    directory: Unfinished,
    tensors: HashedFile,
    request: StageRequest,
}

impl StagingWriter {
    /// Takes the next bytes of the tensor file.
    ///
    /// # Errors
    /// If they are more than declared, or the disk refuses.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), IngestError> {
        let declared = self.request.size_bytes;
        let left = declared - self.tensors.length();
        if bytes.len() as u64 > left {
            return Err(IngestError::TooLong { declared });
        }
        Ok(self.tensors.write(bytes)?)
    }

    /// How many bytes have come.
    pub fn received(&self) -> u64 {
        self.tensors.length()
    }

    /// Ends the upload: length and SHA-256 are checked, the data are made durable.
    ///
    /// # Errors
    /// If the bytes are not those declared, or the disk refuses.
    pub fn finish(self) -> Result<Staged, IngestError> {
        let staged = self.whole()?;
        staged.make_durable()?;
        Ok(staged)
    }

    /// Ends the upload as [`StagingWriter::finish`] does, and looks at it with `work` while the
    /// disk takes the data: an upload is read once more before it is a job, and need not wait.
    ///
    /// # Errors
    /// As [`StagingWriter::finish`]. `work` has run even if the disk refuses.
    pub fn finish_beside<T>(
        self,
        work: impl FnOnce(&Staged) -> T,
    ) -> Result<(Staged, T), IngestError> {
        let staged = self.whole()?;
        let (done, durable) = std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().name("staging-sync".to_owned());
            match thread.spawn_scoped(scope, || staged.make_durable()) {
                Ok(syncing) => {
                    let done = work(&staged);
                    let durable = syncing.join();
                    (
                        done,
                        durable.unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
                    )
                }
                // Without a thread to spare, one after the other is as good.
                Err(_) => (work(&staged), staged.make_durable()),
            }
        });
        durable?;
        Ok((staged, done))
    }

    /// Checks length and SHA-256.
    fn whole(self) -> Result<Staged, IngestError> {
        let Self {
            directory,
            tensors,
            request,
        } = self;
        let (declared, received) = (request.size_bytes, tensors.length());
        if received != declared {
            return Err(IngestError::TooShort { declared, received });
        }
        let path = tensors.path().to_owned();
        let (file, computed) = tensors.finish()?;
        if computed != request.digest {
            return Err(IngestError::DigestMismatch {
                declared: request.digest,
                computed,
            });
        }
        durable::seal(&file, &path)?;
        Ok(Staged {
            directory,
            tensor: TensorFile::new(file, received),
            path,
            request,
        })
    }
}

/// A whole upload that is not yet a job. Dropped, it leaves nothing.
#[derive(Debug)]
pub struct Staged {
    directory: Unfinished,
    tensor: TensorFile,
    path: PathBuf,
    request: StageRequest,
}

impl Staged {
    fn make_durable(&self) -> Result<(), FileError> {
        let disk = &self.directory.shared().disk;
        disk.sync(self.tensor.file(), &self.path)?;
        failpoint::hit("staging.data_durable");
        Ok(())
    }

    /// The tensor file.
    pub fn tensor(&self) -> &TensorFile {
        &self.tensor
    }

    /// What was declared.
    pub fn request(&self) -> &StageRequest {
        &self.request
    }

    /// The directory with the files.
    pub(crate) fn into_directory(self) -> Unfinished {
        self.directory
    }
}
