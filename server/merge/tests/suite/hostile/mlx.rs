//! Adapters of mlx-lm that lie, each in its own way.

use kmerge_merge::AdapterErrorKind::{Malformed, Unsupported, WrongBase};
use kmerge_merge::{BaseModel, Dtype, mlx};
use serde_json::{Value, json};

use super::check;
use crate::support::files::{Tensor, safetensors};
use crate::support::tiny_base;

const Q: &str = "model.layers.3.self_attn.q_proj";

fn config() -> Value {
    json!({
        "fine_tune_type": "lora", "num_layers": 4, "batch_size": 4, "data": "mine",
        "lora_parameters": {"rank": 2, "scale": 20.0, "dropout": 0.0, "keys": ["self_attn.q_proj"]},
    })
}

fn tensor(name: &str, shape: &[usize]) -> Tensor {
    Tensor {
        name: name.to_owned(),
        dtype: Dtype::F32,
        shape: shape.to_vec(),
        values: vec![0.5; shape.iter().product()],
    }
}

fn module(path: &str) -> Vec<Tensor> {
    vec![
        tensor(&format!("{path}.lora_a"), &[12, 2]),
        tensor(&format!("{path}.lora_b"), &[2, 12]),
    ]
}

#[test]
fn the_starting_point_is_accepted() {
    let bytes = safetensors(&module(Q));
    let decoded = mlx::decode(config().to_string().as_bytes(), &bytes, &tiny_base()).unwrap();
    let found = &decoded.layout.modules[0];
    assert_eq!(
        (found.path.as_str(), found.rank, found.scaling),
        (Q, 2, 20.0)
    );
    // All layers, all modules, and no word on the kind.
    let mut config = config();
    config["num_layers"] = json!(-1);
    config["lora_parameters"]["keys"] = Value::Null;
    config.as_object_mut().unwrap().remove("fine_tune_type");
    let bytes = safetensors(&module("model.layers.0.self_attn.q_proj"));
    mlx::decode(config.to_string().as_bytes(), &bytes, &tiny_base()).unwrap();
}

#[test]
fn configurations_that_lie() {
    let bytes = safetensors(&module(Q));
    let top = |key: &str, value: Value| {
        let mut config = config();
        config[key] = value;
        config.to_string()
    };
    let inner = |key: &str, value: Value| {
        let mut config = config();
        config["lora_parameters"][key] = value;
        config.to_string()
    };
    let without = |key: &str| {
        let mut config = config();
        config.as_object_mut().unwrap().remove(key);
        config["lora_parameters"]
            .as_object_mut()
            .map(|inner| inner.remove(key));
        config.to_string()
    };
    let many: Vec<String> = (0..513).map(|index| format!("m{index}")).collect();
    for (text, kind, reason) in [
        (String::new(), Malformed, "CONFIG_SYNTAX"),
        ("[]".to_owned(), Malformed, "CONFIG_NOT_AN_OBJECT"),
        (
            r#"{"a":1,"a":2}"#.to_owned(),
            Malformed,
            "CONFIG_DUPLICATE_KEY",
        ),
        (" ".repeat((1 << 20) + 1), Malformed, "CONFIG_TOO_LARGE"),
        (
            json!({"peft_type": "LORA", "r": 8}).to_string(),
            Malformed,
            "MLX_MISSING_FIELD",
        ),
        (without("rank"), Malformed, "MLX_MISSING_FIELD"),
        (without("scale"), Malformed, "MLX_MISSING_FIELD"),
        (without("num_layers"), Malformed, "MLX_MISSING_FIELD"),
        (top("lora_parameters", json!([])), Malformed, "CONFIG_TYPE"),
        (top("num_layers", json!("all")), Malformed, "CONFIG_TYPE"),
        (top("num_layers", json!(1.5)), Malformed, "CONFIG_TYPE"),
        (top("fine_tune_type", json!("dora")), Unsupported, "DORA"),
        (
            top("fine_tune_type", json!("full")),
            Unsupported,
            "MLX_FINE_TUNE_TYPE",
        ),
        (top("fine_tune_type", json!(1)), Malformed, "CONFIG_TYPE"),
        (inner("rank", json!(0)), Malformed, "RANK_OUT_OF_RANGE"),
        (inner("rank", json!(-8)), Malformed, "RANK_OUT_OF_RANGE"),
        (inner("rank", json!("8")), Malformed, "CONFIG_TYPE"),
        (inner("rank", json!(4)), Malformed, "CONFIG_RANK"),
        (inner("scale", json!(0)), Malformed, "MLX_SCALE"),
        (inner("scale", json!(-2.0)), Malformed, "MLX_SCALE"),
        (inner("scale", json!(1e300)), Malformed, "MLX_SCALE"),
        (inner("scale", json!("20")), Malformed, "CONFIG_TYPE"),
        (inner("keys", json!("q_proj")), Malformed, "CONFIG_TYPE"),
        (inner("keys", json!([1])), Malformed, "CONFIG_TYPE"),
        (inner("keys", json!(many)), Malformed, "MLX_TOO_MANY_KEYS"),
    ] {
        let error = mlx::decode(text.as_bytes(), &bytes, &tiny_base()).unwrap_err();
        check(&error, kind, "config", reason, &text[..text.len().min(80)]);
    }
}

#[test]
fn tensors_that_lie() {
    let swapped = vec![
        tensor(&format!("{Q}.lora_a"), &[2, 12]),
        tensor(&format!("{Q}.lora_b"), &[12, 2]),
    ];
    let experts = vec![
        tensor(&format!("{Q}.lora_a"), &[4, 2, 12]),
        tensor(&format!("{Q}.lora_b"), &[4, 12, 2]),
    ];
    let vector = vec![
        tensor(&format!("{Q}.lora_a"), &[24]),
        tensor(&format!("{Q}.lora_b"), &[2, 12]),
    ];
    let with = |name: &str| {
        let mut tensors = module(Q);
        tensors.push(tensor(name, &[12]));
        tensors
    };
    for (what, tensors, kind, reason) in [
        ("PEFT's order", swapped, WrongBase, "MODULE_SHAPE"),
        ("experts", experts, Unsupported, "TARGET_PARAMETERS"),
        ("a vector", vector, Malformed, "FACTOR_DIMENSIONS"),
        ("magnitudes", with(&format!("{Q}.m")), Unsupported, "DORA"),
        (
            "a weight",
            with("model.norm.weight"),
            Unsupported,
            "FULL_TENSOR",
        ),
        (
            "nothing known",
            with(&format!("{Q}.lora_c")),
            Malformed,
            "MLX_UNKNOWN_TENSOR",
        ),
        ("no path", with("lora_a"), Malformed, "MLX_UNKNOWN_TENSOR"),
        (
            "an empty path",
            with(".lora_a"),
            Malformed,
            "MLX_UNKNOWN_TENSOR",
        ),
        (
            "an embedding",
            module("model.embed_tokens"),
            Unsupported,
            "EMBEDDING_OR_HEAD",
        ),
        (
            "the head",
            module("lm_head"),
            Unsupported,
            "EMBEDDING_OR_HEAD",
        ),
        (
            "half a pair",
            module(Q)[..1].to_vec(),
            Malformed,
            "MISSING_FACTOR",
        ),
        ("nothing", vec![], Malformed, "NO_MODULES"),
        (
            "PEFT's prefix",
            module(&format!("base_model.model.{Q}")),
            WrongBase,
            "MODULE_NOT_IN_BASE",
        ),
        (
            "a layer too many",
            module("model.layers.4.self_attn.q_proj"),
            WrongBase,
            "MODULE_NOT_IN_BASE",
        ),
        (
            "another shape",
            module("model.layers.0.self_attn.k_proj"),
            WrongBase,
            "MODULE_SHAPE",
        ),
        (
            "a module beside the keys",
            module("model.layers.3.self_attn.o_proj"),
            Malformed,
            "MLX_OUTSIDE_KEYS",
        ),
    ] {
        let bytes = safetensors(&tensors);
        let error = mlx::decode(config().to_string().as_bytes(), &bytes, &tiny_base()).unwrap_err();
        check(&error, kind, "tensors", reason, what);
    }
    let mut last = config();
    last["num_layers"] = json!(2);
    let bytes = safetensors(&module("model.layers.1.self_attn.q_proj"));
    let error = mlx::decode(last.to_string().as_bytes(), &bytes, &tiny_base()).unwrap_err();
    check(&error, Malformed, "tensors", "MLX_OUTSIDE_LAYERS", "layers");
}

#[test]
fn a_base_that_mlx_has_in_another_form_is_refused() {
    let olmo = BaseModel::from_config_json(
        br#"{"architectures":["OlmoForCausalLM"],"hidden_size":12,"intermediate_size":20,
            "num_hidden_layers":4,"num_attention_heads":3}"#,
    )
    .unwrap();
    let bytes = safetensors(&module(Q));
    let error = mlx::decode(config().to_string().as_bytes(), &bytes, &olmo).unwrap_err();
    check(&error, Unsupported, "tensors", "MLX_UNKNOWN_BASE", "OLMo");
}
