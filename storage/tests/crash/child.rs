//! What the child does: every kind of change once or more, journalled.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use kmerge_storage::{
    CommitError, Committer, JobFailure, JobId, JobKind, JobRecord, JobState, MembersChange,
    NextGeneration, Opened, Options, Rearrangement, SlotChange, SlotIndex, SlotOutcome, SlotStep,
    StoredTensor, UnixMillis, failpoint, open,
};

use crate::common::{at, base_model, base_name, commit_of, current, emptying, placing, stage};

/// Names the state directory.
pub(crate) const STATE: &str = "KMERGE_CRASH_STATE";
/// Names the journal.
pub(crate) const JOURNAL: &str = "KMERGE_CRASH_JOURNAL";

/// Asks for no more than to open the state.
pub(crate) const ONLY_OPEN: &str = "KMERGE_CRASH_ONLY_OPEN";

/// Asks for the database not to be written again.
pub(crate) const KEEP_DATABASE: &str = "KMERGE_CRASH_KEEP_DATABASE";

/// How often a step that finds the disk full is tried again.
const PATIENCE: u32 = 40;

/// The exit code of a child whose disk failed and that behaved.
pub(crate) const DISK_FAILED: i32 = 7;

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

/// The journal, and the clock.
struct Worker {
    journal: File,
    clock: u64,
}

impl Worker {
    fn note(&mut self, line: &str) {
        // What is written is with the system at once, and outlives this process.
        self.journal
            .write_all(format!("{line}\n").as_bytes())
            .unwrap();
    }

    fn now(&mut self) -> UnixMillis {
        self.clock += 1;
        at(self.clock)
    }

    /// Does a step until the disk has room for it. Whatever else goes wrong is handed on.
    fn again<T>(&mut self, mut step: impl FnMut(&mut Self) -> Outcome<T>) -> Outcome<T> {
        for _ in 0..PATIENCE {
            match step(self) {
                Err(error) if is_disk_full(&*error) => self.refused(&*error),
                outcome => return outcome,
            }
        }
        step(self)
    }

    fn refused(&mut self, error: &(dyn std::error::Error + 'static)) {
        let text = in_full(error);
        assert!(
            text.contains("could not ") && text.contains("No space left"),
            "{text}"
        );
        self.note(&format!("refused {text}"));
    }

    fn enqueue(&mut self, opened: &mut Opened, name: &str) -> Outcome<Arc<JobRecord>> {
        let request = format!("request-{name}");
        let job = self.again(|worker| {
            let staged = stage(opened, name, &content(name), Some(&request))?;
            let now = worker.now();
            Ok(opened.committer.enqueue(staged, now)?.job)
        })?;
        self.note(&format!("queued {name} {}", job.id));
        Ok(job)
    }

    fn start(&mut self, committer: &mut Committer, job: JobId) -> Outcome<()> {
        self.again(|worker| {
            let now = worker.now();
            Ok(committer.start_job(job, now).map(drop)?)
        })?;
        self.note(&format!("started {job}"));
        Ok(())
    }

    /// Commits new generations of `slots`; the newcomer joins the first.
    fn commit(&mut self, opened: &mut Opened, job: &JobRecord, slots: &[SlotIndex]) -> Outcome<()> {
        self.start(&mut opened.committer, job.id)?;
        let catalog = self.again(|worker| {
            let catalog = opened.committer.catalog();
            let mut outcome = None;
            for &slot in slots {
                let expected = current(&catalog, slot);
                let text = format!("tensors of slot {slot} after {expected:?}");
                let commit = commit_of(job, slot, expected, tensor(opened, &text)?);
                match &mut outcome {
                    None => outcome = Some(commit),
                    Some(first) => {
                        first
                            .changes
                            .extend(commit.changes.into_iter().map(without_newcomer));
                    }
                }
            }
            let now = worker.now();
            Ok(opened.committer.commit(outcome.unwrap(), now)?)
        })?;
        for &slot in slots {
            let generation = current(&catalog, slot).unwrap();
            self.note(&format!("committed {slot} {generation}"));
        }
        Ok(())
    }

    /// Puts all tasks but `a` into one slot and empties the other.
    fn rearrange(
        &mut self,
        opened: &mut Opened,
        job: &JobRecord,
        full: SlotIndex,
        empty: SlotIndex,
    ) -> Outcome<()> {
        self.start(&mut opened.committer, job.id)?;
        self.note("forgetting a");
        let catalog = self.again(|worker| {
            let catalog = opened.committer.catalog();
            let members = [("e", 0.5), ("b", 0.25), ("h", 0.25)];
            let tensor = tensor(opened, "rearranged")?;
            let steps = vec![
                emptying(empty, current(&catalog, empty)),
                placing(full, current(&catalog, full), tensor, &members),
            ];
            let rearrangement = Rearrangement {
                job: job.id,
                steps,
                settings: None,
                result: "{}".to_owned(),
            };
            let now = worker.now();
            Ok(opened.committer.rearrange(rearrangement, now)?)
        })?;
        self.note("forgot a");
        let generation = current(&catalog, full).unwrap();
        self.note(&format!("committed {full} {generation}"));
        let emptied = &catalog.emptied(&base_name(), empty).unwrap().record;
        self.note(&format!("committed {empty} {}", emptied.generation));
        Ok(())
    }

    fn maintain(&mut self, opened: &mut Opened, settings: &str) -> Outcome<Arc<JobRecord>> {
        let job = self.again(|worker| {
            let now = worker.now();
            let request = Some(format!("request-{settings}"));
            let committer = &mut opened.committer;
            let queued =
                committer.enqueue_maintenance(&base_name(), repack(settings), request, now)?;
            Ok(queued.job)
        })?;
        self.note(&format!("to-repack {} {settings}", job.id));
        Ok(job)
    }

    /// Gives slots their next generation under other settings.
    fn repack(&mut self, opened: &mut Opened, slots: &[SlotIndex], settings: &str) -> Outcome<()> {
        let job = self.maintain(opened, settings)?;
        self.start(&mut opened.committer, job.id)?;
        self.note(&format!("setting {settings}"));
        let catalog = self.again(|worker| {
            let catalog = opened.committer.catalog();
            let mut steps = Vec::new();
            for &slot in slots {
                let next = NextGeneration {
                    tensor: tensor(opened, &format!("{slot} for {settings}"))?,
                    facts: "{}".to_owned(),
                    members: MembersChange::Keep,
                };
                steps.push(SlotStep {
                    slot,
                    expected: current(&catalog, slot),
                    outcome: SlotOutcome::Next(next),
                });
            }
            let rearrangement = Rearrangement {
                job: job.id,
                steps,
                settings: Some(settings.to_owned()),
                result: "{}".to_owned(),
            };
            let now = worker.now();
            Ok(opened.committer.rearrange(rearrangement, now)?)
        })?;
        self.note(&format!("set {settings}"));
        for &slot in slots {
            let generation = current(&catalog, slot).unwrap();
            self.note(&format!("committed {slot} {generation}"));
        }
        Ok(())
    }

    fn end(
        &mut self,
        opened: &mut Opened,
        job: JobId,
        end: impl Fn(&mut Committer, UnixMillis) -> Result<Arc<JobRecord>, CommitError>,
    ) -> Outcome<()> {
        self.note(&format!("ending {job}"));
        self.again(|worker| {
            let now = worker.now();
            Ok(end(&mut opened.committer, now).map(drop)?)
        })?;
        self.note(&format!("ended {job}"));
        Ok(())
    }

    /// Notes what whoever asks now is told. From here on that is a promise as well.
    fn tell(&mut self, opened: &Opened) {
        let catalog = opened.committer.catalog();
        for job in catalog.jobs.values() {
            match (&job.kind, job.state) {
                (JobKind::Upload, JobState::Queued | JobState::Done) => {
                    self.note(&format!("queued {} {}", job.task, job.id));
                }
                (JobKind::Repack { settings }, JobState::Queued | JobState::Done) => {
                    self.note(&format!("to-repack {} {settings}", job.id));
                }
                (_, JobState::Failed | JobState::Cancelled) => {
                    self.note(&format!("ended {}", job.id));
                }
                (_, _) => {}
            }
        }
        for record in catalog.generations() {
            if record.superseded.is_none() {
                let (slot, generation) = (record.slot, record.generation);
                self.note(&format!("committed {slot} {generation}"));
            }
        }
        if let Some(state) = catalog.base_model(&base_name()) {
            self.note("registered");
            let settings = &state.record.settings;
            if *settings != base_model().settings {
                self.note(&format!("setting {settings}"));
                // A commit of settings alone is found in the file, and its job runs once more: it is
                // not done yet for whoever asks.
                let runs_once_more = catalog
                    .unfinished_jobs()
                    .any(|job| job.kind == repack(settings));
                if !runs_once_more {
                    self.note(&format!("set {settings}"));
                }
            }
        }
    }

    fn publish(&mut self, opened: &Opened, slot: SlotIndex) -> Outcome<()> {
        let catalog = opened.committer.catalog();
        let record = catalog.slot(&base_name(), slot).unwrap().current();
        self.again(|_| {
            let files: [(&str, &[u8]); 1] = [("config", b"{}")];
            let reader = &opened.reader;
            Ok(reader
                .publish_export(record, "peft", "tensors", &files)
                .map(drop)?)
        })?;
        self.note(&format!("published {slot} {}", record.generation));
        Ok(())
    }
}

/// Whether the disk was full. Nothing else may be tried again.
fn is_disk_full(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        let system = error.downcast_ref::<std::io::Error>();
        if system.is_some_and(|error| error.kind() == std::io::ErrorKind::StorageFull) {
            return true;
        }
        cause = error.source();
    }
    false
}

fn in_full(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

/// What stands in a file that is known by `text`: more than one unit of any medium.
pub(crate) fn content(text: &str) -> Vec<u8> {
    let line = format!("{text}\n");
    line.repeat(9000 / line.len()).into_bytes()
}

fn tensor(opened: &Opened, text: &str) -> Outcome<StoredTensor> {
    let mut tensor = opened.reader.new_tensor()?;
    tensor.write(&content(text))?;
    Ok(tensor.finish()?)
}

pub(crate) fn repack(settings: &str) -> JobKind {
    JobKind::Repack {
        settings: settings.to_owned(),
    }
}

fn without_newcomer(change: SlotChange) -> SlotChange {
    SlotChange {
        newcomer: None,
        ..change
    }
}

fn work(worker: &mut Worker, opened: &mut Opened) -> Outcome<()> {
    let (first, second) = (SlotIndex(0), SlotIndex(1));
    worker.again(|_| Ok(opened.committer.register_base_model(base_model())?))?;
    worker.note("registered");
    let a = worker.enqueue(opened, "a")?;
    let b = worker.enqueue(opened, "b")?;
    worker.commit(opened, &a, &[first])?;
    worker.publish(opened, first)?;
    worker.commit(opened, &b, &[first])?;
    worker.publish(opened, first)?;

    let c = worker.enqueue(opened, "c")?;
    worker.end(opened, c.id, |committer, now| {
        committer.cancel_job(c.id, now)
    })?;

    let d = worker.enqueue(opened, "d")?;
    worker.start(&mut opened.committer, d.id)?;
    worker.end(opened, d.id, |committer, now| {
        let failure = JobFailure {
            code: 3,
            reason: "BAD".to_owned(),
            message: "bad".to_owned(),
        };
        committer.fail_job(d.id, failure, now)
    })?;

    // One commit, two slots.
    let e = worker.enqueue(opened, "e")?;
    worker.commit(opened, &e, &[second, first])?;
    worker.publish(opened, second)?;

    worker.note("collecting");
    let collected = worker.again(|worker| {
        let now = worker.now();
        Ok(opened.committer.collect(Duration::ZERO, now)?)
    })?;
    for (_, slot, generation) in collected.removed {
        worker.note(&format!("collected {slot} {generation}"));
    }
    // Of four tasks three move together, and one leaves for good; then the empty slot is used again.
    let h = worker.enqueue(opened, "h")?;
    worker.rearrange(opened, &h, first, second)?;
    let i = worker.enqueue(opened, "i")?;
    worker.commit(opened, &i, &[second])?;

    // The same members under other settings, and then the settings alone.
    worker.repack(opened, &[first, second], "{\"slots\":5}")?;
    worker.repack(opened, &[], "{\"slots\":6}")?;
    worker.maintain(opened, "waits")?;

    worker.enqueue(opened, "f")?;
    let g = worker.enqueue(opened, "g")?;
    worker.start(&mut opened.committer, g.id)
}

/// Opens the state, as soon as the disk has room for that.
fn open_with_room(worker: &mut Worker, state: &Path) -> Option<Opened> {
    // Small enough that the database is written again in every run. That flushes directories, so a
    // start that must do so itself goes without.
    let catalog_floor_bytes = match std::env::var_os(KEEP_DATABASE) {
        Some(_) => u64::MAX,
        None => 0,
    };
    let options = Options {
        catalog_floor_bytes,
        ..Options::default()
    };
    let opened = worker.again(|_| Ok(open(state, &options, at(0))?));
    opened.ok()
}

#[test]
#[ignore = "the child of the other tests"]
fn works_until_it_is_ended() {
    let state = PathBuf::from(std::env::var_os(STATE).unwrap());
    let path = PathBuf::from(std::env::var_os(JOURNAL).unwrap());
    let journal = File::options()
        .create(true)
        .append(true)
        .open(path)
        .unwrap();
    let mut worker = Worker { journal, clock: 0 };
    let Some(mut opened) = open_with_room(&mut worker, &state) else {
        std::process::exit(DISK_FAILED);
    };
    if std::env::var_os(ONLY_OPEN).is_some() {
        worker.tell(&opened);
        return;
    }
    let worked = work(&mut worker, &mut opened);
    for name in failpoint::operations() {
        worker.note(&format!("operation {name}"));
    }
    let Err(error) = worked else {
        return;
    };
    worker.note(&format!("error {error:?}"));
    if let Some(why) = opened.committer.read_only_reason() {
        assert!(!why.is_empty());
        worker.note("read-only");
        let refused = opened
            .committer
            .register_base_model(base_model())
            .unwrap_err();
        assert_eq!(refused.reason(), "READ_ONLY");
        assert_eq!(
            opened.reader.new_tensor().unwrap_err().reason(),
            "READ_ONLY"
        );
    }
    // Whatever cannot be written, what is there can be read.
    for record in opened.committer.catalog().generations() {
        assert!(opened.reader.tensor(record).is_ok());
    }
    // Any other code tells of a check above that did not hold.
    std::process::exit(DISK_FAILED);
}
