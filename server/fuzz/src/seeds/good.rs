//! Files as they should be: small adapters of the fuzzers' base model in every format.

use std::sync::LazyLock;

use kmerge_merge::progressive::{Beside, Newcomer, PackedSlot, PackedView, place};
use kmerge_merge::{
    AdapterView, AssignmentRule, BaseModel, Operator, Policy, SlotDtype, TensorSink, decode,
    execute, gguf as llama, mlx as apple, plan,
};
use kmerge_proto::v1;
use serde_json::{Map, Value, json};

use super::{Seed, seed};
use crate::targets::support::{BASE, base};

/// The modules of the larger adapter: path in its block, and `[out, in]`.
const MODULES: [(&str, [usize; 2]); 7] = [
    ("self_attn.q_proj", [12, 12]),
    ("self_attn.k_proj", [4, 12]),
    ("self_attn.v_proj", [4, 12]),
    ("self_attn.o_proj", [12, 12]),
    ("mlp.gate_proj", [20, 12]),
    ("mlp.up_proj", [20, 12]),
    ("mlp.down_proj", [12, 20]),
];

/// A safetensors file.
pub(super) fn container(header: &[u8], data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes()[..], header, data].concat()
}

/// Values that differ, none of them large or zero.
pub(super) fn values(count: usize, start: u64) -> Vec<u8> {
    let mut state = start.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let next = |_| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        let [.., low, high] = state.to_le_bytes();
        (f32::from(i16::from_le_bytes([low, high])) / 32768.0 + 0.001).to_le_bytes()
    };
    (0..count).flat_map(next).collect()
}

/// A PEFT adapter of these modules, each of this rank.
fn adapter(modules: &[(String, [usize; 2])], rank: usize, start: u64) -> Vec<u8> {
    let mut header = Map::new();
    let mut data = Vec::new();
    for (path, [rows, columns]) in modules {
        for (factor, shape) in [("lora_A", [rank, *columns]), ("lora_B", [*rows, rank])] {
            let begin = data.len();
            data.extend(values(shape[0] * shape[1], start + begin as u64));
            let entry =
                json!({"dtype": "F32", "shape": shape, "data_offsets": [begin, data.len()]});
            header.insert(format!("base_model.model.{path}.{factor}.weight"), entry);
        }
    }
    container(Value::Object(header).to_string().as_bytes(), &data)
}

fn modules(layers: &[usize], count: usize) -> Vec<(String, [usize; 2])> {
    let each = |layer: &usize| {
        let path = move |name| format!("model.layers.{layer}.{name}");
        MODULES[..count]
            .iter()
            .map(move |(name, shape)| (path(name), *shape))
            .collect::<Vec<_>>()
    };
    layers.iter().flat_map(each).collect()
}

/// The configuration of [`one_module`].
#[must_use]
pub fn config() -> Vec<u8> {
    br#"{"peft_type":"LORA","task_type":"CAUSAL_LM","r":2,"lora_alpha":4}"#.to_vec()
}

/// An adapter of one module, of rank 2.
#[must_use]
pub fn one_module() -> Vec<u8> {
    static FILE: LazyLock<Vec<u8>> = LazyLock::new(|| adapter(&modules(&[0], 1), 2, 1));
    FILE.clone()
}

fn large() -> Vec<u8> {
    adapter(&modules(&[0, 3], MODULES.len()), 3, 7)
}

/// A slot that this adapter has opened, in normal form.
fn slot(file: &Vec<u8>, config: &[u8], dtype: SlotDtype) -> Vec<u8> {
    let base = base();
    let decoded = decode(config, file, base).expect("it is a good one");
    let view = AdapterView {
        layout: &decoded.layout,
        source: file,
    };
    let policy = Policy {
        slots: 1,
        assignment: AssignmentRule::KMerge,
        operator: Operator::KMergeLinear,
        dtype,
        ..Policy::default()
    };
    let plan = plan(&policy, &[], view, &|_| ()).expect("a slot is free");
    let mut bytes = Vec::new();
    execute(&plan, &[], view, &mut bytes, &|_| ()).expect("values are small");
    bytes
}

fn exported(
    slot: &Vec<u8>,
    write: impl FnOnce(AdapterView<'_>, &BaseModel, &mut dyn TensorSink),
) -> Vec<u8> {
    let layout = kmerge_merge::decode_slot(slot).expect("it was just written");
    let mut bytes = Vec::new();
    let view = AdapterView {
        layout: &layout,
        source: slot,
    };
    write(view, base(), &mut bytes);
    bytes
}

fn to_gguf(slot: &Vec<u8>) -> Vec<u8> {
    let facts = llama::GgufFacts {
        name: "seed",
        task_name: "seed",
        base_model: "tiny",
    };
    exported(slot, |view, base, sink| {
        llama::export(view, base, facts, sink).expect("Llama has a form in GGUF");
    })
}

fn to_mlx(slot: &Vec<u8>) -> (Vec<u8>, Vec<u8>) {
    let layout = kmerge_merge::decode_slot(slot).expect("it was just written");
    let config = apple::export_config(&layout, base(), apple::MlxFacts { base_model: "tiny" });
    let file = exported(slot, |view, base, sink| {
        apple::export(view, base, sink).expect("Llama has a form in mlx-lm");
    });
    (config.expect("Llama has a form in mlx-lm"), file)
}

/// A GGUF LoRA of one module.
#[must_use]
pub fn gguf() -> Vec<u8> {
    static FILE: LazyLock<Vec<u8>> =
        LazyLock::new(|| to_gguf(&slot(&one_module(), &config(), SlotDtype::Widest)));
    FILE.clone()
}

/// An adapter of mlx-lm, of one module: its configuration and its tensors.
#[must_use]
pub fn mlx() -> (Vec<u8>, Vec<u8>) {
    static FILES: LazyLock<(Vec<u8>, Vec<u8>)> =
        LazyLock::new(|| to_mlx(&slot(&one_module(), &config(), SlotDtype::Widest)));
    FILES.clone()
}

/// Whether a header announces one of the good files here for the base model that is registered.
#[must_use]
pub fn is_good(header: &v1::UploadHeader, file: &[u8]) -> bool {
    let own_words = header.base_model == "tiny" && header.task.starts_with("task-");
    let (mlx_config, mlx_file) = mlx();
    own_words
        && match header.format() {
            v1::AdapterFormat::Peft => header.config == config() && file == one_module(),
            v1::AdapterFormat::Gguf => header.config.is_empty() && file == gguf(),
            v1::AdapterFormat::Mlx => header.config == mlx_config && file == mlx_file,
            v1::AdapterFormat::Unspecified => false,
        }
}

/// A packed slot that these adapters came to, one after the other.
fn packed(files: &[Vec<u8>], configs: &[&[u8]], slot_bytes: u64) -> Vec<u8> {
    let policy = Policy {
        slots: 1,
        slot_bytes: Some(slot_bytes),
        operator: Operator::Progressive,
        assignment: AssignmentRule::Roomiest,
        ..Policy::default()
    };
    let base = base();
    let mut bytes: Option<Vec<u8>> = None;
    for (number, (file, config)) in (1_u64..).zip(files.iter().zip(configs)) {
        let decoded = decode(config, file, base).expect("it is a good one");
        let adapter = AdapterView {
            layout: &decoded.layout,
            source: file,
        };
        let opened = bytes
            .as_ref()
            .map(|bytes| (PackedSlot::read(bytes).expect("it was just written"), bytes));
        let views: Vec<PackedView<'_>> = opened
            .iter()
            .map(|(packed, source)| PackedView {
                slot: 0,
                generation: number - 1,
                packed,
                source: *source,
            })
            .collect();
        let task = format!("task-{number}");
        let newcomer = Newcomer {
            task: &task,
            adapter,
        };
        let placement = place(&policy, &views, newcomer, Beside::default(), &|_| ());
        let mut written = Vec::new();
        placement
            .expect("there is room")
            .write(&views, adapter, &mut written)
            .expect("memory can be written");
        bytes = Some(written);
    }
    bytes.unwrap_or_default()
}

fn joined(config: &[u8], tensors: &[u8]) -> Vec<u8> {
    [config, &[0], tensors].concat()
}

pub(super) fn seeds() -> Vec<Seed> {
    let (one, large) = (one_module(), large());
    let large_config: &[u8] = br#"{"peft_type":"LORA","task_type":"CAUSAL_LM","r":8,"lora_alpha":16,"use_rslora":true,"rank_pattern":{".*":3},"alpha_pattern":{"q_proj":8.5},"target_modules":["q_proj"],"base_model_name_or_path":"tiny","bias":"none","lora_dropout":0.05,"modules_to_save":null,"fan_in_fan_out":false}"#;
    let small_slot = slot(&one, &config(), SlotDtype::Widest);
    let large_slot = slot(&large, large_config, SlotDtype::F16);
    let half_slot = slot(&large, large_config, SlotDtype::Bf16);
    let (mlx_config, mlx_file) = mlx();
    let (large_mlx_config, large_mlx_file) = to_mlx(&large_slot);
    let export = kmerge_merge::export_config(
        &kmerge_merge::decode_slot(&large_slot).expect("it was just written"),
        "tiny",
    );
    let many = [
        one.clone(),
        large.clone(),
        adapter(&modules(&[1], 3), 2, 99),
    ];
    let configs = [&config()[..], large_config, &config()[..]];
    vec![
        seed("safetensors", "good-small", small_slot.clone()),
        seed("safetensors", "good-f16", large_slot.clone()),
        seed("safetensors", "good-bf16", half_slot),
        seed("peft", "good-small", joined(&config(), &one)),
        seed("peft", "good-large", joined(large_config, &large)),
        seed("peft", "good-export", joined(&export, &large_slot)),
        seed(
            "pattern",
            "good-names",
            "q_proj\nself_attn.k_proj\nmodel.layers.0.self_attn.q_proj",
        ),
        seed(
            "pattern",
            "good-regex",
            "layers\\.(0|1)\\..*\n[qk]_proj\n.*\\.v_proj\nx)|(model.*q_proj",
        ),
        seed(
            "pattern",
            "good-classes",
            "\\d+\\.self_attn\\.[^kv]_proj\n(?i)Q_PROJ\n\\w{3,20}",
        ),
        seed("gguf", "good-small", gguf()),
        seed("gguf", "good-large", to_gguf(&large_slot)),
        seed("mlx", "good-small", joined(&mlx_config, &mlx_file)),
        seed(
            "mlx",
            "good-large",
            joined(&large_mlx_config, &large_mlx_file),
        ),
        seed("base_model", "good-tiny", BASE),
        seed("base_model", "good-gguf", model()),
        seed(
            "packed_slot",
            "good-one",
            packed(&many[..1], &configs[..1], 4_000),
        ),
        seed("packed_slot", "good-many", packed(&many, &configs, 40_000)),
        seed("packed_slot", "good-cut", packed(&many, &configs, 4_000)),
        seed(
            "configuration",
            "good-default",
            kmerge_server::config::DEFAULT_CONFIG,
        ),
        seed("configuration", "good-runtime", RUNTIME),
        seed("upload", "good-whole", [12, 0, 0]),
        seed("upload", "good-gguf", [12, 1, 0]),
        seed("upload", "good-mlx", [12, 2, 64]),
        seed("upload", "good-three", [12, 0, 0, 28, 5, 0, 44, 10, 0, 13]),
        seed("upload", "good-again", [12, 0, 32, 13, 13, 12, 0, 32]),
        seed(
            "upload",
            "good-slow",
            [0, 0, 0, 1, 40, 1, 40, 13, 1, 200, 13, 1, 255, 2, 7, 13],
        ),
        seed(
            "upload",
            "broken-order",
            [1, 3, 0, 0, 0, 16, 1, 0, 16, 1, 0],
        ),
        seed(
            "upload",
            "broken-ends",
            [0, 0, 0, 1, 9, 8, 16, 1, 0, 18, 25, 32, 2, 0, 33, 9, 39],
        ),
        seed(
            "upload",
            "broken-offsets",
            [0, 0, 0, 3, 9, 200, 3, 0, 255, 2, 7],
        ),
        seed(
            "upload",
            "broken-words",
            [0, 0, 1, 2, 7, 0, 0, 2, 2, 7, 0, 0, 8, 2, 7, 0, 0, 12, 2, 7],
        ),
        seed("upload", "broken-large", [0, 0, 0, 5, 7, 6, 4, 4, 2, 7]),
        seed(
            "upload",
            "broken-file",
            [12, 3, 0, 8, b'{', 0, 0, 0, 0, 0, 0, 0],
        ),
        seed("upload", "foreign-header", foreign_header()),
    ]
}

/// A configuration with what the default leaves out.
const RUNTIME: &str = r#"
[listen]
socket = "/run/kmerge/kmerge.sock"
allowed_uids = [0, 1000]
[uploads]
max_bytes = "64 MiB"
queue = 3
[merge]
operator = "progressive"
assignment = "roomiest"
slot_bytes = "1 GiB"
floor = 0.5
[exports]
formats = ["gguf", "mlx"]
[[runtime]]
name = "local"
kind = "llama-server"
url = "http://127.0.0.1:8080"
base_models = ["tiny"]
[log]
level = "info,kmerge=debug"
"#;

/// A program whose header is in a stranger's own words.
fn foreign_header() -> Vec<u8> {
    let mut program = vec![11, 1, 0, 4];
    for text in [&b"task"[..], b"tiny", b"id", b"00", b"{}", b"data"] {
        program.push(u8::try_from(text.len()).unwrap());
        program.extend_from_slice(text);
    }
    program.extend([2, 7]);
    program
}

/// The header of a GGUF model.
fn model() -> Vec<u8> {
    let sized = |text: &str| [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat();
    let mut keys = vec![
        [
            sized("general.architecture"),
            vec![8, 0, 0, 0],
            sized("llama"),
        ]
        .concat(),
    ];
    for (name, number) in [
        ("llama.block_count", 4_u32),
        ("llama.embedding_length", 12),
        ("llama.feed_forward_length", 20),
        ("llama.attention.head_count", 3),
        ("llama.attention.head_count_kv", 1),
    ] {
        keys.push([sized(name), vec![4, 0, 0, 0], number.to_le_bytes().to_vec()].concat());
    }
    let tokens = [
        sized("tokenizer.ggml.tokens"),
        vec![9, 0, 0, 0, 8, 0, 0, 0],
        2_u64.to_le_bytes().to_vec(),
        sized("a"),
        sized("bc"),
    ];
    keys.push(tokens.concat());
    let mut file = b"GGUF\x03\0\0\0".to_vec();
    file.extend(1_u64.to_le_bytes());
    file.extend((keys.len() as u64).to_le_bytes());
    file.extend(keys.concat());
    file.extend(sized("blk.0.attn_q.weight"));
    file.extend(2_u32.to_le_bytes());
    file.extend([12_u64.to_le_bytes(), 12_u64.to_le_bytes()].concat());
    file.extend(0_u32.to_le_bytes());
    file.extend(0_u64.to_le_bytes());
    file
}
