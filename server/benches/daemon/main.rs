//! What the whole daemon costs, as ratios within one run: `cargo bench -p kmerge-server`.
//!
//! Starts the real `kmerged` on a temporary directory and talks to it through the real client.
//! Prints a table and asserts nothing: the numbers are for people. Name parts to run only those:
//! `cargo bench -p kmerge-server -- upload memory`.

#![allow(missing_docs, unreachable_pub)]
#![expect(clippy::print_stdout, reason = "a bench prints its results")]
#![expect(
    clippy::cast_precision_loss,
    reason = "measured numbers are far below 2^52"
)]
#![expect(
    clippy::disallowed_methods,
    reason = "a bench makes and reads files of its own"
)]
#![expect(clippy::unwrap_used, reason = "a bench that cannot run should stop")]

mod latency;
mod memory;
mod process;
mod startup;
mod synthetic;
mod upload;

use std::path::PathBuf;

/// Where the benches put their files: KMERGE_BENCH_DIR, or the system's temporary directory. It
/// should be on the disk whose speed is of interest, not in memory.
pub fn scratch() -> tempfile::TempDir {
    let root = std::env::var_os("KMERGE_BENCH_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
    tempfile::Builder::new()
        .prefix("kmerge-bench-")
        .tempdir_in(root)
        .unwrap()
}

/// The middle of some measurements.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() {
    // cargo passes --bench to every bench.
    let wanted: Vec<String> = std::env::args()
        .skip(1)
        .filter(|arg| !arg.starts_with('-'))
        .collect();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let wants = |part: &str| wanted.is_empty() || wanted.iter().any(|word| word == part);
    if wants("upload") {
        runtime.block_on(upload::run());
    }
    if wants("memory") {
        runtime.block_on(memory::run());
    }
    if wants("memory4") {
        runtime.block_on(memory::run_four());
    }
    if wants("latency") {
        runtime.block_on(latency::run());
    }
    if wants("startup") {
        runtime.block_on(startup::run());
    }
}
