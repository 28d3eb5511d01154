//! The database: sled 0.34.7. The only file that names it.
//!
//! Owned by the committer. Rules that hold here, and why:
//! - One tree, one batch per change, `flush` outside of it: a flush inside a transaction hangs.
//! - On Linux sled's flush stops at the page cache, so each flush is followed by `sync_all` on a
//!   descriptor of our own, which also receives the write errors that sled's own flusher swallows.
//! - No timed flusher: whatever is acknowledged was flushed by us.
//! - sled panics where others return errors, so every call is guarded. A panic on one of its I/O
//!   threads makes it refuse all further work in this process; that arrives here as an error.

use std::any::Any;
use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use crate::catalog_store::{Batch, CatalogStore, Visit};
use crate::durable::{self, Disk};
use crate::error::CatalogError;

/// The database's log is written in pieces of this size. Smaller than sled's own 512 KiB, because
/// a catalog is small and every open piece takes its full size on the disk.
const SEGMENT_BYTES: usize = 128 * 1024;

/// The file that sled writes its log to.
const LOG_FILE: &str = "db";

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
        let database = guard("open", || config.open())?;
        let log_path = path.join(LOG_FILE);
        let log = durable::open(&log_path)?;
        // sled makes files and never waits for their names to be durable.
        disk.sync(&log, &log_path)?;
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
        guard("close", || {
            drop(database);
            Ok(())
        })
    }
}

impl Drop for SledStore {
    fn drop(&mut self) {
        // Whatever was acknowledged is durable already, so a failure here loses nothing.
        drop(self.drop_database());
    }
}

impl CatalogStore for SledStore {
    fn scan(&self, visit: &mut Visit<'_>) -> Result<(), CatalogError> {
        guard("read its records", || {
            for pair in self.database().iter() {
                let (key, value) = pair?;
                visit(&key, &value);
            }
            Ok(())
        })
    }

    fn apply(&mut self, batch: &Batch) -> Result<(), CatalogError> {
        let mut changes = sled::Batch::default();
        for (key, value) in batch.changes() {
            match value {
                Some(value) => changes.insert(key.as_bytes(), value),
                None => changes.remove(key.as_bytes()),
            }
        }
        guard("apply a change", || self.database().apply_batch(changes))
    }

    fn flush(&mut self) -> Result<(), CatalogError> {
        guard("flush a change", || self.database().flush()).map(drop)
    }

    fn sync(&mut self) -> Result<(), CatalogError> {
        self.disk
            .sync(&self.log, &self.path)
            .map_err(CatalogError::from)
    }

    fn close(mut self: Box<Self>) -> Result<(), CatalogError> {
        self.flush()?;
        self.drop_database()?;
        self.sync()
    }
}

/// Calls sled and turns its errors and its panics into ours.
fn guard<T>(
    during: &'static str,
    call: impl FnOnce() -> Result<T, sled::Error>,
) -> Result<T, CatalogError> {
    // After a panic the database is given up and never called again, so nothing half-done in it
    // can be observed.
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(CatalogError::Engine {
            during,
            source: Box::new(error),
        }),
        Err(panic) => Err(CatalogError::Panicked {
            during,
            message: last_words(&*panic),
        }),
    }
}

fn last_words(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("it left no message")
        .to_owned()
}
