//! The files that fuzzing starts from, made here byte by byte: good ones of every format, and the
//! shapes of attacks on readers of these formats that are known.

mod attacks;
mod good;
mod records;

pub use good::{config, gguf, is_good, mlx, one_module};

/// One file to start from.
#[derive(Debug)]
pub struct Seed {
    /// The target that reads it.
    pub target: &'static str,
    /// What it is, as a file's name.
    pub name: String,
    /// What is in it.
    pub bytes: Vec<u8>,
}

/// All of them.
#[must_use]
pub fn all() -> Vec<Seed> {
    let mut seeds = good::seeds();
    seeds.extend(attacks::seeds());
    seeds.extend(records::seeds());
    seeds
}

fn seed(target: &'static str, name: impl Into<String>, bytes: impl Into<Vec<u8>>) -> Seed {
    Seed {
        target,
        name: name.into(),
        bytes: bytes.into(),
    }
}
