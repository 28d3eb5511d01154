//! Files that nobody else may read: the token, and the key of the certificate.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use super::ListenError;

/// More than any of these files has, in bytes.
const MAX_BYTES: u64 = 1 << 20;

/// Reads a file that is secret.
///
/// # Errors
/// If it cannot be read, is no regular file, is another user's, or can be read by others.
pub(super) fn read_secret(path: &Path) -> Result<Vec<u8>, ListenError> {
    let mut file = open(path)?;
    let metadata = file.metadata().map_err(failed("look at", path))?;
    let mode = metadata.mode() & 0o777;
    // systemd hands credentials over as root's, with the group bits as the mask of an access list.
    let is_shared = mode & 0o007 != 0 || (mode & 0o070 != 0 && metadata.gid() != 0);
    let owner = metadata.uid();
    if is_shared {
        return Err(ListenError::Shared {
            path: path.to_owned(),
            mode,
        });
    }
    if owner != 0 && owner != rustix::process::geteuid().as_raw() {
        return Err(ListenError::Foreign {
            path: path.to_owned(),
            owner,
        });
    }
    content(&mut file, path)
}

/// Reads a file that everybody may know.
///
/// # Errors
/// If it cannot be read or is no regular file.
pub(super) fn read_public(path: &Path) -> Result<Vec<u8>, ListenError> {
    content(&mut open(path)?, path)
}

/// Writes a file that is secret, unless there is one already.
///
/// # Errors
/// If it cannot be written.
pub(super) fn write_new(path: &Path, content: &[u8]) -> Result<(), ListenError> {
    // O_EXCL: what somebody else puts there, a link included, is never written to.
    let file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path);
    let mut file = match file {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
        Err(error) => return Err(failed("make", path)(error)),
    };
    file.write_all(content)
        .and_then(|()| file.sync_all())
        .map_err(failed("write", path))
}

fn open(path: &Path) -> Result<File, ListenError> {
    let file = OpenOptions::new()
        .read(true)
        // A pipe in its place must not hold up the start.
        .custom_flags(rustix::fs::OFlags::NONBLOCK.bits().cast_signed())
        .open(path)
        .map_err(failed("open", path))?;
    let metadata = file.metadata().map_err(failed("look at", path))?;
    if !metadata.is_file() {
        return Err(ListenError::NotAFile(path.to_owned()));
    }
    Ok(file)
}

fn content(file: &mut File, path: &Path) -> Result<Vec<u8>, ListenError> {
    let mut content = Vec::new();
    file.take(MAX_BYTES)
        .read_to_end(&mut content)
        .map_err(failed("read", path))?;
    Ok(content)
}

fn failed(verb: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ListenError {
    let path = path.to_owned();
    move |source| ListenError::Io { verb, path, source }
}
