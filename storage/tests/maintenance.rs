//! Jobs without an upload, and settings that change: durable, in one queue, found again.

#![expect(clippy::unwrap_used, reason = "a test that fails may panic")]

mod common;

use common::{
    SLOT, World, at, base_model, base_name, current, read_file, remove, task, write_file,
};
use kmerge_storage::{
    CommitDefect, CommitError, Enqueued, Generation, JobId, JobKind, JobState, MembersChange,
    NewMember, NextGeneration, Options, ReadError, Rearrangement, SlotOutcome, SlotStep, open,
};

fn ask(world: &mut World, kind: &JobKind, request: Option<&str>) -> Result<Enqueued, CommitError> {
    let now = world.tick();
    let (kind, request) = (kind.clone(), request.map(str::to_owned));
    let committer = &mut world.open().committer;
    committer.enqueue_maintenance(&base_name(), kind, request, now)
}

fn forget(name: &str) -> JobKind {
    JobKind::Forget { task: task(name) }
}

fn repack(settings: &str) -> JobKind {
    JobKind::Repack {
        settings: settings.to_owned(),
    }
}

fn finish(
    world: &mut World,
    job: JobId,
    steps: Vec<SlotStep>,
    settings: Option<&str>,
) -> Result<(), CommitError> {
    let rearrangement = Rearrangement {
        job,
        steps,
        settings: settings.map(str::to_owned),
        result: "{}".to_owned(),
    };
    let now = world.tick();
    let done = world.open().committer.rearrange(rearrangement, now);
    done.map(drop)
}

fn next(world: &mut World, members: MembersChange) -> SlotStep {
    let next = NextGeneration {
        tensor: world.tensor(b"other bytes"),
        facts: "{}".to_owned(),
        members,
    };
    SlotStep {
        slot: SLOT,
        expected: current(&world.catalog(), SLOT),
        outcome: SlotOutcome::Next(next),
    }
}

fn start(world: &mut World, job: JobId) {
    let now = world.tick();
    world.open().committer.start_job(job, now).unwrap();
}

fn settings(world: &World) -> String {
    let catalog = world.catalog();
    catalog.base_models[&base_name()].record.settings.clone()
}

fn lose_catalog(world: &mut World) {
    world.abandon();
    remove(&world.path().join("catalog"));
    assert!(world.reopen().catalog_rebuilt);
}

#[test]
fn maintenance_waits_in_the_queue_of_the_uploads_whatever_is_lost() {
    let mut world = World::new();
    let rollback = JobKind::Rollback {
        slot: SLOT,
        to: Generation(3),
    };
    world.enqueue("a", b"upload");
    let jobs =
        [rollback, forget("a"), repack("{}")].map(|kind| ask(&mut world, &kind, None).unwrap().job);
    let last = world.enqueue("b", b"upload").job;
    assert_eq!(jobs.clone().map(|job| job.id.0), [2, 3, 4]);
    assert_eq!(last.id, JobId(5));
    let names = jobs.clone().map(|job| job.task.to_string());
    assert_eq!(names, ["slot-0", "a", "repack"]);
    let queued = |world: &World| -> Vec<_> {
        let catalog = world.catalog();
        let name = base_name();
        let queued = catalog.queued_jobs(&name);
        queued.map(|job| (job.id.0, job.kind.clone())).collect()
    };
    let expected = queued(&world);
    assert_eq!(expected.len(), 5);
    assert_eq!(world.reopen(), Default::default());
    assert_eq!(queued(&world), expected);
    lose_catalog(&mut world);
    assert_eq!(queued(&world), expected);
    // The record says all there is to do.
    world.abandon();
    write_file(&world.path().join("staging/3/header.json"), b"{}");
    assert_eq!(world.reopen().notes.len(), 1);
    assert_eq!(world.reopen(), Default::default());
    assert_eq!(queued(&world), expected);
    lose_catalog(&mut world);
    assert_eq!(queued(&world), expected);
    let error = world.open().reader.staged(JobId(2)).unwrap_err();
    assert!(matches!(error, ReadError::StagedMissing { .. }), "{error}");
}

#[test]
fn a_request_id_stands_for_one_thing() {
    let mut world = World::new();
    let first = ask(&mut world, &forget("a"), Some("one")).unwrap();
    let again = ask(&mut world, &forget("a"), Some("one")).unwrap();
    assert_eq!((again.job.id, again.existing), (first.job.id, true));
    let error = ask(&mut world, &forget("b"), Some("one")).unwrap_err();
    assert_eq!(error.reason(), "REQUEST_ID_REUSED");
    let staged = world.stage("a", b"upload", Some("one"));
    let error = world.open().committer.enqueue(staged, at(50)).unwrap_err();
    assert_eq!(error.reason(), "REQUEST_ID_REUSED");
    // Who takes a task out does not stand for it.
    assert!(!world.enqueue("a", b"upload").existing);
    let staged = world.stage("c", b"upload", Some("two"));
    world.open().committer.enqueue(staged, at(50)).unwrap();
    let error = ask(&mut world, &forget("c"), Some("two")).unwrap_err();
    assert_eq!(error.reason(), "REQUEST_ID_REUSED");
    assert!(!ask(&mut world, &forget("a"), None).unwrap().existing);
}

#[test]
fn maintenance_that_makes_no_sense_is_refused() {
    let mut world = World::new();
    let files = world.files();
    let error = ask(&mut world, &JobKind::Upload, None).unwrap_err();
    let CommitError::Invalid { defect, .. } = error else {
        panic!("{error}")
    };
    assert_eq!(defect, CommitDefect::NeedsUpload);
    let long = repack(&"x".repeat(3000));
    let error = ask(&mut world, &long, None).unwrap_err();
    assert_eq!(error.reason(), "RECORD_TOO_LARGE");
    let unknown = "other".parse().unwrap();
    let committer = &mut world.open().committer;
    let error = committer.enqueue_maintenance(&unknown, forget("a"), None, at(50));
    assert_eq!(error.unwrap_err().reason(), "BASE_MODEL_UNKNOWN");
    assert_eq!(world.files(), files);

    world.push("a", SLOT, b"a");
    let job = ask(&mut world, &forget("b"), None).unwrap().job.id;
    start(&mut world, job);
    let newcomer = NewMember {
        task: task("b"),
        weight: 0.5,
    };
    let joins = vec![next(&mut world, MembersChange::Join(newcomer))];
    let error = finish(&mut world, job, joins, None).unwrap_err();
    assert!(error.to_string().contains("no upload"), "{error}");
    let placed = common::placing(SLOT, Some(Generation(1)), world.tensor(b"b"), &[("b", 1.0)]);
    let error = finish(&mut world, job, vec![placed], None).unwrap_err();
    assert!(error.to_string().contains("in no slot"), "{error}");
    // To find nothing to do is an end as good as any.
    finish(&mut world, job, Vec::new(), None).unwrap();
    assert_eq!(world.catalog().jobs[&job].state, JobState::Done);
    assert!(!world.path().join("staging").join(job.to_string()).exists());
    assert_eq!(world.reopen(), Default::default());
}

#[test]
fn settings_change_together_with_the_slots() {
    let mut world = World::new();
    world.push("a", SLOT, b"a");
    let file = world.path().join("base-models/tiny.json");
    let before = read_file(&file);
    let job = ask(&mut world, &repack("{\"slots\":9}"), None)
        .unwrap()
        .job
        .id;
    start(&mut world, job);
    let steps = vec![next(&mut world, MembersChange::Keep)];
    finish(&mut world, job, steps, Some("{\"slots\":9}")).unwrap();
    assert_eq!(settings(&world), "{\"slots\":9}");
    assert_eq!(world.reopen(), Default::default());
    assert_eq!(settings(&world), "{\"slots\":9}");
    lose_catalog(&mut world);
    assert_eq!(settings(&world), "{\"slots\":9}");
    assert_eq!(current(&world.catalog(), SLOT), Some(Generation(2)));

    // A commit that was interrupted before the file was replaced.
    world.abandon();
    write_file(&file, &before);
    remove(&world.path().join("catalog"));
    assert!(world.reopen().catalog_rebuilt);
    assert_eq!(settings(&world), "{\"slots\":9}");
    assert_ne!(read_file(&file), before);
    assert_eq!(world.reopen(), Default::default());

    // Later settings are not undone by a manifest that has others, and need no slot.
    let job = ask(&mut world, &repack("{}"), None).unwrap().job.id;
    start(&mut world, job);
    finish(&mut world, job, Vec::new(), Some("{\"slots\":2}")).unwrap();
    lose_catalog(&mut world);
    assert_eq!(settings(&world), "{\"slots\":2}");
    // The same base model with other settings is what it was, with its slots.
    assert_eq!(current(&world.catalog(), SLOT), Some(Generation(2)));
    let change = world.catalog().base_models[&base_name()].settings_change;
    let registered_as = change.map(|change| change.registered_as);
    assert_eq!(registered_as, Some(base_model().fingerprint()));
}

#[test]
fn a_catalog_that_has_lost_its_last_change_takes_the_settings_from_the_file() {
    let mut world = World::new();
    world.push("a", SLOT, b"a");
    let job = ask(&mut world, &repack("{}"), None).unwrap().job.id;
    start(&mut world, job);
    world.close();
    let kept = common::scratch();
    let copy = |from: &std::path::Path, to: &std::path::Path| {
        common::make_directories(to);
        for entry in std::fs::read_dir(from).unwrap() {
            let path = entry.unwrap().path();
            if path.is_file() {
                write_file(&to.join(path.file_name().unwrap()), &read_file(&path));
            }
        }
    };
    let catalog = world.path().join("catalog");
    copy(&catalog, kept.path());
    world.reopen();
    let job = world.catalog().unfinished_jobs().next().unwrap().id;
    start(&mut world, job);
    finish(&mut world, job, Vec::new(), Some("{\"slots\":2}")).unwrap();
    world.abandon();
    remove(&catalog);
    copy(kept.path(), &catalog);
    let report = world.reopen();
    assert!(!report.catalog_rebuilt, "{report:?}");
    assert_eq!(settings(&world), "{\"slots\":2}");
    // Its header has gone, so it has ended; how, nobody knows any more.
    let record = std::sync::Arc::clone(&world.catalog().jobs[&job]);
    assert_eq!(record.state, JobState::Failed);
    assert_eq!(record.failure.as_ref().unwrap().reason, "OUTCOME_LOST");
    assert_eq!(world.reopen(), Default::default());
}

#[test]
fn a_manifest_is_written_again_when_its_job_is_long_forgotten() {
    let mut world = World::new();
    world.push("a", SLOT, b"a");
    let job = ask(&mut world, &repack("{}"), None).unwrap().job.id;
    start(&mut world, job);
    let steps = vec![next(&mut world, MembersChange::Keep)];
    finish(&mut world, job, steps, None).unwrap();
    world.abandon();
    // Of all that has ended only the last job is kept.
    let options = Options {
        finished_jobs_kept: 1,
        ..Options::default()
    };
    world.opened = Some(open(&world.path(), &options, at(60)).unwrap());
    let waiting = world.enqueue("b", b"upload").job.id;
    world.open().committer.cancel_job(waiting, at(61)).unwrap();
    assert!(!world.catalog().jobs.contains_key(&job));
    world.abandon();
    remove(&world.path().join("manifests/tiny/0/2.json"));
    assert_eq!(world.reopen().notes.len(), 1);
    let before = world.catalog();
    lose_catalog(&mut world);
    assert_eq!(world.catalog().base_models, before.base_models);
    assert!(!world.catalog().jobs.contains_key(&job));
    assert!(world.catalog().last_job >= waiting);
}
