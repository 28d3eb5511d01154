//! What is remembered of scrubbing: whether it is held, and when each tensor file was last looked at.
//!
//! Written and read through [`Reader`] by whoever scrubs, one at a time. It is no part of the state: a
//! book that is lost or damaged is an empty one, and nothing else depends on it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::durable::{self, Disk};
use crate::error::FileError;
use crate::ids::UnixMillis;
use crate::read::Reader;
use crate::sealed::{self, Document};

/// What is remembered of scrubbing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScrubBook {
    /// Whether it is held until it is told otherwise.
    pub paused: bool,
    /// When each file was last looked at, by its digest.
    pub looked_at: BTreeMap<Digest, UnixMillis>,
}

impl Document for ScrubBook {
    const KIND: &'static str = "scrub";
}

impl Reader {
    /// The book as it was last kept.
    pub fn scrub_book(&self) -> ScrubBook {
        let bytes = durable::read_if_there(&self.shared.layout.scrub_book());
        let bytes = bytes.ok().flatten().unwrap_or_default();
        sealed::unseal(&bytes).unwrap_or_default()
    }

    /// Keeps the book, durably.
    ///
    /// # Errors
    /// If the disk refuses.
    pub fn keep_scrub_book(&self, book: &ScrubBook) -> Result<(), FileError> {
        let layout = &self.shared.layout;
        // A disk of its own: that the book cannot be kept is no reason to stop writing the state.
        let temporary = layout.temporary("scrub");
        Disk::default().put_durably(&temporary, &layout.scrub_book(), &sealed::seal(book))
    }
}
