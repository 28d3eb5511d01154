//! The life of a job, except for its good end: queued, begun, failed, taken back.

use std::sync::Arc;

use super::doubt::Traces;
use super::{Committer, Room};
use crate::durable;
use crate::error::{CommitDefect, CommitError, Existing, FileError};
use crate::failpoint;
use crate::ids::{BaseModelName, JobId, UnixMillis};
use crate::ingest::{StageRequest, Staged};
use crate::records::{Event, JobFailure, JobKind, JobRecord, JobState, UploadFacts};
use crate::sealed;
use crate::staging::{StagedHeader, Unfinished, header_path};
use crate::stored::Stored;

/// What became of a request for a job.
#[derive(Debug, Clone)]
pub struct Enqueued {
    /// Its job.
    pub job: Arc<JobRecord>,
    /// Whether the job was there before; the upload that came now was dropped then.
    pub existing: bool,
}

/// The room that a failure's sentence may take in the job's record, as JSON.
const MESSAGE_ROOM: usize = 1800;

/// The room that a failure's word may take in the job's record, as JSON.
const REASON_ROOM: usize = 120;

impl Committer {
    /// Makes a staged upload a job, or finds the job that it already is. Durable on return.
    ///
    /// An upload is known by its request id first, whatever became of that job, and then by its
    /// content, among the jobs of its task that did not fail and were not cancelled.
    ///
    /// 1. The id is reserved and the header is written; the files are durable under a temporary
    ///    name.
    /// 2. The directory gets the job's name.
    /// 3. The name is durable. From here on a start finds the job, whatever happens to the catalog.
    /// 4. The catalog learns of it.
    ///
    /// # Errors
    /// [`CommitError::AlreadyExists`] if the request id or the task stands for other content,
    /// [`CommitError::UnknownBaseModel`], and what any write may meet.
    pub fn enqueue(&mut self, staged: Staged, now: UnixMillis) -> Result<Enqueued, CommitError> {
        self.check_writable()?;
        let request = staged.request();
        self.known_base_model(&request.base_model)?;
        let upload = request.facts();
        if let Some(job) = self.known_upload(request, &upload)? {
            return Ok(Enqueued {
                job,
                existing: true,
            });
        }

        let header = StagedHeader {
            job: self.catalog.last_job.next(),
            base_model: request.base_model.clone(),
            kind: JobKind::Upload,
            task: request.task.clone(),
            request_id: request.request_id.clone(),
            upload,
            created: now,
        };
        self.put_in_queue(&header, || Ok(staged.into_directory()))
    }

    /// Puts a job without an upload into the queue, or finds the job that the request id stands
    /// for. Durable on return, in the order of [`Committer::enqueue`].
    ///
    /// # Errors
    /// [`CommitError::AlreadyExists`] if the request id stands for something else,
    /// [`CommitError::UnknownBaseModel`], [`CommitError::Invalid`] if the kind needs an upload,
    /// [`CommitError::Record`] if its texts are too long, and what any write may meet.
    pub fn enqueue_maintenance(
        &mut self,
        base_model: &BaseModelName,
        kind: JobKind,
        request_id: Option<String>,
        now: UnixMillis,
    ) -> Result<Enqueued, CommitError> {
        self.check_writable()?;
        self.known_base_model(base_model)?;
        let id = self.catalog.last_job.next();
        if kind.is_upload() {
            let (job, defect) = (id, CommitDefect::NeedsUpload);
            return Err(CommitError::Invalid { job, defect });
        }
        if let Some(request_id) = &request_id
            && let Some(job) = self.catalog.job_by_request(request_id)
        {
            if job.base_model == *base_model && job.kind == kind {
                return Ok(Enqueued {
                    job,
                    existing: true,
                });
            }
            let existing = Existing::RequestId {
                request_id: request_id.clone(),
                job: job.id,
            };
            return Err(CommitError::AlreadyExists { existing });
        }
        let header = StagedHeader {
            job: id,
            base_model: base_model.clone(),
            task: kind.task(),
            kind,
            request_id,
            upload: UploadFacts::none(),
            created: now,
        };
        // A record that has no room for the longest failure could never be ended.
        let longest = JobRecord {
            state: JobState::Cancelled,
            attempts: u32::MAX,
            started: Some(UnixMillis(u64::MAX)),
            ended: Some(UnixMillis(u64::MAX)),
            failure: Some(JobFailure {
                code: i32::MIN,
                reason: "R".repeat(REASON_ROOM + 4),
                message: "m".repeat(MESSAGE_ROOM + 4),
            }),
            ..header.job()
        };
        Stored::Job(longest).value()?;
        let shared = Arc::clone(&self.shared);
        self.put_in_queue(&header, || Unfinished::create(&shared, "job"))
    }

    /// Steps 1 to 4 of [`Committer::enqueue`], with the directory that `directory` gives.
    fn put_in_queue(
        &mut self,
        header: &StagedHeader,
        directory: impl FnOnce() -> Result<Unfinished, FileError>,
    ) -> Result<Enqueued, CommitError> {
        let mut transaction = self.begin(header.created);
        let job = transaction.put_job(header.job())?;
        // Forgetting gives room back, so it may take some.
        let room = match header.kind {
            JobKind::Forget { .. } => Room::FILES,
            JobKind::Upload | JobKind::Rollback { .. } | JobKind::Repack { .. } => Room::Free,
        };
        let event = Event::JobEnqueued { job: job.id };
        let prepared = self.prepare(transaction, event, None, room)?;

        // 1.
        let temporary = self.shared.layout.temporary("job-ids");
        self.job_ids
            .reserve(&self.shared.disk, temporary, job.id.0)?;
        let disk = &self.shared.disk;
        let directory = directory()?;
        disk.write_new(&header_path(directory.path()), &sealed::seal(header))?;
        disk.sync_directory(directory.path())?;
        failpoint::hit("enqueue.header_durable");
        // 2.
        directory.rename(&self.shared.layout.staged(job.id))?;
        failpoint::hit("enqueue.renamed");
        // 3.
        disk.sync_directory(&self.shared.layout.staging())?;
        failpoint::hit("enqueue.directory_durable");
        // 4.
        let traces = Traces {
            staged: Some(self.shared.layout.staged(job.id)),
            ..Traces::default()
        };
        self.persist(prepared, traces)?;
        Ok(Enqueued {
            job,
            existing: false,
        })
    }

    /// The job that an upload already is.
    fn known_upload(
        &self,
        request: &StageRequest,
        upload: &UploadFacts,
    ) -> Result<Option<Arc<JobRecord>>, CommitError> {
        let is_same = |job: &JobRecord| {
            job.kind.is_upload()
                && job.base_model == request.base_model
                && job.task == request.task
                && job.upload == *upload
        };
        if let Some(request_id) = &request.request_id
            && let Some(job) = self.catalog.job_by_request(request_id)
        {
            if is_same(&job) {
                return Ok(Some(job));
            }
            let existing = Existing::RequestId {
                request_id: request_id.clone(),
                job: job.id,
            };
            return Err(CommitError::AlreadyExists { existing });
        }
        match self
            .catalog
            .job_for_task(&request.base_model, &request.task)
        {
            Some(job) if !is_same(&job) => {
                let existing = Existing::Task {
                    base_model: request.base_model.clone(),
                    task: request.task.clone(),
                    job: job.id,
                };
                Err(CommitError::AlreadyExists { existing })
            }
            found => Ok(found),
        }
    }

    /// Marks a queued job as running and counts the attempt. Durable on return, so that a job
    /// which ends the process is counted too.
    ///
    /// # Errors
    /// [`CommitError::UnknownJob`], [`CommitError::JobState`] if it is not queued, and what any
    /// write may meet.
    pub fn start_job(
        &mut self,
        job: JobId,
        now: UnixMillis,
    ) -> Result<Arc<JobRecord>, CommitError> {
        self.check_writable()?;
        let record = self.job_in_state(job, JobState::Queued)?;
        let running = JobRecord {
            state: JobState::Running,
            attempts: record.attempts.saturating_add(1),
            started: Some(now),
            ..JobRecord::clone(record)
        };
        let mut transaction = self.begin(now);
        let running = transaction.put_job(running)?;
        let event = Event::JobStarted { job };
        let prepared = self.prepare(transaction, event, None, Room::CATALOG)?;
        self.persist(prepared, Traces::default())?;
        Ok(running)
    }

    /// Puts a running job back into its place in the queue, as if it had not been begun: it met
    /// something that will pass, as a full disk. Durable on return.
    ///
    /// # Errors
    /// [`CommitError::UnknownJob`], [`CommitError::JobState`] if it is not running, and what any
    /// write may meet.
    pub fn requeue_job(
        &mut self,
        job: JobId,
        now: UnixMillis,
    ) -> Result<Arc<JobRecord>, CommitError> {
        self.check_writable()?;
        let record = self.job_in_state(job, JobState::Running)?;
        let queued = JobRecord {
            state: JobState::Queued,
            attempts: record.attempts.saturating_sub(1),
            started: None,
            ..JobRecord::clone(record)
        };
        let mut transaction = self.begin(now);
        let queued = transaction.put_job(queued)?;
        let event = Event::JobEnqueued { job };
        let prepared = self.prepare(transaction, event, None, Room::CATALOG)?;
        self.persist(prepared, Traces::default())?;
        self.remove_returned_tensors();
        Ok(queued)
    }

    /// Ends an unfinished job as failed and drops its files. A sentence that is too long for the
    /// catalog is cut. Durable on return.
    ///
    /// # Errors
    /// [`CommitError::UnknownJob`], [`CommitError::JobState`] if it has ended already, and what
    /// any write may meet.
    pub fn fail_job(
        &mut self,
        job: JobId,
        failure: JobFailure,
        now: UnixMillis,
    ) -> Result<Arc<JobRecord>, CommitError> {
        self.check_writable()?;
        let record = self.job(job)?;
        if record.state.is_finished() {
            let (state, needed) = (record.state, JobState::Running);
            return Err(CommitError::JobState { job, state, needed });
        }
        let failure = Some(shorten(failure));
        let failed = JobRecord {
            state: JobState::Failed,
            failure,
            ..JobRecord::clone(record)
        };
        self.end_job(failed, now)
    }

    /// Takes a queued job back and drops its files. Durable on return.
    ///
    /// # Errors
    /// [`CommitError::UnknownJob`], [`CommitError::JobState`] if it is not queued, and what any
    /// write may meet.
    pub fn cancel_job(
        &mut self,
        job: JobId,
        now: UnixMillis,
    ) -> Result<Arc<JobRecord>, CommitError> {
        self.check_writable()?;
        let record = self.job_in_state(job, JobState::Queued)?;
        let cancelled = JobRecord {
            state: JobState::Cancelled,
            ..JobRecord::clone(record)
        };
        self.end_job(cancelled, now)
    }

    /// 1. The catalog learns of the end.
    /// 2. The files go.
    fn end_job(
        &mut self,
        ended: JobRecord,
        now: UnixMillis,
    ) -> Result<Arc<JobRecord>, CommitError> {
        let (job, state) = (ended.id, ended.state);
        let mut transaction = self.begin(now);
        let ended = transaction.put_job(JobRecord {
            ended: Some(now),
            ..ended
        })?;
        let event = Event::JobEnded { job, state };
        let prepared = self.prepare(transaction, event, Some(job), Room::CATALOG)?;
        // 1.
        self.persist(prepared, Traces::default())?;
        // 2. What cannot be removed is swept by the next start.
        drop(durable::remove_tree(&self.shared.layout.staged(job)));
        failpoint::hit("job_end.staging_removed");
        self.remove_returned_tensors();
        Ok(ended)
    }
}

/// Cuts a failure to what a job's record has room for.
pub(crate) fn shorten(failure: JobFailure) -> JobFailure {
    JobFailure {
        code: failure.code,
        reason: shorten_text(failure.reason, REASON_ROOM),
        message: shorten_text(failure.message, MESSAGE_ROOM),
    }
}

fn shorten_text(text: String, room: usize) -> String {
    let mut used = 0;
    let cut = text.char_indices().find_map(|(at, character)| {
        used += match character {
            '"' | '\\' => 2,
            // JSON writes these as six characters, at most.
            control if control.is_control() => 6,
            other => other.len_utf8(),
        };
        (used > room).then_some(at)
    });
    match cut {
        Some(at) => format!("{}…", &text[..at]),
        None => text,
    }
}
