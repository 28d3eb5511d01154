//! The worker pool: takes queued jobs in the order that `schedule` says, runs each through `step`,
//! and hands the outcome to the catalog's owner.
//!
//! A few dispatch threads each carry one job; the mathematics of all of them shares one bounded
//! pool of low-priority threads. A job that fails, or whose code panics, ends as failed with the
//! reason; nothing else is touched.
//!
//! | woken by | does |
//! |---|---|
//! | a change of the catalog, the end of a job | starts the next job whose base model is free |
//! | a stop | takes no new job; the running ones end or run again after the restart |

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Instant;

use kmerge_storage::{
    BaseModelName, Catalog, CommitError, JobFailure, JobId, JobRecord, Rearrangement,
};
use tokio::sync::watch;

use crate::config;
use crate::error::ServerError;
use crate::grpc::status;
use crate::owner::Owner;
use crate::progress::{ProgressBoard, Stage};
use crate::schedule;
use crate::step::{self, Tools};
use crate::wake::WorkSignal;

/// What a worker needs.
#[derive(Debug, Clone)]
pub struct WorkerParts {
    /// Commits and fails jobs.
    pub owner: Owner,
    /// Reads slots and staged files, writes new tensor files.
    pub tools: Tools,
    /// The catalog as it is now.
    pub view: watch::Receiver<Arc<Catalog>>,
    /// Where progress is told.
    pub progress: ProgressBoard,
    /// Rings when there may be work.
    pub signal: WorkSignal,
}

/// The running workers.
#[derive(Debug)]
pub struct Workers {
    threads: Vec<JoinHandle<()>>,
    signal: WorkSignal,
}

impl Workers {
    /// Starts the pool.
    ///
    /// # Errors
    /// If the system has no threads to give.
    pub fn start(limits: config::Workers, parts: WorkerParts) -> anyhow::Result<Self> {
        let pool = Arc::new(math_pool("merge", limits.threads, lower_priority)?);
        let signal = Arc::clone(&parts.signal);
        let threads = (0..limits.jobs)
            .map(|index| {
                let (parts, pool) = (parts.clone(), Arc::clone(&pool));
                std::thread::Builder::new()
                    .name(format!("job-{index}"))
                    .spawn(move || work(&parts, &pool))
            })
            .collect::<Result<_, _>>()?;
        Ok(Self { threads, signal })
    }

    /// Takes no more jobs, waits for the running ones until `deadline`, and says whether all have
    /// ended. What still runs is left behind; the next start runs it again.
    pub fn stop(self, deadline: Instant) -> bool {
        self.signal.lock().stopping = true;
        self.signal.notify();
        for thread in self.threads {
            while !thread.is_finished() {
                if Instant::now() >= deadline {
                    return false;
                }
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
            if thread.join().is_err() {
                tracing::error!("a worker thread had panicked");
            }
        }
        true
    }
}

/// A bounded pool for mathematics. Each of its threads begins with `prepare`.
///
/// # Errors
/// If the system has no threads to give.
pub fn math_pool(
    name: &'static str,
    threads: usize,
    prepare: fn(),
) -> anyhow::Result<rayon::ThreadPool> {
    Ok(rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .thread_name(move |index| format!("{name}-{index}"))
        .start_handler(move |_| prepare())
        .build()?)
}

/// Lets apps and the answers to them go first. Linux keeps a nice value per thread.
fn lower_priority() {
    #[cfg(target_os = "linux")]
    {
        let thread = rustix::thread::gettid();
        if let Err(error) = rustix::process::setpriority_process(Some(thread), 10) {
            tracing::debug!(%error, "merges run at normal priority");
        }
    }
}

fn work(parts: &WorkerParts, pool: &rayon::ThreadPool) {
    while let Some((job, base_model)) = next(parts) {
        let span =
            tracing::info_span!("job", id = job.0, %base_model, task = tracing::field::Empty);
        let usable = span.in_scope(|| carry_out(parts, pool, job, &span));
        parts.progress.remove(job);
        let mut dispatch = parts.signal.lock();
        dispatch.busy.remove(&base_model);
        // Looking again would find the same job and fail the same way, without end.
        dispatch.stopping |= !usable;
        drop(dispatch);
        parts.signal.notify();
    }
}

/// Waits for the next job; `None` once stopping.
fn next(parts: &WorkerParts) -> Option<(JobId, BaseModelName)> {
    parts.signal.wait_for(|dispatch| {
        if dispatch.stopping {
            return Some(None);
        }
        let found = schedule::next(&parts.view.borrow(), &dispatch.busy)?;
        dispatch.busy.insert(found.1.clone());
        Some(Some(found))
    })
}

/// Runs one job to its end. False if the catalog can no longer be written, so that no job can run.
fn carry_out(
    parts: &WorkerParts,
    pool: &rayon::ThreadPool,
    job: JobId,
    span: &tracing::Span,
) -> bool {
    let job = match parts.owner.start_blocking(job) {
        Ok(job) => job,
        // Cancelled between the look and the start.
        Err(ServerError::Commit(CommitError::JobState { .. } | CommitError::UnknownJob { .. })) => {
            return true;
        }
        Err(error) => {
            tracing::warn!(%error, "jobs wait for the next start");
            return false;
        }
    };
    span.record("task", tracing::field::display(&job.task));
    tracing::info!(attempt = job.attempts, "started");
    let outcome = compute(parts, pool, &job)
        .and_then(|outcome| parts.owner.commit_blocking(outcome).map(drop));
    match outcome {
        Ok(()) => tracing::info!("done"),
        // Not the job's fault, and nothing was changed: it runs again after the restart.
        Err(ServerError::Stopping) => tracing::warn!("interrupted by the stop"),
        Err(error) => return fail(parts, &job, &error),
    }
    true
}

fn compute(
    parts: &WorkerParts,
    pool: &rayon::ThreadPool,
    job: &JobRecord,
) -> Result<Rearrangement, ServerError> {
    let catalog = Arc::clone(&parts.view.borrow());
    let report = |stage: Stage, share: f32| parts.progress.report(job.id, stage, share);
    catch_unwind(AssertUnwindSafe(|| {
        step::run(job, &catalog, &parts.tools, pool, &report)
    }))
    .unwrap_or(Err(ServerError::Panicked))
}

/// Records a failure. False if that was not possible.
fn fail(parts: &WorkerParts, job: &JobRecord, error: &ServerError) -> bool {
    let code = status::code(error);
    let cause = error as &dyn std::error::Error;
    // Only what is not the adapter's fault needs someone to look.
    if matches!(code, tonic::Code::Internal | tonic::Code::DataLoss) {
        tracing::error!(error = cause, "failed");
    } else {
        tracing::warn!(error = cause, "failed");
    }
    let failure = JobFailure {
        code: i32::from(code),
        reason: status::reason(error).to_owned(),
        message: status::message(error),
    };
    let recorded = parts.owner.fail_blocking(job.id, failure);
    if let Err(error) = &recorded {
        tracing::error!(%error, "could not record the failure; the job runs again after a restart");
    }
    recorded.is_ok()
}
