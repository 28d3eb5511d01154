//! Any sequence of operations, kills, starts and losses of the catalog does what a plain map does.

#![expect(clippy::unwrap_used, reason = "a test that fails may panic")]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use common::{World, at, base_name, remove};
use kmerge_storage::{
    Catalog, CommitError, Digest, Generation, GenerationRecord, JobFailure, JobId, JobKind,
    JobState, Reader, Rearrangement, SlotIndex,
};
use proptest::prelude::*;
use proptest::sample::Index;

#[derive(Debug, Clone)]
enum Operation {
    Enqueue {
        task: u8,
        content: u8,
        request: Option<u8>,
    },
    /// A job that takes nothing from an upload.
    Maintain {
        task: u8,
        request: Option<u8>,
    },
    Start(Index),
    Commit {
        job: Index,
        slot: u32,
        content: u8,
        stale: bool,
    },
    /// Every task goes to some slot, stays, or is forgotten.
    Rearrange {
        job: Index,
        targets: Vec<Target>,
        content: u8,
        settings: Option<u8>,
    },
    Fail(Index),
    Cancel(Index),
    Collect {
        grace: u64,
    },
    Reopen,
    /// The process ends as it is, and another one starts.
    Kill,
    LoseCatalog,
}

#[derive(Debug, Clone, Copy)]
enum Target {
    Stay,
    Slot(u32),
    Forget,
}

fn target() -> impl Strategy<Value = Target> {
    prop_oneof![
        3 => Just(Target::Stay),
        3 => (0..3_u32).prop_map(Target::Slot),
        2 => Just(Target::Forget),
    ]
}

fn operation() -> impl Strategy<Value = Operation> {
    let index = any::<Index>;
    prop_oneof![
        6 => (0..6_u8, 0..2_u8, prop::option::of(0..6_u8))
            .prop_map(|(task, content, request)| Operation::Enqueue { task, content, request }),
        3 => (0..6_u8, prop::option::of(0..6_u8))
            .prop_map(|(task, request)| Operation::Maintain { task, request }),
        6 => index().prop_map(Operation::Start),
        6 => (index(), 0..3_u32, 0..4_u8, prop::bool::weighted(0.1))
            .prop_map(|(job, slot, content, stale)| Operation::Commit { job, slot, content, stale }),
        4 => (index(), prop::collection::vec(target(), 7), 0..4_u8, prop::option::of(5..9_u8))
            .prop_map(|(job, targets, content, settings)| {
                Operation::Rearrange { job, targets, content, settings }
            }),
        1 => index().prop_map(Operation::Fail),
        1 => index().prop_map(Operation::Cancel),
        2 => (0..12_u64).prop_map(|grace| Operation::Collect { grace }),
        2 => Just(Operation::Reopen),
        2 => Just(Operation::Kill),
        1 => Just(Operation::LoseCatalog),
    ]
}

#[derive(Debug, Clone, PartialEq)]
struct Job {
    task: String,
    content: u8,
    /// Whether it takes the task out instead of bringing it.
    forgets: bool,
    request: Option<String>,
    state: JobState,
    attempts: u32,
}

#[derive(Debug, Clone, PartialEq)]
struct Held {
    content: u8,
    members: Vec<String>,
    superseded: Option<u64>,
    job: u64,
}

#[derive(Debug, Clone, Default, PartialEq)]
struct Slot {
    /// What each live generation holds.
    generations: BTreeMap<u64, Held>,
    members: Vec<(String, u64)>,
    /// The number that stands for its being empty, and who emptied it.
    emptied: Option<(u64, u64)>,
}

impl Slot {
    fn number(&self) -> u64 {
        let last = self.generations.keys().next_back();
        self.emptied
            .map_or_else(|| last.copied().unwrap_or(0), |(number, _)| number)
    }

    /// Moves on; without members the slot is emptied.
    fn advance(&mut self, members: Vec<(String, u64)>, job: u64, content: u8, now: u64) {
        let next = self.number() + 1;
        if let Some(mut last) = self.generations.last_entry()
            && self.emptied.is_none()
        {
            last.get_mut().superseded = Some(now);
        }
        self.members = members;
        self.emptied = self.members.is_empty().then_some((next, job));
        if self.emptied.is_none() {
            let members = self.members.iter().map(|(task, _)| task.clone()).collect();
            let superseded = None;
            self.generations.insert(
                next,
                Held {
                    content,
                    members,
                    superseded,
                    job,
                },
            );
        }
    }
}

#[derive(Debug, Default)]
struct Model {
    jobs: BTreeMap<u64, Job>,
    slots: BTreeMap<u32, Slot>,
    settings: Option<u8>,
    last_job: u64,
}

/// What an upload meets.
#[derive(Debug, PartialEq)]
enum Answer {
    New,
    Existing(u64),
    RequestTaken,
    TaskTaken,
}

impl Model {
    fn pick(&self, index: &Index, state: JobState) -> Option<u64> {
        let matching: Vec<u64> = self
            .jobs
            .iter()
            .filter(|(_, job)| job.state == state)
            .map(|(id, _)| *id)
            .collect();
        (!matching.is_empty()).then(|| *index.get(&matching))
    }

    fn answer(&self, task: &str, content: u8, request: Option<&str>) -> Answer {
        let same = |job: &Job| !job.forgets && job.task == task && job.content == content;
        let by_request = self
            .jobs
            .iter()
            .find(|(_, job)| request.is_some() && job.request.as_deref() == request);
        if let Some((id, job)) = by_request {
            return if same(job) {
                Answer::Existing(*id)
            } else {
                Answer::RequestTaken
            };
        }
        let by_task = self
            .jobs
            .iter()
            .find(|(id, job)| !job.forgets && job.task == task && self.counts(**id));
        match by_task {
            None => Answer::New,
            Some((id, job)) if same(job) => Answer::Existing(*id),
            Some(_) => Answer::TaskTaken,
        }
    }

    /// Whether a job still stands for its task, or will.
    fn counts(&self, id: u64) -> bool {
        let is_here = |slot: &Slot| slot.members.iter().any(|(_, job)| *job == id);
        match self.jobs[&id].state {
            JobState::Queued | JobState::Running => true,
            JobState::Done => self.slots.values().any(is_here),
            JobState::Failed | JobState::Cancelled => false,
        }
    }

    fn commit(&mut self, id: u64, slot: u32, content: u8, now: u64) {
        let job = self.jobs.get_mut(&id).unwrap();
        job.state = JobState::Done;
        let slot = self.slots.entry(slot).or_default();
        let mut members = slot.members.clone();
        members.push((job.task.clone(), id));
        slot.advance(members, id, content, now);
    }

    fn collect(&mut self, grace: u64, now: u64) -> usize {
        let mut removed = 0;
        for slot in self.slots.values_mut() {
            let before = slot.generations.len();
            slot.generations
                .retain(|_, held| held.superseded.is_none_or(|at| at + grace > now));
            removed += before - slot.generations.len();
        }
        removed
    }

    fn restart(&mut self) {
        for job in self
            .jobs
            .values_mut()
            .filter(|job| job.state == JobState::Running)
        {
            job.state = if job.attempts >= 3 {
                JobState::Failed
            } else {
                JobState::Queued
            };
        }
    }

    /// What files alone bring back: no job that ended badly or left nothing that is still there, and
    /// no count of attempts.
    fn lose_catalog(&mut self) {
        let mut known: BTreeSet<u64> = self
            .jobs
            .keys()
            .copied()
            .filter(|&id| self.counts(id))
            .collect();
        for slot in self.slots.values() {
            known.extend(slot.generations.values().map(|held| held.job));
            known.extend(slot.emptied.map(|(_, job)| job));
        }
        self.jobs.retain(|id, _| known.contains(id));
        for job in self
            .jobs
            .values_mut()
            .filter(|job| !job.state.is_finished())
        {
            job.state = JobState::Queued;
            job.attempts = 0;
        }
    }
}

fn upload(task: &str, content: u8) -> Vec<u8> {
    format!("{task} {content}").into_bytes()
}

fn settings_text(number: u8) -> String {
    format!("{{\"slots\":{number}}}")
}

fn tensors(content: u8) -> Vec<u8> {
    vec![content; 3000]
}

fn run(world: &mut World, model: &mut Model, operation: &Operation) {
    match operation {
        Operation::Enqueue {
            task,
            content,
            request,
        } => {
            let task = format!("task-{task}");
            let request = request.map(|request| format!("request-{request}"));
            enqueue(world, model, &task, *content, request.as_deref());
        }
        Operation::Maintain { task, request } => {
            let task = format!("task-{task}");
            let request = request.map(|request| format!("request-{request}"));
            maintain(world, model, &task, request);
        }
        Operation::Start(index) => {
            let Some(id) = model.pick(index, JobState::Queued) else {
                return;
            };
            let now = world.tick();
            let job = world.open().committer.start_job(JobId(id), now).unwrap();
            let model = model.jobs.get_mut(&id).unwrap();
            model.state = JobState::Running;
            model.attempts += 1;
            assert_eq!(job.attempts, model.attempts);
        }
        Operation::Commit {
            job,
            slot,
            content,
            stale,
        } => {
            let Some(id) = model.pick(job, JobState::Running) else {
                return;
            };
            commit(world, model, id, *slot, *content, *stale);
        }
        Operation::Rearrange {
            job,
            targets,
            content,
            settings,
        } => {
            let Some(id) = model.pick(job, JobState::Running) else {
                return;
            };
            rearrange(world, model, id, targets, (*content, *settings));
        }
        Operation::Fail(index) => {
            let Some(id) = model.pick(index, JobState::Running) else {
                return;
            };
            let failure = JobFailure {
                code: 3,
                reason: "BAD".to_owned(),
                message: "bad".to_owned(),
            };
            let now = world.tick();
            world
                .open()
                .committer
                .fail_job(JobId(id), failure, now)
                .unwrap();
            model.jobs.get_mut(&id).unwrap().state = JobState::Failed;
        }
        Operation::Cancel(index) => {
            let Some(id) = model.pick(index, JobState::Queued) else {
                return;
            };
            let now = world.tick();
            world.open().committer.cancel_job(JobId(id), now).unwrap();
            model.jobs.get_mut(&id).unwrap().state = JobState::Cancelled;
            let error = world
                .open()
                .committer
                .cancel_job(JobId(id), now)
                .unwrap_err();
            assert_eq!(error.reason(), "JOB_STATE");
        }
        Operation::Collect { grace } => {
            let collected = world.collect(Duration::from_millis(*grace));
            assert_eq!(collected.removed.len(), model.collect(*grace, world.clock));
            let due = model
                .slots
                .values()
                .flat_map(|slot| slot.generations.values())
                .filter_map(|held| held.superseded.map(|since| at(since + grace)))
                .min();
            assert_eq!(collected.next_due, due);
        }
        Operation::Reopen => {
            world.reopen();
            model.restart();
        }
        Operation::Kill => {
            world.kill();
            model.restart();
        }
        Operation::LoseCatalog => {
            world.close();
            remove(&world.path().join("catalog"));
            let before = (model.last_job, world.clock);
            // A catalog that is not there has to be made again from whatever there is.
            let opened = common::open_at(&world.path(), at(before.1));
            assert!(opened.report.catalog_rebuilt);
            model.last_job = opened.committer.catalog().last_job.0;
            assert!(model.last_job >= before.0);
            world.opened = Some(opened);
            model.lose_catalog();
        }
    }
}

fn enqueue(world: &mut World, model: &mut Model, task: &str, content: u8, request: Option<&str>) {
    let expected = model.answer(task, content, request);
    let staged = world.stage(task, &upload(task, content), request);
    let now = world.tick();
    let answer = match world.open().committer.enqueue(staged, now) {
        Ok(enqueued) if enqueued.existing => Answer::Existing(enqueued.job.id.0),
        Ok(enqueued) => {
            assert_eq!(enqueued.job.id.0, model.last_job + 1);
            model.last_job += 1;
            let (task, request) = (task.to_owned(), request.map(str::to_owned));
            let state = JobState::Queued;
            model.jobs.insert(
                model.last_job,
                Job {
                    task,
                    content,
                    forgets: false,
                    request,
                    state,
                    attempts: 0,
                },
            );
            Answer::New
        }
        Err(error) if error.reason() == "REQUEST_ID_REUSED" => Answer::RequestTaken,
        Err(error) if error.reason() == "TASK_EXISTS" => Answer::TaskTaken,
        Err(error) => panic!("{error}"),
    };
    assert_eq!(answer, expected);
}

fn maintain(world: &mut World, model: &mut Model, task: &str, request: Option<String>) {
    let by_request = model
        .jobs
        .iter()
        .find(|(_, job)| request.is_some() && job.request == request);
    let expected = match by_request {
        None => Answer::New,
        Some((id, job)) if job.forgets && job.task == task => Answer::Existing(*id),
        Some(_) => Answer::RequestTaken,
    };
    let kind = JobKind::Forget {
        task: common::task(task),
    };
    let now = world.tick();
    let committer = &mut world.open().committer;
    let answer = match committer.enqueue_maintenance(&base_name(), kind, request.clone(), now) {
        Ok(enqueued) if enqueued.existing => Answer::Existing(enqueued.job.id.0),
        Ok(enqueued) => {
            model.last_job += 1;
            assert_eq!(enqueued.job.id.0, model.last_job);
            let job = Job {
                task: task.to_owned(),
                content: 0,
                forgets: true,
                request,
                state: JobState::Queued,
                attempts: 0,
            };
            model.jobs.insert(model.last_job, job);
            Answer::New
        }
        Err(error) if error.reason() == "REQUEST_ID_REUSED" => Answer::RequestTaken,
        Err(error) => panic!("{error}"),
    };
    assert_eq!(answer, expected);
}

fn commit(world: &mut World, model: &mut Model, id: u64, slot: u32, content: u8, stale: bool) {
    let index = SlotIndex(slot);
    if stale && !model.jobs[&id].forgets {
        let job = world.catalog().jobs[&JobId(id)].clone();
        let tensor = world.tensor(&tensors(content));
        let expected = Some(Generation(99));
        let commit = common::commit_of(&job, index, expected, tensor);
        let now = world.tick();
        let error = world.open().committer.commit(commit, now).unwrap_err();
        assert!(
            matches!(error, CommitError::GenerationMoved { .. }),
            "{error}"
        );
        return;
    }
    let committed = world.commit(JobId(id), index, &tensors(content));
    if model.jobs[&id].forgets {
        assert_eq!(committed.unwrap_err().reason(), "COMMIT_INVALID");
        return;
    }
    committed.unwrap();
    model.commit(id, slot, content, world.clock);
}

fn rearrange(
    world: &mut World,
    model: &mut Model,
    id: u64,
    targets: &[Target],
    (content, settings): (u8, Option<u8>),
) {
    let Job { task, forgets, .. } = model.jobs[&id].clone();
    let mut tasks: Vec<(String, u64, Option<u32>)> = Vec::new();
    for (&index, slot) in &model.slots {
        for (task, job) in &slot.members {
            tasks.push((task.clone(), *job, Some(index)));
        }
    }
    if !forgets {
        tasks.push((task, id, None));
    }
    let mut lists: BTreeMap<u32, Vec<(String, u64)>> = BTreeMap::new();
    for ((task, job, from), target) in tasks.into_iter().zip(targets.iter().cycle()) {
        let to = match target {
            Target::Stay => from,
            Target::Slot(slot) => Some(*slot),
            Target::Forget => None,
        };
        if let Some(to) = to {
            lists.entry(to).or_default().push((task, job));
        }
    }
    let indices: BTreeSet<u32> = lists.keys().chain(model.slots.keys()).copied().collect();
    let before = |index| {
        model
            .slots
            .get(&index)
            .map_or(&[][..], |slot| &slot.members)
    };
    let mut changes = Vec::new();
    for index in indices {
        let list = lists.remove(&index).unwrap_or_default();
        if list != before(index) {
            changes.push((index, list));
        }
    }
    if changes.is_empty() && !forgets {
        return;
    }
    let mut steps = Vec::new();
    for (index, list) in &changes {
        let slot = SlotIndex(*index);
        let expected = common::current(&world.catalog(), slot);
        let members: Vec<(&str, f64)> = list.iter().map(|(task, _)| (&**task, 0.5)).collect();
        steps.push(if members.is_empty() {
            common::emptying(slot, expected)
        } else {
            let tensor = world.tensor(&tensors(content));
            common::placing(slot, expected, tensor, &members)
        });
    }
    let rearrangement = Rearrangement {
        job: JobId(id),
        steps,
        settings: settings.map(settings_text),
        result: "{}".to_owned(),
    };
    let now = world.tick();
    world
        .open()
        .committer
        .rearrange(rearrangement, now)
        .unwrap();
    model.jobs.get_mut(&id).unwrap().state = JobState::Done;
    model.settings = settings.or(model.settings);
    for (index, list) in changes {
        let slot = model.slots.entry(index).or_default();
        slot.advance(list, id, content, world.clock);
    }
}

/// Compares all that the model knows.
fn compare(world: &mut World, model: &Model) {
    let catalog = world.catalog();
    let mut expected = model.jobs.clone();
    for job in expected.values_mut() {
        job.attempts = attempts(job.state, job.attempts);
    }
    assert_eq!(jobs(&catalog), expected);
    assert_eq!(slots(&catalog, &world.open().reader), model.slots);
    let settings = &catalog.base_models[&base_name()].record.settings;
    let expected = model
        .settings
        .map_or(common::base_model().settings, settings_text);
    assert_eq!(*settings, expected);
    let tasks = &catalog.base_models[&base_name()].tasks;
    let members: usize = model.slots.values().map(|slot| slot.members.len()).sum();
    assert_eq!(tasks.len(), members);
    for task in tasks.values() {
        let job = &model.jobs[&task.job.0];
        assert_eq!(task.task.as_str(), job.task);
        assert_eq!(
            task.upload.digest,
            Digest::of(&upload(&job.task, job.content))
        );
    }
    for record in catalog.generations() {
        let tensor = world.open().reader.tensor(record).unwrap();
        let mut first = [0];
        tensor.read_exact_at(&mut first, 0).unwrap();
        assert_eq!(record.digest, Digest::of(&tensors(first[0])));
    }
    // The weights of those that were placed are what they were placed with.
    for slot in catalog.base_models[&base_name()].slots.values() {
        for (member, weight) in slot.members.iter().zip(slot.weights(usize::MAX)) {
            let is_scaled = slot.members.iter().any(|member| !member.placed);
            assert!(is_scaled || !member.placed || weight.to_bits() == 0.5_f64.to_bits());
        }
    }
    // No tensor file is there that no generation names.
    let live: std::collections::BTreeSet<_> =
        catalog.generations().map(|record| record.digest).collect();
    let files = world.files();
    assert_eq!(
        files
            .keys()
            .filter(|name| name.starts_with("tensors/"))
            .count(),
        live.len()
    );
}

/// How often a job that is done was begun is known from its manifest only, and that may be gone.
fn attempts(state: JobState, attempts: u32) -> u32 {
    if state == JobState::Done { 0 } else { attempts }
}

fn jobs(catalog: &Catalog) -> BTreeMap<u64, Job> {
    let content = |job: &kmerge_storage::JobRecord| {
        let found = (0..2)
            .find(|&content| Digest::of(&upload(job.task.as_str(), content)) == job.upload.digest);
        found.unwrap()
    };
    let as_model = |job: &kmerge_storage::JobRecord| Job {
        task: job.task.to_string(),
        content: if job.kind.is_upload() {
            content(job)
        } else {
            0
        },
        forgets: !job.kind.is_upload(),
        request: job.request_id.clone(),
        state: job.state,
        attempts: attempts(job.state, job.attempts),
    };
    catalog
        .jobs
        .iter()
        .map(|(id, job)| (id.0, as_model(job)))
        .collect()
}

fn slots(catalog: &Catalog, reader: &Reader) -> BTreeMap<u32, Slot> {
    let content = |digest| {
        (0..4)
            .find(|&content| Digest::of(&tensors(content)) == digest)
            .unwrap()
    };
    let held = |record: &GenerationRecord| {
        let members = reader.generation_members(record).unwrap();
        assert_eq!(usize::try_from(record.members).unwrap(), members.len());
        let held = Held {
            content: content(record.digest),
            members: members
                .iter()
                .map(|member| member.task.to_string())
                .collect(),
            superseded: record.superseded.map(|when| when.0 - at(0).0),
            job: record.job.0,
        };
        (record.generation.0, held)
    };
    let mut slots = BTreeMap::new();
    let base_model = &catalog.base_models[&base_name()];
    for (index, slot) in &base_model.slots {
        let generations = slot
            .generations
            .values()
            .map(|record| held(record))
            .collect();
        for record in slot.generations.values() {
            if let Some(members) = slot.members_of(record) {
                let names: Vec<String> = members.iter().map(|m| m.task.to_string()).collect();
                assert_eq!(names, held(record).1.members);
            }
        }
        let members = slot
            .members
            .iter()
            .map(|member| (member.task.to_string(), member.job.0))
            .collect();
        let slot = Slot {
            generations,
            members,
            emptied: None,
        };
        slots.insert(index.0, slot);
    }
    for (index, slot) in &base_model.emptied {
        let generations = slot
            .generations
            .values()
            .map(|record| held(record))
            .collect();
        let slot = Slot {
            generations,
            members: Vec::new(),
            emptied: Some((slot.record.generation.0, slot.record.job.0)),
        };
        assert!(slots.insert(index.0, slot).is_none());
    }
    slots
}

/// How many sequences are tried; `KMERGE_MODEL_CASES` asks for more.
fn cases() -> u32 {
    let asked = std::env::var("KMERGE_MODEL_CASES");
    asked.map_or(48, |number| number.parse().unwrap())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), failure_persistence: None, ..Default::default() })]

    #[test]
    fn storage_does_what_a_map_does(operations in prop::collection::vec(operation(), 1..60)) {
        let mut world = World::new();
        let mut model = Model::default();
        for operation in &operations {
            run(&mut world, &mut model, operation);
            compare(&mut world, &model);
        }
        world.reopen();
        model.restart();
        compare(&mut world, &model);
    }
}
