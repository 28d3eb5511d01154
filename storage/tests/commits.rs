//! Commits: all of one or nothing of it, and tensor files that stay as long as someone needs them.

#![expect(clippy::unwrap_used, reason = "a test that fails may panic")]

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::{SLOT, World, at, base_name, commit_of, current, task, write_file};
use kmerge_storage::{
    Commit, CommitDefect, CommitError, Event, Generation, JobFailure, JobId, JobState, NewMember,
    ReadError, SlotChange, SlotIndex,
};

const OTHER: SlotIndex = SlotIndex(1);

/// A state with a running job, and its id.
fn running() -> (World, JobId) {
    let mut world = World::new();
    let job = world.enqueue("a", b"upload").job.id;
    world.open().committer.start_job(job, at(50)).unwrap();
    (world, job)
}

fn change(world: &mut World, slot: SlotIndex, newcomer: Option<&str>) -> SlotChange {
    let expected = current(&world.catalog(), slot);
    let tensor = world.tensor(format!("of slot {slot} after {expected:?}").as_bytes());
    let newcomer = newcomer.map(|name| NewMember {
        task: task(name),
        weight: 0.5,
    });
    SlotChange {
        slot,
        expected,
        tensor,
        newcomer,
        facts: "{}".to_owned(),
    }
}

fn refused(world: &mut World, job: JobId, changes: Vec<SlotChange>) -> CommitError {
    let (files, catalog) = (world.files(), world.catalog());
    let held = changes
        .iter()
        .map(|change| change.tensor.digest)
        .collect::<Vec<_>>();
    let commit = Commit {
        job,
        changes,
        result: "{}".to_owned(),
    };
    let error = world.open().committer.commit(commit, at(60)).unwrap_err();
    assert_eq!(world.catalog(), catalog, "{error}");
    let mut expected = files;
    expected.retain(|_, digest| !held.contains(digest));
    assert_eq!(
        world.files(),
        expected,
        "the files of a refused commit go: {error}"
    );
    assert!(!world.open().committer.is_read_only());
    error
}

#[test]
fn a_commit_that_makes_no_sense_is_refused_whole() {
    let (mut world, job) = running();
    let defect = |error| {
        let CommitError::Invalid { defect, .. } = error else {
            panic!("{error}")
        };
        defect
    };
    assert_eq!(
        defect(refused(&mut world, job, Vec::new())),
        CommitDefect::Empty
    );

    let twice = vec![
        change(&mut world, SLOT, Some("a")),
        change(&mut world, SLOT, None),
    ];
    assert_eq!(
        defect(refused(&mut world, job, twice)),
        CommitDefect::SlotTwice { slot: SLOT }
    );

    let two = vec![
        change(&mut world, SLOT, Some("a")),
        change(&mut world, OTHER, Some("a")),
    ];
    assert_eq!(
        defect(refused(&mut world, job, two)),
        CommitDefect::NewcomerTwice
    );

    let foreign = vec![change(&mut world, SLOT, Some("b"))];
    let found = defect(refused(&mut world, job, foreign));
    assert_eq!(
        found,
        CommitDefect::ForeignNewcomer {
            newcomer: task("b"),
            task: task("a")
        }
    );

    let nobody = vec![change(&mut world, SLOT, None)];
    assert_eq!(
        defect(refused(&mut world, job, nobody)),
        CommitDefect::NoMember { slot: SLOT }
    );

    for weight in [f64::NAN, f64::INFINITY] {
        let mut odd = change(&mut world, SLOT, None);
        odd.newcomer = Some(NewMember {
            task: task("a"),
            weight,
        });
        let found = defect(refused(&mut world, job, vec![odd]));
        assert_eq!(
            found,
            CommitDefect::Weight {
                newcomer: task("a")
            }
        );
    }
}

#[test]
fn a_commit_for_another_state_than_there_is_is_refused_whole() {
    let (mut world, job) = running();
    let mut moved = change(&mut world, SLOT, Some("a"));
    moved.expected = Some(Generation(1));
    let error = refused(&mut world, job, vec![moved]);
    assert!(
        matches!(error, CommitError::GenerationMoved { found: None, .. }),
        "{error}"
    );
    assert!(error.to_string().contains("at no generation"), "{error}");

    let mut missing = change(&mut world, SLOT, Some("a"));
    missing.tensor.bytes += 1;
    assert_eq!(
        refused(&mut world, job, vec![missing]).reason(),
        "TENSOR_MISSING"
    );

    let mut wordy = change(&mut world, SLOT, Some("a"));
    wordy.facts = "x".repeat(5000);
    assert_eq!(
        refused(&mut world, job, vec![wordy]).reason(),
        "RECORD_TOO_LARGE"
    );

    let waiting = world.enqueue("b", b"waiting").job.id;
    let early = vec![change(&mut world, SLOT, Some("b"))];
    assert_eq!(refused(&mut world, waiting, early).reason(), "JOB_STATE");
    let unknown = vec![change(&mut world, SLOT, Some("b"))];
    assert_eq!(
        refused(&mut world, JobId(77), unknown).reason(),
        "JOB_UNKNOWN"
    );
}

#[test]
fn a_result_too_long_for_the_catalog_is_refused_and_a_long_one_comes_back_as_it_was() {
    let (mut world, job) = running();
    // Quotes everywhere: what storage does not look into it must not blow up either.
    let result = format!("[{}\"\"]", "\"\",".repeat(1300));
    assert!(result.len() > 3900);
    let fits = vec![change(&mut world, SLOT, Some("a"))];
    let long = Commit {
        job,
        changes: fits,
        result: "x".repeat(4096),
    };
    let error = world.open().committer.commit(long, at(60)).unwrap_err();
    assert_eq!(error.reason(), "RECORD_TOO_LARGE");
    let fits = vec![change(&mut world, SLOT, Some("a"))];
    let commit = Commit {
        job,
        changes: fits,
        result: result.clone(),
    };
    world.open().committer.commit(commit, at(60)).unwrap();
    world.reopen();
    assert_eq!(world.catalog().jobs[&job].result.as_ref(), Some(&result));
}

#[test]
fn one_commit_may_change_several_slots() {
    let mut world = World::new();
    world.push("first", SLOT, b"one");
    let job = world.enqueue("a", b"upload").job.id;
    world.open().committer.start_job(job, at(50)).unwrap();
    let changes = vec![
        change(&mut world, OTHER, Some("a")),
        change(&mut world, SLOT, None),
    ];
    let commit = Commit {
        job,
        changes,
        result: "{}".to_owned(),
    };
    let catalog = world.open().committer.commit(commit, at(60)).unwrap();
    let first = catalog.slot(&base_name(), SLOT).unwrap();
    let second = catalog.slot(&base_name(), OTHER).unwrap();
    assert_eq!(
        (first.current().generation, first.current().members),
        (Generation(2), 1)
    );
    assert_eq!(
        (second.current().generation, second.current().members),
        (Generation(1), 1)
    );
    assert_eq!(first.current().revision, second.current().revision);
    assert_eq!(catalog.revision, first.current().revision);
    let event = catalog.events.back().unwrap();
    assert_eq!(event.revision, catalog.revision);
    let slots = vec![(OTHER, Generation(1)), (SLOT, Generation(2))];
    assert_eq!(
        event.event,
        Event::SlotsCommitted {
            base_model: base_name(),
            job,
            slots
        }
    );
}

#[test]
fn equal_tensors_are_one_file_that_stays_until_nobody_has_it() {
    let mut world = World::new();
    let tensors = |world: &World| {
        world
            .files()
            .into_keys()
            .filter(|name| name.starts_with("tensors/"))
            .count()
    };
    world.push("a", SLOT, b"same");
    world.push("b", SLOT, b"same");
    world.push("c", OTHER, b"same");
    assert_eq!(tensors(&world), 1);
    world.push("d", SLOT, b"other");
    assert_eq!(world.collect(Duration::ZERO).removed.len(), 2);
    assert_eq!(tensors(&world), 2);
    world.push("e", OTHER, b"more");
    world.collect(Duration::ZERO);
    assert_eq!(tensors(&world), 2);
}

#[test]
fn a_tensor_file_that_waits_for_its_commit_is_not_collected() {
    let mut world = World::new();
    world.push("a", SLOT, b"old");
    let job = world.enqueue("b", b"upload").job.id;
    world.open().committer.start_job(job, at(50)).unwrap();
    // The worker has made the very bytes of a generation that is about to go.
    world.push("c", SLOT, b"new");
    let tensor = world.tensor(b"old");
    assert_eq!(
        world.collect(Duration::ZERO).removed,
        [(base_name(), SLOT, Generation(1))]
    );
    let record = Arc::clone(&world.catalog().jobs[&job]);
    let commit = commit_of(&record, SLOT, Some(Generation(2)), tensor);
    let catalog = world.open().committer.commit(commit, at(60)).unwrap();
    let current = catalog.slot(&base_name(), SLOT).unwrap().current();
    assert_eq!(world.open().reader.tensor(current).unwrap().len(), 3);
    assert_eq!(world.reopen(), Default::default());
}

#[test]
fn a_tensor_file_that_no_commit_takes_goes_with_its_job() {
    let (mut world, job) = running();
    let tensors = |world: &World| {
        world
            .files()
            .into_keys()
            .filter(|name| name.starts_with("tensors/"))
            .count()
    };
    let one = world.tensor(b"in vain");
    let two = world.tensor(b"in vain");
    drop(one);
    let fail = |world: &mut World, job| {
        let failure = JobFailure {
            code: 3,
            reason: "BAD".to_owned(),
            message: String::new(),
        };
        world
            .open()
            .committer
            .fail_job(job, failure, at(70))
            .unwrap()
    };
    assert_eq!(fail(&mut world, job).state, JobState::Failed);
    assert_eq!(tensors(&world), 1, "someone still holds it");
    drop(two);
    world.collect(Duration::ZERO);
    assert_eq!(tensors(&world), 0);
}

#[test]
fn a_damaged_file_under_a_digest_is_replaced_by_the_whole_one() {
    let mut world = World::new();
    let tensor = world.tensor(b"tensors");
    let hex = tensor.digest.to_string();
    let path = world.path().join("tensors").join(&hex[..2]).join(&hex);
    write_file(&path, b"ten");
    drop(world.tensor(b"tensors"));
    assert_eq!(common::read_file(&path), b"tensors");
}

#[test]
fn a_missing_or_damaged_tensor_file_is_named() {
    let mut world = World::new();
    world.push("a", SLOT, b"tensors");
    let catalog = world.catalog();
    let record = catalog.slot(&base_name(), SLOT).unwrap().current();
    let hex = record.digest.to_string();
    let path = world.path().join("tensors").join(&hex[..2]).join(&hex);
    write_file(&path, b"ten");
    let error = world.open().reader.tensor(record).unwrap_err();
    assert!(
        matches!(
            error,
            ReadError::TensorLength {
                expected: 7,
                found: 3,
                ..
            }
        ),
        "{error}"
    );
    common::remove(&path);
    let error = world.open().reader.tensor(record).unwrap_err();
    assert!(matches!(error, ReadError::TensorMissing { .. }), "{error}");
}

#[test]
fn every_change_raises_the_revision_by_one_and_a_view_never_changes() {
    let mut world = World::new();
    let views: Vec<_> = (0..4)
        .map(|number| {
            world.enqueue(&format!("task-{number}"), b"upload");
            world.catalog()
        })
        .collect();
    for (number, view) in views.iter().enumerate() {
        assert_eq!(view.jobs.len(), number + 1);
        assert_eq!(view.revision.0, views[0].revision.0 + number as u64);
    }
    let queued: Vec<_> = views[3]
        .queued_jobs(&base_name())
        .map(|job| job.id.0)
        .collect();
    assert_eq!(queued, [1, 2, 3, 4]);
}
