//! The database: sled 0.34.7. The only file that names it.
//!
//! Owned by the committer. Rules that hold here, and why:
//! - One tree, one batch per change, `flush` outside of it: a flush inside a transaction hangs.
//! - On Linux sled's flush stops at the page cache, so each flush is followed by `sync_all` on a
//!   descriptor of our own, which also receives the write errors that sled's own flusher swallows.
//! - No timed flusher: whatever is acknowledged was flushed by us.
//! - Dropping the database does not end it: its threads let go of its file a little later. Closing
//!   and opening wait for that, or a whole catalog could be taken for one that does not open.
//! - sled panics where others return errors, so every call is guarded. A panic on one of its I/O
//!   threads makes it refuse all further work in this process; that arrives here as an error.

use std::any::Any;
use std::fs::{File, TryLockError};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::catalog_store::{Batch, CatalogStore, Visit};
use crate::durable::{self, Disk};
use crate::error::{CatalogError, FileError};
use crate::failpoint;

/// The database's log is written in pieces of this size. A page larger than a quarter of it would
/// become a file of its own, which sled never makes durable. A page has up to 17 records, so with
/// the longest keys it stays below 76 KiB, and this is the smallest power of two that will do.
const SEGMENT_BYTES: usize = 512 * 1024;

/// What a new database writes before anyone asks for more room: two segments, at most.
const FIRST_ROOM: u64 = 2 * SEGMENT_BYTES as u64;

/// The file that sled writes its log to.
const LOG_FILE: &str = "db";

/// How long a database that was closed may take to let go of its log.
const RELEASE_PATIENCE: Duration = Duration::from_secs(10);

/// An open database.
#[derive(Debug)]
pub(crate) struct SledStore {
    /// There until it is closed.
    database: Option<sled::Db>,
    log: File,
    disk: Disk,
    path: PathBuf,
}

impl SledStore {
    /// Opens the database in `path`, making it if it is not there.
    pub(crate) fn open(path: &Path, cache_bytes: u64, disk: &Disk) -> Result<Self, CatalogError> {
        let config = sled::Config::new()
            .path(path)
            .cache_capacity(cache_bytes)
            .segment_size(SEGMENT_BYTES)
            .mode(sled::Mode::LowSpace)
            .flush_every_ms(None)
            .print_profile_on_drop(false);
        let log_path = path.join(LOG_FILE);
        if durable::exists(&log_path) {
            wait_until_released(&durable::open(&log_path)?, &log_path)?;
        } else {
            // What a new one begins with must not meet a full disk half-way either.
            drop(durable::create(&log_path)?);
            durable::set_aside_behind(&log_path, FIRST_ROOM)?;
        }
        let database = guard("open", &log_path, || {
            failpoint::operation("database.open")
                .map_err(sled::Error::Io)
                .and_then(|()| config.open())
        })?;
        let log = durable::open(&log_path)?;
        // sled makes files and waits neither for their names to be durable nor, where its own
        // settings are in one, for the content; without these it does not open.
        for entry in durable::list(path)? {
            if !entry.is_directory {
                disk.sync(&durable::open(&entry.path)?, &entry.path)?;
            }
        }
        disk.sync_directory(path)?;
        Ok(Self {
            database: Some(database),
            log,
            disk: disk.clone(),
            path: log_path,
        })
    }

    fn database(&self) -> &sled::Db {
        self.database
            .as_ref()
            .expect("it is taken only by what ends the store")
    }

    fn drop_database(&mut self) -> Result<(), CatalogError> {
        let database = self.database.take();
        guard("close", &self.path, || {
            drop(database);
            Ok(())
        })
    }
}

impl Drop for SledStore {
    fn drop(&mut self) {
        // Whatever was acknowledged is durable already, so a failure here loses nothing. Nor is
        // anything waited for: a database that is damaged may never let go.
        drop(self.drop_database());
    }
}

impl CatalogStore for SledStore {
    fn scan(&self, visit: &mut Visit<'_>) -> Result<(), CatalogError> {
        guard("read its records", &self.path, || {
            for pair in self.database().iter() {
                let (key, value) = pair?;
                visit(&key, &value);
            }
            Ok(())
        })
    }

    fn make_room(&mut self, bytes: u64) -> Result<(), CatalogError> {
        Ok(durable::set_aside_behind(&self.path, bytes)?)
    }

    fn apply(&mut self, batch: &Batch) -> Result<(), CatalogError> {
        let mut changes = sled::Batch::default();
        for (key, value) in batch.changes() {
            match value {
                Some(value) => changes.insert(key.as_bytes(), value),
                None => changes.remove(key.as_bytes()),
            }
        }
        guard("apply a change", &self.path, || {
            failpoint::operation("database.apply")?;
            self.database().apply_batch(changes)
        })
    }

    fn flush(&mut self) -> Result<(), CatalogError> {
        guard("flush a change", &self.path, || {
            failpoint::operation("database.flush")?;
            self.database().flush()
        })
        .map(drop)
    }

    fn sync(&mut self) -> Result<(), CatalogError> {
        self.disk
            .sync(&self.log, &self.path)
            .map_err(CatalogError::from)
    }

    fn close(mut self: Box<Self>) -> Result<(), CatalogError> {
        self.flush()?;
        self.drop_database()?;
        wait_until_released(&self.log, &self.path)?;
        // What was set aside behind the end goes back.
        durable::shorten(&self.path, durable::length(&self.log, &self.path)?)?;
        self.sync()
    }
}

/// Waits until a database that this process had open has let go of its log. No other process can
/// have it, because this one holds the state's own lock.
fn wait_until_released(log: &File, path: &Path) -> Result<(), FileError> {
    let failed = |source| FileError {
        verb: "lock",
        path: path.to_owned(),
        source,
    };
    let deadline = Instant::now() + RELEASE_PATIENCE;
    loop {
        match log.try_lock() {
            Ok(()) => return log.unlock().map_err(failed),
            Err(TryLockError::WouldBlock) if Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(1));
            }
            Err(error) => return Err(failed(error.into())),
        }
    }
}

/// Calls sled and turns its errors and its panics into ours.
fn guard<T>(
    during: &'static str,
    log: &Path,
    call: impl FnOnce() -> Result<T, sled::Error>,
) -> Result<T, CatalogError> {
    // After a panic the database is given up and never called again, so nothing half-done in it
    // can be observed.
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) if tells_of_a_full_disk(&error) => Err(disk_full(log)),
        Ok(Err(error)) => Err(CatalogError::Engine {
            during,
            source: Box::new(error),
        }),
        Err(panic) => {
            let message = last_words(&*panic);
            if message.contains("StorageFull") {
                return Err(disk_full(log));
            }
            Err(CatalogError::Panicked { during, message })
        }
    }
}

/// Whether there was no room for what the database had to write. It passes such an error on with
/// another text, and once with another kind, but always with its name.
fn tells_of_a_full_disk(error: &sled::Error) -> bool {
    matches!(error, sled::Error::Io(error) if error.kind() == io::ErrorKind::StorageFull)
        || format!("{error:?}").contains("StorageFull")
}

fn disk_full(log: &Path) -> CatalogError {
    CatalogError::File(FileError {
        verb: "write to",
        path: log.to_owned(),
        source: rustix::io::Errno::NOSPC.into(),
    })
}

fn last_words(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("it left no message")
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::envelope::VALUE_LIMIT;

    #[test]
    fn the_largest_records_make_no_files_of_their_own() {
        let directory = tempfile::tempdir().unwrap();
        let disk = Disk::default();
        let mut store = SledStore::open(directory.path(), 1 << 20, &disk).unwrap();
        let key = |number| format!("{number:0>200}");
        for round in 0..3_u8 {
            for first in (0..300).step_by(50) {
                let mut batch = Batch::default();
                for number in first..first + 50 {
                    batch.put(key(number), vec![round; VALUE_LIMIT]);
                }
                store.apply(&batch).unwrap();
                store.flush().unwrap();
            }
        }
        let mut count = 0;
        store
            .scan(&mut |_, value| {
                assert_eq!(value, [2; VALUE_LIMIT]);
                count += 1;
            })
            .unwrap();
        assert_eq!(count, 300);
        assert_eq!(
            std::fs::read_dir(directory.path().join("blobs"))
                .unwrap()
                .count(),
            0
        );
        Box::new(store).close().unwrap();
    }
}
