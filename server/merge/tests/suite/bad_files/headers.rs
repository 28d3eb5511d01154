//! Safetensors headers: every number replaced, every cut, every type, names of all kinds.

use serde_json::{Value, json};

use super::{Bad, Reader};
use crate::support::files::container;

const A: &str = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight";
const B: &str = "base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight";

pub(super) fn config() -> Vec<u8> {
    br#"{"peft_type":"LORA","task_type":"CAUSAL_LM","r":2,"lora_alpha":4}"#.to_vec()
}

fn header() -> Value {
    json!({
        A: {"dtype": "F32", "shape": [2, 12], "data_offsets": [0, 96]},
        B: {"dtype": "F32", "shape": [12, 2], "data_offsets": [96, 192]},
    })
}

fn data() -> Vec<u8> {
    1_f32.to_le_bytes().repeat(48)
}

fn with(header: &str) -> Vec<u8> {
    container(header.as_bytes(), &data())
}

pub(super) fn good() -> Vec<u8> {
    with(&header().to_string())
}

pub(super) fn bad() -> Vec<Bad> {
    [
        numbers(),
        cuts(),
        lengths(),
        types(),
        names(),
        layouts(),
        slots(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// Each number of the header replaced by what may wrap, lie, or be none.
fn numbers() -> Vec<Bad> {
    let mut bad = Vec::new();
    for (tensor, factor) in [(A, "A"), (B, "B")] {
        for (field, index) in [
            ("shape", 0),
            ("shape", 1),
            ("data_offsets", 0),
            ("data_offsets", 1),
        ] {
            for number in [
                "0",
                "-1",
                "1.5",
                "2e0",
                "\"2\"",
                "null",
                "[2]",
                "16777217",
                "4294967296",
                "4611686018427387904",
                "9223372036854775808",
                "18446744073709551615",
                "18446744073709551616",
                "1e999",
            ] {
                let is_shape = field == "shape";
                let value: Option<u64> = number.parse().ok();
                let reason = match value {
                    None => "HEADER_SYNTAX",
                    // A begins there.
                    Some(0) if !is_shape && index == 0 && factor == "A" => continue,
                    Some(0) if is_shape => "DIMENSION_OUT_OF_RANGE",
                    Some(_) if is_shape => "DIMENSION_OUT_OF_RANGE",
                    // The range is as long as before only if it begins where it did.
                    Some(0) if index == 0 || factor == "A" => "TENSOR_BYTES",
                    Some(_) => "TENSOR_OFFSETS",
                };
                let mut header = header();
                header[tensor][field][index] = json!("HERE");
                let text = header.to_string().replace("\"HERE\"", number);
                let name = format!("{factor}'s {field}[{index}] is {number}");
                bad.push(Bad::tensors(name, with(&text), reason));
            }
        }
    }
    bad
}

/// The header's text ends behind each of its signs, and its length says so.
fn cuts() -> Vec<Bad> {
    let text = header().to_string();
    let ends = text
        .char_indices()
        .filter(|(_, sign)| "{}[]:,".contains(*sign));
    ends.filter(|&(at, _)| at + 1 < text.len())
        .map(|(at, sign)| {
            let name = format!("the header ends at byte {at}, behind {sign}");
            Bad::tensors(name, with(&text[..=at]), "HEADER_SYNTAX")
        })
        .collect()
}

/// The header's length, and files that end early.
fn lengths() -> Vec<Bad> {
    let file = good();
    let header = header().to_string().len();
    let claiming = |length: u64| {
        let mut file = file.clone();
        file[..8].copy_from_slice(&length.to_le_bytes());
        file
    };
    let mut bad = vec![
        Bad::tensors("a header of no bytes", claiming(0), "HEADER_START"),
        Bad::tensors("a header of one byte", claiming(1), "HEADER_SYNTAX"),
        Bad::tensors(
            "a header of one byte less",
            claiming(header as u64 - 1),
            "HEADER_SYNTAX",
        ),
        Bad::tensors(
            "a header of one byte more",
            claiming(header as u64 + 1),
            "TENSOR_OFFSETS",
        ),
        Bad::tensors(
            "a header up to the end",
            claiming(file.len() as u64 - 8),
            "TENSOR_OFFSETS",
        ),
        Bad::tensors(
            "a header behind the end",
            claiming(file.len() as u64 - 7),
            "HEADER_BEYOND_FILE",
        ),
        Bad::tensors("a header of 8 MiB", claiming(8 << 20), "HEADER_BEYOND_FILE"),
        Bad::tensors(
            "a header of 8 MiB and a byte",
            claiming((8 << 20) + 1),
            "HEADER_TOO_LARGE",
        ),
    ];
    for power in [31, 32, 62, 63] {
        let name = format!("a header of 2^{power} bytes");
        bad.push(Bad::tensors(name, claiming(1 << power), "HEADER_TOO_LARGE"));
    }
    for less in 1..=7 {
        let name = format!("a header of 2^64 - {less} bytes");
        bad.push(Bad::tensors(
            name,
            claiming(u64::MAX - less + 1),
            "HEADER_TOO_LARGE",
        ));
    }
    for length in 0..8 {
        let name = format!("a file of {length} bytes");
        bad.push(Bad::tensors(
            name,
            file[..length].to_vec(),
            "FILE_TOO_SHORT",
        ));
    }
    for (name, length) in [("half", header / 2), ("all but one byte", header - 1)] {
        let name = format!("the file ends behind {name} of its header");
        bad.push(Bad::tensors(
            name,
            file[..8 + length].to_vec(),
            "HEADER_BEYOND_FILE",
        ));
    }
    for missing in [1, 4, 95, 96, 97, 192] {
        let name = format!("{missing} bytes of data are missing");
        bad.push(Bad::tensors(
            name,
            file[..file.len() - missing].to_vec(),
            "TENSOR_OFFSETS",
        ));
    }
    for more in [1, 4, 8, 4096] {
        let name = format!("{more} bytes of data are too many");
        let file = [&file[..], &vec![0; more]].concat();
        bad.push(Bad::tensors(name, file, "TRAILING_BYTES"));
    }
    bad
}

fn types() -> Vec<Bad> {
    let mut bad = Vec::new();
    for dtype in [
        "BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0", "I16", "U16", "I32", "U32", "F64",
        "I64", "U64", "C64", "F4", "F6_E2M3", "f32", "F32 ", "", "float32", "Q4_0",
    ] {
        let text = header().to_string().replacen("F32", dtype, 1);
        bad.push(Bad::tensors(
            format!("the dtype {dtype:?}"),
            with(&text),
            "TENSOR_DTYPE",
        ));
    }
    for dtype in ["F16", "BF16"] {
        let text = header().to_string().replacen("F32", dtype, 1);
        bad.push(Bad::tensors(
            format!("{dtype} over the bytes of F32"),
            with(&text),
            "TENSOR_BYTES",
        ));
    }
    for (name, value) in [
        ("a number", "32"),
        ("null", "null"),
        ("a list", "[\"F32\"]"),
    ] {
        let text = header().to_string().replacen("\"F32\"", value, 1);
        bad.push(Bad::tensors(
            format!("a dtype that is {name}"),
            with(&text),
            "HEADER_SYNTAX",
        ));
    }
    bad
}

fn names() -> Vec<Bad> {
    let mut bad = Vec::new();
    let named = |name: &str| with(&header().to_string().replacen(A, name, 1));
    for (what, name) in [
        ("empty", String::new()),
        ("a space", A.replace("q_proj", "q proj")),
        ("a NUL", A.replace("q_proj", "q\\u0000proj")),
        ("a line feed", A.replace("q_proj", "q\\nproj")),
        ("an escape sequence", A.replace("q_proj", "\\u001b[31m")),
        ("a backslash", A.replace("q_proj", "..\\\\..")),
        ("a quote", A.replace("q_proj", "q\\\"proj")),
        ("a letter of two bytes", A.replace("q_proj", "é")),
        (
            "a letter that looks like another",
            A.replace("q_proj", "q_рroj"),
        ),
        (
            "text from right to left",
            A.replace("q_proj", "\\u202eproj"),
        ),
        ("a colon", A.replace("q_proj", "c:proj")),
        ("257 bytes", format!("{}{A}", "a".repeat(257 - A.len()))),
        ("100,000 bytes", "a".repeat(100_000)),
    ] {
        bad.push(Bad::tensors(
            format!("a name with {what}"),
            named(&name),
            "TENSOR_NAME",
        ));
    }
    for (what, name, reason) in [
        (
            "that goes up",
            A.replace("self_attn", "../../self_attn"),
            "MISSING_FACTOR",
        ),
        (
            "that is absolute",
            "/etc/passwd".to_owned(),
            "UNKNOWN_TENSOR",
        ),
        ("of dots", "..".to_owned(), "UNKNOWN_TENSOR"),
        (
            "without a prefix",
            A.replace("base_model.model.", ""),
            "UNKNOWN_TENSOR",
        ),
        ("of a whole weight", A.replace(".lora_A", ""), "FULL_TENSOR"),
        (
            "of a magnitude",
            A.replace("lora_A.weight", "lora_magnitude_vector"),
            "DORA",
        ),
        (
            "of a bias",
            A.replace("lora_A.weight", "lora_A.bias"),
            "BIAS",
        ),
        (
            "of a head",
            "base_model.model.lm_head.lora_A.weight".to_owned(),
            "EMBEDDING_OR_HEAD",
        ),
        (
            "of an embedding",
            A.replace("layers.0.self_attn.q_proj", "embed_tokens"),
            "EMBEDDING_OR_HEAD",
        ),
        (
            "of experts",
            A.replace("self_attn.q_proj", "mlp.experts"),
            "TARGET_PARAMETERS",
        ),
        (
            "of layer 4 of 4",
            A.replace("layers.0", "layers.4"),
            "MISSING_FACTOR",
        ),
        (
            "of layer 2^64",
            A.replace("layers.0", "layers.18446744073709551616"),
            "MISSING_FACTOR",
        ),
        (
            "of layer 00",
            A.replace("layers.0", "layers.00"),
            "MISSING_FACTOR",
        ),
        (
            "of layer -1",
            A.replace("layers.0", "layers.-1"),
            "MISSING_FACTOR",
        ),
        (
            "of another factor",
            A.replace("lora_A", "lora_C"),
            "FULL_TENSOR",
        ),
    ] {
        bad.push(Bad::tensors(format!("a name {what}"), named(&name), reason));
    }
    for (what, from, to) in [
        ("layer 4 of 4", "layers.0", "layers.4"),
        ("layer 2^32", "layers.0", "layers.4294967296"),
        ("a module of another family", "q_proj", "qkv_proj"),
        ("a module of no name", ".q_proj", "."),
        ("a path that goes up", "self_attn", "../self_attn"),
    ] {
        let text = header().to_string().replace(from, to);
        bad.push(Bad::tensors(
            format!("factors of {what}"),
            with(&text),
            "MODULE_NOT_IN_BASE",
        ));
    }
    let twice = header().to_string().replacen(
        '{',
        &format!(r#"{{"{A}":{{"dtype":"F32","shape":[2,12],"data_offsets":[0,96]}},"#),
        1,
    );
    bad.push(Bad::tensors(
        "a name twice",
        with(&twice),
        "DUPLICATE_TENSOR",
    ));
    let metadata = |text: &str| {
        with(
            &header()
                .to_string()
                .replacen('{', &format!("{{\"__metadata__\":{text},"), 1),
        )
    };
    for (what, text) in [
        ("a list", "[]"),
        ("a text", "\"x\""),
        ("numbers", r#"{"a":1}"#),
        ("objects", r#"{"a":{}}"#),
        ("one key twice", r#"{"a":"","a":""}"#),
        ("half a surrogate", r#"{"a":"\ud800"}"#),
    ] {
        bad.push(Bad::tensors(
            format!("metadata of {what}"),
            metadata(text),
            "HEADER_SYNTAX",
        ));
    }
    let deep = format!("{}1{}", "[".repeat(500), "]".repeat(500));
    bad.push(Bad::tensors(
        "metadata 500 deep",
        metadata(&deep),
        "HEADER_SYNTAX",
    ));
    bad
}

/// Two tensors that share, leave out, or run over bytes.
fn layouts() -> Vec<Bad> {
    let placed = |a: [u64; 2], b: [u64; 2]| {
        let mut header = header();
        header[A]["data_offsets"] = json!(a);
        header[B]["data_offsets"] = json!(b);
        with(&header.to_string())
    };
    let shaped = |a: &[u64], b: &[u64]| {
        let mut header = header();
        header[A]["shape"] = json!(a);
        header[B]["shape"] = json!(b);
        with(&header.to_string())
    };
    vec![
        Bad::tensors("both at the start", placed([0, 96], [0, 96]), "TENSOR_GAP"),
        Bad::tensors(
            "both at the end",
            placed([96, 192], [96, 192]),
            "TENSOR_GAP",
        ),
        Bad::tensors(
            "an overlap of one byte",
            placed([0, 96], [95, 191]),
            "TENSOR_GAP",
        ),
        Bad::tensors(
            "an overlap by half",
            placed([0, 96], [48, 144]),
            "TENSOR_GAP",
        ),
        Bad::tensors(
            "a hole at the start",
            placed([4, 100], [96, 192]),
            "TENSOR_GAP",
        ),
        Bad::tensors(
            "offsets the wrong way",
            placed([96, 0], [96, 192]),
            "TENSOR_OFFSETS",
        ),
        Bad::tensors("an empty range", placed([0, 0], [0, 192]), "TENSOR_BYTES"),
        Bad::tensors(
            "a range of one byte more",
            placed([0, 97], [96, 192]),
            "TENSOR_BYTES",
        ),
        Bad::tensors(
            "ranks that differ",
            shaped(&[2, 12], &[8, 3]),
            "FACTOR_RANKS",
        ),
        Bad::tensors(
            "a rank for the columns",
            shaped(&[12, 2], &[12, 2]),
            "FACTOR_RANKS",
        ),
        Bad::tensors(
            "both transposed",
            shaped(&[12, 2], &[2, 12]),
            "MODULE_SHAPE",
        ),
        Bad::tensors("a vector", shaped(&[24], &[12, 2]), "FACTOR_DIMENSIONS"),
        Bad::tensors("a cube", shaped(&[1, 2, 12], &[12, 2]), "TARGET_PARAMETERS"),
        Bad::tensors(
            "four dimensions",
            shaped(&[1, 1, 2, 12], &[12, 2]),
            "FACTOR_DIMENSIONS",
        ),
        Bad::tensors(
            "five dimensions",
            shaped(&[1, 1, 1, 2, 12], &[12, 2]),
            "TENSOR_DIMENSIONS",
        ),
        Bad::tensors(
            "a thousand dimensions",
            shaped(&[1; 1000], &[12, 2]),
            "TENSOR_DIMENSIONS",
        ),
        Bad::tensors("a scalar", shaped(&[], &[12, 2]), "TENSOR_BYTES"),
        Bad::tensors(
            "2^48 elements",
            shaped(&[1 << 24, 1 << 24], &[12, 2]),
            "TENSOR_TOO_LARGE",
        ),
        Bad::tensors(
            "2^96 elements",
            shaped(&[1 << 24; 4], &[12, 2]),
            "TENSOR_TOO_LARGE",
        ),
        Bad::tensors(
            "2^32 by 2^32 elements",
            shaped(&[1 << 32, 1 << 32], &[12, 2]),
            "DIMENSION_OUT_OF_RANGE",
        ),
        Bad::tensors(
            "rank 1 in the configuration's 2",
            shaped(&[1, 24], &[24, 1]),
            "MODULE_SHAPE",
        ),
    ]
}

/// Files that are adapters, and no slots.
fn slots() -> Vec<Bad> {
    let slot = |name: &str, file: Vec<u8>, reason| {
        Bad::new(
            Reader::Slot,
            format!("a slot with {name}"),
            "",
            file,
            reason,
        )
    };
    let text = header().to_string();
    let more = |name: &str, dtype: &str, [rows, columns]: [u64; 2]| {
        let size = if dtype == "F32" { 4 } else { 2 };
        let end = 192 + rows * columns * size;
        let entry = format!(
            r#","{name}":{{"dtype":"{dtype}","shape":[{rows},{columns}],"data_offsets":[192,{end}]}}}}"#
        );
        let header = format!("{}{entry}", text.trim_end_matches('}').to_owned() + "}");
        let data = [data(), vec![0; usize::try_from(end - 192).unwrap()]].concat();
        container(header.as_bytes(), &data)
    };
    let k = A.replace("q_proj", "k_proj");
    vec![
        slot(
            "an adapter's name in a factor's",
            with(&text.replace("lora_A.weight", "lora_A.default.weight")),
            "SLOT_NAME",
        ),
        slot(
            "the prefix twice",
            with(&text.replace("base_model.model.model", "model.model")),
            "SLOT_NAME",
        ),
        slot(
            "a whole weight",
            with(&text.replacen("lora_A.weight", "weight", 1)),
            "SLOT_NAME",
        ),
        slot(
            "a bias",
            with(&text.replacen("lora_A.weight", "lora_A.bias", 1)),
            "SLOT_NAME",
        ),
        slot(
            "a magnitude",
            with(&text.replacen("lora_A.weight", "lora_magnitude_vector", 1)),
            "SLOT_NAME",
        ),
        slot("half a pair", more(&k, "F32", [2, 12]), "MISSING_FACTOR"),
        slot("two types", more(&k, "F16", [2, 12]), "SLOT_DTYPE"),
        slot("nothing", container(b"{}", b""), "NO_MODULES"),
        slot(
            "a vector",
            with(&text.replacen("[2,12]", "[24]", 1)),
            "FACTOR_DIMENSIONS",
        ),
        slot(
            "ranks that differ",
            with(&text.replacen("[12,2]", "[8,3]", 1)),
            "FACTOR_RANKS",
        ),
        slot(
            "bytes behind",
            [&good()[..], &[0]].concat(),
            "TRAILING_BYTES",
        ),
    ]
}
