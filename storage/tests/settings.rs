//! Base models whose settings change: what stays known of them, and from which file.

#![expect(clippy::unwrap_used, reason = "a test that fails may panic")]

mod common;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use common::{SLOT, World, at, base_model, base_name, current, read_file, remove, write_file};
use kmerge_storage::{
    BaseModelRecord, Catalog, Generation, JobKind, JobRecord, MembersChange, NextGeneration,
    Rearrangement, Registered, SlotIndex, SlotOutcome, SlotStep,
};

fn repack(settings: &str) -> JobKind {
    JobKind::Repack {
        settings: settings.to_owned(),
    }
}

fn start(world: &mut World, kind: &JobKind) -> Arc<JobRecord> {
    let now = world.tick();
    let committer = &mut world.open().committer;
    let enqueued = committer.enqueue_maintenance(&base_name(), kind.clone(), None, now);
    let job = enqueued.unwrap().job;
    let now = world.tick();
    world.open().committer.start_job(job.id, now).unwrap()
}

/// Runs a job that gives the base model other settings and writes these slots again.
fn change_settings(world: &mut World, settings: &str, slots: &[SlotIndex]) {
    let job = start(world, &repack(settings));
    let steps = slots.iter().map(|&slot| {
        let outcome = SlotOutcome::Next(NextGeneration {
            tensor: world.tensor(format!("{settings} in {slot}").as_bytes()),
            facts: "{}".to_owned(),
            members: MembersChange::Keep,
        });
        let expected = current(&world.catalog(), slot);
        SlotStep {
            slot,
            expected,
            outcome,
        }
    });
    let rearrangement = Rearrangement {
        job: job.id,
        steps: steps.collect(),
        settings: Some(settings.to_owned()),
        result: "{}".to_owned(),
    };
    let now = world.tick();
    world
        .open()
        .committer
        .rearrange(rearrangement, now)
        .unwrap();
}

fn settings(catalog: &Catalog) -> String {
    let state = catalog.base_model(&base_name()).unwrap();
    state.record.settings.clone()
}

fn lose_catalog(world: &mut World) {
    world.close();
    remove(&world.path().join("catalog"));
    let report = world.reopen();
    assert!(report.catalog_rebuilt);
}

fn base_model_file(world: &World) -> PathBuf {
    world.path().join("base-models/tiny.json")
}

#[test]
fn settings_change_together_with_the_slots() {
    let mut world = World::new();
    world.push("a", SLOT, b"first");
    change_settings(&mut world, "{\"slots\":9}", &[SLOT]);
    let check = |world: &World| {
        let catalog = world.catalog();
        assert_eq!(settings(&catalog), "{\"slots\":9}");
        assert_eq!(current(&catalog, SLOT), Some(Generation(2)));
        assert!(catalog.task(&base_name(), &common::task("a")).is_some());
    };
    check(&world);
    // Nothing is left to do for the next start.
    assert_eq!(world.reopen(), Default::default());
    check(&world);
    lose_catalog(&mut world);
    check(&world);
    // The slots go on under the new settings, and are found again.
    world.push("b", SLOT, b"third");
    lose_catalog(&mut world);
    assert_eq!(settings(&world.catalog()), "{\"slots\":9}");
    assert_eq!(current(&world.catalog(), SLOT), Some(Generation(3)));
}

#[test]
fn settings_change_without_a_slot() {
    let mut world = World::new();
    change_settings(&mut world, "{\"slots\":9}", &[]);
    assert_eq!(settings(&world.catalog()), "{\"slots\":9}");
    assert_eq!(world.reopen(), Default::default());
    lose_catalog(&mut world);
    assert_eq!(settings(&world.catalog()), "{\"slots\":9}");
}

#[test]
fn a_base_model_is_known_by_what_was_registered_and_by_what_it_is() {
    let mut world = World::new();
    change_settings(&mut world, "{\"slots\":9}", &[]);
    let mut register = |settings: &str| {
        let record = BaseModelRecord {
            settings: settings.to_owned(),
            ..base_model()
        };
        world.open().committer.register_base_model(record)
    };
    for settings in [base_model().settings.as_str(), "{\"slots\":9}"] {
        match register(settings).unwrap() {
            Registered::Identical(known) => assert_eq!(known.settings, "{\"slots\":9}"),
            Registered::Created(_) => panic!("it was there"),
        }
    }
    let error = register("{\"slots\":5}").unwrap_err();
    assert_eq!(error.reason(), "BASE_MODEL_EXISTS");
}

#[test]
fn a_file_from_before_the_settings_changed_is_written_again() {
    let mut world = World::new();
    world.push("a", SLOT, b"first");
    let before = read_file(&base_model_file(&world));
    change_settings(&mut world, "{\"slots\":9}", &[SLOT]);
    let after = read_file(&base_model_file(&world));
    assert_ne!(before, after);
    world.abandon();
    write_file(&base_model_file(&world), &before);
    let report = world.reopen();
    assert!(!report.catalog_rebuilt);
    assert_eq!(settings(&world.catalog()), "{\"slots\":9}");
    assert_eq!(read_file(&base_model_file(&world)), after);
    // Without the catalog the manifest says it.
    world.close();
    write_file(&base_model_file(&world), &before);
    remove(&world.path().join("catalog"));
    assert!(world.reopen().catalog_rebuilt);
    assert_eq!(settings(&world.catalog()), "{\"slots\":9}");
    assert_eq!(current(&world.catalog(), SLOT), Some(Generation(2)));
    assert_eq!(read_file(&base_model_file(&world)), after);
}

#[test]
fn a_manifest_does_not_bring_earlier_settings_back() {
    let mut world = World::new();
    let (first, second) = (SLOT, SlotIndex(1));
    world.push("a", first, b"first");
    world.push("b", second, b"second");
    change_settings(&mut world, "{\"slots\":8}", &[first]);
    change_settings(&mut world, "{\"slots\":9}", &[second]);
    // What brought the later settings goes, and what brought the earlier ones stays.
    world.push("c", second, b"third");
    world.collect(Duration::ZERO);
    lose_catalog(&mut world);
    assert_eq!(settings(&world.catalog()), "{\"slots\":9}");
    assert_eq!(current(&world.catalog(), first), Some(Generation(2)));
    assert_eq!(current(&world.catalog(), second), Some(Generation(3)));
}

#[test]
fn a_settings_change_that_the_catalog_never_learnt_of_is_taken_in_from_its_manifests() {
    let mut world = World::new();
    world.push("a", SLOT, b"first");
    world.close();
    let (state, copy) = (world.path(), common::scratch());
    copy_directory(&state, copy.path());
    let opened = common::open_at(&state, at(world.clock));
    world.opened = Some(opened);
    change_settings(&mut world, "{\"slots\":9}", &[SLOT]);
    world.close();
    // The catalog and the file of before, with the manifest and the tensors of after.
    for name in ["catalog", "base-models"] {
        remove(&state.join(name));
        copy_directory(&copy.path().join(name), &state.join(name));
    }
    let report = world.reopen();
    assert!(!report.catalog_rebuilt);
    assert_eq!(report.generations_recovered, 1);
    assert_eq!(settings(&world.catalog()), "{\"slots\":9}");
    assert_eq!(current(&world.catalog(), SLOT), Some(Generation(2)));
    assert_eq!(world.reopen(), Default::default());
}

fn copy_directory(from: &std::path::Path, to: &std::path::Path) {
    common::make_directories(to);
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_directory(&entry.path(), &target);
        } else {
            write_file(&target, &read_file(&entry.path()));
        }
    }
}

#[test]
fn manifests_of_earlier_versions_know_the_base_model() {
    let record = BaseModelRecord {
        config: "{}".to_owned(),
        ..base_model()
    };
    // SHA-256 over name, config, settings and served name, each after its length as eight bytes.
    let written = "62e3148af0301682f9c88a58354593f5633e52947d04fadaf8081b8f5e75b1d2";
    assert_eq!(record.fingerprint().to_string(), written);
}
