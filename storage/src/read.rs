//! Reading.

use crate::catalog::Catalog;
use crate::error::ReadError;
use crate::ids::JobId;
use crate::records::GenerationRecord;
use crate::tensors::{TensorFile, TensorWriter};
use crate::usage::DiskUsage;

/// Reads tensors and exports, and writes new ones.
#[derive(Debug, Clone)]
pub struct Reader;

/// The files of a job.
#[derive(Debug)]
pub struct StagedFiles {
    /// The adapter's configuration, as it came.
    pub config: Vec<u8>,
    /// The tensor file.
    pub tensor: TensorFile,
}

impl Reader {
    /// Opens the tensor file of a generation.
    ///
    /// # Errors
    /// If it is not there or has another length than the record says.
    pub fn tensor(&self, _generation: &GenerationRecord) -> Result<TensorFile, ReadError> {
        unimplemented!()
    }

    /// Opens the staged files of an unfinished job.
    ///
    /// # Errors
    /// If the job has none, or they are damaged.
    pub fn staged(&self, _job: JobId) -> Result<StagedFiles, ReadError> {
        unimplemented!()
    }

    /// Begins a new tensor file.
    ///
    /// # Errors
    /// If the disk refuses.
    pub fn new_tensor(&self) -> Result<TensorWriter, ReadError> {
        unimplemented!()
    }

    /// What lies on the disk.
    ///
    /// # Errors
    /// If the disk refuses.
    pub fn disk_usage(&self, _catalog: &Catalog) -> Result<DiskUsage, ReadError> {
        unimplemented!()
    }
}
