//! Fuzzers of everything in kmerge that reads foreign bytes: what an input is and what must hold.
//!
//! `targets` has one function for each fuzzer, which panics where something does not hold. The
//! workspace's own tests run the same functions over the whole corpus (`server/tests/fuzz_corpus.rs`),
//! so a file that once did harm is never forgotten. `seeds` makes the files that fuzzing starts from.

pub mod seeds;
pub mod targets;

use std::path::Path;
use std::time::Duration;

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

/// Runs a target on an input and sees to it that it takes no more than a second of this thread's own
/// time: on a busy machine a clock on the wall would tell of others.
///
/// # Panics
/// If it takes longer, or does what it must not.
pub fn within_a_second(target: targets::Target, input: &[u8]) {
    let before = processor_time();
    target(input);
    let took = processor_time().saturating_sub(before);
    assert!(took <= LIMIT, "took {took:?} of processor time");
}

const LIMIT: Duration = Duration::from_secs(1);

fn processor_time() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::try_from(now).unwrap_or_default()
}
