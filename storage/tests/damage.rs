//! A tensor file that is found damaged while the state is open: the generation before serves again, by
//! the rule of a start, and a kill in between changes nothing about it.

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use std::collections::BTreeSet;
use std::time::Duration;

use common::{SLOT, World, base_name, essence, placing, task};
use kmerge_storage::{Digest, Generation, JobKind, JobState, Rearrangement, SlotIndex};

fn world() -> World {
    let mut world = World::new();
    for (name, bytes) in [("a0", b"zero"), ("a1", b"one."), ("a2", b"two.")] {
        world.push(name, SLOT, bytes);
    }
    world.push("other", SlotIndex(1), b"other");
    world
}

fn distrust(world: &mut World, bytes: &[&[u8]]) -> Vec<String> {
    let bad: BTreeSet<Digest> = bytes.iter().map(|bytes| Digest::of(bytes)).collect();
    let now = world.tick();
    world.open().committer.distrust(&bad, now).unwrap().notes
}

#[test]
fn the_generation_before_serves_again_and_a_restart_changes_nothing() {
    let mut world = world();
    let lost = world.catalog().task(&base_name(), &task("a2")).unwrap().job;
    let notes = distrust(&mut world, &[b"two."]);
    assert!(
        notes
            .iter()
            .any(|note| note.contains("serves generation 2 again")),
        "{notes:?}"
    );
    let after = world.catalog();
    let slot = after.slot(&base_name(), SLOT).unwrap();
    let current = slot.current();
    assert_eq!(
        (current.generation, current.digest),
        (Generation(4), Digest::of(b"one."))
    );
    assert_eq!(slot.members.len(), 2);
    assert!(after.task(&base_name(), &task("a2")).is_none());
    assert_eq!(after.jobs[&lost].state, JobState::Failed);
    assert_eq!(
        after.jobs[&lost].failure.as_ref().unwrap().reason,
        "TENSORS_LOST"
    );
    assert_eq!(
        distrust(&mut world, &[b"two."]),
        Vec::<String>::new(),
        "once is enough"
    );

    let report = world.reopen();
    assert_eq!(report.notes, Vec::<String>::new());
    assert_eq!(world.catalog().base_models, after.base_models);
    world.abandon();
    common::remove(&world.path().join("catalog"));
    world.reopen();
    let rebuilt = world.catalog();
    assert_eq!(
        essence(&rebuilt).base_models[&base_name()].tasks,
        after.base_models[&base_name()].tasks
    );
    assert_eq!(
        rebuilt.slot(&base_name(), SLOT).unwrap().current().digest,
        current.digest
    );
}

#[test]
fn several_at_once_and_nothing_left() {
    let mut world = world();
    let notes = distrust(&mut world, &[b"two.", b"one."]);
    assert!(
        notes
            .iter()
            .any(|note| note.contains("serves generation 1 again")),
        "{notes:?}"
    );
    assert_eq!(
        world
            .catalog()
            .slot(&base_name(), SLOT)
            .unwrap()
            .members
            .len(),
        1
    );
    let notes = distrust(&mut world, &[b"zero", b"other"]);
    assert_eq!(
        notes
            .iter()
            .filter(|note| note.contains("no whole generation left"))
            .count(),
        2,
        "{notes:?}"
    );
    assert!(world.catalog().base_models[&base_name()].slots.is_empty());
    assert!(world.catalog().base_models[&base_name()].tasks.is_empty());
    world.collect(Duration::ZERO);
    let report = world.reopen();
    assert_eq!(report.notes, Vec::<String>::new());
    // The numbers go on.
    world.push("new", SLOT, b"new");
    assert!(common::current(&world.catalog(), SLOT).unwrap() > Generation(4));
}

#[test]
fn nobody_returns_who_was_forgotten() {
    let mut world = world();
    let now = world.tick();
    let kind = JobKind::Forget { task: task("a0") };
    let committer = &mut world.open().committer;
    let job = committer
        .enqueue_maintenance(&base_name(), kind, None, now)
        .unwrap()
        .job
        .id;
    committer.start_job(job, now).unwrap();
    let tensor = world.tensor(b"without");
    let expected = common::current(&world.catalog(), SLOT);
    let outcome = Rearrangement {
        job,
        steps: vec![placing(SLOT, expected, tensor, &[("a1", 0.5), ("a2", 0.5)])],
        settings: None,
        result: String::new(),
    };
    world.open().committer.rearrange(outcome, now).unwrap();
    distrust(&mut world, &[b"without"]);
    let catalog = world.catalog();
    let slot = catalog.slot(&base_name(), SLOT).unwrap();
    let members: Vec<_> = slot
        .members
        .iter()
        .map(|member| member.task.as_str())
        .collect();
    assert_eq!(members, ["a1", "a2"]);
    assert_eq!(slot.current().digest, Digest::of(b"two."));
}

#[test]
fn a_generation_in_grace_goes_alone() {
    let mut world = world();
    distrust(&mut world, &[b"one."]);
    let catalog = world.catalog();
    let slot = catalog.slot(&base_name(), SLOT).unwrap();
    assert_eq!(slot.current().generation, Generation(3));
    assert_eq!(slot.members.len(), 3);
    assert!(!slot.generations.contains_key(&Generation(2)));
}
