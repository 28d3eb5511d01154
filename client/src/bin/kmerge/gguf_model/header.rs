//! The header of a GGUF file, as far as it says what shape a model has: single numbers, short texts
//! and the dimensions of the first block. All else is stepped over, and nothing is allocated from a
//! length that the file claims.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read};

/// Longest key or tensor name, in bytes.
const MAX_NAME: u64 = 1024;
/// Longest text that is kept, in bytes.
const MAX_TEXT: u64 = 1024;
/// Most keys and most tensors.
const MAX_COUNT: u64 = 1 << 20;
/// The header of the largest vocabularies has some 20 MiB.
const MAX_HEADER: u64 = 1 << 28;
/// Whose tensors are of interest.
const FIRST_BLOCK: &str = "blk.0.";

/// A number, if it is one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Number {
    Whole(u64),
    /// Negative, a fraction, or a list.
    Other,
}

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Header {
    numbers: BTreeMap<String, Number>,
    texts: BTreeMap<String, String>,
    dimensions: BTreeMap<String, Vec<u64>>,
}

impl Header {
    pub(super) fn number(&self, key: &str) -> Option<Number> {
        self.numbers.get(key).copied()
    }

    pub(super) fn text(&self, key: &str) -> Option<&str> {
        self.texts.get(key).map(String::as_str)
    }

    /// Of a tensor of the first block, the fastest dimension first.
    pub(super) fn dimensions(&self, tensor: &str) -> Option<&[u64]> {
        self.dimensions.get(tensor).map(Vec::as_slice)
    }

    /// Reads a header; the error goes behind the file's name.
    pub(super) fn read(file: impl Read) -> Result<Self, String> {
        let mut file = file.take(MAX_HEADER);
        let mut magic = [0; 4];
        fill(&mut file, &mut magic)?;
        if magic != *b"GGUF" {
            return Err("is not a GGUF file".to_owned());
        }
        let version = u32::from_le_bytes(array(&mut file)?);
        if version != 3 {
            return Err(format!("is GGUF of version {version}; 3 is read"));
        }
        let (tensors, keys) = (eight(&mut file)?, eight(&mut file)?);
        if tensors.max(keys) > MAX_COUNT {
            return Err(format!("claims {tensors} tensors and {keys} keys"));
        }
        let mut header = Self::default();
        for _ in 0..keys {
            let key = name(&mut file)?;
            let kind = u32::from_le_bytes(array(&mut file)?);
            header.value(&mut file, key, kind)?;
        }
        for _ in 0..tensors {
            let name = name(&mut file)?;
            let count = u32::from_le_bytes(array(&mut file)?);
            if !(1..=4).contains(&count) {
                return Err(format!("has a tensor of {count} dimensions"));
            }
            let dimensions = (0..count)
                .map(|_| eight(&mut file))
                .collect::<Result<Vec<_>, _>>()?;
            // Type and offset.
            skip(&mut file, 12)?;
            if name.starts_with(FIRST_BLOCK) {
                header.dimensions.insert(name, dimensions);
            }
        }
        Ok(header)
    }

    fn value(&mut self, file: &mut impl Read, key: String, kind: u32) -> Result<(), String> {
        let number = match kind {
            8 => {
                let length = eight(file)?;
                if length > MAX_TEXT {
                    return skip(file, length);
                }
                let text = String::from_utf8_lossy(&bytes(file, length)?).into_owned();
                self.texts.insert(key, text);
                return Ok(());
            }
            9 => {
                list(file)?;
                Number::Other
            }
            _ => {
                let size = size(kind)?;
                let mut bytes = [0; 8];
                fill(file, &mut bytes[..size])?;
                whole(kind, bytes)
            }
        };
        self.numbers.insert(key, number);
        Ok(())
    }
}

/// A number of the given type, its bytes padded with zeros.
fn whole(kind: u32, bytes: [u8; 8]) -> Number {
    let unsigned = u64::from_le_bytes(bytes);
    match kind {
        0 | 2 | 4 | 10 => Number::Whole(unsigned),
        // Signed: the highest bit of as many as there are.
        1 if unsigned < 1 << 7 => Number::Whole(unsigned),
        3 if unsigned < 1 << 15 => Number::Whole(unsigned),
        5 if unsigned < 1 << 31 => Number::Whole(unsigned),
        11 if unsigned < 1 << 63 => Number::Whole(unsigned),
        _ => Number::Other,
    }
}

/// Bytes of a value of the given type.
fn size(kind: u32) -> Result<usize, String> {
    match kind {
        0 | 1 | 7 => Ok(1),
        2 | 3 => Ok(2),
        4..=6 => Ok(4),
        10..=12 => Ok(8),
        other => Err(format!("has a value of the unknown type {other}")),
    }
}

fn list(file: &mut impl Read) -> Result<(), String> {
    let kind = u32::from_le_bytes(array(file)?);
    let count = eight(file)?;
    if kind == 8 {
        for _ in 0..count {
            let length = eight(file)?;
            skip(file, length)?;
        }
        return Ok(());
    }
    let size = u64::try_from(size(kind)?).expect("8 at most");
    skip(file, count.saturating_mul(size))
}

fn name(file: &mut impl Read) -> Result<String, String> {
    let length = eight(file)?;
    if length > MAX_NAME {
        return Err(format!("has a name of {length} bytes"));
    }
    Ok(String::from_utf8_lossy(&bytes(file, length)?).into_owned())
}

/// A few bytes, of which the caller has checked that they are few.
fn bytes(file: &mut impl Read, length: u64) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let read = file.take(length).read_to_end(&mut bytes).map_err(failed)?;
    if u64::try_from(read) == Ok(length) {
        Ok(bytes)
    } else {
        Err(cut())
    }
}

fn skip(file: &mut impl Read, length: u64) -> Result<(), String> {
    let skipped = std::io::copy(&mut file.take(length), &mut std::io::sink()).map_err(failed)?;
    if skipped == length {
        Ok(())
    } else {
        Err(cut())
    }
}

fn eight(file: &mut impl Read) -> Result<u64, String> {
    array(file).map(u64::from_le_bytes)
}

fn array<const N: usize>(file: &mut impl Read) -> Result<[u8; N], String> {
    let mut bytes = [0; N];
    fill(file, &mut bytes)?;
    Ok(bytes)
}

fn fill(file: &mut impl Read, buffer: &mut [u8]) -> Result<(), String> {
    file.read_exact(buffer).map_err(failed)
}

fn failed(error: std::io::Error) -> String {
    if error.kind() == ErrorKind::UnexpectedEof {
        cut()
    } else {
        format!("cannot be read: {error}")
    }
}

fn cut() -> String {
    "ends inside its header".to_owned()
}
