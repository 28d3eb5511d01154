//! What the fuzzers of `server/fuzz` and the replay of their findings need of the insides.
//!
//! Only there with the feature `fuzzing`, which nothing that ships turns on. Bytes go in; what does
//! not hold ends in a panic. Checksums are made here, so that what is behind them is reached.

use serde_json::value::RawValue;

use crate::base_model_file::BaseModelFile;
use crate::counter::Ceiling;
use crate::envelope::{self, PAYLOAD_LIMIT};
use crate::manifest::{Manifest, ManifestHead};
use crate::sealed::{self, Document, SCHEMA, SealError};
use crate::staging::StagedHeader;
use crate::stored::Stored;

/// The kinds of sealed documents.
pub const DOCUMENTS: u8 = 5;

/// Bytes of a file as they are: they open as no document, or as one that was sealed.
///
/// # Panics
/// If a document opens that does not open again once it is sealed.
pub fn file(bytes: &[u8]) {
    opened::<Manifest>(bytes);
    opened::<ManifestHead>(bytes);
    opened::<BaseModelFile>(bytes);
    opened::<StagedHeader>(bytes);
    opened::<Ceiling>(bytes);
}

/// A text as the body of a document of the kind that `number` counts to, with the right digest.
/// Says whether it is one.
///
/// # Panics
/// As [`file`].
pub fn document(number: u8, body: &str) -> bool {
    match number % DOCUMENTS {
        0 => {
            if let Some(manifest) = with_digest::<Manifest>(body) {
                behind(&manifest);
                return true;
            }
            false
        }
        1 => with_digest::<ManifestHead>(body).is_some(),
        2 => with_digest::<BaseModelFile>(body).is_some(),
        3 => with_digest::<StagedHeader>(body)
            .map(|header| header.job())
            .is_some(),
        _ => with_digest::<Ceiling>(body).is_some(),
    }
}

/// What recovery makes of a manifest.
fn behind(manifest: &Manifest) {
    let _ = manifest.emptied();
    if let Some(tensor) = &manifest.tensor {
        let members = u32::try_from(manifest.members.len()).unwrap_or(u32::MAX);
        let record = Stored::Generation(manifest.record(tensor, members));
        same(&record);
    }
    for (entry, place) in manifest.members.iter().zip(0..) {
        let _ = (
            entry.member(),
            entry.task(&manifest.base_model, manifest.slot),
        );
        same(&Stored::Member(
            manifest.base_model.clone(),
            manifest.slot,
            place,
            entry.clone(),
        ));
    }
    same(&Stored::Job(manifest.job.clone()));
}

fn with_digest<T: Document>(body: &str) -> Option<T> {
    // What is no JSON text by itself has no digest either.
    let body = RawValue::from_string(body.to_owned()).ok()?;
    opened(&sealed::seal_body(T::KIND, SCHEMA, &body))
}

fn opened<T: Document>(bytes: &[u8]) -> Option<T> {
    let document: T = sealed::unseal(bytes).ok()?;
    let once = sealed::seal(&document);
    let again: T = sealed::unseal(&once).expect("what was sealed opens");
    assert!(sealed::seal(&again) == once, "a document changes by itself");
    Some(document)
}

/// A value of the database: bytes as they are, and a payload with the right checksum under the key
/// given. Says whether the payload is a record.
///
/// # Panics
/// If a record does not come back from its own value, or comes from a damaged one.
pub fn record(kind: u8, key: &[u8], payload: &[u8]) -> bool {
    drop(Stored::decode(key, payload));
    if payload.len() > PAYLOAD_LIMIT {
        return false;
    }
    let value = envelope::wrap(key, kind, SCHEMA, payload);
    let unwrapped = envelope::unwrap(key, &value, SCHEMA);
    assert_eq!(unwrapped, Ok((kind, payload)), "an envelope changes");
    let later = envelope::wrap(key, kind, SCHEMA + 1, payload);
    assert_eq!(
        envelope::unwrap(key, &later, SCHEMA),
        Err(SealError::NewerSchema(SCHEMA + 1))
    );
    // The key that goes with the payload is rarely the one given.
    let text = std::str::from_utf8(key).unwrap_or_default();
    let Some(record) = Stored::decode_whole(text, kind, payload) else {
        assert!(Stored::decode(key, &value).is_err());
        return false;
    };
    same(&record);
    let decoded = Stored::decode(key, &value);
    assert_eq!(decoded.is_ok(), record.key().as_bytes() == key);
    true
}

/// A record comes back from its value, and not from a damaged one.
fn same(record: &Stored) {
    let Ok(mut value) = record.value() else {
        return;
    };
    let key = record.key();
    let decoded = Stored::decode(key.as_bytes(), &value);
    assert_eq!(decoded.as_ref(), Ok(record), "a record changes");
    let middle = value.len() / 2;
    value[middle] ^= 1;
    assert_eq!(
        Stored::decode(key.as_bytes(), &value),
        Err(SealError::Damaged)
    );
    // As a line of a backup; pieces of configurations have none.
    let line = Stored::from_line(&record.line());
    assert!(
        matches!(record, Stored::BaseModelConfig(..)) || line.as_ref() == Some(record),
        "a record changes in a backup"
    );
}
