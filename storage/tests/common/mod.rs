//! What the suites share: a state directory and the few steps that every test takes with it.

#![allow(
    dead_code,
    unreachable_pub,
    reason = "each suite uses its own part of this"
)]
#![expect(clippy::unwrap_used, reason = "a test that fails may panic")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use kmerge_storage::{
    BaseModelName, BaseModelRecord, Catalog, Commit, CommitError, Digest, Enqueued, Generation,
    IngestError, JobId, JobRecord, JobState, MembersChange, NewMember, NextGeneration, Opened,
    Options, PlacedMember, RecoveryReport, SlotChange, SlotIndex, SlotOutcome, SlotStep,
    StageRequest, Staged, StoredTensor, TaskName, UnixMillis, open,
};

/// The slot that most tests use.
pub const SLOT: SlotIndex = SlotIndex(0);

/// A time; only its order matters.
pub fn at(millis: u64) -> UnixMillis {
    UnixMillis(1_790_000_000_000 + millis)
}

pub fn base_name() -> BaseModelName {
    "tiny".parse().unwrap()
}

pub fn task(name: &str) -> TaskName {
    name.parse().unwrap()
}

pub fn base_model() -> BaseModelRecord {
    BaseModelRecord {
        name: base_name(),
        // Longer than one record of the catalog.
        config: format!(
            "{{\"hidden_size\":64,\"padding\":\"{}\"}}",
            "é".repeat(5000)
        ),
        settings: "{\"slots\":4}".to_owned(),
        served_as: "example/tiny".to_owned(),
        created: at(0),
    }
}

/// A directory to work in: in memory where there is such a file system, because what is tested is
/// what the system sees, and not how long a medium takes.
pub fn scratch() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir()
        && let Ok(directory) = tempfile::tempdir_in(memory)
    {
        return directory;
    }
    tempfile::tempdir().unwrap()
}

/// Opens `directory` as a start would.
pub fn open_at(directory: &Path, now: UnixMillis) -> Opened {
    // Without a floor the database is written again now and then even in a small test.
    let options = Options {
        catalog_floor_bytes: 0,
        ..Options::default()
    };
    open(directory, &options, now).unwrap()
}

/// An open state in a directory of its own.
#[derive(Debug)]
pub struct World {
    pub directory: tempfile::TempDir,
    pub opened: Option<Opened>,
    pub clock: u64,
}

impl World {
    /// An empty state with one base model.
    pub fn new() -> Self {
        let directory = scratch();
        let opened = open_at(directory.path(), at(0));
        let mut world = Self {
            directory,
            opened: Some(opened),
            clock: 0,
        };
        world
            .open()
            .committer
            .register_base_model(base_model())
            .unwrap();
        world
    }

    pub fn path(&self) -> PathBuf {
        self.directory.path().to_owned()
    }

    pub fn open(&mut self) -> &mut Opened {
        self.opened.as_mut().unwrap()
    }

    pub fn catalog(&self) -> Arc<Catalog> {
        self.opened.as_ref().unwrap().committer.catalog()
    }

    /// The next moment.
    pub fn tick(&mut self) -> UnixMillis {
        self.clock += 1;
        at(self.clock)
    }

    /// Closes the state in order.
    pub fn close(&mut self) {
        self.opened.take().unwrap().committer.close().unwrap();
    }

    /// Drops the state as it is.
    pub fn abandon(&mut self) {
        drop(self.opened.take());
    }

    /// Opens the state again and gives what the start reports.
    pub fn reopen(&mut self) -> RecoveryReport {
        self.abandon();
        let now = self.tick();
        let opened = open_at(&self.path(), now);
        let report = opened.report.clone();
        self.opened = Some(opened);
        report
    }

    /// Goes on with a copy of what lies on disk, as if the process had been killed at this moment.
    pub fn kill(&mut self) -> RecoveryReport {
        let copy = copy(&self.path());
        self.abandon();
        self.directory = copy;
        self.reopen()
    }

    pub fn stage(&mut self, name: &str, bytes: &[u8], request: Option<&str>) -> Staged {
        stage(self.open(), name, bytes, request).unwrap()
    }

    pub fn enqueue(&mut self, name: &str, bytes: &[u8]) -> Enqueued {
        let staged = self.stage(name, bytes, None);
        let now = self.tick();
        self.open().committer.enqueue(staged, now).unwrap()
    }

    pub fn tensor(&mut self, bytes: &[u8]) -> StoredTensor {
        write_tensor(self.open(), bytes)
    }

    /// Begins a job and commits `bytes` as the next generation of `slot`.
    pub fn merge(
        &mut self,
        job: JobId,
        slot: SlotIndex,
        bytes: &[u8],
    ) -> Result<Arc<Catalog>, CommitError> {
        let now = self.tick();
        self.open().committer.start_job(job, now)?;
        self.commit(job, slot, bytes)
    }

    /// Commits `bytes` as the next generation of `slot`.
    pub fn commit(
        &mut self,
        job: JobId,
        slot: SlotIndex,
        bytes: &[u8],
    ) -> Result<Arc<Catalog>, CommitError> {
        let tensor = self.tensor(bytes);
        let record = Arc::clone(&self.catalog().jobs[&job]);
        let expected = current(&self.catalog(), slot);
        let now = self.tick();
        self.open()
            .committer
            .commit(commit_of(&record, slot, expected, tensor), now)
    }

    /// Takes `bytes` from the upload to a generation of `slot`.
    pub fn push(&mut self, name: &str, slot: SlotIndex, bytes: &[u8]) -> Arc<JobRecord> {
        let job = self.enqueue(name, &[b"upload of ", bytes].concat()).job;
        self.merge(job.id, slot, bytes).unwrap();
        job
    }

    pub fn collect(&mut self, grace: Duration) -> kmerge_storage::Collected {
        let now = self.tick();
        self.open().committer.collect(grace, now).unwrap()
    }

    /// Every file below the state directory with the digest of its content, except the database,
    /// the lock, the counters and what was set aside.
    pub fn files(&self) -> BTreeMap<String, Digest> {
        let mut files = BTreeMap::new();
        gather(&self.path(), &self.path(), &mut files);
        files.retain(|name, _| {
            !name.starts_with("catalog/")
                && !name.starts_with("quarantine/")
                && !["LOCK", "job-ids", "revisions"].contains(&&**name)
        });
        files
    }
}

/// A copy of a state directory as it lies there, whether it is open or not.
pub fn copy(state: &Path) -> tempfile::TempDir {
    let copy = scratch();
    copy_into(state, copy.path());
    copy
}

/// Copies all that is in `from` to `to`.
pub fn copy_into(from: &Path, to: &Path) {
    make_directories(to);
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        let kind = std::fs::symlink_metadata(&path).unwrap().file_type();
        if kind.is_symlink() {
            let link = std::fs::read_link(&path).unwrap();
            std::os::unix::fs::symlink(link, target).unwrap();
        } else if kind.is_dir() {
            copy_into(&path, &target);
        } else {
            write_file(&target, &read_file(&path));
        }
    }
}

pub fn stage(
    opened: &Opened,
    name: &str,
    bytes: &[u8],
    request: Option<&str>,
) -> Result<Staged, IngestError> {
    let mut writer = opened.ingest.stage(StageRequest {
        base_model: base_name(),
        task: task(name),
        format: "peft".to_owned(),
        config: b"{\"r\":8}".to_vec(),
        size_bytes: bytes.len() as u64,
        digest: Digest::of(bytes),
        request_id: request.map(str::to_owned),
    })?;
    for chunk in bytes.chunks(1000) {
        writer.write(chunk)?;
    }
    writer.finish()
}

pub fn write_tensor(opened: &Opened, bytes: &[u8]) -> StoredTensor {
    let mut writer = opened.reader.new_tensor().unwrap();
    for chunk in bytes.chunks(1000) {
        writer.write(chunk).unwrap();
    }
    writer.finish().unwrap()
}

pub fn current(catalog: &Catalog, slot: SlotIndex) -> Option<Generation> {
    catalog
        .slot(&base_name(), slot)
        .map(|slot| slot.current().generation)
}

pub fn commit_of(
    job: &JobRecord,
    slot: SlotIndex,
    expected: Option<Generation>,
    tensor: StoredTensor,
) -> Commit {
    let weight = if expected.is_some() { 0.1 + 0.2 } else { 1.0 };
    let change = SlotChange {
        slot,
        expected,
        tensor,
        newcomer: Some(NewMember {
            task: job.task.clone(),
            weight,
        }),
        facts: "{\"rank\":8}".to_owned(),
    };
    Commit {
        job: job.id,
        changes: vec![change],
        result: "{\"slot\":\"why\"}".to_owned(),
    }
}

/// A step that gives a slot exactly these members.
pub fn placing(
    slot: SlotIndex,
    expected: Option<Generation>,
    tensor: StoredTensor,
    members: &[(&str, f64)],
) -> SlotStep {
    let placed = members.iter().map(|&(name, weight)| PlacedMember {
        task: task(name),
        weight,
    });
    let next = NextGeneration {
        tensor,
        facts: "{\"rank\":8}".to_owned(),
        members: MembersChange::Replace(placed.collect()),
    };
    SlotStep {
        slot,
        expected,
        outcome: SlotOutcome::Next(next),
    }
}

/// A step that empties a slot.
pub fn emptying(slot: SlotIndex, expected: Option<Generation>) -> SlotStep {
    SlotStep {
        slot,
        expected,
        outcome: SlotOutcome::Emptied,
    }
}

/// Every file at or below `directory`, by its path from `root`, with the digest of its content.
pub fn gather(root: &Path, directory: &Path, files: &mut BTreeMap<String, Digest>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let name = path
            .strip_prefix(root)
            .unwrap()
            .to_str()
            .unwrap()
            .to_owned();
        let kind = std::fs::symlink_metadata(&path).unwrap().file_type();
        if kind.is_symlink() {
            let target = std::fs::read_link(&path).unwrap();
            files.insert(name, Digest::of(target.to_str().unwrap().as_bytes()));
        } else if kind.is_dir() {
            gather(root, &path, files);
        } else {
            files.insert(name, Digest::of(&read_file(&path)));
        }
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "a test looks at the state from outside"
)]
pub fn read_file(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap()
}

#[expect(
    clippy::disallowed_methods,
    reason = "a test changes the state from outside"
)]
pub fn write_file(path: &Path, bytes: &[u8]) {
    drop(std::fs::remove_file(path));
    std::fs::write(path, bytes).unwrap();
}

#[expect(
    clippy::disallowed_methods,
    reason = "a test changes the state from outside"
)]
pub fn make_directories(path: &Path) {
    std::fs::create_dir_all(path).unwrap();
}

#[expect(
    clippy::disallowed_methods,
    reason = "a test changes the state from outside"
)]
pub fn remove(path: &Path) {
    if path.is_dir() {
        std::fs::remove_dir_all(path).unwrap();
    } else {
        std::fs::remove_file(path).unwrap();
    }
}

/// The part of a catalog that files alone can bring back: everything but the position, the event
/// log, and the jobs that left nothing behind.
pub fn essence(catalog: &Catalog) -> Catalog {
    let mut essence = catalog.clone();
    essence.revision = Default::default();
    essence.last_job = Default::default();
    essence.events.clear();
    essence
        .jobs
        .retain(|_, job| matches!(job.state, JobState::Queued | JobState::Done));
    essence
}
