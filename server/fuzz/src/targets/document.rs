//! What storage keeps beside the tensors: sealed documents (manifests, base models, headers of
//! staged uploads, counters) and the catalog's records.
//!
//! The first byte says what the rest is. Bodies and payloads get the right checksum, which no
//! fuzzer would find, so that what is behind the checksum is reached.

use kmerge_storage::fuzzing;

pub fn check(input: &[u8]) {
    let Some((&kind, rest)) = input.split_first() else {
        return;
    };
    match kind {
        0 => fuzzing::file(rest),
        1..=5 => {
            if let Ok(body) = std::str::from_utf8(rest) {
                fuzzing::document(kind - 1, body);
            }
        }
        _ => {
            let (key, payload) = super::support::split(rest);
            fuzzing::record(kind - 5, key, payload);
        }
    }
}
