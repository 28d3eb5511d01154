//! Shapes of published models, and configurations that must be refused.

use super::*;
use crate::BaseModelError;
use serde_json::{Value, json};

fn read(config: &Value) -> Result<BaseModel, BaseModelError> {
    BaseModel::from_config_json(config.to_string().as_bytes())
}

fn llama_1b() -> Value {
    json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 2048,
        "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32,
        "num_key_value_heads": 8, "head_dim": 64, "_name_or_path": "meta-llama/Llama-3.2-1B",
    })
}

fn shape(base: &BaseModel, path: &str) -> Option<(usize, usize)> {
    base.module_shape(path)
        .map(|shape| (shape.out_features, shape.in_features))
}

#[test]
fn a_llama_has_its_published_shapes() {
    let base = read(&llama_1b()).unwrap();
    assert_eq!(base.architecture(), "LlamaForCausalLM");
    assert_eq!((base.layers(), base.hidden_size()), (16, 2048));
    assert_eq!(base.name_or_path(), Some("meta-llama/Llama-3.2-1B"));
    assert_eq!(
        shape(&base, "model.layers.0.self_attn.q_proj"),
        Some((2048, 2048))
    );
    assert_eq!(
        shape(&base, "model.layers.15.self_attn.k_proj"),
        Some((512, 2048))
    );
    assert_eq!(
        shape(&base, "model.layers.3.mlp.gate_proj"),
        Some((8192, 2048))
    );
    assert_eq!(
        shape(&base, "model.layers.3.mlp.down_proj"),
        Some((2048, 8192))
    );
}

#[test]
fn only_canonical_paths_of_existing_layers_are_modules() {
    let base = read(&llama_1b()).unwrap();
    for path in [
        "model.layers.16.self_attn.q_proj",
        "model.layers.00.self_attn.q_proj",
        "model.layers.+1.self_attn.q_proj",
        "model.layers.-1.self_attn.q_proj",
        "model.layers..self_attn.q_proj",
        "model.layers.0.self_attn.q_proj.x",
        "model.layers.0.self_attn",
        "model.layers.0",
        "layers.0.self_attn.q_proj",
        "lm_head",
        "model.embed_tokens",
        "model.layers.99999999999999999999.self_attn.q_proj",
        "",
    ] {
        assert_eq!(base.module_shape(path), None, "{path}");
    }
}

#[test]
fn other_families_use_their_own_names() {
    let phi3 = read(&json!({
        "architectures": ["Phi3ForCausalLM"], "hidden_size": 3072, "intermediate_size": 8192,
        "num_hidden_layers": 32, "num_attention_heads": 24, "num_key_value_heads": 8,
    }))
    .unwrap();
    assert_eq!(
        shape(&phi3, "model.layers.0.self_attn.qkv_proj"),
        Some((5120, 3072))
    );
    assert_eq!(
        shape(&phi3, "model.layers.0.mlp.gate_up_proj"),
        Some((16384, 3072))
    );
    assert_eq!(shape(&phi3, "model.layers.0.self_attn.q_proj"), None);

    // Qwen3-0.6B: heads wider than hidden / heads.
    let qwen3 = read(&json!({
        "architectures": ["Qwen3ForCausalLM"], "hidden_size": 1024, "intermediate_size": 3072,
        "num_hidden_layers": 28, "num_attention_heads": 16, "num_key_value_heads": 8,
    }))
    .unwrap();
    assert_eq!(
        shape(&qwen3, "model.layers.0.self_attn.q_proj"),
        Some((2048, 1024))
    );
    assert_eq!(
        shape(&qwen3, "model.layers.0.self_attn.o_proj"),
        Some((1024, 2048))
    );

    let pythia = read(&json!({
        "architectures": ["GPTNeoXForCausalLM"], "hidden_size": 512, "intermediate_size": 2048,
        "num_hidden_layers": 6, "num_attention_heads": 8,
    }))
    .unwrap();
    assert_eq!(
        shape(&pythia, "gpt_neox.layers.5.attention.query_key_value"),
        Some((1536, 512))
    );

    // Gemma 3 4B: the wrapper's published text_config leaves the head counts out.
    let gemma3 = read(&json!({
        "architectures": ["Gemma3ForConditionalGeneration"],
        "text_config": {"hidden_size": 2560, "intermediate_size": 10240, "num_hidden_layers": 34},
    }))
    .unwrap();
    let path = "model.language_model.layers.33.self_attn.k_proj";
    assert_eq!(shape(&gemma3, path), Some((1024, 2560)));
}

#[test]
fn model_type_stands_in_for_absent_architectures() {
    let mut config = llama_1b();
    config.as_object_mut().unwrap().remove("architectures");
    assert_eq!(read(&config).unwrap().architecture(), "LlamaForCausalLM");
    config["model_type"] = Value::Null;
    assert!(matches!(
        read(&config),
        Err(BaseModelError::NoArchitecture { .. })
    ));
}

#[test]
fn every_defect_has_its_own_error() {
    let cases: [(&str, Value, &str); 15] = [
        (
            "architectures",
            json!(["MambaForCausalLM"]),
            "UNKNOWN_ARCHITECTURE",
        ),
        (
            "architectures",
            json!("LlamaForCausalLM"),
            "BASE_CONFIG_FIELD_TYPE",
        ),
        ("hidden_size", Value::Null, "BASE_CONFIG_MISSING_FIELD"),
        ("hidden_size", json!(0), "BASE_CONFIG_OUT_OF_RANGE"),
        ("hidden_size", json!(-2048), "BASE_CONFIG_FIELD_TYPE"),
        ("hidden_size", json!(2048.5), "BASE_CONFIG_FIELD_TYPE"),
        ("hidden_size", json!(u64::MAX), "BASE_CONFIG_OUT_OF_RANGE"),
        (
            "intermediate_size",
            json!(1u64 << 23),
            "BASE_CONFIG_OUT_OF_RANGE",
        ),
        (
            "num_hidden_layers",
            json!(1u64 << 40),
            "BASE_CONFIG_OUT_OF_RANGE",
        ),
        ("num_hidden_layers", json!("16"), "BASE_CONFIG_FIELD_TYPE"),
        (
            "num_attention_heads",
            Value::Null,
            "BASE_CONFIG_MISSING_FIELD",
        ),
        (
            "num_attention_heads",
            json!(33),
            "BASE_CONFIG_KEY_VALUE_HEADS",
        ),
        (
            "num_key_value_heads",
            json!(5),
            "BASE_CONFIG_KEY_VALUE_HEADS",
        ),
        ("num_key_value_heads", json!(0), "BASE_CONFIG_OUT_OF_RANGE"),
        ("head_dim", json!(1u64 << 30), "BASE_CONFIG_OUT_OF_RANGE"),
    ];
    for (field, value, reason) in cases {
        let mut config = llama_1b();
        config[field] = value.clone();
        let error = read(&config).unwrap_err();
        assert_eq!(error.reason(), reason, "{field} = {value}: {error}");
    }
    let mut odd = llama_1b();
    odd["head_dim"] = Value::Null;
    odd["hidden_size"] = json!(2049);
    assert_eq!(read(&odd).unwrap_err().reason(), "BASE_CONFIG_HEAD_SIZE");
    for (bytes, reason) in [
        (&b"[]"[..], "BASE_CONFIG_NOT_AN_OBJECT"),
        (b"{", "BASE_CONFIG_SYNTAX"),
        (
            br#"{"hidden_size":1,"hidden_size":2}"#,
            "BASE_CONFIG_DUPLICATE_KEY",
        ),
        (&vec![b' '; (1 << 20) + 1], "BASE_CONFIG_TOO_LARGE"),
    ] {
        assert_eq!(
            BaseModel::from_config_json(bytes).unwrap_err().reason(),
            reason
        );
    }
}

#[test]
fn an_unknown_architecture_is_answered_with_the_known_ones() {
    let mut config = llama_1b();
    config["architectures"] = json!(["MambaForCausalLM"]);
    let message = read(&config).unwrap_err().to_string();
    for family in families::FAMILIES {
        assert!(message.contains(family.architecture), "{message}");
    }
}

#[test]
fn family_names_and_module_names_are_unique() {
    for (index, family) in families::FAMILIES.iter().enumerate() {
        for other in &families::FAMILIES[index + 1..] {
            assert_ne!(family.architecture, other.architecture);
            assert_ne!(family.model_type, other.model_type);
        }
        for (index, module) in family.modules.iter().enumerate() {
            assert!(
                family.modules[index + 1..]
                    .iter()
                    .all(|other| other.name != module.name)
            );
        }
    }
}
