//! A decoder's shape, from a Hugging Face config.json. GGUF metadata gives the same value.

use std::path::Path;

use serde_json::Value as Json;

use super::error::Error;

/// What must be known of a Llama or Qwen2 model beside its tensors.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Shape {
    pub(crate) layers: usize,
    /// Query heads.
    pub(crate) heads: usize,
    /// Key and value heads; divides `heads`.
    pub(crate) kv_heads: usize,
    /// Width of one head.
    pub(crate) head_width: usize,
    pub(crate) norm_epsilon: f64,
    pub(crate) rope_theta: f64,
    /// How long contexts stretch the rotary frequencies, if they do.
    pub(crate) stretch: Option<Stretch>,
}

/// Llama 3's stretching of the rotary frequencies.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Stretch {
    pub(crate) factor: f64,
    pub(crate) low: f64,
    pub(crate) high: f64,
    /// Context in tokens before it was stretched.
    pub(crate) original_context: f64,
}

impl Shape {
    /// Reads a config.json.
    pub(crate) fn from_config(path: &Path, config: &Json) -> Result<Self, Error> {
        let bad = |why: String| Error::unusable(path, why);
        let kind = config["model_type"].as_str().unwrap_or("none");
        if !matches!(kind, "llama" | "qwen2") {
            return Err(bad(format!(
                "its model_type is {kind}; llama and qwen2 can be run"
            )));
        }
        if config["use_sliding_window"].as_bool() == Some(true) {
            return Err(bad("sliding windows cannot be run".to_owned()));
        }
        let count = |name: &str| {
            config[name]
                .as_u64()
                .and_then(|value| usize::try_from(value).ok())
                .filter(|value| *value > 0)
        };
        let must = |name: &str| count(name).ok_or_else(|| bad(format!("it has no {name}")));
        let heads = must("num_attention_heads")?;
        // Newer configurations keep all of rope in one object.
        let rope = ["rope_parameters", "rope_scaling"]
            .into_iter()
            .map(|name| &config[name])
            .find(|value| value.is_object())
            .unwrap_or(&Json::Null);
        let theta = config["rope_theta"]
            .as_f64()
            .or(rope["rope_theta"].as_f64());
        let shape = Self {
            layers: must("num_hidden_layers")?,
            heads,
            kv_heads: count("num_key_value_heads").unwrap_or(heads),
            head_width: match count("head_dim") {
                Some(width) => width,
                None => must("hidden_size")? / heads,
            },
            norm_epsilon: config["rms_norm_eps"].as_f64().unwrap_or(1e-6),
            rope_theta: theta.unwrap_or(10_000.0),
            stretch: stretch(rope).map_err(bad)?,
        };
        shape.check().map_err(bad)?;
        Ok(shape)
    }

    /// Whether the numbers make sense together.
    pub(crate) fn check(&self) -> Result<(), String> {
        if self.kv_heads == 0 || !self.heads.is_multiple_of(self.kv_heads) {
            return Err(format!(
                "{} heads cannot share {} key heads",
                self.heads, self.kv_heads
            ));
        }
        if self.head_width == 0 || !self.head_width.is_multiple_of(2) {
            return Err(format!("a head of width {} cannot turn", self.head_width));
        }
        Ok(())
    }

    /// The rotary frequencies of one head, half its width of them, in radians a token.
    pub(crate) fn frequencies(&self) -> Vec<f32> {
        let half = u32::try_from(self.head_width / 2).unwrap_or(u32::MAX);
        (0..half)
            .map(|index| {
                let turn = f64::from(index) / f64::from(half);
                let frequency = self.rope_theta.powf(-turn);
                let frequency = match &self.stretch {
                    Some(stretch) => stretch.apply(frequency),
                    None => frequency,
                };
                #[expect(clippy::cast_possible_truncation, reason = "the model runs in f32")]
                {
                    frequency as f32
                }
            })
            .collect()
    }
}

impl Stretch {
    /// Long waves are slowed by the factor, short ones stay, and those between are blended.
    fn apply(&self, frequency: f64) -> f64 {
        let wave = 2.0 * std::f64::consts::PI / frequency;
        if wave < self.original_context / self.high {
            return frequency;
        }
        if wave > self.original_context / self.low {
            return frequency / self.factor;
        }
        let smooth = (self.original_context / wave - self.low) / (self.high - self.low);
        (1.0 - smooth) * frequency / self.factor + smooth * frequency
    }
}

fn stretch(rope: &Json) -> Result<Option<Stretch>, String> {
    let kind = rope["rope_type"].as_str().or(rope["type"].as_str());
    let number = |name: &str| {
        let value = rope[name].as_f64();
        value.ok_or_else(|| format!("its rope scaling has no {name}"))
    };
    match kind {
        None | Some("default") => Ok(None),
        Some("llama3") => Ok(Some(Stretch {
            factor: number("factor")?,
            low: number("low_freq_factor")?,
            high: number("high_freq_factor")?,
            original_context: number("original_max_position_embeddings")?,
        })),
        Some(other) => Err(format!("rope scaling {other} cannot be run; llama3 can")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn shape(config: &Json) -> Result<Shape, Error> {
        Shape::from_config(Path::new("config.json"), config)
    }

    #[test]
    fn what_is_left_out_has_its_usual_value() {
        let config = json!({
            "model_type": "llama", "num_hidden_layers": 2, "num_attention_heads": 4,
            "hidden_size": 64,
        });
        let shape = shape(&config).unwrap();
        assert_eq!((shape.kv_heads, shape.head_width), (4, 16));
        assert_eq!(shape.frequencies()[..2], [1.0, 10_000_f32.powf(-0.125)]);
    }

    #[test]
    fn what_cannot_be_run_is_refused_by_name() {
        let mut config = json!({
            "model_type": "llama", "num_hidden_layers": 2, "num_attention_heads": 4,
            "hidden_size": 64, "rope_scaling": { "rope_type": "yarn" },
        });
        assert!(shape(&config).unwrap_err().to_string().contains("yarn"));
        config["rope_scaling"] = Json::Null;
        config["num_key_value_heads"] = 3.into();
        assert!(
            shape(&config)
                .unwrap_err()
                .to_string()
                .contains("3 key heads")
        );
        config["model_type"] = "mamba".into();
        assert!(shape(&config).unwrap_err().to_string().contains("mamba"));
    }
}
