//! Every file of the fuzzers' corpus, every seed and every piece of a seed, through the functions
//! that the fuzzers call: what once did harm does none again. Without instruments, on stable Rust.

#![expect(
    unreachable_pub,
    reason = "the crate of the fuzzers shares the files below"
)]
#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "every code that is not named is a failure"
)]
#![expect(
    clippy::print_stderr,
    reason = "the name of the input belongs to the failure"
)]
#![expect(clippy::disallowed_methods, reason = "the test reads its own files")]

#[path = "../fuzz/src/seeds/mod.rs"]
mod seeds;
#[path = "../fuzz/src/targets/mod.rs"]
mod targets;

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use targets::{ALL, Target};

fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus")
}

/// The files of a directory with their names, in order.
fn files(directory: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files: Vec<_> = std::fs::read_dir(directory)
        .unwrap_or_else(|error| panic!("{}: {error}", directory.display()))
        .map(|entry| entry.unwrap())
        .map(|entry| {
            (
                entry.file_name().into_string().unwrap(),
                std::fs::read(entry.path()).unwrap(),
            )
        })
        .collect();
    files.sort();
    files
}

/// Checks one input, and says which it was if that panics.
fn check(target: Target, name: &str, bytes: &[u8]) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| target(bytes))) {
        eprintln!("the input {name} does harm");
        std::panic::resume_unwind(panic);
    }
}

#[test]
fn every_file_of_the_corpus_is_read_or_refused() {
    let mut bytes = 0;
    for (name, target) in ALL {
        let files = files(&corpus().join(name));
        assert!(files.len() >= 5, "{name} has {} files", files.len());
        for (file, content) in files {
            assert!(content.len() < 64 << 10, "{name}/{file} is too large");
            bytes += content.len();
            check(target, &format!("{name}/{file}"), &content);
        }
    }
    assert!(bytes < 4 << 20, "the corpus has {bytes} bytes");
}

#[test]
fn every_corpus_has_a_target() {
    let known: BTreeSet<String> = ALL.iter().map(|(name, _)| (*name).to_owned()).collect();
    let there = std::fs::read_dir(corpus()).unwrap();
    let there: BTreeSet<String> = there
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(there, known);
}

#[test]
fn every_seed_and_every_truncation_of_it_is_read_or_refused() {
    for seeds::Seed {
        target: name,
        name: seed,
        bytes,
    } in seeds::all()
    {
        let (_, target) = ALL.into_iter().find(|(known, _)| *known == name).unwrap();
        // Uploads write files, and merges take their time: not at every byte.
        let step = if name == "upload" {
            3
        } else {
            1 + bytes.len() / 400
        };
        for length in (0..bytes.len()).step_by(step).chain([bytes.len()]) {
            check(
                target,
                &format!("{name}/{seed} up to {length}"),
                &bytes[..length],
            );
        }
    }
}

#[test]
fn good_seeds_are_good() {
    let documents: Vec<_> = seeds::all()
        .into_iter()
        .filter(|seed| seed.target == "document")
        .collect();
    assert!(documents.len() > 12);
    for seed in documents
        .iter()
        .filter(|seed| seed.name.starts_with("good-"))
    {
        let (kind, rest) = (seed.bytes[0], &seed.bytes[1..]);
        let read = if kind <= 5 {
            kmerge_storage::fuzzing::document(kind - 1, std::str::from_utf8(rest).unwrap())
        } else {
            let (key, payload) = targets::support::split(rest);
            kmerge_storage::fuzzing::record(kind - 5, key, payload)
        };
        assert!(read, "{} is no longer what storage writes", seed.name);
    }
    let base = targets::support::base();
    let adapter = kmerge_merge::decode(&seeds::config(), &seeds::one_module(), base);
    assert_eq!(adapter.unwrap().layout.modules.len(), 1);
    let adapter = kmerge_merge::gguf::decode(&seeds::gguf(), base);
    assert_eq!(adapter.unwrap().layout.modules.len(), 1);
    let (config, file) = seeds::mlx();
    let adapter = kmerge_merge::mlx::decode(&config, &file, base);
    assert_eq!(adapter.unwrap().layout.modules.len(), 1);
}
