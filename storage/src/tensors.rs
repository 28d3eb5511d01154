//! Tensor files: immutable, named by their SHA-256, shared by all that name the same bytes.
//!
//! Written by whoever holds a [`Reader`](crate::Reader), removed by the committer. What holds: a
//! file stands under its digest only when it is whole and durable, and it never changes; a file
//! that a commit may still name is leased, and not removed while it is.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::digest::{Digest, Hasher};
use crate::durable;
use crate::error::{FileError, ReadError};
use crate::failpoint;
use crate::shared::Shared;

/// An open tensor file. It can be read to its end even when it has been removed meanwhile.
#[derive(Debug, Clone)]
pub struct TensorFile {
    file: Arc<File>,
    length: u64,
}

impl TensorFile {
    /// The file, which has that length.
    pub(crate) fn new(file: File, length: u64) -> Self {
        Self {
            file: Arc::new(file),
            length,
        }
    }

    /// Opens the file at `path`.
    pub(crate) fn open(path: &Path) -> Result<Self, FileError> {
        let file = durable::open(path)?;
        let length = durable::length(&file, path)?;
        Ok(Self::new(file, length))
    }

    /// Its length in bytes.
    pub fn len(&self) -> u64 {
        self.length
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Fills `buffer` with the bytes from `offset` on.
    ///
    /// # Errors
    /// If the file ends before, or the disk refuses.
    pub fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        failpoint::hit("tensor.read");
        self.file.read_exact_at(buffer, offset)
    }

    /// The file itself, for a flush.
    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// What the system knows of the file.
    pub(crate) fn metadata(&self) -> io::Result<std::fs::Metadata> {
        self.file.metadata()
    }

    /// The digest of all its bytes.
    pub(crate) fn digest(&self) -> io::Result<Digest> {
        self.digest_while(u64::MAX, &mut |_| true)
    }

    /// The digest of all its bytes. After each `piece` bytes, and at the end, `go_on` is told how many were read; if it
    /// says no, that ends with [`io::ErrorKind::Interrupted`].
    pub(crate) fn digest_while(
        &self,
        piece: u64,
        go_on: &mut dyn FnMut(u64) -> bool,
    ) -> io::Result<Digest> {
        let mut hasher = Hasher::default();
        let mut buffer = vec![0; BUFFER];
        let (mut offset, mut told) = (0, 0);
        while offset < self.length {
            let left = usize::try_from(self.length - offset).unwrap_or(BUFFER);
            let part = &mut buffer[..left.min(BUFFER)];
            self.read_exact_at(part, offset)?;
            hasher.update(part);
            offset += part.len() as u64;
            if offset - told >= piece || offset == self.length {
                told = offset;
                if !go_on(offset) {
                    return Err(io::ErrorKind::Interrupted.into());
                }
            }
        }
        Ok(hasher.finish())
    }
}

/// Large enough that the cost of a call does not show, small enough not to show in memory.
const BUFFER: usize = 256 * 1024;

/// A file that is hashed as it is written.
#[derive(Debug)]
pub(crate) struct HashedFile {
    file: File,
    path: PathBuf,
    hasher: Hasher,
    buffer: Vec<u8>,
    length: u64,
}

impl HashedFile {
    /// Makes the file at `path`, which must not be there.
    pub(crate) fn create(path: PathBuf) -> Result<Self, FileError> {
        let file = durable::create(&path)?;
        Ok(Self {
            file,
            path,
            hasher: Hasher::default(),
            buffer: Vec::new(),
            length: 0,
        })
    }

    /// How many bytes it has taken.
    pub(crate) fn length(&self) -> u64 {
        self.length
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Takes the next bytes. Small pieces are gathered, large ones go straight to the system.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<(), FileError> {
        self.hasher.update(bytes);
        self.length += bytes.len() as u64;
        if self.buffer.len() + bytes.len() > BUFFER {
            self.flush()?;
        }
        if bytes.len() >= BUFFER {
            return durable::write(&self.file, &self.path, bytes);
        }
        self.buffer.extend_from_slice(bytes);
        Ok(())
    }

    fn flush(&mut self) -> Result<(), FileError> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let written = durable::write(&self.file, &self.path, &self.buffer);
        self.buffer.clear();
        written
    }

    /// All bytes are with the system; gives the file and the digest. Nothing is durable yet.
    pub(crate) fn finish(mut self) -> Result<(File, Digest), FileError> {
        self.flush()?;
        Ok((self.file, self.hasher.finish()))
    }
}

/// A new tensor file. Dropped before its end, it leaves nothing.
#[derive(Debug)]
pub struct TensorWriter {
    shared: Arc<Shared>,
    /// There until the end.
    file: Option<HashedFile>,
    temporary: PathBuf,
}

impl TensorWriter {
    /// Begins a file.
    pub(crate) fn new(shared: &Arc<Shared>) -> Result<Self, ReadError> {
        check_health(shared)?;
        let temporary = shared.layout.temporary("tensor");
        let file = HashedFile::create(temporary.clone())?;
        Ok(Self {
            shared: Arc::clone(shared),
            file: Some(file),
            temporary,
        })
    }

    /// Takes the next bytes.
    ///
    /// # Errors
    /// If the disk refuses.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), ReadError> {
        let file = self
            .file
            .as_mut()
            .expect("the file is taken only by what ends the writer");
        Ok(file.write(bytes)?)
    }

    /// Ends the file; it is durable and stands under its digest on return.
    ///
    /// 1. The data are flushed to the medium, under a temporary name.
    /// 2. The file gets its name, unless a whole file has it already.
    /// 3. The name is flushed to the medium.
    ///
    /// # Errors
    /// If the disk refuses.
    pub fn finish(mut self) -> Result<StoredTensor, ReadError> {
        let shared = Arc::clone(&self.shared);
        let file = self
            .file
            .take()
            .expect("the file is taken only by what ends the writer");
        let bytes = file.length();
        let (file, digest) = file.finish()?;
        // 1.
        durable::seal(&file, &self.temporary)?;
        shared.disk.sync(&file, &self.temporary)?;
        failpoint::hit("tensor.data_durable");
        // 2.
        let path = shared.layout.tensor(&digest);
        let directory = path.parent().unwrap_or(&path);
        shared
            .disk
            .ensure_directory(shared.layout.root(), directory)?;
        let lease = {
            let mut leases = shared.leases.lock();
            if durable::length_if_there(&path)? != Some(bytes) {
                durable::rename(&self.temporary, &path)?;
            }
            leases.take(digest);
            Lease {
                shared: Arc::clone(&shared),
                digest,
            }
        };
        failpoint::hit("tensor.renamed");
        // 3. Also when the file was there: whoever made it may not have come this far yet.
        shared.disk.sync_directory(directory)?;
        failpoint::hit("tensor.directory_durable");
        Ok(StoredTensor {
            digest,
            bytes,
            _lease: lease,
        })
    }
}

impl Drop for TensorWriter {
    fn drop(&mut self) {
        // After the rename there is nothing of that name. What cannot be removed is swept by the
        // next start.
        drop(durable::unlink(&self.temporary));
    }
}

/// A tensor file that is durable and waits for its commit. Once dropped without one, the file is
/// removed at the next occasion.
#[derive(Debug)]
pub struct StoredTensor {
    /// The SHA-256 of its bytes.
    pub digest: Digest,
    /// Its length in bytes.
    pub bytes: u64,
    _lease: Lease,
}

#[derive(Debug)]
struct Lease {
    shared: Arc<Shared>,
    digest: Digest,
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.shared.leases.lock().give_back(self.digest);
    }
}

impl StoredTensor {
    /// Takes a lease on a file that is there already, for a commit that names the same bytes again.
    /// All of it is read, so that no commit names what is damaged.
    pub(crate) fn existing(
        shared: &Arc<Shared>,
        digest: Digest,
        bytes: u64,
    ) -> Result<Self, ReadError> {
        check_health(shared)?;
        let path = shared.layout.tensor(&digest);
        let lease = {
            let mut leases = shared.leases.lock();
            if durable::length_if_there(&path)?.is_none() {
                return Err(ReadError::TensorMissing { digest });
            }
            leases.take(digest);
            Lease {
                shared: Arc::clone(shared),
                digest,
            }
        };
        let file = TensorFile::open(&path)?;
        let found = file.digest().map_err(|source| FileError {
            verb: "read",
            path,
            source,
        })?;
        if file.len() != bytes || found != digest {
            return Err(ReadError::TensorAltered { digest });
        }
        Ok(Self {
            digest,
            bytes,
            _lease: lease,
        })
    }
}

/// The tensor files that a commit may still name, though no generation does yet.
#[derive(Debug, Default)]
pub(crate) struct Leases(Mutex<LeaseBook>);

#[derive(Debug, Default)]
pub(crate) struct LeaseBook {
    held: BTreeMap<Digest, usize>,
    /// Given back, and not yet looked at.
    returned: BTreeSet<Digest>,
}

impl Leases {
    /// While the book is open, no tensor file gets its name and none loses it.
    pub(crate) fn lock(&self) -> MutexGuard<'_, LeaseBook> {
        // The book is whole after each of its methods, so a panic elsewhere does not matter.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LeaseBook {
    fn take(&mut self, digest: Digest) {
        *self.held.entry(digest).or_insert(0) += 1;
    }

    fn give_back(&mut self, digest: Digest) {
        if let Some(count) = self.held.get_mut(&digest) {
            *count -= 1;
            if *count == 0 {
                self.held.remove(&digest);
                self.returned.insert(digest);
            }
        }
    }

    /// Whether a commit may still name that file.
    pub(crate) fn is_held(&self, digest: &Digest) -> bool {
        self.held.contains_key(digest)
    }

    /// The files whose leases have ended since the last call.
    pub(crate) fn take_returned(&mut self) -> BTreeSet<Digest> {
        std::mem::take(&mut self.returned)
    }
}

/// Refuses to write when that is no longer safe.
pub(crate) fn check_health(shared: &Shared) -> Result<(), ReadError> {
    match shared.failure() {
        Some(why) => Err(ReadError::ReadOnly {
            why: why.to_owned(),
        }),
        None => Ok(()),
    }
}
