//! Lets the mathematics read tensor files and write new ones without knowing what a file is.

use std::io;

use kmerge_merge::{TensorSink, TensorSource};
use kmerge_storage::{TensorFile, TensorWriter};

/// A stored or staged file as the mathematics sees it.
#[derive(Debug, Clone)]
pub struct FileSource(pub TensorFile);

impl TensorSource for FileSource {
    fn len(&self) -> u64 {
        self.0.len()
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.0.read_exact_at(buffer, offset)
    }
}

/// A new tensor file as the mathematics sees it.
#[derive(Debug)]
pub struct FileSink<'a>(pub &'a mut TensorWriter);

impl TensorSink for FileSink<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.write(bytes).map_err(io::Error::other)
    }
}

/// Takes everything and keeps nothing: for a decision that must not be carried out.
#[derive(Debug, Default)]
pub struct Discard;

impl TensorSink for Discard {
    fn write(&mut self, _: &[u8]) -> io::Result<()> {
        Ok(())
    }
}
