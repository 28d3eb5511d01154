//! A base model's config.json from the header of its GGUF file, for those who have nothing else.
//!
//! Only what shapes derive from is taken over, under the names of the transformers class that
//! llama.cpp's architecture stands for; the daemon checks the result as it checks any config.json.
//! What always holds: what the header says of the model and what the shapes of its first block say
//! agree, or there is no configuration. No weight is read.

mod convert;
mod header;
#[cfg(test)]
mod tests;

use std::path::Path;

use crate::failure::Failure;
use crate::files;
use convert::convert;
use header::Header;

/// Reads the header of a model and gives the config.json that says the same.
pub(crate) fn config(path: &Path) -> Result<Vec<u8>, Failure> {
    let header = files::open(path).and_then(|file| {
        Header::read(std::io::BufReader::new(file)).map_err(|why| unusable(path, &why))
    })?;
    let config = convert(&header).map_err(|why| unusable(path, &why))?;
    let mut text = serde_json::to_vec_pretty(&config).expect("strings and numbers serialise");
    text.push(b'\n');
    Ok(text)
}

fn unusable(path: &Path, why: &str) -> Failure {
    Failure::usage(format!("{} {why}", path.display()))
        .hint("name the model's own config.json with --config")
}
