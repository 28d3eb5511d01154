//! GGUF and mlx-lm: every cut of a GGUF header, every number of it, and lies in mlx-lm's files.

use kmerge_merge::Dtype;
use serde_json::{Value, json};

use super::{Bad, Reader};
use crate::support::files::{Tensor, container, safetensors};
use crate::support::gguf::{File, key, matrix, sized, text};

pub(super) fn good_gguf() -> File {
    File::lora(
        4.0,
        vec![
            matrix("blk.0.attn_q.weight.lora_a", [2, 12], &[1.0; 24]),
            matrix("blk.0.attn_q.weight.lora_b", [12, 2], &[0.5; 24]),
        ],
    )
}

fn gguf(name: impl Into<String>, file: Vec<u8>, reason: &'static str) -> Bad {
    Bad::new(Reader::Gguf, name, "", file, reason)
}

pub(super) fn bad() -> Vec<Bad> {
    [cuts(), keys(), tensors(), apple()]
        .into_iter()
        .flatten()
        .collect()
}

/// The file ends early: in each part of the header, and in the data.
fn cuts() -> Vec<Bad> {
    let file = good_gguf().bytes();
    let start = file.len() - 192;
    let mut bad = Vec::new();
    for length in (0..24).step_by(4) {
        bad.push(gguf(
            format!("a GGUF file of {length} bytes"),
            file[..length].to_vec(),
            "GGUF_TOO_SHORT",
        ));
    }
    // The padding before the data is no part of the header.
    let header = file[..start]
        .iter()
        .rposition(|&byte| byte != 0)
        .unwrap_or(0);
    for length in (24..header).step_by(13) {
        bad.push(gguf(
            format!("a GGUF header of {length} bytes"),
            file[..length].to_vec(),
            "GGUF_CUT_SHORT",
        ));
    }
    for missing in [1, 4, 95, 96, 97, 191] {
        let cut = file[..file.len() - missing].to_vec();
        bad.push(gguf(
            format!("{missing} bytes of GGUF data missing"),
            cut,
            "GGUF_TENSOR_BEYOND_FILE",
        ));
    }
    for more in [1, 31, 33, 4096] {
        let file = [&file[..], &vec![0; more]].concat();
        bad.push(gguf(
            format!("{more} bytes of GGUF data too many"),
            file,
            "GGUF_TRAILING_BYTES",
        ));
    }
    bad
}

fn keys() -> Vec<Bad> {
    let mut bad = Vec::new();
    for (what, number) in [
        ("65,537", 65_537),
        ("2^32", 1 << 32),
        ("2^63", 1 << 63),
        ("2^64 - 1", u64::MAX),
    ] {
        let counted = |counts| {
            let mut file = good_gguf();
            file.counts = Some(counts);
            file.bytes()
        };
        bad.push(gguf(
            format!("{what} tensors"),
            counted([number, 4]),
            "GGUF_TOO_MANY_TENSORS",
        ));
        bad.push(gguf(
            format!("{what} keys"),
            counted([2, number]),
            "GGUF_TOO_MANY_KEYS",
        ));
    }
    for version in [0_u32, 1, 2, 4, 255, 0x0003_0001, u32::MAX] {
        let mut file = good_gguf();
        file.version = version;
        let reason = if version & 0xffff == 0 {
            "GGUF_BIG_ENDIAN"
        } else {
            "GGUF_VERSION"
        };
        bad.push(gguf(
            format!("GGUF of version {version}"),
            file.bytes(),
            reason,
        ));
    }
    for alignment in [0_u32, 3, 24, 31, 33, 0x0020_0000, 1 << 31, u32::MAX] {
        let file = good_gguf().with(key("general.alignment", 4, &alignment.to_le_bytes()));
        bad.push(gguf(
            format!("an alignment of {alignment}"),
            file.bytes(),
            "GGUF_ALIGNMENT",
        ));
    }
    for kind in [13_u32, 14, 255, 1 << 31, u32::MAX] {
        let file = good_gguf().with(key("x", kind, &[0; 8]));
        bad.push(gguf(
            format!("a value of type {kind}"),
            file.bytes(),
            "GGUF_VALUE_TYPE",
        ));
        let array = [&kind.to_le_bytes()[..], &[0; 8]].concat();
        let file = good_gguf().with(key("x", 9, &array));
        bad.push(gguf(
            format!("an array of type {kind}"),
            file.bytes(),
            "GGUF_VALUE_TYPE",
        ));
    }
    for (what, length) in [
        ("a MiB and a byte", (1 << 20) + 1),
        ("2^32", 1 << 32),
        ("2^64 - 1", u64::MAX),
    ] {
        let claimed = length.to_le_bytes();
        let file = good_gguf().with(key("x", 8, &claimed));
        bad.push(gguf(
            format!("a text of {what} bytes"),
            file.bytes(),
            "GGUF_TEXT_LENGTH",
        ));
        for kind in [0_u32, 4, 8, 10] {
            let array = [&kind.to_le_bytes()[..], &claimed].concat();
            let file = good_gguf().with(key("x", 9, &array));
            bad.push(gguf(
                format!("an array of {what} elements of type {kind}"),
                file.bytes(),
                "GGUF_ARRAY_LENGTH",
            ));
        }
        let mut file = good_gguf().bytes();
        file[24..32].copy_from_slice(&claimed);
        bad.push(gguf(
            format!("a key of {what} bytes"),
            file,
            "GGUF_KEY_LENGTH",
        ));
    }
    let nested = [
        &9_u32.to_le_bytes()[..],
        &1_u64.to_le_bytes(),
        &9_u32.to_le_bytes(),
        &[0; 8],
    ]
    .concat();
    bad.push(gguf(
        "an array of arrays",
        good_gguf().with(key("x", 9, &nested)).bytes(),
        "GGUF_NESTED_ARRAY",
    ));
    for number in [2, 255] {
        bad.push(gguf(
            format!("a truth of {number}"),
            good_gguf().with(key("x", 7, &[number])).bytes(),
            "GGUF_BOOL_VALUE",
        ));
    }
    bad.push(gguf(
        "a text that is no UTF-8",
        good_gguf()
            .with(key("general.name", 8, &sized(b"\xff\xfe")))
            .bytes(),
        "GGUF_TEXT_ENCODING",
    ));
    for name in ["a b", "a\0b", "../a", "é", "a\nb"] {
        bad.push(gguf(
            format!("the key {name:?}"),
            good_gguf().with(key(name, 7, &[1])).bytes(),
            "GGUF_KEY_TEXT",
        ));
    }
    let mut twice = good_gguf();
    twice.keys.push(text("general.type", "adapter"));
    bad.push(gguf("a key twice", twice.bytes(), "GGUF_DUPLICATE_KEY"));
    for (what, file, reason) in [
        (
            "no type",
            good_gguf().without("general.type"),
            "GGUF_MISSING_KEY",
        ),
        (
            "no architecture",
            good_gguf().without("general.architecture"),
            "GGUF_MISSING_KEY",
        ),
        (
            "no kind of adapter",
            good_gguf().without("adapter.type"),
            "GGUF_MISSING_KEY",
        ),
        (
            "a model's type",
            good_gguf().with(text("general.type", "model")),
            "GGUF_NOT_AN_ADAPTER",
        ),
        (
            "a type of control characters",
            good_gguf().with(text("general.type", "\u{1b}[2J")),
            "GGUF_NOT_AN_ADAPTER",
        ),
        (
            "another kind",
            good_gguf().with(text("adapter.type", "control-vector")),
            "GGUF_ADAPTER_TYPE",
        ),
        (
            "another architecture",
            good_gguf().with(text("general.architecture", "qwen2")),
            "GGUF_ARCHITECTURE",
        ),
        (
            "a number for its type",
            good_gguf().with(key("general.type", 4, &[0; 4])),
            "GGUF_KEY_TYPE",
        ),
        (
            "a text for alpha",
            good_gguf().with(text("adapter.lora.alpha", "4")),
            "GGUF_KEY_TYPE",
        ),
        (
            "a text for the alignment",
            good_gguf().with(text("general.alignment", "32")),
            "GGUF_KEY_TYPE",
        ),
        (
            "an alignment of -32",
            good_gguf().with(key("general.alignment", 5, &(-32_i32).to_le_bytes())),
            "GGUF_KEY_TYPE",
        ),
        (
            "a list for alpha",
            good_gguf().with(key(
                "adapter.lora.alpha",
                9,
                &[&[6, 0, 0, 0][..], &[0; 8]].concat(),
            )),
            "GGUF_KEY_TYPE",
        ),
    ] {
        bad.push(gguf(format!("a GGUF LoRA of {what}"), file.bytes(), reason));
    }
    for (what, alpha) in [
        ("NaN", f32::NAN),
        ("infinite", f32::INFINITY),
        ("negative", -4.0),
        ("vast", 1e30),
        ("tiny", 1e-30),
    ] {
        let file = good_gguf().with(key("adapter.lora.alpha", 6, &alpha.to_le_bytes()));
        bad.push(gguf(
            format!("an alpha that is {what}"),
            file.bytes(),
            "GGUF_ALPHA",
        ));
    }
    bad
}

fn tensors() -> Vec<Bad> {
    let mut bad = Vec::new();
    let shaped = |dimensions: &[u64]| {
        good_gguf()
            .tensor(0, |tensor| tensor.dimensions = dimensions.to_vec())
            .bytes()
    };
    for (what, dimensions, reason) in [
        ("no dimension", &[][..], "GGUF_DIMENSIONS"),
        ("five dimensions", &[1; 5], "GGUF_DIMENSIONS"),
        ("a hundred dimensions", &[1; 100], "GGUF_DIMENSIONS"),
        ("a dimension of 0", &[0, 2], "GGUF_DIMENSION_OUT_OF_RANGE"),
        (
            "a dimension of 2^32",
            &[1 << 32, 1 << 32],
            "GGUF_DIMENSION_OUT_OF_RANGE",
        ),
        (
            "a dimension of 2^63",
            &[1 << 63, 2],
            "GGUF_DIMENSION_OUT_OF_RANGE",
        ),
        (
            "a dimension of 2^64 - 1",
            &[12, u64::MAX],
            "GGUF_DIMENSION_OUT_OF_RANGE",
        ),
        (
            "2^48 elements",
            &[1 << 24, 1 << 24],
            "GGUF_TENSOR_TOO_LARGE",
        ),
        ("2^96 elements", &[1 << 24; 4], "GGUF_TENSOR_TOO_LARGE"),
        (
            "more bytes than the file",
            &[1 << 20, 2],
            "GGUF_TENSOR_BEYOND_FILE",
        ),
        (
            "one row more than there is",
            &[12, 3],
            "GGUF_TENSOR_OVERLAP",
        ),
    ] {
        bad.push(gguf(
            format!("a GGUF tensor of {what}"),
            shaped(dimensions),
            reason,
        ));
    }
    for kind in [2_u32, 3, 8, 10, 14, 24, 27, 28, 31, 39, 255, u32::MAX] {
        let file = good_gguf().tensor(0, |tensor| tensor.kind = kind);
        bad.push(gguf(
            format!("a tensor of ggml's type {kind}"),
            file.bytes(),
            "GGUF_TENSOR_TYPE",
        ));
    }
    for (offset, reason) in [
        (0, "GGUF_TENSOR_OVERLAP"),
        (32, "GGUF_TENSOR_OVERLAP"),
        (1, "GGUF_OFFSET_UNALIGNED"),
        (97, "GGUF_OFFSET_UNALIGNED"),
        (128, "GGUF_TENSOR_BEYOND_FILE"),
        (1 << 32, "GGUF_TENSOR_BEYOND_FILE"),
        (1 << 63, "GGUF_TENSOR_BEYOND_FILE"),
        (u64::MAX - 31, "GGUF_TENSOR_BEYOND_FILE"),
        (u64::MAX, "GGUF_OFFSET_UNALIGNED"),
    ] {
        let file = good_gguf().tensor(1, |tensor| tensor.offset = Some(offset));
        bad.push(gguf(format!("a tensor at {offset}"), file.bytes(), reason));
    }
    for (name, reason) in [
        ("", "GGUF_NAME_LENGTH"),
        (
            "blk.0.attn_q.weight.lora_a.aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
            "GGUF_NAME_LENGTH",
        ),
        ("blk.0.attn q.weight.lora_a", "GGUF_NAME_TEXT"),
        ("blk.0.attn_q\0.lora_a", "GGUF_NAME_TEXT"),
        ("blk.0.attn_é.weight.lora_a", "GGUF_NAME_TEXT"),
        ("blk.0.attn_q.weight.lora_b", "GGUF_DUPLICATE_TENSOR"),
        ("blk.0.attn_q.weight", "FULL_TENSOR"),
        ("blk.0.attn_q.bias", "FULL_TENSOR"),
        ("blk.0.attn_q.weight.lora_c", "GGUF_UNKNOWN_TENSOR"),
        (".lora_a", "GGUF_UNKNOWN_TENSOR"),
        ("../../etc/passwd", "GGUF_UNKNOWN_TENSOR"),
        ("token_embd.weight.lora_a", "EMBEDDING_OR_HEAD"),
        ("output.weight.lora_a", "EMBEDDING_OR_HEAD"),
        ("blk.1.attn_q.weight.lora_a", "MISSING_FACTOR"),
    ] {
        let file = good_gguf().tensor(0, |tensor| tensor.name = name.into());
        bad.push(gguf(
            format!("the GGUF tensor {name:?}"),
            file.bytes(),
            reason,
        ));
    }
    for (what, stem) in [
        ("block 4 of 4", "blk.4.attn_q.weight"),
        ("block 2^32", "blk.4294967296.attn_q.weight"),
        ("block 00", "blk.00.attn_q.weight"),
        ("experts", "blk.0.ffn_gate_exps.weight"),
        ("no block", "attn_q.weight"),
    ] {
        let mut file = good_gguf();
        for (tensor, factor) in file.tensors.iter_mut().zip(["a", "b"]) {
            tensor.name = format!("{stem}.lora_{factor}").into();
        }
        bad.push(gguf(
            format!("GGUF factors of {what}"),
            file.bytes(),
            "MODULE_NOT_IN_BASE",
        ));
    }
    bad
}

const Q: &str = "model.layers.3.self_attn.q_proj";

fn apple_config() -> Value {
    json!({
        "fine_tune_type": "lora", "num_layers": 4,
        "lora_parameters": {"rank": 2, "scale": 20.0, "dropout": 0.0, "keys": ["self_attn.q_proj"]},
    })
}

fn apple_file(names: [&str; 2], shapes: [[usize; 2]; 2]) -> Vec<u8> {
    let tensors = names.iter().zip(shapes).map(|(name, shape)| Tensor {
        name: (*name).to_owned(),
        dtype: Dtype::F32,
        shape: shape.to_vec(),
        values: vec![0.5; shape.iter().product()],
    });
    safetensors(&tensors.collect::<Vec<_>>())
}

pub(super) fn good_mlx() -> Bad {
    let names = [format!("{Q}.lora_a"), format!("{Q}.lora_b")];
    let file = apple_file([&names[0], &names[1]], [[12, 2], [2, 12]]);
    Bad::new(Reader::Mlx, "mlx-lm", apple_config().to_string(), file, "")
}

fn apple() -> Vec<Bad> {
    let good = good_mlx();
    let mut bad = Vec::new();
    for (field, value, reason) in [
        ("rank", json!(0), "RANK_OUT_OF_RANGE"),
        ("rank", json!(-1), "RANK_OUT_OF_RANGE"),
        ("rank", json!(u64::MAX), "RANK_OUT_OF_RANGE"),
        ("rank", json!(3), "CONFIG_RANK"),
        ("rank", json!("2"), "CONFIG_TYPE"),
        ("rank", Value::Null, "CONFIG_TYPE"),
        ("scale", json!(0.0), "MLX_SCALE"),
        ("scale", json!(-20.0), "MLX_SCALE"),
        ("scale", json!(1e300), "MLX_SCALE"),
        ("scale", json!(1e-300), "MLX_SCALE"),
        ("scale", json!([20.0]), "CONFIG_TYPE"),
        ("scale", Value::Null, "CONFIG_TYPE"),
        ("keys", json!("self_attn.q_proj"), "CONFIG_TYPE"),
        ("keys", json!([1]), "CONFIG_TYPE"),
        ("keys", json!([]), "MLX_OUTSIDE_KEYS"),
        ("keys", json!(["self_attn.k_proj"]), "MLX_OUTSIDE_KEYS"),
        ("keys", json!(vec!["x"; 513]), "MLX_TOO_MANY_KEYS"),
    ] {
        let mut config = apple_config();
        let shown: String = value.to_string().chars().take(40).collect();
        config["lora_parameters"][field] = value;
        let name = format!("mlx-lm's {field} is {shown}");
        bad.push(Bad::new(
            Reader::Mlx,
            name,
            config.to_string(),
            good.file.clone(),
            reason,
        ));
    }
    for (what, names, shapes, reason) in [
        (
            "one factor twice removed",
            ["lora_a", "lora_b"],
            [[12, 2], [2, 12]],
            "MLX_UNKNOWN_TENSOR",
        ),
        (
            "a magnitude",
            ["x.q_proj.m", "x.q_proj.lora_b"],
            [[12, 2], [2, 12]],
            "DORA",
        ),
        (
            "a whole weight",
            ["x.q_proj.weight", "x.q_proj.lora_b"],
            [[12, 2], [2, 12]],
            "FULL_TENSOR",
        ),
        (
            "an embedding",
            ["model.embed_tokens.lora_a", "model.embed_tokens.lora_b"],
            [[12, 2], [2, 12]],
            "EMBEDDING_OR_HEAD",
        ),
        (
            "PEFT's shapes",
            [
                "model.layers.3.self_attn.q_proj.lora_a",
                "model.layers.3.self_attn.q_proj.lora_b",
            ],
            [[2, 12], [12, 2]],
            "MODULE_SHAPE",
        ),
        (
            "ranks that differ",
            [
                "model.layers.3.self_attn.q_proj.lora_a",
                "model.layers.3.self_attn.q_proj.lora_b",
            ],
            [[12, 2], [3, 12]],
            "FACTOR_RANKS",
        ),
        (
            "layer 4 of 4",
            [
                "model.layers.4.self_attn.q_proj.lora_a",
                "model.layers.4.self_attn.q_proj.lora_b",
            ],
            [[12, 2], [2, 12]],
            "MODULE_NOT_IN_BASE",
        ),
    ] {
        let file = apple_file(names, shapes);
        bad.push(Bad::new(
            Reader::Mlx,
            format!("mlx-lm with {what}"),
            good.config.clone(),
            file,
            reason,
        ));
    }
    bad.push(Bad::new(
        Reader::Mlx,
        "mlx-lm without tensors",
        good.config.clone(),
        container(b"{}", b""),
        "NO_MODULES",
    ));
    bad
}
