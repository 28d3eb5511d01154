//! The figures of the crate as ratios of one run on one machine, in a few seconds.
//!
//! `cargo run --release -p kmerge-merge --example ratios`
//!
//! Memory is measured in a second process whose allocator gives back what is freed: otherwise what
//! the preparation left behind would hide what the search takes.

#![expect(clippy::print_stdout, reason = "the table is what this program is for")]

#[path = "../benches/merge/workload.rs"]
mod workload;

use std::io;
use std::process::Command;
use std::time::Instant;

use kmerge_merge::{Operator, SlotDtype};
use workload::{GemmScratch, Memory, OPERATORS, Workload, count, gemm_round, search_flop};

/// Rounds of each measurement; the best counts, since disturbance only ever adds.
const ROUNDS: u32 = 30;
const MILLISECONDS: f64 = 1e3;
const MIB: f64 = 1024.0 * 1024.0;
/// The argument that makes this the second process.
const MEASURE_MEMORY: &str = "--measure-memory";

fn main() -> io::Result<()> {
    if std::env::args().any(|argument| argument == MEASURE_MEMORY) {
        memory();
        return Ok(());
    }
    let mut gemm = GemmScratch::new();
    let mut operations = 0.0;
    let seconds = best(ROUNDS, || operations = gemm_round(&mut gemm));
    let rate = operations / seconds;
    drop(gemm);
    println!(
        "threads {}, f32 GEMM {:.0} GFLOP/s",
        rayon::current_num_threads(),
        rate / 1e9
    );
    searches(rate);
    for dtype in [SlotDtype::F32, SlotDtype::F16] {
        merges(dtype);
    }
    Command::new(std::env::current_exe()?)
        .arg(MEASURE_MEMORY)
        .env("MALLOC_MMAP_THRESHOLD_", "65536")
        .status()
        .map(drop)
}

/// The similarity search beside its arithmetic, its bytes, and the dense way.
fn searches(rate: f64) {
    println!(
        "\n{:<32}{:>9}{:>14}{:>13}",
        "search, f32 slots", "ms", "x arithmetic", "x read once"
    );
    for slots in [1, 2, 4, 8] {
        let workload = Workload::new(slots, SlotDtype::F32);
        let read = best(ROUNDS, || workload.read_once());
        let search = best(ROUNDS, || drop(workload.search(Operator::KMergeLinear)));
        println!(
            "{:<32}{:>9.2}{:>14.2}{:>13.2}",
            format!("K = {slots}"),
            search * MILLISECONDS,
            search * rate / count(search_flop(workload.slots.len())),
            search / read,
        );
        if slots == 8 {
            let mut share = 1.0;
            let dense = best(3, || share = workload.dense_module()) / share;
            println!(
                "{:<32}{:>9.0}   {:.0} x the search",
                "dense way, K = 8, scaled up",
                dense * MILLISECONDS,
                dense / search
            );
        }
    }
}

/// Each operator's whole merge beside copying what it reads, and beside the search.
fn merges(dtype: SlotDtype) {
    let workload = Workload::new(8, dtype);
    let mut to = [vec![], vec![]];
    let copy = best(ROUNDS, || workload.copy(&mut to));
    let search = best(ROUNDS, || drop(workload.search(Operator::KMergeLinear)));
    println!(
        "\n{:<32}{:>9}{:>14}{:>13}",
        format!("merge, {dtype} slots"),
        "ms",
        "x copy",
        "x search"
    );
    println!(
        "{:<32}{:>9.2}",
        "copy slot and newcomer",
        copy * MILLISECONDS
    );
    for operator in OPERATORS {
        let plan = workload.search(operator);
        let mut sink = Memory::default();
        let merge = best(ROUNDS, || workload.merge(&plan, &mut sink).expect("finite"));
        println!(
            "{:<32}{:>9.2}{:>14.2}{:>13.2}",
            operator.to_string(),
            merge * MILLISECONDS,
            merge / copy,
            merge / search,
        );
    }
}

/// Resident memory that a search and each merge take beyond their input, and beyond the merged
/// file, which goes into memory here.
fn memory() {
    println!("\n{:<32}{:>9}", "memory, K = 8, f32 slots", "MiB");
    let workload = Workload::new(8, SlotDtype::F32);
    let row = |name: &str, run: &mut dyn FnMut()| match peak_growth(run) {
        Some(bytes) => println!("{name:<32}{:>9.1}", bytes / MIB),
        None => println!("{name:<32}{:>9}", "unknown"),
    };
    row("search", &mut || {
        drop(workload.search(Operator::KMergeLinear))
    });
    for operator in OPERATORS {
        let plan = workload.search(operator);
        let mut sink = Memory::default();
        workload.merge(&plan, &mut sink).expect("finite");
        let name = operator.to_string();
        row(&name, &mut || {
            workload.merge(&plan, &mut sink).expect("finite")
        });
    }
}

fn best(rounds: u32, mut run: impl FnMut()) -> f64 {
    let seconds = (0..=rounds).map(|_| {
        let start = Instant::now();
        run();
        start.elapsed().as_secs_f64()
    });
    // The first round warms up.
    seconds.skip(1).fold(f64::INFINITY, f64::min)
}

/// How far the resident memory rose above where it was, in bytes; `None` where the kernel does not
/// say.
#[expect(
    clippy::disallowed_methods,
    reason = "a measurement of this process, no data"
)]
fn peak_growth(run: &mut dyn FnMut()) -> Option<f64> {
    let field = |name: &str| -> Option<f64> {
        let status = std::fs::read_to_string("/proc/self/status").ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace()
            .next()?
            .parse::<f64>()
            .ok()
            .map(|kib| kib * 1024.0)
    };
    // 5 resets the peak to what is resident now.
    std::fs::write("/proc/self/clear_refs", "5").ok()?;
    let before = field("VmRSS:")?;
    run();
    Some((field("VmHWM:")? - before).max(0.0))
}
