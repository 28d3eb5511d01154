//! What mlx-lm's `adapter_config.json` says about scaling and modules, checked.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use crate::json::{self, printable};
use crate::peft::{self, MAX_ALPHA, MIN_ALPHA};
use crate::{AdapterError, Evidence, MlxError};

/// Most layer-relative paths.
const MAX_KEYS: usize = 512;

/// The fields that count. mlx-lm writes its whole training configuration into the file; the rest
/// says nothing about the factors.
#[derive(Debug)]
pub(super) struct Config {
    /// Of all modules.
    pub(super) rank: usize,
    /// The factor of each update.
    pub(super) scale: f64,
    /// How many layers, counted from the last, may have factors; none: all.
    pub(super) layers: Option<u64>,
    /// Which modules may have factors; none: all.
    keys: Option<BTreeSet<String>>,
}

impl Config {
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, AdapterError> {
        let config = json::parse_object(bytes).map_err(peft::defect)?;
        fine_tune_type(&config)?;
        let Some(parameters) = config.get("lora_parameters") else {
            return Err(MlxError::MissingField {
                key: "lora_parameters",
            }
            .into());
        };
        let parameters = parameters
            .as_object()
            .ok_or_else(|| wrong_type("lora_parameters", "an object"))?;
        let rank = match parameters.get("rank") {
            None => {
                return Err(MlxError::MissingField {
                    key: "lora_parameters.rank",
                }
                .into());
            }
            Some(rank) => peft::rank("lora_parameters.rank".into(), rank)?,
        };
        Ok(Self {
            rank,
            scale: scale(parameters)?,
            layers: layers(&config)?,
            keys: keys(parameters)?,
        })
    }

    /// Whether `keys` lets a module have factors: by its path inside the block or its whole path.
    pub(super) fn has(&self, inside: &str, path: &str) -> bool {
        self.keys
            .as_ref()
            .is_none_or(|keys| keys.contains(inside) || keys.contains(path))
    }
}

fn wrong_type(key: &str, expected: &'static str) -> AdapterError {
    AdapterError::ConfigType {
        key: key.to_owned(),
        expected,
    }
}

fn fine_tune_type(config: &Map<String, Value>) -> Result<(), AdapterError> {
    match config.get("fine_tune_type") {
        // Files from before there was a choice.
        None => Ok(()),
        Some(Value::String(word)) if word == "lora" => Ok(()),
        Some(Value::String(word)) if word == "dora" => Err(AdapterError::Dora {
            evidence: Evidence::Field("fine_tune_type"),
        }),
        Some(Value::String(word)) => Err(MlxError::FineTuneType {
            got: printable(word, 32),
        }
        .into()),
        Some(_) => Err(wrong_type("fine_tune_type", "a string")),
    }
}

fn scale(parameters: &Map<String, Value>) -> Result<f64, AdapterError> {
    let key = "lora_parameters.scale";
    let Some(value) = parameters.get("scale") else {
        return Err(MlxError::MissingField { key }.into());
    };
    let number = value
        .as_number()
        .ok_or_else(|| wrong_type(key, "a number"))?;
    number
        .as_f64()
        .filter(|scale| (MIN_ALPHA..=MAX_ALPHA).contains(scale))
        .ok_or_else(|| {
            MlxError::Scale {
                got: number.to_string(),
                lowest: MIN_ALPHA,
                highest: MAX_ALPHA,
            }
            .into()
        })
}

/// mlx-lm takes zero and less as all.
fn layers(config: &Map<String, Value>) -> Result<Option<u64>, AdapterError> {
    match config.get("num_layers") {
        None => Err(MlxError::MissingField { key: "num_layers" }.into()),
        Some(value) => match value.as_i64() {
            Some(number) => Ok(u64::try_from(number).ok().filter(|&number| number > 0)),
            None => Err(wrong_type("num_layers", "a whole number")),
        },
    }
}

fn keys(parameters: &Map<String, Value>) -> Result<Option<BTreeSet<String>>, AdapterError> {
    let key = "lora_parameters.keys";
    let expected = "a list of strings";
    match parameters.get("keys") {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Array(names)) if names.len() > MAX_KEYS => Err(MlxError::TooManyKeys {
            got: names.len(),
            limit: MAX_KEYS,
        }
        .into()),
        Some(Value::Array(names)) => names
            .iter()
            .map(|name| name.as_str().map(str::to_owned))
            .collect::<Option<_>>()
            .map(Some)
            .ok_or_else(|| wrong_type(key, expected)),
        Some(_) => Err(wrong_type(key, expected)),
    }
}
