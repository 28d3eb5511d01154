//! Exports.

use std::path::PathBuf;

use crate::digest::Digest;
use crate::error::{ExportError, ReadError};
use crate::read::Reader;
use crate::records::GenerationRecord;
use crate::tensors::TensorFile;

/// A file of an export.
#[derive(Debug)]
pub struct ExportedFile {
    /// Its name in the export's directory.
    pub name: String,
    /// Its length.
    pub size_bytes: u64,
    /// The SHA-256 of its bytes.
    pub digest: Digest,
    /// The file, open.
    pub file: TensorFile,
}

impl Reader {
    /// Writes an export.
    ///
    /// # Errors
    /// If a name is not one, the generation has gone, or the disk refuses.
    pub fn publish_export(
        &self,
        _generation: &GenerationRecord,
        _format: &str,
        _tensor_name: &str,
        _files: &[(&str, &[u8])],
    ) -> Result<PathBuf, ExportError> {
        unimplemented!()
    }

    /// Where the export is, or would be.
    pub fn export_path(&self, _generation: &GenerationRecord, _format: &str) -> PathBuf {
        unimplemented!()
    }

    /// Whether the export is there.
    pub fn has_export(&self, _generation: &GenerationRecord, _format: &str) -> bool {
        unimplemented!()
    }

    /// Opens all files of an export.
    ///
    /// # Errors
    /// If it is not there or the disk refuses.
    pub fn open_export(
        &self,
        _generation: &GenerationRecord,
        _format: &str,
    ) -> Result<Vec<ExportedFile>, ReadError> {
        unimplemented!()
    }
}
