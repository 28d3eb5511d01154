//! The catalog's owner: one thread, the only one that writes the catalog.
//!
//! Everyone else sends it a command and waits for the answer. After each change the owner
//! first makes the exports of new generations, then shows the new catalog to the watchers, then
//! wakes the workers: nothing is visible that is not durable, and no generation is visible whose
//! files are not there.
//!
//! | woken by | does |
//! |---|---|
//! | a command | the change, exports, publication |
//! | the end of a generation's grace | removes it |
//! | every two seconds, while the disk is too full for something | tries that again |

use std::collections::BTreeSet;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use kmerge_storage::{
    BackupError, BaseModelName, BaseModelRecord, Catalog, CommitError, Committer, Digest,
    Distrusted, Enqueued, JobFailure, JobId, JobKind, JobRecord, JobState, Rearrangement,
    Registered, Snapshot, Staged, UnixMillis,
};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot, watch};

use crate::clock;
use crate::error::ServerError;
use crate::exports::Exports;
use crate::liveness::Pulse;
use crate::shutdown::{Stop, StopReason};
use crate::wake::WorkSignal;

/// Commands that may wait. Callers beyond that wait themselves, which is the backpressure.
const DEPTH: usize = 64;

/// How long after a failure for lack of room something is tried again.
const RETRY: Duration = Duration::from_secs(2);

type Reply<T> = oneshot::Sender<Result<T, CommitError>>;

enum Command {
    Enqueue(Box<Staged>, Reply<Enqueued>),
    Maintain(Box<Maintenance>, Reply<Enqueued>),
    Start(JobId, Reply<Arc<JobRecord>>),
    Fail(JobId, JobFailure, Reply<Arc<JobRecord>>),
    Requeue(JobId, Reply<Arc<JobRecord>>),
    Cancel(JobId, Reply<Arc<JobRecord>>),
    Commit(Box<Rearrangement>, Reply<Arc<Catalog>>),
    RegisterBaseModel(Box<BaseModelRecord>, Reply<Registered>),
    Distrust(BTreeSet<Digest>, Reply<Distrusted>),
    Snapshot(oneshot::Sender<Result<Snapshot, BackupError>>),
    Ping(oneshot::Sender<()>),
    Close,
}

/// A job that brings no adapter.
#[derive(Debug, Clone)]
pub struct Maintenance {
    /// For which base model.
    pub base_model: BaseModelName,
    /// What it is to do.
    pub kind: JobKind,
    /// The client's id for the request.
    pub request_id: Option<String>,
}

/// The way to the catalog's owner.
#[derive(Debug, Clone)]
pub struct Owner {
    commands: mpsc::Sender<Command>,
    patience: Duration,
}

/// What the owner needs beside the catalog.
#[derive(Debug)]
pub struct OwnerParts {
    /// The only writer.
    pub committer: Committer,
    /// Makes the files that runtimes read.
    pub exports: Exports,
    /// Its heartbeat: whoever watches sees that it gets on, however long one thing takes.
    pub pulse: Pulse,
    /// Where the current catalog is shown.
    pub view: watch::Sender<Arc<Catalog>>,
    /// Wakes the workers.
    pub work: WorkSignal,
    /// Asked for when the state can no longer be written.
    pub stop: Stop,
    /// How long a superseded generation stays.
    pub grace: Duration,
    /// How long a call waits for an answer before it takes the catalog for stuck.
    pub patience: Duration,
}

impl Owner {
    /// Starts the owner's thread. It ends after [`Owner::close`].
    ///
    /// # Errors
    /// If the system has no thread to give.
    pub fn start(parts: OwnerParts, runtime: Handle) -> std::io::Result<(Self, JoinHandle<()>)> {
        let (commands, receiver) = mpsc::channel(DEPTH);
        let patience = parts.patience;
        let thread = std::thread::Builder::new()
            .name("catalog".to_owned())
            .spawn(move || {
                Loop {
                    parts,
                    next_collection: None,
                    next_retry: None,
                }
                .run(receiver, &runtime);
            })?;
        Ok((Self { commands, patience }, thread))
    }

    async fn ask<T>(&self, command: impl FnOnce(Reply<T>) -> Command) -> Result<T, ServerError> {
        let (reply, answer) = oneshot::channel();
        let asked = async {
            self.commands
                .send(command(reply))
                .await
                .map_err(|_| ServerError::Stopping)?;
            answer
                .await
                .map_err(|_| ServerError::Stopping)?
                .map_err(ServerError::Commit)
        };
        tokio::time::timeout(self.patience, asked)
            .await
            .map_err(|_| ServerError::CatalogStuck)?
    }

    /// Makes a staged upload a job. Durable when it returns.
    ///
    /// # Errors
    /// What storage refuses; [`ServerError::Stopping`] during a stop.
    pub async fn enqueue(&self, staged: Staged) -> Result<Enqueued, ServerError> {
        self.ask(|reply| Command::Enqueue(Box::new(staged), reply))
            .await
    }

    /// Makes a job that brings no adapter. Durable when it returns.
    ///
    /// # Errors
    /// What storage refuses; [`ServerError::Stopping`] during a stop.
    pub async fn maintain(&self, order: Maintenance) -> Result<Enqueued, ServerError> {
        self.ask(|reply| Command::Maintain(Box::new(order), reply))
            .await
    }

    /// Takes a queued job back.
    ///
    /// # Errors
    /// If there is no such job or it is not queued.
    pub async fn cancel(&self, job: JobId) -> Result<Arc<JobRecord>, ServerError> {
        self.ask(|reply| Command::Cancel(job, reply)).await
    }

    /// Registers a base model.
    ///
    /// # Errors
    /// If the name is taken by another one.
    pub async fn register(&self, record: BaseModelRecord) -> Result<Registered, ServerError> {
        self.ask(|reply| Command::RegisterBaseModel(Box::new(record), reply))
            .await
    }

    /// Holds the state as it is now, for a backup. Dropped, it lets go.
    ///
    /// # Errors
    /// What storage refuses; [`ServerError::Stopping`] during a stop.
    pub async fn snapshot(&self) -> Result<Snapshot, ServerError> {
        let (reply, answer) = oneshot::channel();
        let asked = async {
            let sent = self.commands.send(Command::Snapshot(reply)).await;
            sent.map_err(|_| ServerError::Stopping)?;
            let answered = answer.await.map_err(|_| ServerError::Stopping)?;
            answered.map_err(ServerError::Backup)
        };
        tokio::time::timeout(self.patience, asked)
            .await
            .map_err(|_| ServerError::CatalogStuck)?
    }

    /// Marks a queued job as running. For threads that may block.
    ///
    /// # Errors
    /// If it is no longer queued.
    pub fn start_blocking(&self, job: JobId) -> Result<Arc<JobRecord>, ServerError> {
        self.ask_blocking(|reply| Command::Start(job, reply))
    }

    /// Ends a running job as failed. For threads that may block.
    ///
    /// # Errors
    /// If the catalog cannot be written.
    pub fn fail_blocking(
        &self,
        job: JobId,
        failure: JobFailure,
    ) -> Result<Arc<JobRecord>, ServerError> {
        self.ask_blocking(|reply| Command::Fail(job, failure, reply))
    }

    /// Puts a running job back into its place in the queue. For threads that may block.
    ///
    /// # Errors
    /// If the catalog cannot be written.
    pub fn requeue_blocking(&self, job: JobId) -> Result<Arc<JobRecord>, ServerError> {
        self.ask_blocking(|reply| Command::Requeue(job, reply))
    }

    /// Commits the outcome of a running job. For threads that may block.
    ///
    /// # Errors
    /// If a slot has moved meanwhile, or the catalog cannot be written.
    pub fn commit_blocking(&self, outcome: Rearrangement) -> Result<Arc<Catalog>, ServerError> {
        self.ask_blocking(|reply| Command::Commit(Box::new(outcome), reply))
    }

    /// Gives up the generations that have one of these files. For threads that may block.
    ///
    /// # Errors
    /// If the catalog cannot be written.
    pub fn distrust_blocking(&self, bad: BTreeSet<Digest>) -> Result<Distrusted, ServerError> {
        self.ask_blocking(|reply| Command::Distrust(bad, reply))
    }

    fn ask_blocking<T>(&self, command: impl FnOnce(Reply<T>) -> Command) -> Result<T, ServerError> {
        let (reply, answer) = oneshot::channel();
        self.commands
            .blocking_send(command(reply))
            .map_err(|_| ServerError::Stopping)?;
        answer
            .blocking_recv()
            .map_err(|_| ServerError::Stopping)?
            .map_err(ServerError::Commit)
    }

    /// Asks the owner to close the catalog and end, after what was asked before.
    pub async fn close(&self) {
        // If it has ended already, that is what was wanted.
        let _ = self.commands.send(Command::Close).await;
    }

    /// Whether the owner answers within `patience`.
    pub async fn answers(&self, patience: Duration) -> bool {
        let (reply, answer) = oneshot::channel();
        let asked = async {
            self.commands.send(Command::Ping(reply)).await.is_ok() && answer.await.is_ok()
        };
        tokio::time::timeout(patience, asked).await.unwrap_or(false)
    }
}

struct Loop {
    parts: OwnerParts,
    next_collection: Option<UnixMillis>,
    /// When to try again what the disk had no room for, if there is something.
    next_retry: Option<UnixMillis>,
}

impl Loop {
    fn run(mut self, mut commands: mpsc::Receiver<Command>, runtime: &Handle) {
        self.after_change();
        self.collect();
        self.retry();
        loop {
            let due = [self.next_collection, self.next_retry];
            let wait = due.into_iter().flatten().min().map(clock::until);
            let next = runtime.block_on(async {
                match wait {
                    None => Ok(commands.recv().await),
                    Some(wait) => tokio::time::timeout(wait, commands.recv()).await,
                }
            });
            match next {
                Ok(Some(Command::Close) | None) => break,
                Ok(Some(command)) => self.apply(command),
                Err(_) => self.on_time(),
            }
        }
        if let Err(error) = self.parts.committer.close() {
            tracing::error!(%error, "the catalog did not close cleanly; the next start recovers it");
        }
    }

    fn apply(&mut self, command: Command) {
        self.parts.pulse.beat();
        let now = clock::now();
        let committer = &mut self.parts.committer;
        match command {
            Command::Enqueue(staged, reply) => {
                let answer = committer.enqueue(*staged, now);
                self.answer(reply, answer);
            }
            Command::Maintain(order, reply) => {
                let Maintenance {
                    base_model,
                    kind,
                    request_id,
                } = *order;
                let answer = committer.enqueue_maintenance(&base_model, kind, request_id, now);
                self.answer(reply, answer);
            }
            Command::Start(job, reply) => {
                let answer = committer.start_job(job, now);
                self.answer(reply, answer);
            }
            Command::Fail(job, failure, reply) => {
                let answer = committer.fail_job(job, failure, now);
                self.answer(reply, answer);
            }
            Command::Requeue(job, reply) => {
                let answer = committer.requeue_job(job, now);
                self.answer(reply, answer);
            }
            Command::Cancel(job, reply) => {
                let answer = committer.cancel_job(job, now);
                self.answer(reply, answer);
            }
            Command::Commit(outcome, reply) => {
                let answer = committer.rearrange(*outcome, now);
                self.answer(reply, answer);
                // The generation before has just begun its grace.
                self.collect();
            }
            Command::RegisterBaseModel(record, reply) => {
                let answer = committer.register_base_model(*record);
                self.answer(reply, answer);
            }
            Command::Distrust(bad, reply) => {
                let answer = committer.distrust(&bad, now);
                self.answer(reply, answer);
                // The generation that serves again has begun its grace, in a way.
                self.collect();
            }
            Command::Snapshot(reply) => drop(reply.send(committer.snapshot(now))),
            // Whoever asked may have given up; that is its own affair here and below.
            Command::Ping(reply) => drop(reply.send(())),
            Command::Close => {}
        }
    }

    /// Publishes before it answers: who has an answer can see what was done.
    fn answer<T>(&mut self, reply: Reply<T>, answer: Result<T, CommitError>) {
        self.after_change();
        drop(reply.send(answer));
    }

    /// Shows the catalog as it now is, files first.
    fn after_change(&mut self) {
        let catalog = self.parts.committer.catalog();
        if let Some(why) = self.parts.committer.read_only_reason() {
            tracing::error!(
                why,
                "the state can no longer be written; stopping for recovery"
            );
            self.parts
                .stop
                .request(StopReason::StateUnsafe(why.to_owned()));
        }
        if !self.parts.exports.bring_up_to_date(&catalog) {
            self.retry_soon();
        }
        self.parts.view.send_if_modified(|view| {
            let newer = catalog.revision > view.revision;
            if newer {
                *view = catalog;
            }
            newer
        });
        self.parts.work.notify();
    }

    fn collect(&mut self) {
        match self.parts.committer.collect(self.parts.grace, clock::now()) {
            Ok(collected) => {
                for (base_model, slot, generation) in &collected.removed {
                    tracing::debug!(%base_model, %slot, %generation, "removed after its grace");
                }
                self.next_collection = collected.next_due;
                if !collected.removed.is_empty() {
                    self.after_change();
                }
            }
            Err(error) => {
                tracing::error!(%error, "could not remove superseded generations");
                // A state that cannot be written any more is no reason to wake up.
                let is_over = self.parts.committer.is_read_only();
                self.next_collection = (!is_over).then(|| clock::now().saturating_add(RETRY));
                self.after_change();
            }
        }
        // What was lent for a removal may come back now.
        self.retry_soon();
    }

    fn retry_soon(&mut self) {
        let soon = clock::now().saturating_add(RETRY);
        self.next_retry = Some(self.next_retry.map_or(soon, |due| due.min(soon)));
    }

    /// Something is due.
    fn on_time(&mut self) {
        let now = clock::now();
        let is_due = |due: Option<UnixMillis>| due.is_some_and(|due| due <= now);
        if is_due(self.next_collection) {
            self.collect();
        }
        if is_due(self.next_retry) {
            self.retry();
        }
    }

    /// Tries what the disk had no room for, and takes room for the reserve again.
    fn retry(&mut self) {
        self.next_retry = None;
        let catalog = self.parts.committer.catalog();
        let mut jobs = catalog.unfinished_jobs();
        // The room that it was lent must still be there when it needs it.
        let is_lent = jobs.any(|job| {
            job.state == JobState::Running && matches!(job.kind, JobKind::Forget { .. })
        });
        if is_lent || !self.parts.committer.replenish_reserve() {
            self.retry_soon();
        }
        if self.parts.exports.is_behind() {
            self.after_change();
        }
    }
}
