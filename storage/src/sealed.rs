//! Documents that check themselves: JSON files with a kind, a schema and a SHA-256 of their own.
//!
//! Manifests, base models, staging headers and counters are such documents. What holds: a document
//! that opens is, bit for bit, one that was sealed; a later version's document is recognised as
//! such, because kind, schema and body are covered by the same digest in every version.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::digest::{Digest, Hasher};

/// The latest schema of each kind of document and record that this version reads and writes.
pub(crate) const SCHEMA: u16 = 1;

/// What can be sealed.
pub(crate) trait Document: Serialize + DeserializeOwned {
    /// The word that tells it from other documents.
    const KIND: &'static str;
}

/// Why a document does not open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SealError {
    /// It is not what was sealed.
    Damaged,
    /// A later version sealed it.
    NewerSchema(u16),
}

#[derive(Serialize, Deserialize)]
struct Envelope<'a> {
    kind: &'a str,
    schema: u16,
    sha256: Digest,
    #[serde(borrow)]
    body: &'a RawValue,
}

fn digest(kind: &str, schema: u16, body: &str) -> Digest {
    let mut hasher = Hasher::default();
    for part in [kind, "\n", &schema.to_string(), "\n", body] {
        hasher.update(part.as_bytes());
    }
    hasher.finish()
}

/// The bytes of a document's file.
pub(crate) fn seal<T: Document>(document: &T) -> Vec<u8> {
    let body = serde_json::value::to_raw_value(document)
        .expect("documents are made of texts, finite numbers and lists of these");
    seal_body(T::KIND, SCHEMA, &body)
}

/// The same of a body that is already text.
pub(crate) fn seal_body(kind: &str, schema: u16, body: &RawValue) -> Vec<u8> {
    let envelope = Envelope {
        kind,
        schema,
        sha256: digest(kind, schema, body.get()),
        body,
    };
    let mut bytes = serde_json::to_vec(&envelope).expect("an envelope holds nothing else");
    bytes.push(b'\n');
    bytes
}

/// The document in a file's bytes.
pub(crate) fn unseal<T: Document>(bytes: &[u8]) -> Result<T, SealError> {
    serde_json::from_str(body::<T>(bytes)?).map_err(|_| SealError::Damaged)
}

fn body<T: Document>(bytes: &[u8]) -> Result<&str, SealError> {
    let envelope: Envelope<'_> = serde_json::from_slice(bytes).map_err(|_| SealError::Damaged)?;
    let body = envelope.body.get();
    if envelope.kind != T::KIND || digest(T::KIND, envelope.schema, body) != envelope.sha256 {
        return Err(SealError::Damaged);
    }
    if envelope.schema > SCHEMA {
        return Err(SealError::NewerSchema(envelope.schema));
    }
    Ok(body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Note {
        text: String,
        weight: f64,
    }

    impl Document for Note {
        const KIND: &'static str = "note";
    }

    #[derive(Debug, Serialize, Deserialize)]
    struct Other {
        text: String,
    }

    impl Document for Other {
        const KIND: &'static str = "other";
    }

    fn note() -> Note {
        Note {
            text: "a \"quoted\" \u{7} text".to_owned(),
            weight: 0.1 + 0.2,
        }
    }

    #[test]
    fn what_is_sealed_opens() {
        assert_eq!(unseal::<Note>(&seal(&note())), Ok(note()));
    }

    #[test]
    fn any_flipped_bit_and_any_cut_is_found() {
        let sealed = seal(&note());
        for at in 0..sealed.len() {
            for bit in 0..8 {
                let mut spoilt = sealed.clone();
                spoilt[at] ^= 1 << bit;
                // White space around the JSON text carries nothing and may change.
                if spoilt.trim_ascii() != sealed.trim_ascii() {
                    assert_eq!(
                        unseal::<Note>(&spoilt),
                        Err(SealError::Damaged),
                        "{at}.{bit}"
                    );
                }
            }
            if at + 1 < sealed.len() {
                assert_eq!(
                    unseal::<Note>(&sealed[..at]),
                    Err(SealError::Damaged),
                    "{at}"
                );
            }
        }
    }

    #[test]
    fn another_kind_is_refused_and_a_later_schema_is_named() {
        assert!(unseal::<Other>(&seal(&note())).is_err());
        let body = RawValue::from_string("{\"later\":true}".to_owned()).unwrap();
        let bytes = seal_body("note", 7, &body);
        assert_eq!(unseal::<Note>(&bytes), Err(SealError::NewerSchema(7)));
    }
}
