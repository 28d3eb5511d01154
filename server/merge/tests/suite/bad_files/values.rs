//! Values that no training gives and no merge can undo: each kind, in each type, at each end of
//! each factor.

use super::Bad;
use super::Reader;
use super::headers::config;
use crate::support::files::container;

const A: &str = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight";
const B: &str = "base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight";

/// A file of 48 elements, each of `one`, but for some.
fn file(dtype: &str, one: &[u8], others: &[(usize, &[u8])]) -> Vec<u8> {
    let half = 24 * one.len();
    let header = format!(
        r#"{{"{A}":{{"dtype":"{dtype}","shape":[2,12],"data_offsets":[0,{half}]}},"{B}":{{"dtype":"{dtype}","shape":[12,2],"data_offsets":[{half},{}]}}}}"#,
        2 * half
    );
    let mut data = one.repeat(48);
    for (place, bytes) in others {
        data[place * one.len()..][..one.len()].copy_from_slice(bytes);
    }
    container(header.as_bytes(), &data)
}

/// A kind of value, one that is right, and five that are not, with their names.
type Kind = (
    &'static str,
    &'static [u8],
    [(&'static str, &'static [u8]); 5],
);

pub(super) fn bad() -> Vec<Bad> {
    let mut bad = Vec::new();
    let kinds: [Kind; 3] = [
        (
            "F32",
            &[0, 0, 0x80, 0x3f],
            [
                ("NaN", &[0, 0, 0xc0, 0x7f]),
                ("a negative NaN", &[0, 0, 0xc0, 0xff]),
                ("a signalling NaN", &[1, 0, 0x80, 0x7f]),
                ("infinity", &[0, 0, 0x80, 0x7f]),
                ("minus infinity", &[0, 0, 0x80, 0xff]),
            ],
        ),
        (
            "F16",
            &[0, 0x3c],
            [
                ("NaN", &[0, 0x7e]),
                ("a negative NaN", &[0, 0xfe]),
                ("a signalling NaN", &[1, 0x7c]),
                ("infinity", &[0, 0x7c]),
                ("minus infinity", &[0, 0xfc]),
            ],
        ),
        (
            "BF16",
            &[0x80, 0x3f],
            [
                ("NaN", &[0xc0, 0x7f]),
                ("a negative NaN", &[0xc0, 0xff]),
                ("a signalling NaN", &[0x81, 0x7f]),
                ("infinity", &[0x80, 0x7f]),
                ("minus infinity", &[0x80, 0xff]),
            ],
        ),
    ];
    for (dtype, one, values) in kinds {
        for (what, value) in values {
            for (where_, place) in [
                ("first of A", 0),
                ("last of A", 23),
                ("first of B", 24),
                ("last of B", 47),
            ] {
                let name = format!("{what} in {dtype}, {where_}");
                bad.push(Bad::tensors(
                    name,
                    file(dtype, one, &[(place, value)]),
                    "NOT_FINITE",
                ));
            }
        }
    }
    for (dtype, tiny) in [("F32", &[1, 0, 0, 0][..]), ("BF16", &[1, 0])] {
        bad.push(Bad::tensors(
            format!("subnormal {dtype}"),
            file(dtype, tiny, &[]),
            "SUBNORMAL",
        ));
    }
    for (name, zero) in [("zeros", [0; 4]), ("negative zeros", [0, 0, 0, 0x80])] {
        bad.push(Bad::tensors(
            format!("all {name}"),
            file("F32", &zero, &[]),
            "NO_EFFECT",
        ));
    }
    let one = 1_f32.to_le_bytes();
    let zeros: Vec<(usize, &[u8])> = (24..48).map(|place| (place, &[0; 4][..])).collect();
    bad.push(Bad::new(
        Reader::Peft,
        "B of zeros",
        config(),
        file("F32", &one, &zeros),
        "NO_EFFECT",
    ));
    bad
}
