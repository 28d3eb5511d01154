//! Fuzzers of everything in kmerge that reads foreign bytes: what an input is and what must hold.
//!
//! `targets` has one function for each fuzzer, which panics where something does not hold. The
//! workspace's own tests run the same functions over the whole corpus (`server/tests/fuzz_corpus.rs`),
//! so a file that once did harm is never forgotten. `seeds` makes the files that fuzzing starts from.

pub mod seeds;
pub mod targets;

use std::path::Path;

/// Before the first input: writes the target's seeds to where `KMERGE_FUZZ_SEEDS` says, if it does.
///
/// # Panics
/// If they cannot be written.
pub fn begin(target: &str) {
    let Some(directory) = std::env::var_os("KMERGE_FUZZ_SEEDS") else {
        return;
    };
    for seed in seeds::all()
        .into_iter()
        .filter(|seed| seed.target == target)
    {
        let path = Path::new(&directory).join(&seed.name);
        std::fs::write(path, &seed.bytes).expect("a seed can be written");
    }
}
