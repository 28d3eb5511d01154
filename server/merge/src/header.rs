//! The safetensors container: a strict, bounded reader and the writer of normal form.
//!
//! The format: a little-endian u64 with the header's length, the header (JSON), the data. The reader
//! is ours because the bytes are hostile: it allocates nothing from declared sizes, refuses what
//! others silently resolve (duplicate names, unknown fields), and its errors name the tensor.
//! Whatever it accepts, the `safetensors` crate accepts too; tests hold it to that.

mod parse;
mod write;

use std::fmt;

use crate::json::printable;
use crate::{AdapterError, Dtype, TensorRange, TensorSource};

pub(crate) use write::{NormalForm, ShapedModule};

/// Longest header read, in bytes.
pub(crate) const MAX_HEADER_BYTES: u64 = 8 << 20;
/// Most tensors read.
pub(crate) const MAX_TENSORS: usize = 65_536;
/// Longest tensor name, in bytes.
pub(crate) const MAX_NAME_BYTES: usize = 256;
/// Most dimensions of any tensor.
pub(crate) const MAX_DIMENSIONS: usize = 4;
/// Largest single dimension.
pub(crate) const MAX_DIMENSION: u64 = 1 << 24;
/// Most elements of one tensor.
pub(crate) const MAX_ELEMENTS: u64 = 1 << 31;

/// Bytes before the header.
const PREFIX_BYTES: u64 = 8;

/// One tensor: name, shape and place, all checked.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct TensorEntry {
    pub(crate) name: String,
    pub(crate) shape: Shape,
    pub(crate) range: TensorRange,
}

/// Up to [`MAX_DIMENSIONS`] dimensions, without an allocation for each tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shape {
    dimensions: [usize; MAX_DIMENSIONS],
    count: usize,
}

impl Shape {
    /// At most [`MAX_DIMENSIONS`] of them; more are left out.
    pub(crate) fn new(given: &[usize]) -> Self {
        let mut dimensions = [0; MAX_DIMENSIONS];
        for (dimension, &given) in dimensions.iter_mut().zip(given) {
            *dimension = given;
        }
        Self {
            dimensions,
            count: given.len().min(MAX_DIMENSIONS),
        }
    }

    pub(crate) fn as_slice(&self) -> &[usize] {
        &self.dimensions[..self.count]
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.as_slice()).finish()
    }
}

/// Reads and checks the header; tensors come back in the order of their data, which they cover
/// without gap or overlap. No value is read.
pub(crate) fn read(source: &dyn TensorSource) -> Result<Vec<TensorEntry>, AdapterError> {
    let file = source.len();
    let mut prefix = [0; 8];
    if file < PREFIX_BYTES {
        let mut start = vec![0; usize::try_from(file).expect("less than 8")];
        source
            .read_at(0, &mut start)
            .map_err(AdapterError::Source)?;
        return Err(foreign(&start).unwrap_or(AdapterError::FileTooShort { bytes: file }));
    }
    source
        .read_at(0, &mut prefix)
        .map_err(AdapterError::Source)?;
    let length = u64::from_le_bytes(prefix);
    let data = match length
        .checked_add(PREFIX_BYTES)
        .and_then(|end| file.checked_sub(end))
    {
        _ if length > MAX_HEADER_BYTES => {
            let defect = AdapterError::HeaderTooLarge {
                bytes: length,
                limit: MAX_HEADER_BYTES,
            };
            return Err(foreign(&prefix).unwrap_or(defect));
        }
        None => {
            let defect = AdapterError::HeaderBeyondFile {
                header: length,
                file,
            };
            return Err(foreign(&prefix).unwrap_or(defect));
        }
        Some(data) => data,
    };
    let mut header = vec![0; usize::try_from(length).expect("bounded by MAX_HEADER_BYTES")];
    source
        .read_at(PREFIX_BYTES, &mut header)
        .map_err(AdapterError::Source)?;
    if header.first() != Some(&b'{') {
        return Err(foreign(&prefix).unwrap_or(AdapterError::HeaderStart));
    }
    let mut tensors = parse::tensors(&header, data)?;
    tensors.sort_by(|l, r| {
        l.range
            .offset
            .cmp(&r.range.offset)
            .then_with(|| l.name.cmp(&r.name))
    });
    let mut covered = 0;
    for tensor in &mut tensors {
        if tensor.range.offset != covered {
            return Err(AdapterError::TensorGap {
                name: tensor.name.clone(),
                expected: covered,
                got: tensor.range.offset,
            });
        }
        covered += tensor.range.bytes;
        // From here on offsets count from the start of the file.
        tensor.range.offset += PREFIX_BYTES + length;
    }
    if covered != data {
        return Err(AdapterError::TrailingBytes { covered, data });
    }
    Ok(tensors)
}

/// Checks a name before it is used for anything.
fn check_name(name: &str) -> Result<(), AdapterError> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-/".contains(&byte);
    if name.is_empty() || name.len() > MAX_NAME_BYTES || !name.bytes().all(allowed) {
        return Err(AdapterError::TensorName {
            name: printable(name, 64),
            limit: MAX_NAME_BYTES,
        });
    }
    Ok(())
}

/// Checks one entry's own arithmetic; `begin` and `end` count from the start of the data.
fn check_entry(
    name: String,
    dtype: Dtype,
    shape: &[u64],
    [begin, end]: [u64; 2],
    data: u64,
) -> Result<TensorEntry, AdapterError> {
    let mut dimensions = [0; MAX_DIMENSIONS];
    let mut elements = 1_u64;
    for (slot, &dimension) in dimensions.iter_mut().zip(shape) {
        if dimension == 0 || dimension > MAX_DIMENSION {
            return Err(AdapterError::DimensionOutOfRange {
                name,
                got: dimension,
                limit: MAX_DIMENSION,
            });
        }
        *slot = usize::try_from(dimension).expect("bounded by MAX_DIMENSION");
        elements = match elements.checked_mul(dimension) {
            Some(elements) if elements <= MAX_ELEMENTS => elements,
            Some(_) | None => {
                return Err(AdapterError::TensorTooLarge {
                    name,
                    limit: MAX_ELEMENTS,
                });
            }
        };
    }
    if begin > end || end > data {
        return Err(AdapterError::TensorOffsets {
            name,
            begin,
            end,
            data,
        });
    }
    let expected = elements * if dtype == Dtype::F32 { 4 } else { 2 };
    if end - begin != expected {
        return Err(AdapterError::TensorBytes {
            name,
            expected,
            got: end - begin,
        });
    }
    Ok(TensorEntry {
        name,
        shape: Shape {
            dimensions,
            count: shape.len(),
        },
        range: TensorRange {
            dtype,
            offset: begin,
            bytes: expected,
        },
    })
}

/// Recognises what people send by mistake, so that the answer can name it. Only asked when the file
/// is no safetensors file anyway, because any of these bytes may also start a header's length.
fn foreign(start: &[u8]) -> Option<AdapterError> {
    const KNOWN: &[(&[u8], &str)] = &[
        (b"PK\x03\x04", "a zip archive or a PyTorch pickle"),
        (b"\x80\x02", "a Python pickle"),
        (b"\x80\x03", "a Python pickle"),
        (b"\x80\x04", "a Python pickle"),
        (b"\x80\x05", "a Python pickle"),
        (b"\x1f\x8b", "a gzip archive"),
        (b"\x28\xb5\x2f\xfd", "a zstd archive"),
        (b"GGUF", "a GGUF file"),
        (b"\x93NUMPY", "a NumPy array"),
        (
            b"version ",
            "a Git LFS pointer (the real file was not downloaded)",
        ),
        (b"<", "an HTML or XML page"),
        (b"{", "a JSON document"),
    ];
    KNOWN
        .iter()
        .find(|(magic, _)| start.starts_with(magic))
        .map(|&(_, looks_like)| AdapterError::ForeignFile { looks_like })
}
