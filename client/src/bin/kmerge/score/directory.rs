//! A model from a Hugging Face directory: config.json, safetensors, tokenizer.json.

use std::path::{Path, PathBuf};

use candle_core::{DType, Device};
use serde_json::Value as Json;

use super::error::Error;
use super::files;
use super::model::{Model, Weights};
use super::shape::Shape;
use super::tokenizer::Tokenizer;

const INDEX: &str = "model.safetensors.index.json";

/// Reads model and tokenizer.
pub(crate) fn load(directory: &Path, device: &Device) -> Result<(Model, Tokenizer), Error> {
    let model = load_model(directory, device)?;
    let path = directory.join("tokenizer.json");
    let tokenizer = Tokenizer::from_json(&path, &files::read(&path)?)?;
    Ok((model, tokenizer))
}

/// Reads the model alone.
pub(crate) fn load_model(directory: &Path, device: &Device) -> Result<Model, Error> {
    let path = directory.join("config.json");
    let shape = Shape::from_config(&path, &json(&path)?)?;
    let mut weights = Weights::new();
    for path in tensor_files(directory)? {
        let bytes = files::read(&path)?;
        let tensors = candle_core::safetensors::load_buffer(&bytes, device)
            .map_err(|error| Error::unusable(&path, error))?;
        for (name, tensor) in tensors {
            let name = name.strip_prefix("model.").unwrap_or(&name).to_owned();
            weights.insert(name, tensor.to_dtype(DType::F32)?);
        }
    }
    Model::new(shape, weights, None, device)
}

/// The files that hold the tensors, in order.
fn tensor_files(directory: &Path) -> Result<Vec<PathBuf>, Error> {
    let index = directory.join(INDEX);
    if !index.exists() {
        return Ok(vec![directory.join("model.safetensors")]);
    }
    let map = json(&index)?;
    let map = map["weight_map"]
        .as_object()
        .ok_or_else(|| Error::unusable(&index, "it has no weight_map"))?;
    let mut names: Vec<&str> = map.values().filter_map(Json::as_str).collect();
    names.sort_unstable();
    names.dedup();
    // Plain names only: an index speaks of files beside it.
    match names.iter().find(|name| name.contains('/')) {
        Some(name) => Err(Error::unusable(
            &index,
            format!("{name:?} is no plain name"),
        )),
        None => Ok(names.iter().map(|name| directory.join(name)).collect()),
    }
}

/// All files that the figures depend on.
pub(crate) fn parts(directory: &Path) -> Result<Vec<PathBuf>, Error> {
    let mut paths = tensor_files(directory)?;
    paths.extend(["config.json", "tokenizer.json"].map(|name| directory.join(name)));
    Ok(paths)
}

fn json(path: &Path) -> Result<Json, Error> {
    serde_json::from_slice(&files::read(path)?).map_err(|error| Error::unusable(path, error))
}
