//! The figures of the crate as ratios of one run on one machine, in a few seconds.
//!
//! `cargo run --release -p kmerge-merge --example ratios`

#![expect(clippy::print_stdout, reason = "the table is what this program is for")]

#[path = "../benches/merge/workload.rs"]
mod workload;

use std::time::Instant;

use kmerge_merge::{Operator, SlotDtype};
use workload::{GemmScratch, Memory, Workload, gemm_round, search_flop};

/// Rounds of each measurement; the best counts, since disturbance only ever adds.
const ROUNDS: u32 = 20;
const MILLISECONDS: f64 = 1e3;
const MIB: f64 = 1024.0 * 1024.0;

fn best(rounds: u32, mut run: impl FnMut()) -> f64 {
    (0..=rounds)
        .map(|_| {
            let start = Instant::now();
            run();
            start.elapsed().as_secs_f64()
        })
        // The first round warms up.
        .skip(1)
        .fold(f64::INFINITY, f64::min)
}

fn main() {
    let mut gemm = GemmScratch::new();
    let mut operations = 0.0;
    let seconds = best(ROUNDS, || operations = gemm_round(&mut gemm));
    let rate = operations / seconds;
    drop(gemm);
    println!(
        "threads {}, f32 GEMM {:.0} GFLOP/s\n",
        rayon::current_num_threads(),
        rate / 1e9
    );

    println!(
        "{:<30}{:>10}{:>14}{:>14}",
        "search, F32 slots", "ms", "x arithmetic", "x read once"
    );
    let mut search = 0.0;
    for slots in [1, 2, 4, 8] {
        let workload = Workload::new(slots, SlotDtype::F32);
        let read = best(ROUNDS, || workload.read_once());
        let memory = peak_growth(|| drop(workload.search(Operator::KMergeLinear)));
        search = best(ROUNDS, || drop(workload.search(Operator::KMergeLinear)));
        let arithmetic = search_flop(slots) / rate;
        println!(
            "{:<30}{:>10.2}{:>14.2}{:>14.2}{}",
            format!("K = {slots}"),
            search * MILLISECONDS,
            search / arithmetic,
            search / read,
            memory.map_or(String::new(), |bytes| format!(
                "   + {:.1} MiB",
                bytes / MIB
            )),
        );
        if slots == 8 {
            let mut share = 1.0;
            let dense = best(3, || share = workload.dense_module()) / share;
            println!(
                "{:<30}{:>10.0}{:>14.0} x the search",
                "dense way, K = 8, scaled",
                dense * MILLISECONDS,
                dense / search
            );
        }
    }

    for dtype in [SlotDtype::F32, SlotDtype::F16] {
        let workload = Workload::new(8, dtype);
        let mut to = [vec![], vec![]];
        let copy = best(ROUNDS, || workload.copy(&mut to));
        println!(
            "\n{:<30}{:>10}{:>14}{:>14}",
            format!("whole merge, {dtype} slots"),
            "ms",
            "x copy",
            "x search"
        );
        println!(
            "{:<30}{:>10.2}",
            "copy slot and newcomer",
            copy * MILLISECONDS
        );
        for operator in [Operator::KMergeLinear, Operator::Linear, Operator::Exact] {
            let plan = workload.search(operator);
            let mut sink = Memory::default();
            let memory = {
                workload.merge(&plan, &mut sink).expect("finite");
                peak_growth(|| workload.merge(&plan, &mut sink).expect("finite"))
            };
            let merge = best(ROUNDS, || workload.merge(&plan, &mut sink).expect("finite"));
            println!(
                "{:<30}{:>10.2}{:>14.2}{:>14.2}{}",
                operator.to_string(),
                merge * MILLISECONDS,
                merge / copy,
                merge / search,
                memory.map_or(String::new(), |bytes| format!(
                    "   + {:.1} MiB",
                    bytes / MIB
                )),
            );
        }
    }
}

/// How far the resident memory rose above where it was, in bytes; `None` where the kernel does not
/// say.
#[expect(
    clippy::disallowed_methods,
    reason = "a measurement of this process, no data"
)]
fn peak_growth(run: impl FnOnce()) -> Option<f64> {
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
    let reset = std::fs::write("/proc/self/clear_refs", "5").is_ok();
    let before = field("VmRSS:")?;
    run();
    let peak = field("VmHWM:")?;
    reset.then_some((peak - before).max(0.0))
}
