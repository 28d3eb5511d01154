//! Keys of `rank_pattern`, one a line: what they match decides how an adapter is scaled, and they
//! are regular expressions from strangers.
//!
//! All keys give another rank than the tensors have, so the adapter is accepted exactly if no key
//! matches its module. The oracle compiles what PEFT compiles, without our shortcuts and limits.

use kmerge_merge::decode;
use regex::Regex;
use serde_json::{Map, Value, json};

use super::support;
use crate::seeds;

/// The adapter's only module.
const PATH: &str = "model.layers.0.self_attn.q_proj";

pub fn check(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else {
        return;
    };
    let keys: Map<String, Value> = text
        .split('\n')
        .map(|key| (key.to_owned(), json!(3)))
        .collect();
    let config = json!({
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 2, "lora_alpha": 4,
        "rank_pattern": keys,
    });
    let tensors = seeds::one_module();
    let decoded = decode(config.to_string().as_bytes(), &tensors, support::base());
    let matches = match decoded {
        Ok(_) => false,
        Err(error) => {
            support::refused(&error);
            match error.reason() {
                "CONFIG_RANK" => true,
                "PATTERN_SYNTAX" | "TOO_MANY_PATTERNS" => return,
                other => panic!("{other} for {config}"),
            }
        }
    };
    let expected = keys.keys().any(|key| {
        Regex::new(&format!(r"\A(?:^(.*\.)?({key})$)"))
            .expect("what compiles with limits compiles without")
            .is_match(PATH)
    });
    assert_eq!(matches, expected, "{config}");
}
