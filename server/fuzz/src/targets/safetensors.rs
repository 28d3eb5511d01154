//! The safetensors container by itself, read as a slot is.
//!
//! Our reader may refuse more than the safetensors crate does, never less; and of what both accept
//! they must believe the same.

use kmerge_merge::{TensorSource, decode_slot};
use safetensors::SafeTensors;

use super::support;

/// What a container is refused for; all else is in the names, or in what they add up to.
const CONTAINER: &[&str] = &[
    "DIMENSION_OUT_OF_RANGE",
    "DUPLICATE_TENSOR",
    "FILE_TOO_SHORT",
    "HEADER_BEYOND_FILE",
    "HEADER_START",
    "HEADER_SYNTAX",
    "HEADER_TOO_LARGE",
    "NOT_SAFETENSORS",
    "TENSOR_BYTES",
    "TENSOR_DIMENSIONS",
    "TENSOR_DTYPE",
    "TENSOR_GAP",
    "TENSOR_NAME",
    "TENSOR_OFFSETS",
    "TENSOR_TOO_LARGE",
    "TOO_MANY_TENSORS",
    "TRAILING_BYTES",
];

pub fn check(input: &[u8]) {
    let file = input.to_vec();
    let theirs = SafeTensors::deserialize(&file);
    match decode_slot(&file) {
        Ok(layout) => {
            let theirs = theirs.expect("what ours accepts, theirs accepts");
            support::layout(&layout, TensorSource::len(&file));
            assert_eq!(theirs.len(), 2 * layout.modules.len(), "tensors are lost");
            let views: Vec<&[u8]> = theirs
                .tensors()
                .iter()
                .map(|(_, view)| view.data())
                .collect();
            for module in &layout.modules {
                for range in [&module.a, &module.b] {
                    let ours = support::bytes_of(&file, range);
                    assert!(
                        views.iter().any(|view| std::ptr::eq(*view, ours)),
                        "other bytes are read"
                    );
                }
            }
        }
        Err(error) => {
            support::refused(&error);
            if !CONTAINER.contains(&error.reason()) {
                assert!(theirs.is_ok(), "ours took the container of {error}");
            }
        }
    }
}
