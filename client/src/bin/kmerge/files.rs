//! The few files that the command line reads and writes for the user.
#![expect(
    clippy::disallowed_methods,
    reason = "these are the user's files, where the user said; storage is the daemon's"
)]

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use kmerge_client::Error;
use kmerge_proto::limits::MAX_CONFIG_BYTES;

use crate::failure::Failure;

fn failed(verb: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Failure {
    let path = path.to_owned();
    move |source| Error::File { verb, path, source }.into()
}

/// Reads a base model's config.json; `-` is stdin.
pub(crate) fn read_config(path: &Path) -> Result<Vec<u8>, Failure> {
    let source: Box<dyn Read> = if path == Path::new("-") {
        Box::new(std::io::stdin().lock())
    } else {
        Box::new(File::open(path).map_err(failed("open", path))?)
    };
    let limit = u64::try_from(MAX_CONFIG_BYTES).expect("the limit is small");
    let mut config = Vec::new();
    source
        .take(limit + 1)
        .read_to_end(&mut config)
        .map_err(failed("read", path))?;
    if config.len() > MAX_CONFIG_BYTES {
        let message = format!(
            "{} has more than the {MAX_CONFIG_BYTES} bytes allowed",
            path.display()
        );
        return Err(Failure::usage(message).hint("name the model's config.json"));
    }
    Ok(config)
}

pub(crate) fn create_directories(path: &Path) -> Result<(), Failure> {
    fs::create_dir_all(path).map_err(failed("create", path))
}

pub(crate) fn open(path: &Path) -> Result<File, Failure> {
    File::open(path).map_err(failed("open", path))
}

pub(crate) fn create(path: &Path) -> Result<File, Failure> {
    File::create(path).map_err(failed("create", path))
}

pub(crate) fn write(path: &Path, content: &[u8]) -> Result<(), Failure> {
    fs::write(path, content).map_err(failed("write", path))
}

pub(crate) fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    fs::read(path).map_err(failed("read", path))
}

pub(crate) fn copy(from: &Path, to: &Path) -> Result<(), Failure> {
    fs::copy(from, to).map_err(failed("copy", from))?;
    Ok(())
}

pub(crate) fn rename(from: &Path, to: &Path) -> Result<(), Failure> {
    fs::rename(from, to).map_err(failed("rename to", to))
}

/// Makes a file that only the user may read. It must not be there yet.
pub(crate) fn create_private(path: &Path) -> Result<File, Failure> {
    use std::os::unix::fs::OpenOptionsExt as _;
    File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(failed("create", path))
}

/// Removes a file if it is there.
pub(crate) fn remove(path: &Path) -> Result<(), Failure> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(failed("remove", path)(error))
        }
        _ => Ok(()),
    }
}

/// Waits until the medium has what was written and the name that it has.
pub(crate) fn settle(file: &File, path: &Path) -> Result<(), Failure> {
    file.sync_all().map_err(failed("flush", path))
}

/// Waits until the medium has the names beside a path.
pub(crate) fn settle_name(path: &Path) -> Result<(), Failure> {
    let parent = path.parent().filter(|parent| *parent != Path::new(""));
    let parent = parent.unwrap_or(Path::new("."));
    settle(&open(parent)?, parent)
}

/// What is in a directory, in order of name.
pub(crate) fn list(directory: &Path) -> Result<Vec<PathBuf>, Failure> {
    let failed = || failed("list", directory);
    let mut paths = fs::read_dir(directory)
        .map_err(failed())?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<Vec<_>, _>>()
        .map_err(failed())?;
    paths.sort();
    Ok(paths)
}

/// The last lines of a text file, at most `count`; nothing if it cannot be read.
pub(crate) fn last_lines(path: &Path, count: usize) -> Vec<String> {
    let text = fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let mut lines: Vec<String> = text.lines().rev().take(count).map(str::to_owned).collect();
    lines.reverse();
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_come_in_order() {
        let file = tempfile::NamedTempFile::new().unwrap();
        write(file.path(), b"one\ntwo\nthree\n").unwrap();
        assert_eq!(last_lines(file.path(), 2), ["two", "three"]);
        assert_eq!(last_lines(Path::new("/no/such/file"), 2), [""; 0]);
    }

    #[test]
    fn a_config_that_is_too_large_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        write(file.path(), &vec![b' '; MAX_CONFIG_BYTES]).unwrap();
        assert_eq!(read_config(file.path()).unwrap().len(), MAX_CONFIG_BYTES);
        write(file.path(), &vec![b' '; MAX_CONFIG_BYTES + 1]).unwrap();
        assert!(
            read_config(file.path())
                .unwrap_err()
                .message
                .contains("more than the 262144")
        );
    }
}
