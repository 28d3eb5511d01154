//! What the child does: every kind of change once or more, journalled.

use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use kmerge_storage::{
    Committer, JobFailure, JobId, JobKind, JobRecord, MembersChange, NextGeneration, Opened,
    Options, Rearrangement, SlotChange, SlotIndex, SlotOutcome, SlotStep, UnixMillis, open,
};

use crate::common::{at, base_model, base_name, commit_of, current, emptying, placing, stage};

/// Names the state directory.
pub(crate) const STATE: &str = "KMERGE_CRASH_STATE";
/// Names the journal.
pub(crate) const JOURNAL: &str = "KMERGE_CRASH_JOURNAL";

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

    fn enqueue(&mut self, opened: &mut Opened, name: &str) -> Outcome<Arc<JobRecord>> {
        let staged = stage(
            opened,
            name,
            name.as_bytes(),
            Some(&format!("request-{name}")),
        )?;
        let now = self.now();
        let job = opened.committer.enqueue(staged, now)?.job;
        self.note(&format!("queued {name} {}", job.id));
        Ok(job)
    }

    fn start(&mut self, committer: &mut Committer, job: JobId) -> Outcome<()> {
        let now = self.now();
        committer.start_job(job, now)?;
        self.note(&format!("started {job}"));
        Ok(())
    }

    /// Commits new generations of `slots`; the newcomer joins the first.
    fn commit(&mut self, opened: &mut Opened, job: &JobRecord, slots: &[SlotIndex]) -> Outcome<()> {
        self.start(&mut opened.committer, job.id)?;
        let catalog = opened.committer.catalog();
        let mut outcome = None;
        for &slot in slots {
            let expected = current(&catalog, slot);
            let text = format!("tensors of slot {slot} after {expected:?}");
            let mut tensor = opened.reader.new_tensor()?;
            tensor.write(text.as_bytes())?;
            let commit = commit_of(job, slot, expected, tensor.finish()?);
            match &mut outcome {
                None => outcome = Some(commit),
                Some(first) => {
                    first
                        .changes
                        .extend(commit.changes.into_iter().map(without_newcomer));
                }
            }
        }
        let now = self.now();
        let catalog = opened.committer.commit(outcome.unwrap(), now)?;
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
        let catalog = opened.committer.catalog();
        let mut tensor = opened.reader.new_tensor()?;
        tensor.write(b"rearranged")?;
        let members = [("e", 0.5), ("b", 0.25), ("h", 0.25)];
        let steps = vec![
            emptying(empty, current(&catalog, empty)),
            placing(full, current(&catalog, full), tensor.finish()?, &members),
        ];
        let rearrangement = Rearrangement {
            job: job.id,
            steps,
            settings: None,
            result: "{}".to_owned(),
        };
        let now = self.now();
        self.note("forgetting a");
        let catalog = opened.committer.rearrange(rearrangement, now)?;
        self.note("forgot a");
        let generation = current(&catalog, full).unwrap();
        self.note(&format!("committed {full} {generation}"));
        let emptied = &catalog.emptied(&base_name(), empty).unwrap().record;
        self.note(&format!("committed {empty} {}", emptied.generation));
        Ok(())
    }

    fn maintain(&mut self, opened: &mut Opened, settings: &str) -> Outcome<Arc<JobRecord>> {
        let kind = repack(settings);
        let now = self.now();
        let request = Some(format!("request-{settings}"));
        let job = opened
            .committer
            .enqueue_maintenance(&base_name(), kind, request, now)?
            .job;
        self.note(&format!("to-repack {} {settings}", job.id));
        Ok(job)
    }

    /// Gives slots their next generation under other settings.
    fn repack(&mut self, opened: &mut Opened, slots: &[SlotIndex], settings: &str) -> Outcome<()> {
        let job = self.maintain(opened, settings)?;
        self.start(&mut opened.committer, job.id)?;
        let catalog = opened.committer.catalog();
        let mut steps = Vec::new();
        for &slot in slots {
            let mut tensor = opened.reader.new_tensor()?;
            tensor.write(format!("{slot} for {settings}").as_bytes())?;
            let next = NextGeneration {
                tensor: tensor.finish()?,
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
        let now = self.now();
        self.note(&format!("setting {settings}"));
        let catalog = opened.committer.rearrange(rearrangement, now)?;
        self.note(&format!("set {settings}"));
        for &slot in slots {
            let generation = current(&catalog, slot).unwrap();
            self.note(&format!("committed {slot} {generation}"));
        }
        Ok(())
    }

    fn publish(&mut self, opened: &Opened, slot: SlotIndex) -> Outcome<()> {
        let catalog = opened.committer.catalog();
        let record = catalog.slot(&base_name(), slot).unwrap().current();
        opened
            .reader
            .publish_export(record, "peft", "tensors", &[("config", b"{}")])?;
        self.note(&format!("published {slot} {}", record.generation));
        Ok(())
    }
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
    opened.committer.register_base_model(base_model())?;
    worker.note("registered");
    let a = worker.enqueue(opened, "a")?;
    let b = worker.enqueue(opened, "b")?;
    worker.commit(opened, &a, &[first])?;
    worker.publish(opened, first)?;
    worker.commit(opened, &b, &[first])?;
    worker.publish(opened, first)?;

    let c = worker.enqueue(opened, "c")?;
    worker.note(&format!("ending {}", c.id));
    let now = worker.now();
    opened.committer.cancel_job(c.id, now)?;
    worker.note(&format!("ended {}", c.id));

    let d = worker.enqueue(opened, "d")?;
    worker.start(&mut opened.committer, d.id)?;
    worker.note(&format!("ending {}", d.id));
    let failure = JobFailure {
        code: 3,
        reason: "BAD".to_owned(),
        message: "bad".to_owned(),
    };
    let now = worker.now();
    opened.committer.fail_job(d.id, failure, now)?;
    worker.note(&format!("ended {}", d.id));

    // One commit, two slots.
    let e = worker.enqueue(opened, "e")?;
    worker.commit(opened, &e, &[second, first])?;
    worker.publish(opened, second)?;

    worker.note("collecting");
    let now = worker.now();
    for (_, slot, generation) in opened.committer.collect(Duration::ZERO, now)?.removed {
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
    // Small enough that the database is written again in every run.
    let options = Options {
        catalog_floor_bytes: 0,
        ..Options::default()
    };
    let Ok(mut opened) = open(&state, &options, at(0)) else {
        std::process::exit(DISK_FAILED);
    };
    let Err(error) = work(&mut worker, &mut opened) else {
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
    // Any other code tells of a check above that did not hold.
    std::process::exit(DISK_FAILED);
}
