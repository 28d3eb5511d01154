//! Small random models against the logits that transformers gives for the same files.

use std::path::PathBuf;

use serde_json::Value as Json;

use super::*;
use crate::score::{directory, files};

fn data(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/data/models")
        .join(name)
}

/// The largest difference from the golden logits, alone and with the adapter.
fn differences(name: &str) -> [f32; 2] {
    let golden = files::read(&data(name).join("logits.json")).unwrap();
    let golden: Json = serde_json::from_slice(&golden).unwrap();
    let sequences: Vec<Vec<u32>> = serde_json::from_value(golden["sequences"].clone()).unwrap();
    let first: Vec<usize> = serde_json::from_value(golden["first"].clone()).unwrap();
    let asked: Vec<Asked<'_>> = sequences
        .iter()
        .zip(first)
        .map(|(tokens, first)| Asked { tokens, first })
        .collect();
    let alone = directory::load_model(&data(name), &Device::Cpu).unwrap();
    let adapter = Adapter::read(&data(name).join("adapter")).unwrap();
    let adapted = alone.with(&adapter).unwrap();
    [(alone, "alone"), (adapted, "adapted")].map(|(model, key)| {
        let expected: Vec<Vec<f32>> = serde_json::from_value(golden[key].clone()).unwrap();
        let found = model.logits(&asked).unwrap().to_vec2::<f32>().unwrap();
        assert_eq!(found.len(), expected.len());
        let pairs = found.iter().flatten().zip(expected.iter().flatten());
        pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
    })
}

#[test]
fn llama_with_shared_keys_and_stretched_rotation() {
    let differences = differences("llama3");
    assert!(
        differences.iter().all(|most| *most < 2e-4),
        "{differences:?}"
    );
}

#[test]
fn qwen2_with_biases_and_a_tied_head() {
    let differences = differences("qwen2");
    assert!(
        differences.iter().all(|most| *most < 2e-4),
        "{differences:?}"
    );
}

#[test]
fn an_adapter_of_another_model_is_refused() {
    let mut model = directory::load_model(&data("qwen2"), &Device::Cpu).unwrap();
    model.layers.truncate(1);
    let adapter = Adapter::read(&data("qwen2").join("adapter")).unwrap();
    let error = model.with(&adapter).unwrap_err().to_string();
    assert!(
        error.contains("no module layers.1.mlp.down_proj"),
        "{error}"
    );
}
