//! The power goes at any moment, and takes everything along that was not flushed to the medium, or
//! some of it, or halves of it. What was acknowledged before is there at the next start.
//!
//! A child works on a state directory as in the test of crashes beside this one, under a shim
//! between it and the C library (`shim.c`) that writes down every operation below the directory,
//! those of the database too. From a part of that record a disk image is made: with what the medium
//! is sure to have, and any of the rest (`disk.rs`). It is opened and checked against the promises
//! that the child had noted by then, with the invariants of DESIGN.md.
//!
//! `KMERGE_POWER_IMAGES` says how many images are made, `KMERGE_POWER_SEED` which ones. Without a C
//! compiler there is no shim and nothing is tested, which the test says; with `KMERGE_REQUIRE_CC=1`
//! it fails then.

#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "a test that fails may panic")]
#![expect(
    clippy::print_stdout,
    reason = "a campaign says how far it has come, and what it could not do"
)]
#![allow(
    dead_code,
    reason = "the child and the oracle are shared with the test of crashes"
)]

#[path = "../crash/child.rs"]
mod child;
#[path = "../common/mod.rs"]
mod common;
mod disk;
#[path = "../crash/oracle.rs"]
mod oracle;
mod random;
mod record;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::LazyLock;

use disk::{Disk, Kept};
use random::Random;
use record::Record;

/// How many images are made without being asked for more.
const IMAGES: usize = 60;

/// The compiled shim, if there is a compiler; in a directory that lives as long as the tests.
static SHIM: LazyLock<Option<(tempfile::TempDir, PathBuf)>> = LazyLock::new(|| {
    let directory = tempfile::tempdir().unwrap();
    let library = directory.path().join("shim.so");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/power/shim.c");
    let compiler = std::env::var_os("CC").unwrap_or_else(|| "cc".into());
    let compiled = Command::new(&compiler)
        .args(["-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror"])
        .arg("-o")
        .args([&library, &source])
        .arg("-lpthread")
        .status();
    match compiled {
        Ok(status) => {
            assert!(status.success(), "{} does not compile", source.display());
            Some((directory, library))
        }
        Err(error) => {
            let required = std::env::var("KMERGE_REQUIRE_CC").is_ok_and(|value| value == "1");
            assert!(!required, "no C compiler ({error}), and one is required");
            println!("SKIPPED: no C compiler ({error}), so power cuts are not tested");
            None
        }
    }
});

fn images() -> usize {
    let asked = std::env::var("KMERGE_POWER_IMAGES");
    asked.map_or(IMAGES, |number| number.parse().unwrap())
}

fn seed() -> u64 {
    let asked = std::env::var("KMERGE_POWER_SEED");
    asked.map_or(0, |number| number.parse().unwrap())
}

/// What a child is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Task {
    Everything,
    /// No more than a start.
    Start,
    /// A start that also writes the database again.
    StartAnew,
}

/// A state directory that children work on, and what they do.
struct Recording {
    root: tempfile::TempDir,
}

impl Recording {
    fn new() -> Self {
        Self {
            root: common::scratch(),
        }
    }

    fn state(&self) -> PathBuf {
        self.root.path().canonicalize().unwrap().join("state")
    }

    /// Lets a child work under a plan.
    fn run(&self, shim: &Path, plan: &str, task: Task) {
        let root = self.root.path().canonicalize().unwrap();
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args(["--exact", "child::works_until_it_is_ended", "--ignored"])
            .env(child::STATE, self.state())
            .env(child::JOURNAL, root.join("promises"))
            .env("KMERGE_FAILPOINT", plan)
            .env("LD_PRELOAD", shim)
            .env("KMERGE_POWER_ROOT", self.state())
            .env("KMERGE_POWER_JOURNAL", root.join("records"))
            .env("KMERGE_POWER_ACKS", root.join("promises"))
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        if task != Task::Everything {
            command.env(child::ONLY_OPEN, "1");
        }
        if task == Task::Start {
            command.env(child::KEEP_DATABASE, "1");
        }
        command.status().unwrap();
    }

    fn records(&self) -> Vec<Record> {
        record::read(&common::read_file(&self.root.path().join("records")))
    }
}

/// What a child has noted.
fn promises_in(records: &[Record]) -> impl Iterator<Item = &str> {
    records.iter().filter_map(|record| {
        if let Record::Promise(line) = record {
            Some(line.as_str())
        } else {
            None
        }
    })
}

/// The cut of an image: after how many records.
struct Cut {
    after: usize,
    seed: u64,
}

/// What was found with some images.
#[derive(Debug, Default)]
struct Tally {
    images: usize,
    torn: usize,
    rebuilt: usize,
}

/// Where images are made from.
struct Course<'a> {
    /// What lay there before the records begin.
    disk: Disk,
    /// What had been promised by then.
    promised: &'a [String],
    records: &'a [Record],
    /// The record after which the first image may be made.
    from: usize,
}

impl Course<'_> {
    /// Some moments, in their order.
    fn cuts(&self, count: usize, random: &mut Random) -> Vec<Cut> {
        let Self { records, from, .. } = *self;
        let after = |is_it: fn(&Record) -> bool| -> Vec<usize> {
            let places = from..records.len();
            places
                .filter(|&at| is_it(&records[at]))
                .map(|at| at + 1)
                .collect()
        };
        // The moment after a promise is the one at which most can be lost.
        let promised = after(|record| matches!(record, Record::Promise(_)));
        // And a write that nothing was waited for yet is the one that can be torn.
        let written = after(|record| matches!(record, Record::Write { .. }));
        let mut cuts: Vec<Cut> = (0..count)
            .map(|_| {
                let after = match random.below(3) {
                    0 if !promised.is_empty() => promised[random.below(promised.len())],
                    1 if !written.is_empty() => written[random.below(written.len())],
                    _ => from + random.below(records.len() - from + 1),
                };
                let seed = random.next();
                Cut { after, seed }
            })
            .collect();
        cuts.sort_unstable_by_key(|cut| cut.after);
        cuts
    }

    /// Makes `count` images and checks each.
    fn check(mut self, count: usize, seed: u64, tally: &mut Tally) {
        let mut followed = 0;
        for cut in self.cuts(count, &mut Random::new(seed)) {
            for record in &self.records[followed..cut.after] {
                self.disk.follow(record);
            }
            followed = cut.after;
            let promises = self.promised.iter().map(String::as_str);
            let promises = promises.chain(promises_in(&self.records[..followed]));
            let journal = oracle::journal_of(promises);
            let root = common::scratch();
            let state = root.path().join("state");
            let (plan, torn) = make_image(&self.disk, &state, &cut);
            tally.images += 1;
            tally.torn += usize::from(torn > 0);
            let rebuilt = oracle::check_after_power_cut(&state, &journal, &plan);
            tally.rebuilt += usize::from(rebuilt);
        }
    }
}

/// Makes an image of what a power cut leaves. Gives how it was made, and how many writes are torn.
fn make_image(disk: &Disk, state: &Path, cut: &Cut) -> (String, usize) {
    let mut random = Random::new(cut.seed);
    let moment = random.below(cut.after + 1);
    let chance = [0.1, 0.5, 0.9][random.below(3)];
    let (names, data) = match random.below(8) {
        0 => (Kept::None, Kept::None),
        1 => (Kept::All, Kept::None),
        2 => (Kept::None, Kept::All),
        3 => (Kept::Until(moment), Kept::Some(chance)),
        4 => (Kept::All, Kept::Some(chance)),
        _ => (Kept::Some(chance), Kept::Some(chance)),
    };
    let torn = disk.cut(state, names, data, &mut random);
    let plan = format!(
        "cut after {} with seed {}: names {names:?}, data {data:?}, {torn} torn",
        cut.after, cut.seed
    );
    (plan, torn)
}

/// Everything below a directory.
fn contents(path: &Path) -> std::collections::BTreeMap<String, Vec<u8>> {
    fn gather(root: &Path, path: &Path, found: &mut std::collections::BTreeMap<String, Vec<u8>>) {
        for entry in std::fs::read_dir(path).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(root).unwrap().to_str().unwrap();
            let name = name.to_owned();
            let kind = std::fs::symlink_metadata(&path).unwrap().file_type();
            if kind.is_symlink() {
                let target = std::fs::read_link(&path).unwrap();
                found.insert(name, target.to_str().unwrap().into());
            } else if kind.is_dir() {
                found.insert(name, Vec::new());
                gather(root, &path, found);
            } else {
                found.insert(name, common::read_file(&path));
            }
        }
    }
    let mut found = std::collections::BTreeMap::new();
    gather(path, path, &mut found);
    found
}

/// What the records say is what there is; otherwise images would be of something else.
fn assert_nothing_is_missed(mut disk: Disk, records: &[Record], state: &Path) {
    for record in records {
        disk.follow(record);
    }
    let root = common::scratch();
    let image = root.path().join("state");
    disk.cut(&image, Kept::All, Kept::All, &mut Random::new(0));
    let (recorded, real) = (contents(&image), contents(state));
    let names = |found: &std::collections::BTreeMap<String, Vec<u8>>| -> Vec<String> {
        found.keys().cloned().collect()
    };
    assert_eq!(names(&recorded), names(&real));
    for (name, bytes) in &real {
        assert!(recorded[name] == *bytes, "{name} is not what was recorded");
    }
}

/// The run in which nothing goes wrong, and the shim that it was recorded with.
static WHOLE: LazyLock<Option<(&'static Path, Vec<Record>)>> = LazyLock::new(|| {
    let (_, shim) = SHIM.as_ref()?;
    let recording = Recording::new();
    recording.run(shim, "*=list@1", Task::Everything);
    let records = recording.records();
    assert_nothing_is_missed(Disk::new(), &records, &recording.state());
    Some((shim, records))
});

#[test]
fn a_power_cut_at_any_moment_loses_nothing_that_was_acknowledged() {
    let Some((_, records)) = &*WHOLE else { return };
    let syncs = records.iter().filter(|r| matches!(r, Record::Sync(_)));
    assert!(syncs.count() > 100);
    assert!(records.contains(&Record::HalfSync), "the database flushes");
    let mut tally = Tally::default();
    let course = Course {
        disk: Disk::new(),
        promised: &[],
        records,
        from: 0,
    };
    course.check(images() / 2, seed(), &mut tally);
    println!("{} records, {tally:?}", records.len());
}

#[test]
fn a_power_cut_after_a_crash_and_a_start_loses_nothing_either() {
    let Some((shim, whole)) = &*WHOLE else { return };
    let operations: Vec<&str> = promises_in(whole)
        .filter_map(|line| line.strip_prefix("operation "))
        .collect();
    // A crash that leaves a name which is not safe.
    let names: Vec<usize> = (1..operations.len())
        .filter(|&at| operations[at] == "durable.sync_dir")
        .collect();
    let mut random = Random::new(seed() ^ 1);
    let mut tally = Tally::default();
    let count = images() / 6;
    let per_crash = (count / 10).clamp(1, 12);
    while tally.images < count {
        let at = match random.below(2) {
            0 => names[random.below(names.len())],
            _ => random.below(operations.len()),
        };
        let recording = Recording::new();
        recording.run(shim, &format!("*=kill@{}", at + 1), Task::Everything);
        let before = recording.records();
        recording.run(shim, "*=list@1", Task::Start);
        let records = recording.records();
        assert_nothing_is_missed(Disk::new(), &records, &recording.state());
        let course = Course {
            disk: Disk::new(),
            promised: &[],
            records: &records,
            from: before.len(),
        };
        course.check(per_crash, random.next(), &mut tally);
    }
    println!("{tally:?}");
}

#[test]
fn a_power_cut_while_there_is_no_room_loses_nothing_either() {
    let Some((shim, whole)) = &*WHOLE else { return };
    let operations = promises_in(whole).filter(|line| line.starts_with("operation "));
    let operations = operations.count();
    let mut random = Random::new(seed() ^ 2);
    let mut tally = Tally::default();
    let count = images() / 6;
    let per_run = (count / 10).clamp(1, 12);
    while tally.images < count {
        let at = 1 + random.below(operations);
        let refused = 1 + random.below(6);
        let recording = Recording::new();
        recording.run(shim, &format!("*=full@{at}:{refused}"), Task::Everything);
        let records = recording.records();
        assert_nothing_is_missed(Disk::new(), &records, &recording.state());
        let is_refused = |record: &Record| matches!(record, Record::Promise(line) if line.starts_with("refused"));
        let Some(from) = records.iter().position(is_refused) else {
            continue;
        };
        // What was refused is put right soon after.
        let until = (from + 150).min(records.len());
        let course = Course {
            disk: Disk::new(),
            promised: &[],
            records: &records[..until],
            from,
        };
        course.check(per_run, random.next(), &mut tally);
    }
    println!("{tally:?}");
}

#[test]
fn a_power_cut_during_the_start_after_a_power_cut_loses_nothing_either() {
    let Some((shim, whole)) = &*WHOLE else { return };
    let mut random = Random::new(seed() ^ 3);
    let mut tally = Tally::default();
    let count = images() / 6;
    let per_start = (count / 10).clamp(1, 12);
    let first = Course {
        disk: Disk::new(),
        promised: &[],
        records: whole,
        from: 0,
    };
    let cuts = first.cuts(count.div_ceil(per_start), &mut random);
    let mut disk = Disk::new();
    let mut followed = 0;
    for cut in cuts {
        for record in &whole[followed..cut.after] {
            disk.follow(record);
        }
        followed = cut.after;
        let recording = Recording::new();
        make_image(&disk, &recording.state(), &cut);
        let promised: Vec<String> = promises_in(&whole[..followed]).map(str::to_owned).collect();
        let before = Disk::of(&recording.state());
        let task = if random.chance(0.5) {
            Task::Start
        } else {
            Task::StartAnew
        };
        recording.run(shim, "*=list@1", task);
        let records = recording.records();
        assert_nothing_is_missed(before.clone(), &records, &recording.state());
        let course = Course {
            disk: before,
            promised: &promised,
            records: &records,
            from: 0,
        };
        course.check(per_start, random.next(), &mut tally);
    }
    println!("{tally:?}");
}
