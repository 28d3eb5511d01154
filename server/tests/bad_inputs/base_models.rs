//! Registrations that describe no base model, or one that may not be.

use kmerge_client::v1;
use kmerge_proto::limits::MAX_CONFIG_BYTES;
use serde_json::{Map, Value, json};
use tonic::Code::{self, AlreadyExists, InvalidArgument};

use crate::support::calls::policy;
use crate::support::{BASE, goldens};

type Answer = (Code, &'static str, &'static str);

fn good() -> Map<String, Value> {
    let text = std::fs::read_to_string(goldens().join("base/config.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn request(config: Vec<u8>) -> v1::RegisterBaseModelRequest {
    v1::RegisterBaseModelRequest {
        name: "bad".into(),
        config,
        policy: Some(policy(2)),
        served_as: String::new(),
    }
}

/// A good registration after a change.
fn changed(change: impl FnOnce(&mut v1::RegisterBaseModelRequest)) -> v1::RegisterBaseModelRequest {
    let mut request = request(Value::Object(good()).to_string().into_bytes());
    change(&mut request);
    request
}

/// A good config.json with one field replaced.
fn field(key: &str, value: Value) -> v1::RegisterBaseModelRequest {
    let mut config = good();
    config.insert(key.into(), value);
    request(Value::Object(config).to_string().into_bytes())
}

/// A good config.json without some fields.
fn without(keys: &[&str]) -> v1::RegisterBaseModelRequest {
    let mut config = good();
    for key in keys {
        config.remove(*key).unwrap();
    }
    request(Value::Object(config).to_string().into_bytes())
}

fn with_policy(change: impl FnOnce(&mut v1::MergePolicy)) -> v1::RegisterBaseModelRequest {
    changed(|request| change(request.policy.as_mut().unwrap()))
}

pub(crate) fn cases() -> Vec<(&'static str, Answer, v1::RegisterBaseModelRequest)> {
    let invalid = |reason, word| (InvalidArgument, reason, word);
    vec![
        (
            "no config",
            invalid("BASE_CONFIG_SYNTAX", "not valid JSON"),
            request(vec![]),
        ),
        (
            "no JSON",
            invalid("BASE_CONFIG_SYNTAX", "not valid JSON"),
            request(b"llama".to_vec()),
        ),
        (
            "a list",
            invalid("BASE_CONFIG_NOT_AN_OBJECT", "object"),
            request(b"[]".to_vec()),
        ),
        (
            "not UTF-8",
            invalid("BASE_CONFIG_SYNTAX", "not valid JSON"),
            request(b"{\"a\":\"\xff\"}".to_vec()),
        ),
        (
            "a key twice",
            invalid("BASE_CONFIG_DUPLICATE_KEY", "`hidden_size` twice"),
            request(b"{\"hidden_size\":64,\"hidden_size\":128}".to_vec()),
        ),
        (
            "no architecture",
            invalid("BASE_CONFIG_NO_ARCHITECTURE", "LlamaForCausalLM"),
            without(&["architectures", "model_type"]),
        ),
        (
            "an unknown architecture",
            invalid("UNKNOWN_ARCHITECTURE", "Known:"),
            field("architectures", json!(["FooForCausalLM"])),
        ),
        (
            "an architecture that is no list",
            invalid("BASE_CONFIG_FIELD_TYPE", "architectures"),
            field("architectures", json!("LlamaForCausalLM")),
        ),
        (
            "no hidden size",
            invalid("BASE_CONFIG_MISSING_FIELD", "hidden_size"),
            without(&["hidden_size"]),
        ),
        (
            "a hidden size in quotes",
            invalid("BASE_CONFIG_FIELD_TYPE", "hidden_size"),
            field("hidden_size", json!("64")),
        ),
        (
            "no layers",
            invalid("BASE_CONFIG_OUT_OF_RANGE", "num_hidden_layers"),
            field("num_hidden_layers", json!(0)),
        ),
        (
            "4 billion layers",
            invalid("BASE_CONFIG_OUT_OF_RANGE", "num_hidden_layers"),
            field("num_hidden_layers", json!(1_u64 << 32)),
        ),
        (
            "heads that cannot share",
            invalid("BASE_CONFIG_KEY_VALUE_HEADS", "multiple"),
            field("num_key_value_heads", json!(3)),
        ),
        (
            "a config over the limit",
            invalid("FIELD_INVALID", "config"),
            request(vec![b' '; MAX_CONFIG_BYTES + 1]),
        ),
        (
            "a bad name",
            invalid("FIELD_INVALID", "name"),
            changed(|request| request.name = "Llama 3".into()),
        ),
        (
            "no name",
            invalid("FIELD_INVALID", "name"),
            changed(|request| request.name.clear()),
        ),
        (
            "no slots",
            invalid("FIELD_INVALID", "policy.slots"),
            with_policy(|policy| policy.slots = Some(0)),
        ),
        (
            "129 slots",
            invalid("FIELD_INVALID", "128"),
            with_policy(|policy| policy.slots = Some(129)),
        ),
        (
            "a threshold of NaN",
            invalid("FIELD_INVALID", "policy.threshold"),
            with_policy(|policy| policy.threshold = Some(f64::NAN)),
        ),
        (
            "a threshold above 1",
            invalid("FIELD_INVALID", "policy.threshold"),
            with_policy(|policy| policy.threshold = Some(1.5)),
        ),
        (
            "a threshold without kmerge++",
            invalid("FIELD_INVALID", "kmerge++"),
            with_policy(|policy| policy.threshold = Some(0.5)),
        ),
        (
            "a rule of the future",
            invalid("FIELD_INVALID", "policy.assignment"),
            with_policy(|policy| policy.assignment = 42),
        ),
        (
            "an operator of the future",
            invalid("FIELD_INVALID", "policy.operator"),
            with_policy(|policy| policy.operator = 42),
        ),
        (
            "a type of the future",
            invalid("FIELD_INVALID", "policy.dtype"),
            with_policy(|policy| policy.dtype = 42),
        ),
        (
            "a name that is taken",
            (AlreadyExists, "BASE_MODEL_EXISTS", BASE),
            changed(|request| {
                request.name = BASE.into();
                request.policy = Some(policy(3));
            }),
        ),
    ]
}
