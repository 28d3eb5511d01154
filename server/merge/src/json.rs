//! Strict reading of small JSON documents that others wrote.
//!
//! One difference to plain `serde_json` matters: a key that occurs twice in one object is an error.
//! Readers disagree on which of two counts, so a file with both could pass our checks and mean
//! something else to a runtime. Size is limited by the caller's limit, nesting by serde_json's 128.

use std::cell::RefCell;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// Largest configuration read, in bytes.
pub(crate) const MAX_CONFIG_BYTES: usize = 1 << 20;

/// What is wrong with a document.
#[derive(Debug, PartialEq)]
pub(crate) enum JsonDefect {
    TooLarge { bytes: usize, limit: usize },
    Syntax { detail: String },
    DuplicateKey { key: String },
    NotAnObject,
}

/// Reads one object, keys in file order.
pub(crate) fn parse_object(bytes: &[u8]) -> Result<Map<String, Value>, JsonDefect> {
    if bytes.len() > MAX_CONFIG_BYTES {
        return Err(JsonDefect::TooLarge {
            bytes: bytes.len(),
            limit: MAX_CONFIG_BYTES,
        });
    }
    let duplicate = RefCell::new(None);
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let value = Strict {
        duplicate: &duplicate,
    }
    .deserialize(&mut deserializer)
    .and_then(|value| deserializer.end().map(|()| value));
    if let Some(key) = duplicate.take() {
        return Err(JsonDefect::DuplicateKey {
            key: printable(&key, 64),
        });
    }
    match value {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err(JsonDefect::NotAnObject),
        Err(error) => Err(JsonDefect::Syntax {
            detail: error.to_string(),
        }),
    }
}

/// A foreign string made fit for a message: control and non-ASCII characters escaped, cut to about
/// `limit` characters.
pub(crate) fn printable(text: &str, limit: usize) -> String {
    let mut out: String = text
        .chars()
        .take(limit)
        .flat_map(char::escape_default)
        .collect();
    if text.chars().nth(limit).is_some() {
        out.push('…');
    }
    out
}

/// Builds a [`Value`]; leaves the key in `duplicate` when it stops at one that occurs twice.
#[derive(Clone, Copy)]
struct Strict<'a> {
    duplicate: &'a RefCell<Option<String>>,
}

impl<'de> DeserializeSeed<'de> for Strict<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(value) = items.next_element_seed(self)? {
            values.push(value);
        }
        Ok(Value::Array(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            if object.contains_key(&key) {
                *self.duplicate.borrow_mut() = Some(key);
                return Err(A::Error::custom("duplicate key"));
            }
            let value = entries.next_value_seed(self)?;
            object.insert(key, value);
        }
        Ok(Value::Object(object))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_is_kept_and_duplicates_are_found_at_any_depth() {
        let object = parse_object(br#"{"z":1,"a":{"y":[1.5,null,-2,true,"s"]}}"#).unwrap();
        assert_eq!(object.keys().collect::<Vec<_>>(), ["z", "a"]);
        assert_eq!(
            object["a"]["y"],
            serde_json::json!([1.5, null, -2, true, "s"])
        );
        let found = parse_object(br#"{"a":[{"b":{"c":1,"\u0063":2}}]}"#).unwrap_err();
        assert_eq!(found, JsonDefect::DuplicateKey { key: "c".into() });
    }

    #[test]
    fn other_documents_are_refused() {
        assert_eq!(parse_object(b"[1]").unwrap_err(), JsonDefect::NotAnObject);
        let deep = [b"{\"a\":".repeat(200), b"1".to_vec(), b"}".repeat(200)].concat();
        for bytes in [&b"{}x"[..], b"", b"{\"a\":NaN}", b"{\"a\":\"\xff\"}", &deep] {
            let defect = parse_object(bytes).unwrap_err();
            assert!(matches!(defect, JsonDefect::Syntax { .. }), "{defect:?}");
        }
        let large = vec![b' '; MAX_CONFIG_BYTES + 1];
        assert!(matches!(
            parse_object(&large),
            Err(JsonDefect::TooLarge { .. })
        ));
    }

    #[test]
    fn foreign_text_is_escaped_and_cut() {
        assert_eq!(printable("a\n\u{7f}é", 8), "a\\n\\u{7f}\\u{e9}");
        assert_eq!(printable("abcdef", 3), "abc…");
    }
}
