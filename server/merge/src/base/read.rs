//! Reading `config.json`: which family, which widths, all within bounds.

use serde_json::{Map, Value};

use super::families::{Absent, FAMILIES, Family, known};
use super::{BaseModel, Widths};
use crate::BaseModelError;
use crate::json::{self, JsonDefect, printable};

/// Largest values accepted, several times beyond any published model. Every shape they give is at
/// most 3 · 2²⁴, so products of shapes stay far inside 64 bits.
struct Bounds;

impl Bounds {
    const LAYERS: u64 = 1 << 12;
    const HIDDEN: u64 = 1 << 20;
    const INTERMEDIATE: u64 = 1 << 22;
    const HEADS: u64 = 1 << 12;
    const HEAD_SIZE: u64 = 1 << 12;
}

/// The object that the widths are read from, and whom messages should name.
struct Fields<'a> {
    object: &'a Map<String, Value>,
    architecture: &'static str,
}

impl BaseModel {
    /// Reads a Hugging Face `config.json`. A multimodal wrapper's text model is in `text_config`.
    ///
    /// # Errors
    ///
    /// Anything that leaves a shape unknown or out of bounds; see [`BaseModelError`].
    pub fn from_config_json(bytes: &[u8]) -> Result<Self, BaseModelError> {
        let top = json::parse_object(bytes).map_err(defect)?;
        let family = family(&top)?;
        // Text-only classes may be nested too, where a wrapper's configuration was reused.
        let object = match top.get("text_config") {
            Some(Value::Object(text)) if !top.contains_key("hidden_size") => text,
            _ => &top,
        };
        let fields = Fields {
            object,
            architecture: family.architecture,
        };
        Ok(Self {
            family,
            layers: fields.layers()?,
            widths: fields.widths(family)?,
            name_or_path: top
                .get("_name_or_path")
                .and_then(Value::as_str)
                .filter(|label| !label.is_empty())
                .map(str::to_owned),
        })
    }
}

fn defect(defect: JsonDefect) -> BaseModelError {
    match defect {
        JsonDefect::TooLarge { bytes, limit } => BaseModelError::TooLarge { bytes, limit },
        JsonDefect::Syntax { detail } => BaseModelError::Syntax { detail },
        JsonDefect::DuplicateKey { key } => BaseModelError::DuplicateKey { key },
        JsonDefect::NotAnObject => BaseModelError::NotAnObject,
    }
}

/// `architectures[0]` decides; configurations that were saved without it have `model_type`.
fn family(top: &Map<String, Value>) -> Result<&'static Family, BaseModelError> {
    let architecture = match top.get("architectures") {
        None | Some(Value::Null) => None,
        Some(Value::Array(names)) if names.is_empty() => None,
        Some(Value::Array(names)) => names[0].as_str(),
        Some(_) => {
            return Err(BaseModelError::FieldType {
                field: "architectures",
                expected: "a list of class names",
            });
        }
    };
    let model_type = top.get("model_type").and_then(Value::as_str);
    let found = match (architecture, model_type) {
        (Some(name), _) => FAMILIES.iter().find(|family| family.architecture == name),
        (None, Some(name)) => FAMILIES.iter().find(|family| family.model_type == name),
        (None, None) => return Err(BaseModelError::NoArchitecture { known: known() }),
    };
    found.ok_or_else(|| BaseModelError::UnknownArchitecture {
        got: printable(architecture.or(model_type).unwrap_or_default(), 64),
        known: known(),
    })
}

impl Fields<'_> {
    fn optional(&self, field: &'static str, limit: u64) -> Result<Option<u64>, BaseModelError> {
        match self.object.get(field) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => {
                let got = value.as_u64().ok_or(BaseModelError::FieldType {
                    field,
                    expected: "a positive whole number",
                })?;
                if got == 0 || got > limit {
                    return Err(BaseModelError::OutOfRange { field, got, limit });
                }
                Ok(Some(got))
            }
        }
    }

    fn missing(&self, field: &'static str) -> BaseModelError {
        BaseModelError::MissingField {
            field,
            architecture: self.architecture.to_owned(),
        }
    }

    fn required(&self, field: &'static str, limit: u64) -> Result<u64, BaseModelError> {
        self.optional(field, limit)?
            .ok_or_else(|| self.missing(field))
    }

    fn layers(&self) -> Result<u32, BaseModelError> {
        let layers = self.required("num_hidden_layers", Bounds::LAYERS)?;
        Ok(u32::try_from(layers).expect("bounded by Bounds::LAYERS"))
    }

    fn widths(&self, family: &Family) -> Result<Widths, BaseModelError> {
        let hidden = self.required("hidden_size", Bounds::HIDDEN)?;
        let intermediate = self.required("intermediate_size", Bounds::INTERMEDIATE)?;
        let heads = match (
            self.optional("num_attention_heads", Bounds::HEADS)?,
            family.heads,
        ) {
            (Some(heads), _) | (None, Absent::Value(heads)) => heads,
            (None, Absent::Refuse | Absent::Derive) => {
                return Err(self.missing("num_attention_heads"));
            }
        };
        let kv_heads = match (
            self.optional("num_key_value_heads", Bounds::HEADS)?,
            family.kv_heads,
        ) {
            (Some(kv_heads), _) | (None, Absent::Value(kv_heads)) => kv_heads,
            (None, Absent::Derive) => heads,
            (None, Absent::Refuse) => return Err(self.missing("num_key_value_heads")),
        };
        if !heads.is_multiple_of(kv_heads) {
            return Err(BaseModelError::KeyValueHeads { heads, kv_heads });
        }
        let head_size = match (
            self.optional("head_dim", Bounds::HEAD_SIZE)?,
            family.head_size,
        ) {
            (Some(size), _) | (None, Absent::Value(size)) => size,
            (None, Absent::Refuse) => return Err(self.missing("head_dim")),
            (None, Absent::Derive) if hidden.is_multiple_of(heads) => hidden / heads,
            (None, Absent::Derive) => {
                return Err(BaseModelError::HeadSize {
                    hidden_size: hidden,
                    heads,
                });
            }
        };
        if head_size > Bounds::HEAD_SIZE {
            let field = "head_dim";
            return Err(BaseModelError::OutOfRange {
                field,
                got: head_size,
                limit: Bounds::HEAD_SIZE,
            });
        }
        let width = |number: u64| usize::try_from(number).expect("bounded far below 2^32");
        Ok(Widths {
            hidden: width(hidden),
            intermediate: width(intermediate),
            heads: width(heads),
            kv_heads: width(kv_heads),
            head_size: width(head_size),
        })
    }
}
