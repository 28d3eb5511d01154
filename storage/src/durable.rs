//! Every file operation of the state directory: the one seam between storage and the system.
//!
//! Used by all modules, owned by none. What holds: files and directories are made readable by
//! their owner only, symbolic links are never followed, each failure names its verb and its path,
//! and a failed flush to the medium turns the whole state read-only.

#![expect(
    clippy::disallowed_methods,
    reason = "this is the one place where files are touched"
)]

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, symlink as make_symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::OFlags;

use crate::error::{FileError, SYNC};
use crate::failpoint;
use crate::health::Health;

/// The mode of files that are still written.
const FILE_MODE: u32 = 0o600;
/// The mode of directories.
const DIRECTORY_MODE: u32 = 0o700;
/// The mode of files that never change again.
pub(crate) const SEALED_MODE: u32 = 0o440;

type Result<T> = std::result::Result<T, FileError>;

trait Explain<T> {
    fn explain(self, verb: &'static str, path: &Path) -> Result<T>;
}

impl<T, E: Into<io::Error>> Explain<T> for std::result::Result<T, E> {
    fn explain(self, verb: &'static str, path: &Path) -> Result<T> {
        self.map_err(|error| FileError {
            verb,
            path: path.to_owned(),
            source: error.into(),
        })
    }
}

fn no_follow() -> i32 {
    // The flag's bits mean the same in the kernel's word and in that of the standard library.
    OFlags::NOFOLLOW.bits().cast_signed()
}

/// Makes a new file for writing. It must not be there yet.
pub(crate) fn create(path: &Path) -> Result<File> {
    failpoint::operation("durable.create")
        .and_then(|()| {
            OpenOptions::new()
                .read(true)
                .write(true)
                .create_new(true)
                .mode(FILE_MODE)
                .custom_flags(no_follow())
                .open(path)
        })
        .explain("create", path)
}

/// Opens the file that processes lock, making it if it is not there.
pub(crate) fn open_lock(path: &Path) -> Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(FILE_MODE)
        .custom_flags(no_follow())
        .open(path)
        .explain("open", path)
}

/// Makes a directory. Its parent must be there, it must not.
pub(crate) fn create_directory(path: &Path) -> Result<()> {
    failpoint::operation("durable.create")
        .and_then(|()| DirBuilder::new().mode(DIRECTORY_MODE).create(path))
        .explain("create", path)
}

/// Makes the state directory and whatever leads to it.
pub(crate) fn create_root(path: &Path) -> Result<()> {
    DirBuilder::new()
        .mode(DIRECTORY_MODE)
        .recursive(true)
        .create(path)
        .explain("create", path)
}

/// The same path from the root on, with links resolved where it is there already.
pub(crate) fn absolute(path: &Path) -> Result<PathBuf> {
    match path.canonicalize() {
        Ok(path) => Ok(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            std::path::absolute(path).explain("find", path)
        }
        Err(error) => Err(error).explain("find", path),
    }
}

/// Opens a file, or a directory, for reading.
pub(crate) fn open(path: &Path) -> Result<File> {
    OpenOptions::new()
        .read(true)
        .custom_flags(no_follow())
        .open(path)
        .explain("open", path)
}

/// Opens a file that is not of the state directory. A link of the user's is followed.
pub(crate) fn open_foreign(path: &Path) -> Result<File> {
    File::open(path).explain("open", path)
}

/// The whole content of a file.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open(path)?.read_to_end(&mut bytes).explain("read", path)?;
    Ok(bytes)
}

/// The whole content of a file; nothing if there is no such file.
pub(crate) fn read_if_there(path: &Path) -> Result<Option<Vec<u8>>> {
    match read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.is_missing() => Ok(None),
        Err(error) => Err(error),
    }
}

/// Writes all of `bytes` at the file's end.
pub(crate) fn write(mut file: &File, path: &Path, bytes: &[u8]) -> Result<()> {
    let mut write = || {
        let part = failpoint::writing("durable.write", bytes.len())?;
        file.write_all(&bytes[..part])?;
        failpoint::broken_off(part, bytes.len())
    };
    write().explain("write to", path)
}

/// Makes a file read-only for good.
pub(crate) fn seal(file: &File, path: &Path) -> Result<()> {
    file.set_permissions(fs::Permissions::from_mode(SEALED_MODE))
        .explain("protect", path)
}

/// The length of an open file.
pub(crate) fn length(file: &File, path: &Path) -> Result<u64> {
    Ok(file.metadata().explain("look at", path)?.len())
}

/// The length of a file; nothing if there is no such regular file.
pub(crate) fn length_if_there(path: &Path) -> Result<Option<u64>> {
    match fs::symlink_metadata(path).explain("look at", path) {
        Ok(metadata) => Ok(metadata.is_file().then_some(metadata.len())),
        Err(error) if error.is_missing() => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether something has that name.
pub(crate) fn exists(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok()
}

/// What the system knows of a name; a link is not followed.
pub(crate) fn metadata(path: &Path) -> Result<fs::Metadata> {
    fs::symlink_metadata(path).explain("look at", path)
}

/// Gives `from` the name `to`, replacing what had it.
pub(crate) fn rename(from: &Path, to: &Path) -> Result<()> {
    failpoint::operation("durable.rename")
        .and_then(|()| fs::rename(from, to))
        .explain("rename to", to)
}

/// Lets two directories change places in one step; says whether the file system knows how.
pub(crate) fn exchange(one: &Path, other: &Path) -> Result<bool> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    use rustix::io::Errno;

    failpoint::operation("durable.rename").explain("rename to", other)?;
    match renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE) {
        Ok(()) => Ok(true),
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => Ok(false),
        Err(error) => Err(error).explain("rename to", other),
    }
}

/// Gives a file a second name.
pub(crate) fn link(from: &Path, to: &Path) -> Result<()> {
    failpoint::operation("durable.link")
        .and_then(|()| fs::hard_link(from, to))
        .explain("link as", to)
}

/// Makes a copy of a file, read-only like what it is a copy of. `to` must not be there yet.
pub(crate) fn copy(from: &Path, to: &Path) -> Result<()> {
    let mut source = open(from)?;
    let mut copy = create(to)?;
    failpoint::operation("durable.write")
        .and_then(|()| io::copy(&mut source, &mut copy))
        .explain("copy to", to)?;
    seal(&copy, to)
}

/// Makes a symbolic link at `path` that leads to `target`.
pub(crate) fn symlink(target: &str, path: &Path) -> Result<()> {
    failpoint::operation("durable.link")
        .and_then(|()| make_symlink(target, path))
        .explain("link as", path)
}

/// Where a symbolic link leads; nothing if there is no such link.
pub(crate) fn read_link(path: &Path) -> Result<Option<PathBuf>> {
    match fs::read_link(path).explain("read", path) {
        Ok(target) => Ok(Some(target)),
        Err(error) if error.is_missing() => Ok(None),
        Err(error) => Err(error),
    }
}

/// Removes a file's name. It is no failure if there is none.
pub(crate) fn unlink(path: &Path) -> Result<()> {
    let removed = failpoint::operation("durable.unlink").and_then(|()| fs::remove_file(path));
    ignore_missing(removed.explain("remove", path))
}

/// Removes a directory with all that is in it. It is no failure if there is none.
pub(crate) fn remove_tree(path: &Path) -> Result<()> {
    let removed = failpoint::operation("durable.unlink").and_then(|()| fs::remove_dir_all(path));
    ignore_missing(removed.explain("remove", path))
}

/// Removes a directory if nothing is in it.
pub(crate) fn remove_if_empty(path: &Path) -> Result<()> {
    match failpoint::operation("durable.unlink").and_then(|()| fs::remove_dir(path)) {
        Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => Ok(()),
        removed => ignore_missing(removed.explain("remove", path)),
    }
}

fn ignore_missing(result: Result<()>) -> Result<()> {
    match result {
        Err(error) if error.is_missing() => Ok(()),
        other => other,
    }
}

/// What a directory holds.
#[derive(Debug)]
pub(crate) struct Entry {
    /// The name in the directory. Names that are no text are spelt with replacement characters and
    /// so match nothing of ours.
    pub(crate) name: String,
    /// The whole path.
    pub(crate) path: PathBuf,
    /// Whether it is a directory itself.
    pub(crate) is_directory: bool,
}

/// What is in a directory, by name. A directory that is not there holds nothing.
pub(crate) fn list(path: &Path) -> Result<Vec<Entry>> {
    let entries = match fs::read_dir(path).explain("list", path) {
        Ok(entries) => entries,
        Err(error) if error.is_missing() => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.explain("list", path)?;
        let kind = entry.file_type().explain("look at", &entry.path())?;
        found.push(Entry {
            name: entry.file_name().to_string_lossy().into_owned(),
            path: entry.path(),
            is_directory: kind.is_dir(),
        });
    }
    found.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    Ok(found)
}

/// What a file system has room for, in bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Space {
    /// What it still has for us.
    pub(crate) free: u64,
    /// All of it.
    pub(crate) total: u64,
}

/// The room on the file system of `path`.
pub(crate) fn space(path: &Path) -> Result<Space> {
    let stat = rustix::fs::statvfs(path).explain("look at the file system of", path)?;
    Ok(Space {
        free: stat.f_bavail.saturating_mul(stat.f_frsize),
        total: stat.f_blocks.saturating_mul(stat.f_frsize),
    })
}

/// How much the file system of `path` still has for us, in bytes.
pub(crate) fn free_space(path: &Path) -> Result<u64> {
    space(path).map(|space| space.free)
}

/// Makes a file of `bytes` whose blocks are set aside, or makes it larger. Gives whether the file
/// system knows how to do that; whatever it has done then, the file holds nothing.
pub(crate) fn set_aside(path: &Path, bytes: u64) -> Result<bool> {
    failpoint::operation("durable.allocate").explain("set room aside in", path)?;
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(FILE_MODE)
        .custom_flags(no_follow())
        .open(path)
        .explain("open", path)?;
    match rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, bytes) {
        Ok(()) => Ok(true),
        Err(error) if is_unknown(error) => Ok(false),
        Err(error) => Err(error).explain("set room aside in", path),
    }
}

/// Sets blocks aside behind the end of a file, so that so many more bytes can be written to it
/// whatever happens to the disk; its length stays. Where the file system cannot do that, nothing
/// happens.
#[cfg(target_os = "linux")]
pub(crate) fn set_aside_behind(path: &Path, bytes: u64) -> Result<()> {
    use std::os::unix::fs::MetadataExt as _;

    /// The unit in which the system counts blocks.
    const BLOCK: u64 = 512;
    let metadata = metadata(path)?;
    let length = metadata.len();
    if metadata.blocks() * BLOCK >= length + bytes {
        return Ok(());
    }
    // Some more, so that it need not be done each time.
    let bytes = bytes + (bytes / 2).min(1 << 18);
    failpoint::operation("durable.allocate").explain("set room aside in", path)?;
    let file = OpenOptions::new()
        .write(true)
        .custom_flags(no_follow())
        .open(path)
        .explain("open", path)?;
    match rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::KEEP_SIZE, length, bytes) {
        Ok(()) => Ok(()),
        Err(error) if is_unknown(error) => Ok(()),
        Err(error) => Err(error).explain("set room aside in", path),
    }
}

/// Elsewhere the system has no way to do that.
#[cfg(not(target_os = "linux"))]
pub(crate) fn set_aside_behind(_: &Path, _: u64) -> Result<()> {
    Ok(())
}

/// Whether a file system does not know how to set blocks aside.
fn is_unknown(error: rustix::io::Errno) -> bool {
    use rustix::io::Errno;
    error == Errno::OPNOTSUPP || error == Errno::NOSYS || error == Errno::INVAL
}

/// Cuts a file to `bytes` and gives the rest of its blocks back.
pub(crate) fn shorten(path: &Path, bytes: u64) -> Result<()> {
    failpoint::operation("durable.truncate")
        .and_then(|()| {
            OpenOptions::new()
                .write(true)
                .custom_flags(no_follow())
                .open(path)
        })
        .and_then(|file| file.set_len(bytes))
        .explain("shorten", path)
}

/// The operations that reach the medium. They share the health of the state.
#[derive(Debug, Clone, Default)]
pub(crate) struct Disk {
    health: Arc<Health>,
}

impl Disk {
    /// The health that a failure here changes.
    pub(crate) fn health(&self) -> &Health {
        &self.health
    }

    /// Waits until the medium has the file's content and length.
    pub(crate) fn sync(&self, file: &File, path: &Path) -> Result<()> {
        let synced = failpoint::operation("durable.sync").and_then(|()| file.sync_all());
        self.watch(synced.explain(SYNC, path))
    }

    /// Waits until the medium has the names in a directory.
    pub(crate) fn sync_directory(&self, path: &Path) -> Result<()> {
        // Not being able to try is no better than failing: names that others rely on may go.
        let synced = failpoint::operation("durable.sync_dir")
            .and_then(|()| open(path).map_err(|error| error.source))
            .and_then(|directory| directory.sync_all());
        self.watch(synced.explain(SYNC, path))
    }

    fn watch(&self, result: Result<()>) -> Result<()> {
        result.inspect_err(|error| self.health.fail(error))
    }

    /// Makes sure that a directory below `root` is there and will stay, with all that lead to it.
    pub(crate) fn ensure_directory(&self, root: &Path, path: &Path) -> Result<()> {
        if path == root || path.is_dir() {
            return Ok(());
        }
        let parent = path.parent().unwrap_or(root);
        self.ensure_directory(root, parent)?;
        create_directory(path)?;
        self.sync_directory(parent)
    }

    /// Writes a new file and waits until the medium has its content. Its name is not yet durable.
    pub(crate) fn write_new(&self, path: &Path, bytes: &[u8]) -> Result<()> {
        let file = create(path)?;
        write(&file, path, bytes)?;
        self.sync(&file, path)
    }

    /// Puts a whole file in the place of `path`, by way of `temporary`. Neither a crash nor a
    /// failure leaves half of it. The new name is not yet durable.
    pub(crate) fn put(&self, temporary: &Path, path: &Path, bytes: &[u8]) -> Result<()> {
        let written = self
            .write_new(temporary, bytes)
            .and_then(|()| rename(temporary, path));
        if written.is_err() {
            // The first failure is the one to report, and a start sweeps what stays here.
            drop(unlink(temporary));
        }
        written
    }

    /// As [`put`](Self::put), and durable.
    pub(crate) fn put_durably(&self, temporary: &Path, path: &Path, bytes: &[u8]) -> Result<()> {
        self.put(temporary, path, bytes)?;
        self.sync_directory(path.parent().unwrap_or(path))
    }
}
