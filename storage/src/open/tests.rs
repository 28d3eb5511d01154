//! A state as large as they are meant to get, and databases that fail.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use super::{Opened, Options, open, open_with};
use crate::base_model_file::BaseModelFile;
use crate::catalog::{BaseModelState, Catalog, SlotState};
use crate::catalog_memory::Memory;
use crate::catalog_store::StoreOpener;
use crate::digest::Digest;
use crate::durable::{self, Disk};
use crate::error::CommitError;
use crate::ids::{BaseModelName, Generation, JobId, Revision, SlotIndex, UnixMillis};
use crate::ingest::StageRequest;
use crate::layout::Layout;
use crate::manifest::{Manifest, MemberEntry};
use crate::records::{
    BaseModelRecord, GenerationRecord, JobRecord, JobState, TaskRecord, UploadFacts,
};
use crate::sealed;

const NOW: UnixMillis = UnixMillis(1_790_000_000_000);

/// The size of a small adapter.
const UPLOAD_BYTES: u64 = 13_636_000;

fn base_model() -> BaseModelRecord {
    BaseModelRecord {
        name: "tiny".parse().unwrap(),
        config: "{}".to_owned(),
        settings: "{}".to_owned(),
        served_as: "example/tiny".to_owned(),
        created: NOW,
    }
}

fn entry(slot: u32, place: u64, slots: u64) -> MemberEntry {
    let job = place * slots + u64::from(slot) + 1;
    MemberEntry {
        task: format!("task-number-{job:05}").parse().unwrap(),
        weight_at_join: 1.0 / f64::from(u32::try_from(place + 1).unwrap()),
        placed: false,
        job: JobId(job),
        generation: Generation(place + 1),
        request_id: Some(format!("7f0c2a0e-5c1d-4a55-9d06-{job:012}")),
        upload: UploadFacts {
            format: "peft".to_owned(),
            size_bytes: UPLOAD_BYTES,
            digest: Digest::of(&job.to_le_bytes()),
            config_digest: Digest::of(&[1, 2, 3]),
        },
        created: NOW,
    }
}

/// Writes, without a catalog, the files of a state with `slots` times `members` tasks.
fn write_files(directory: &Path, slots: u32, members: u64) {
    let layout = Layout::new(directory.to_owned());
    let disk = Disk::default();
    let record = base_model();
    let put = |path: &Path, bytes: &[u8]| {
        disk.ensure_directory(layout.root(), path.parent().unwrap())
            .unwrap();
        disk.ensure_directory(layout.root(), &layout.staging())
            .unwrap();
        disk.put(&layout.temporary("test"), path, bytes).unwrap();
    };
    let file = BaseModelFile {
        record: record.clone(),
        settings_change: None,
    };
    put(&layout.base_model(&record.name), &sealed::seal(&file));
    for slot in 0..slots {
        let tensors = slot.to_le_bytes();
        let digest = Digest::of(&tensors);
        put(&layout.tensor(&digest), &tensors);
        let entries: Vec<MemberEntry> = (0..members)
            .map(|place| entry(slot, place, u64::from(slots)))
            .collect();
        let index = SlotIndex(slot);
        let last = entries.last().unwrap();
        let generation = GenerationRecord {
            base_model: record.name.clone(),
            slot: index,
            generation: last.generation,
            digest,
            bytes: tensors.len() as u64,
            members: u32::try_from(members).unwrap(),
            members_since: Generation::FIRST,
            facts: "{\"rank\":32}".to_owned(),
            job: last.job,
            revision: Revision(last.job.0 * 3),
            committed: NOW,
            superseded: None,
        };
        let tasks: BTreeMap<_, _> = entries
            .iter()
            .map(|entry| {
                (
                    entry.task.clone(),
                    Arc::new(entry.task(&record.name, index)),
                )
            })
            .collect();
        let state = SlotState {
            generations: BTreeMap::from([(generation.generation, Arc::new(generation.clone()))]),
            members: entries
                .iter()
                .map(|entry| Arc::new(entry.member()))
                .collect(),
        };
        let job = JobRecord::of_task(&TaskRecord::clone(&tasks[&last.task]));
        let state = BaseModelState {
            record: Arc::new(record.clone()),
            settings_change: None,
            slots: BTreeMap::from([(index, Arc::new(state))]),
            emptied: BTreeMap::new(),
            tasks,
        };
        let commit = vec![(index, generation.generation)];
        let manifest = Manifest::new(&generation, &state, &job, commit);
        let path = layout.manifest(&record.name, index, generation.generation);
        put(&path, &sealed::seal(&manifest));
    }
}

#[test]
fn ten_thousand_tasks_are_rebuilt_and_opened_again_within_their_room() {
    // One twentieth of eight slots of the size that the uploads have, and 8 MiB.
    const ROOM: u64 = 8 * UPLOAD_BYTES / 20 + 8 * 1024 * 1024;
    let directory = tempfile::tempdir().unwrap();
    write_files(directory.path(), 8, 1250);
    let options = Options::default();

    let opened = open(directory.path(), &options, NOW).unwrap();
    assert!(opened.report.catalog_rebuilt);
    assert_eq!(opened.report.generations_recovered, 8);
    let rebuilt = opened.committer.catalog();
    let base_model = &rebuilt.base_models[&base_model().name];
    assert_eq!(base_model.tasks.len(), 10_000);
    assert_eq!(base_model.slots[&SlotIndex(3)].members.len(), 1250);
    assert_eq!(rebuilt.jobs.len(), options.finished_jobs_kept);
    assert!(rebuilt.last_job >= JobId(10_000));
    // Every job is known by its request and by its task, also when its record was dropped.
    let first = entry(0, 0, 8);
    let found = rebuilt
        .job_by_request(first.request_id.as_deref().unwrap())
        .unwrap();
    assert_eq!((found.id, found.state), (first.job, JobState::Done));
    drop(opened);

    let opened = open(directory.path(), &options, NOW).unwrap();
    assert_eq!(opened.report, Default::default());
    assert_eq!(opened.committer.catalog(), rebuilt);
    let usage = opened.reader.disk_usage(&rebuilt).unwrap();
    let beside = usage.total - usage.tensors_live;
    assert!(beside <= ROOM, "{beside} bytes beside the tensors");
}

/// A state whose database is in memory.
struct Fixture {
    directory: tempfile::TempDir,
    memory: Memory,
    disk: Disk,
}

impl Fixture {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        Self {
            directory,
            memory: Memory::default(),
            disk: Disk::default(),
        }
    }

    fn opener(&self) -> StoreOpener {
        let memory = self.memory.clone();
        StoreOpener::new(move |_| Ok(memory.open()))
    }

    fn open(&self) -> Opened {
        let options = Options::default();
        open_with(
            self.directory.path(),
            &options,
            NOW,
            self.disk.clone(),
            self.opener(),
        )
        .unwrap()
    }
}

fn stage(opened: &Opened, task: &str) -> crate::Staged {
    let bytes = b"tensors";
    let request = StageRequest {
        base_model: base_model().name,
        task: task.parse().unwrap(),
        format: "peft".to_owned(),
        config: Vec::new(),
        size_bytes: bytes.len() as u64,
        digest: Digest::of(bytes),
        request_id: None,
    };
    let mut writer = opened.ingest.stage(request).unwrap();
    writer.write(bytes).unwrap();
    writer.finish().unwrap()
}

fn catalog_of(opened: &Opened) -> Arc<Catalog> {
    opened.committer.catalog()
}

#[test]
fn after_a_failed_write_everything_is_refused_until_the_next_start() {
    for operation in ["apply", "flush", "sync"] {
        let fixture = Fixture::new();
        let mut opened = fixture.open();
        opened.committer.register_base_model(base_model()).unwrap();
        let staged = stage(&opened, "first");
        let second = stage(&opened, "second");
        let before = catalog_of(&opened);

        fixture.memory.fail(operation);
        let error = opened.committer.enqueue(staged, NOW).unwrap_err();
        assert!(matches!(error, CommitError::Catalog(_)), "{error}");
        assert!(opened.committer.is_read_only());
        assert_eq!(catalog_of(&opened), before, "what failed is not shown");
        let why = opened.committer.read_only_reason().unwrap().to_owned();
        assert!(
            why.contains(operation) && why.contains("the test asked for it"),
            "{why}"
        );

        let error = opened.committer.enqueue(second, NOW).unwrap_err();
        assert!(matches!(error, CommitError::ReadOnly { .. }), "{error}");
        let id = JobId(1);
        let failure = crate::JobFailure {
            code: 1,
            reason: String::new(),
            message: String::new(),
        };
        let refused = [
            opened.committer.start_job(id, NOW).unwrap_err(),
            opened.committer.cancel_job(id, NOW).unwrap_err(),
            opened.committer.fail_job(id, failure, NOW).unwrap_err(),
            opened
                .committer
                .register_base_model(base_model())
                .unwrap_err(),
            opened
                .committer
                .collect(std::time::Duration::ZERO, NOW)
                .unwrap_err(),
        ];
        for error in refused {
            assert_eq!(error.reason(), "READ_ONLY");
        }
        assert_eq!(
            opened.reader.new_tensor().unwrap_err().reason(),
            "READ_ONLY"
        );
        drop(opened);

        // The upload was durable before the database failed, so the next start may find the job.
        let fixture = Fixture {
            memory: Memory::default(),
            disk: Disk::default(),
            ..fixture
        };
        let opened = fixture.open();
        assert!(!opened.committer.is_read_only());
        let jobs: Vec<_> = catalog_of(&opened).jobs.values().cloned().collect();
        assert_eq!(jobs.len(), 1);
        assert_eq!(jobs[0].task.as_str(), "first");
    }
}

#[test]
fn a_state_of_a_later_version_is_refused_untouched() {
    let fixture = Fixture::new();
    let mut opened = fixture.open();
    opened.committer.register_base_model(base_model()).unwrap();
    drop(opened);
    let layout = Layout::new(fixture.directory.path().to_owned());
    let path = layout.base_model(&base_model().name);
    let text = String::from_utf8(durable::read(&path).unwrap()).unwrap();
    // Sealed as a later version would: only the digest and the schema differ.
    let body = text
        .split_once("\"body\":")
        .unwrap()
        .1
        .trim_end()
        .strip_suffix('}')
        .unwrap();
    let sha256 = Digest::of(format!("base-model\n2\n{body}").as_bytes());
    let later =
        format!("{{\"kind\":\"base-model\",\"schema\":2,\"sha256\":\"{sha256}\",\"body\":{body}}}");
    let disk = Disk::default();
    disk.put(&layout.temporary("test"), &path, later.as_bytes())
        .unwrap();

    let error = open_with(
        fixture.directory.path(),
        &Options::default(),
        NOW,
        disk,
        fixture.opener(),
    )
    .unwrap_err();
    assert_eq!(error.reason(), "STATE_NEWER");
    assert!(error.to_string().contains("schema 2"), "{error}");
    assert_eq!(durable::read(&path).unwrap(), later.as_bytes());
}

#[test]
fn the_second_process_learns_who_is_first() {
    let fixture = Fixture::new();
    let opened = fixture.open();
    let error = open(fixture.directory.path(), &Options::default(), NOW).unwrap_err();
    let text = error.to_string();
    assert_eq!(error.reason(), "STATE_LOCKED");
    assert!(
        text.contains(&format!("process {}", std::process::id())),
        "{text}"
    );
    assert!(text.contains("since 2026-09-21T"), "{text}");
    // A reader alone keeps the directory, too.
    let Opened {
        committer,
        ingest,
        reader,
        ..
    } = opened;
    drop((committer, ingest));
    assert!(open(fixture.directory.path(), &Options::default(), NOW).is_err());
    drop(reader);
    drop(fixture.open());
}

#[test]
fn names_of_base_models_are_taken_once() {
    let fixture = Fixture::new();
    let mut opened = fixture.open();
    let committer = &mut opened.committer;
    let first = committer.register_base_model(base_model()).unwrap();
    assert!(matches!(first, crate::Registered::Created(_)), "{first:?}");
    let later = BaseModelRecord {
        created: UnixMillis(1),
        ..base_model()
    };
    let again = committer.register_base_model(later).unwrap();
    let crate::Registered::Identical(record) = again else {
        panic!("{again:?}")
    };
    assert_eq!(*record, base_model());
    let other = BaseModelRecord {
        settings: "{\"k\":1}".to_owned(),
        ..base_model()
    };
    let error = committer.register_base_model(other).unwrap_err();
    assert_eq!(error.reason(), "BASE_MODEL_EXISTS");
    let name: BaseModelName = "large".parse().unwrap();
    let config = "x".repeat(1024 * 1024 + 1);
    let large = BaseModelRecord {
        name: name.clone(),
        config,
        ..base_model()
    };
    assert_eq!(
        committer.register_base_model(large).unwrap_err().reason(),
        "CONFIG_TOO_LARGE"
    );
    let settings = "x".repeat(5000);
    let large = BaseModelRecord {
        name: name.clone(),
        settings,
        ..base_model()
    };
    assert_eq!(
        committer.register_base_model(large).unwrap_err().reason(),
        "RECORD_TOO_LARGE"
    );
    assert_eq!(committer.catalog().base_models.len(), 1);
    drop(opened);
    assert!(!catalog_of(&fixture.open()).base_models.contains_key(&name));
}

#[test]
fn a_database_that_has_grown_is_written_again_and_holds_the_same() {
    let directory = tempfile::tempdir().unwrap();
    let options = Options {
        finished_jobs_kept: 3,
        events_kept: 3,
        ..Options::default()
    };
    let no_floor = Options {
        catalog_floor_bytes: 0,
        ..options.clone()
    };
    let mut opened = open(directory.path(), &options, NOW).unwrap();
    opened.committer.register_base_model(base_model()).unwrap();
    for number in 0..200 {
        let staged = stage(&opened, &format!("task-{number}"));
        let job = opened.committer.enqueue(staged, NOW).unwrap().job;
        opened.committer.cancel_job(job.id, NOW).unwrap();
    }
    let expected = catalog_of(&opened);
    let grown = opened.reader.disk_usage(&expected).unwrap();
    drop(opened);

    let mut opened = open(directory.path(), &no_floor, NOW).unwrap();
    assert_eq!(opened.report, Default::default());
    assert_eq!(catalog_of(&opened), expected);
    let small = opened.reader.disk_usage(&expected).unwrap();
    assert!(small.catalog < grown.catalog, "{small:?} {grown:?}");
    assert_eq!(small.staging, grown.staging, "the old one is gone");
    // The database in place is the one that is written from now on.
    let staged = stage(&opened, "last");
    opened.committer.enqueue(staged, NOW).unwrap();
    let expected = catalog_of(&opened);
    drop(opened);
    assert_eq!(
        catalog_of(&open(directory.path(), &options, NOW).unwrap()),
        expected
    );
}

#[test]
fn each_capability_can_be_where_it_is_needed() {
    fn moves<T: Send + 'static>() {}
    fn is_shared<T: Clone + Send + Sync + 'static>() {}
    moves::<crate::Committer>();
    moves::<crate::StagingWriter>();
    moves::<crate::Staged>();
    moves::<crate::TensorWriter>();
    moves::<crate::StoredTensor>();
    is_shared::<crate::Ingest>();
    is_shared::<crate::Reader>();
    is_shared::<crate::TensorFile>();
    is_shared::<Arc<Catalog>>();
}
