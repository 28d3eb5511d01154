//! Configurations that are malformed, and well-formed ones of variants that cannot be merged.

use serde_json::{Value, json};
use tonic::Code::{FailedPrecondition, InvalidArgument};

use crate::Case;
use crate::support::adapters::{self, Tensors};

/// A case whose configuration has one field more, or another value in it.
fn field(
    name: &str,
    answer: (tonic::Code, &'static str, &'static str),
    key: &str,
    value: Value,
) -> Case {
    let mut config = adapters::config(4);
    config.insert(key.to_owned(), value);
    let config = Value::Object(config).to_string();
    text(name, answer, config.as_bytes())
}

fn text(name: &str, answer: (tonic::Code, &'static str, &'static str), config: &[u8]) -> Case {
    Case::of_files(name, answer, config, &Tensors::fitting(4, 1).file())
}

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = documents();
    cases.extend(values());
    cases.extend(variants());
    cases
}

/// No JSON object at all, or one that can be read in two ways.
fn documents() -> Vec<Case> {
    let deep = format!("{{\"a\":{}{}}}", "[".repeat(5000), "]".repeat(5000));
    let rows: [(&str, &'static str, &'static str, &[u8]); 8] = [
        (
            "no configuration",
            "CONFIG_SYNTAX",
            "adapter_config.json",
            b"",
        ),
        (
            "a configuration that is no JSON",
            "CONFIG_SYNTAX",
            "not valid JSON",
            b"r: 4",
        ),
        (
            "a configuration cut short",
            "CONFIG_SYNTAX",
            "not valid JSON",
            b"{\"r\": 4",
        ),
        (
            "a configuration that is not UTF-8",
            "CONFIG_SYNTAX",
            "not valid JSON",
            b"{\"r\xff\": 4}",
        ),
        (
            "a configuration with NaN",
            "CONFIG_SYNTAX",
            "not valid JSON",
            b"{\"lora_alpha\": NaN}",
        ),
        (
            "a configuration nested too deeply",
            "CONFIG_SYNTAX",
            "not valid JSON",
            deep.as_bytes(),
        ),
        (
            "a configuration that is a list",
            "CONFIG_NOT_AN_OBJECT",
            "object",
            b"[4]",
        ),
        (
            "a rank twice",
            "CONFIG_DUPLICATE_KEY",
            "`r` twice",
            b"{\"r\": 4, \"r\": 8}",
        ),
    ];
    rows.into_iter()
        .map(|(name, reason, word, config)| text(name, (InvalidArgument, reason, word), config))
        .collect()
}

/// Fields of the wrong type or out of range.
fn values() -> Vec<Case> {
    let many: Vec<String> = (0..513).map(|index| format!("module_{index}")).collect();
    let patterns: Value = (0..4097)
        .map(|index| (format!("p{index}"), json!(4)))
        .collect();
    let rows = [
        (
            "a rank of zero",
            "RANK_OUT_OF_RANGE",
            "between 1",
            "r",
            json!(0),
        ),
        ("a negative rank", "RANK_OUT_OF_RANGE", "-4", "r", json!(-4)),
        (
            "a rank of 1025",
            "RANK_OUT_OF_RANGE",
            "1024",
            "r",
            json!(1025),
        ),
        (
            "a rank with a fraction",
            "RANK_OUT_OF_RANGE",
            "2.5",
            "r",
            json!(2.5),
        ),
        (
            "a rank in quotes",
            "CONFIG_TYPE",
            "whole number",
            "r",
            json!("4"),
        ),
        (
            "an alpha of zero",
            "ALPHA_OUT_OF_RANGE",
            "alpha 0",
            "lora_alpha",
            json!(0),
        ),
        (
            "a negative alpha",
            "ALPHA_OUT_OF_RANGE",
            "-16",
            "lora_alpha",
            json!(-16),
        ),
        (
            "an absurd alpha",
            "ALPHA_OUT_OF_RANGE",
            "1e+300",
            "lora_alpha",
            json!(1e300),
        ),
        (
            "an alpha in quotes",
            "CONFIG_TYPE",
            "a number",
            "lora_alpha",
            json!("16"),
        ),
        (
            "rsLoRA in words",
            "CONFIG_TYPE",
            "true or false",
            "use_rslora",
            json!("yes"),
        ),
        (
            "target modules as a number",
            "CONFIG_TYPE",
            "list of strings",
            "target_modules",
            json!(3),
        ),
        (
            "513 target modules",
            "TOO_MANY_TARGET_MODULES",
            "at most 512",
            "target_modules",
            json!(many),
        ),
        (
            "a rank pattern that is a list",
            "CONFIG_TYPE",
            "object",
            "rank_pattern",
            json!([4]),
        ),
        (
            "a rank pattern of zero",
            "RANK_OUT_OF_RANGE",
            "rank_pattern.q_proj",
            "rank_pattern",
            json!({"q_proj": 0}),
        ),
        (
            "an alpha pattern of words",
            "CONFIG_TYPE",
            "alpha_pattern.q_proj",
            "alpha_pattern",
            json!({"q_proj": "x"}),
        ),
        (
            "a pattern that is no expression",
            "PATTERN_SYNTAX",
            "(q_proj",
            "rank_pattern",
            json!({"(q_proj": 4}),
        ),
        (
            "a pattern of explosive size",
            "PATTERN_SYNTAX",
            "not a usable pattern",
            "alpha_pattern",
            json!({"(a{1000}){1000}": 4}),
        ),
        (
            "a pattern that looks ahead",
            "PATTERN_SYNTAX",
            "not a usable pattern",
            "rank_pattern",
            json!({"q_proj(?=x)": 4}),
        ),
        (
            "4,097 patterns",
            "TOO_MANY_PATTERNS",
            "at most",
            "rank_pattern",
            patterns,
        ),
        (
            "a rank that is not the tensors'",
            "CONFIG_RANK",
            "do not belong together",
            "r",
            json!(8),
        ),
        (
            "a rank pattern that is not the tensors'",
            "CONFIG_RANK",
            "rank_pattern",
            "rank_pattern",
            json!({"q_proj": 8}),
        ),
        (
            "a method that is a number",
            "CONFIG_TYPE",
            "peft_type",
            "peft_type",
            json!(1),
        ),
        (
            "biases as a number",
            "CONFIG_TYPE",
            "`bias`",
            "bias",
            json!(1),
        ),
        (
            "an initialisation as a number",
            "CONFIG_TYPE",
            "init_lora_weights",
            "init_lora_weights",
            json!(3),
        ),
    ];
    rows.into_iter()
        .map(|(name, reason, word, key, value)| {
            field(name, (InvalidArgument, reason, word), key, value)
        })
        .collect()
}

/// What PEFT can train and a slot cannot serve.
fn variants() -> Vec<Case> {
    let rows = [
        ("IA3", "NOT_LORA", "only LORA", "peft_type", json!("IA3")),
        ("DoRA", "DORA", "use_dora", "use_dora", json!(true)),
        ("all biases", "BIAS", "bias", "bias", json!("all")),
        (
            "LoRA's own biases",
            "BIAS",
            "bias",
            "bias",
            json!("lora_only"),
        ),
        ("a bias of B", "BIAS", "lora_bias", "lora_bias", json!(true)),
        (
            "whole modules",
            "MODULES_TO_SAVE",
            "lm_head",
            "modules_to_save",
            json!(["lm_head"]),
        ),
        (
            "trained tokens",
            "TRAINABLE_TOKENS",
            "trainable_token_indices",
            "trainable_token_indices",
            json!([1, 2]),
        ),
        (
            "tied weights",
            "WEIGHT_TYING",
            "ensure_weight_tying",
            "ensure_weight_tying",
            json!(true),
        ),
        (
            "bare parameters",
            "TARGET_PARAMETERS",
            "target_parameters",
            "target_parameters",
            json!(["mlp.experts.gate_up_proj"]),
        ),
        (
            "replicated layers",
            "LAYER_REPLICATION",
            "depth",
            "layer_replication",
            json!([[0, 2], [1, 3]]),
        ),
        (
            "PiSSA",
            "BASE_TRANSFORMING_INIT",
            "pissa",
            "init_lora_weights",
            json!("pissa"),
        ),
        (
            "PiSSA by iteration",
            "BASE_TRANSFORMING_INIT",
            "pissa_niter_16",
            "init_lora_weights",
            json!("pissa_niter_16"),
        ),
        (
            "OLoRA",
            "BASE_TRANSFORMING_INIT",
            "olora",
            "init_lora_weights",
            json!("olora"),
        ),
        (
            "CorDA",
            "BASE_TRANSFORMING_INIT",
            "corda",
            "init_lora_weights",
            json!("corda"),
        ),
        (
            "LoftQ",
            "BASE_TRANSFORMING_INIT",
            "loftq",
            "init_lora_weights",
            json!("loftq"),
        ),
        (
            "LoRA-GA",
            "BASE_TRANSFORMING_INIT",
            "lora_ga",
            "init_lora_weights",
            json!("lora_ga"),
        ),
        (
            "an initialisation nobody knows",
            "UNKNOWN_INIT",
            "not known",
            "init_lora_weights",
            json!("quantum"),
        ),
        (
            "activated LoRA",
            "ACTIVATED_LORA",
            "tokens",
            "alora_invocation_tokens",
            json!([27, 13]),
        ),
        (
            "activated LoRA without tokens",
            "ACTIVATED_LORA",
            "tokens",
            "alora_invocation_tokens",
            json!([]),
        ),
        (
            "QALoRA",
            "UNSUPPORTED_VARIANT",
            "use_qalora",
            "use_qalora",
            json!(true),
        ),
        (
            "BD-LoRA",
            "UNSUPPORTED_VARIANT",
            "use_bdlora",
            "use_bdlora",
            json!({"n": 2}),
        ),
        (
            "Arrow",
            "UNSUPPORTED_VARIANT",
            "arrow_config",
            "arrow_config",
            json!({"top_k": 3}),
        ),
        (
            "MonteCLoRA",
            "UNSUPPORTED_VARIANT",
            "monteclora_config",
            "monteclora_config",
            json!({"n": 1}),
        ),
        (
            "KaSA",
            "UNSUPPORTED_VARIANT",
            "kasa_config",
            "kasa_config",
            json!({"beta": 1}),
        ),
        (
            "VeLoRA",
            "UNSUPPORTED_VARIANT",
            "velora_config",
            "velora_config",
            json!({"n": 1}),
        ),
        (
            "Megatron",
            "UNSUPPORTED_VARIANT",
            "megatron_config",
            "megatron_config",
            json!({"tp": 2}),
        ),
        (
            "a use_ that nobody knows",
            "UNKNOWN_VARIANT",
            "use_magic",
            "use_magic",
            json!(true),
        ),
        (
            "a _config that nobody knows",
            "UNKNOWN_VARIANT",
            "magic_config",
            "magic_config",
            json!({"a": 1}),
        ),
    ];
    rows.into_iter()
        .map(|(name, reason, word, key, value)| {
            field(name, (FailedPrecondition, reason, word), key, value)
        })
        .collect()
}
