//! Numbers that are never given out twice, even when the catalog is lost.
//!
//! Owned by the committer. A small file holds a ceiling: no number above it has been given out. It
//! is raised a block at a time, so that it costs a flush once in a thousand numbers; after the
//! catalog was lost, counting goes on above the ceiling. Beside it stands a number that was certainly
//! reached: a catalog that does not come so far has lost its end.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::durable::{self, Disk};
use crate::error::FileError;
use crate::failpoint;
use crate::sealed::{self, Document, SealError};

/// How many numbers one flush reserves.
const BLOCK: u64 = 1000;

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Ceiling {
    ceiling: u64,
    #[serde(default)]
    reached: u64,
}

impl Document for Ceiling {
    const KIND: &'static str = "counter";
}

/// A ceiling on disk.
#[derive(Debug)]
pub(crate) struct Counter {
    path: PathBuf,
    ceiling: u64,
}

/// What the file of a counter says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reading {
    /// There is none.
    Missing,
    /// It is damaged.
    Damaged,
    /// The ceiling.
    Ceiling(u64),
}

/// Reads a counter's file; the error is a later version's schema.
pub(crate) fn read(path: &Path) -> Result<Result<Reading, u16>, FileError> {
    let Some(bytes) = durable::read_if_there(path)? else {
        return Ok(Ok(Reading::Missing));
    };
    Ok(match sealed::unseal::<Ceiling>(&bytes) {
        Ok(document) => Ok(Reading::Ceiling(document.ceiling)),
        Err(SealError::Damaged) => Ok(Reading::Damaged),
        Err(SealError::NewerSchema(schema)) => Err(schema),
    })
}

/// The number that was reached at least.
pub(crate) fn reached(path: &Path) -> Result<u64, FileError> {
    let bytes = durable::read_if_there(path)?;
    let document = bytes.and_then(|bytes| sealed::unseal::<Ceiling>(&bytes).ok());
    Ok(document.map_or(0, |document| document.reached))
}

impl Counter {
    /// A counter that nothing above `ceiling` was given out of.
    pub(crate) fn new(path: PathBuf, ceiling: u64) -> Self {
        Self { path, ceiling }
    }

    /// Nothing above this was given out.
    pub(crate) fn ceiling(&self) -> u64 {
        self.ceiling
    }

    /// Makes sure that `number` may be given out.
    pub(crate) fn reserve(
        &mut self,
        disk: &Disk,
        temporary: PathBuf,
        number: u64,
    ) -> Result<(), FileError> {
        if number <= self.ceiling {
            return Ok(());
        }
        let ceiling = number.div_ceil(BLOCK).saturating_mul(BLOCK);
        self.write(disk, &temporary, ceiling, number.saturating_sub(1))?;
        failpoint::hit("counter.reserved");
        self.ceiling = ceiling;
        Ok(())
    }

    /// Notes that `number` was given out and is in the catalog.
    pub(crate) fn note_reached(
        &self,
        disk: &Disk,
        temporary: PathBuf,
        number: u64,
    ) -> Result<(), FileError> {
        self.write(disk, &temporary, self.ceiling.max(number), number)
    }

    fn write(
        &self,
        disk: &Disk,
        temporary: &Path,
        ceiling: u64,
        reached: u64,
    ) -> Result<(), FileError> {
        let document = Ceiling { ceiling, reached };
        disk.put_durably(temporary, &self.path, &sealed::seal(&document))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_reserved_at_a_time() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("counter");
        let temporary = || directory.path().join("tmp-counter");
        let disk = Disk::default();
        assert_eq!(read(&path).unwrap(), Ok(Reading::Missing));
        let mut counter = Counter::new(path.clone(), 0);
        for (number, ceiling) in [(1, 1000), (1000, 1000), (1001, 2000), (2000, 2000)] {
            counter.reserve(&disk, temporary(), number).unwrap();
            assert_eq!(read(&path).unwrap(), Ok(Reading::Ceiling(ceiling)));
        }
        let file = durable::open_lock(&path).unwrap();
        file.set_len(5).unwrap();
        assert_eq!(read(&path).unwrap(), Ok(Reading::Damaged));
    }
}
