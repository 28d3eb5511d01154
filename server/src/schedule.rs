//! Which job runs next. Plain code: no locks, no threads, no clock.
//!
//! Jobs of one base model are decided in arrival order, one at a time, because each decision
//! depends on the one before. Different base models do not wait for each other; among them the
//! job that has waited longest comes first.
//!
//! A job for which the disk has no room holds up what came after it, with one exception: what takes
//! a task out of its slot goes first, since that is how room comes back. It passes uploads of other
//! tasks only, so that it decides nothing else than it would have decided in its turn.

use std::collections::{BTreeMap, BTreeSet};

use kmerge_storage::{BaseModelName, Catalog, JobId, JobKind, JobRecord, JobState, TaskName};

/// What may run.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Next {
    /// The next job to run.
    pub job: Option<(JobId, BaseModelName)>,
    /// Jobs whose turn it would be, if the disk had room for them.
    pub short: BTreeSet<JobId>,
}

/// The next job to run while the base models in `busy` have one running. `has_room` says whether
/// the disk has what a job needs.
///
/// Job ids rise in arrival order, so the first queued one of a base model is its oldest.
pub fn next(
    catalog: &Catalog,
    busy: &BTreeSet<BaseModelName>,
    has_room: &mut dyn FnMut(&JobRecord) -> bool,
) -> Next {
    let mut next = Next::default();
    let mut passed: BTreeMap<&BaseModelName, Passed<'_>> = BTreeMap::new();
    let queued = catalog
        .unfinished_jobs()
        .filter(|job| job.state == JobState::Queued && !busy.contains(&job.base_model));
    for job in queued {
        let passed = match passed.get_mut(&job.base_model) {
            None => passed.entry(&job.base_model).or_default(),
            Some(passed) if passed.let_by(job) => passed,
            Some(passed) => {
                passed.add(job);
                continue;
            }
        };
        if has_room(job) {
            next.job = Some((job.id, job.base_model.clone()));
            return next;
        }
        next.short.insert(job.id);
        passed.add(job);
    }
    next
}

/// Jobs of a base model that wait for room, or for those that do.
#[derive(Debug, Default)]
struct Passed<'a> {
    uploads: BTreeSet<&'a TaskName>,
    is_closed: bool,
}

impl<'a> Passed<'a> {
    fn let_by(&self, job: &JobRecord) -> bool {
        match &job.kind {
            JobKind::Forget { task } => !self.is_closed && !self.uploads.contains(task),
            JobKind::Upload | JobKind::Rollback { .. } | JobKind::Repack { .. } => false,
        }
    }

    fn add(&mut self, job: &'a JobRecord) {
        match job.kind {
            JobKind::Upload => drop(self.uploads.insert(&job.task)),
            // Two that take tasks out do not mind their order.
            JobKind::Forget { .. } => {}
            JobKind::Rollback { .. } | JobKind::Repack { .. } => self.is_closed = true,
        }
    }
}

/// How many jobs wait or run.
pub fn unfinished(catalog: &Catalog) -> usize {
    catalog.unfinished_jobs().count()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use kmerge_storage::{Digest, Generation, SlotIndex, UnixMillis, UploadFacts};

    use super::*;

    fn job(id: u64, base_model: &str, kind: JobKind, task: &str) -> (JobId, Arc<JobRecord>) {
        let record = JobRecord {
            id: JobId(id),
            base_model: base_model.parse().unwrap(),
            kind,
            task: task.parse().unwrap(),
            state: JobState::Queued,
            attempts: 0,
            request_id: None,
            upload: UploadFacts {
                format: "peft".to_owned(),
                size_bytes: 0,
                digest: Digest::of(b""),
                config_digest: Digest::of(b""),
            },
            created: UnixMillis(0),
            started: None,
            ended: None,
            result: None,
            failure: None,
        };
        (record.id, Arc::new(record))
    }

    fn forget(task: &str) -> JobKind {
        JobKind::Forget {
            task: task.parse().unwrap(),
        }
    }

    fn catalog(jobs: impl IntoIterator<Item = (JobId, Arc<JobRecord>)>) -> Catalog {
        Catalog {
            jobs: jobs.into_iter().collect(),
            ..Catalog::default()
        }
    }

    /// The job that runs and those that are short while only forgetting has room.
    fn when_full(catalog: &Catalog) -> (Option<u64>, Vec<u64>) {
        let is_forget = &mut |job: &JobRecord| matches!(job.kind, JobKind::Forget { .. });
        let next = next(catalog, &BTreeSet::new(), is_forget);
        let short = next.short.iter().map(|job| job.0).collect();
        (next.job.map(|(job, _)| job.0), short)
    }

    #[test]
    fn the_oldest_job_of_a_base_model_that_is_free_runs() {
        let catalog = catalog([
            job(1, "one", JobKind::Upload, "a"),
            job(2, "one", forget("a"), "a"),
            job(3, "two", JobKind::Upload, "a"),
        ]);
        let run = |busy: &[&str]| {
            let busy = busy.iter().map(|name| name.parse().unwrap()).collect();
            next(&catalog, &busy, &mut |_| true)
                .job
                .map(|(job, _)| job.0)
        };
        assert_eq!(run(&[]), Some(1));
        assert_eq!(run(&["one"]), Some(3));
        assert_eq!(run(&["one", "two"]), None);
    }

    #[test]
    fn on_a_full_disk_forgetting_passes_uploads_of_other_tasks_alone() {
        let (upload, other) = (JobKind::Upload, job(1, "one", JobKind::Upload, "a"));
        let (slot, to) = (SlotIndex(0), Generation(1));
        let rollback = JobKind::Rollback { slot, to };
        let passes = catalog([other.clone(), job(2, "one", forget("b"), "b")]);
        assert_eq!(when_full(&passes), (Some(2), vec![1]));
        let own = catalog([other.clone(), job(2, "one", forget("a"), "a")]);
        assert_eq!(when_full(&own), (None, vec![1]));
        let behind = catalog([
            other.clone(),
            job(2, "one", upload, "b"),
            job(3, "one", forget("b"), "b"),
            job(4, "one", forget("c"), "c"),
        ]);
        assert_eq!(when_full(&behind), (Some(4), vec![1]));
        let closed = catalog([
            other,
            job(2, "one", rollback, "slot-0"),
            job(3, "one", forget("c"), "c"),
        ]);
        assert_eq!(when_full(&closed), (None, vec![1]));
    }
}
