//! A PEFT directory as the model needs it: for every module the factors and the scaling.
//!
//! What would change the model in another way (`DoRA`, trained biases, whole modules saved) is
//! refused by name, since a score without it would be a score of something else.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use regex::RegexBuilder;
use serde_json::Value as Json;
use sha2::{Digest as _, Sha256};

use super::error::Error;
use super::files;

const CONFIG: &str = "adapter_config.json";
const TENSORS: &str = "adapter_model.safetensors";
/// Bytes that one pattern may take when compiled.
const PATTERN_BYTES: usize = 1 << 20;

/// The effect on one module: scaling · B · A.
#[derive(Debug, Clone)]
pub(crate) struct Update {
    /// Rank × in, F32 on the processor.
    a: Tensor,
    /// Out × rank, F32 on the processor.
    b: Tensor,
    /// alpha / rank, or alpha / √rank under rsLoRA.
    scaling: f64,
}

impl Update {
    /// An update by its factors, rank × in and out × rank.
    #[cfg(test)]
    pub(crate) fn new(a: Tensor, b: Tensor, scaling: f64) -> Self {
        Self { a, b, scaling }
    }

    /// A and B.
    pub(crate) fn factors(&self) -> (&Tensor, &Tensor) {
        (&self.a, &self.b)
    }

    /// scaling · B · A on a device: out × in.
    pub(crate) fn dense(&self, device: &Device) -> candle_core::Result<Tensor> {
        let product = self
            .b
            .to_device(device)?
            .matmul(&self.a.to_device(device)?)?;
        product * self.scaling
    }
}

/// A whole adapter.
#[derive(Debug, Clone)]
pub(crate) struct Adapter {
    /// By module, as `layers.0.self_attn.q_proj`.
    updates: BTreeMap<String, Update>,
    digest: String,
}

impl Adapter {
    /// Reads a PEFT directory.
    pub(crate) fn read(directory: &Path) -> Result<Self, Error> {
        let path = directory.join(CONFIG);
        let config: Json = serde_json::from_slice(&files::read(&path)?)
            .map_err(|error| Error::unusable(&path, error))?;
        let alphas = Alphas::read(&config).map_err(|why| Error::unusable(&path, why))?;
        let path = directory.join(TENSORS);
        let bad = |why: String| Error::unusable(&path, why);
        let tensors = candle_core::safetensors::load_buffer(&files::read(&path)?, &Device::Cpu)
            .map_err(|error| bad(error.to_string()))?;
        let (mut downs, mut ups) = (BTreeMap::new(), BTreeMap::new());
        for (name, tensor) in tensors {
            let tensor = tensor.to_dtype(DType::F32)?;
            match Factor::of(&name) {
                Some((module, Factor::A)) => downs.insert(module, tensor),
                Some((module, Factor::B)) => ups.insert(module, tensor),
                None => return Err(bad(format!("{name} is no factor of a linear module"))),
            };
        }
        let mut updates = BTreeMap::new();
        for (module, a) in downs {
            let Some(b) = ups.remove(&module) else {
                return Err(bad(format!("{module} has A and no B")));
            };
            let rank = match (a.dims(), b.dims()) {
                (&[rank, _], &[_, same]) if rank == same && rank > 0 => rank,
                _ => return Err(bad(format!("A and B of {module} do not fit together"))),
            };
            let scaling = alphas.scaling(&module, rank);
            updates.insert(module, Update { a, b, scaling });
        }
        if let Some(module) = ups.keys().next() {
            return Err(bad(format!("{module} has B and no A")));
        }
        if updates.is_empty() {
            return Err(bad("it has no tensors".to_owned()));
        }
        let digest = digest(&updates)?;
        Ok(Self { updates, digest })
    }

    /// An adapter by its updates.
    #[cfg(test)]
    pub(crate) fn of(updates: BTreeMap<String, Update>) -> candle_core::Result<Self> {
        let digest = digest(&updates)?;
        Ok(Self { updates, digest })
    }

    /// The modules that it changes, by name, as `layers.0.self_attn.q_proj`.
    pub(crate) fn updates(&self) -> impl Iterator<Item = (&str, &Update)> {
        let named = self.updates.iter();
        named.map(|(name, update)| (name.strip_prefix("model.").unwrap_or(name), update))
    }

    /// SHA-256 of the effect: modules, shapes, values, scalings. The same effect from another
    /// file, or under another task, has the same digest.
    pub(crate) fn digest(&self) -> &str {
        &self.digest
    }
}

/// What the configuration says of scaling.
#[derive(Debug)]
struct Alphas {
    alpha: f64,
    /// Other values for modules whose names end in a match; the first counts, as in PEFT.
    patterns: Vec<(regex::Regex, f64)>,
    by_root: bool,
}

impl Alphas {
    /// Reads a configuration, and refuses what is more than scaling · B · A.
    fn read(config: &Json) -> Result<Self, String> {
        let kind = config["peft_type"].as_str().unwrap_or("LORA");
        if kind != "LORA" {
            return Err(format!("its kind is {kind}, and only LORA can be scored"));
        }
        for name in ["use_dora", "fan_in_fan_out"] {
            if config[name].as_bool() == Some(true) {
                return Err(format!("{name} cannot be scored"));
            }
        }
        let mut patterns = Vec::new();
        for (pattern, alpha) in config["alpha_pattern"].as_object().into_iter().flatten() {
            let alpha = alpha.as_f64();
            let alpha = alpha.ok_or_else(|| format!("alpha_pattern {pattern} has no number"))?;
            let regex = RegexBuilder::new(&format!(r"^(?:.*\.)?(?:{pattern})$"))
                .size_limit(PATTERN_BYTES)
                .build()
                .map_err(|error| format!("alpha_pattern {pattern} cannot be read: {error}"))?;
            patterns.push((regex, alpha));
        }
        let alpha = config["lora_alpha"].as_f64();
        Ok(Self {
            alpha: alpha.ok_or("it has no lora_alpha")?,
            patterns,
            by_root: config["use_rslora"].as_bool() == Some(true),
        })
    }

    fn scaling(&self, module: &str, rank: usize) -> f64 {
        let pattern = self
            .patterns
            .iter()
            .find(|(regex, _)| regex.is_match(module));
        let alpha = pattern.map_or(self.alpha, |(_, alpha)| *alpha);
        let rank = f64::from(u32::try_from(rank).unwrap_or(u32::MAX));
        alpha / if self.by_root { rank.sqrt() } else { rank }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Factor {
    A,
    B,
}

impl Factor {
    /// The module and the factor that a tensor's name speaks of.
    fn of(name: &str) -> Option<(String, Self)> {
        let name = name.strip_prefix("base_model.model.").unwrap_or(name);
        let name = name.strip_suffix(".weight")?;
        // A named adapter's tensors carry its name, as PEFT's own state has it.
        let name = name.strip_suffix(".default").unwrap_or(name);
        let (module, factor) = match name.strip_suffix(".lora_A") {
            Some(module) => (module, Self::A),
            None => (name.strip_suffix(".lora_B")?, Self::B),
        };
        Some((module.to_owned(), factor))
    }
}

fn digest(updates: &BTreeMap<String, Update>) -> candle_core::Result<String> {
    let mut hash = Sha256::new();
    for (module, update) in updates {
        hash.update(format!(
            "{module}\n{:?}{:?}\n",
            update.a.dims(),
            update.b.dims()
        ));
        hash.update(update.scaling.to_le_bytes());
        for factor in [&update.a, &update.b] {
            for value in factor.flatten_all()?.to_vec1::<f32>()? {
                hash.update(value.to_le_bytes());
            }
        }
    }
    Ok(files::hex(&hash.finalize()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn names_lead_to_modules() {
        let module = "model.layers.3.self_attn.q_proj".to_owned();
        let name = |rest: &str| Factor::of(&format!("base_model.model.{module}{rest}"));
        assert_eq!(name(".lora_A.weight"), Some((module.clone(), Factor::A)));
        assert_eq!(
            name(".lora_B.default.weight"),
            Some((module.clone(), Factor::B))
        );
        assert_eq!(name(".lora_magnitude_vector"), None);
        assert_eq!(name(".bias"), None);
    }

    #[test]
    fn scaling_follows_alpha_rank_pattern_and_rslora() {
        let plain = json!({"lora_alpha": 32, "alpha_pattern": {"layers.1.mlp.up_proj": 4}});
        let plain = Alphas::read(&plain).unwrap();
        let scaling = |layer: u32| plain.scaling(&format!("model.layers.{layer}.mlp.up_proj"), 16);
        assert_eq!([scaling(0), scaling(1), scaling(11)], [2.0, 0.25, 2.0]);
        let root = Alphas::read(&json!({"lora_alpha": 32, "use_rslora": true})).unwrap();
        assert_eq!(root.scaling("model.layers.0.mlp.up_proj", 16), 8.0);
    }

    #[test]
    fn what_does_more_than_factors_is_refused_by_name() {
        let said = |config| Alphas::read(&config).unwrap_err();
        assert!(said(json!({"lora_alpha": 1, "use_dora": true})).contains("use_dora"));
        assert!(said(json!({"lora_alpha": 1, "peft_type": "IA3"})).contains("IA3"));
        assert!(said(json!({})).contains("lora_alpha"));
    }

    #[test]
    fn the_digest_is_of_the_effect() {
        let of = |scaling: f64, value: f32| {
            let update = Update {
                a: Tensor::full(value, (2, 3), &Device::Cpu).unwrap(),
                b: Tensor::full(1_f32, (4, 2), &Device::Cpu).unwrap(),
                scaling,
            };
            digest(&BTreeMap::from([("m".to_owned(), update)])).unwrap()
        };
        assert_eq!(of(1.0, 2.0), of(1.0, 2.0));
        assert_ne!(of(1.0, 2.0), of(2.0, 2.0));
        assert_ne!(of(1.0, 2.0), of(1.0, 3.0));
    }
}
