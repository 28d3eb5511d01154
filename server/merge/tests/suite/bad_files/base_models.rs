//! config.json files that describe no base model: each field of every wrong kind.

use serde_json::{Value, json};

use super::{Bad, Reader};

pub(super) fn good() -> Value {
    json!({
        "architectures": ["LlamaForCausalLM"], "hidden_size": 12, "intermediate_size": 20,
        "num_hidden_layers": 4, "num_attention_heads": 3, "num_key_value_heads": 1,
    })
}

fn with(name: String, text: String, reason: &'static str) -> Bad {
    Bad::new(Reader::Base, name, text, vec![], reason)
}

pub(super) fn bad() -> Vec<Bad> {
    let mut bad = Vec::new();
    for field in [
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
    ] {
        for (value, reason) in [
            ("0", "BASE_CONFIG_OUT_OF_RANGE"),
            ("-1", "BASE_CONFIG_FIELD_TYPE"),
            ("1.5", "BASE_CONFIG_FIELD_TYPE"),
            ("\"12\"", "BASE_CONFIG_FIELD_TYPE"),
            ("[12]", "BASE_CONFIG_FIELD_TYPE"),
            ("4294967296", "BASE_CONFIG_OUT_OF_RANGE"),
            ("18446744073709551615", "BASE_CONFIG_OUT_OF_RANGE"),
            ("18446744073709551616", "BASE_CONFIG_FIELD_TYPE"),
            ("1e999", "BASE_CONFIG_SYNTAX"),
            ("null", "BASE_CONFIG_MISSING_FIELD"),
        ] {
            let mut config = good();
            config[field] = json!("HERE");
            let text = config.to_string().replace("\"HERE\"", value);
            bad.push(with(format!("{field} is {value}"), text, reason));
        }
    }
    for (field, value, reason) in [
        (
            "num_key_value_heads",
            json!(2),
            "BASE_CONFIG_KEY_VALUE_HEADS",
        ),
        (
            "num_key_value_heads",
            json!(4096),
            "BASE_CONFIG_KEY_VALUE_HEADS",
        ),
        ("num_key_value_heads", json!(0), "BASE_CONFIG_OUT_OF_RANGE"),
        ("hidden_size", json!(13), "BASE_CONFIG_HEAD_SIZE"),
        ("head_dim", json!(4097), "BASE_CONFIG_OUT_OF_RANGE"),
        ("head_dim", json!("4"), "BASE_CONFIG_FIELD_TYPE"),
        (
            "architectures",
            json!("LlamaForCausalLM"),
            "BASE_CONFIG_FIELD_TYPE",
        ),
        ("architectures", json!([]), "BASE_CONFIG_NO_ARCHITECTURE"),
        ("architectures", json!([1]), "BASE_CONFIG_NO_ARCHITECTURE"),
        (
            "architectures",
            json!(["../LlamaForCausalLM"]),
            "UNKNOWN_ARCHITECTURE",
        ),
        (
            "architectures",
            json!(["Llama\u{0}"]),
            "UNKNOWN_ARCHITECTURE",
        ),
        (
            "architectures",
            json!(["x".repeat(100_000)]),
            "UNKNOWN_ARCHITECTURE",
        ),
        (
            "architectures",
            json!(["MixtralForCausalLM"]),
            "UNKNOWN_ARCHITECTURE",
        ),
    ] {
        let mut config = good();
        let shown: String = value.to_string().chars().take(40).collect();
        config[field] = value;
        bad.push(with(
            format!("{field} is {shown}"),
            config.to_string(),
            reason,
        ));
    }
    let text = good().to_string();
    for (name, text, reason) in [
        ("nothing", String::new(), "BASE_CONFIG_SYNTAX"),
        (
            "half of itself",
            text[..60].to_owned(),
            "BASE_CONFIG_SYNTAX",
        ),
        ("a list", format!("[{text}]"), "BASE_CONFIG_NOT_AN_OBJECT"),
        (
            "a key twice",
            text.replacen('{', "{\"hidden_size\":12,", 1),
            "BASE_CONFIG_DUPLICATE_KEY",
        ),
        (
            "200 lists",
            text.replacen(
                '{',
                &format!("{{\"x\":{}{},", "[".repeat(200), "]".repeat(200)),
                1,
            ),
            "BASE_CONFIG_SYNTAX",
        ),
        (
            "more than a MiB",
            format!("{text}{}", " ".repeat(1 << 20)),
            "BASE_CONFIG_TOO_LARGE",
        ),
    ] {
        bad.push(with(format!("a base model of {name}"), text, reason));
    }
    bad
}
