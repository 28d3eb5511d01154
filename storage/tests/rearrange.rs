//! Tasks that leave and move, and slots that are emptied: now, after a restart, and from files alone.

#![expect(clippy::unwrap_used, reason = "a test that fails may panic")]

mod common;

use std::time::Duration;

use common::{SLOT, World, at, base_name, current, emptying, placing, remove, task};
use kmerge_storage::{
    CommitDefect, CommitError, Generation, GenerationRecord, JobId, Rearrangement, SlotIndex,
    SlotOutcome, SlotStep,
};

const OTHER: SlotIndex = SlotIndex(1);

/// A state in which `a` and `b` share the first slot and `c` has the second, and a running job.
fn three() -> (World, JobId) {
    let mut world = World::new();
    world.push("a", SLOT, b"a");
    world.push("b", SLOT, b"ab");
    world.push("c", OTHER, b"c");
    let job = running(&mut world, "new");
    (world, job)
}

fn running(world: &mut World, name: &str) -> JobId {
    let job = world.enqueue(name, b"upload").job.id;
    let now = world.tick();
    world.open().committer.start_job(job, now).unwrap();
    job
}

fn place(world: &mut World, slot: SlotIndex, members: &[(&str, f64)]) -> SlotStep {
    let expected = current(&world.catalog(), slot);
    let tensor = world.tensor(format!("{members:?}").as_bytes());
    placing(slot, expected, tensor, members)
}

fn empty(world: &World, slot: SlotIndex) -> SlotStep {
    emptying(slot, current(&world.catalog(), slot))
}

fn rearrange(world: &mut World, job: JobId, steps: Vec<SlotStep>) -> Result<(), CommitError> {
    let rearrangement = Rearrangement {
        job,
        steps,
        settings: None,
        result: "{}".to_owned(),
    };
    let now = world.tick();
    let done = world.open().committer.rearrange(rearrangement, now);
    done.map(drop)
}

/// The tasks of a slot in order, with their weights.
fn members(world: &World, slot: SlotIndex) -> Vec<(String, f64)> {
    let catalog = world.catalog();
    let Some(state) = catalog.slot(&base_name(), slot) else {
        return Vec::new();
    };
    let names = state.members.iter().map(|member| member.task.to_string());
    names.zip(state.weights(usize::MAX)).collect()
}

fn named(members: &[(&str, f64)]) -> Vec<(String, f64)> {
    let named = |&(name, weight): &(&str, f64)| (name.to_owned(), weight);
    members.iter().map(named).collect()
}

fn lose_catalog(world: &mut World) {
    world.abandon();
    remove(&world.path().join("catalog"));
    assert!(world.reopen().catalog_rebuilt);
}

fn lose_tensors(world: &World, slot: SlotIndex) {
    let catalog = world.catalog();
    let record = catalog.slot(&base_name(), slot).unwrap().current();
    let hex = record.digest.to_string();
    remove(&world.path().join("tensors").join(&hex[..2]).join(&hex));
}

fn number(world: &World, slot: SlotIndex) -> u64 {
    let generation = current(&world.catalog(), slot);
    generation.map_or(0, |generation| generation.0)
}

#[test]
fn a_rearrangement_that_makes_no_sense_is_refused_whole() {
    let (mut world, job) = three();
    let before = (world.catalog(), world.files());
    let refused = |world: &mut World, steps| {
        let error = rearrange(world, job, steps).unwrap_err();
        assert_eq!((world.catalog(), world.files()), before, "{error}");
        let CommitError::Invalid { defect, .. } = error else {
            panic!("{error}")
        };
        defect
    };
    let unknown = vec![place(&mut world, SLOT, &[("a", 0.5), ("nobody", 0.5)])];
    let found = refused(&mut world, unknown);
    assert_eq!(
        found,
        CommitDefect::UnknownTask {
            task: task("nobody")
        }
    );
    let twice = |name| CommitDefect::TaskTwice { task: task(name) };
    let double = vec![place(&mut world, SLOT, &[("a", 0.5), ("a", 0.5)])];
    assert_eq!(refused(&mut world, double), twice("a"));
    let left = vec![place(&mut world, SLOT, &[("a", 0.5), ("c", 0.5)])];
    assert_eq!(refused(&mut world, left), twice("c"));
    let both = vec![
        place(&mut world, SLOT, &[("new", 1.0)]),
        place(&mut world, OTHER, &[("new", 1.0)]),
    ];
    assert_eq!(refused(&mut world, both), twice("new"));
    let nobody = vec![place(&mut world, SLOT, &[])];
    assert_eq!(
        refused(&mut world, nobody),
        CommitDefect::NoMember { slot: SLOT }
    );
    let slot = SlotIndex(7);
    let nothing = vec![empty(&world, slot)];
    assert_eq!(
        refused(&mut world, nothing),
        CommitDefect::EmptiesNothing { slot }
    );
    let odd = vec![place(&mut world, SLOT, &[("a", f64::NAN)])];
    assert!(matches!(
        refused(&mut world, odd),
        CommitDefect::Weight { .. }
    ));
    let mut stale = empty(&world, SLOT);
    stale.expected = Some(Generation(1));
    assert!(matches!(stale.outcome, SlotOutcome::Emptied));
    let error = rearrange(&mut world, job, vec![stale]).unwrap_err();
    assert_eq!(error.reason(), "GENERATION_MOVED");
}

#[test]
fn tasks_move_and_leave_and_stay_so_whatever_is_lost() {
    let (mut world, job) = three();
    let old = world.catalog();
    let steps = vec![
        place(&mut world, SLOT, &[("c", 0.75), ("b", 0.5)]),
        place(&mut world, OTHER, &[("new", 1.0)]),
    ];
    rearrange(&mut world, job, steps).unwrap();
    let check = |world: &mut World| {
        assert_eq!(
            members(world, SLOT),
            named(&[("c", 0.75), ("b", 0.5)]),
            "as placed"
        );
        assert_eq!(members(world, OTHER), named(&[("new", 1.0)]));
        let catalog = world.catalog();
        let found = |name| catalog.task(&base_name(), &task(name));
        assert_eq!(found("a"), None);
        let (moved, stayed) = (found("c").unwrap(), found("b").unwrap());
        let before = old.task(&base_name(), &task("c")).unwrap();
        assert_eq!((moved.slot, moved.generation), (SLOT, Generation(3)));
        assert_eq!((moved.job, &moved.upload), (before.job, &before.upload));
        assert_eq!(stayed, old.task(&base_name(), &task("b")).unwrap());
        // The manifests that still name `a` are in grace.
        let earlier = old.generation(&base_name(), SLOT, Generation(2)).unwrap();
        let state = catalog.slot(&base_name(), SLOT).unwrap();
        assert_eq!(state.members_of(earlier), None);
        let members = world.open().reader.generation_members(earlier).unwrap();
        let members: Vec<_> = members
            .iter()
            .map(|m| (m.task.as_str(), m.weight))
            .collect();
        assert_eq!(members, [("a", 1.0 - (0.1 + 0.2)), ("b", 0.1 + 0.2)]);
    };
    check(&mut world);
    assert_eq!(world.reopen(), Default::default());
    check(&mut world);
    lose_catalog(&mut world);
    check(&mut world);

    // The name is free for anything, and who joins now scales those that were placed.
    let again = world.enqueue("a", b"something else");
    assert!(!again.existing);
    world.merge(again.job.id, SLOT, b"with a").unwrap();
    let rest = 1.0 - (0.1 + 0.2);
    let expected = named(&[("c", 0.75 * rest), ("b", 0.5 * rest), ("a", 0.1 + 0.2)]);
    assert_eq!(members(&world, SLOT), expected);
    world.collect(Duration::ZERO);
    lose_catalog(&mut world);
    assert_eq!(members(&world, SLOT), expected);
}

#[test]
fn an_emptied_slot_serves_nothing_and_its_numbers_go_on() {
    let (mut world, job) = three();
    let record = world.catalog();
    let record = record.slot(&base_name(), OTHER).unwrap().current().clone();
    let publish = |world: &mut World| {
        let reader = &world.open().reader;
        reader
            .publish_export(&record, "peft", "tensors", &[])
            .unwrap()
    };
    let export = publish(&mut world);
    let link = export.parent().unwrap().join("current");
    let has_link = || std::fs::symlink_metadata(&link).is_ok();
    assert!(has_link());
    let steps = vec![empty(&world, OTHER)];
    rearrange(&mut world, job, steps).unwrap();
    assert!(!has_link());
    let check = |world: &mut World| {
        let catalog = world.catalog();
        assert!(catalog.slot(&base_name(), OTHER).is_none());
        let emptied = catalog.emptied(&base_name(), OTHER).unwrap();
        assert_eq!(emptied.record.generation, Generation(2));
        assert!(catalog.task(&base_name(), &task("c")).is_none());
        // The job's own task went nowhere either.
        assert!(catalog.task(&base_name(), &task("new")).is_none());
    };
    check(&mut world);
    // Whoever is late with the old generation does not bring it back.
    publish(&mut world);
    assert!(!has_link());
    // A start takes away a link that came back, and lets the old generation stay for its grace.
    std::os::unix::fs::symlink("1", &link).unwrap();
    world.reopen();
    assert!(!has_link());
    check(&mut world);
    lose_catalog(&mut world);
    check(&mut world);
    assert!(world.open().reader.tensor(&record).is_ok());
    let collected = world.collect(Duration::ZERO).removed;
    assert!(collected.contains(&(base_name(), OTHER, Generation(1))));
    lose_catalog(&mut world);
    check(&mut world);

    world.push("d", OTHER, b"d");
    assert_eq!(number(&world, OTHER), 3);
    let manifests: Vec<String> = world.files().into_keys().collect();
    assert!(!manifests.contains(&"manifests/tiny/1/2.json".to_owned()));
    lose_catalog(&mut world);
    assert_eq!(number(&world, OTHER), 3);
    assert_eq!(members(&world, OTHER), named(&[("d", 1.0)]));
}

#[test]
fn what_a_slot_held_before_its_members_left_is_not_served_again() {
    let (mut world, job) = three();
    let record = |world: &World| {
        let catalog = world.catalog();
        catalog.slot(&base_name(), SLOT).unwrap().current().clone()
    };
    let served = |world: &mut World, record: &GenerationRecord| {
        let reader = &world.open().reader;
        let export = reader
            .publish_export(record, "peft", "tensors", &[])
            .unwrap();
        let link = std::fs::read_link(export.parent().unwrap().join("current"));
        link.ok().map(|target| target.to_str().unwrap().to_owned())
    };
    let before = record(&world);
    let steps = vec![place(&mut world, SLOT, &[("b", 1.0)])];
    rearrange(&mut world, job, steps).unwrap();
    let after = record(&world);
    world.push("d", SLOT, b"bd");
    let newest = record(&world);
    // Late, but of the same list: better than none.
    assert_eq!(served(&mut world, &before), None);
    assert_eq!(served(&mut world, &after).as_deref(), Some("3"));
    assert_eq!(served(&mut world, &before).as_deref(), Some("3"));
    assert_eq!(served(&mut world, &newest).as_deref(), Some("4"));
}

#[test]
fn that_a_slot_is_empty_is_written_again() {
    let (mut world, job) = three();
    let steps = vec![empty(&world, OTHER)];
    rearrange(&mut world, job, steps).unwrap();
    let path = world.path().join("manifests/tiny/1/2.json");
    for damage in [false, true] {
        world.abandon();
        if damage {
            common::write_file(&path, b"{}");
        } else {
            remove(&path);
        }
        assert_eq!(world.reopen().notes.len(), 1 + 2 * usize::from(damage));
        assert_eq!(world.reopen(), Default::default());
    }
    lose_catalog(&mut world);
    assert!(world.catalog().emptied(&base_name(), OTHER).is_some());
}

#[test]
fn an_earlier_generation_comes_back_without_those_that_have_left() {
    let (mut world, job) = three();
    let steps = vec![
        place(&mut world, SLOT, &[("b", 0.5), ("new", 0.5)]),
        place(&mut world, OTHER, &[("c", 1.0)]),
    ];
    rearrange(&mut world, job, steps).unwrap();
    lose_tensors(&world, SLOT);
    let report = world.reopen();
    assert!(
        report
            .notes
            .iter()
            .any(|note| note.contains("serves generation 2 again"))
    );
    let check = |world: &World| {
        // `a` was forgotten, and `new` is lost with the tensors.
        let names: Vec<String> = members(world, SLOT)
            .into_iter()
            .map(|(name, _)| name)
            .collect();
        assert_eq!(names, ["b"]);
        assert_eq!(number(world, SLOT), 4);
        assert!(world.catalog().task(&base_name(), &task("new")).is_none());
        assert!(world.catalog().task(&base_name(), &task("a")).is_none());
    };
    check(&world);
    let failure = world.catalog().jobs[&job].failure.clone().unwrap();
    assert_eq!(failure.reason, "TENSORS_LOST");
    assert_eq!(world.reopen(), Default::default());
    lose_catalog(&mut world);
    check(&world);
}

#[test]
fn a_slot_with_nobody_left_is_given_up_and_does_not_take_its_sibling_along() {
    let (mut world, job) = three();
    let steps = vec![
        place(&mut world, SLOT, &[("c", 1.0)]),
        place(&mut world, OTHER, &[("a", 0.5), ("b", 0.5)]),
    ];
    rearrange(&mut world, job, steps).unwrap();
    // What the first slot held before is with the other one now.
    lose_tensors(&world, SLOT);
    world.reopen();
    let check = |world: &World| {
        assert!(world.catalog().emptied(&base_name(), SLOT).is_some());
        assert_eq!(members(world, OTHER), named(&[("a", 0.5), ("b", 0.5)]));
    };
    check(&world);
    world.collect(Duration::ZERO);
    lose_catalog(&mut world);
    check(&world);
    assert_eq!(world.reopen(), Default::default());
    world.push("d", SLOT, b"d");
    assert_eq!(number(&world, SLOT), 5);
}

#[test]
fn a_task_that_two_manifests_name_belongs_to_the_later_one() {
    let (mut world, job) = three();
    let steps = vec![
        place(&mut world, SLOT, &[("b", 1.0)]),
        place(&mut world, OTHER, &[("c", 0.5), ("a", 0.5)]),
    ];
    rearrange(&mut world, job, steps).unwrap();
    world.push("d", OTHER, b"cad");
    world.abandon();
    // With the catalog goes the only manifest that knows that `a` has left.
    remove(&world.path().join("manifests/tiny/0/3.json"));
    remove(&world.path().join("catalog"));
    assert!(world.reopen().catalog_rebuilt);
    let names = |world: &World, slot| -> Vec<String> {
        members(world, slot)
            .into_iter()
            .map(|(name, _)| name)
            .collect()
    };
    assert_eq!(names(&world, SLOT), ["b"]);
    assert_eq!(names(&world, OTHER), ["c", "a", "d"]);
    assert!(!world.reopen().catalog_rebuilt);
    assert_eq!(names(&world, SLOT), ["b"]);
}

#[test]
fn half_a_rearrangement_is_none_whatever_else_is_lost() {
    let (mut world, job) = three();
    let before = world.catalog();
    let steps = vec![
        place(&mut world, SLOT, &[("b", 1.0)]),
        place(&mut world, OTHER, &[("c", 0.5), ("a", 0.5)]),
    ];
    rearrange(&mut world, job, steps).unwrap();
    world.abandon();
    remove(&world.path().join("manifests/tiny/0/3.json"));
    remove(&world.path().join("catalog"));
    assert!(world.reopen().catalog_rebuilt);
    let tasks = |catalog: &kmerge_storage::Catalog| catalog.base_models[&base_name()].tasks.clone();
    assert_eq!(tasks(&world.catalog()), tasks(&before));
    assert!(
        world
            .catalog()
            .jobs
            .values()
            .all(|job| job.created < at(1000))
    );
    assert_eq!(world.reopen(), Default::default());
}

#[test]
fn grace_counts_from_the_emptying_when_the_slot_is_used_again() {
    let (mut world, job) = three();
    let steps = vec![empty(&world, OTHER)];
    rearrange(&mut world, job, steps).unwrap();
    let emptied = world
        .catalog()
        .emptied(&base_name(), OTHER)
        .unwrap()
        .record
        .committed;
    world.push("d", OTHER, b"d");
    let before = world.catalog();
    let earlier = before
        .generation(&base_name(), OTHER, Generation(1))
        .unwrap();
    assert_eq!(earlier.superseded, Some(emptied));
    lose_catalog(&mut world);
    assert_eq!(world.catalog().base_models, before.base_models);
}

#[test]
fn a_slot_holds_the_tensors_of_an_earlier_generation_again() {
    let (mut world, job) = three();
    let first = world.catalog();
    let first = first.generation(&base_name(), SLOT, Generation(1)).unwrap();
    let again = |world: &mut World| world.open().reader.tensor_again(first);
    let tensor = again(&mut world).unwrap();
    // The lease holds the file while nobody else names it.
    assert_eq!(world.collect(Duration::ZERO).removed.len(), 1);
    let expected = current(&world.catalog(), SLOT);
    let steps = vec![placing(SLOT, expected, tensor, &[("a", 1.0)])];
    rearrange(&mut world, job, steps).unwrap();
    let check = |world: &mut World| {
        assert_eq!(members(world, SLOT), named(&[("a", 1.0)]));
        assert_eq!(number(world, SLOT), 3);
        assert!(world.catalog().task(&base_name(), &task("b")).is_none());
        assert!(again(world).is_ok());
    };
    check(&mut world);
    world.collect(Duration::ZERO);
    check(&mut world);
    lose_catalog(&mut world);
    check(&mut world);

    // What is no longer what was written is not named again; neither is what has gone.
    let hex = first.digest.to_string();
    let path = world.path().join("tensors").join(&hex[..2]).join(&hex);
    remove(&path);
    common::write_file(&path, b"b");
    assert_eq!(again(&mut world).unwrap_err().reason(), "TENSOR_DAMAGED");
    lose_tensors(&world, SLOT);
    assert_eq!(again(&mut world).unwrap_err().reason(), "TENSOR_MISSING");
}
