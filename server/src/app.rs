//! The composition root: builds every part once, in order, and stops them in order.
//!
//! ```text
//! start: lock and recover the state → owner (exports) → workers → socket → health SERVING → runtimes
//! stop:  health NOT_SERVING → no new calls, streams end → uploads end or are dropped
//!        → workers end their step or the deadline passes → the catalog closes → the socket goes
//! ```
//!
//! Each step of the stop has its own bounded time; a SIGKILL at any point is safe as well.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use kmerge_storage::{Opened, Options};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio_util::task::TaskTracker;

use crate::backup::Backups;
use crate::base_models::BaseModels;
use crate::config::Config;
use crate::doubts::Doubts;
use crate::exports::Exports;
use crate::grpc::listener::accept::{Door, TcpDoor};
use crate::grpc::{self, Rooms, connections, listener};
use crate::liveness::{Liveness, Pulse};
use crate::maintenance::Upkeep;
use crate::owner::{Owner, OwnerParts};
use crate::packs::Packs;
use crate::progress::ProgressBoard;
use crate::runtimes::Runtimes;
use crate::runtimes::source::Source;
use crate::scrub::{Own, Scrubber};
use crate::served::Served;
use crate::serving::Serving;
use crate::shutdown::{self, Stop, StopReason};
use crate::status_report::About;
use crate::step::{NormCache, Tools};
use crate::uploads::{UploadParts, Uploads};
use crate::wake::WorkSignal;
use crate::watchdog::{self, Watched};
use crate::watching::Watching;
use crate::workers::{self, WorkerParts, Workers};
use crate::{clock, service_manager};

/// How long the catalog may take to close.
const CLOSE_TIME: Duration = Duration::from_secs(5);

/// Everything that runs.
#[derive(Debug)]
pub struct App {
    config: Config,
    stop: Stop,
    tracker: TaskTracker,
    rooms: Rooms,
    runtimes: Runtimes,
    workers: Workers,
    owner_thread: JoinHandle<()>,
    liveness: Liveness,
    catalog_pulse: Pulse,
}

impl App {
    /// Opens the state, recovers it, and starts the threads. Nothing listens yet.
    ///
    /// # Errors
    /// If the state directory is in use or cannot be opened, or the system has no threads to give.
    pub fn build(config: Config) -> anyhow::Result<Self> {
        let started = clock::now();
        let options = Options {
            cache_bytes: config.state.cache_bytes,
            finished_jobs_kept: config.state.finished_jobs,
            reserve_bytes: config.state.reserve_bytes,
            ..Options::default()
        };
        let Opened {
            committer,
            ingest,
            reader,
            report,
        } = kmerge_storage::open(&config.state.directory, &options, started)?;
        for note in &report.notes {
            tracing::warn!("recovery: {note}");
        }
        let stop = Stop::default();
        let tracker = TaskTracker::new();
        let signal = WorkSignal::default();
        let liveness = Liveness::default();
        let tools = Tools {
            reader: reader.clone(),
            norms: Arc::new(NormCache::default()),
            packs: Packs::new(reader.clone()),
        };
        let progress = ProgressBoard::default();
        let (sender, view) = watch::channel(committer.catalog());
        let catalog_pulse = liveness.part("the catalog", None);
        let parts = OwnerParts {
            committer,
            exports: Exports::new(
                reader.clone(),
                config.exports.clone(),
                catalog_pulse.clone(),
            ),
            pulse: catalog_pulse.clone(),
            view: sender,
            work: Arc::clone(&signal),
            stop: stop.clone(),
            grace: config.grace,
            patience: config.listen.request_timeout,
        };
        let (owner, owner_thread) = Owner::start(parts, Handle::current())?;
        let doubts = Doubts::new(owner.clone(), tools.packs.clone(), view.clone());
        let workers = Workers::start(
            config.workers,
            WorkerParts {
                owner: owner.clone(),
                doubts: doubts.clone(),
                tools: tools.clone(),
                view: view.clone(),
                progress: progress.clone(),
                signal,
                liveness: liveness.clone(),
            },
        )?;
        // Someone waits for these, so they keep their priority.
        let pool = Arc::new(workers::math_pool("check", config.workers.threads, || {})?);
        let uploads = Uploads::new(UploadParts {
            ingest,
            tools: tools.clone(),
            owner: owner.clone(),
            view: view.clone(),
            pool: Arc::clone(&pool),
            limits: config.uploads,
            min_free_bytes: config.state.min_free_bytes,
            tracker: tracker.clone(),
        });
        let upkeep = Upkeep {
            owner: owner.clone(),
            view: view.clone(),
            tools: tools.clone(),
            pool: Arc::clone(&pool),
        };
        let scrubber = Scrubber {
            reader: reader.clone(),
            view: view.clone(),
            doubts: doubts.clone(),
            stop: stop.clone(),
            tracker: tracker.clone(),
            last: Arc::default(),
            own: Arc::new(Own::new(reader.clone(), config.scrub.every)),
            uploads: uploads.clone(),
        };
        let served = Served::new(reader.clone(), tools.packs, pool, config.served);
        let source = Source {
            view: view.clone(),
            reader: reader.clone(),
            served: served.clone(),
            doubts: doubts.clone(),
        };
        let runtimes = Runtimes::new(config.runtimes.clone(), &source)?;
        let serving = Serving::new(view, reader, progress, served, doubts);
        let rooms = Rooms {
            uploads,
            upkeep,
            scrubber,
            backups: Backups::new(
                owner.clone(),
                stop.clone(),
                tracker.clone(),
                config.listen.stream_idle,
            ),
            base_models: BaseModels {
                owner: owner.clone(),
                defaults: config.merge.clone(),
                default_threshold: config.threshold,
            },
            watching: Watching {
                serving: serving.clone(),
                stop: stop.clone(),
                tracker: tracker.clone(),
                idle: config.listen.stream_idle,
            },
            serving,
            board: runtimes.board().clone(),
            owner,
            about: Arc::new(About::new(&config, started, report)),
            stop: stop.clone(),
        };
        Ok(Self {
            config,
            stop,
            tracker,
            rooms,
            runtimes,
            workers,
            owner_thread,
            liveness,
            catalog_pulse,
        })
    }

    /// Listens, serves until asked to stop, and stops everything in order.
    ///
    /// # Errors
    /// If the socket cannot be had, or the stop was for the safety of the state.
    pub async fn run(self) -> anyhow::Result<()> {
        let Self {
            config,
            stop,
            tracker,
            rooms,
            runtimes,
            workers,
            owner_thread,
            liveness,
            catalog_pulse,
        } = self;
        let socket = listener::listen(&config.listen)?;
        let tcp = match &config.listen.tcp {
            Some(tcp) => Some(TcpDoor::open(tcp).await?),
            None => None,
        };
        if let Some(tcp) = &tcp {
            tracing::info!(address = %tcp.address(), "listening on TCP too");
        }
        let limits = config.listen.limits;
        let allowed = config.listen.allowed_uids.clone();
        let door = Door::new(socket.listener, tcp, allowed, limits);
        let owner = rooms.owner.clone();
        tracker.spawn(rooms.scrubber.clone().keep(config.scrub));
        let (routes, health) = grpc::routes(rooms, &config.listen).await?;
        tracker.spawn(shutdown::watch_signals(stop.clone()));
        let watched = Watched {
            liveness: liveness.clone(),
            owner: owner.clone(),
            catalog: catalog_pulse,
            socket: config.listen.socket.clone(),
            stop: stop.clone(),
        };
        tracker.spawn(watchdog::keep(watched, config.shutdown.stuck));
        // The owner has published, so the exports of every generation are on disk.
        anyhow::ensure!(
            owner.answers(CLOSE_TIME).await,
            "the catalog does not answer"
        );
        health.set(true).await;
        runtimes.start(&tracker, &stop, &liveness);
        tracing::info!(
            socket = %config.listen.socket.display(),
            state = %config.state.directory.display(),
            threads = config.workers.threads,
            "ready"
        );
        service_manager::ready("ready");

        let server = connections::serve(routes, door, limits, stop.clone());
        let draining = async {
            stop.requested().await;
            service_manager::stopping();
            health.set(false).await;
            tokio::time::sleep(config.shutdown.drain).await;
        };
        tokio::select! {
            () = server => {}
            () = draining => tracing::warn!("open calls did not end in time and are dropped"),
        }
        // The server may also have ended by itself: then the rest stops with it.
        stop.request(StopReason::Asked);
        tracker.close();
        if tokio::time::timeout(config.shutdown.drain, tracker.wait())
            .await
            .is_err()
        {
            tracing::warn!("streams did not end in time and are dropped");
        }
        let deadline = Instant::now() + config.shutdown.jobs;
        let ended = tokio::task::spawn_blocking(move || workers.stop(deadline)).await?;
        if !ended {
            tracing::warn!("a merge did not end in time; it runs again after the next start");
        }
        owner.close().await;
        let closed = tokio::task::spawn_blocking(move || owner_thread.join());
        match tokio::time::timeout(CLOSE_TIME, closed).await {
            Ok(joined) => anyhow::ensure!(joined?.is_ok(), "the catalog's owner had panicked"),
            Err(_) => tracing::warn!("the catalog did not close in time; the next start recovers"),
        }
        if socket.is_own
            && let Err(error) = listener::remove(&config.listen.socket)
        {
            tracing::debug!(%error, "the socket was already gone");
        }
        match stop.reason() {
            Some(StopReason::StateUnsafe(why)) => {
                anyhow::bail!("stopped because the state could not be written: {why}")
            }
            Some(StopReason::Asked) | None => {
                tracing::info!("stopped");
                Ok(())
            }
        }
    }
}
