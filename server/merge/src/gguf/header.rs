//! The header of a GGUF file: keys with their values, then where each tensor is.
//!
//! Checked as llama.cpp checks it and more strictly where a defect could be read in two ways: no
//! key and no tensor twice, tensors one behind the other in the order of their descriptions, each
//! at the next multiple of the alignment, and nothing behind the last.

use std::collections::{BTreeMap, BTreeSet};

use super::cursor::Cursor;
use super::{DEFAULT_ALIGNMENT, MAGIC, VERSION, key, value_type};
use crate::header::{
    MAX_DIMENSION, MAX_DIMENSIONS, MAX_ELEMENTS, MAX_HEADER_BYTES, MAX_TENSORS, Shape, TensorEntry,
};
use crate::json::printable;
use crate::{Dtype, GgufError, TensorRange, TensorSource};

/// Bytes before the keys.
const PREFIX_BYTES: u64 = 24;
/// Most keys.
const MAX_KEYS: u64 = 4096;
/// Longest key, in bytes.
const MAX_KEY_BYTES: u64 = 256;
/// Longest text, in bytes: chat templates have some ten thousand.
const MAX_TEXT_BYTES: u64 = 1 << 20;
/// Longest tensor name, in bytes: ggml keeps 64 with the terminator.
const MAX_NAME_BYTES: u64 = 63;
/// Largest alignment.
const MAX_ALIGNMENT: u64 = 1 << 20;

/// A value, as far as anyone asks for it.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    Unsigned(u64),
    Signed(i64),
    Float(f64),
    Bool(bool),
    Text(String),
    /// Not kept.
    Array,
}

/// The keys of a file.
#[derive(Debug, Default)]
pub(super) struct Keys(BTreeMap<String, Value>);

/// A whole header.
#[derive(Debug)]
pub(super) struct Header {
    pub(super) keys: Keys,
    /// In the order of their data; offsets count from the start of the file.
    pub(super) tensors: Vec<TensorEntry>,
}

impl Header {
    /// Reads and checks the header of a file whose tensors are factors. No value is read.
    pub(super) fn read(source: &dyn TensorSource) -> Result<Self, GgufError> {
        let mut cursor = Cursor::new(source, MAX_HEADER_BYTES);
        let (keys, tensors) = keys(&mut cursor)?;
        let alignment = keys.alignment()?;
        let tensors = descriptions(&mut cursor, tensors)?;
        let start = cursor.position().next_multiple_of(alignment);
        // A file without tensors may end with its header.
        let data = source.len().saturating_sub(start);
        let tensors = place(tensors, start, data, alignment)?;
        Ok(Self { keys, tensors })
    }
}

impl Keys {
    /// A text.
    pub(super) fn text(&self, key: &str) -> Result<Option<&str>, GgufError> {
        match self.0.get(key) {
            None => Ok(None),
            Some(Value::Text(text)) => Ok(Some(text)),
            Some(_) => Err(wrong_type(key, "a text")),
        }
    }

    /// A floating-point number.
    pub(super) fn float(&self, key: &str) -> Result<Option<f64>, GgufError> {
        match self.0.get(key) {
            None => Ok(None),
            Some(Value::Float(number)) => Ok(Some(*number)),
            Some(_) => Err(wrong_type(key, "a floating-point number")),
        }
    }

    /// A whole number that is not negative.
    pub(super) fn unsigned(&self, key: &str) -> Result<Option<u64>, GgufError> {
        match self.0.get(key) {
            None => Ok(None),
            Some(Value::Unsigned(number)) => Ok(Some(*number)),
            Some(Value::Signed(number)) => u64::try_from(*number)
                .map(Some)
                .map_err(|_| wrong_type(key, "a whole number that is not negative")),
            Some(_) => Err(wrong_type(key, "a whole number")),
        }
    }

    /// Whether the key is there.
    pub(super) fn has(&self, key: &str) -> bool {
        self.0.contains_key(key)
    }

    fn alignment(&self) -> Result<u64, GgufError> {
        let got = self.unsigned(key::ALIGNMENT)?.unwrap_or(DEFAULT_ALIGNMENT);
        if !got.is_power_of_two() || got > MAX_ALIGNMENT {
            return Err(GgufError::Alignment {
                got,
                limit: MAX_ALIGNMENT,
            });
        }
        Ok(got)
    }
}

fn wrong_type(key: &str, expected: &'static str) -> GgufError {
    GgufError::KeyType {
        key: key.to_owned(),
        expected,
    }
}

/// Reads the fixed part and the keys; gives the number of tensors too.
pub(super) fn keys(cursor: &mut Cursor<'_>) -> Result<(Keys, u64), GgufError> {
    if cursor.left() < PREFIX_BYTES {
        let bytes = cursor.left();
        let magic = cursor.left() < 4 || cursor.take(4)? == MAGIC;
        return Err(if magic {
            GgufError::TooShort { bytes }
        } else {
            GgufError::NotGguf
        });
    }
    if cursor.take(4)? != MAGIC {
        return Err(GgufError::NotGguf);
    }
    match cursor.u32()? {
        VERSION => {}
        // The low half of a version is never empty but in the other byte order.
        got if got & 0xffff == 0 => return Err(GgufError::BigEndian),
        got => return Err(GgufError::Version { got }),
    }
    let tensors = cursor.u64()?;
    let limit = u64::try_from(MAX_TENSORS).expect("the limit is small");
    if tensors > limit {
        return Err(GgufError::TooManyTensors {
            got: tensors,
            limit,
        });
    }
    let count = cursor.u64()?;
    if count > MAX_KEYS {
        return Err(GgufError::TooManyKeys {
            got: count,
            limit: MAX_KEYS,
        });
    }
    let mut keys = BTreeMap::new();
    for _ in 0..count {
        let name = key_name(cursor)?;
        let kind = cursor.u32()?;
        let value = value(cursor, &name, kind)?;
        if keys.contains_key(&name) {
            return Err(GgufError::DuplicateKey { key: name });
        }
        keys.insert(name, value);
    }
    Ok((Keys(keys), tensors))
}

fn key_name(cursor: &mut Cursor<'_>) -> Result<String, GgufError> {
    let got = cursor.u64()?;
    if got == 0 || got > MAX_KEY_BYTES {
        return Err(GgufError::KeyLength {
            got,
            limit: MAX_KEY_BYTES,
        });
    }
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    plain(cursor, got, allowed)?.map_err(|key| GgufError::KeyText { key })
}

/// The next `count` bytes if all are allowed ones, else what they look like.
fn plain(
    cursor: &mut Cursor<'_>,
    count: u64,
    allowed: impl Fn(u8) -> bool,
) -> Result<Result<String, String>, GgufError> {
    let bytes = cursor.take(usize::try_from(count).expect("bounded by the caller"))?;
    let text = String::from_utf8_lossy(bytes);
    Ok(if bytes.iter().all(|&byte| allowed(byte)) {
        Ok(text.into_owned())
    } else {
        Err(printable(&text, 64))
    })
}

fn value(cursor: &mut Cursor<'_>, key: &str, kind: u32) -> Result<Value, GgufError> {
    #[expect(
        clippy::cast_possible_wrap,
        reason = "two's complement is what the file has"
    )]
    let value = match kind {
        value_type::U8 => Value::Unsigned(cursor.u8()?.into()),
        value_type::I8 => Value::Signed((cursor.u8()? as i8).into()),
        value_type::U16 => Value::Unsigned(cursor.u16()?.into()),
        value_type::I16 => Value::Signed((cursor.u16()? as i16).into()),
        value_type::U32 => Value::Unsigned(cursor.u32()?.into()),
        value_type::I32 => Value::Signed((cursor.u32()? as i32).into()),
        value_type::U64 => Value::Unsigned(cursor.u64()?),
        value_type::I64 => Value::Signed(cursor.u64()? as i64),
        value_type::F32 => Value::Float(f32::from_bits(cursor.u32()?).into()),
        value_type::F64 => Value::Float(f64::from_bits(cursor.u64()?)),
        value_type::BOOL => match cursor.u8()? {
            0 => Value::Bool(false),
            1 => Value::Bool(true),
            got => {
                return Err(GgufError::BoolValue {
                    key: key.to_owned(),
                    got,
                });
            }
        },
        value_type::TEXT => {
            let length = text_length(cursor, key)?;
            let bytes = cursor.take(usize::try_from(length).expect("bounded just now"))?;
            let text = str::from_utf8(bytes).map_err(|_| GgufError::TextEncoding {
                key: key.to_owned(),
            })?;
            Value::Text(text.to_owned())
        }
        value_type::ARRAY => {
            array(cursor, key)?;
            Value::Array
        }
        got => {
            return Err(GgufError::ValueType {
                key: key.to_owned(),
                got,
            });
        }
    };
    Ok(value)
}

fn text_length(cursor: &mut Cursor<'_>, key: &str) -> Result<u64, GgufError> {
    let got = cursor.u64()?;
    if got > MAX_TEXT_BYTES {
        return Err(GgufError::TextLength {
            key: key.to_owned(),
            got,
            limit: MAX_TEXT_BYTES,
        });
    }
    Ok(got)
}

/// Steps over an array. Each text in it takes eight bytes at least, so that what it takes to step
/// over them is bounded by what the file has.
fn array(cursor: &mut Cursor<'_>, key: &str) -> Result<(), GgufError> {
    let element = cursor.u32()?;
    let count = cursor.u64()?;
    let size = match element {
        value_type::U8 | value_type::I8 | value_type::BOOL => 1,
        value_type::U16 | value_type::I16 => 2,
        value_type::U32 | value_type::I32 | value_type::F32 => 4,
        value_type::U64 | value_type::I64 | value_type::F64 | value_type::TEXT => 8,
        value_type::ARRAY => {
            return Err(GgufError::NestedArray {
                key: key.to_owned(),
            });
        }
        got => {
            return Err(GgufError::ValueType {
                key: key.to_owned(),
                got,
            });
        }
    };
    let bytes = count
        .checked_mul(size)
        .filter(|&bytes| bytes <= cursor.left())
        .ok_or_else(|| GgufError::ArrayLength {
            key: key.to_owned(),
            got: count,
        })?;
    if element != value_type::TEXT {
        return cursor.skip(bytes);
    }
    for _ in 0..count {
        let length = text_length(cursor, key)?;
        cursor.skip(length)?;
    }
    Ok(())
}

/// A tensor as described: name, shape in torch's order, type, offset in the data.
type Description = (String, Shape, Dtype, u64);

fn descriptions(cursor: &mut Cursor<'_>, count: u64) -> Result<Vec<Description>, GgufError> {
    let mut seen = BTreeSet::new();
    let mut tensors = Vec::new();
    for _ in 0..count {
        let tensor = description(cursor)?;
        if !seen.insert(tensor.0.clone()) {
            return Err(GgufError::DuplicateTensor { name: tensor.0 });
        }
        tensors.push(tensor);
    }
    Ok(tensors)
}

fn description(cursor: &mut Cursor<'_>) -> Result<Description, GgufError> {
    let got = cursor.u64()?;
    if got == 0 || got > MAX_NAME_BYTES {
        return Err(GgufError::NameLength {
            got,
            limit: MAX_NAME_BYTES,
        });
    }
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-/".contains(&byte);
    let name = plain(cursor, got, allowed)?.map_err(|name| GgufError::NameText { name })?;
    let dimensions = cursor.u32()?;
    let limit = u32::try_from(MAX_DIMENSIONS).expect("the limit is small");
    if dimensions == 0 || dimensions > limit {
        return Err(GgufError::Dimensions {
            name,
            got: dimensions,
            limit,
        });
    }
    let mut shape = Vec::with_capacity(MAX_DIMENSIONS);
    let mut elements = 1_u64;
    for _ in 0..dimensions {
        let dimension = cursor.u64()?;
        if dimension == 0 || dimension > MAX_DIMENSION {
            return Err(GgufError::DimensionOutOfRange {
                name,
                got: dimension,
                limit: MAX_DIMENSION,
            });
        }
        elements = elements.saturating_mul(dimension);
        if elements > MAX_ELEMENTS {
            return Err(GgufError::TensorTooLarge {
                name,
                limit: MAX_ELEMENTS,
            });
        }
        shape.push(usize::try_from(dimension).expect("bounded by MAX_DIMENSION"));
    }
    // ggml names the fastest dimension first, torch last.
    shape.reverse();
    let dtype = match cursor.u32()? {
        0 => Dtype::F32,
        1 => Dtype::F16,
        30 => Dtype::Bf16,
        got => {
            return Err(GgufError::TensorType {
                name,
                got: type_name(got),
            });
        }
    };
    let offset = cursor.u64()?;
    Ok((name, Shape::new(&shape), dtype, offset))
}

/// What people call a ggml type.
fn type_name(number: u32) -> String {
    let name = match number {
        2 => "Q4_0",
        3 => "Q4_1",
        6 => "Q5_0",
        7 => "Q5_1",
        8 => "Q8_0",
        10 => "Q2_K",
        11 => "Q3_K",
        12 => "Q4_K",
        13 => "Q5_K",
        14 => "Q6_K",
        28 => "F64",
        other => return format!("ggml type {other}"),
    };
    name.to_owned()
}

/// Checks where the tensors lie, one behind the other.
fn place(
    tensors: Vec<Description>,
    start: u64,
    data: u64,
    alignment: u64,
) -> Result<Vec<TensorEntry>, GgufError> {
    let mut expected = 0_u64;
    let mut end = 0_u64;
    let mut placed = Vec::with_capacity(tensors.len());
    for (name, shape, dtype, offset) in tensors {
        if !offset.is_multiple_of(alignment) {
            return Err(GgufError::OffsetUnaligned {
                name,
                got: offset,
                alignment,
            });
        }
        if offset < expected {
            return Err(GgufError::TensorOverlap {
                name,
                expected,
                got: offset,
            });
        }
        let elements: usize = shape.as_slice().iter().product();
        let bytes = u64::try_from(elements * dtype.size_bytes()).expect("bounded by MAX_ELEMENTS");
        // The offset may be anything up to here.
        end = offset.saturating_add(bytes);
        if end > data {
            return Err(GgufError::TensorBeyondFile { name, end, data });
        }
        if offset > expected {
            return Err(GgufError::TensorGap {
                name,
                expected,
                got: offset,
            });
        }
        expected = end.next_multiple_of(alignment);
        placed.push(TensorEntry {
            name,
            shape,
            range: TensorRange {
                dtype,
                offset: start + offset,
                bytes,
            },
        });
    }
    // The last tensor's padding may be missing.
    if data != end && data != expected {
        return Err(GgufError::TrailingBytes {
            covered: expected,
            data,
        });
    }
    Ok(placed)
}
