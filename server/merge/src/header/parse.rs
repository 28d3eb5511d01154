//! The header's JSON, read as a stream: nothing is stored but the tensors themselves, of which
//! there may be no more than [`MAX_TENSORS`].
//!
//! serde carries only text errors, so the typed one is left in a cell that every seed shares.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};

use super::{MAX_DIMENSIONS, MAX_TENSORS, TensorEntry, check_entry, check_name};
use crate::json::printable;
use crate::{AdapterError, Dtype};

/// The one key that is no tensor: free text, read and dropped.
const METADATA: &str = "__metadata__";

/// Reads the tensors; `data` is the number of bytes after the header.
pub(super) fn tensors(header: &[u8], data: u64) -> Result<Vec<TensorEntry>, AdapterError> {
    let defect = RefCell::new(None);
    let mut deserializer = serde_json::Deserializer::from_slice(header);
    let result = Top {
        data,
        defect: &defect,
    }
    .deserialize(&mut deserializer)
    .and_then(|tensors| deserializer.end().map(|()| tensors));
    match (defect.take(), result) {
        (Some(defect), _) => Err(defect),
        (None, Ok(tensors)) => Ok(tensors),
        (None, Err(error)) => Err(AdapterError::HeaderSyntax {
            detail: printable(&error.to_string(), 200),
        }),
    }
}

/// Stops the parser and leaves the reason.
fn stop<E: Error>(cell: &RefCell<Option<AdapterError>>, defect: AdapterError) -> E {
    *cell.borrow_mut() = Some(defect);
    E::custom("stopped")
}

struct Top<'a> {
    data: u64,
    defect: &'a RefCell<Option<AdapterError>>,
}

impl<'de> DeserializeSeed<'de> for Top<'_> {
    type Value = Vec<TensorEntry>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Top<'_> {
    type Value = Vec<TensorEntry>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Self::Value, A::Error> {
        let mut names = BTreeSet::new();
        let mut tensors = Vec::new();
        while let Some(name) = entries.next_key::<String>()? {
            if name != METADATA {
                check_name(&name).map_err(|defect| stop(self.defect, defect))?;
            }
            if !names.insert(name.clone()) {
                return Err(stop(self.defect, AdapterError::DuplicateTensor { name }));
            }
            if name == METADATA {
                entries.next_value_seed(Metadata)?;
                continue;
            }
            if tensors.len() == MAX_TENSORS {
                let defect = AdapterError::TooManyTensors { limit: MAX_TENSORS };
                return Err(stop(self.defect, defect));
            }
            tensors.push(entries.next_value_seed(Entry {
                name,
                data: self.data,
                defect: self.defect,
            })?);
        }
        Ok(tensors)
    }
}

/// `__metadata__`: text to text, each key once; or null, as mlx writes it where there is nothing to
/// say.
struct Metadata;

impl<'de> DeserializeSeed<'de> for Metadata {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Metadata {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of strings")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<(), A::Error> {
        let mut keys = BTreeSet::new();
        while let Some((key, _)) = entries.next_entry::<String, String>()? {
            if !keys.insert(key) {
                return Err(A::Error::custom("a key of __metadata__ occurs twice"));
            }
        }
        Ok(())
    }
}

/// One tensor's `dtype`, `shape` and `data_offsets`, each exactly once and nothing else.
struct Entry<'a> {
    name: String,
    data: u64,
    defect: &'a RefCell<Option<AdapterError>>,
}

impl<'de> DeserializeSeed<'de> for Entry<'_> {
    type Value = TensorEntry;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<TensorEntry, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Entry<'_> {
    type Value = TensorEntry;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with dtype, shape and data_offsets")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<TensorEntry, A::Error> {
        let mut dtype: Option<String> = None;
        let mut shape: Option<DeclaredShape> = None;
        let mut offsets: Option<[u64; 2]> = None;
        while let Some(field) = entries.next_key::<String>()? {
            let repeated = match field.as_str() {
                "dtype" => dtype.replace(entries.next_value()?).is_some(),
                "shape" => shape.replace(entries.next_value_seed(ShapeSeed)?).is_some(),
                "data_offsets" => offsets.replace(entries.next_value()?).is_some(),
                _ => return Err(A::Error::unknown_field(&printable(&field, 32), FIELDS)),
            };
            if repeated {
                return Err(A::Error::custom(format_args!("{field} occurs twice")));
            }
        }
        let dtype = dtype.ok_or_else(|| A::Error::missing_field("dtype"))?;
        let shape = shape.ok_or_else(|| A::Error::missing_field("shape"))?;
        let offsets = offsets.ok_or_else(|| A::Error::missing_field("data_offsets"))?;
        let Some(dtype) = Dtype::from_safetensors_name(&dtype) else {
            let got = printable(&dtype, 32);
            return Err(stop(
                self.defect,
                AdapterError::TensorDtype {
                    name: self.name,
                    got,
                },
            ));
        };
        if shape.count > MAX_DIMENSIONS {
            return Err(stop(
                self.defect,
                AdapterError::TensorDimensions {
                    name: self.name,
                    got: shape.count,
                    limit: MAX_DIMENSIONS,
                },
            ));
        }
        let dimensions = &shape.dimensions[..shape.count];
        check_entry(self.name, dtype, dimensions, offsets, self.data)
            .map_err(|defect| stop(self.defect, defect))
    }
}

const FIELDS: &[&str] = &["dtype", "shape", "data_offsets"];

/// A shape as declared: dimensions beyond the limit are counted, not kept.
struct DeclaredShape {
    dimensions: [u64; MAX_DIMENSIONS],
    count: usize,
}

struct ShapeSeed;

impl<'de> DeserializeSeed<'de> for ShapeSeed {
    type Value = DeclaredShape;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<DeclaredShape, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for ShapeSeed {
    type Value = DeclaredShape;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of dimensions")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<DeclaredShape, A::Error> {
        let mut shape = DeclaredShape {
            dimensions: [0; MAX_DIMENSIONS],
            count: 0,
        };
        while let Some(dimension) = items.next_element()? {
            if let Some(place) = shape.dimensions.get_mut(shape.count) {
                *place = dimension;
            }
            shape.count += 1;
        }
        Ok(shape)
    }
}
