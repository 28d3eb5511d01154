//! A PEFT adapter: its configuration, a NUL, its tensors.

use kmerge_merge::{AdapterView, TensorSource, decode};
use safetensors::SafeTensors;

use super::support;

pub fn check(input: &[u8]) {
    let (config, tensors) = support::split(input);
    let tensors = tensors.to_vec();
    let base = support::base();
    match decode(config, &tensors, base) {
        Ok(decoded) => {
            SafeTensors::deserialize(&tensors).expect("what ours accepts, theirs accepts");
            assert!(
                decoded
                    .warnings
                    .iter()
                    .all(|warning| !warning.contains(char::is_control))
            );
            support::layout(&decoded.layout, TensorSource::len(&tensors));
            let view = AdapterView {
                layout: &decoded.layout,
                source: &tensors,
            };
            support::merged(view, base);
        }
        Err(error) => support::refused(&error),
    }
}
