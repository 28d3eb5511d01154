//! The files that scoring reads and writes, each with an error that names verb and path.
#![expect(
    clippy::disallowed_methods,
    reason = "these are the user's files, where the user said; storage is the daemon's"
)]

use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use super::error::Error;

/// A whole file.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>, Error> {
    fs::read(path).map_err(Error::file("read", path))
}

/// A whole file that is text.
pub(crate) fn read_text(path: &Path) -> Result<String, Error> {
    fs::read_to_string(path).map_err(Error::file("read", path))
}

/// A file to read from.
pub(crate) fn open(path: &Path) -> Result<File, Error> {
    File::open(path).map_err(Error::file("open", path))
}

/// Writes a file, whole.
pub(crate) fn write(path: &Path, content: &[u8]) -> Result<(), Error> {
    fs::write(path, content).map_err(Error::file("write", path))
}

/// Makes the directory that is to hold `path`.
pub(crate) fn create_parent(path: &Path) -> Result<(), Error> {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => {
            fs::create_dir_all(parent).map_err(Error::file("create", parent))
        }
        _ => Ok(()),
    }
}

/// Adds one line to a file, in one write.
pub(crate) fn append(path: &Path, line: &str) -> Result<(), Error> {
    let failed = || Error::file("write", path);
    let mut file = OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .map_err(failed())?;
    file.write_all(format!("{line}\n").as_bytes())
        .map_err(failed())
}

/// The paths in a directory, in order.
pub(crate) fn list(directory: &Path) -> Result<Vec<PathBuf>, Error> {
    let failed = || Error::file("list", directory);
    let mut paths = Vec::new();
    for entry in directory.read_dir().map_err(failed())? {
        paths.push(entry.map_err(failed())?.path());
    }
    paths.sort_unstable();
    Ok(paths)
}

/// SHA-256 of some files, one after the other, as hexadecimal digits.
pub(crate) fn digest(paths: &[PathBuf]) -> Result<String, Error> {
    let mut digest = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    for path in paths {
        let mut file = open(path)?;
        loop {
            let count = file.read(&mut buffer).map_err(Error::file("read", path))?;
            match buffer.get(..count) {
                Some(bytes) if count > 0 => digest.update(bytes),
                _ => break,
            }
        }
    }
    Ok(hex(&digest.finalize()))
}

/// Lowercase hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        // A string takes whatever is written to it.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
