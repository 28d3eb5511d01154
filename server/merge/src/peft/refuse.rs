//! Variants that the configuration gives away and that cannot be merged honestly.
//!
//! A merged slot serves scaling · B · A on the base model as published. Each refusal below is a
//! variant for which that is not the trained function. Fields that PEFT knows and that change
//! nothing at inference are listed; a field that nobody knows is only refused when its name and
//! value look like a variant that a later PEFT brought.

use serde_json::{Map, Value};

use crate::json::printable;
use crate::{AdapterError, Evidence};

/// Fields read elsewhere, refused below, or without effect on a trained adapter.
const KNOWN: &[&str] = &[
    "alora_invocation_tokens",
    "alpha_pattern",
    "auto_mapping",
    "base_model_name_or_path",
    "bias",
    "corda_config",
    "ensure_weight_tying",
    "eva_config",
    "exclude_modules",
    "fan_in_fan_out",
    "inference_mode",
    "init_lora_weights",
    "layer_replication",
    "layers_pattern",
    "layers_to_transform",
    "loftq_config",
    "lora_alpha",
    "lora_bias",
    "lora_dropout",
    "megatron_core",
    "modules_to_save",
    "peft_type",
    "peft_version",
    "qalora_group_size",
    "r",
    "rank_pattern",
    "revision",
    "runtime_config",
    "target_modules",
    "target_parameters",
    "task_type",
    "trainable_token_indices",
    "use_dora",
    "use_rslora",
];

/// Fields that select a variant by being set at all.
const VARIANTS: &[&str] = &[
    "arrow_config",
    "kasa_config",
    "lora_ga_config",
    "megatron_config",
    "monteclora_config",
    "use_bdlora",
    "use_qalora",
    "velora_config",
];

/// Initialisations that leave the base weights alone.
const HARMLESS_INITS: &[&str] = &["gaussian", "eva", "orthogonal"];

/// Most unknown fields listed in warnings one by one.
const MAX_LISTED: usize = 16;

/// Refuses what must be refused; returns warnings about fields that are ignored.
pub(super) fn check(config: &Map<String, Value>) -> Result<Vec<String>, AdapterError> {
    method(config)?;
    if truthy(config.get("use_dora")) {
        return Err(AdapterError::Dora {
            evidence: Evidence::Field("use_dora"),
        });
    }
    biases(config)?;
    if let Some(value) = config
        .get("modules_to_save")
        .filter(|value| truthy(Some(value)))
    {
        return Err(AdapterError::ModulesToSave {
            modules: printable(&value.to_string(), 120),
        });
    }
    for (key, defect) in [
        (
            "trainable_token_indices",
            tokens as fn(&'static str) -> AdapterError,
        ),
        ("ensure_weight_tying", |_| AdapterError::WeightTying),
        ("target_parameters", parameters),
        ("layer_replication", |_| AdapterError::LayerReplication),
    ] {
        if truthy(config.get(key)) {
            return Err(defect(key));
        }
    }
    initialisation(config)?;
    // An empty list of invocation tokens still selects the variant.
    if config
        .get("alora_invocation_tokens")
        .is_some_and(|tokens| !tokens.is_null())
    {
        return Err(AdapterError::ActivatedLora);
    }
    unknown_fields(config)
}

fn tokens(key: &'static str) -> AdapterError {
    AdapterError::TrainableTokens {
        evidence: Evidence::Field(key),
    }
}

fn parameters(key: &'static str) -> AdapterError {
    AdapterError::TargetParameters {
        evidence: Evidence::Field(key),
    }
}

/// LORA is PEFT's own default where the field is absent.
fn method(config: &Map<String, Value>) -> Result<(), AdapterError> {
    match config.get("peft_type") {
        None | Some(Value::Null) => Ok(()),
        Some(Value::String(name)) if name.eq_ignore_ascii_case("lora") => Ok(()),
        Some(Value::String(name)) => Err(AdapterError::NotLora {
            got: printable(name, 32),
        }),
        Some(_) => Err(AdapterError::ConfigType {
            key: "peft_type".into(),
            expected: "a string",
        }),
    }
}

fn biases(config: &Map<String, Value>) -> Result<(), AdapterError> {
    if truthy(config.get("lora_bias")) {
        return Err(AdapterError::Bias {
            evidence: Evidence::Field("lora_bias"),
        });
    }
    match config.get("bias") {
        None | Some(Value::Null) => Ok(()),
        Some(Value::String(word)) if word == "none" => Ok(()),
        Some(Value::String(_)) => Err(AdapterError::Bias {
            evidence: Evidence::Field("bias"),
        }),
        Some(_) => Err(AdapterError::ConfigType {
            key: "bias".into(),
            expected: "a string",
        }),
    }
}

fn initialisation(config: &Map<String, Value>) -> Result<(), AdapterError> {
    let word = match config.get("init_lora_weights") {
        None | Some(Value::Null | Value::Bool(_)) => return Ok(()),
        Some(Value::String(word)) => word.to_ascii_lowercase(),
        Some(_) => {
            return Err(AdapterError::ConfigType {
                key: "init_lora_weights".into(),
                expected: "true, false or a string",
            });
        }
    };
    if HARMLESS_INITS.contains(&word.as_str()) {
        return Ok(());
    }
    let init = printable(&word, 32);
    match word.as_str() {
        "pissa" | "olora" | "corda" | "loftq" | "lora_ga" => {
            Err(AdapterError::BaseTransformingInit { init })
        }
        _ if word.starts_with("pissa_niter_") => Err(AdapterError::BaseTransformingInit { init }),
        _ => Err(AdapterError::UnknownInit { init }),
    }
}

fn unknown_fields(config: &Map<String, Value>) -> Result<Vec<String>, AdapterError> {
    let mut unknown = Vec::new();
    for (key, _) in config.iter().filter(|(_, value)| truthy(Some(value))) {
        if VARIANTS.contains(&key.as_str()) {
            return Err(AdapterError::UnsupportedVariant { key: key.clone() });
        }
        if KNOWN.contains(&key.as_str()) {
            continue;
        }
        if key.starts_with("use_") || key.ends_with("_config") {
            return Err(AdapterError::UnknownVariant {
                key: printable(key, 64),
            });
        }
        unknown.push(printable(key, 64));
    }
    let left_out = unknown.len().saturating_sub(MAX_LISTED);
    let mut warnings: Vec<String> = unknown
        .into_iter()
        .take(MAX_LISTED)
        .map(|key| format!("adapter_config.json: `{key}` is not known and was ignored"))
        .collect();
    if left_out > 0 {
        warnings.push(format!(
            "adapter_config.json: {left_out} more unknown fields were ignored"
        ));
    }
    Ok(warnings)
}

/// Python's truth: null, false, 0, "" and empty containers are not set.
pub(super) fn truthy(value: Option<&Value>) -> bool {
    match value {
        None | Some(Value::Null) => false,
        Some(Value::Bool(set)) => *set,
        Some(Value::Number(number)) => number.as_f64() != Some(0.0),
        Some(Value::String(text)) => !text.is_empty(),
        Some(Value::Array(items)) => !items.is_empty(),
        Some(Value::Object(entries)) => !entries.is_empty(),
    }
}
