//! Random damage: nothing panics, and whatever is accepted the safetensors crate accepts too, with
//! every range inside the file.

use kmerge_merge::{TensorSource, check_values, decode, decode_slot};
use proptest::prelude::*;
use safetensors::SafeTensors;

use super::{config, file};
use crate::support::files::{Adapter, container};
use crate::support::tiny_base;

/// Reads the bytes in every way and holds the parser to its promise.
fn read(config: &[u8], bytes: &Vec<u8>) {
    for layout in [
        decode(config, bytes, &tiny_base()).map(|decoded| decoded.layout),
        decode_slot(bytes),
    ] {
        let Ok(layout) = layout else { continue };
        let theirs = SafeTensors::deserialize(bytes).expect("ours accepts, so must theirs");
        assert_eq!(theirs.len(), 2 * layout.modules.len());
        let end = TensorSource::len(bytes);
        for module in &layout.modules {
            for range in [module.a, module.b] {
                assert!(range.offset + range.bytes <= end);
            }
        }
        let adapter = Adapter {
            layout,
            bytes: bytes.clone(),
        };
        // Damaged values may be anything; looking at them must end in an answer.
        drop(check_values(adapter.view()));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_bytes_are_answered(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
        read(&bytes, &bytes);
        read(config().to_string().as_bytes(), &container(&bytes, b""));
    }

    #[test]
    fn random_headers_are_answered(
        header in r#"\{("[a-z_.]{0,8}":(\{("dtype":"F(32|16)",)?("shape":\[[0-9,]{0,8}\],)?"data_offsets":\[[0-9,]{0,8}\]\}|[0-9]{1,20}|null),?){0,3}\}"#,
        data in 0_usize..64,
    ) {
        read(config().to_string().as_bytes(), &container(header.as_bytes(), &vec![0; data]));
    }

    #[test]
    fn a_damaged_file_is_answered(
        damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        only_header in any::<bool>(),
    ) {
        let mut bytes = file();
        let header = 8 + usize::try_from(u64::from_le_bytes(bytes[..8].try_into().unwrap())).unwrap();
        let reach = if only_header { header } else { bytes.len() };
        for (place, value) in damage {
            bytes[place.index(reach)] = value;
        }
        read(config().to_string().as_bytes(), &bytes);
    }

    #[test]
    fn a_rewritten_header_is_answered(
        place in any::<prop::sample::Index>(),
        taken in 0_usize..12,
        put in r#"[0-9\[\]{}:,"a-zA-Z_.\\ -]{0,12}"#,
    ) {
        let bytes = file();
        let length = usize::try_from(u64::from_le_bytes(bytes[..8].try_into().unwrap())).unwrap();
        let (header, data) = bytes[8..].split_at(length);
        let start = place.index(header.len());
        let end = (start + taken).min(header.len());
        let changed = [&header[..start], put.as_bytes(), &header[end..]].concat();
        read(config().to_string().as_bytes(), &container(&changed, data));
    }

    #[test]
    fn a_damaged_config_is_answered(
        place in any::<prop::sample::Index>(), taken in 0_usize..12, put in "\\PC{0,12}"
    ) {
        let whole = config().to_string();
        let start = place.index(whole.len());
        let end = (start + taken).min(whole.len());
        let changed = [&whole.as_bytes()[..start], put.as_bytes(), &whole.as_bytes()[end..]].concat();
        read(&changed, &file());
    }
}
