//! Files of our own with a turned bit.

use std::path::{Path, PathBuf};

use kmerge_storage::{GenerationRecord, Opened, Options, open};

use crate::common::{at, base_name, copy, gather, read_file, write_file};
use crate::random::Random;
use crate::state::{Known, known, open_again, registered, rich, send_again};
use crate::{runs, seed};

/// Turns one bit of a file.
fn turn(path: &Path, at: usize, bit: usize) {
    let mut bytes = read_file(path);
    bytes[at] ^= 1 << bit;
    write_file(path, &bytes);
}

fn files_below(state: &Path, part: &str) -> Vec<PathBuf> {
    let mut files = std::collections::BTreeMap::new();
    gather(&state.join(part), &state.join(part), &mut files);
    files
        .keys()
        .map(|name| state.join(part).join(name))
        .collect()
}

/// The generation that a manifest or a tensor file belongs to, among those that are live.
fn generation_of(opened: &Opened, path: &Path) -> Vec<GenerationRecord> {
    let catalog = opened.committer.catalog();
    let text = path.to_str().unwrap();
    let belongs = |record: &GenerationRecord| {
        let manifest = format!("/{}/{}.json", record.slot, record.generation);
        text.ends_with(&manifest) || text.ends_with(&record.digest.to_string())
    };
    let found = catalog.generations().filter(|record| belongs(record));
    found.map(|record| (**record).clone()).collect()
}

/// White space at the end of a file of ours carries nothing.
fn matters(bytes: &[u8], at: usize, bit: usize) -> bool {
    let turned = bytes[at] ^ (1 << bit);
    !(at + 1 == bytes.len() && bytes[at].is_ascii_whitespace() && turned.is_ascii_whitespace())
}

#[test]
fn each_byte_of_a_manifest_and_of_a_tensor_file_is_watched() {
    let original = rich();
    let opened = open_again(original.path());
    let verify = |record: &GenerationRecord| opened.reader.verify(record, 1 << 20, &mut |_| true);
    let mut random = Random::new(seed());
    let (mut turned, mut manifests) = (0, 0);
    for part in ["manifests", "tensors"] {
        for path in files_below(original.path(), part) {
            let records = generation_of(&opened, &path);
            let Some(record) = records.first() else {
                continue;
            };
            manifests += usize::from(part == "manifests");
            verify(record).unwrap();
            let bytes = read_file(&path);
            for place in 0..bytes.len() {
                let bit = random.below(8);
                if matters(&bytes, place, bit) {
                    turn(&path, place, bit);
                    assert!(verify(record).is_err(), "{} {place}.{bit}", path.display());
                    turn(&path, place, bit);
                    turned += 1;
                }
            }
            verify(record).unwrap();
        }
    }
    println!("{turned} bits in {manifests} manifests and the tensors");
    assert!(manifests >= 5 && turned > 5000, "{manifests} {turned}");
}

#[test]
fn a_damaged_manifest_is_set_aside_and_made_again_from_the_catalog() {
    let original = rich();
    let before = known(original.path());
    let mut random = Random::new(seed() ^ 7);
    for _ in 0..runs() {
        let copy = copy(original.path());
        // The newest of a slot tells its members.
        let slots = ["0", "1", "2"];
        let directory = format!("manifests/{}/{}", registered(), slots[random.below(3)]);
        let number = |path: &PathBuf| -> u64 {
            path.file_stem().unwrap().to_str().unwrap().parse().unwrap()
        };
        let manifests = files_below(copy.path(), &directory);
        let path = manifests.into_iter().max_by_key(number).unwrap();
        let bytes = read_file(&path);
        let (place, bit) = (random.below(bytes.len()), random.below(8));
        if !matters(&bytes, place, bit) {
            continue;
        }
        turn(&path, place, bit);
        let damaged = read_file(&path);
        let context = format!("{} {place}.{bit}", path.display());
        let opened = open_again(copy.path());
        assert!(!opened.report.catalog_rebuilt, "{context}");
        assert!(!opened.report.notes.is_empty(), "{context}");
        let after = Known::of(&opened, copy.path());
        before.assert_same_but(&after, &path, &format!("{context}\n{:?}", opened.report));
        drop(opened);
        // What was written again is as good as what was there.
        crate::common::remove(&copy.path().join("catalog"));
        let rebuilt = Known::of(&open_again(copy.path()), copy.path());
        before.assert_same_but(&rebuilt, &path, &context);
        let aside = files_below(copy.path(), "quarantine");
        assert_eq!(aside.len(), 1, "{context}");
        assert!(read_file(&aside[0]) == damaged, "{context}");
    }
}

#[test]
fn a_damaged_base_model_file_is_made_again_from_the_catalog() {
    let original = rich();
    let before = known(original.path());
    let mut random = Random::new(seed() ^ 8);
    for _ in 0..runs() {
        let copy = copy(original.path());
        let path = copy
            .path()
            .join(format!("base-models/{}.json", base_name()));
        let bytes = read_file(&path);
        let (place, bit) = (random.below(bytes.len()), random.below(8));
        if !matters(&bytes, place, bit) {
            continue;
        }
        turn(&path, place, bit);
        let context = format!("{} {place}.{bit}", path.display());
        let opened = open_again(copy.path());
        before.assert_same(&Known::of(&opened, copy.path()), &context);
        assert_eq!(files_below(copy.path(), "quarantine").len(), 1, "{context}");
    }
}

#[test]
fn damaged_tensors_are_never_part_of_a_catalog_that_is_made_again() {
    let original = rich();
    let mut random = Random::new(seed() ^ 9);
    for _ in 0..runs() {
        let copy = copy(original.path());
        let tensors = files_below(copy.path(), "tensors");
        let path = &tensors[random.below(tensors.len())];
        let length = read_file(path).len();
        turn(path, random.below(length), random.below(8));
        crate::common::remove(&copy.path().join("catalog"));
        let opened = open_again(copy.path());
        let context = format!("{}\n{:?}", path.display(), opened.report);
        for record in opened.committer.catalog().generations() {
            let verified = opened.reader.verify(record, 1 << 20, &mut |_| true);
            verified.unwrap_or_else(|error| panic!("{error}\n{context}"));
        }
    }
}

#[test]
fn a_damaged_header_of_what_waits_is_never_taken_for_another() {
    let original = rich();
    let before = known(original.path());
    let mut random = Random::new(seed() ^ 10);
    for run in 0..runs() {
        let copy = copy(original.path());
        let headers: Vec<PathBuf> = files_below(copy.path(), "staging")
            .into_iter()
            .filter(|path| path.ends_with("header.json"))
            .collect();
        let path = &headers[random.below(headers.len())];
        let bytes = read_file(path);
        let (place, bit) = (random.below(bytes.len()), random.below(8));
        if !matters(&bytes, place, bit) {
            continue;
        }
        turn(path, place, bit);
        // With its catalog the state knows what waits; without it this one job is lost, aloud, and
        // no other job comes of it.
        let without_catalog = run % 2 == 1;
        if without_catalog {
            crate::common::remove(&copy.path().join("catalog"));
        }
        let opened = open(copy.path(), &Options::default(), at(5000)).unwrap();
        let context = format!("{} {place}.{bit}\n{:?}", path.display(), opened.report);
        assert!(!opened.report.notes.is_empty(), "{context}");
        let known_before = before.waiting_or_failed();
        for (id, job) in Known::of(&opened, copy.path()).waiting_or_failed() {
            let expected = &known_before[&id];
            assert_eq!(
                (&expected.task, &expected.upload),
                (&job.task, &job.upload),
                "{context}"
            );
        }
    }
    let copy = copy(original.path());
    send_again(&mut open_again(copy.path()));
}
