//! The safetensors container: headers that lie, and other files under its name.

use std::sync::atomic::{AtomicUsize, Ordering};

use kmerge_merge::AdapterErrorKind::{Io, Malformed};
use kmerge_merge::{TensorSource, decode, decode_slot};
use serde_json::json;

use super::{check, config, file, refused};
use crate::support::files::container;
use crate::support::tiny_base;

const A: &str = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight";

/// A file with one entry of the given text and 96 bytes of data (2 x 12 of f32).
fn entry(text: &str) -> Vec<u8> {
    container(format!("{{\"{A}\":{text}}}").as_bytes(), &[0; 96])
}

const GOOD: &str = r#"{"dtype":"F32","shape":[2,12],"data_offsets":[0,96]}"#;

#[test]
fn lying_headers() {
    let long_name = format!(r#"{{"{}":{GOOD}}}"#, "a".repeat(257));
    let with = |text: &str| container(text.as_bytes(), &[0; 96]);
    let swap = |from: &str, to: &str| entry(&GOOD.replace(from, to));
    let two = |second: &str| with(&format!(r#"{{"a":{GOOD},"b":{second}}}"#));
    let many: String = (0..=65_536)
        .map(|i| format!(r#""t{i}":{{"dtype":"F32","shape":[1],"data_offsets":[0,4]}},"#))
        .collect();
    let many = format!("{{{}}}", many.trim_end_matches(','));
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("nothing", vec![], "FILE_TOO_SHORT"),
        ("seven bytes", vec![0; 7], "FILE_TOO_SHORT"),
        (
            "header over the limit",
            [&(9_u64 << 20).to_le_bytes()[..], b"{}"].concat(),
            "HEADER_TOO_LARGE",
        ),
        ("header of 2^64", vec![0xff; 64], "HEADER_TOO_LARGE"),
        (
            "header beyond the end",
            [&100_u64.to_le_bytes()[..], b"{}"].concat(),
            "HEADER_BEYOND_FILE",
        ),
        ("empty header", container(b"", b""), "HEADER_START"),
        ("space first", container(b" {}", b""), "HEADER_START"),
        ("a list", container(b"[]", b""), "HEADER_START"),
        ("cut JSON", container(b"{\"a\":", b""), "HEADER_SYNTAX"),
        ("text after JSON", container(b"{}x", b""), "HEADER_SYNTAX"),
        (
            "not UTF-8",
            container(b"{\"__metadata__\":{\"a\":\"\xff\"}}", b""),
            "HEADER_SYNTAX",
        ),
        (
            "metadata of numbers",
            container(b"{\"__metadata__\":{\"a\":1}}", b""),
            "HEADER_SYNTAX",
        ),
        (
            "metadata twice a key",
            container(b"{\"__metadata__\":{\"a\":\"\",\"a\":\"\"}}", b""),
            "HEADER_SYNTAX",
        ),
        (
            "metadata false",
            container(b"{\"__metadata__\":false}", b""),
            "HEADER_SYNTAX",
        ),
        (
            "metadata twice",
            container(b"{\"__metadata__\":{},\"__metadata__\":{}}", b""),
            "DUPLICATE_TENSOR",
        ),
        ("entry is no object", entry("[1]"), "HEADER_SYNTAX"),
        (
            "no dtype",
            entry(r#"{"shape":[2,12],"data_offsets":[0,96]}"#),
            "HEADER_SYNTAX",
        ),
        (
            "no shape",
            entry(r#"{"dtype":"F32","data_offsets":[0,96]}"#),
            "HEADER_SYNTAX",
        ),
        (
            "no offsets",
            entry(r#"{"dtype":"F32","shape":[2,12]}"#),
            "HEADER_SYNTAX",
        ),
        (
            "dtype twice",
            swap(r#""F32","#, r#""F32","dtype":"F16","#),
            "HEADER_SYNTAX",
        ),
        (
            "unknown field",
            swap(r#""F32","#, r#""F32","stride":1,"#),
            "HEADER_SYNTAX",
        ),
        (
            "three offsets",
            swap("[0,96]", "[0,96,96]"),
            "HEADER_SYNTAX",
        ),
        ("one offset", swap("[0,96]", "[0]"), "HEADER_SYNTAX"),
        (
            "negative offset",
            swap("[0,96]", "[-1,96]"),
            "HEADER_SYNTAX",
        ),
        (
            "offset of 2^64",
            swap("[0,96]", "[0,18446744073709551616]"),
            "HEADER_SYNTAX",
        ),
        (
            "negative dimension",
            swap("[2,12]", "[-2,12]"),
            "HEADER_SYNTAX",
        ),
        (
            "broken dimension",
            swap("[2,12]", "[2.0,12]"),
            "HEADER_SYNTAX",
        ),
        ("name too long", with(&long_name), "TENSOR_NAME"),
        (
            "empty name",
            with(&format!(r#"{{"":{GOOD}}}"#)),
            "TENSOR_NAME",
        ),
        (
            "name with a quote",
            with(&format!(r#"{{"a\"b":{GOOD}}}"#)),
            "TENSOR_NAME",
        ),
        (
            "name with control characters",
            with(&format!(r#"{{"a\u0007\n":{GOOD}}}"#)),
            "TENSOR_NAME",
        ),
        (
            "name beyond ASCII",
            with(&format!("{{\"é\":{GOOD}}}")),
            "TENSOR_NAME",
        ),
        (
            "one name twice",
            with(&format!(r#"{{"a":{GOOD},"a":{GOOD}}}"#)),
            "DUPLICATE_TENSOR",
        ),
        (
            "one name twice, escaped",
            with(&format!(r#"{{"a":{GOOD},"\u0061":{GOOD}}}"#)),
            "DUPLICATE_TENSOR",
        ),
        ("too many tensors", with(&many), "TOO_MANY_TENSORS"),
        ("f64", swap("F32", "F64"), "TENSOR_DTYPE"),
        ("integers", swap("F32", "I8"), "TENSOR_DTYPE"),
        ("eight-bit floats", swap("F32", "F8_E4M3"), "TENSOR_DTYPE"),
        (
            "five dimensions",
            swap("[2,12]", "[2,12,1,1,1]"),
            "TENSOR_DIMENSIONS",
        ),
        (
            "rank 0",
            swap("[2,12]", "[0,12]").clone(),
            "DIMENSION_OUT_OF_RANGE",
        ),
        (
            "dimension of 2^32",
            swap("[2,12]", "[4294967296,4294967296]"),
            "DIMENSION_OUT_OF_RANGE",
        ),
        (
            "2^48 elements",
            swap("[2,12]", "[16777216,16777216]"),
            "TENSOR_TOO_LARGE",
        ),
        (
            "2^96 elements",
            swap("[2,12]", "[16777216,16777216,16777216,16777216]"),
            "TENSOR_TOO_LARGE",
        ),
        (
            "reversed offsets",
            swap("[0,96]", "[96,0]"),
            "TENSOR_OFFSETS",
        ),
        (
            "offsets beyond the file",
            swap("[0,96]", "[0,192]"),
            "TENSOR_OFFSETS",
        ),
        (
            "offsets near 2^64",
            swap("[0,96]", "[18446744073709551600,18446744073709551615]"),
            "TENSOR_OFFSETS",
        ),
        (
            "fewer bytes than the shape",
            swap("[2,12]", "[2,13]"),
            "TENSOR_BYTES",
        ),
        (
            "more bytes than the dtype",
            swap("F32", "F16"),
            "TENSOR_BYTES",
        ),
        (
            "a scalar over a range",
            swap("[2,12]", "[]"),
            "TENSOR_BYTES",
        ),
        (
            "gap at the start",
            entry(r#"{"dtype":"F32","shape":[1,12],"data_offsets":[48,96]}"#),
            "TENSOR_GAP",
        ),
        ("shared bytes", two(GOOD), "TENSOR_GAP"),
        (
            "overlap",
            two(r#"{"dtype":"F32","shape":[1,12],"data_offsets":[48,96]}"#),
            "TENSOR_GAP",
        ),
        (
            "uncovered end",
            entry(r#"{"dtype":"F32","shape":[1,12],"data_offsets":[0,48]}"#),
            "TRAILING_BYTES",
        ),
        (
            "data without tensors",
            container(b"{}", &[0; 8]),
            "TRAILING_BYTES",
        ),
        ("no tensors", container(b"{}", b""), "NO_MODULES"),
    ];
    assert!(cases.len() > 50);
    for (context, bytes, reason) in cases {
        let error = refused(config().to_string().as_bytes(), &bytes);
        check(&error, Malformed, "tensors", reason, context);
        let slot = decode_slot(&bytes).expect_err("refused as a slot as well");
        assert_eq!(slot.reason(), reason, "{context} as a slot: {slot}");
    }
}

#[test]
fn other_files_are_recognised() {
    let zero = |magic: &[u8]| [magic, &[0xee; 64]].concat();
    for (bytes, word) in [
        (zero(b"PK\x03\x04"), "pickle"),
        (zero(b"\x80\x02}q"), "pickle"),
        (zero(b"\x1f\x8b\x08"), "gzip"),
        (zero(b"GGUF"), "GGUF"),
        (zero(b"\x93NUMPY"), "NumPy"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1".to_vec(),
            "LFS",
        ),
        (b"<!DOCTYPE html><html></html>".to_vec(), "HTML"),
        (b"{\"error\":\"not found\"}".to_vec(), "JSON"),
        (b"{}".to_vec(), "JSON"),
    ] {
        let error = refused(config().to_string().as_bytes(), &bytes);
        check(&error, Malformed, "tensors", "NOT_SAFETENSORS", word);
        assert!(error.to_string().contains(word), "{error}");
    }
}

/// A source whose length is right and whose bytes cannot be read.
struct Broken;

impl TensorSource for Broken {
    fn len(&self) -> u64 {
        1 << 20
    }

    fn read_at(&self, _: u64, _: &mut [u8]) -> std::io::Result<()> {
        Err(std::io::Error::other("disk on fire"))
    }
}

#[test]
fn an_unreadable_source_is_no_malformed_file() {
    let error = decode(config().to_string().as_bytes(), &Broken, &tiny_base()).unwrap_err();
    check(&error, Io, "tensors", "TENSOR_SOURCE_FAILED", "broken");
    let source = std::error::Error::source(&error).unwrap();
    assert_eq!(source.to_string(), "disk on fire");
}

/// A sparse file of any length: a real header, then zeros; remembers the largest buffer it filled.
struct Sparse {
    head: Vec<u8>,
    length: u64,
    largest: AtomicUsize,
}

impl TensorSource for Sparse {
    fn len(&self) -> u64 {
        self.length
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> std::io::Result<()> {
        self.largest.fetch_max(buffer.len(), Ordering::Relaxed);
        for (byte, at) in buffer.iter_mut().zip(offset..) {
            let place = usize::try_from(at).unwrap();
            *byte = self.head.get(place).copied().unwrap_or(0);
        }
        Ok(())
    }
}

#[test]
fn nothing_is_allocated_for_what_a_file_only_claims_to_hold() {
    // Two factors of 2^31 elements, 16 GiB in all.
    let tensor = |factor: &str, shape: [u64; 2], begin: u64| {
        let end = begin + (1 << 33);
        format!(
            r#""base_model.model.m.{factor}.weight":{{"dtype":"F32","shape":{shape:?},"data_offsets":[{begin},{end}]}}"#
        )
    };
    let a = tensor("lora_A", [128, 1 << 24], 0);
    let b = tensor("lora_B", [1 << 24, 128], 1 << 33);
    let head = container(format!("{{{a},{b}}}").as_bytes(), b"");
    let length = u64::try_from(head.len()).unwrap() + (1 << 34);
    let source = Sparse {
        head,
        length,
        largest: AtomicUsize::new(0),
    };
    assert_eq!(decode_slot(&source).unwrap().tensor_bytes(), 1 << 34);
    assert!(source.largest.load(Ordering::Relaxed) < 4096);

    let head = (8_u64 << 20).to_le_bytes().to_vec();
    let source = Sparse {
        head,
        length: u64::MAX,
        largest: AtomicUsize::new(0),
    };
    assert_eq!(decode_slot(&source).unwrap_err().reason(), "HEADER_START");
    assert_eq!(
        source.largest.load(Ordering::Relaxed),
        8 << 20,
        "the limit, and no more"
    );
}

#[test]
fn every_truncation_and_every_extension_is_refused() {
    let whole = file();
    for length in 0..whole.len() {
        let cut = whole[..length].to_vec();
        let error = refused(config().to_string().as_bytes(), &cut);
        let known = ["FILE_TOO_SHORT", "HEADER_BEYOND_FILE", "TENSOR_OFFSETS"];
        assert!(known.contains(&error.reason()), "{length} bytes: {error}");
    }
    for extra in [1, 8, 96] {
        let longer = [&whole[..], &vec![0; extra]].concat();
        let error = refused(config().to_string().as_bytes(), &longer);
        assert_eq!(error.reason(), "TRAILING_BYTES");
    }
}

#[test]
fn metadata_and_padding_are_accepted() {
    let header = json!({"__metadata__": {"format": "pt", "note": "é\n"}}).to_string();
    let whole = file();
    let length = usize::try_from(u64::from_le_bytes(whole[..8].try_into().unwrap())).unwrap();
    let (old, data) = whole[8..].split_at(length);
    let merged = [
        header.trim_end_matches('}').as_bytes(),
        b"},",
        &old[1..],
        b"    \n",
    ]
    .concat();
    let bytes = container(&merged, data);
    decode(config().to_string().as_bytes(), &bytes, &tiny_base()).unwrap();
    safetensors::SafeTensors::deserialize(&bytes).unwrap();
}
