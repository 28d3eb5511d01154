//! Reading a file from front to back within bounds: whatever a length claims, no more is read than
//! the file has, and no more is held than one window.

use crate::{GgufError, TensorSource};

/// Bytes fetched at once.
const WINDOW: usize = 64 << 10;

/// A place in a file, and what is around it.
pub(super) struct Cursor<'a> {
    source: &'a dyn TensorSource,
    position: u64,
    /// Bytes in the file.
    end: u64,
    /// How far a header may reach.
    limit: u64,
    window: Vec<u8>,
    window_start: u64,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(source: &'a dyn TensorSource, limit: u64) -> Self {
        Self {
            source,
            position: 0,
            end: source.len(),
            limit,
            window: Vec::new(),
            window_start: 0,
        }
    }

    /// Bytes before the place.
    pub(super) fn position(&self) -> u64 {
        self.position
    }

    /// Bytes behind the place that may be read.
    pub(super) fn left(&self) -> u64 {
        self.end.min(self.limit).saturating_sub(self.position)
    }

    /// Moves on by `count` bytes.
    pub(super) fn skip(&mut self, count: u64) -> Result<(), GgufError> {
        let left = self.end.saturating_sub(self.position);
        if count > left {
            return Err(GgufError::CutShort { at: self.end });
        }
        if count > self.left() {
            return Err(GgufError::HeaderTooLarge { limit: self.limit });
        }
        self.position += count;
        Ok(())
    }

    /// The next `count` bytes, of which the caller has checked that they are few.
    pub(super) fn take(&mut self, count: usize) -> Result<&[u8], GgufError> {
        let start = self.position;
        let bytes = u64::try_from(count).expect("usize has at most 64 bits");
        self.skip(bytes)?;
        let window_end = self.window_start + u64::try_from(self.window.len()).expect("as above");
        if start < self.window_start || self.position > window_end {
            let rest = usize::try_from(self.end - start).unwrap_or(usize::MAX);
            self.window.resize(WINDOW.max(count).min(rest), 0);
            self.window_start = start;
            self.source
                .read_at(start, &mut self.window)
                .map_err(GgufError::Source)?;
        }
        let from = usize::try_from(start - self.window_start).expect("inside the window");
        Ok(&self.window[from..from + count])
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], GgufError> {
        let bytes = self.take(N)?;
        Ok(bytes.try_into().expect("as many as were taken"))
    }

    pub(super) fn u8(&mut self) -> Result<u8, GgufError> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(super) fn u16(&mut self) -> Result<u16, GgufError> {
        self.array().map(u16::from_le_bytes)
    }

    pub(super) fn u32(&mut self) -> Result<u32, GgufError> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, GgufError> {
        self.array().map(u64::from_le_bytes)
    }
}
