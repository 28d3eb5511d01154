//! Tensor files.

use std::io;

use crate::digest::Digest;
use crate::error::ReadError;

/// An open tensor file. It can be read even when it has been removed meanwhile.
#[derive(Debug, Clone)]
pub struct TensorFile;

impl TensorFile {
    /// Its length in bytes.
    #[expect(clippy::len_without_is_empty, reason = "a tensor file is never empty")]
    pub fn len(&self) -> u64 {
        unimplemented!()
    }

    /// Fills `buffer` with the bytes from `offset` on.
    ///
    /// # Errors
    /// If the file ends before, or the disk refuses.
    pub fn read_exact_at(&self, _buffer: &mut [u8], _offset: u64) -> io::Result<()> {
        unimplemented!()
    }
}

/// A new tensor file. Dropped before its end, it leaves nothing.
#[derive(Debug)]
pub struct TensorWriter;

impl TensorWriter {
    /// Takes the next bytes.
    ///
    /// # Errors
    /// If the disk refuses.
    pub fn write(&mut self, _bytes: &[u8]) -> Result<(), ReadError> {
        unimplemented!()
    }

    /// Ends the file: it is durable, and stands under its digest.
    ///
    /// # Errors
    /// If the disk refuses.
    pub fn finish(self) -> Result<StoredTensor, ReadError> {
        unimplemented!()
    }
}

/// A tensor file that is durable and waits for its commit.
#[derive(Debug)]
pub struct StoredTensor {
    /// The SHA-256 of its bytes.
    pub digest: Digest,
    /// Its length.
    pub bytes: u64,
}
