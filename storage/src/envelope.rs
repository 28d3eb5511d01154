//! The envelope around every value in the database.
//!
//! ```text
//! magic "kmrg" | schema u16 | kind u8 | length u32 | payload | first 16 bytes of SHA-256
//! ```
//!
//! Numbers are little-endian. The checksum covers the key, the header and the payload, so a value
//! that was torn, or that turned up under another key, is never taken for a record. The layout is
//! the same in every version; only the meaning of a payload depends on the schema.

use crate::digest::Hasher;
use crate::sealed::SealError;

const MAGIC: [u8; 4] = *b"kmrg";
const HEADER: usize = 11;
const CHECKSUM: usize = 16;

/// The largest value, envelope included. Larger ones make the database split its pages badly.
pub(crate) const VALUE_LIMIT: usize = 4096;

/// The largest payload.
pub(crate) const PAYLOAD_LIMIT: usize = VALUE_LIMIT - HEADER - CHECKSUM;

fn checksum(key: &[u8], header_and_payload: &[u8]) -> [u8; CHECKSUM] {
    let mut hasher = Hasher::default();
    // The key's length keeps key and header apart.
    hasher.update(&(key.len() as u64).to_le_bytes());
    hasher.update(key);
    hasher.update(header_and_payload);
    let mut checksum = [0; CHECKSUM];
    checksum.copy_from_slice(&hasher.finish().as_bytes()[..CHECKSUM]);
    checksum
}

/// The value for `payload`, which must have at most [`PAYLOAD_LIMIT`] bytes.
pub(crate) fn wrap(key: &[u8], kind: u8, schema: u16, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a payload has at most 4 KiB");
    let mut value = Vec::with_capacity(HEADER + payload.len() + CHECKSUM);
    value.extend_from_slice(&MAGIC);
    value.extend_from_slice(&schema.to_le_bytes());
    value.push(kind);
    value.extend_from_slice(&length.to_le_bytes());
    value.extend_from_slice(payload);
    let checksum = checksum(key, &value);
    value.extend_from_slice(&checksum);
    value
}

/// The kind and the payload of a value, if it is whole and of a schema up to `supported`.
pub(crate) fn unwrap<'a>(
    key: &[u8],
    value: &'a [u8],
    supported: u16,
) -> Result<(u8, &'a [u8]), SealError> {
    let (content, found) = value
        .split_last_chunk::<CHECKSUM>()
        .ok_or(SealError::Damaged)?;
    let (header, payload) = content
        .split_first_chunk::<HEADER>()
        .ok_or(SealError::Damaged)?;
    let [m0, m1, m2, m3, s0, s1, kind, l0, l1, l2, l3] = *header;
    let length = usize::try_from(u32::from_le_bytes([l0, l1, l2, l3]));
    if [m0, m1, m2, m3] != MAGIC || length != Ok(payload.len()) || checksum(key, content) != *found
    {
        return Err(SealError::Damaged);
    }
    match u16::from_le_bytes([s0, s1]) {
        schema if schema > supported => Err(SealError::NewerSchema(schema)),
        _ => Ok((kind, payload)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrapped_unwraps() {
        let value = wrap(b"key", 3, 1, b"payload");
        assert_eq!(value.len(), HEADER + 7 + CHECKSUM);
        assert_eq!(unwrap(b"key", &value, 1), Ok((3, b"payload".as_slice())));
        assert_eq!(wrap(b"key", 3, 1, &[0; PAYLOAD_LIMIT]).len(), VALUE_LIMIT);
    }

    #[test]
    fn a_later_schema_is_named_only_when_the_value_is_whole() {
        let value = wrap(b"key", 3, 9, b"payload");
        assert_eq!(unwrap(b"key", &value, 1), Err(SealError::NewerSchema(9)));
        assert_eq!(unwrap(b"other", &value, 1), Err(SealError::Damaged));
    }

    #[test]
    fn any_flipped_bit_any_cut_and_another_key_are_found() {
        let value = wrap(b"key", 3, 1, b"payload");
        for at in 0..value.len() {
            for bit in 0..8 {
                let mut spoilt = value.clone();
                spoilt[at] ^= 1 << bit;
                assert_eq!(
                    unwrap(b"key", &spoilt, 1),
                    Err(SealError::Damaged),
                    "{at}.{bit}"
                );
            }
            assert_eq!(
                unwrap(b"key", &value[..at], 1),
                Err(SealError::Damaged),
                "{at}"
            );
        }
        assert_eq!(unwrap(b"kez", &value, 1), Err(SealError::Damaged));
        assert_eq!(unwrap(b"ke", &value, 1), Err(SealError::Damaged));
    }
}
