//! What `adapter_config.json` says about scaling, checked.

use serde_json::{Map, Value};

use super::MAX_RANK;
use super::pattern::Pattern;
use super::refuse::{self, truthy};
use crate::json::{self, JsonDefect, printable};
use crate::{AdapterError, BaseModel};

/// Most entries of `target_modules`.
const MAX_TARGET_MODULES: usize = 512;
/// Largest alpha. Real ones are below 1,000; this one at rank 1 still scales factors that are
/// finite in f16 to factors that are finite in f32.
pub(crate) const MAX_ALPHA: f64 = 1e6;
/// Smallest alpha, below which a factor's scaling could vanish in f32.
pub(crate) const MIN_ALPHA: f64 = 1e-6;
/// PEFT's own default for `r` and `lora_alpha`.
const DEFAULT: u32 = 8;

/// The fields that scaling derives from.
#[derive(Debug)]
pub(super) struct LoraConfig {
    rank: usize,
    alpha: f64,
    rank_pattern: Pattern<usize>,
    alpha_pattern: Pattern<f64>,
    /// Scaling is alpha/√r instead of alpha/r (rsLoRA, arXiv 2312.03732).
    rank_stabilised: bool,
    pub(super) warnings: Vec<String>,
}

impl LoraConfig {
    pub(super) fn parse(bytes: &[u8], base: &BaseModel) -> Result<Self, AdapterError> {
        let config = json::parse_object(bytes).map_err(defect)?;
        let mut warnings = refuse::check(&config)?;
        target_modules(&config)?;
        remarks(&config, base, &mut warnings);
        let flag = |key: &'static str| match config.get(key) {
            None | Some(Value::Null) => Ok(false),
            Some(Value::Bool(set)) => Ok(*set),
            Some(_) => Err(AdapterError::ConfigType {
                key: key.into(),
                expected: "true or false",
            }),
        };
        let rank = match config.get("r") {
            None => Ok(usize::try_from(DEFAULT).expect("fits")),
            Some(value) => rank("r".into(), value),
        }?;
        let alpha = match config.get("lora_alpha") {
            None => Ok(f64::from(DEFAULT)),
            Some(value) => alpha("lora_alpha".into(), value),
        }?;
        Ok(Self {
            rank,
            alpha,
            rank_pattern: pattern(&config, "rank_pattern", rank_of)?,
            alpha_pattern: pattern(&config, "alpha_pattern", alpha_of)?,
            rank_stabilised: flag("use_rslora")?,
            warnings,
        })
    }

    /// The rank that the configuration gives a module, and the field that says so.
    pub(super) fn rank(&self, module: &str) -> (usize, &'static str) {
        self.rank_pattern
            .get(module)
            .map_or((self.rank, "r"), |rank| (rank, "rank_pattern"))
    }

    /// Scaling of a module whose factors have `rank`.
    pub(super) fn scaling(&self, module: &str, rank: usize) -> f64 {
        let alpha = self.alpha_pattern.get(module).unwrap_or(self.alpha);
        let rank = f64::from(u32::try_from(rank).expect("bounded by MAX_RANK"));
        alpha
            / if self.rank_stabilised {
                rank.sqrt()
            } else {
                rank
            }
    }
}

pub(crate) fn defect(defect: JsonDefect) -> AdapterError {
    match defect {
        JsonDefect::TooLarge { bytes, limit } => AdapterError::ConfigTooLarge { bytes, limit },
        JsonDefect::Syntax { detail } => AdapterError::ConfigSyntax { detail },
        JsonDefect::DuplicateKey { key } => AdapterError::ConfigDuplicateKey { key },
        JsonDefect::NotAnObject => AdapterError::ConfigNotAnObject,
    }
}

/// The list is not trusted (tensor names say which modules there are), but it must make sense.
fn target_modules(config: &Map<String, Value>) -> Result<(), AdapterError> {
    match config.get("target_modules") {
        None | Some(Value::Null | Value::String(_)) => Ok(()),
        Some(Value::Array(names)) if names.len() > MAX_TARGET_MODULES => {
            Err(AdapterError::TooManyTargetModules {
                got: names.len(),
                limit: MAX_TARGET_MODULES,
            })
        }
        Some(Value::Array(names)) if names.iter().all(Value::is_string) => Ok(()),
        Some(_) => Err(AdapterError::ConfigType {
            key: "target_modules".into(),
            expected: "a string or a list of strings",
        }),
    }
}

/// Notes what is odd but does no harm.
fn remarks(config: &Map<String, Value>, base: &BaseModel, warnings: &mut Vec<String>) {
    let text = |key: &str| config.get(key).and_then(Value::as_str);
    match text("task_type") {
        Some("CAUSAL_LM") => {}
        Some(other) => warnings.push(format!(
            "adapter_config.json: task_type is {}, not CAUSAL_LM",
            printable(other, 32)
        )),
        None => warnings.push("adapter_config.json: task_type is not set to CAUSAL_LM".to_owned()),
    }
    if truthy(config.get("fan_in_fan_out")) {
        warnings.push(
            "adapter_config.json: fan_in_fan_out is set, which linear layers ignore".to_owned(),
        );
    }
    if let (Some(trained), Some(name)) = (text("base_model_name_or_path"), base.name_or_path())
        && trained != name
    {
        warnings.push(format!(
            "the adapter names the base model {}, the registered one names itself {}; only shapes were compared",
            printable(trained, 96),
            printable(name, 96),
        ));
    }
}

pub(crate) fn rank(key: String, value: &Value) -> Result<usize, AdapterError> {
    let Some(number) = value.as_number() else {
        return Err(AdapterError::ConfigType {
            key,
            expected: "a whole number",
        });
    };
    number
        .as_u64()
        .and_then(|rank| usize::try_from(rank).ok())
        .filter(|rank| (1..=MAX_RANK).contains(rank))
        .ok_or_else(|| AdapterError::RankOutOfRange {
            key,
            got: number.to_string(),
            limit: MAX_RANK,
        })
}

fn alpha(key: String, value: &Value) -> Result<f64, AdapterError> {
    let Some(number) = value.as_number() else {
        return Err(AdapterError::ConfigType {
            key,
            expected: "a number",
        });
    };
    number
        .as_f64()
        .filter(|alpha| (MIN_ALPHA..=MAX_ALPHA).contains(alpha))
        .ok_or_else(|| AdapterError::AlphaOutOfRange {
            key,
            got: number.to_string(),
            lowest: MIN_ALPHA,
            highest: MAX_ALPHA,
        })
}

fn rank_of(field: &'static str, key: &str, value: &Value) -> Result<usize, AdapterError> {
    rank(format!("{field}.{}", printable(key, 64)), value)
}

fn alpha_of(field: &'static str, key: &str, value: &Value) -> Result<f64, AdapterError> {
    alpha(format!("{field}.{}", printable(key, 64)), value)
}

fn pattern<T: Copy>(
    config: &Map<String, Value>,
    field: &'static str,
    read: fn(&'static str, &str, &Value) -> Result<T, AdapterError>,
) -> Result<Pattern<T>, AdapterError> {
    let entries: Vec<(String, T)> = match config.get(field) {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::Object(entries)) => entries
            .iter()
            .map(|(key, value)| Ok((key.clone(), read(field, key, value)?)))
            .collect::<Result<_, AdapterError>>()?,
        Some(_) => {
            return Err(AdapterError::ConfigType {
                key: field.into(),
                expected: "an object from module names to numbers",
            });
        }
    };
    Pattern::new(field, entries.into_iter())
}
