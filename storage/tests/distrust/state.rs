//! A state with all that there can be, and what must be the same after any damage.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use kmerge_storage::{
    BaseModelName, Catalog, Digest, JobFailure, JobId, JobKind, JobRecord, JobState, Opened,
    Options, Rearrangement, SlotIndex, open,
};

use crate::common::{
    World, at, base_model, base_name, commit_of, copy, current, emptying, placing, stage,
    write_tensor,
};

const FIRST: SlotIndex = SlotIndex(0);
const SECOND: SlotIndex = SlotIndex(1);
const THIRD: SlotIndex = SlotIndex(2);

/// A closed state: slots that joined, were rearranged and emptied, generations in grace, exports,
/// settings that were changed, and jobs in every state that a start leaves alone.
pub(crate) fn rich() -> tempfile::TempDir {
    rich_watched(|_| {})
}

/// As [`rich`]; `watch` sees the state directory after each step.
pub(crate) fn rich_watched(mut watch: impl FnMut(&Path)) -> tempfile::TempDir {
    let mut world = World::new();
    for number in 0..12_u32 {
        let slot = SlotIndex(number % 3);
        let name = format!("task-{number}");
        world.push(&name, slot, format!("tensors {number}").as_bytes());
        if number == 6 {
            world.collect(Duration::ZERO);
        }
        watch(&world.path());
    }
    publish(&mut world, FIRST);
    publish(&mut world, SECOND);
    rearrange(&mut world);
    watch(&world.path());
    settings(&mut world);
    watch(&world.path());
    let cancelled = world.enqueue("unwanted", b"unwanted").job.id;
    watch(&world.path());
    let now = world.tick();
    world.open().committer.cancel_job(cancelled, now).unwrap();
    watch(&world.path());
    // A task that is not forgotten after all.
    let forget = JobKind::Forget {
        task: "task-0".parse().unwrap(),
    };
    let now = world.tick();
    let committer = &mut world.open().committer;
    let taken_back = committer
        .enqueue_maintenance(&base_name(), forget, None, now)
        .unwrap();
    watch(&world.path());
    let now = world.tick();
    let committer = &mut world.open().committer;
    committer.cancel_job(taken_back.job.id, now).unwrap();
    watch(&world.path());
    let failed = world.enqueue("wrong", b"wrong").job.id;
    let now = world.tick();
    let failure = JobFailure {
        code: 3,
        reason: "WRONG".to_owned(),
        message: "It is wrong.".to_owned(),
    };
    world
        .open()
        .committer
        .fail_job(failed, failure, now)
        .unwrap();
    watch(&world.path());
    let staged = world.stage("waiting", b"waiting", Some("request-waiting"));
    let now = world.tick();
    world.open().committer.enqueue(staged, now).unwrap();
    watch(&world.path());
    let forget = JobKind::Forget {
        task: "task-2".parse().unwrap(),
    };
    let now = world.tick();
    let committer = &mut world.open().committer;
    committer
        .enqueue_maintenance(&base_name(), forget, Some("request-forget".to_owned()), now)
        .unwrap();
    world.close();
    let World { directory, .. } = world;
    directory
}

fn publish(world: &mut World, slot: SlotIndex) {
    let catalog = world.catalog();
    let record = catalog.slot(&base_name(), slot).unwrap().current().clone();
    let reader = &world.open().reader;
    reader
        .publish_export(&record, "peft", "tensors", &[("config", b"{}")])
        .unwrap();
}

/// All of the third slot goes into the first, which leaves two tasks out.
fn rearrange(world: &mut World) {
    let job = world.enqueue("task-new", b"new").job;
    let now = world.tick();
    world.open().committer.start_job(job.id, now).unwrap();
    let catalog = world.catalog();
    let tensor = write_tensor(world.open(), b"rearranged");
    let members = [
        ("task-0", 0.25),
        ("task-3", 0.25),
        ("task-5", 0.25),
        ("task-2", 0.125),
        ("task-new", 0.125),
    ];
    let steps = vec![
        emptying(THIRD, current(&catalog, THIRD)),
        placing(FIRST, current(&catalog, FIRST), tensor, &members),
    ];
    let now = world.tick();
    let rearrangement = Rearrangement {
        job: job.id,
        steps,
        settings: None,
        result: "{}".to_owned(),
    };
    world
        .open()
        .committer
        .rearrange(rearrangement, now)
        .unwrap();
    let job = world.enqueue("task-last", b"last").job;
    let now = world.tick();
    world.open().committer.start_job(job.id, now).unwrap();
    let tensor = write_tensor(world.open(), b"joined after");
    let expected = current(&world.catalog(), FIRST);
    let now = world.tick();
    let commit = commit_of(&job, FIRST, expected, tensor);
    world.open().committer.commit(commit, now).unwrap();
}

fn settings(world: &mut World) {
    let kind = JobKind::Repack {
        settings: "{\"slots\":9}".to_owned(),
    };
    let now = world.tick();
    let committer = &mut world.open().committer;
    let job = committer
        .enqueue_maintenance(&base_name(), kind, None, now)
        .unwrap();
    let job = job.job.id;
    let now = world.tick();
    world.open().committer.start_job(job, now).unwrap();
    let rearrangement = Rearrangement {
        job,
        steps: Vec::new(),
        settings: Some("{\"slots\":9}".to_owned()),
        result: "{}".to_owned(),
    };
    let now = world.tick();
    world
        .open()
        .committer
        .rearrange(rearrangement, now)
        .unwrap();
}

/// Opens a state as a start would.
pub(crate) fn open_again(state: &Path) -> Opened {
    open(state, &Options::default(), at(5000)).unwrap()
}

/// What is known of a closed state.
pub(crate) fn known(state: &Path) -> Known {
    let copy = copy(state);
    let opened = open_again(copy.path());
    assert_eq!(opened.report, Default::default());
    Known::of(&opened, copy.path())
}

/// What no damage of the catalog may change.
#[derive(Debug)]
pub(crate) struct Known {
    catalog: Catalog,
    files: BTreeMap<String, Digest>,
}

impl Known {
    pub(crate) fn of(opened: &Opened, state: &Path) -> Self {
        let mut files = BTreeMap::new();
        crate::common::gather(state, state, &mut files);
        let apart = ["catalog/", "quarantine/"];
        files.retain(|name, _| {
            !apart.iter().any(|apart| name.starts_with(apart))
                && !["LOCK", "job-ids", "revisions"].contains(&&**name)
        });
        let catalog = Catalog::clone(&opened.committer.catalog());
        Self { catalog, files }
    }

    /// As [`assert_same`](Self::assert_same), but for a file that is written again in other words.
    pub(crate) fn assert_same_but(&self, other: &Self, file: &Path, context: &str) {
        let without = |known: &Self| {
            let mut files = known.files.clone();
            files.retain(|name, _| !file.ends_with(name));
            let catalog = known.catalog.clone();
            Self { catalog, files }
        };
        without(self).assert_same(&without(other), context);
        assert_eq!(self.files.len(), other.files.len(), "{context}");
    }

    /// Slots with all that is in them, settings, tasks, what waits, and every file.
    pub(crate) fn assert_same(&self, other: &Self, context: &str) {
        let (before, after) = (&self.catalog, &other.catalog);
        assert_eq!(before.base_models, after.base_models, "{context}");
        assert_eq!(waiting(before), waiting(after), "{context}");
        for job in before.jobs.values().filter(|job| is_needed(before, job)) {
            let found = &after.jobs[&job.id];
            assert_eq!(found.state, JobState::Done, "{context}");
            assert_eq!(found.task, job.task, "{context}");
            assert_eq!(found.request_id, job.request_id, "{context}");
        }
        assert!(after.last_job >= before.last_job, "{context}");
        assert!(after.revision >= before.revision, "{context}");
        assert_eq!(self.files, other.files, "{context}");
    }
}

impl Known {
    /// The jobs that are not done, whatever became of them.
    pub(crate) fn waiting_or_failed(&self) -> BTreeMap<JobId, JobRecord> {
        let jobs = self.catalog.jobs.values();
        jobs.filter(|job| job.state != JobState::Done)
            .map(|job| (job.id, JobRecord::clone(job)))
            .collect()
    }
}

/// Whether a job brought a task that is in a slot.
fn is_needed(catalog: &Catalog, job: &JobRecord) -> bool {
    let name: BaseModelName = base_name();
    let task = catalog.task(&name, &job.task);
    task.is_some_and(|task| task.job == job.id)
}

/// The jobs that wait, but for how often they were begun.
fn waiting(catalog: &Catalog) -> BTreeMap<JobId, JobRecord> {
    let jobs = catalog.unfinished_jobs();
    jobs.map(|job| {
        let job = JobRecord {
            attempts: 0,
            ..JobRecord::clone(job)
        };
        (job.id, job)
    })
    .collect()
}

/// The base model that everything belongs to, as it was registered.
pub(crate) fn registered() -> BaseModelName {
    base_model().name
}

/// Sends what waits once more.
pub(crate) fn send_again(opened: &mut Opened) -> JobId {
    let staged = stage(opened, "waiting", b"waiting", Some("request-waiting")).unwrap();
    let again = opened.committer.enqueue(staged, at(6000)).unwrap();
    assert!(again.existing);
    again.job.id
}
