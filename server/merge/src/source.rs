//! Where tensor bytes come from and where they go.
//!
//! The mathematics never opens a file: its callers hand in these two traits. A source is one whole
//! safetensors file with random access, a sink is one such file being written from front to back.
//! Both belong to the caller; this crate only borrows them.

use std::io;

/// Random access to the bytes of one safetensors file.
///
/// Modules are read by several threads at once, so reading takes `&self` and needs no cursor.
pub trait TensorSource: Send + Sync {
    /// Length of the whole file in bytes.
    fn len(&self) -> u64;

    /// Fills `buffer` with the bytes that start at `offset`.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::UnexpectedEof`] when the range reaches beyond the end, and whatever the
    /// storage underneath reports.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()>;

    /// The same bytes without a copy, where the source has them in memory and they are all inside
    /// it; `None` sends the reader to [`TensorSource::read_at`].
    fn borrow(&self, offset: u64, len: usize) -> Option<&[u8]> {
        let _ = (offset, len);
        None
    }

    /// Whether there is nothing to read.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Receives one safetensors file from front to back.
pub trait TensorSink {
    /// Appends `bytes`, all of them.
    ///
    /// # Errors
    ///
    /// Whatever the storage underneath reports; the file must then be thrown away.
    fn write(&mut self, bytes: &[u8]) -> io::Result<()>;
}

impl TensorSource for Vec<u8> {
    fn len(&self) -> u64 {
        // A Vec cannot be longer than isize::MAX bytes, so this never saturates.
        u64::try_from(self.as_slice().len()).unwrap_or(u64::MAX)
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let range = self
            .borrow(offset, buffer.len())
            .ok_or(io::ErrorKind::UnexpectedEof)?;
        buffer.copy_from_slice(range);
        Ok(())
    }

    fn borrow(&self, offset: u64, len: usize) -> Option<&[u8]> {
        let start = usize::try_from(offset).ok()?;
        self.get(start..start.checked_add(len)?)
    }
}

impl<T: TensorSource + ?Sized> TensorSource for &T {
    fn len(&self) -> u64 {
        (**self).len()
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        (**self).read_at(offset, buffer)
    }

    fn borrow(&self, offset: u64, len: usize) -> Option<&[u8]> {
        (**self).borrow(offset, len)
    }
}

impl TensorSink for Vec<u8> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.extend_from_slice(bytes);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_inside_and_refuses_beyond_the_end() {
        let bytes: Vec<u8> = (0..10).collect();
        let mut buffer = [0; 4];
        TensorSource::read_at(&bytes, 3, &mut buffer).unwrap();
        assert_eq!(buffer, [3, 4, 5, 6]);
        assert_eq!((&&bytes).borrow(3, 4), Some(&buffer[..]));
        assert_eq!(TensorSource::borrow(&bytes, 3, usize::MAX), None);
        for offset in [7, 10, u64::MAX - 1, u64::MAX] {
            let error = TensorSource::read_at(&bytes, offset, &mut buffer).unwrap_err();
            assert_eq!(
                error.kind(),
                io::ErrorKind::UnexpectedEof,
                "offset {offset}"
            );
            assert_eq!((&&bytes).borrow(offset, 4), None, "offset {offset}");
        }
    }
}
