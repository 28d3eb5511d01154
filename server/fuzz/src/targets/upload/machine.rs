//! The rooms of the daemon that an upload goes through, without the door and without workers, and
//! clients that do what a program says.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use kmerge_merge::Policy;
use kmerge_proto::v1::upload_adapter_request::Content;
use kmerge_proto::{limits, v1};
use kmerge_server::exports::Exports;
use kmerge_server::grpc::adapters::Receiver;
use kmerge_server::liveness::Liveness;
use kmerge_server::owner::{Owner, OwnerParts};
use kmerge_server::pace::Pace;
use kmerge_server::packs::Packs;
use kmerge_server::shares::Peer;
use kmerge_server::shutdown::Stop;
use kmerge_server::step::{NormCache, Tools};
use kmerge_server::uploads::{Accepted, UploadParts, Uploads};
use kmerge_server::wake::WorkSignal;
use kmerge_server::{config, facts};
use kmerge_storage::{BaseModelRecord, Catalog, Digest, JobRecord, Opened, Options, UnixMillis};
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, LocalSet};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tokio_util::task::TaskTracker;
use tonic::{Code, Status};

use super::program::{Instruction, STREAMS, Step};
use crate::targets::support::BASE;

/// No upload of a fuzzer takes longer; what does, hangs.
const PATIENCE: Duration = Duration::from_secs(30);

/// A directory in memory, where the system has one. `KMERGE_FUZZ_ROOM` names another place.
pub(crate) fn room(purpose: &str) -> tempfile::TempDir {
    let shared = Path::new("/dev/shm");
    let place = std::env::var_os("KMERGE_FUZZ_ROOM").map_or_else(
        || {
            if shared.is_dir() {
                shared.to_owned()
            } else {
                std::env::temp_dir()
            }
        },
        PathBuf::from,
    );
    tempfile::Builder::new()
        .prefix(&format!("kmerge-fuzz-{purpose}-"))
        .tempdir_in(place)
        .expect("a temporary directory can be made")
}

/// The rooms.
pub(super) struct Machine {
    runtime: Runtime,
    uploads: Uploads,
    owner: Owner,
    view: watch::Receiver<Arc<Catalog>>,
    tracker: TaskTracker,
    stop: Stop,
    state: tempfile::TempDir,
}

/// One client's side of an upload, and what it has sent.
struct Client {
    messages: Option<mpsc::UnboundedSender<Result<v1::UploadAdapterRequest, Status>>>,
    call: JoinHandle<Result<Accepted, Status>>,
    sent: Sent,
}

/// What a client has sent, in the order of the contract or not.
#[derive(Default)]
struct Sent {
    header: Option<v1::UploadHeader>,
    /// The announced file and how far it was sent.
    file: Vec<u8>,
    position: usize,
    bytes: Vec<u8>,
    /// Something came that has no place in an upload.
    disorder: bool,
    broken: bool,
    dropped: bool,
}

impl Machine {
    pub(super) fn start() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .max_blocking_threads(8)
            .build()
            .expect("a runtime can be made");
        let state = room("upload");
        let options = Options {
            cache_bytes: 1 << 20,
            finished_jobs_kept: 8,
            events_kept: 16,
            ..Options::default()
        };
        let opened = kmerge_storage::open(state.path(), &options, UnixMillis(1));
        let Opened {
            committer,
            ingest,
            reader,
            ..
        } = opened.expect("an empty directory opens");
        let tools = Tools {
            reader: reader.clone(),
            norms: Arc::new(NormCache::default()),
            packs: Packs::new(reader.clone()),
        };
        let stop = Stop::default();
        let pulse = Liveness::default().part("the catalog", None);
        let (sender, view) = watch::channel(committer.catalog());
        let parts = OwnerParts {
            committer,
            exports: Exports::new(reader, Vec::new(), pulse.clone()),
            view: sender,
            work: WorkSignal::default(),
            stop: stop.clone(),
            grace: Duration::ZERO,
            patience: PATIENCE,
            pulse,
        };
        let (owner, _thread) =
            Owner::start(parts, runtime.handle().clone()).expect("a thread can be started");
        let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build();
        let tracker = TaskTracker::new();
        let uploads = Uploads::new(UploadParts {
            ingest,
            tools,
            owner: owner.clone(),
            view: view.clone(),
            pool: Arc::new(pool.expect("a thread can be started")),
            limits: config::Uploads {
                max_bytes: 1 << 20,
                parallel: 2,
                parallel_per_user: 2,
                pace: Pace {
                    bytes_per_second: 0,
                    grace: PATIENCE,
                    longest: PATIENCE,
                },
                queue: 4,
            },
            min_free_bytes: 0,
            tracker: tracker.clone(),
        });
        let base = BaseModelRecord {
            name: "tiny".parse().expect("it is a name"),
            config: BASE.to_owned(),
            settings: facts::to_json(&Policy::default()),
            served_as: "tiny".to_owned(),
            created: UnixMillis(1),
        };
        runtime
            .block_on(owner.register(base))
            .expect("a base model can be registered");
        Self {
            runtime,
            uploads,
            owner,
            view,
            tracker,
            stop,
            state,
        }
    }

    /// Lets the clients of one input have their way, and looks at what is left.
    pub(super) fn run(&mut self, program: &[Instruction]) {
        let local = LocalSet::new();
        local.block_on(&self.runtime, self.play(program));
    }

    async fn play(&self, program: &[Instruction]) {
        let mut clients: [Option<Client>; STREAMS] = std::array::from_fn(|_| None);
        for instruction in program {
            let place = &mut clients[instruction.stream];
            if matches!(instruction.step, Step::Wait) {
                for _ in 0..16 {
                    tokio::task::yield_now().await;
                }
                continue;
            }
            // A stream that has ended makes room for the next upload.
            if place
                .as_ref()
                .is_some_and(|client| client.messages.is_none())
            {
                let client = place.take().expect("it is there");
                self.settle(client).await;
            }
            place
                .get_or_insert_with(|| self.call())
                .step(&instruction.step);
        }
        for client in clients.into_iter().flatten() {
            self.settle(client).await;
        }
        self.tracker.close();
        let done = tokio::time::timeout(PATIENCE, self.tracker.wait());
        done.await.expect("what uploads leave behind ends");
        self.tracker.reopen();
        self.leave_nothing().await;
    }

    fn call(&self) -> Client {
        let (messages, receiver) = mpsc::unbounded_channel();
        let (uploads, stop) = (self.uploads.clone(), self.stop.clone());
        let call = tokio::task::spawn_local(async move {
            let one = Receiver {
                uploads: &uploads,
                stop: &stop,
                idle: PATIENCE,
                peer: Peer::User(1000),
            };
            one.receive(UnboundedReceiverStream::new(receiver)).await
        });
        Client {
            messages: Some(messages),
            call,
            sent: Sent::default(),
        }
    }

    /// Ends a client's stream and holds its answer against what it sent.
    async fn settle(&self, client: Client) {
        let Client {
            messages,
            call,
            sent,
        } = client;
        drop(messages);
        let ended = tokio::time::timeout(PATIENCE, call).await;
        let answer = match ended.expect("an upload gets an answer") {
            Ok(answer) => answer,
            Err(error) => {
                assert!(error.is_cancelled() && sent.dropped, "an upload panicked");
                return;
            }
        };
        match answer {
            Ok(accepted) => sent.accepted(&accepted),
            Err(status) => sent.refused(&status),
        }
    }

    /// After all uploads have ended.
    async fn leave_nothing(&self) {
        assert_eq!(self.uploads.under_way(), 0, "a permit is lost");
        let queued = self.jobs();
        assert_eq!(
            self.staged(),
            queued.len(),
            "other files are staged than jobs"
        );
        for job in queued {
            self.owner
                .cancel(job.id)
                .await
                .expect("a queued job can be cancelled");
        }
        assert_eq!(self.staged(), 0, "a cancelled job leaves files");
        assert!(!self.stop.is_requested(), "the state is given up");
    }

    fn jobs(&self) -> Vec<Arc<JobRecord>> {
        self.view
            .borrow()
            .unfinished_jobs()
            .map(Arc::clone)
            .collect()
    }

    fn staged(&self) -> usize {
        let directory = self.state.path().join("staging");
        std::fs::read_dir(directory).map_or(0, Iterator::count)
    }
}

impl Client {
    fn step(&mut self, step: &Step) {
        let message = match step {
            Step::Header(header, file) => self.sent.header(header, file),
            Step::Next(most) => {
                let rest = &self.sent.file[self.sent.position..];
                let next = rest[..rest.len().min(*most).min(limits::MAX_CHUNK_BYTES)].to_vec();
                self.sent.position += next.len();
                self.sent.chunk(next)
            }
            Step::From { offset, length } => {
                let file = &self.sent.file;
                let start = (*offset).min(file.len());
                let end = start.saturating_add(*length).min(file.len());
                let piece = file[start..end].to_vec();
                self.sent.chunk(piece)
            }
            Step::Bytes(bytes) => self.sent.chunk(bytes.clone()),
            Step::Empty => {
                self.sent.disorder = true;
                None
            }
            Step::End | Step::Wait => {
                self.messages = None;
                return;
            }
            Step::Break => {
                self.sent.broken = true;
                self.send(Err(Status::cancelled("the connection broke")));
                self.messages = None;
                return;
            }
            Step::Drop => {
                self.sent.dropped = true;
                self.call.abort();
                self.messages = None;
                return;
            }
        };
        self.send(Ok(v1::UploadAdapterRequest { content: message }));
    }

    fn send(&self, message: Result<v1::UploadAdapterRequest, Status>) {
        if let Some(messages) = &self.messages {
            // Whoever has refused listens no more.
            drop(messages.send(message));
        }
    }
}

impl Sent {
    fn header(&mut self, header: &v1::UploadHeader, file: &[u8]) -> Option<Content> {
        if self.header.is_some() || !self.bytes.is_empty() || self.disorder {
            self.disorder = true;
        } else {
            self.header = Some(header.clone());
            self.file = file.to_vec();
            self.position = 0;
        }
        Some(Content::Header(header.clone()))
    }

    fn chunk(&mut self, bytes: Vec<u8>) -> Option<Content> {
        self.disorder |= self.header.is_none() || bytes.len() > limits::MAX_CHUNK_BYTES;
        self.bytes.extend_from_slice(&bytes);
        Some(Content::Chunk(bytes.into()))
    }

    /// Whether the messages were those of an upload whose bytes are the ones announced.
    fn is_truthful(&self) -> bool {
        let Some(header) = &self.header else {
            return false;
        };
        !self.disorder
            && !self.broken
            && header.size_bytes == self.bytes.len() as u64
            && header.sha256 == Digest::of(&self.bytes).to_string()
    }

    fn accepted(&self, accepted: &Accepted) {
        match accepted {
            Accepted::Job { job, existing, .. } => {
                let header = self.header.as_ref().expect("no job without a header");
                assert!(!header.validate_only, "a question became a job");
                assert_eq!(job.task.as_ref(), header.task);
                assert_eq!(job.upload.digest.to_string(), header.sha256);
                assert!(*existing || self.is_truthful(), "accepted: {header:?}");
            }
            Accepted::Decided { .. } => {
                assert!(self.is_truthful(), "decided: {:?}", self.header);
                assert!(
                    self.header
                        .as_ref()
                        .is_some_and(|header| header.validate_only)
                );
            }
        }
    }

    fn refused(&self, status: &Status) {
        let text = status.message();
        assert!(!text.is_empty() && text.len() < 4096, "{status:?}");
        match status.code() {
            Code::InvalidArgument | Code::FailedPrecondition | Code::NotFound => {
                assert!(!self.is_good(), "a good upload is refused: {status:?}");
            }
            Code::Cancelled => assert!(self.broken, "{status:?}"),
            // Busy, or the same name for something else.
            Code::ResourceExhausted | Code::AlreadyExists | Code::Aborted => {}
            code => panic!("{code:?} for {:?}: {status:?}", self.header),
        }
    }

    /// Whether it was an upload that has every right to be accepted.
    fn is_good(&self) -> bool {
        let Some(header) = &self.header else {
            return false;
        };
        self.is_truthful() && self.bytes == self.file && crate::seeds::is_good(header, &self.file)
    }
}
