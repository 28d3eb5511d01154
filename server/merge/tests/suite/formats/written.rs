//! What is written for whom, and what is refused rather than written wrongly.

use std::io;

use kmerge_merge::{AdapterView, BaseModel, Dtype, Format, FormatError, TensorSink, gguf, mlx};
use serde_json::json;

use super::{FACTS, export};
use crate::support::files::{Adapter, Module, adapter};
use crate::support::gguf as reader;
use crate::support::tiny_base;

fn q(rank: usize) -> Module {
    Module::random("0.self_attn.q_proj", [12, 12], rank, 7)
}

/// A small base of any class, 4 layers of width 12 with 3 heads.
fn base(architecture: &str) -> BaseModel {
    let config = json!({
        "architectures": [architecture], "hidden_size": 12, "intermediate_size": 20, "head_dim": 4,
        "num_hidden_layers": 4, "num_attention_heads": 3, "num_key_value_heads": 1,
    });
    BaseModel::from_config_json(config.to_string().as_bytes()).unwrap()
}

#[test]
fn a_gguf_file_says_what_it_is() {
    let adapter = adapter(&[q(2)], 8.0, Dtype::F16);
    let file = export(adapter.view(), &tiny_base(), Format::Gguf).tensors;
    let contents = reader::read(&file);
    let text = |key: &str| String::from_utf8(contents.keys[key].1.clone()).unwrap();
    assert_eq!(text("general.type"), "adapter");
    assert_eq!(text("general.architecture"), "llama");
    assert_eq!(text("adapter.type"), "lora");
    assert_eq!(text("adapter.lora.task_name"), "slug-en@3");
    assert_eq!(text("general.base_model.0.name"), "org/base");
    // alpha = rank times scaling, as it came.
    assert_eq!(contents.keys["adapter.lora.alpha"].1, 8_f32.to_le_bytes());
    let (dimensions, kind, _) = &contents.tensors["blk.0.attn_q.weight.lora_a"];
    assert_eq!((dimensions.as_slice(), *kind), (&[12, 2][..], 1));
    let again = export(adapter.view(), &tiny_base(), Format::Gguf).tensors;
    assert_eq!(file, again, "the same bytes again");
}

/// The classes whose q and k llama.cpp's converter interleaves, and those where it does not.
#[test]
fn rows_are_interleaved_for_exactly_the_classes_that_llama_cpp_interleaves() {
    let interleaved = [
        ("LlamaForCausalLM", "llama"),
        ("MistralForCausalLM", "llama"),
        ("GraniteForCausalLM", "granite"),
        ("SmolLM3ForCausalLM", "smollm3"),
        ("OlmoForCausalLM", "olmo"),
    ];
    let plain = [
        ("Qwen2ForCausalLM", "qwen2"),
        ("Qwen3ForCausalLM", "qwen3"),
        ("GemmaForCausalLM", "gemma"),
        ("Gemma2ForCausalLM", "gemma2"),
        ("Gemma3ForCausalLM", "gemma3"),
        ("Olmo2ForCausalLM", "olmo2"),
        ("CohereForCausalLM", "command-r"),
        ("StableLmForCausalLM", "stablelm"),
        ("PhiForCausalLM", "phi2"),
        ("Starcoder2ForCausalLM", "starcoder2"),
    ];
    let adapter = adapter(&[q(2)], 2.0, Dtype::F32);
    let stored = |architecture: &str, name: &str| {
        let file = export(adapter.view(), &base(architecture), Format::Gguf).tensors;
        let contents = reader::read(&file);
        assert_eq!(
            contents.keys["general.architecture"].1,
            name.as_bytes(),
            "{architecture}"
        );
        contents.tensors["blk.0.attn_q.weight.lora_b"].2.clone()
    };
    let b: Vec<u8> = q(2)
        .b
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect();
    // By the definition, row by row: B'[h·hd + 2i + j] = B[h·hd + j·(hd/2) + i].
    let mut expected = vec![0; b.len()];
    for (h, i, j) in (0..3).flat_map(|h| [(h, 0, 0), (h, 0, 1), (h, 1, 0), (h, 1, 1)]) {
        let (to, from) = (h * 4 + 2 * i + j, h * 4 + j * 2 + i);
        expected[to * 8..][..8].copy_from_slice(&b[from * 8..][..8]);
    }
    assert_ne!(expected, b);
    for (architecture, name) in interleaved {
        assert_eq!(stored(architecture, name), expected, "{architecture}");
    }
    for (architecture, name) in plain {
        assert_eq!(stored(architecture, name), b, "{architecture}");
    }
}

#[test]
fn wrapped_models_have_other_paths_in_mlx() {
    let config = json!({
        "architectures": ["Gemma3ForConditionalGeneration"], "text_config": {
            "hidden_size": 12, "intermediate_size": 20, "head_dim": 4, "num_hidden_layers": 4,
            "num_attention_heads": 3, "num_key_value_heads": 1,
        },
    });
    let base = BaseModel::from_config_json(config.to_string().as_bytes()).unwrap();
    let mut adapter = adapter(&[q(2)], 2.0, Dtype::F32);
    adapter.layout.modules[0].path = "model.language_model.layers.0.self_attn.q_proj".into();
    let exported = export(adapter.view(), &base, Format::Mlx);
    let header = String::from_utf8_lossy(&exported.tensors).into_owned();
    assert!(
        header.contains("\"language_model.model.layers.0.self_attn.q_proj.lora_a\""),
        "{header}"
    );
    let found = exported.decode(&base).layout.modules[0].path.clone();
    assert_eq!(found, adapter.layout.modules[0].path);
    let gguf = reader::read(&export(adapter.view(), &base, Format::Gguf).tensors);
    assert!(gguf.tensors.contains_key("blk.0.attn_q.weight.lora_a"));
}

fn refused(adapter: &Adapter, base: &BaseModel) -> [FormatError; 2] {
    let mut sink = Vec::new();
    let gguf = gguf::export(adapter.view(), base, FACTS, &mut sink).unwrap_err();
    let mlx = mlx::export(adapter.view(), base, &mut sink).unwrap_err();
    assert!(sink.is_empty(), "nothing is written of what is refused");
    [gguf, mlx]
}

#[test]
fn what_is_not_known_is_refused_with_what_to_do() {
    let mut neox = adapter(&[q(2)], 2.0, Dtype::F32);
    neox.layout.modules[0].path = "gpt_neox.layers.0.attention.query_key_value".into();
    let base = base("GPTNeoXForCausalLM");
    let error = gguf::export(neox.view(), &base, FACTS, &mut Vec::new()).unwrap_err();
    assert_eq!(error.reason(), "NO_GGUF_FORM");
    assert!(
        error.to_string().contains("convert_lora_to_gguf.py"),
        "{error}"
    );
    let mlx = export(neox.view(), &base, Format::Mlx).tensors;
    assert!(String::from_utf8_lossy(&mlx).contains("model.h.0.attention.query_key_value.lora_b"));

    let olmo = self::base("OlmoForCausalLM");
    let known = adapter(&[q(2)], 2.0, Dtype::F32);
    let error = mlx::export(known.view(), &olmo, &mut Vec::new()).unwrap_err();
    assert_eq!(error.reason(), "NO_MLX_FORM");
    let facts = mlx::MlxFacts { base_model: "" };
    let error = mlx::export_config(&known.layout, &olmo, facts).unwrap_err();
    assert_eq!(error.reason(), "NO_MLX_FORM");
}

#[test]
fn several_scales_are_refused() {
    let other = Module::random("1.self_attn.v_proj", [4, 12], 3, 8);
    let mixed = adapter(&[q(2), other], 6.0, Dtype::F32);
    // One alpha, two ranks: GGUF can say that, mlx-lm cannot.
    assert!(gguf::export(mixed.view(), &tiny_base(), FACTS, &mut Vec::new()).is_ok());
    let error = mlx::export(mixed.view(), &tiny_base(), &mut Vec::new()).unwrap_err();
    assert_eq!(error.reason(), "SEVERAL_SCALES");
    let mut mixed = mixed;
    mixed.layout.modules[0].scaling = 9.0;
    for error in refused(&mixed, &tiny_base()) {
        assert_eq!(error.reason(), "SEVERAL_SCALES", "{error}");
        assert!(error.io().is_none());
    }
}

#[test]
fn failures_of_the_disk_are_told_apart() {
    struct Full;
    impl TensorSink for Full {
        fn write(&mut self, _: &[u8]) -> io::Result<()> {
            Err(io::ErrorKind::StorageFull.into())
        }
    }
    let adapter = adapter(&[q(2)], 2.0, Dtype::F32);
    let short = vec![0; 8];
    let cut = AdapterView {
        layout: &adapter.layout,
        source: &short,
    };
    let base = tiny_base();
    for error in [
        gguf::export(adapter.view(), &base, FACTS, &mut Full).unwrap_err(),
        mlx::export(adapter.view(), &base, &mut Full).unwrap_err(),
    ] {
        assert_eq!(error.reason(), "FORMAT_SINK_FAILED");
        assert_eq!(error.io().unwrap().kind(), io::ErrorKind::StorageFull);
    }
    for error in [
        gguf::export(cut, &base, FACTS, &mut Vec::new()).unwrap_err(),
        mlx::export(cut, &base, &mut Vec::new()).unwrap_err(),
    ] {
        assert_eq!(error.reason(), "FORMAT_SOURCE_FAILED");
        assert_eq!(error.io().unwrap().kind(), io::ErrorKind::UnexpectedEof);
    }
}
