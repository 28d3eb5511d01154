//! Tensor names: which module and factor a name means, or which variant it gives away.
//!
//! `base_model.model.<module>.lora_A.weight` is what PEFT writes. Two deviations are met in the
//! wild and accepted: the adapter's name left in (`lora_A.default.weight`) and the prefix doubled.

use crate::{AdapterError, Evidence};

/// What PEFT puts before the module's own path.
const PREFIX: &str = "base_model.model.";

/// Which of the two factors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Factor {
    A,
    B,
}

impl Factor {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::A => "lora_A",
            Self::B => "lora_B",
        }
    }

    fn parse(segment: &str) -> Option<Self> {
        [Self::A, Self::B]
            .into_iter()
            .find(|factor| factor.name() == segment)
    }
}

/// A name taken apart.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct FactorName<'a> {
    pub(super) module: &'a str,
    pub(super) factor: Factor,
    /// The adapter's name, where it was left in.
    pub(super) adapter: Option<&'a str>,
}

/// Takes a name apart, or says what it is instead of a factor.
pub(super) fn parse(name: &str) -> Result<FactorName<'_>, AdapterError> {
    if let Some(variant) = variant(name) {
        return Err(variant);
    }
    let unknown = || AdapterError::UnknownTensor {
        name: name.to_owned(),
    };
    let Some(stem) = name.strip_suffix(".weight") else {
        return Err(unknown());
    };
    let Some((found, adapter)) = split(stem) else {
        // Whole weights appear with and without PEFT's prefix.
        return Err(AdapterError::FullTensor {
            name: name.to_owned(),
        });
    };
    let (path, factor) = found;
    let path = path.strip_prefix(PREFIX).ok_or_else(unknown)?;
    let module = path.strip_prefix(PREFIX).unwrap_or(path);
    if module.is_empty() {
        return Err(unknown());
    }
    match module.rsplit('.').next() {
        Some("base_layer" | "experts") => Err(AdapterError::TargetParameters {
            evidence: Evidence::Tensor(name.to_owned()),
        }),
        Some("lm_head" | "embed_tokens" | "embed_in" | "embed_out" | "wte") => {
            Err(AdapterError::EmbeddingOrHead {
                name: name.to_owned(),
            })
        }
        _ => Ok(FactorName {
            module,
            factor,
            adapter,
        }),
    }
}

/// The name that normal form uses.
pub(super) fn parse_normal(name: &str) -> Result<(&str, Factor), AdapterError> {
    name.strip_suffix(".weight")
        .and_then(|stem| stem.strip_prefix(PREFIX))
        .and_then(|stem| stem.rsplit_once('.'))
        .and_then(|(module, segment)| Some((module, Factor::parse(segment)?)))
        .filter(|(module, _)| !module.is_empty())
        .ok_or_else(|| AdapterError::SlotName {
            name: name.to_owned(),
        })
}

/// Splits `<path>.lora_A` or `<path>.lora_A.<adapter>`.
fn split(stem: &str) -> Option<((&str, Factor), Option<&str>)> {
    let (path, last) = stem.rsplit_once('.')?;
    if let Some(factor) = Factor::parse(last) {
        return Some(((path, factor), None));
    }
    let (path, middle) = path.rsplit_once('.')?;
    Some(((path, Factor::parse(middle)?), Some(last)))
}

/// Names that only refused variants have.
fn variant(name: &str) -> Option<AdapterError> {
    let evidence = || Evidence::Tensor(name.to_owned());
    if name.contains("lora_magnitude_vector") {
        Some(AdapterError::Dora {
            evidence: evidence(),
        })
    } else if name.contains("lora_embedding_") {
        Some(AdapterError::EmbeddingOrHead {
            name: name.to_owned(),
        })
    } else if name.contains("trainable_tokens") {
        Some(AdapterError::TrainableTokens {
            evidence: evidence(),
        })
    } else if name.ends_with(".bias") {
        Some(AdapterError::Bias {
            evidence: evidence(),
        })
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepted_spellings_mean_the_same_module() {
        let module = "model.layers.0.self_attn.q_proj";
        for (name, adapter) in [
            (
                "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight",
                None,
            ),
            (
                "base_model.model.model.layers.0.self_attn.q_proj.lora_A.default.weight",
                Some("default"),
            ),
            (
                "base_model.model.base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight",
                None,
            ),
        ] {
            assert_eq!(
                parse(name).unwrap(),
                FactorName {
                    module,
                    factor: Factor::A,
                    adapter
                }
            );
        }
        let name = "base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight";
        assert_eq!(parse_normal(name).unwrap(), (module, Factor::B));
    }

    #[test]
    fn every_other_name_says_what_it_is() {
        for (name, reason) in [
            ("base_model.model.m.lora_A", "UNKNOWN_TENSOR"),
            ("m.lora_A.weight", "UNKNOWN_TENSOR"),
            ("base_model.model..lora_A.weight", "UNKNOWN_TENSOR"),
            ("lora_A.weight", "FULL_TENSOR"),
            ("base_model.model.m.lora_A.a.b.weight", "FULL_TENSOR"),
            ("base_model.model.m.weight", "FULL_TENSOR"),
            ("weight", "UNKNOWN_TENSOR"),
            ("base_model.model.m.lora_B.bias", "BIAS"),
            ("base_model.model.m.lora_magnitude_vector", "DORA"),
            ("base_model.model.m.lora_embedding_A", "EMBEDDING_OR_HEAD"),
            (
                "base_model.model.lm_head.lora_A.weight",
                "EMBEDDING_OR_HEAD",
            ),
            (
                "base_model.model.m.token_adapter.trainable_tokens_delta",
                "TRAINABLE_TOKENS",
            ),
            (
                "base_model.model.m.experts.base_layer.lora_A.weight",
                "TARGET_PARAMETERS",
            ),
        ] {
            assert_eq!(parse(name).unwrap_err().reason(), reason, "{name}");
        }
    }

    #[test]
    fn normal_form_has_one_spelling() {
        for name in [
            "base_model.model.m.lora_A.default.weight",
            "m.lora_A.weight",
            "base_model.model.lora_A.weight",
            "base_model.model.m.lora_C.weight",
        ] {
            assert_eq!(
                parse_normal(name).unwrap_err().reason(),
                "SLOT_NAME",
                "{name}"
            );
        }
    }
}
