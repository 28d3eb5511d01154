//! The worker pool: takes queued jobs in the order that `schedule` says, runs each through `step`,
//! and hands the outcome to the catalog's owner.
//!
//! A few dispatch threads each carry one job; the mathematics of all of them shares one bounded
//! pool of low-priority threads. A job that fails, or whose code panics, ends as failed with the
//! reason; nothing else is touched. One that meets a full disk is put back into its place in the
//! queue, and runs when there is room; one that meets a disk which fails is tried twice more.
//!
//! | woken by | does |
//! |---|---|
//! | a change of the catalog, the end of a job | starts the next job whose base model is free |
//! | every two seconds, while the disk has no room for the next one | looks whether it has |
//! | a stop | takes no new job; the running ones end or run again after the restart |

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use kmerge_storage::{
    BaseModelName, Catalog, CommitError, JobFailure, JobId, JobKind, JobRecord, Rearrangement,
};
use tokio::sync::watch;

use crate::config;
use crate::doubts::Doubts;
use crate::error::ServerError;
use crate::grpc::status;
use crate::liveness::{Liveness, Pulse};
use crate::owner::Owner;
use crate::progress::{ProgressBoard, Stage};
use crate::schedule;
use crate::step::{self, Tools};
use crate::wake::{Look, WorkSignal};

/// How long a job may work without getting on: a whole module of a large adapter on a slow device takes
/// a small part of it.
const PATIENCE: Duration = Duration::from_secs(600);

/// How often a disk that was too full is looked at.
const DISK_POLL: Duration = Duration::from_secs(2);

/// The longest time that a job which met a full disk again and again is left alone.
const LONGEST_SETBACK: Duration = Duration::from_secs(4);

/// How often a job is tried on a disk that fails.
const DISK_ATTEMPTS: u32 = 3;

/// What a job needs on the disk beside tensors.
const ROOM_BESIDE: u64 = 1024 * 1024;

/// What a worker needs.
#[derive(Debug, Clone)]
pub struct WorkerParts {
    /// Commits and fails jobs.
    pub owner: Owner,
    /// Looks into files that are not what was written.
    pub doubts: Doubts,
    /// Reads slots and staged files, writes new tensor files.
    pub tools: Tools,
    /// The catalog as it is now.
    pub view: watch::Receiver<Arc<Catalog>>,
    /// Where progress is told.
    pub progress: ProgressBoard,
    /// Rings when there may be work.
    pub signal: WorkSignal,
    /// Knows who gets on.
    pub liveness: Liveness,
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
                let name = format!("job-{index}");
                let pulse = parts.liveness.part(&name, Some(PATIENCE));
                std::thread::Builder::new()
                    .name(name)
                    .spawn(move || work(&parts, &pool, &pulse))
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

fn work(parts: &WorkerParts, pool: &rayon::ThreadPool, pulse: &Pulse) {
    while let Some((job, base_model)) = next(parts) {
        let span =
            tracing::info_span!("job", id = job.0, %base_model, task = tracing::field::Empty);
        let usable = span.in_scope(|| carry_out(parts, pool, job, &span, pulse));
        pulse.rest();
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
            return Look::Found(None);
        }
        let catalog = Arc::clone(&parts.view.borrow());
        let (busy, setbacks) = (&mut dispatch.busy, &mut dispatch.setbacks);
        setbacks.retain(|job, _| {
            catalog
                .jobs
                .get(job)
                .is_some_and(|job| !job.state.is_finished())
        });
        let now = Instant::now();
        let next = schedule::next(&catalog, busy, &mut |job| {
            let rests = setbacks
                .get(&job.id)
                .and_then(|setback| setback.not_before)
                .is_some_and(|moment| now < moment);
            !rests && has_room(job, &catalog, &parts.tools)
        });
        parts.progress.wait_for_disk_space(&next.short);
        match next.job {
            Some(found) => {
                busy.insert(found.1.clone());
                Look::Found(Some(found))
            }
            None if next.short.is_empty() => Look::Wait,
            None => Look::WaitAtMost(DISK_POLL),
        }
    })
}

/// Whether the disk has what a job is likely to need. If it needs more after all, it is put back.
fn has_room(job: &JobRecord, catalog: &Catalog, tools: &Tools) -> bool {
    let needed = match job.kind {
        // Takes from the reserve what is not there.
        JobKind::Forget { .. } => return true,
        JobKind::Upload => job.upload.size_bytes.max(largest_slot(job, catalog)),
        JobKind::Repack { .. } => largest_slot(job, catalog),
        JobKind::Rollback { .. } => 0,
    };
    // What cannot be found out is found out by trying.
    let free = tools.reader.free_bytes().unwrap_or(u64::MAX);
    free >= needed.saturating_add(ROOM_BESIDE)
}

/// What a new file of a slot takes, about.
fn largest_slot(job: &JobRecord, catalog: &Catalog) -> u64 {
    let base_model = catalog.base_models.get(&job.base_model);
    let slots = base_model.into_iter().flat_map(|base| base.slots.values());
    slots.map(|slot| slot.current().bytes).max().unwrap_or(0)
}

/// Runs one job to its end. False if the catalog can no longer be written, so that no job can run.
fn carry_out(
    parts: &WorkerParts,
    pool: &rayon::ThreadPool,
    job: JobId,
    span: &tracing::Span,
    pulse: &Pulse,
) -> bool {
    pulse.beat();
    let job = match parts.owner.start_blocking(job) {
        Ok(job) => job,
        // Cancelled between the look and the start.
        Err(ServerError::Commit(CommitError::JobState { .. } | CommitError::UnknownJob { .. })) => {
            return true;
        }
        Err(error) if error.is_disk_full() => {
            set_back(parts, job);
            return true;
        }
        Err(error) => {
            tracing::warn!(%error, "jobs wait for the next start");
            return false;
        }
    };
    span.record("task", tracing::field::display(&job.task));
    tracing::info!(attempt = job.attempts, "started");
    let attempt = || {
        compute(parts, pool, &job, pulse)
            .and_then(|outcome| parts.owner.commit_blocking(outcome).map(drop))
    };
    let outcome = match attempt() {
        // A slot that has rotted is not the job's fault: once it is set right, there is another way.
        Err(error) if Doubts::is_reason(&error) => {
            match parts.doubts.look_into_all(&job.base_model) {
                Ok(true) => attempt(),
                Ok(false) => Err(error),
                Err(error) => Err(error),
            }
        }
        outcome => outcome,
    };
    match outcome {
        Ok(()) => tracing::info!("done"),
        // Not the job's fault, and nothing was changed: it runs again after the restart.
        Err(ServerError::Stopping) => tracing::warn!("interrupted by the stop"),
        Err(error) if error.is_disk_full() => {
            // It waits for as long as it takes.
            pulse.rest();
            set_back(parts, job.id);
            return put_back(parts, &job, &error);
        }
        Err(error) if error.is_from_system() && may_be_tried_again(parts, job.id) => {
            pulse.rest();
            return put_back(parts, &job, &error);
        }
        Err(error) => return fail(parts, &job, &error),
    }
    true
}

fn compute(
    parts: &WorkerParts,
    pool: &rayon::ThreadPool,
    job: &JobRecord,
    pulse: &Pulse,
) -> Result<Rearrangement, ServerError> {
    let catalog = Arc::clone(&parts.view.borrow());
    if matches!(job.kind, JobKind::Forget { .. }) {
        let room = largest_slot(job, &catalog).saturating_add(ROOM_BESIDE);
        parts.tools.reader.lend_reserve(room)?;
    }
    let report = |stage: Stage, share: f32| {
        pulse.beat();
        parts.progress.report(job.id, stage, share);
    };
    catch_unwind(AssertUnwindSafe(|| {
        step::run(job, &catalog, &parts.tools, pool, &report)
    }))
    .unwrap_or(Err(ServerError::Panicked))
}

/// Puts a job that could not be written back into its place in the queue. False if that was not
/// possible.
fn put_back(parts: &WorkerParts, job: &JobRecord, error: &ServerError) -> bool {
    let cause = error as &dyn std::error::Error;
    if error.is_disk_full() {
        tracing::warn!(
            error = cause,
            "waits for disk space and is then tried again"
        );
    } else {
        tracing::warn!(error = cause, "is tried again");
    }
    let recorded = when_there_is_room(parts, || parts.owner.requeue_blocking(job.id));
    if let Err(error) = &recorded {
        tracing::error!(%error, "could not be put back; the job runs again after a restart");
    }
    recorded.is_ok()
}

/// Leaves a job alone for a while, each time for longer.
fn set_back(parts: &WorkerParts, job: JobId) {
    let mut dispatch = parts.signal.lock();
    let setback = dispatch.setbacks.entry(job).or_default();
    let rest = DISK_POLL
        .saturating_mul(1 << setback.count.min(8))
        .min(LONGEST_SETBACK);
    setback.count = setback.count.saturating_add(1);
    setback.not_before = Some(Instant::now() + rest);
}

/// Notes that the disk failed under a job, and says whether that may have been the last time.
fn may_be_tried_again(parts: &WorkerParts, job: JobId) -> bool {
    let mut dispatch = parts.signal.lock();
    let setback = dispatch.setbacks.entry(job).or_default();
    setback.failures = setback.failures.saturating_add(1);
    setback.failures < DISK_ATTEMPTS
}

/// Asks the catalog's owner again and again while the disk is too full for its answer, until a stop.
fn when_there_is_room<T>(
    parts: &WorkerParts,
    ask: impl Fn() -> Result<T, ServerError>,
) -> Result<T, ServerError> {
    loop {
        match ask() {
            Err(error) if error.is_disk_full() => {}
            answer => return answer,
        }
        let again = Instant::now() + DISK_POLL;
        let stopping =
            parts.signal.wait_for(
                |dispatch| match again.checked_duration_since(Instant::now()) {
                    _ if dispatch.stopping => Look::Found(true),
                    Some(time) if !time.is_zero() => Look::WaitAtMost(time),
                    _ => Look::Found(false),
                },
            );
        if stopping {
            return Err(ServerError::Stopping);
        }
    }
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
    let recorded = when_there_is_room(parts, || parts.owner.fail_blocking(job.id, failure.clone()));
    if let Err(error) = &recorded {
        tracing::error!(%error, "could not record the failure; the job runs again after a restart");
    }
    recorded.is_ok()
}
