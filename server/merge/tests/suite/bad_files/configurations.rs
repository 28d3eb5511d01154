//! PEFT configurations: each field with values of every wrong kind, and documents that are none.

use serde_json::{Value, json};

use super::headers::good;
use super::{Bad, Reader};

fn with(name: String, text: String, reason: &'static str) -> Bad {
    Bad::new(Reader::Peft, name, text, good(), reason)
}

/// The good configuration with more text after its opening brace; of two keys one must be new.
fn and(field: &str, value: &str) -> String {
    let mut config: Value = serde_json::from_slice(&super::headers::config()).unwrap();
    config.as_object_mut().unwrap().remove(field);
    config
        .to_string()
        .replacen('{', &format!("{{\"{field}\":{value},"), 1)
}

pub(super) fn bad() -> Vec<Bad> {
    [fields(), documents(), patterns(), variants()]
        .into_iter()
        .flatten()
        .collect()
}

fn fields() -> Vec<Bad> {
    let mut bad = Vec::new();
    for (field, reason, values) in [
        (
            "r",
            "CONFIG_TYPE",
            &["null", "true", "\"2\"", "[2]", "{}"][..],
        ),
        (
            "r",
            "RANK_OUT_OF_RANGE",
            &[
                "0",
                "-1",
                "-0.0",
                "2.5",
                "1025",
                "4294967298",
                "18446744073709551615",
                "1e300",
            ],
        ),
        ("r", "CONFIG_RANK", &["1", "3", "1024"]),
        (
            "r",
            "CONFIG_SYNTAX",
            &["1e999", "NaN", "Infinity", "02", "+2", "0x2", "2,"],
        ),
        (
            "lora_alpha",
            "CONFIG_TYPE",
            &["null", "false", "\"4\"", "[]", "{}"],
        ),
        (
            "lora_alpha",
            "ALPHA_OUT_OF_RANGE",
            &[
                "0",
                "-0.0",
                "-4",
                "1e-7",
                "1000001",
                "1e308",
                "18446744073709551615",
            ],
        ),
        (
            "lora_alpha",
            "CONFIG_SYNTAX",
            &["1e999", "-1e999", "NaN", ".5", "4."],
        ),
        ("use_rslora", "CONFIG_TYPE", &["1", "\"true\"", "[]", "{}"]),
        (
            "target_modules",
            "CONFIG_TYPE",
            &["1", "true", "{}", "[1]", "[null]", "[[\"q_proj\"]]"],
        ),
        (
            "rank_pattern",
            "CONFIG_TYPE",
            &[
                "1",
                "\"q_proj\"",
                "[]",
                "{\"q_proj\":\"2\"}",
                "{\"q_proj\":null}",
                "{\"q_proj\":[2]}",
            ],
        ),
        (
            "rank_pattern",
            "RANK_OUT_OF_RANGE",
            &[
                "{\"q_proj\":0}",
                "{\"q_proj\":-1}",
                "{\"q_proj\":1e9}",
                "{\"q_proj\":2.5}",
            ],
        ),
        (
            "alpha_pattern",
            "CONFIG_TYPE",
            &[
                "1",
                "\"q_proj\"",
                "[]",
                "{\"q_proj\":\"2\"}",
                "{\"q_proj\":null}",
            ],
        ),
        (
            "alpha_pattern",
            "ALPHA_OUT_OF_RANGE",
            &["{\"q_proj\":0}", "{\"q_proj\":-1}", "{\"q_proj\":1e9}"],
        ),
        ("bias", "CONFIG_TYPE", &["1", "true", "[]"]),
        ("peft_type", "CONFIG_TYPE", &["1", "true", "[]", "{}"]),
    ] {
        for value in values {
            bad.push(with(
                format!("{field} is {value}"),
                and(field, value),
                reason,
            ));
        }
    }
    bad
}

fn documents() -> Vec<Bad> {
    let good = String::from_utf8(super::headers::config()).unwrap();
    let mut bad = Vec::new();
    for length in [0, 1, 5, 12, 20, 30, 45, 60, good.len() - 1] {
        bad.push(with(
            format!("a configuration of {length} bytes"),
            good[..length].to_owned(),
            "CONFIG_SYNTAX",
        ));
    }
    for (name, text, reason) in [
        ("a list", "[]".to_owned(), "CONFIG_NOT_AN_OBJECT"),
        ("a text", "\"LORA\"".to_owned(), "CONFIG_NOT_AN_OBJECT"),
        ("a number", "2".to_owned(), "CONFIG_NOT_AN_OBJECT"),
        ("null", "null".to_owned(), "CONFIG_NOT_AN_OBJECT"),
        ("two objects", format!("{good}{good}"), "CONFIG_SYNTAX"),
        (
            "a comment",
            good.replacen('{', "{/* */", 1),
            "CONFIG_SYNTAX",
        ),
        (
            "a mark of byte order",
            format!("\u{feff}{good}"),
            "CONFIG_SYNTAX",
        ),
        ("single quotes", good.replace('"', "'"), "CONFIG_SYNTAX"),
        (
            "a comma at the end",
            good.replace('}', ",}"),
            "CONFIG_SYNTAX",
        ),
        (
            "128 lists in each other",
            and("x", &format!("{}{}", "[".repeat(128), "]".repeat(128))),
            "CONFIG_SYNTAX",
        ),
        (
            "100,000 lists in each other",
            and("x", &"[".repeat(100_000)),
            "CONFIG_SYNTAX",
        ),
        (
            "100,000 objects in each other",
            and("x", &"{\"a\":".repeat(100_000)),
            "CONFIG_SYNTAX",
        ),
        (
            "a number of 100,000 digits",
            and("r", &"9".repeat(100_000)),
            "CONFIG_SYNTAX",
        ),
        ("half a surrogate", and("x", "\"\\ud800\""), "CONFIG_SYNTAX"),
        (
            "a control character",
            and("x", "\"\u{1}\""),
            "CONFIG_SYNTAX",
        ),
        (
            "r twice",
            good.replacen('{', "{\"r\":2,", 1),
            "CONFIG_DUPLICATE_KEY",
        ),
        (
            "r twice, escaped",
            good.replacen('{', "{\"\\u0072\":2,", 1),
            "CONFIG_DUPLICATE_KEY",
        ),
        (
            "a key twice, far inside",
            and("x", "[{\"a\":{\"b\":1,\"b\":2}}]"),
            "CONFIG_DUPLICATE_KEY",
        ),
        (
            "more than a MiB",
            format!("{good}{}", " ".repeat(1 << 20)),
            "CONFIG_TOO_LARGE",
        ),
    ] {
        bad.push(with(
            format!("a configuration that is or has {name}"),
            text,
            reason,
        ));
    }
    let mut latin = good.into_bytes();
    latin.splice(1..1, *b"\"x\":\"\xe9\",");
    bad.push(Bad::new(
        Reader::Peft,
        "a configuration in Latin-1",
        latin,
        super::headers::good(),
        "CONFIG_SYNTAX",
    ));
    bad
}

/// Keys that are compiled, or must not be.
fn patterns() -> Vec<Bad> {
    let mut bad = Vec::new();
    for key in [
        "(",
        ")",
        "[",
        "*",
        "q_proj(?=x)",
        "(?<!x)q_proj",
        "(a)\\1",
        "(?P<n>a)(?P=n)",
        "a{1000000}",
        "(a{100}){100}",
        "((a{50}){50}){50}",
        "\\pL{500}{500}",
        "(?i",
        "\\",
        "x{2,1}",
        "[z-a]",
    ] {
        let value = json!({ key: 2 }).to_string();
        bad.push(with(
            format!("the pattern {key}"),
            and("rank_pattern", &value),
            "PATTERN_SYNTAX",
        ));
    }
    let long = json!({ "a|".repeat(600): 2 }).to_string();
    bad.push(with(
        "a pattern of 1,200 bytes".into(),
        and("alpha_pattern", &long),
        "PATTERN_SYNTAX",
    ));
    let nested = json!({ format!("{}a{}", "(".repeat(64), ")".repeat(64)): 2 }).to_string();
    bad.push(with(
        "a pattern of 64 groups in each other".into(),
        and("rank_pattern", &nested),
        "PATTERN_SYNTAX",
    ));
    let many: serde_json::Map<String, Value> =
        (0..65).map(|i| (format!("[q]{i}"), 2.into())).collect();
    bad.push(with(
        "65 patterns to compile".into(),
        and("rank_pattern", &Value::Object(many).to_string()),
        "PATTERN_SYNTAX",
    ));
    let many: serde_json::Map<String, Value> =
        (0..4097).map(|i| (format!("m{i}"), 2.into())).collect();
    bad.push(with(
        "4,097 patterns".into(),
        and("alpha_pattern", &Value::Object(many).to_string()),
        "TOO_MANY_PATTERNS",
    ));
    let many: Vec<String> = (0..513).map(|i| format!("m{i}")).collect();
    bad.push(with(
        "513 target modules".into(),
        and("target_modules", &json!(many).to_string()),
        "TOO_MANY_TARGET_MODULES",
    ));
    bad.push(with(
        "a pattern that gives another rank".into(),
        and("rank_pattern", "{\".*proj\":3}"),
        "CONFIG_RANK",
    ));
    bad
}

fn variants() -> Vec<Bad> {
    let mut bad = Vec::new();
    for (field, value, reason) in [
        ("peft_type", "\"LOHA\"", "NOT_LORA"),
        ("peft_type", "\"LORAX\"", "NOT_LORA"),
        ("peft_type", "\"\"", "NOT_LORA"),
        ("use_dora", "true", "DORA"),
        ("bias", "\"all\"", "BIAS"),
        ("lora_bias", "true", "BIAS"),
        ("modules_to_save", "[\"lm_head\"]", "MODULES_TO_SAVE"),
        ("trainable_token_indices", "[1]", "TRAINABLE_TOKENS"),
        ("ensure_weight_tying", "true", "WEIGHT_TYING"),
        ("target_parameters", "[\"experts\"]", "TARGET_PARAMETERS"),
        ("layer_replication", "[[0,1]]", "LAYER_REPLICATION"),
        ("init_lora_weights", "\"\\u0000\"", "UNKNOWN_INIT"),
        ("alora_invocation_tokens", "[]", "ACTIVATED_LORA"),
        ("use_qalora", "true", "UNSUPPORTED_VARIANT"),
    ] {
        bad.push(with(
            format!("the variant {field} = {value}"),
            and(field, value),
            reason,
        ));
    }
    bad
}
