//! GGUF files that lie, each in its own way.

use kmerge_merge::AdapterErrorKind::{self, Malformed, Unsupported, WrongBase};
use kmerge_merge::{AdapterError, BaseModel, gguf};

use super::check;
use crate::support::gguf::{File, Tensor, float, key, matrix, sized, text};
use crate::support::tiny_base;

/// A correct LoRA: q of one layer at rank 2.
fn good() -> File {
    let (a, b) = (vec![1.0; 2 * 12], vec![0.5; 12 * 2]);
    File::lora(
        4.0,
        vec![
            matrix("blk.0.attn_q.weight.lora_a", [2, 12], &a),
            matrix("blk.0.attn_q.weight.lora_b", [12, 2], &b),
        ],
    )
}

fn refused(bytes: &Vec<u8>, base: &BaseModel) -> AdapterError {
    gguf::decode(bytes, base).expect_err("must be refused")
}

#[test]
fn the_starting_point_is_accepted() {
    let decoded = gguf::decode(&good().bytes(), &tiny_base()).unwrap();
    let module = &decoded.layout.modules[0];
    assert_eq!(module.path, "model.layers.0.self_attn.q_proj");
    assert_eq!((module.rank, module.scaling), (2, 2.0));
    assert_eq!(decoded.warnings, [""; 0]);
    // Some writers leave the last padding out, and some keys say nothing of the factors.
    let odd = File::lora(
        1.0,
        vec![
            matrix("blk.0.attn_q.weight.lora_a", [3, 12], &[1.0; 36]),
            matrix("blk.0.attn_q.weight.lora_b", [12, 3], &[1.0; 36]),
        ],
    );
    let bytes = odd.bytes();
    let end = bytes.len() - (160 - 144);
    assert!(gguf::decode(&bytes[..end].to_vec(), &tiny_base()).is_ok());
    assert!(gguf::decode(&bytes[..end - 1].to_vec(), &tiny_base()).is_err());
    let array = [
        &8_u32.to_le_bytes()[..],
        &2_u64.to_le_bytes(),
        &sized(b"a"),
        &sized(b"b"),
    ]
    .concat();
    let more = good()
        .with(key("tokenizer.ggml.tokens", 9, &array))
        .with(key("general.quantization_version", 4, &2_u32.to_le_bytes()))
        .with(key("x.bool", 7, &[1]))
        .with(text("adapter.lora.prompt_prefix", "Fix: "));
    let decoded = gguf::decode(&more.bytes(), &tiny_base()).unwrap();
    assert_eq!(decoded.warnings.len(), 1, "{:?}", decoded.warnings);
}

#[test]
fn alpha_is_taken_as_llama_cpp_takes_it() {
    for (file, scaling) in [
        (good().without("adapter.lora.alpha"), 1.0),
        (good().with(float("adapter.lora.alpha", 0.0)), 1.0),
        (good().with(float("adapter.lora.alpha", 3.0)), 1.5),
    ] {
        let decoded = gguf::decode(&file.bytes(), &tiny_base()).unwrap();
        assert_eq!(decoded.layout.modules[0].scaling, scaling);
    }
}

/// A file, where it is wrong, and the error that it gets.
type Case = (&'static str, Vec<u8>, AdapterErrorKind, &'static str);

fn containers() -> Vec<Case> {
    let counts = |tensors, keys| {
        let mut file = good();
        file.counts = Some([tensors, keys]);
        file.bytes()
    };
    let version = |version| {
        let mut file = good();
        file.version = version;
        file.bytes()
    };
    let cut = |length| good().bytes()[..length].to_vec();
    let mut magic = good();
    magic.magic = *b"GGJT";
    let mut large = good();
    large.keys = (0..9)
        .map(|index| text(&format!("k{index}"), &"x".repeat(1 << 20)))
        .collect();
    vec![
        ("nothing", vec![], Malformed, "GGUF_TOO_SHORT"),
        ("only the magic", cut(4), Malformed, "GGUF_TOO_SHORT"),
        ("half the fixed part", cut(23), Malformed, "GGUF_TOO_SHORT"),
        ("a text", b"hello".to_vec(), Malformed, "NOT_GGUF"),
        ("another magic", magic.bytes(), Malformed, "NOT_GGUF"),
        ("version 1", version(1), Unsupported, "GGUF_VERSION"),
        ("version 4", version(4), Unsupported, "GGUF_VERSION"),
        (
            "the other byte order",
            version(3_u32.swap_bytes()),
            Unsupported,
            "GGUF_BIG_ENDIAN",
        ),
        (
            "2^64 tensors",
            counts(u64::MAX, 4),
            Malformed,
            "GGUF_TOO_MANY_TENSORS",
        ),
        (
            "2^64 keys",
            counts(2, u64::MAX),
            Malformed,
            "GGUF_TOO_MANY_KEYS",
        ),
        (
            "too many keys",
            counts(2, 4097),
            Malformed,
            "GGUF_TOO_MANY_KEYS",
        ),
        ("cut in the keys", cut(60), Malformed, "GGUF_CUT_SHORT"),
        ("cut in the tensors", cut(200), Malformed, "GGUF_CUT_SHORT"),
        (
            "an endless header",
            large.bytes(),
            Malformed,
            "GGUF_HEADER_TOO_LARGE",
        ),
    ]
}

fn keys() -> Vec<Case> {
    let with = |new| good().with(new).bytes();
    let named = |name: &[u8]| {
        let mut file = good();
        file.keys[0].name = name.to_vec();
        file.bytes()
    };
    let array = |element: u32, count: u64| {
        let value = [&element.to_le_bytes()[..], &count.to_le_bytes()].concat();
        with(key("x", 9, &value))
    };
    let mut twice = good();
    twice.keys.push(text("general.type", "adapter"));
    let long = [&u64::MAX.to_le_bytes()[..], b"x"].concat();
    let long_in_array = [&8_u32.to_le_bytes()[..], &1_u64.to_le_bytes(), &long].concat();
    vec![
        ("no key", named(b""), Malformed, "GGUF_KEY_LENGTH"),
        (
            "a long key",
            named(&[b'k'; 257]),
            Malformed,
            "GGUF_KEY_LENGTH",
        ),
        ("a key of spaces", named(b"a b"), Malformed, "GGUF_KEY_TEXT"),
        (
            "a key of no text",
            named(b"a\xff"),
            Malformed,
            "GGUF_KEY_TEXT",
        ),
        (
            "a key twice",
            twice.bytes(),
            Malformed,
            "GGUF_DUPLICATE_KEY",
        ),
        (
            "an unknown type",
            with(key("x", 13, &[0; 8])),
            Malformed,
            "GGUF_VALUE_TYPE",
        ),
        (
            "an unknown type of elements",
            array(99, 1),
            Malformed,
            "GGUF_VALUE_TYPE",
        ),
        (
            "an array of arrays",
            array(9, 1),
            Malformed,
            "GGUF_NESTED_ARRAY",
        ),
        (
            "an array of 2^64",
            array(10, u64::MAX),
            Malformed,
            "GGUF_ARRAY_LENGTH",
        ),
        (
            "an array beyond the file",
            array(0, 1 << 20),
            Malformed,
            "GGUF_ARRAY_LENGTH",
        ),
        (
            "a text of 2^64",
            with(key("x", 8, &long)),
            Malformed,
            "GGUF_TEXT_LENGTH",
        ),
        (
            "a text of 2^64 in an array",
            with(key("x", 9, &long_in_array)),
            Malformed,
            "GGUF_TEXT_LENGTH",
        ),
        (
            "a text of no text",
            with(key("x", 8, &sized(b"\xff\xfe"))),
            Malformed,
            "GGUF_TEXT_ENCODING",
        ),
        (
            "a truth of 2",
            with(key("x", 7, &[2])),
            Malformed,
            "GGUF_BOOL_VALUE",
        ),
        (
            "an architecture of 3",
            with(key("general.architecture", 4, &3_u32.to_le_bytes())),
            Malformed,
            "GGUF_KEY_TYPE",
        ),
        (
            "an alpha in words",
            with(text("adapter.lora.alpha", "16")),
            Malformed,
            "GGUF_KEY_TYPE",
        ),
        (
            "a negative alignment",
            with(key("general.alignment", 5, &(-1_i32).to_le_bytes())),
            Malformed,
            "GGUF_KEY_TYPE",
        ),
        (
            "an alignment of 0",
            with(key("general.alignment", 4, &0_u32.to_le_bytes())),
            Malformed,
            "GGUF_ALIGNMENT",
        ),
        (
            "an alignment of 48",
            with(key("general.alignment", 4, &48_u32.to_le_bytes())),
            Malformed,
            "GGUF_ALIGNMENT",
        ),
        (
            "an alignment of 2^31",
            with(key("general.alignment", 4, &(1_u32 << 31).to_le_bytes())),
            Malformed,
            "GGUF_ALIGNMENT",
        ),
    ]
}

fn tensors() -> Vec<Case> {
    let change = |index, change: &dyn Fn(&mut Tensor)| good().tensor(index, change).bytes();
    let named = |name: &str| change(0, &|tensor| tensor.name = name.into());
    let shaped = |dimensions: &[u64]| change(0, &|tensor| tensor.dimensions = dimensions.to_vec());
    let at = |offset| change(1, &|tensor| tensor.offset = Some(offset));
    let kind = |kind| change(0, &|tensor| tensor.kind = kind);
    let mut trailing = good().bytes();
    trailing.extend([0; 32]);
    let whole = good().bytes();
    vec![
        ("no name", named(""), Malformed, "GGUF_NAME_LENGTH"),
        (
            "a long name",
            named(&"n".repeat(64)),
            Malformed,
            "GGUF_NAME_LENGTH",
        ),
        (
            "a name that escapes",
            named("blk.0\n"),
            Malformed,
            "GGUF_NAME_TEXT",
        ),
        (
            "a name twice",
            named("blk.0.attn_q.weight.lora_b"),
            Malformed,
            "GGUF_DUPLICATE_TENSOR",
        ),
        ("no dimension", shaped(&[]), Malformed, "GGUF_DIMENSIONS"),
        (
            "five dimensions",
            shaped(&[1; 5]),
            Malformed,
            "GGUF_DIMENSIONS",
        ),
        (
            "a dimension of 0",
            shaped(&[12, 0]),
            Malformed,
            "GGUF_DIMENSION_OUT_OF_RANGE",
        ),
        (
            "a dimension of 2^64",
            shaped(&[u64::MAX, 2]),
            Malformed,
            "GGUF_DIMENSION_OUT_OF_RANGE",
        ),
        (
            "2^48 elements",
            shaped(&[1 << 24, 1 << 24]),
            Malformed,
            "GGUF_TENSOR_TOO_LARGE",
        ),
        ("Q8_0", kind(8), Unsupported, "GGUF_TENSOR_TYPE"),
        (
            "an unknown type",
            kind(999),
            Unsupported,
            "GGUF_TENSOR_TYPE",
        ),
        (
            "between two alignments",
            at(100),
            Malformed,
            "GGUF_OFFSET_UNALIGNED",
        ),
        ("the same bytes", at(0), Malformed, "GGUF_TENSOR_OVERLAP"),
        ("overlapping", at(64), Malformed, "GGUF_TENSOR_OVERLAP"),
        (
            "beyond the end",
            at(1 << 40),
            Malformed,
            "GGUF_TENSOR_BEYOND_FILE",
        ),
        (
            "at the end of the world",
            at(u64::MAX - 31),
            Malformed,
            "GGUF_TENSOR_BEYOND_FILE",
        ),
        (
            "a cut file",
            whole[..whole.len() - 40].to_vec(),
            Malformed,
            "GGUF_TENSOR_BEYOND_FILE",
        ),
        ("bytes behind", trailing, Malformed, "GGUF_TRAILING_BYTES"),
        (
            "a gap",
            {
                let mut file = good();
                file.tensors[1].offset = Some(128);
                let mut bytes = file.bytes();
                bytes.extend([0; 32]);
                bytes
            },
            Malformed,
            "GGUF_TENSOR_GAP",
        ),
    ]
}

fn adapters() -> Vec<Case> {
    let with = |new| good().with(new).bytes();
    let without = |name| good().without(name).bytes();
    let change = |index, change: &dyn Fn(&mut Tensor)| good().tensor(index, change).bytes();
    let both = |weight: &str| {
        let mut file = good();
        file.tensors[0].name = format!("{weight}.lora_a").into();
        file.tensors[1].name = format!("{weight}.lora_b").into();
        file.bytes()
    };
    let mut empty = good();
    empty.tensors.clear();
    let mut half = good();
    half.tensors.pop();
    let mut cube = good();
    cube.tensors[0].dimensions = vec![4, 3, 2];
    vec![
        (
            "no kind",
            without("general.type"),
            Malformed,
            "GGUF_MISSING_KEY",
        ),
        (
            "no kind of adapter",
            without("adapter.type"),
            Malformed,
            "GGUF_MISSING_KEY",
        ),
        (
            "no architecture",
            without("general.architecture"),
            Malformed,
            "GGUF_MISSING_KEY",
        ),
        (
            "a model",
            with(text("general.type", "model")),
            Unsupported,
            "GGUF_NOT_AN_ADAPTER",
        ),
        (
            "a control vector",
            with(text("adapter.type", "control_vector")),
            Unsupported,
            "GGUF_ADAPTER_TYPE",
        ),
        (
            "an activated LoRA",
            with(key(
                "adapter.alora.invocation_tokens",
                9,
                &[&4_u32.to_le_bytes()[..], &0_u64.to_le_bytes()].concat(),
            )),
            Unsupported,
            "GGUF_ACTIVATED_LORA",
        ),
        (
            "another architecture",
            with(text("general.architecture", "qwen2")),
            WrongBase,
            "GGUF_ARCHITECTURE",
        ),
        (
            "a negative alpha",
            with(float("adapter.lora.alpha", -1.0)),
            Malformed,
            "GGUF_ALPHA",
        ),
        (
            "no number as alpha",
            with(float("adapter.lora.alpha", f32::NAN)),
            Malformed,
            "GGUF_ALPHA",
        ),
        (
            "an absurd alpha",
            with(float("adapter.lora.alpha", 1e30)),
            Malformed,
            "GGUF_ALPHA",
        ),
        (
            "no factor",
            change(0, &|tensor| {
                tensor.name = "blk.0.attn_q.weight.lora_c".into()
            }),
            Malformed,
            "GGUF_UNKNOWN_TENSOR",
        ),
        ("a bare factor", both(""), Malformed, "GGUF_UNKNOWN_TENSOR"),
        (
            "a norm",
            change(0, &|tensor| tensor.name = "blk.0.attn_norm.weight".into()),
            Unsupported,
            "FULL_TENSOR",
        ),
        (
            "an embedding",
            both("token_embd.weight"),
            Unsupported,
            "EMBEDDING_OR_HEAD",
        ),
        (
            "the head",
            both("output.weight"),
            Unsupported,
            "EMBEDDING_OR_HEAD",
        ),
        (
            "a layer too many",
            both("blk.4.attn_q.weight"),
            WrongBase,
            "MODULE_NOT_IN_BASE",
        ),
        (
            "another spelling of a layer",
            both("blk.00.attn_q.weight"),
            WrongBase,
            "MODULE_NOT_IN_BASE",
        ),
        (
            "a router",
            both("blk.0.ffn_gate_inp.weight"),
            WrongBase,
            "MODULE_NOT_IN_BASE",
        ),
        (
            "another shape",
            both("blk.0.attn_k.weight"),
            WrongBase,
            "MODULE_SHAPE",
        ),
        (
            "two ranks",
            change(0, &|tensor| tensor.dimensions = vec![8, 3]),
            Malformed,
            "FACTOR_RANKS",
        ),
        ("experts", cube.bytes(), Unsupported, "TARGET_PARAMETERS"),
        ("half a pair", half.bytes(), Malformed, "MISSING_FACTOR"),
        ("nothing in it", empty.bytes(), Malformed, "NO_MODULES"),
    ]
}

#[test]
fn every_defect_has_its_own_error() {
    let base = tiny_base();
    let cases = [containers(), keys(), tensors(), adapters()].concat();
    assert!(cases.len() >= 70, "{}", cases.len());
    for (what, bytes, kind, reason) in cases {
        check(&refused(&bytes, &base), kind, "tensors", reason, what);
    }
}

#[test]
fn odd_heads_and_unknown_forms_are_refused() {
    let odd = BaseModel::from_config_json(
        br#"{"architectures":["LlamaForCausalLM"],"hidden_size":12,"intermediate_size":20,
            "num_hidden_layers":4,"num_attention_heads":4,"num_key_value_heads":4}"#,
    )
    .unwrap();
    let error = refused(&good().bytes(), &odd);
    check(&error, WrongBase, "tensors", "GGUF_ODD_HEAD", "odd heads");
    let neox = BaseModel::from_config_json(
        br#"{"architectures":["GPTNeoXForCausalLM"],"hidden_size":12,"intermediate_size":20,
            "num_hidden_layers":4,"num_attention_heads":3}"#,
    )
    .unwrap();
    let mut file = good().with(text("general.architecture", "gptneox"));
    file.tensors[0].name = "blk.0.attn_qkv.weight.lora_a".into();
    file.tensors[1].name = "blk.0.attn_qkv.weight.lora_b".into();
    let error = refused(&file.bytes(), &neox);
    check(
        &error,
        Unsupported,
        "tensors",
        "GGUF_NO_FORM",
        "joined heads",
    );
}

#[test]
fn no_cut_and_no_flipped_byte_of_the_header_panics() {
    let base = tiny_base();
    let whole = good().bytes();
    for length in 0..whole.len() {
        let cut = whole[..length].to_vec();
        // Only the last padding may be missing.
        assert!(gguf::decode(&cut, &base).is_err(), "{length}");
    }
    for at in 0..whole.len() - 192 {
        for flipped in [0x00, 0x01, 0x7f, 0xff] {
            let mut bytes = whole.clone();
            bytes[at] ^= flipped;
            let outcome = gguf::decode(&bytes, &base);
            if let Err(error) = outcome {
                assert!(!error.reason().is_empty());
            }
        }
    }
}
