//! Shapes of attacks that readers of these formats have fallen to, each as a small file.
//!
//! Safetensors: sizes that wrap (LiteRT#9254), headers longer than the file, names twice, ranges
//! that overlap or leave holes. GGUF: counts and lengths without bound (CVE-2025-66960), tensors
//! that end behind the file (CVE-2026-7482) or whose size wraps (CVE-2025-53630, CVE-2026-33298),
//! alignment 0 (candle PR #3876), arrays in arrays. JSON: depth, repetition, huge numbers.

use serde_json::json;

use super::good::{config, container, gguf, one_module, values};
use super::{Seed, seed};

const NAME: &str = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight";

pub(super) fn seeds() -> Vec<Seed> {
    let mut seeds = Vec::new();
    for (name, header) in containers() {
        let file = container(header.as_bytes(), &values(24, 3));
        seeds.push(seed(
            "peft",
            format!("attack-{name}"),
            [&config()[..], &[0], &file].concat(),
        ));
        seeds.push(seed("safetensors", format!("attack-{name}"), file));
    }
    for (name, length) in [
        ("header-2-64", u64::MAX),
        ("header-2-63", 1 << 63),
        ("header-8-mib", (8 << 20) + 1),
    ] {
        let mut file = one_module();
        file[..8].copy_from_slice(&length.to_le_bytes());
        seeds.push(seed("safetensors", format!("attack-{name}"), file));
    }
    for (name, config) in configurations() {
        let file = [config.as_bytes(), &[0], &one_module()].concat();
        seeds.push(seed("peft", format!("attack-{name}"), file));
        seeds.push(seed("base_model", format!("attack-{name}"), config));
    }
    for (name, file) in ggufs() {
        seeds.push(seed("gguf", format!("attack-{name}"), file.clone()));
        seeds.push(seed("base_model", format!("attack-{name}"), file));
    }
    for (name, keys) in [
        ("nested", "(((((a{50}){50}){50}){50}){50})"),
        ("backtracking", "(a+)+$\n(.*)*x\n(a|a)*b"),
        (
            "classes",
            "\\pL{100}\n[^\\x00-\\x{10FFFF}]\n(?x) q_proj # comment\n\\b\\B",
        ),
        ("unbalanced", "(\n)\n[\n*\nq_proj)("),
        (
            "flags",
            "(?s-u:.)q_proj\n(?i)Q_Proj\n(?U)a+\n(?<name>q_proj)",
        ),
    ] {
        seeds.push(seed("pattern", format!("attack-{name}"), keys));
    }
    seeds
}

fn containers() -> Vec<(&'static str, String)> {
    let entry = |shape: &str, offsets: &str| {
        format!(r#"{{"{NAME}":{{"dtype":"F32","shape":{shape},"data_offsets":{offsets}}}}}"#)
    };
    let two = |first: &str, second: &str| {
        format!(
            r#"{{"a":{{"dtype":"F32","shape":[12],"data_offsets":{first}}},"b":{{"dtype":"F32","shape":[12],"data_offsets":{second}}}}}"#
        )
    };
    vec![
        ("wrapping-shape", entry("[4294967296,4294967296]", "[0,0]")),
        ("wrapping-bytes", entry("[4611686018427387905]", "[0,4]")),
        ("large-shape", entry("[16777216,16777216]", "[0,96]")),
        ("zero-shape", entry("[0,12]", "[0,0]")),
        ("negative", entry("[-2,12]", "[0,96]")),
        ("fraction", entry("[2.0,12]", "[0,96]")),
        ("exponent", entry("[2e0,12]", "[0,96]")),
        ("many-dimensions", entry("[1,1,1,1,1,1,1,2,12]", "[0,96]")),
        ("reversed", entry("[2,12]", "[96,0]")),
        ("behind-file", entry("[2,24]", "[0,192]")),
        (
            "offsets-2-64",
            entry("[2,12]", "[18446744073709551520,18446744073709551615]"),
        ),
        ("overlap", two("[0,48]", "[24,72]")),
        ("hole", two("[0,48]", "[52,96]")),
        ("same-bytes", two("[0,48]", "[0,48]")),
        ("dtype", entry("[2,12]", "[0,96]").replace("F32", "I64")),
        (
            "dtype-unknown",
            entry("[2,12]", "[0,96]").replace("F32", "F\\u0033\\u0032"),
        ),
        (
            "twice",
            entry("[2,12]", "[0,96]").replacen('{', &format!(r#"{{"{NAME}":1,"#), 1),
        ),
        ("dots", entry("[2,12]", "[0,96]").replace("layers", "..")),
        (
            "absolute",
            entry("[2,12]", "[0,96]").replace("base_model", "/etc"),
        ),
        (
            "nul",
            entry("[2,12]", "[0,96]").replace("q_proj", "q\\u0000proj"),
        ),
        (
            "deep",
            format!(
                "{{\"__metadata__\":{}1{}}}",
                "[".repeat(300),
                "]".repeat(300)
            ),
        ),
        (
            "metadata",
            r#"{"__metadata__":{"a":"b","a":"c"}}"#.to_owned(),
        ),
        ("surrogate", r#"{"__metadata__":{"a":"\ud800"}}"#.to_owned()),
    ]
}

fn configurations() -> Vec<(&'static str, String)> {
    let deep = format!("{{\"a\":{}1{}}}", "[".repeat(127), "]".repeat(127));
    let wide = format!(
        "{{\"r\":2,\"target_modules\":[{}]}}",
        vec!["\"x\""; 600].join(",")
    );
    vec![
        ("deep-json", deep),
        ("wide-json", wide),
        ("twice-json", r#"{"r":2,"r":3,"lora_alpha":4}"#.to_owned()),
        ("huge-rank", json!({"r": u64::MAX, "lora_alpha": 4}).to_string()),
        ("huge-alpha", r#"{"r":2,"lora_alpha":1e308}"#.to_owned()),
        ("endless-alpha", r#"{"r":2,"lora_alpha":1e999}"#.to_owned()),
        ("negative-rank", r#"{"r":-2,"lora_alpha":-4}"#.to_owned()),
        ("dora", r#"{"r":2,"use_dora":true}"#.to_owned()),
        ("experts", r#"{"architectures":["LlamaForCausalLM"],"num_local_experts":4294967295,"hidden_size":12}"#.to_owned()),
        ("zero-heads", r#"{"architectures":["LlamaForCausalLM"],"hidden_size":12,"intermediate_size":20,"num_hidden_layers":4,"num_attention_heads":0}"#.to_owned()),
        ("huge-width", r#"{"architectures":["LlamaForCausalLM"],"hidden_size":4294967295,"intermediate_size":4294967295,"num_hidden_layers":4294967295,"num_attention_heads":1,"head_dim":4294967295}"#.to_owned()),
    ]
}

/// The good file with `number` written over the bytes at `offset`.
fn with(offset: usize, number: &[u8]) -> Vec<u8> {
    let mut file = gguf();
    file[offset..offset + number.len()].copy_from_slice(number);
    file
}

fn ggufs() -> Vec<(&'static str, Vec<u8>)> {
    let all = u64::MAX.to_le_bytes();
    let sized = |text: &str| [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat();
    let head = |tensors: u64, keys: &[Vec<u8>]| {
        let counts = [tensors.to_le_bytes(), (keys.len() as u64).to_le_bytes()].concat();
        [b"GGUF\x03\0\0\0", &counts[..], &keys.concat()].concat()
    };
    let alignment = |value: u32| {
        let key = [
            sized("general.alignment"),
            vec![4, 0, 0, 0],
            value.to_le_bytes().to_vec(),
        ];
        head(0, &[key.concat()])
    };
    let array = |kind: u32, count: u64| {
        let parts = [
            sized("x"),
            vec![9, 0, 0, 0],
            kind.to_le_bytes().to_vec(),
            count.to_le_bytes().to_vec(),
        ];
        head(0, &[parts.concat()])
    };
    let tensor = |dimensions: &[u64], offset: u64| {
        let parts = [
            sized("blk.0.attn_q.weight.lora_a"),
            u32::try_from(dimensions.len())
                .unwrap()
                .to_le_bytes()
                .to_vec(),
            dimensions.iter().flat_map(|d| d.to_le_bytes()).collect(),
            vec![0; 4],
            offset.to_le_bytes().to_vec(),
        ];
        [head(1, &[]), parts.concat(), vec![0; 64]].concat()
    };
    vec![
        ("tensors-2-64", with(8, &all)),
        ("keys-2-64", with(16, &all)),
        ("key-2-64", with(24, &all)),
        ("version-0", with(4, &[0; 4])),
        ("version-big-endian", with(4, &[0, 0, 0, 3])),
        ("alignment-0", alignment(0)),
        ("alignment-3", alignment(3)),
        ("alignment-2-31", alignment(1 << 31)),
        ("array-of-arrays", array(9, 1)),
        ("array-2-64", array(10, u64::MAX)),
        ("array-2-61", array(8, 1 << 61)),
        ("array-of-texts", array(8, 1 << 40)),
        ("array-kind", array(77, 1)),
        ("tensor-behind-file", tensor(&[12, 2000], 0)),
        ("tensor-2-64", tensor(&[u64::MAX, 2], 0)),
        ("tensor-wraps", tensor(&[1 << 33, 1 << 31, 4], 0)),
        ("tensor-offset-2-64", tensor(&[12, 1], u64::MAX - 31)),
        ("tensor-dimensions", tensor(&[1; 9], 0)),
        ("tensor-zero", tensor(&[0, 12], 0)),
    ]
}
