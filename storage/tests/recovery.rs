//! Whatever is taken away or spoilt, the next start brings the same state back, or says aloud
//! what is lost.

#![expect(clippy::unwrap_used, reason = "a test that fails may panic")]

mod common;

use std::path::PathBuf;
use std::time::Duration;

use common::{
    SLOT, World, at, base_model, base_name, essence, make_directories, open_at, read_file, remove,
    task, write_file,
};
use kmerge_storage::{
    BaseModelRecord, Catalog, Generation, JobId, JobState, OpenError, Options, SlotIndex, open,
};
use proptest::prelude::*;

const OTHER: SlotIndex = SlotIndex(1);

/// A state with all there is: two base models, two slots, generations in grace, jobs in every
/// state. Closed.
fn rich() -> World {
    let mut world = World::new();
    let second = BaseModelRecord {
        name: "second".parse().unwrap(),
        ..base_model()
    };
    world.open().committer.register_base_model(second).unwrap();
    world.push("a", SLOT, b"one");
    world.push("b", SLOT, b"two");
    world.collect(Duration::ZERO);
    world.push("c", OTHER, b"three");
    world.push("d", SLOT, b"four");
    let record = world.catalog();
    let record = record.slot(&base_name(), SLOT).unwrap().current().clone();
    let reader = world.open().reader.clone();
    reader
        .publish_export(&record, "peft", "tensors", &[("config", b"{}")])
        .unwrap();
    let staged = world.stage("e", b"waiting", Some("request-e"));
    let now = world.tick();
    world.open().committer.enqueue(staged, now).unwrap();
    world.enqueue("f", b"waiting too");
    let cancelled = world.enqueue("g", b"unwanted").job.id;
    let now = world.tick();
    world.open().committer.cancel_job(cancelled, now).unwrap();
    world.close();
    world
}

fn state(world: &World) -> Catalog {
    let opened = open_at(&world.path(), at(900));
    assert_eq!(
        opened.report,
        Default::default(),
        "a clean start finds nothing to do"
    );
    let catalog = opened.committer.catalog();
    (*catalog).clone()
}

/// Opens what may be damaged and compares it in full.
fn assert_comes_back(world: &mut World, expected: &Catalog) -> kmerge_storage::RecoveryReport {
    let files = world.files();
    let report = world.reopen();
    let found = world.catalog();
    assert_eq!(
        essence(&found),
        with_restored_jobs(expected, &found),
        "{report:?}"
    );
    assert!(found.revision > expected.revision);
    assert!(found.last_job >= expected.last_job);
    let mut after = world.files();
    after.retain(|name, _| !name.starts_with("quarantine/"));
    assert_eq!(
        after, files,
        "the files beside the catalog stay as they are"
    );
    // And it works: the next job has a new id and can be merged.
    let job = world.push("after", SLOT, b"after");
    assert!(job.id > expected.last_job, "{job:?}");
    let report_again = world.reopen();
    assert_eq!(
        report_again,
        Default::default(),
        "once recovered, nothing is left to do"
    );
    report
}

/// The essence of `expected`; jobs whose own manifest has gone are known by their task only.
fn with_restored_jobs(expected: &Catalog, found: &Catalog) -> Catalog {
    let mut essence = essence(expected);
    for (id, job) in &mut essence.jobs {
        let bare = found.jobs.get(id).filter(|found| {
            found.state == JobState::Done && found.result.is_none() && found.ended.is_none()
        });
        if let Some(bare) = bare {
            assert_eq!(
                (&bare.task, &bare.upload, bare.created),
                (&job.task, &job.upload, job.created)
            );
            *job = bare.clone();
        }
    }
    essence
}

#[test]
fn a_deleted_catalog_is_made_again() {
    let mut world = rich();
    let expected = state(&world);
    remove(&world.path().join("catalog"));
    let report = assert_comes_back(&mut world, &expected);
    assert!(report.catalog_rebuilt);
    assert_eq!(report.quarantined, None);
    assert_eq!((report.generations_recovered, report.jobs_requeued), (3, 2));
    let found = world.catalog();
    assert_eq!(found.job_by_request("request-e").unwrap().task, task("e"));
    // The full decision is back for every generation that is still there.
    assert_eq!(
        found.jobs[&JobId(4)].result.as_deref(),
        Some("{\"slot\":\"why\"}")
    );
}

#[test]
fn ids_are_not_used_again_after_everything_that_knew_them_is_gone() {
    let mut world = World::new();
    let cancelled = world.enqueue("a", b"one").job.id;
    world.open().committer.cancel_job(cancelled, at(5)).unwrap();
    let revision = world.catalog().revision;
    world.close();
    remove(&world.path().join("catalog"));
    world.reopen();
    assert!(world.catalog().revision > revision);
    assert!(world.enqueue("b", b"two").job.id > cancelled);
}

#[test]
fn a_damaged_counter_does_not_stop_a_start() {
    for counter in ["job-ids", "revisions"] {
        for lost in [false, true] {
            let mut world = rich();
            let expected = state(&world);
            write_file(&world.path().join(counter), b"{");
            if lost {
                remove(&world.path().join("catalog"));
            }
            world.reopen();
            assert!(world.catalog().revision >= expected.revision);
            assert!(world.enqueue("z", b"z").job.id > JobId(6));
            assert_eq!(world.reopen(), Default::default());
        }
    }
}

#[test]
fn an_unfinished_snapshot_does_not_count() {
    let mut world = rich();
    let expected = state(&world);
    write_file(
        &world
            .path()
            .join("catalog/snap.00000000FFFFFFFF.generating"),
        b"half",
    );
    let report = world.reopen();
    assert!(!report.catalog_rebuilt, "{report:?}");
    assert_eq!(*world.catalog(), expected);
}

#[test]
fn every_file_of_the_catalog_can_be_lost_or_cut() {
    let names: Vec<String> = {
        let world = rich();
        std::fs::read_dir(world.path().join("catalog"))
            .unwrap()
            .map(|entry| entry.unwrap())
            .filter(|entry| entry.file_type().unwrap().is_file())
            .map(|entry| entry.file_name().into_string().unwrap())
            .collect()
    };
    assert!(names.iter().any(|name| name == "db"), "{names:?}");
    for name in &names {
        for keep in [None, Some(0), Some(1), Some(2)] {
            let mut world = rich();
            let expected = state(&world);
            // The snapshot's name holds a position and may differ from run to run.
            let path = world.path().join("catalog").join(name);
            let Ok(metadata) = std::fs::metadata(&path) else {
                continue;
            };
            match keep {
                None => remove(&path),
                Some(halves) => {
                    let bytes = read_file(&path);
                    let length = usize::try_from(metadata.len()).unwrap() * halves / 3;
                    write_file(&path, &bytes[..length]);
                }
            }
            assert_recovers_or_is_whole(&mut world, &expected);
        }
    }
}

/// sled may not notice what was spoilt, or may lose the end of its log without a word; either way
/// the state must come back.
fn assert_recovers_or_is_whole(world: &mut World, expected: &Catalog) {
    let before = world.files();
    let report = world.reopen();
    let found = world.catalog();
    if *found == *expected {
        return;
    }
    assert_eq!(
        essence(&found),
        with_restored_jobs(expected, &found),
        "{report:?}"
    );
    assert_eq!(world.files(), before);
    let job = world.push("after", SLOT, b"after");
    assert!(job.id > expected.last_job, "{job:?} {report:?}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..Default::default() })]

    #[test]
    fn flipped_bytes_in_the_catalog_change_nothing(
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), 1..=255_u8), 1..30)
    ) {
        let mut world = rich();
        let expected = state(&world);
        let mut files: Vec<PathBuf> = std::fs::read_dir(world.path().join("catalog"))
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.is_file())
            .collect();
        files.sort();
        for (file, at, mask) in flips {
            let path = file.get(&files);
            let mut bytes = read_file(path);
            // Most of the log is not written yet; where it is, a flip matters.
            let used = bytes.iter().rposition(|&byte| byte != 0).map_or(1, |last| last + 1);
            bytes[at.index(used)] ^= mask;
            write_file(path, &bytes);
        }
        assert_recovers_or_is_whole(&mut world, &expected);
    }
}

#[test]
fn lost_and_damaged_manifests_are_written_again() {
    for spoil in [true, false] {
        let mut world = rich();
        let expected = state(&world);
        let before = world.files();
        for name in before.keys().filter(|name| name.starts_with("manifests/")) {
            let path = world.path().join(name);
            if spoil {
                let mut bytes = read_file(&path);
                bytes.truncate(bytes.len() / 2);
                write_file(&path, &bytes);
            } else {
                remove(&path);
            }
        }
        world.reopen();
        assert_eq!(essence(&world.catalog()), essence(&expected));
        world.close();
        if spoil {
            // What is older than the newest is looked at only when it is needed.
            continue;
        }
        assert_eq!(world.files(), before);
        remove(&world.path().join("catalog"));
        let report = world.reopen();
        assert_eq!(report.generations_recovered, 3);
    }
}

#[test]
fn a_lost_base_model_file_is_written_again() {
    for spoil in [true, false] {
        let mut world = rich();
        let expected = state(&world);
        let before = world.files();
        let path = world.path().join("base-models/tiny.json");
        if spoil {
            write_file(&path, b"{}")
        } else {
            remove(&path)
        }
        let report = world.reopen();
        assert!(!report.catalog_rebuilt);
        assert_eq!(*world.catalog(), expected);
        assert_eq!(world.files(), before);
    }
}

#[test]
fn a_base_model_that_is_lost_with_the_catalog_stops_the_start_and_nothing_is_swept() {
    for spoil in [true, false] {
        let world = rich();
        let path = world.path().join("base-models/tiny.json");
        let original = read_file(&path);
        if spoil {
            write_file(&path, b"{}")
        } else {
            remove(&path)
        }
        remove(&world.path().join("catalog"));
        let before = world.files();
        let error = open(&world.path(), &Options::default(), at(999)).unwrap_err();
        assert!(matches!(&error, OpenError::BaseModelLost { path: found } if *found == path));
        assert_eq!(error.reason(), "BASE_MODEL_LOST");
        assert_eq!(world.files(), before);
        write_file(&path, &original);
        let opened = open_at(&world.path(), at(1000));
        assert_eq!(opened.report.generations_recovered, 3);
    }
}

fn tensor_path(world: &World, bytes: &[u8]) -> PathBuf {
    let hex = kmerge_storage::Digest::of(bytes).to_string();
    world.path().join("tensors").join(&hex[..2]).join(&hex)
}

#[test]
fn a_lost_tensor_file_brings_the_generation_before_it_back_under_a_new_number() {
    for spoil in [true, false] {
        let mut world = World::new();
        world.push("a", SLOT, b"one");
        let lost = world.push("b", SLOT, b"two");
        world.close();
        let path = tensor_path(&world, b"two");
        if spoil {
            write_file(&path, b"longer than two")
        } else {
            remove(&path)
        }
        let report = world.reopen();
        assert!(
            report.notes.iter().any(|note| note.contains("lost")),
            "{report:?}"
        );
        let catalog = world.catalog();
        let slot = catalog.slot(&base_name(), SLOT).unwrap();
        let record = slot.current();
        assert_eq!((record.generation, record.members), (Generation(3), 1));
        assert_eq!(world.open().reader.tensor(record).unwrap().len(), 3);
        assert!(catalog.task(&base_name(), &task("b")).is_none());
        assert_eq!(catalog.jobs[&lost.id].state, JobState::Failed);
        assert_eq!(
            catalog.jobs[&lost.id].failure.as_ref().unwrap().reason,
            "TENSORS_LOST"
        );
        // The adapter can come again, and the state survives the loss of the catalog as ever.
        let again = world.push("b", SLOT, b"two");
        assert!(again.id > lost.id);
        world.close();
        let expected = state(&world);
        remove(&world.path().join("catalog"));
        assert_comes_back(&mut world, &expected);
    }
}

#[test]
fn a_spoilt_tensor_file_is_found_when_the_catalog_is_made_again() {
    let mut world = World::new();
    world.push("a", SLOT, b"one");
    world.push("b", SLOT, b"two");
    world.close();
    remove(&world.path().join("catalog"));
    write_file(&tensor_path(&world, b"two"), b"tvo");
    let report = world.reopen();
    let catalog = world.catalog();
    let record = catalog.slot(&base_name(), SLOT).unwrap().current();
    assert_eq!(
        (record.generation, record.members),
        (Generation(3), 1),
        "{report:?}"
    );
    assert!(
        report
            .notes
            .iter()
            .any(|note| note.contains("serves generation 1 again"))
    );
}

#[test]
fn a_slot_without_any_tensors_is_given_up_aloud() {
    let mut world = World::new();
    world.push("a", SLOT, b"one");
    world.push("c", OTHER, b"three");
    world.close();
    remove(&tensor_path(&world, b"one"));
    let report = world.reopen();
    assert!(
        report
            .notes
            .iter()
            .any(|note| note.contains("no whole generation")),
        "{report:?}"
    );
    let catalog = world.catalog();
    assert!(catalog.slot(&base_name(), SLOT).is_none());
    assert!(catalog.slot(&base_name(), OTHER).is_some());
    world.push("a", SLOT, b"one");
}

#[test]
fn interrupted_jobs_run_again_but_not_for_ever() {
    let mut world = World::new();
    let job = world.enqueue("a", b"one").job.id;
    for attempt in 1..=3 {
        let now = world.tick();
        let running = world.open().committer.start_job(job, now).unwrap();
        assert_eq!(
            (running.state, running.attempts),
            (JobState::Running, attempt)
        );
        let report = world.reopen();
        let record = world.catalog().jobs[&job].clone();
        assert_eq!(record.attempts, attempt);
        if attempt < 3 {
            assert_eq!((record.state, report.jobs_requeued), (JobState::Queued, 1));
        } else {
            assert_eq!((record.state, report.jobs_requeued), (JobState::Failed, 0));
            assert_eq!(record.failure.as_ref().unwrap().reason, "CRASH_LOOP");
            assert_eq!(report.uploads_swept, 1);
            assert!(!world.path().join("staging").join(job.to_string()).exists());
        }
    }
}

#[test]
fn a_queued_job_without_its_files_fails() {
    let mut world = World::new();
    let gone = world.enqueue("a", b"one").job.id;
    let cut = world.enqueue("b", b"two").job.id;
    world.close();
    let staging = world.path().join("staging");
    remove(&staging.join(gone.to_string()));
    write_file(&staging.join(cut.to_string()).join("tensors"), b"t");
    let report = world.reopen();
    for job in [gone, cut] {
        let record = &world.catalog().jobs[&job];
        assert_eq!(record.state, JobState::Failed);
        assert_eq!(record.failure.as_ref().unwrap().reason, "STAGED_LOST");
    }
    assert!(
        report.notes.iter().any(|note| note.contains("moved to")),
        "{report:?}"
    );
    assert_eq!(std::fs::read_dir(&staging).unwrap().count(), 0);
}

#[test]
fn what_nothing_refers_to_is_swept_and_what_is_not_ours_is_left_alone() {
    let mut world = rich();
    let expected = state(&world);
    let before = world.files();
    let path = |name: &str| world.path().join(name);
    let make = |name: &str| {
        make_directories(path(name).parent().unwrap());
        write_file(&path(name), b"x");
    };
    let digest = kmerge_storage::Digest::of(b"x").to_string();
    make("staging/tmp-upload-7/tensors");
    make("staging/tmp-manifest-3");
    make(&format!("tensors/{}/{digest}", &digest[..2]));
    make("exports/peft/tiny/slot-0/1/config");
    make("exports/gguf/tiny/slot-7/9/config");
    let ours = world.files().len();
    assert_eq!(ours, before.len() + 5);
    make("tensors/aa/notes.txt");
    make("exports/peft/tiny/mine");
    make("base-models/mine.txt");
    let report = world.reopen();
    assert_eq!(
        (report.uploads_swept, report.orphans_removed),
        (1, 4),
        "{report:?}"
    );
    assert_eq!(report.notes.len(), 3, "{report:?}");
    assert_eq!(*world.catalog(), expected);
    let mut after = world.files();
    for stranger in [
        "tensors/aa/notes.txt",
        "exports/peft/tiny/mine",
        "base-models/mine.txt",
    ] {
        assert!(after.remove(stranger).is_some());
    }
    assert_eq!(after, before);
}

#[test]
fn quarantined_catalogs_do_not_pile_up() {
    let mut world = World::new();
    world.push("a", SLOT, b"one");
    for _ in 0..4 {
        world.close();
        for entry in std::fs::read_dir(world.path().join("catalog")).unwrap() {
            let path = entry.unwrap().path();
            if path.is_file() {
                write_file(&path, &[0xa5; 4096]);
            }
        }
        let report = world.reopen();
        assert!(report.catalog_rebuilt, "{report:?}");
        assert!(report.quarantined.unwrap().is_dir());
    }
    assert_eq!(
        std::fs::read_dir(world.path().join("quarantine"))
            .unwrap()
            .count(),
        2
    );
    assert_eq!(common::current(&world.catalog(), SLOT), Some(Generation(1)));
}
