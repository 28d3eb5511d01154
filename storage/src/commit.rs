//! The only writer of the catalog.

use std::sync::Arc;
use std::time::Duration;

use crate::catalog::Catalog;
use crate::error::CommitError;
use crate::ids::{BaseModelName, Generation, JobId, SlotIndex, TaskName, UnixMillis};
use crate::ingest::Staged;
use crate::records::{BaseModelRecord, JobFailure, JobRecord};
use crate::tensors::StoredTensor;

/// The only writer of the catalog.
#[derive(Debug)]
pub struct Committer;

/// What became of an upload.
#[derive(Debug, Clone)]
pub struct Enqueued {
    /// Its job.
    pub job: Arc<JobRecord>,
    /// Whether the job was there before.
    pub existing: bool,
}

/// What became of a registration.
#[derive(Debug, Clone)]
pub enum Registered {
    /// It is new.
    Created(Arc<BaseModelRecord>),
    /// The same content was registered before.
    Identical(Arc<BaseModelRecord>),
}

/// The outcome of a job.
#[derive(Debug)]
pub struct Commit {
    /// The job.
    pub job: JobId,
    /// The slots that change.
    pub changes: Vec<SlotChange>,
    /// Opaque JSON: the decision.
    pub result: String,
}

/// A slot's next generation.
#[derive(Debug)]
pub struct SlotChange {
    /// The slot.
    pub slot: SlotIndex,
    /// The generation that the decision was made for; none if the slot must be empty.
    pub expected: Option<Generation>,
    /// The new tensor file.
    pub tensor: StoredTensor,
    /// The task that joins.
    pub newcomer: Option<NewMember>,
    /// Opaque JSON: what the tensors are.
    pub facts: String,
}

/// A task that joins a slot.
#[derive(Debug, Clone, PartialEq)]
pub struct NewMember {
    /// The task.
    pub task: TaskName,
    /// Its weight; those before it are scaled by the rest.
    pub weight: f64,
}

/// What a collection did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Collected {
    /// The generations that are gone.
    pub removed: Vec<(BaseModelName, SlotIndex, Generation)>,
    /// When the next grace ends.
    pub next_due: Option<UnixMillis>,
}

impl Committer {
    /// The catalog as it is now.
    pub fn catalog(&self) -> Arc<Catalog> {
        unimplemented!()
    }

    /// Makes a staged upload a job.
    ///
    /// # Errors
    /// See [`CommitError`].
    pub fn enqueue(&mut self, _staged: Staged, _now: UnixMillis) -> Result<Enqueued, CommitError> {
        unimplemented!()
    }

    /// Marks a queued job as running.
    ///
    /// # Errors
    /// See [`CommitError`].
    pub fn start_job(
        &mut self,
        _job: JobId,
        _now: UnixMillis,
    ) -> Result<Arc<JobRecord>, CommitError> {
        unimplemented!()
    }

    /// Ends a job as failed.
    ///
    /// # Errors
    /// See [`CommitError`].
    pub fn fail_job(
        &mut self,
        _job: JobId,
        _failure: JobFailure,
        _now: UnixMillis,
    ) -> Result<Arc<JobRecord>, CommitError> {
        unimplemented!()
    }

    /// Takes a queued job back.
    ///
    /// # Errors
    /// See [`CommitError`].
    pub fn cancel_job(
        &mut self,
        _job: JobId,
        _now: UnixMillis,
    ) -> Result<Arc<JobRecord>, CommitError> {
        unimplemented!()
    }

    /// Commits the outcome of a running job.
    ///
    /// # Errors
    /// See [`CommitError`].
    pub fn commit(
        &mut self,
        _commit: Commit,
        _now: UnixMillis,
    ) -> Result<Arc<Catalog>, CommitError> {
        unimplemented!()
    }

    /// Registers a base model.
    ///
    /// # Errors
    /// See [`CommitError`].
    pub fn register_base_model(
        &mut self,
        _record: BaseModelRecord,
    ) -> Result<Registered, CommitError> {
        unimplemented!()
    }

    /// Removes superseded generations whose grace is over.
    ///
    /// # Errors
    /// See [`CommitError`].
    pub fn collect(
        &mut self,
        _grace: Duration,
        _now: UnixMillis,
    ) -> Result<Collected, CommitError> {
        unimplemented!()
    }

    /// Whether a write has failed, so that the state can only be read.
    pub fn is_read_only(&self) -> bool {
        unimplemented!()
    }

    /// The failure since which the state can only be read.
    pub fn read_only_reason(&self) -> Option<&str> {
        unimplemented!()
    }

    /// Closes the catalog.
    ///
    /// # Errors
    /// See [`CommitError`].
    pub fn close(self) -> Result<(), CommitError> {
        unimplemented!()
    }
}
