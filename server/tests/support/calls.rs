//! The calls that every test makes, and what a refusal carries.

use kmerge_client::{Adapter, Client, Error, Upload, retry, v1};
use kmerge_proto::limits;
use tokio_stream::iter;
use tonic::transport::Channel;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};
use v1::adapter_service_client::AdapterServiceClient;
use v1::upload_adapter_request::Content;

use super::{BASE, adapters, goldens};

/// A policy of K slots with kmerge and kmerge-linear.
pub(crate) fn policy(slots: u32) -> v1::MergePolicy {
    v1::MergePolicy {
        slots: Some(slots),
        max_bytes: None,
        assignment: v1::AssignmentRule::Kmerge.into(),
        threshold: None,
        operator: v1::Operator::KmergeLinear.into(),
        dtype: v1::SlotDtype::Widest.into(),
        ..v1::MergePolicy::default()
    }
}

/// A policy of K slots that keep their members apart in so many bytes each.
pub(crate) fn progressive(slots: u32, slot_bytes: u64) -> v1::MergePolicy {
    v1::MergePolicy {
        operator: v1::Operator::Progressive.into(),
        assignment: v1::AssignmentRule::Roomiest.into(),
        slot_bytes: Some(slot_bytes),
        ..policy(slots)
    }
}

/// Registers the goldens' tiny base model under `name`.
pub(crate) async fn register(client: &Client, name: &str, policy: v1::MergePolicy) {
    let request = v1::RegisterBaseModelRequest {
        name: name.to_owned(),
        config: std::fs::read(goldens().join("base/config.json")).unwrap(),
        policy: Some(policy),
        served_as: String::new(),
    };
    client.register_base_model(request).await.unwrap();
}

/// An upload that is not tried again.
pub(crate) fn upload(task: &str) -> Upload {
    Upload {
        policy: retry::Policy::NEVER,
        ..Upload::new(task, BASE)
    }
}

/// Sends an adapter for a task of [`BASE`] and gives the job.
pub(crate) async fn push(client: &Client, task: &str, adapter: &Adapter) -> v1::Job {
    let answer = client.upload_adapter(adapter, &upload(task), |_| ()).await;
    answer.unwrap().job.unwrap()
}

/// Waits for the end of a job.
pub(crate) async fn ended(client: &Client, job: u64) -> v1::Job {
    client.watch_job(job).ended().await.unwrap()
}

/// Sends an adapter, waits until it is merged, and gives the decision.
pub(crate) async fn merge(client: &Client, task: &str, adapter: &Adapter) -> v1::Decision {
    let job = push(client, task, adapter).await;
    let job = ended(client, job.id).await;
    assert_eq!(job.state(), v1::JobState::Done, "{task}: {:?}", job.error);
    job.decision.unwrap()
}

/// The header that describes an adapter truthfully, for [`BASE`].
pub(crate) fn header(task: &str, config: &[u8], tensors: &[u8]) -> v1::UploadHeader {
    let adapter = Adapter::from_bytes(config.to_vec(), tensors.to_vec().into());
    v1::UploadHeader {
        task: task.to_owned(),
        base_model: BASE.to_owned(),
        format: v1::AdapterFormat::Peft.into(),
        config: config.to_vec(),
        size_bytes: adapter.size_bytes(),
        sha256: adapter.sha256().to_owned(),
        request_id: String::new(),
        validate_only: false,
    }
}

/// One message of an upload.
pub(crate) fn message(content: Content) -> v1::UploadAdapterRequest {
    v1::UploadAdapterRequest {
        content: Some(content),
    }
}

/// The messages of a truthful upload.
pub(crate) fn messages(header: v1::UploadHeader, tensors: &[u8]) -> Vec<v1::UploadAdapterRequest> {
    let chunks = tensors
        .chunks(limits::CHUNK_BYTES)
        .map(|chunk| message(Content::Chunk(chunk.to_vec().into())));
    std::iter::once(message(Content::Header(header)))
        .chain(chunks)
        .collect()
}

/// Sends messages as they are, without the client library.
pub(crate) async fn send(
    channel: &Channel,
    messages: Vec<v1::UploadAdapterRequest>,
) -> Result<v1::UploadAdapterResponse, Status> {
    let answer = AdapterServiceClient::new(channel.clone())
        .upload_adapter(iter(messages))
        .await;
    answer.map(tonic::Response::into_inner)
}

/// What a refusal carries.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) code: Code,
    pub(crate) reason: String,
    pub(crate) message: String,
    pub(crate) details: ErrorDetails,
}

impl From<Status> for Refusal {
    /// Every refusal carries an `ErrorInfo` of the daemon's domain.
    fn from(status: Status) -> Self {
        let details = status.get_error_details();
        let info = details
            .error_info()
            .unwrap_or_else(|| panic!("no ErrorInfo in {status:?}"));
        assert_eq!(info.domain, limits::ERROR_DOMAIN);
        Self {
            code: status.code(),
            reason: info.reason.clone(),
            message: status.message().to_owned(),
            details,
        }
    }
}

/// The refusal in an error of the client library.
pub(crate) fn refusal(error: Error) -> Refusal {
    let (Error::Refused(refusal) | Error::NotFound(refusal)) = error else {
        panic!("not a refusal: {error:?}");
    };
    Refusal {
        code: refusal.code,
        reason: refusal.reason.clone(),
        message: refusal.message.clone(),
        details: refusal.details,
    }
}

/// What a call that must change nothing must leave as it was.
#[derive(Debug, PartialEq)]
pub(crate) struct Picture {
    revision: u64,
    slots: Vec<v1::Slot>,
    adapters: Vec<v1::Adapter>,
    jobs: Vec<v1::Job>,
}

impl Picture {
    pub(crate) async fn take(client: &Client) -> Self {
        Self {
            revision: client.get_status().await.unwrap().revision,
            slots: client.list_slots(None).await.unwrap(),
            adapters: client.list_adapters(None).await.unwrap(),
            jobs: client.list_jobs(None, None).await.unwrap(),
        }
    }
}

/// A golden adapter, ready to be sent.
pub(crate) fn golden(name: &str) -> Adapter {
    let files = adapters::golden(name);
    Adapter::from_bytes(files.config, files.tensors.into())
}
