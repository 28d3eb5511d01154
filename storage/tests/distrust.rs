//! The database may do what it likes: be gone, be cut off, have any of its bits turned. The next
//! start has the same state as before. And whatever bit of a file of our own is turned is found, and
//! is made again where something else still tells what it was.
//!
//! `KMERGE_DISTRUST_RUNS` says how often each kind of damage is done, `KMERGE_DISTRUST_SEED` where.

#![expect(clippy::unwrap_used, reason = "a test that fails may panic")]
#![expect(clippy::print_stdout, reason = "a campaign says how far it has come")]

mod common;
#[path = "distrust/files.rs"]
mod files;
#[path = "distrust/large.rs"]
mod large;
#[path = "power/random.rs"]
mod random;
#[path = "distrust/state.rs"]
mod state;

use std::path::Path;

use random::Random;
use state::{Known, known, open_again, rich};

/// How often each kind of damage is done without being asked for more.
const RUNS: usize = 60;

fn runs() -> usize {
    let asked = std::env::var("KMERGE_DISTRUST_RUNS");
    asked.map_or(RUNS, |number| number.parse().unwrap())
}

fn seed() -> u64 {
    let asked = std::env::var("KMERGE_DISTRUST_SEED");
    asked.map_or(0, |number| number.parse().unwrap())
}

/// Does damage to copies of a state, each time another one, and finds the same state again.
fn distrust(salt: u64, runs: usize, damage: impl Fn(&Path, &mut Random) -> String) {
    let original = rich();
    let before = known(original.path());
    let mut random = Random::new(seed() ^ salt);
    let mut rebuilt = 0;
    for run in 0..runs {
        let copy = common::copy(original.path());
        let what = damage(&copy.path().join("catalog"), &mut random);
        let context = format!("run {run}: {what}");
        let opened = open_again(copy.path());
        rebuilt += usize::from(opened.report.catalog_rebuilt);
        let context = format!("{context}\n{:?}", opened.report);
        let after = Known::of(&opened, copy.path());
        before.assert_same(&after, &context);
        drop(opened);
        let again = open_again(copy.path());
        assert_eq!(again.report, Default::default(), "{context}");
        before.assert_same(&Known::of(&again, copy.path()), &context);
    }
    println!("{runs} runs, {rebuilt} catalogs made again");
}

/// A file of the database, and what is in it.
fn any_file(catalog: &Path, random: &mut Random) -> (std::path::PathBuf, Vec<u8>) {
    let mut files: Vec<_> = std::fs::read_dir(catalog)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_file())
        .collect();
    files.sort();
    // The log is what counts; the others are small.
    let log = catalog.join("db");
    let path = if random.chance(0.7) {
        log
    } else {
        files[random.below(files.len())].clone()
    };
    let bytes = common::read_file(&path);
    (path, bytes)
}

/// A place that something is in, mostly.
fn any_place(bytes: &[u8], random: &mut Random) -> usize {
    let mut at = random.below(bytes.len());
    for _ in 0..200 {
        if bytes[at] != 0 {
            break;
        }
        at = random.below(bytes.len());
    }
    at
}

#[test]
fn a_catalog_that_is_gone_or_in_parts_is_made_again() {
    distrust(1, runs(), |catalog, random| {
        if random.chance(0.3) {
            common::remove(catalog);
            return "all removed".to_owned();
        }
        let (path, _) = any_file(catalog, random);
        common::remove(&path);
        match random.below(3) {
            0 => common::make_directories(&path),
            1 => common::write_file(&path, b"not what it was"),
            _ => {}
        }
        format!("{} gone", path.display())
    });
}

#[test]
fn a_catalog_that_is_cut_off_anywhere_says_the_same() {
    distrust(2, runs(), |catalog, random| {
        let (path, mut bytes) = any_file(catalog, random);
        // Most of the log's end is empty.
        let used = bytes.iter().rposition(|byte| *byte != 0).unwrap_or(0) + 1;
        let length = random.below(used.min(bytes.len()));
        bytes.truncate(length);
        common::write_file(&path, &bytes);
        format!("{} cut to {length} of {used}", path.display())
    });
}

#[test]
fn a_catalog_with_turned_bits_says_the_same() {
    distrust(3, runs(), |catalog, random| {
        let (path, mut bytes) = any_file(catalog, random);
        let mut what = path.display().to_string();
        for _ in 0..=random.below(4) {
            if bytes.is_empty() {
                break;
            }
            let at = any_place(&bytes, random);
            let bit = random.below(8);
            bytes[at] ^= 1 << bit;
            what = format!("{what} {at}.{bit}");
        }
        common::write_file(&path, &bytes);
        what
    });
}

#[test]
fn a_catalog_with_lost_sectors_says_the_same() {
    distrust(4, runs() / 2, |catalog, random| {
        let (path, mut bytes) = any_file(catalog, random);
        let at = any_place(&bytes, random) / 512 * 512;
        let end = (at + 512 * (1 + random.below(8))).min(bytes.len());
        bytes[at..end].fill(0);
        common::write_file(&path, &bytes);
        format!("{} without {at}..{end}", path.display())
    });
}

#[test]
fn a_catalog_that_has_lost_any_number_of_its_last_changes_says_the_same() {
    let mut catalogs = Vec::new();
    let original = state::rich_watched(|path| catalogs.push(common::copy(&path.join("catalog"))));
    let before = known(original.path());
    assert!(catalogs.len() > 15);
    for (number, catalog) in catalogs.iter().enumerate() {
        let copy = common::copy(original.path());
        common::remove(&copy.path().join("catalog"));
        common::copy_into(catalog.path(), &copy.path().join("catalog"));
        let opened = open_again(copy.path());
        let context = format!("the catalog {number}\n{:?}", opened.report);
        assert!(!opened.report.notes.is_empty(), "{context}");
        before.assert_same(&Known::of(&opened, copy.path()), &context);
    }
}

#[test]
fn a_catalog_that_is_no_directory_is_made_again() {
    distrust(5, 1, |catalog, _| {
        common::remove(catalog);
        common::write_file(catalog, b"something else");
        "a file in its place".to_owned()
    });
}
