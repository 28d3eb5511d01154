//! `adapter_config.json`: malformed ones, refused variants, and what is accepted and normalised.

use kmerge_merge::AdapterErrorKind::{Malformed, Unsupported};
use kmerge_merge::{Dtype, decode};
use serde_json::{Value, json};

use super::{check, config, file, refused};
use crate::support::files::{Module, safetensors};
use crate::support::tiny_base;

#[test]
fn malformed_documents() {
    let deep = [b"{\"a\":".repeat(200), b"1".to_vec(), b"}".repeat(200)].concat();
    let large = vec![b' '; (1 << 20) + 1];
    let cases: [(&[u8], &str); 10] = [
        (b"", "CONFIG_SYNTAX"),
        (b"{", "CONFIG_SYNTAX"),
        (b"{\"r\":NaN}", "CONFIG_SYNTAX"),
        (b"{\"r\":2}{}", "CONFIG_SYNTAX"),
        (b"{\"r\":\"\xff\"}", "CONFIG_SYNTAX"),
        (&deep, "CONFIG_SYNTAX"),
        (&large, "CONFIG_TOO_LARGE"),
        (b"[]", "CONFIG_NOT_AN_OBJECT"),
        (b"{\"r\":2,\"r\":4}", "CONFIG_DUPLICATE_KEY"),
        (
            br#"{"rank_pattern":{"q_proj":2,"q_\u0070roj":4}}"#,
            "CONFIG_DUPLICATE_KEY",
        ),
    ];
    for (bytes, reason) in cases {
        let context = String::from_utf8_lossy(&bytes[..bytes.len().min(40)]).into_owned();
        check(
            &refused(bytes, &file()),
            Malformed,
            "config",
            reason,
            &context,
        );
    }
}

#[test]
fn malformed_fields() {
    let many_targets: Vec<String> = (0..513).map(|i| format!("m{i}")).collect();
    let many_keys: serde_json::Map<String, Value> =
        (0..4097).map(|i| (format!("m{i}"), 2.into())).collect();
    let cases = [
        ("r", json!(0), "RANK_OUT_OF_RANGE"),
        ("r", json!(-2), "RANK_OUT_OF_RANGE"),
        ("r", json!(1025), "RANK_OUT_OF_RANGE"),
        ("r", json!(2.5), "RANK_OUT_OF_RANGE"),
        ("r", json!(u64::MAX), "RANK_OUT_OF_RANGE"),
        ("r", json!("2"), "CONFIG_TYPE"),
        ("r", Value::Null, "CONFIG_TYPE"),
        ("lora_alpha", json!(0), "ALPHA_OUT_OF_RANGE"),
        ("lora_alpha", json!(-4.0), "ALPHA_OUT_OF_RANGE"),
        ("lora_alpha", json!(1e300), "ALPHA_OUT_OF_RANGE"),
        ("lora_alpha", json!(1e-300), "ALPHA_OUT_OF_RANGE"),
        ("lora_alpha", json!([4]), "CONFIG_TYPE"),
        ("use_rslora", json!("yes"), "CONFIG_TYPE"),
        ("peft_type", json!(1), "CONFIG_TYPE"),
        ("bias", json!(true), "CONFIG_TYPE"),
        ("init_lora_weights", json!(1), "CONFIG_TYPE"),
        ("target_modules", json!({"q_proj": 1}), "CONFIG_TYPE"),
        ("target_modules", json!(["q_proj", 1]), "CONFIG_TYPE"),
        (
            "target_modules",
            json!(many_targets),
            "TOO_MANY_TARGET_MODULES",
        ),
        ("rank_pattern", json!(["q_proj"]), "CONFIG_TYPE"),
        ("rank_pattern", json!({"q_proj": 0}), "RANK_OUT_OF_RANGE"),
        ("rank_pattern", json!({"q_proj": "2"}), "CONFIG_TYPE"),
        (
            "rank_pattern",
            Value::Object(many_keys),
            "TOO_MANY_PATTERNS",
        ),
        ("rank_pattern", json!({"(": 2}), "PATTERN_SYNTAX"),
        (
            "rank_pattern",
            json!({"(.{1000}){1000}": 2}),
            "PATTERN_SYNTAX",
        ),
        ("alpha_pattern", json!({"q_proj": -1}), "ALPHA_OUT_OF_RANGE"),
        ("alpha_pattern", json!({"(?=q)": 1}), "PATTERN_SYNTAX"),
        ("r", json!(4), "CONFIG_RANK"),
        ("rank_pattern", json!({"q_proj": 3}), "CONFIG_RANK"),
    ];
    for (field, value, reason) in cases {
        let mut changed = config();
        changed[field] = value.clone();
        let error = refused(changed.to_string().as_bytes(), &file());
        let shown: String = value.to_string().chars().take(60).collect();
        check(
            &error,
            Malformed,
            "config",
            reason,
            &format!("{field} = {shown}"),
        );
        assert!(error.to_string().contains(field), "{error}");
    }
}

#[test]
fn every_refused_variant_by_name() {
    let cases = [
        ("peft_type", json!("LOHA"), "NOT_LORA"),
        ("use_dora", json!(true), "DORA"),
        ("bias", json!("all"), "BIAS"),
        ("bias", json!("lora_only"), "BIAS"),
        ("lora_bias", json!(true), "BIAS"),
        ("modules_to_save", json!(["lm_head"]), "MODULES_TO_SAVE"),
        ("trainable_token_indices", json!([1, 2]), "TRAINABLE_TOKENS"),
        (
            "trainable_token_indices",
            json!({"embed_tokens": [1]}),
            "TRAINABLE_TOKENS",
        ),
        ("ensure_weight_tying", json!(true), "WEIGHT_TYING"),
        (
            "target_parameters",
            json!(["mlp.experts.down_proj"]),
            "TARGET_PARAMETERS",
        ),
        (
            "layer_replication",
            json!([[0, 4], [2, 6]]),
            "LAYER_REPLICATION",
        ),
        (
            "init_lora_weights",
            json!("pissa"),
            "BASE_TRANSFORMING_INIT",
        ),
        (
            "init_lora_weights",
            json!("PiSSA_niter_16"),
            "BASE_TRANSFORMING_INIT",
        ),
        (
            "init_lora_weights",
            json!("olora"),
            "BASE_TRANSFORMING_INIT",
        ),
        (
            "init_lora_weights",
            json!("corda"),
            "BASE_TRANSFORMING_INIT",
        ),
        (
            "init_lora_weights",
            json!("loftq"),
            "BASE_TRANSFORMING_INIT",
        ),
        (
            "init_lora_weights",
            json!("lora_ga"),
            "BASE_TRANSFORMING_INIT",
        ),
        ("init_lora_weights", json!("newest"), "UNKNOWN_INIT"),
        ("alora_invocation_tokens", json!([7]), "ACTIVATED_LORA"),
        ("alora_invocation_tokens", json!([]), "ACTIVATED_LORA"),
        ("use_qalora", json!(true), "UNSUPPORTED_VARIANT"),
        ("use_bdlora", json!({"rank": 1}), "UNSUPPORTED_VARIANT"),
        ("arrow_config", json!({"top_k": 2}), "UNSUPPORTED_VARIANT"),
        ("monteclora_config", json!({"n": 2}), "UNSUPPORTED_VARIANT"),
        ("kasa_config", json!({"k": 2}), "UNSUPPORTED_VARIANT"),
        ("velora_config", json!({"k": 2}), "UNSUPPORTED_VARIANT"),
        ("lora_ga_config", json!({"k": 2}), "UNSUPPORTED_VARIANT"),
        ("megatron_config", json!({"k": 2}), "UNSUPPORTED_VARIANT"),
        ("use_tomorrow", json!(1), "UNKNOWN_VARIANT"),
        ("tomorrow_config", json!({"k": 2}), "UNKNOWN_VARIANT"),
    ];
    for (field, value, reason) in cases {
        let mut changed = config();
        changed[field] = value.clone();
        let error = refused(changed.to_string().as_bytes(), &file());
        check(
            &error,
            Unsupported,
            "config",
            reason,
            &format!("{field} = {value}"),
        );
    }
}

/// Every field that selects a variant is harmless when it is off.
#[test]
fn variants_that_are_off_are_accepted() {
    let mut changed = config();
    for field in [
        "use_dora",
        "lora_bias",
        "ensure_weight_tying",
        "use_qalora",
        "use_bdlora",
        "use_tomorrow",
    ] {
        changed[field] = json!(false);
    }
    for field in [
        "modules_to_save",
        "trainable_token_indices",
        "target_parameters",
        "layer_replication",
        "alora_invocation_tokens",
        "arrow_config",
        "megatron_config",
        "tomorrow_config",
        "peft_type",
    ] {
        changed[field] = Value::Null;
    }
    changed["loftq_config"] = json!({});
    changed["bias"] = json!("none");
    for init in [
        json!(true),
        json!(false),
        json!("gaussian"),
        json!("EVA"),
        json!("orthogonal"),
    ] {
        changed["init_lora_weights"] = init;
        let decoded = decode(changed.to_string().as_bytes(), &file(), &tiny_base()).unwrap();
        assert_eq!(decoded.warnings, [""; 0]);
    }
}

#[test]
fn what_is_odd_but_harmless_becomes_a_warning() {
    let warnings = |changes: Value| {
        let mut changed = config();
        changed
            .as_object_mut()
            .unwrap()
            .extend(changes.as_object().unwrap().clone());
        decode(changed.to_string().as_bytes(), &file(), &tiny_base())
            .unwrap()
            .warnings
    };
    for (changes, word) in [
        (json!({"task_type": "SEQ_CLS"}), "SEQ_CLS"),
        (json!({"task_type": null}), "task_type"),
        (json!({"fan_in_fan_out": true}), "fan_in_fan_out"),
        (json!({"colour": "blue"}), "colour"),
        (json!({"line\nbreak": 1}), "line\\nbreak"),
    ] {
        let found = warnings(changes);
        assert!(found.len() == 1 && found[0].contains(word), "{found:?}");
    }
    let many: serde_json::Map<String, Value> =
        (0..40).map(|i| (format!("field{i}"), 1.into())).collect();
    assert_eq!(
        warnings(Value::Object(many)).len(),
        17,
        "a bounded number of warnings"
    );
}

/// Scaling of the module under a configuration.
fn scaling(changes: &Value, rank: usize) -> f64 {
    let tensors = Module::random("1.self_attn.q_proj", [12, 12], rank, 1).tensors(Dtype::F16);
    let mut changed = config();
    changed
        .as_object_mut()
        .unwrap()
        .extend(changes.as_object().unwrap().clone());
    let bytes = safetensors(&tensors);
    let decoded = decode(changed.to_string().as_bytes(), &bytes, &tiny_base()).unwrap();
    decoded.layout.modules[0].scaling
}

#[test]
fn scaling_follows_patterns_ranks_and_rslora() {
    let root = 2.0_f64.sqrt();
    for (changes, rank, expected) in [
        (json!({}), 2, 2.0),
        (json!({"lora_alpha": 2.5}), 2, 1.25),
        (json!({"use_rslora": true}), 2, 4.0 / root),
        (json!({"r": 8, "rank_pattern": {"q_proj": 4}}), 4, 1.0),
        (
            json!({"r": 8, "rank_pattern": {"q_proj": 4}, "use_rslora": true}),
            4,
            2.0,
        ),
        (json!({"alpha_pattern": {"q_proj": 16}}), 2, 8.0),
        (
            json!({"alpha_pattern": {"layers.1.self_attn.q_proj": 16}}),
            2,
            8.0,
        ),
        (
            json!({"alpha_pattern": {"layers.0.self_attn.q_proj": 16}}),
            2,
            2.0,
        ),
        (json!({"alpha_pattern": {r"layers\.[12]\..*": 16}}), 2, 8.0),
        // The first matching key in file order wins.
        (
            json!({"alpha_pattern": {"q_proj": 16, "self_attn.q_proj": 6}}),
            2,
            8.0,
        ),
        (
            json!({"alpha_pattern": {"self_attn.q_proj": 6, "q_proj": 16}}),
            2,
            3.0,
        ),
    ] {
        let found = scaling(&changes, rank);
        assert!((found - expected).abs() < 1e-12, "{changes}: {found}");
    }
}

#[test]
fn absent_fields_have_pefts_defaults() {
    let tensors = Module::random("0.self_attn.q_proj", [12, 12], 8, 1).tensors(Dtype::F32);
    let decoded = decode(b"{}", &safetensors(&tensors), &tiny_base()).unwrap();
    assert_eq!(decoded.layout.modules[0].scaling, 1.0, "r 8 and alpha 8");
}
