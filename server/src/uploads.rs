//! An upload from its header to its job: admission, staging, validation, queue.
//!
//! Bytes are hashed and written by one blocking task per upload, fed through a short channel, so
//! that the reactor never waits for the disk and memory stays bounded. What follows the last byte
//! runs in a tracked task of its own: a client that hangs up then cannot leave it half done.
//! Dropping an [`Upload`] at any point removes what was staged.

use std::sync::Arc;

use kmerge_merge::{AdapterView, BaseModel, Format, check_values};
use kmerge_proto::limits;
use kmerge_storage::{
    BaseModelName, BaseModelState, Catalog, Digest, Enqueued, Ingest, IngestError, JobRecord,
    StageRequest, Staged, StagingWriter, TaskName, UploadFacts,
};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::admission::{self, Load};
use crate::config;
use crate::error::ServerError;
use crate::facts;
use crate::owner::Owner;
use crate::pace::Pace;
use crate::schedule;
use crate::shares::{Full, Peer, Share, Shares};
use crate::step::{self, Arrival, Decided, Tools};
use crate::tensors::FileSource;

/// Chunks between the stream and the disk. With the one in each hand: at most 4 MiB an upload.
const CHUNKS_AHEAD: usize = 2;

/// What an upload announces, checked.
#[derive(Debug, Clone)]
pub struct Announced {
    /// Under which name it will be asked for.
    pub task: TaskName,
    /// For which base model.
    pub base_model: BaseModelName,
    /// How it is written.
    pub format: Format,
    /// The adapter_config.json; empty where the tensor file says it all.
    pub config: Vec<u8>,
    /// Size of the tensor file, in bytes.
    pub size_bytes: u64,
    /// SHA-256 of the tensor file.
    pub digest: Digest,
    /// The client's id for this request.
    pub request_id: Option<String>,
    /// Decide, but change nothing.
    pub validate_only: bool,
}

/// What became of an upload.
#[derive(Debug)]
pub enum Accepted {
    /// It has a job, durably.
    Job {
        /// The job.
        job: Arc<JobRecord>,
        /// Whether it is that of an earlier, equal upload.
        existing: bool,
        /// What was noticed and is harmless.
        warnings: Vec<String>,
    },
    /// It was only asked about.
    Decided {
        /// What would be decided now.
        decision: Decided,
        /// What was noticed and is harmless.
        warnings: Vec<String>,
    },
}

/// What the way in needs.
#[derive(Debug)]
pub struct UploadParts {
    /// Stages files.
    pub ingest: Ingest,
    /// Reads slots, for decisions that are only asked about.
    pub tools: Tools,
    /// Makes jobs.
    pub owner: Owner,
    /// The catalog as it is now.
    pub view: watch::Receiver<Arc<Catalog>>,
    /// Threads for validation and dry runs, apart from the merges, which would make them wait.
    pub pool: Arc<rayon::ThreadPool>,
    /// Limits.
    pub limits: config::Uploads,
    /// What must stay free on the filesystem, in bytes.
    pub min_free_bytes: u64,
    /// Keeps a stop waiting for what must not be cut short.
    pub tracker: TaskTracker,
}

/// The way in.
#[derive(Debug, Clone)]
pub struct Uploads {
    parts: Arc<UploadParts>,
    permits: Shares,
}

/// Room for one upload, until it is dropped.
#[derive(Debug)]
pub struct Permit(#[expect(dead_code, reason = "held, not looked at")] Share);

/// What a header leads to.
#[derive(Debug)]
pub enum Begun {
    /// The same upload was made before; its bytes are not needed again.
    Existing(Arc<JobRecord>),
    /// Its bytes are awaited.
    Upload(Upload),
}

impl Uploads {
    /// Opens the way in.
    pub fn new(parts: UploadParts) -> Self {
        let permits = Shares::new(parts.limits.parallel, parts.limits.parallel_per_user);
        Self {
            parts: Arc::new(parts),
            permits,
        }
    }

    /// How many uploads are under way.
    pub fn under_way(&self) -> usize {
        self.permits.count()
    }

    fn catalog(&self) -> Arc<Catalog> {
        Arc::clone(&self.parts.view.borrow())
    }

    /// How fast uploads must come.
    pub fn pace(&self) -> Pace {
        self.parts.limits.pace
    }

    /// Makes room for an upload, before anything of it is read: each message takes memory as soon as
    /// its length is known.
    ///
    /// # Errors
    /// [`admission::Refusal::UploadsBusy`] or [`admission::Refusal::UserBusy`].
    pub fn enter(&self, peer: Peer) -> Result<Permit, ServerError> {
        let share = self.permits.take(peer).map_err(|full| match full {
            Full::All(parallel) => admission::Refusal::UploadsBusy { parallel },
            Full::Peer(parallel) => admission::Refusal::UserBusy { parallel },
        })?;
        Ok(Permit(share))
    }

    /// Takes a header: finds the earlier job of the same upload, refuses, or opens the staging.
    ///
    /// # Errors
    /// An unknown base model, another adapter under the same task or request id, or a
    /// [`admission::Refusal`].
    pub async fn begin(&self, announced: Announced, permit: Permit) -> Result<Begun, ServerError> {
        let catalog = self.catalog();
        if !catalog.base_models.contains_key(&announced.base_model) {
            return Err(ServerError::unknown_base_model(&announced.base_model));
        }
        let facts = announced.facts();
        if !announced.validate_only
            && let Some(job) = earlier_job(&catalog, &announced, &facts)?
        {
            return Ok(Begun::Existing(job));
        }
        let load = Load {
            jobs: schedule::unfinished(&catalog),
            uploads: self.under_way().saturating_sub(1),
            free: self.parts.tools.reader.free_bytes()?,
        };
        admission::admit(
            announced.size_bytes,
            load,
            &self.parts.limits,
            self.parts.min_free_bytes,
        )?;
        let request = StageRequest {
            base_model: announced.base_model.clone(),
            task: announced.task.clone(),
            format: facts.format,
            config: announced.config.clone(),
            size_bytes: announced.size_bytes,
            digest: announced.digest,
            request_id: announced.request_id.clone(),
        };
        let (chunks, receiver) = mpsc::channel(CHUNKS_AHEAD);
        let ingest = self.parts.ingest.clone();
        let token = self.parts.tracker.token();
        let writer = tokio::task::spawn_blocking(move || {
            write(&ingest, request, receiver).map(|writer| (writer, token))
        });
        Ok(Begun::Upload(Upload {
            uploads: self.clone(),
            announced,
            chunks,
            writer,
            permit,
        }))
    }
}

impl Announced {
    fn facts(&self) -> UploadFacts {
        UploadFacts {
            format: self.format.name().to_owned(),
            size_bytes: self.size_bytes,
            digest: self.digest,
            config_digest: Digest::of(&self.config),
        }
    }
}

/// The job of an equal upload, if there was one. Storage decides again when the job is made; this
/// look ahead spares the bytes.
fn earlier_job(
    catalog: &Catalog,
    announced: &Announced,
    facts: &UploadFacts,
) -> Result<Option<Arc<JobRecord>>, ServerError> {
    if let Some(id) = &announced.request_id
        && let Some(job) = catalog.job_by_request(id)
    {
        let same = job.upload == *facts
            && job.task == announced.task
            && job.base_model == announced.base_model;
        return if same {
            Ok(Some(job))
        } else {
            Err(ServerError::RequestIdTaken {
                request_id: id.clone(),
                job: job.id,
            })
        };
    }
    Ok(catalog.job_by_content(&announced.base_model, &announced.task, facts))
}

/// The blocking side of an upload: stages what comes until the sender is gone.
fn write(
    ingest: &Ingest,
    request: StageRequest,
    mut chunks: mpsc::Receiver<bytes::Bytes>,
) -> Result<StagingWriter, IngestError> {
    let mut writer = ingest.stage(request)?;
    while let Some(chunk) = chunks.blocking_recv() {
        writer.write(&chunk)?;
    }
    Ok(writer)
}

/// An upload under way.
#[derive(Debug)]
pub struct Upload {
    uploads: Uploads,
    announced: Announced,
    chunks: mpsc::Sender<bytes::Bytes>,
    /// With what keeps a stop waiting until a writer that nobody awaits has removed its files.
    writer: JoinHandle<Result<(StagingWriter, TaskTrackerToken), IngestError>>,
    permit: Permit,
}

impl Upload {
    /// Takes the next bytes.
    ///
    /// # Errors
    /// If the chunk is larger than the contract allows, there are more bytes than announced, or
    /// they cannot be written.
    pub async fn chunk(&mut self, chunk: bytes::Bytes) -> Result<(), ServerError> {
        if chunk.len() > limits::MAX_CHUNK_BYTES {
            return Err(ServerError::ChunkTooLarge { size: chunk.len() });
        }
        if self.chunks.send(chunk).await.is_ok() {
            return Ok(());
        }
        // The writer ended early: its error says why.
        let ended = (&mut self.writer)
            .await
            .map_err(|_| ServerError::Panicked)?;
        Err(ended
            .err()
            .map_or(ServerError::Panicked, ServerError::Ingest))
    }

    /// The last byte has come: checks everything and makes the job, or decides.
    ///
    /// # Errors
    /// If size or hash differ from the announcement, the adapter is refused, or it can never fit
    /// the budget.
    pub async fn finish(self) -> Result<Accepted, ServerError> {
        let tracker = self.uploads.parts.tracker.clone();
        tracker
            .spawn(self.complete())
            .await
            .map_err(|_| ServerError::Panicked)?
    }

    async fn complete(self) -> Result<Accepted, ServerError> {
        let Self {
            uploads,
            announced,
            chunks,
            writer,
            permit,
        } = self;
        drop(chunks);
        let (writer, _token) = writer.await.map_err(|_| ServerError::Panicked)??;
        let checker = uploads.clone();
        let (staged, checked) = tokio::task::spawn_blocking(move || {
            let check = |staged: &Staged| checker.check(staged, announced.validate_only);
            let (staged, checked) = writer.finish_beside(check)?;
            Ok::<_, ServerError>((staged, checked?))
        })
        .await
        .map_err(|_| ServerError::Panicked)??;
        let Checked { warnings, decision } = checked;
        let accepted = match decision {
            Some(decision) => Accepted::Decided { decision, warnings },
            None => {
                let Enqueued { job, existing } = uploads.parts.owner.enqueue(staged).await?;
                Accepted::Job {
                    job,
                    existing,
                    warnings,
                }
            }
        };
        drop(permit);
        Ok(accepted)
    }
}

struct Checked {
    warnings: Vec<String>,
    decision: Option<Decided>,
}

impl Uploads {
    /// Validates a staged adapter against its base model, and decides it if only that was asked.
    fn check(&self, staged: &Staged, decide: bool) -> Result<Checked, ServerError> {
        let catalog = self.catalog();
        let request = staged.request();
        let base_model: &BaseModelState = catalog
            .base_models
            .get(&request.base_model)
            .ok_or_else(|| ServerError::unknown_base_model(&request.base_model))?;
        let shapes = BaseModel::from_config_json(base_model.record.config.as_bytes())?;
        let source = FileSource(staged.tensor().clone());
        let format = facts::format(&request.format)?;
        let decoded = format.decode(&request.config, &source, &shapes)?;
        let arranged = decoded.arrangement.apply(&source);
        let policy = facts::policy(&base_model.record)?;
        admission::fits_budget(&decoded.layout, &policy, request.base_model.as_ref())?;
        let newcomer = AdapterView {
            layout: &decoded.layout,
            source: &arranged,
        };
        self.parts.pool.install(|| {
            // Each value is looked at, in whatever order the file has them.
            check_values(AdapterView {
                layout: &decoded.layout,
                source: &source,
            })?;
            let decision = decide
                .then(|| {
                    let arrival = Arrival {
                        base_model,
                        newcomer,
                    };
                    step::decide(arrival, &request.task, &catalog, &self.parts.tools)
                })
                .transpose()?;
            Ok(Checked {
                warnings: decoded.warnings,
                decision,
            })
        })
    }
}
