//! An export as it comes in: the header's promises, and the bytes that must keep them. Synchronous;
//! owned by the thread that writes.

use std::collections::HashSet;
use std::fs::File;
use std::io::Write as _;
use std::path::Path;

use kmerge_proto::v1;
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

use crate::error::{Breach, Error};
use crate::files;
use crate::hex::hex;

/// The longest file name, in bytes: what file systems take.
const MAX_FILE_NAME_BYTES: usize = 255;

/// An export under way in a temporary directory, which goes when this is dropped.
#[derive(Debug)]
pub(super) struct Export {
    directory: TempDir,
    files: Vec<v1::ExportFile>,
    /// Index of the file that is being written, or that comes next.
    index: usize,
    current: Option<Current>,
}

/// The file that is being written.
#[derive(Debug)]
struct Current {
    file: File,
    hasher: Sha256,
    left: u64,
}

impl Export {
    /// Begins with the header. Its file names become names on this disk, so each must be plain.
    pub(super) fn begin(directory: TempDir, header: v1::ExportHeader) -> Result<Self, Error> {
        let mut names = HashSet::new();
        for file in &header.files {
            if !is_plain(&file.name) || !names.insert(file.name.as_str()) {
                return Err(Error::Protocol(Breach::FileName(file.name.clone())));
            }
        }
        if header.files.is_empty() {
            return Err(Error::Protocol(Breach::Missing("files")));
        }
        let mut export = Self {
            directory,
            files: header.files,
            index: 0,
            current: None,
        };
        export.advance()?;
        Ok(export)
    }

    /// Takes the next bytes.
    pub(super) fn take(&mut self, chunk: &v1::ExportChunk) -> Result<(), Error> {
        let expected = u32::try_from(self.index).ok();
        let Some(current) = self
            .current
            .as_mut()
            .filter(|_| expected == Some(chunk.file))
        else {
            return Err(Error::Protocol(Breach::Sequence(
                "a chunk of another file than the next",
            )));
        };
        let length = u64::try_from(chunk.data.len()).expect("a message is small");
        current.left =
            current
                .left
                .checked_sub(length)
                .ok_or(Error::Protocol(Breach::Sequence(
                    "a file has more bytes than announced",
                )))?;
        current.hasher.update(&chunk.data);
        let path = self.directory.path().join(&self.files[self.index].name);
        current
            .file
            .write_all(&chunk.data)
            .map_err(Error::file("write", &path))?;
        self.advance()
    }

    /// The directory and the names in it, once every file is whole and durable.
    pub(super) fn finish(self) -> Result<(TempDir, Vec<v1::ExportFile>), Error> {
        if self.current.is_some() {
            return Err(Error::Protocol(Breach::Cut("a file is not whole")));
        }
        files::sync_directory(self.directory.path())?;
        Ok((self.directory, self.files))
    }

    /// Closes every file that is complete, and opens the next that is not.
    fn advance(&mut self) -> Result<(), Error> {
        loop {
            match self.current.take() {
                Some(current) if current.left > 0 => {
                    self.current = Some(current);
                    return Ok(());
                }
                Some(complete) => {
                    let file = &self.files[self.index];
                    close(complete, file, &self.directory.path().join(&file.name))?;
                    self.index += 1;
                }
                None => {}
            }
            let Some(next) = self.files.get(self.index) else {
                return Ok(());
            };
            let file = files::create(&self.directory.path().join(&next.name))?;
            self.current = Some(Current {
                file,
                hasher: Sha256::new(),
                left: next.size_bytes,
            });
        }
    }
}

fn close(current: Current, announced: &v1::ExportFile, path: &Path) -> Result<(), Error> {
    let got = hex(current.hasher.finalize());
    if got != announced.sha256 {
        return Err(Error::Protocol(Breach::Digest {
            name: announced.name.clone(),
            expected: announced.sha256.clone(),
            got,
        }));
    }
    current.file.sync_all().map_err(Error::file("sync", path))
}

/// Whether a name is that of a file in this directory and nothing else.
fn is_plain(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= MAX_FILE_NAME_BYTES
        && !name.starts_with('.')
        && !name
            .chars()
            .any(|c| c == '/' || c == '\\' || c.is_control())
}

#[cfg(test)]
mod tests;
