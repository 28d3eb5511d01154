//! Files that keep the elements of a factor in another order than PEFT does, read as if they did
//! not.
//!
//! llama.cpp interleaves the rows of q and k within each head, mlx-lm stores both factors
//! transposed. Either way a tensor keeps its place, its type and its length, so a layout fits the
//! file as it came; only the order inside those ranges differs, and that is put right while
//! reading. Nothing is copied, and no more than a head or a block of rows is held. Used by whoever
//! reads an adapter that came in another format; always: the parts are sorted and apart.

use std::io;

use crate::{TensorRange, TensorSource};

/// Bytes of a stored matrix that are read at once, where a part of every row is wanted.
const BLOCK: usize = 256 << 10;
/// From this many bytes on a part of a row is read by itself.
const WORTH_A_READ: usize = 4 << 10;

/// How one tensor is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    /// Within each group of `rows` rows, row i of the first half and row i of the second follow
    /// each other.
    Interleaved {
        /// Rows of one head; even.
        rows: usize,
        /// Bytes of one row.
        row_bytes: usize,
    },
    /// Rows and columns are exchanged.
    Transposed {
        /// Rows as stored.
        rows: usize,
        /// Columns as stored.
        columns: usize,
        /// Bytes of one element.
        element: usize,
    },
}

/// Which tensors of a file are stored in another order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Arrangement {
    parts: Vec<Part>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Part {
    start: u64,
    end: u64,
    order: Order,
}

impl Arrangement {
    /// Collects tensors that do not overlap and lie inside a file.
    pub(crate) fn new(tensors: impl IntoIterator<Item = (TensorRange, Order)>) -> Self {
        let mut parts: Vec<Part> = tensors
            .into_iter()
            .map(|(range, order)| Part {
                start: range.offset,
                end: range.offset + range.bytes,
                order,
            })
            .collect();
        parts.sort_unstable_by_key(|part| part.start);
        Self { parts }
    }

    /// The file with its factors in PEFT's order.
    pub fn apply<'a>(&'a self, source: &'a dyn TensorSource) -> Arranged<'a> {
        Arranged {
            parts: &self.parts,
            source,
        }
    }
}

/// A file that is read in PEFT's order.
#[derive(Clone, Copy)]
pub struct Arranged<'a> {
    parts: &'a [Part],
    source: &'a dyn TensorSource,
}

impl std::fmt::Debug for Arranged<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Arranged")
            .field("parts", &self.parts.len())
            .field("source_bytes", &self.source.len())
            .finish()
    }
}

impl Arranged<'_> {
    /// The first part that ends behind `offset`.
    fn next(&self, offset: u64) -> Option<&Part> {
        let index = self.parts.partition_point(|part| part.end <= offset);
        self.parts.get(index)
    }
}

impl TensorSource for Arranged<'_> {
    fn len(&self) -> u64 {
        self.source.len()
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let mut at = offset;
        let mut rest = buffer;
        while !rest.is_empty() {
            let part = self.next(at);
            // Up to where another order begins or ends.
            let border = part.map_or(u64::MAX, |part| {
                if at < part.start {
                    part.start
                } else {
                    part.end
                }
            });
            let length = usize::try_from(border.saturating_sub(at))
                .unwrap_or(usize::MAX)
                .min(rest.len());
            let (now, later) = rest.split_at_mut(length);
            match part {
                Some(part) if part.start <= at => part.read(self.source, at - part.start, now)?,
                Some(_) | None => self.source.read_at(at, now)?,
            }
            at = at.saturating_add(wide(length));
            rest = later;
        }
        Ok(())
    }

    fn borrow(&self, offset: u64, len: usize) -> Option<&[u8]> {
        let end = offset.checked_add(wide(len))?;
        match self.next(offset) {
            Some(part) if part.start < end => None,
            Some(_) | None => self.source.borrow(offset, len),
        }
    }
}

impl Part {
    /// Fills `out` with the bytes from `from` on, counted in the tensor in PEFT's order.
    fn read(&self, source: &dyn TensorSource, from: u64, out: &mut [u8]) -> io::Result<()> {
        let from = usize::try_from(from).map_err(|_| io::ErrorKind::UnexpectedEof)?;
        match self.order {
            Order::Interleaved { rows, row_bytes } => {
                self.interleaved(source, [rows, row_bytes], from, out)
            }
            Order::Transposed {
                rows,
                columns,
                element,
            } => self.transposed(source, [rows, columns, element], from, out),
        }
    }

    fn interleaved(
        &self,
        source: &dyn TensorSource,
        [rows, row_bytes]: [usize; 2],
        from: usize,
        out: &mut [u8],
    ) -> io::Result<()> {
        let group_bytes = rows * row_bytes;
        let mut group = vec![0; group_bytes];
        let mut held = None;
        let mut done = 0;
        while done < out.len() {
            let at = from + done;
            let index = at / group_bytes;
            if held != Some(index) {
                source.read_at(self.start + wide(index * group_bytes), &mut group)?;
                held = Some(index);
            }
            let (row, inside) = ((at % group_bytes) / row_bytes, at % row_bytes);
            let stored = interleaved_row(row, rows);
            let length = (row_bytes - inside).min(out.len() - done);
            let start = stored * row_bytes + inside;
            out[done..done + length].copy_from_slice(&group[start..start + length]);
            done += length;
        }
        Ok(())
    }

    fn transposed(
        &self,
        source: &dyn TensorSource,
        [rows, columns, element]: [usize; 3],
        from: usize,
        out: &mut [u8],
    ) -> io::Result<()> {
        let end = from + out.len();
        if !from.is_multiple_of(element) || !end.is_multiple_of(element) {
            // Nobody reads half an element; whoever does gets it the long way.
            let first = from - from % element;
            let mut whole = vec![0; end.next_multiple_of(element) - first];
            self.transposed(source, [rows, columns, element], first, &mut whole)?;
            let length = out.len();
            out.copy_from_slice(&whole[from - first..][..length]);
            return Ok(());
        }
        // PEFT's row is a stored column.
        let (first, last) = (from / element, end / element);
        let wanted = first / rows..=(last - 1) / rows;
        let narrow = (wanted.end() - wanted.start() + 1) * element;
        let row_bytes = columns * element;
        let by_itself = narrow >= WORTH_A_READ && narrow < row_bytes;
        // What is read of each stored row: only what is wanted, or all of it.
        let (skipped, taken) = if by_itself {
            (wanted.start() * element, narrow)
        } else {
            (0, row_bytes)
        };
        let at_once = if by_itself {
            1
        } else {
            (BLOCK / row_bytes).max(1)
        };
        let mut block = vec![0; at_once.min(rows) * taken];
        for stored in (0..rows).step_by(at_once) {
            let count = at_once.min(rows - stored);
            let block = &mut block[..count * taken];
            let place = self.start + wide(stored * row_bytes + skipped);
            source.read_at(place, block)?;
            for (row, bytes) in (stored..).zip(block.chunks_exact(taken)) {
                for column in wanted.clone() {
                    let target = column * rows + row;
                    if (first..last).contains(&target) {
                        let from = column * element - skipped;
                        out[(target - first) * element..][..element]
                            .copy_from_slice(&bytes[from..from + element]);
                    }
                }
            }
        }
        Ok(())
    }
}

/// Where a head of `rows` rows keeps its row `row` when its halves are interleaved.
pub(crate) const fn interleaved_row(row: usize, rows: usize) -> usize {
    let half = rows / 2;
    2 * (row % half) + row / half
}

/// The row that a head of `rows` interleaved rows keeps in place `stored`.
pub(crate) const fn original_row(stored: usize, rows: usize) -> usize {
    let half = rows / 2;
    (stored % 2) * half + stored / 2
}

fn wide(count: usize) -> u64 {
    u64::try_from(count).expect("usize has at most 64 bits")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Dtype;

    const AROUND: usize = 3;

    /// A file with something before and behind one tensor of `bytes` bytes, each byte its own.
    fn file(bytes: usize) -> (Vec<u8>, TensorRange) {
        let file: Vec<u8> = (0..AROUND + bytes + AROUND)
            .map(|at| u8::try_from(at % 251).unwrap())
            .collect();
        let range = TensorRange {
            dtype: Dtype::F16,
            offset: wide(AROUND),
            bytes: wide(bytes),
        };
        (file, range)
    }

    /// Every range of the file, however cut, must be a piece of `expected`.
    fn check(file: &Vec<u8>, range: TensorRange, order: Order, expected: &[u8]) {
        let arrangement = Arrangement::new([(range, order)]);
        let arranged = arrangement.apply(file);
        let whole = [&file[..AROUND], expected, &file[AROUND + expected.len()..]].concat();
        assert_eq!(arranged.len(), wide(whole.len()));
        for start in 0..whole.len() {
            for end in start..=whole.len() {
                let mut found = vec![0; end - start];
                arranged.read_at(wide(start), &mut found).unwrap();
                assert_eq!(found, whole[start..end], "{start}..{end}");
            }
            assert!(
                arranged
                    .read_at(wide(start), &mut vec![0; whole.len()])
                    .is_err()
                    == (start > 0)
            );
        }
        assert!(arranged.read_at(u64::MAX, &mut [0]).is_err());
    }

    #[test]
    fn heads_are_put_back_in_order() {
        // Two heads of six rows of four bytes.
        let (rows, row_bytes) = (6, 4);
        let (file, range) = file(2 * rows * row_bytes);
        let stored = |head: usize, row: usize| {
            let start = AROUND + (head * rows + row) * row_bytes;
            file[start..start + row_bytes].to_vec()
        };
        let expected: Vec<u8> = [0, 1]
            .into_iter()
            .flat_map(|head| [0, 2, 4, 1, 3, 5].map(|row| stored(head, row)))
            .flatten()
            .collect();
        check(
            &file,
            range,
            Order::Interleaved { rows, row_bytes },
            &expected,
        );
        for row in 0..rows {
            assert_eq!(original_row(interleaved_row(row, rows), rows), row);
        }
    }

    #[test]
    fn matrices_are_turned_back() {
        let (rows, columns, element) = (5, 3, 2);
        let (file, range) = file(rows * columns * element);
        let expected: Vec<u8> = (0..columns)
            .flat_map(|column| (0..rows).map(move |row| row * columns + column))
            .flat_map(|at| file[AROUND + at * element..][..element].to_vec())
            .collect();
        let order = Order::Transposed {
            rows,
            columns,
            element,
        };
        check(&file, range, order, &expected);
    }

    #[test]
    fn large_matrices_are_turned_back_in_pieces() {
        // Rows so long that a part of one is read by itself, and so many that blocks are.
        for (rows, columns) in [(7, 9000), (9000, 7), (300, 700)] {
            let element = 2;
            let (file, range) = file(rows * columns * element);
            let arrangement = Arrangement::new([(
                range,
                Order::Transposed {
                    rows,
                    columns,
                    element,
                },
            )]);
            let arranged = arrangement.apply(&file);
            let mut whole = vec![0; rows * columns * element];
            arranged.read_at(range.offset, &mut whole).unwrap();
            for (at, pair) in whole.chunks_exact(element).enumerate() {
                let (column, row) = (at / rows, at % rows);
                let stored = AROUND + (row * columns + column) * element;
                assert_eq!(pair, &file[stored..stored + element], "{at}");
            }
            let mut pieces = Vec::new();
            for start in (0..whole.len()).step_by(10_000) {
                let mut piece = vec![0; 10_000.min(whole.len() - start)];
                arranged
                    .read_at(range.offset + wide(start), &mut piece)
                    .unwrap();
                pieces.extend(piece);
            }
            assert_eq!(pieces, whole);
        }
    }

    #[test]
    fn only_what_is_in_order_is_lent() {
        let (file, range) = file(12);
        let order = Order::Transposed {
            rows: 3,
            columns: 2,
            element: 2,
        };
        let arrangement = Arrangement::new([(range, order)]);
        let arranged = arrangement.apply(&file);
        assert_eq!(arranged.borrow(0, AROUND), Some(&file[..AROUND]));
        assert_eq!(arranged.borrow(0, AROUND + 1), None);
        assert_eq!(arranged.borrow(wide(AROUND + 12), 3), Some(&file[15..]));
        assert_eq!(arranged.borrow(u64::MAX, 2), None);
        let empty = Arrangement::default();
        assert_eq!(empty.apply(&file).borrow(0, file.len()), Some(&file[..]));
    }
}
