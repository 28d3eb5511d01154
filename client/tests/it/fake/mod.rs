//! The fake daemon. What it answers is in its [`Script`]; what it was asked is kept there too.

mod services;

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};

use kmerge_client::v1;
use kmerge_client::v1::fetch_slot_response::Content;
use tokio::net::UnixListener;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::oneshot;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::Status;

/// What to do with one upload.
pub(crate) enum OnUpload {
    /// Read everything, compare it with the header, answer with a job.
    Accept,
    /// Answer with an existing job right after the header.
    KnownAlready,
    /// Refuse right after the header.
    Refuse(Status),
    /// Read everything, then end without an answer, as a daemon that is killed does.
    Vanish,
}

/// The messages of one stream; an end without an error after the last.
pub(crate) type Messages<T> = Vec<Result<T, Status>>;

/// What the daemon answers, and what it was asked.
#[derive(Default)]
pub(crate) struct Script {
    pub(crate) on_upload: VecDeque<OnUpload>,
    pub(crate) uploads: Vec<(v1::UploadHeader, Vec<u8>)>,
    pub(crate) job_streams: VecDeque<Messages<v1::WatchJobResponse>>,
    pub(crate) slot_streams: VecDeque<Messages<v1::WatchSlotsResponse>>,
    pub(crate) watched_after: Vec<u64>,
    pub(crate) exports: VecDeque<Messages<v1::FetchSlotResponse>>,
    pub(crate) fetched: Vec<v1::FetchSlotRequest>,
    pub(crate) base_models: Vec<v1::BaseModel>,
    pub(crate) registered: Vec<v1::RegisterBaseModelRequest>,
    /// Requests of jobs that bring no adapter, as debug text.
    pub(crate) asked: Vec<String>,
    pub(crate) slots: Vec<v1::Slot>,
    pub(crate) jobs: Vec<v1::Job>,
    pub(crate) adapters: Vec<v1::Adapter>,
    pub(crate) status: v1::GetStatusResponse,
    pub(crate) backup: Messages<v1::BackupResponse>,
    /// Items in a page, whatever is wished; 0: all.
    pub(crate) page: usize,
}

/// A fake daemon that listens until it is dropped or stopped. It has a runtime of its own, so that
/// stopping it breaks its connections as a kill does.
pub(crate) struct Fake {
    script: Arc<Mutex<Script>>,
    directory: tempfile::TempDir,
    runtime: Option<Runtime>,
}

impl Fake {
    pub(crate) async fn start(script: Script) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut fake = Self {
            script: Arc::new(Mutex::new(script)),
            directory,
            runtime: None,
        };
        fake.listen().await;
        fake
    }

    /// Listens (again), with the same script.
    pub(crate) async fn listen(&mut self) {
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let (socket, script) = (self.socket(), Arc::clone(&self.script));
        let (ready, is_ready) = oneshot::channel();
        runtime.spawn(async move {
            let listener = UnixListener::bind(socket).unwrap();
            let router = services::router(&script).await;
            ready.send(()).unwrap();
            router
                .serve_with_incoming(UnixListenerStream::new(listener))
                .await
                .unwrap();
        });
        is_ready.await.unwrap();
        self.runtime = Some(runtime);
    }

    /// Stops at once and removes the socket.
    pub(crate) fn stop(&mut self) {
        self.runtime.take().unwrap().shutdown_background();
        std::fs::remove_file(self.socket()).unwrap();
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.directory.path().join("kmerged.sock")
    }

    pub(crate) fn script(&self) -> MutexGuard<'_, Script> {
        self.script.lock().unwrap()
    }

    pub(crate) async fn client(&self) -> kmerge_client::Client {
        kmerge_client::Client::connect(&self.socket())
            .await
            .unwrap()
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        // A runtime must not be waited for inside another.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// A base model by name, as registered with three slots.
pub(crate) fn base_model(name: &str) -> v1::BaseModel {
    v1::BaseModel {
        name: name.to_owned(),
        architecture: "LlamaForCausalLM".into(),
        layers: 30,
        hidden_size: 576,
        policy: Some(v1::MergePolicy {
            slots: Some(3),
            max_bytes: Some(0),
            assignment: v1::AssignmentRule::Kmerge.into(),
            threshold: None,
            operator: v1::Operator::Exact.into(),
            dtype: v1::SlotDtype::Widest.into(),
            ..v1::MergePolicy::default()
        }),
        ..v1::BaseModel::default()
    }
}

/// The decision to merge into slot 1.
pub(crate) fn decision() -> v1::Decision {
    v1::Decision {
        assignment: v1::Assignment::Merged.into(),
        slot: 1,
        generation: 2,
        similarities: vec![
            v1::SlotSimilarity {
                slot: 0,
                similarity: 0.0123,
            },
            v1::SlotSimilarity {
                slot: 1,
                similarity: 0.0784,
            },
        ],
        reason: "all 2 slots are taken, and slot 1 is the most similar".into(),
        members: vec![
            v1::Member {
                task: "slug-en".into(),
                weight: 0.5,
                ..v1::Member::default()
            },
            v1::Member {
                task: "slug-de".into(),
                weight: 0.5,
                ..v1::Member::default()
            },
        ],
        rank: 2,
        bytes: 491_608,
        energy_kept: Some(0.61),
        ..v1::Decision::default()
    }
}

/// A job in a state; a job that is done has a decision, one that failed an error.
pub(crate) fn job(id: u64, state: v1::JobState) -> v1::Job {
    v1::Job {
        id,
        task: "slug-de".into(),
        base_model: "smollm2".into(),
        state: state.into(),
        decision: (state == v1::JobState::Done).then(decision),
        error: (state == v1::JobState::Failed).then(|| v1::JobError {
            code: 3,
            reason: "NON_FINITE".into(),
            message: "layer 3 of slug-de has values that are not finite: train it again".into(),
        }),
        size_bytes: 491_608,
        sha256: "ab".repeat(32),
        attempts: 1,
        ..v1::Job::default()
    }
}

/// A slot at a generation.
pub(crate) fn slot(number: u32, generation: u64) -> v1::Slot {
    v1::Slot {
        base_model: "smollm2".into(),
        slot: number,
        generation,
        members: vec![
            v1::Member {
                task: "slug-en".into(),
                weight: 0.5,
                ..v1::Member::default()
            },
            v1::Member {
                task: "slug-de".into(),
                weight: 0.5,
                ..v1::Member::default()
            },
        ],
        rank: 2,
        bytes: 491_608,
        dtype: v1::Dtype::F16.into(),
        modules: 120,
        sha256: "cd".repeat(32),
        path: format!("/state/exports/smollm2/{number}/{generation}"),
        revision: generation,
        update_time: None,
        ..v1::Slot::default()
    }
}

/// The messages of an export of two files, in small chunks.
pub(crate) fn export() -> Messages<v1::FetchSlotResponse> {
    let files = [
        ("adapter_config.json", b"{\"r\": 2}".to_vec()),
        ("adapter_model.safetensors", crate::bytes(3000)),
    ];
    let header = v1::ExportHeader {
        base_model: "smollm2".into(),
        slot: 1,
        generation: 2,
        format: v1::AdapterFormat::Peft.into(),
        files: files
            .iter()
            .map(|(name, content)| v1::ExportFile {
                name: (*name).into(),
                size_bytes: u64::try_from(content.len()).unwrap(),
                sha256: services::sha256(content),
            })
            .collect(),
        ..v1::ExportHeader::default()
    };
    let mut messages = vec![Ok(message(Content::Header(header)))];
    for (file, (_, content)) in (0..).zip(&files) {
        for data in content.chunks(1024) {
            let data = data.to_vec().into();
            messages.push(Ok(message(Content::Chunk(v1::ExportChunk { file, data }))));
        }
    }
    messages
}

pub(crate) fn message(content: Content) -> v1::FetchSlotResponse {
    v1::FetchSlotResponse {
        content: Some(content),
    }
}
