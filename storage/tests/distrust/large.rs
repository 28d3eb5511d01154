//! How long it takes until a state as large as they are meant to get is back. Measured by hand, in a
//! release build; nothing depends on the time.

use std::time::Instant;

use kmerge_storage::{Opened, SlotIndex};

use crate::common::{at, base_model, commit_of, copy, current, remove, scratch, stage, write_file};
use crate::common::{read_file, write_tensor};
use crate::state::{Known, open_again};

const TASKS: u32 = 10_000;
const SLOTS: u32 = 8;

fn add(opened: &mut Opened, number: u32) {
    let name = format!("task-number-{number:05}");
    let staged = stage(opened, &name, name.as_bytes(), Some(&name)).unwrap();
    let now = at(u64::from(number));
    let job = opened.committer.enqueue(staged, now).unwrap().job;
    opened.committer.start_job(job.id, now).unwrap();
    let slot = SlotIndex(number % SLOTS);
    let tensor = write_tensor(opened, name.as_bytes());
    let expected = current(&opened.committer.catalog(), slot);
    let commit = commit_of(&job, slot, expected, tensor);
    opened.committer.commit(commit, now).unwrap();
    if number % 100 == 99 {
        let grace = std::time::Duration::ZERO;
        opened
            .committer
            .collect(grace, at(u64::from(number)))
            .unwrap();
    }
}

#[test]
#[ignore = "a measurement, and long"]
fn ten_thousand_tasks_are_back_soon() {
    let original = scratch();
    let begun = Instant::now();
    let mut opened = open_again(original.path());
    opened.committer.register_base_model(base_model()).unwrap();
    for number in 0..TASKS {
        add(&mut opened, number);
    }
    let before = Known::of(&opened, original.path());
    opened.committer.close().unwrap();
    drop((opened.ingest, opened.reader));
    println!("made in {:.1} s", begun.elapsed().as_secs_f64());
    for damage in ["none", "all removed", "a bit turned", "cut in half"] {
        let copy = copy(original.path());
        let log = copy.path().join("catalog/db");
        let mut bytes = read_file(&log);
        match damage {
            "all removed" => remove(&copy.path().join("catalog")),
            "a bit turned" => {
                let middle = bytes.len() / 2;
                bytes[middle] ^= 1;
                write_file(&log, &bytes);
            }
            "cut in half" => {
                bytes.truncate(bytes.len() / 2);
                write_file(&log, &bytes);
            }
            _ => {}
        }
        let begun = Instant::now();
        let opened = open_again(copy.path());
        let taken = begun.elapsed().as_secs_f64();
        let rebuilt = opened.report.catalog_rebuilt;
        println!("{damage}: open after {taken:.3} s, made again: {rebuilt}");
        before.assert_same(&Known::of(&opened, copy.path()), damage);
    }
}
