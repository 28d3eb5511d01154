//! Room that is kept back for what must work on a full disk: forgetting, taking jobs back, removing
//! what is superseded, and the catalog's own records of that.
//!
//! A file without content, whose blocks the system has set aside. Shared by all capabilities, given
//! up piece by piece when there is too little room for such a step, and made whole again when there
//! is room, by whoever owns the catalog. What holds: it is never larger than asked for, nothing is
//! kept in it, and to have none is no failure, only a disk that can be full to the last byte.

use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::durable;
use crate::error::FileError;
use crate::layout::Layout;

/// On a small device the reserve takes at most this part of the file system, but for the next two.
const PART: u64 = 32;

/// What a start and a few changes of the catalog take, which is as little as helps at all.
const LEAST: u64 = 4 * 1024 * 1024;

/// On a very small one not even that, but this part.
const LARGEST_PART: u64 = 4;

/// The room that a start needs: what the database rewrites at most, and small files.
const START_ROOM: u64 = 2 * 1024 * 1024;

/// What is given up at once, at least.
const PIECE: u64 = 64 * 1024;

/// The reserve of one state directory.
#[derive(Debug)]
pub(crate) struct Reserve {
    root: PathBuf,
    path: PathBuf,
    wanted: u64,
    held: Mutex<Held>,
}

#[derive(Debug)]
struct Held {
    bytes: u64,
    /// Whether the file system can set blocks aside.
    is_possible: bool,
}

impl Reserve {
    /// Finds what the last run left of it, and wants it to have `bytes`, or less on a small device.
    pub(crate) fn find(layout: &Layout, bytes: u64) -> Result<Self, FileError> {
        let root = layout.root().to_owned();
        let path = layout.reserve();
        let total = durable::space(&root)?.total;
        let wanted = bytes.min((total / PART).max(LEAST).min(total / LARGEST_PART));
        let found = durable::length_if_there(&path)?.unwrap_or(0);
        let reserve = Self {
            root,
            path,
            wanted,
            held: Mutex::new(Held {
                bytes: found,
                is_possible: true,
            }),
        };
        if found > wanted {
            reserve.shrink_to(&mut reserve.held(), wanted)?;
        }
        Ok(reserve)
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sees to it that `room` bytes are free, by giving up as much of the reserve as that takes, or
    /// all of it but what a start needs: whatever is given up somebody else may take. Whether that
    /// was enough is found out by whoever needs the room.
    pub(crate) fn lend(&self, room: u64) -> Result<(), FileError> {
        self.lend_but(room, START_ROOM.min(self.wanted / 2))
    }

    /// The same for a start, from all of the reserve.
    pub(crate) fn lend_for_start(&self, room: u64) -> Result<(), FileError> {
        self.lend_but(room.max(START_ROOM), 0)
    }

    fn lend_but(&self, room: u64, kept: u64) -> Result<(), FileError> {
        let mut held = self.held();
        let free = durable::free_space(&self.root)?;
        if free >= room || held.bytes <= kept {
            return Ok(());
        }
        let missing = (room - free).next_multiple_of(PIECE);
        let left = held.bytes.saturating_sub(missing).max(kept);
        self.shrink_to(&mut held, left)
    }

    fn shrink_to(&self, held: &mut Held, bytes: u64) -> Result<(), FileError> {
        if bytes == 0 {
            durable::unlink(&self.path)?;
        } else {
            durable::shorten(&self.path, bytes)?;
        }
        held.bytes = bytes;
        Ok(())
    }

    /// Takes room again, but never more than half of what is free. Gives whether it is whole now.
    pub(crate) fn replenish(&self) -> Result<bool, FileError> {
        let mut held = self.held();
        if held.bytes >= self.wanted || !held.is_possible {
            return Ok(true);
        }
        let free = durable::free_space(&self.root)?;
        let bytes = self.wanted.min(held.bytes + free / 2);
        let bytes = bytes - bytes % PIECE;
        if bytes <= held.bytes {
            return Ok(false);
        }
        match durable::set_aside(&self.path, bytes) {
            Ok(true) => held.bytes = bytes,
            Ok(false) => {
                held.is_possible = false;
                drop(durable::unlink(&self.path));
                held.bytes = 0;
            }
            // Someone else was faster. What was had before is still there.
            Err(error) if error.is_disk_full() => {
                drop(durable::shorten(&self.path, held.bytes));
            }
            Err(error) => return Err(error),
        }
        Ok(held.bytes >= self.wanted || !held.is_possible)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Reserve {
        fn bytes(&self) -> u64 {
            self.held().bytes
        }
    }

    fn blocks(path: &std::path::Path) -> u64 {
        use std::os::unix::fs::MetadataExt as _;
        std::fs::metadata(path).map_or(0, |metadata| metadata.blocks() * 512)
    }

    #[test]
    fn it_has_blocks_gives_them_up_and_takes_them_again() {
        let directory = tempfile::tempdir().unwrap();
        let layout = Layout::new(directory.path().to_owned());
        let reserve = Reserve::find(&layout, 1 << 20).unwrap();
        assert!(reserve.replenish().unwrap());
        assert_eq!(reserve.bytes(), 1 << 20);
        assert!(blocks(&layout.reserve()) >= 1 << 20);

        // There is room, so nothing is given up.
        reserve.lend(4096).unwrap();
        assert_eq!(reserve.bytes(), 1 << 20);
        let free = durable::free_space(directory.path()).unwrap();
        // Others use the disk as well, so no more than a part can be told.
        reserve.lend(free + (1 << 19)).unwrap();
        assert!(reserve.bytes() < 1 << 20);
        // A start has something left, whatever is asked for before.
        reserve.lend(u64::MAX / 2).unwrap();
        assert_eq!(reserve.bytes(), 1 << 19);
        reserve.lend_but(u64::MAX / 2, 0).unwrap();
        assert_eq!(reserve.bytes(), 0);
        assert!(!durable::exists(&layout.reserve()));
        assert!(reserve.replenish().unwrap());

        let smaller = Reserve::find(&layout, 1 << 18).unwrap();
        assert_eq!(smaller.bytes(), 1 << 18);
        assert_eq!(Reserve::find(&layout, 0).unwrap().bytes(), 0);
        assert!(!durable::exists(&layout.reserve()));
    }
}
