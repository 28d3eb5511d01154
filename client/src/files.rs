//! The few file operations of this side, each with an error that names verb and path.
//!
//! The daemon's own files are none of its business: here are only an adapter that is read and an
//! export that is written, where the user said.
#![expect(
    clippy::disallowed_methods,
    reason = "the client reads the user's adapter and writes the user's export; storage is the daemon's"
)]

use std::fs::{self, File};
use std::path::Path;

use crate::error::Error;

pub(crate) fn open(path: &Path) -> Result<File, Error> {
    File::open(path).map_err(Error::file("open", path))
}

/// Creates a file that must not exist.
pub(crate) fn create(path: &Path) -> Result<File, Error> {
    File::create_new(path).map_err(Error::file("create", path))
}

pub(crate) fn create_directories(path: &Path) -> Result<(), Error> {
    fs::create_dir_all(path).map_err(Error::file("create", path))
}

pub(crate) fn rename(from: &Path, to: &Path) -> Result<(), Error> {
    fs::rename(from, to).map_err(Error::file("rename a directory to", to))
}

/// Makes what happened to a directory's entries durable.
pub(crate) fn sync_directory(path: &Path) -> Result<(), Error> {
    open(path)?.sync_all().map_err(Error::file("sync", path))
}
