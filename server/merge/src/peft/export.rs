//! The `adapter_config.json` that makes a slot's file a PEFT adapter.
//!
//! Complete, so that no reader falls back on a default of its own, and in normal form: alpha is the
//! integer r, no patterns, no rsLoRA. The factors need no conversion; a slot's file *is*
//! `adapter_model.safetensors`.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use crate::AdapterLayout;

/// Writes the configuration of a layout in normal form: sorted keys, indented by 2, a newline at
/// the end. `served_as` is the name under which runtimes serve the base model; some of them insist
/// on exact equality.
#[must_use]
pub fn export_config(layout: &AdapterLayout, served_as: &str) -> Vec<u8> {
    let rank = layout.rank();
    // serde_json keeps the order of insertion here; the macro's keys are sorted by hand.
    let config = json!({
        "alpha_pattern": {},
        "auto_mapping": null,
        "base_model_name_or_path": served_as,
        "bias": "none",
        "fan_in_fan_out": false,
        "inference_mode": true,
        "init_lora_weights": true,
        "layer_replication": null,
        "layers_pattern": null,
        "layers_to_transform": null,
        "loftq_config": {},
        "lora_alpha": rank,
        "lora_dropout": 0.0,
        "megatron_config": null,
        "megatron_core": "megatron.core",
        "modules_to_save": null,
        "peft_type": "LORA",
        "r": rank,
        "rank_pattern": {},
        "revision": null,
        "target_modules": target_modules(layout),
        "task_type": "CAUSAL_LM",
        "use_dora": false,
        "use_rslora": false,
    });
    let mut text =
        serde_json::to_vec_pretty(&config).expect("strings and numbers always serialise");
    text.push(b'\n');
    text
}

/// The shortest list that PEFT's suffix matching turns into exactly the layout's modules.
fn target_modules(layout: &AdapterLayout) -> Vec<Value> {
    let mut layers = BTreeSet::new();
    // Module name inside a block → the layers that have it.
    let mut names = BTreeMap::<&str, BTreeSet<u64>>::new();
    let mut targets = BTreeSet::new();
    for module in &layout.modules {
        match split_layer(&module.path) {
            Some((layer, name)) => {
                layers.insert(layer);
                names.entry(name).or_default().insert(layer);
            }
            None => {
                targets.insert(module.path.as_str());
            }
        }
    }
    // With a hole in the layers a suffix would reach into layers that the adapter does not have.
    let contiguous = layers
        .iter()
        .copied()
        .eq(0..u64::try_from(layers.len()).unwrap_or(u64::MAX));
    let whole = |name: &str| contiguous && names.get(name) == Some(&layers);
    for name in names.keys().copied() {
        let suffix = suffixes(name).find(|suffix| {
            names
                .keys()
                .filter(|other| has_suffix(other, suffix))
                .all(|other| whole(other))
        });
        match suffix {
            Some(suffix) => {
                targets.insert(suffix);
            }
            None => targets.extend(
                layout
                    .modules
                    .iter()
                    .map(|module| module.path.as_str())
                    .filter(|path| split_layer(path).is_some_and(|(_, inside)| inside == name)),
            ),
        }
    }
    targets.into_iter().map(Value::from).collect()
}

/// Layer number and name inside the block: `(3, "self_attn.q_proj")`.
fn split_layer(path: &str) -> Option<(u64, &str)> {
    let mut rest = path;
    while let Some((segment, after)) = rest.split_once('.') {
        if let Ok(layer) = segment.parse() {
            return Some((layer, after));
        }
        rest = after;
    }
    None
}

/// Whole-segment suffixes from the shortest: `q_proj`, `self_attn.q_proj`.
fn suffixes(name: &str) -> impl Iterator<Item = &str> {
    name.rmatch_indices('.')
        .map(|(dot, _)| &name[dot + 1..])
        .chain([name])
}

fn has_suffix(name: &str, suffix: &str) -> bool {
    name.strip_suffix(suffix)
        .is_some_and(|before| before.is_empty() || before.ends_with('.'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::header::{NormalForm, ShapedModule};
    use crate::{Dtype, compare_paths};

    fn layout(paths: &[&str]) -> AdapterLayout {
        let mut paths = paths.to_vec();
        paths.sort_by(|l, r| compare_paths(l, r));
        let modules = paths.iter().map(|path| ShapedModule {
            path,
            out_features: 8,
            in_features: 8,
        });
        NormalForm::new(modules, 4, Dtype::F32).layout
    }

    fn targets(paths: &[&str]) -> Vec<String> {
        let config: Value = serde_json::from_slice(&export_config(&layout(paths), "base")).unwrap();
        serde_json::from_value(config["target_modules"].clone()).unwrap()
    }

    #[test]
    fn whole_models_are_named_by_their_leaves() {
        let found = targets(&[
            "model.layers.0.self_attn.q_proj",
            "model.layers.1.self_attn.q_proj",
            "model.layers.0.mlp.up_proj",
            "model.layers.1.mlp.up_proj",
        ]);
        assert_eq!(found, ["q_proj", "up_proj"]);
    }

    #[test]
    fn modules_of_some_layers_only_are_named_in_full() {
        let found = targets(&[
            "model.layers.0.self_attn.q_proj",
            "model.layers.1.self_attn.q_proj",
            "model.layers.1.self_attn.v_proj",
        ]);
        assert_eq!(found, ["model.layers.1.self_attn.v_proj", "q_proj"]);
        let hole = [
            "model.layers.0.self_attn.q_proj",
            "model.layers.2.self_attn.q_proj",
        ];
        assert_eq!(targets(&hole), hole);
    }

    #[test]
    fn an_ambiguous_leaf_gets_a_longer_suffix() {
        let found = targets(&[
            "model.layers.0.attention.dense",
            "model.layers.1.attention.dense",
            "model.layers.1.mlp.dense",
        ]);
        assert_eq!(found, ["attention.dense", "model.layers.1.mlp.dense"]);
    }

    #[test]
    fn the_text_is_what_peft_would_write() {
        let text = export_config(&layout(&["model.layers.0.self_attn.q_proj"]), "org/base");
        let text = String::from_utf8(text).unwrap();
        assert!(text.starts_with("{\n  \"alpha_pattern\": {},\n"), "{text}");
        assert!(text.ends_with("\"use_rslora\": false\n}\n"), "{text}");
        let config: serde_json::Map<String, Value> = serde_json::from_str(&text).unwrap();
        assert!(config.keys().is_sorted());
        assert_eq!(config["lora_alpha"], json!(4));
        assert_eq!(config["r"], json!(4));
        assert_eq!(config["base_model_name_or_path"], json!("org/base"));
    }
}
