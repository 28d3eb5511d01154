//! The golden adapters as llama.cpp's gguf package and mlx wrote them.

use std::collections::BTreeMap;

use kmerge_merge::{BaseModel, Decoded, Format, decode, gguf, mlx};
use safetensors::SafeTensors;

use super::{export, factors};
use crate::support::files::{golden, golden_adapter};
use crate::support::gguf as reader;

const NAMES: [&str; 3] = ["a1", "a4-f16", "a4-bf16"];

fn base() -> BaseModel {
    BaseModel::from_config_json(&golden("base/config.json")).unwrap()
}

/// What PEFT's own directory decodes to.
fn original(name: &str) -> (Decoded, Vec<u8>) {
    let config = golden(&format!("adapters/{name}/adapter_config.json"));
    let bytes = golden(&format!("adapters/{name}/adapter_model.safetensors"));
    (decode(&config, &bytes, &base()).unwrap(), bytes)
}

fn assert_same(name: &str, found: &Decoded, file: &Vec<u8>) {
    let (expected, original) = original(name);
    assert_eq!(
        factors(found, file),
        factors(&expected, &original),
        "{name}: every factor bit for bit"
    );
    for (found, expected) in found.layout.modules.iter().zip(&expected.layout.modules) {
        assert_eq!(found.rank, expected.rank, "{name}: {}", found.path);
        assert_eq!(found.scaling, expected.scaling, "{name}: {}", found.path);
    }
}

#[test]
fn what_llama_cpps_package_wrote_is_the_adapter() {
    for name in NAMES {
        let bytes = golden(&format!("expected/formats/{name}.gguf"));
        let decoded = gguf::decode(&bytes, &base()).unwrap();
        assert_same(name, &decoded, &bytes);
    }
}

#[test]
fn what_mlx_wrote_is_the_adapter() {
    for name in NAMES {
        let config = golden(&format!("expected/formats/{name}/adapter_config.json"));
        let bytes = golden(&format!("expected/formats/{name}/adapters.safetensors"));
        let decoded = mlx::decode(&config, &bytes, &base()).unwrap();
        assert_same(name, &decoded, &bytes);
    }
}

#[test]
fn what_is_written_for_llama_cpp_has_the_same_tensors() {
    for name in NAMES {
        let adapter = golden_adapter(name);
        let found = export(adapter.view(), &base(), Format::Gguf).tensors;
        let expected = golden(&format!("expected/formats/{name}.gguf"));
        let (found, expected) = (reader::read(&found), reader::read(&expected));
        assert_eq!(found.tensors, expected.tensors, "{name}");
        for (key, value) in &expected.keys {
            assert_eq!(found.keys.get(key), Some(value), "{name}: {key}");
        }
    }
}

#[test]
fn what_is_written_for_mlx_has_the_same_tensors() {
    for name in NAMES {
        let adapter = golden_adapter(name);
        let found = export(adapter.view(), &base(), Format::Mlx);
        let expected = golden(&format!("expected/formats/{name}/adapters.safetensors"));
        assert_eq!(tensors(&found.tensors), tensors(&expected), "{name}");
        let config = golden(&format!("expected/formats/{name}/adapter_config.json"));
        let read = |bytes: &[u8]| serde_json::from_slice::<serde_json::Value>(bytes).unwrap();
        let (found, expected) = (read(&found.config), read(&config));
        for key in ["fine_tune_type", "num_layers"] {
            assert_eq!(found[key], expected[key], "{name}: {key}");
        }
        for key in ["rank", "scale", "dropout", "keys"] {
            let inner = "lora_parameters";
            assert_eq!(found[inner][key], expected[inner][key], "{name}: {key}");
        }
    }
}

type Tensors = BTreeMap<String, (String, Vec<usize>, Vec<u8>)>;

fn tensors(file: &[u8]) -> Tensors {
    let read = SafeTensors::deserialize(file).unwrap();
    read.iter()
        .map(|(name, view)| {
            let facts = (
                format!("{:?}", view.dtype()),
                view.shape().to_vec(),
                view.data().to_vec(),
            );
            (name.to_owned(), facts)
        })
        .collect()
}
