//! Hostile safetensors files: lengths, JSON, names, types, shapes and offsets that lie, and other
//! files altogether.

use serde_json::{Value, json};
use tonic::Code::InvalidArgument;

use crate::support::adapters::{Tensors, container};
use crate::{Case, good_config};

/// The first tensor's name.
const FIRST: &str = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight";

fn good() -> Tensors {
    Tensors::fitting(4, 1)
}

/// A file whose first tensor is described as `change` makes it.
fn described(change: impl FnOnce(&mut Value)) -> Vec<u8> {
    let tensors = good();
    let mut header = tensors.header();
    change(&mut header[FIRST]);
    container(
        Value::Object(header).to_string().as_bytes(),
        &tensors.data(),
    )
}

/// A file with a header of this text before good data.
fn headed(header: &str) -> Vec<u8> {
    container(header.as_bytes(), &good().data())
}

/// A file that claims a header of this length.
fn claiming(length: u64) -> Vec<u8> {
    let mut file = good().file();
    file[..8].copy_from_slice(&length.to_le_bytes());
    file
}

/// A good header with more text after its opening brace.
fn opened(text: &str) -> Vec<u8> {
    let header = Value::Object(good().header()).to_string();
    headed(&format!("{{{text},{}", &header[1..]))
}

/// Another kind of file: it begins like one and is long enough.
fn foreign(start: &[u8]) -> Vec<u8> {
    [start, &[0x55; 200]].concat()
}

fn named(name: &str) -> Vec<u8> {
    let mut tensors = good();
    tensors.first().name = name.to_owned();
    tensors.file()
}

pub(crate) fn cases() -> Vec<Case> {
    let good_file = good().file();
    let rows: Vec<(&str, &'static str, &'static str, Vec<u8>)> = vec![
        // The header's length.
        ("an empty file", "FILE_TOO_SHORT", "0 bytes", vec![]),
        ("seven bytes", "FILE_TOO_SHORT", "cut short", vec![0; 7]),
        (
            "a header of no bytes",
            "HEADER_START",
            "opening brace",
            claiming(0),
        ),
        (
            "a header of 2^64 - 1 bytes",
            "HEADER_TOO_LARGE",
            "at most",
            claiming(u64::MAX),
        ),
        (
            "a header of 2^63 bytes",
            "HEADER_TOO_LARGE",
            "at most",
            claiming(1 << 63),
        ),
        (
            "a header of 8 MiB and a byte",
            "HEADER_TOO_LARGE",
            "8388609",
            claiming((8 << 20) + 1),
        ),
        (
            "a header longer than the file",
            "HEADER_BEYOND_FILE",
            "cut short",
            claiming(1 << 20),
        ),
        (
            "cut in the header",
            "HEADER_BEYOND_FILE",
            "cut short",
            good_file[..100].to_vec(),
        ),
        (
            "cut before the last byte",
            "TENSOR_OFFSETS",
            "cut short",
            good_file[..good_file.len() - 1].to_vec(),
        ),
        (
            "one byte more",
            "TRAILING_BYTES",
            "belongs to nothing",
            [&good_file[..], &[0]].concat(),
        ),
        (
            "the header without its data",
            "TENSOR_OFFSETS",
            "0 bytes of data",
            container(Value::Object(good().header()).to_string().as_bytes(), &[]),
        ),
        // The header's JSON.
        (
            "a header that is a list",
            "HEADER_START",
            "opening brace",
            headed("[]"),
        ),
        (
            "a header that is no JSON",
            "HEADER_SYNTAX",
            "malformed",
            headed("{not json}"),
        ),
        (
            "a header that ends early",
            "HEADER_SYNTAX",
            "malformed",
            headed("{\"a\":{"),
        ),
        (
            "a header with something after it",
            "HEADER_SYNTAX",
            "malformed",
            headed("{} {}"),
        ),
        (
            "a header that is not UTF-8",
            "HEADER_SYNTAX",
            "malformed",
            container(b"{\"\xff\xfe\":1}", &[]),
        ),
        (
            "a header nested too deeply",
            "HEADER_SYNTAX",
            "malformed",
            opened(&format!(
                "\"__metadata__\":{}{}",
                "[".repeat(5000),
                "]".repeat(5000)
            )),
        ),
        (
            "metadata that is no text",
            "HEADER_SYNTAX",
            "string",
            opened("\"__metadata__\":{\"format\":1}"),
        ),
        (
            "a metadata key twice",
            "HEADER_SYNTAX",
            "twice",
            opened("\"__metadata__\":{\"a\":\"b\",\"a\":\"c\"}"),
        ),
        (
            "metadata twice",
            "DUPLICATE_TENSOR",
            "twice",
            opened("\"__metadata__\":{},\"__metadata__\":{}"),
        ),
        (
            "an empty header",
            "NO_MODULES",
            "would do nothing",
            container(b"{}", &[]),
        ),
        (
            "a tensor twice",
            "DUPLICATE_TENSOR",
            "twice",
            opened(&format!(
                "\"{FIRST}\":{{\"dtype\":\"F32\",\"shape\":[4,64],\"data_offsets\":[0,1024]}}"
            )),
        ),
        (
            "a field twice",
            "HEADER_SYNTAX",
            "twice",
            headed(
                "{\"a\":{\"dtype\":\"F32\",\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}",
            ),
        ),
        (
            "a field that nobody knows",
            "HEADER_SYNTAX",
            "unknown field",
            described(|tensor| tensor["stride"] = json!(1)),
        ),
        (
            "no type",
            "HEADER_SYNTAX",
            "dtype",
            headed("{\"a\":{\"shape\":[1],\"data_offsets\":[0,4]}}"),
        ),
        (
            "no shape",
            "HEADER_SYNTAX",
            "shape",
            headed("{\"a\":{\"dtype\":\"F32\",\"data_offsets\":[0,4]}}"),
        ),
        (
            "no offsets",
            "HEADER_SYNTAX",
            "data_offsets",
            headed("{\"a\":{\"dtype\":\"F32\",\"shape\":[1]}}"),
        ),
        (
            "a shape of words",
            "HEADER_SYNTAX",
            "malformed",
            described(|tensor| tensor["shape"] = json!(["four", 64])),
        ),
        (
            "a negative dimension",
            "HEADER_SYNTAX",
            "malformed",
            described(|tensor| tensor["shape"] = json!([-4, 64])),
        ),
        (
            "offsets with a fraction",
            "HEADER_SYNTAX",
            "malformed",
            described(|tensor| tensor["data_offsets"] = json!([0.5, 1024])),
        ),
        (
            "three offsets",
            "HEADER_SYNTAX",
            "malformed",
            described(|tensor| tensor["data_offsets"] = json!([0, 1024, 2048])),
        ),
        // Names.
        ("an empty name", "TENSOR_NAME", "not allowed", named("")),
        (
            "a name with a line break",
            "TENSOR_NAME",
            "\\n",
            named("a\nWARN forged log line"),
        ),
        (
            "a name of 300 characters",
            "TENSOR_NAME",
            "256",
            named(&"a".repeat(300)),
        ),
        (
            "a name that climbs out",
            "UNKNOWN_TENSOR",
            "not a LoRA factor",
            named("../../../etc/passwd"),
        ),
        // Types and shapes.
        (
            "a tensor of F64",
            "TENSOR_DTYPE",
            "F64",
            described(|tensor| tensor["dtype"] = json!("F64")),
        ),
        (
            "a tensor of I8",
            "TENSOR_DTYPE",
            "Convert",
            described(|tensor| tensor["dtype"] = json!("I8")),
        ),
        (
            "a tensor of F8_E4M3",
            "TENSOR_DTYPE",
            "F8_E4M3",
            described(|tensor| tensor["dtype"] = json!("F8_E4M3")),
        ),
        (
            "a type nobody has",
            "TENSOR_DTYPE",
            "must be F32",
            described(|tensor| tensor["dtype"] = json!("Q\u{1b}[31m")),
        ),
        (
            "a dimension of zero",
            "DIMENSION_OUT_OF_RANGE",
            "between 1",
            described(|tensor| tensor["shape"] = json!([0, 64])),
        ),
        (
            "a dimension of 2^63",
            "DIMENSION_OUT_OF_RANGE",
            "9223372036854775808",
            described(|tensor| tensor["shape"] = json!([1_u64 << 63, 2])),
        ),
        (
            "dimensions whose product overflows",
            "TENSOR_TOO_LARGE",
            "elements",
            described(|tensor| tensor["shape"] = json!([1 << 24, 1 << 24, 1 << 24])),
        ),
        (
            "five dimensions",
            "TENSOR_DIMENSIONS",
            "at most 4",
            described(|tensor| tensor["shape"] = json!([1, 1, 1, 4, 64])),
        ),
        (
            "a shape that needs more bytes",
            "TENSOR_BYTES",
            "need",
            described(|tensor| tensor["shape"] = json!([5, 64])),
        ),
        (
            "a type that needs fewer bytes",
            "TENSOR_BYTES",
            "need 512",
            described(|tensor| tensor["dtype"] = json!("F16")),
        ),
        // Offsets.
        (
            "offsets in reverse",
            "TENSOR_OFFSETS",
            "claims bytes",
            described(|tensor| tensor["data_offsets"] = json!([1024, 0])),
        ),
        (
            "offsets beyond the file",
            "TENSOR_OFFSETS",
            "claims bytes",
            described(|tensor| tensor["data_offsets"] = json!([1_u64 << 40, (1_u64 << 40) + 1024])),
        ),
        (
            "offsets of 2^64 - 1",
            "TENSOR_OFFSETS",
            "claims bytes",
            described(|tensor| tensor["data_offsets"] = json!([0, u64::MAX])),
        ),
        (
            "two tensors on the same bytes",
            "TENSOR_GAP",
            "overlap",
            overlapping(),
        ),
        ("a gap between two tensors", "TENSOR_GAP", "gap", gapped()),
        // Other files.
        (
            "a pickle",
            "NOT_SAFETENSORS",
            "pickle",
            foreign(b"\x80\x02}q\x00X\x05"),
        ),
        (
            "a zip archive",
            "NOT_SAFETENSORS",
            "zip",
            foreign(b"PK\x03\x04\x14\x00\x00\x00"),
        ),
        (
            "a gzip archive",
            "NOT_SAFETENSORS",
            "gzip",
            foreign(b"\x1f\x8b\x08\x00\x00\x00\x00\x00"),
        ),
        (
            "a GGUF file",
            "NOT_SAFETENSORS",
            "GGUF",
            foreign(b"GGUF\x03\x00\x00\x00"),
        ),
        (
            "a NumPy array",
            "NOT_SAFETENSORS",
            "NumPy",
            foreign(b"\x93NUMPY\x01\x00"),
        ),
        (
            "a pointer of Git LFS",
            "NOT_SAFETENSORS",
            "LFS",
            foreign(b"version https://git-lfs.github.com/spec/v1\n"),
        ),
        (
            "a web page",
            "NOT_SAFETENSORS",
            "HTML",
            foreign(b"<!DOCTYPE html>"),
        ),
        (
            "a JSON document",
            "NOT_SAFETENSORS",
            "JSON",
            foreign(b"{\"error\":\"not found\"}"),
        ),
    ];
    rows.into_iter()
        .map(|(name, reason, word, file)| {
            Case::of_files(name, (InvalidArgument, reason, word), &good_config(), &file)
        })
        .collect()
}

/// The second tensor begins where the first does.
fn overlapping() -> Vec<u8> {
    let tensors = good();
    let mut header = tensors.header();
    let second = tensors.0[1].name.clone();
    header[&second]["data_offsets"] = json!([0, tensors.0[1].bytes.len()]);
    container(
        Value::Object(header).to_string().as_bytes(),
        &tensors.data(),
    )
}

/// Four bytes that no tensor has, after the first one.
fn gapped() -> Vec<u8> {
    let tensors = good();
    let mut header = tensors.header();
    for tensor in &tensors.0[1..] {
        for offset in header[&tensor.name]["data_offsets"].as_array_mut().unwrap() {
            *offset = json!(offset.as_u64().unwrap() + 4);
        }
    }
    let mut data = tensors.data();
    data.splice(1024..1024, [0; 4]);
    container(Value::Object(header).to_string().as_bytes(), &data)
}
