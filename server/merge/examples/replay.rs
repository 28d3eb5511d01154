//! Many tasks arriving at few progressive slots: what each costs and what each keeps.
//!
//! `cargo run --release -p kmerge-merge --example replay -- [--arrivals N] [--slots K] [--bytes N] [--layers N]`
//!
//! Adapters are synthetic, with the spectra and the similarities of trained ones, for a model 576
//! wide with 30 layers at rank 16; a slot has the bytes of one of them unless told otherwise. Times
//! are ratios to the mean of the first eight arrivals of the same run.

#![expect(clippy::print_stdout, reason = "the table is what this program is for")]

#[allow(dead_code, reason = "tests use the rest")]
#[path = "../tests/suite/progressive/shelf.rs"]
mod shelf;
#[allow(dead_code, reason = "tests use the rest")]
#[path = "../tests/suite/progressive/synthetic.rs"]
mod synthetic;

use std::time::{Duration, Instant};

use shelf::{Shelf, policy};
use synthetic::{Form, as_float, attention, llama, trained};

const HIDDEN: usize = 576;
/// Arrivals whose mean time is the unit.
const FIRST: usize = 8;

struct Arguments {
    arrivals: usize,
    slots: u32,
    bytes: Option<u64>,
    layers: usize,
}

fn main() {
    let Some(arguments) = arguments() else {
        println!("usage: replay [--arrivals N] [--slots K] [--bytes N] [--layers N]");
        return;
    };
    let base = llama(HIDDEN, arguments.layers);
    let paths = attention(arguments.layers);
    let form = Form::default();
    let whole = trained(&base, &paths, 0, form).layout.tensor_bytes() / 2;
    let budget = arguments.bytes.unwrap_or(whole);
    println!(
        "{} slots of {budget} bytes; an adapter takes {whole} in F16; {} threads\n",
        arguments.slots,
        rayon::current_num_threads()
    );
    println!(
        "{:>8} {:>10} {:>9} {:>7} {:>7} {:>7} {:>7} {:>7} {:>7}",
        "arrivals", "bytes", "per task", "head", "worst", "mean", "place", "write", "export"
    );
    let policy = policy(arguments.slots, budget);
    let mut shelf = Shelf::default();
    let mut unit = Duration::ZERO;
    let mut since = Since::default();
    for arrival in 1..=arguments.arrivals {
        let adapter = trained(&base, &paths, u64::try_from(arrival).expect("few"), form);
        let start = Instant::now();
        let name = format!("task-{arrival}");
        let placement = match shelf.place(&policy, &name, &adapter) {
            Ok(placement) => placement,
            Err(error) => {
                println!("{arrival:>8} {error}");
                return;
            }
        };
        let placed = start.elapsed();
        let start = Instant::now();
        shelf
            .keep(&placement, &adapter)
            .expect("memory takes everything");
        since.place += placed;
        since.write += start.elapsed();
        since.arrivals += 1;
        if arrival <= FIRST {
            unit += placed / u32::try_from(FIRST).expect("few");
        }
        if arrival == 1 || arrival == FIRST || shown(arrival) || arrival == arguments.arrivals {
            row(
                &shelf,
                arrival,
                if arrival < FIRST { placed } else { unit },
                &since,
            );
            since = Since::default();
        }
    }
}

/// What was measured since the last row.
#[derive(Default)]
struct Since {
    place: Duration,
    write: Duration,
    arrivals: usize,
}

/// 16, 32, 64 … and every thousand.
fn shown(arrival: usize) -> bool {
    arrival > FIRST && (arrival.is_power_of_two() || arrival.is_multiple_of(250))
}

fn row(shelf: &Shelf, arrival: usize, unit: Duration, since: &Since) {
    let (mut bytes, mut head, mut worst, mut sum, mut members) = (0, 0, f64::INFINITY, 0.0, 0);
    for stored in shelf.slots.values() {
        bytes += stored.file.len();
        head += 12 + u32::from_le_bytes(stored.file[8..12].try_into().expect("4 bytes"));
        for (_, fidelity) in stored.packed.fidelities() {
            worst = fidelity.retention.min(worst);
            sum += fidelity.retention;
            members += 1;
        }
    }
    let stored = &shelf.slots[&0];
    let start = Instant::now();
    stored
        .packed
        .export_member(&stored.file, 0, kmerge_merge::Dtype::F16, &mut Vec::new())
        .expect("every member can be served");
    let export = start.elapsed();
    let ratio = |time: Duration| time.as_secs_f64() / unit.as_secs_f64();
    println!(
        "{arrival:>8} {bytes:>10} {:>9} {:>6.1}% {worst:>7.3} {:>7.3} {:>7.2} {:>7.2} {:>7.2}",
        bytes / members,
        100.0 * f64::from(head) / as_float(bytes),
        sum / as_float(members),
        ratio(since.place) / as_float(since.arrivals),
        ratio(since.write) / as_float(since.arrivals),
        ratio(export),
    );
}

fn arguments() -> Option<Arguments> {
    let mut found = Arguments {
        arrivals: 1000,
        slots: 1,
        bytes: None,
        layers: 30,
    };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let value = words.next()?;
        match word.as_str() {
            "--arrivals" => found.arrivals = value.parse().ok()?,
            "--slots" => found.slots = value.parse().ok()?,
            "--bytes" => found.bytes = Some(value.parse().ok()?),
            "--layers" => found.layers = value.parse().ok()?,
            _ => return None,
        }
    }
    Some(found)
}
