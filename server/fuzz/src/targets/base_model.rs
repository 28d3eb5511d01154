//! What a base model is registered with: its config.json, or the header of its GGUF file, from
//! which the command line makes one.

use kmerge_merge::BaseModel;

use super::gguf_model;

const PATHS: [&str; 4] = [
    "model.layers.0.self_attn.q_proj",
    "model.layers.0.mlp.down_proj",
    "gpt_neox.layers.0.attention.query_key_value",
    "model.layers.1.self_attn.qkv_proj",
];

pub fn check(input: &[u8]) {
    if !input.starts_with(b"GGUF") {
        return read(input);
    }
    match gguf_model::config(input) {
        Ok(config) => read(config.to_string().as_bytes()),
        Err(why) => assert!(!why.is_empty() && why.len() < 8192),
    }
}

fn read(config: &[u8]) {
    match BaseModel::from_config_json(config) {
        Ok(base) => {
            assert!(base.layers() > 0 && base.hidden_size() > 0 && !base.architecture().is_empty());
            for shape in PATHS.iter().filter_map(|path| base.module_shape(path)) {
                assert!(shape.in_features > 0 && shape.out_features > 0);
                let elements = shape.in_features.checked_mul(shape.out_features);
                assert!(elements.is_some(), "a shape overflows");
            }
        }
        Err(error) => {
            let message = error.to_string();
            assert!(
                !message.is_empty() && message.len() < 2048 && !message.contains(char::is_control),
                "an error that nobody can read: {message:?}"
            );
        }
    }
}
