//! An adapter on its way to the daemon.
//!
//! ```text
//! Adapter::open      open once, hash in a first pass  ──┐
//! Adapter::from_bytes                                   ├─> upload_adapter: header, chunks, answer
//! Upload             what is said about it             ──┘      └── again, if worth it, under the
//!                                                                   same request id
//! ```
//!
//! What always holds: the bytes that are hashed and the bytes that are sent come from one open
//! file, so renaming another over it changes nothing. Every attempt of one call carries the same
//! request id, so an attempt whose answer was lost is not merged twice. Reading and hashing never
//! run on the reactor, and never more than a few chunks are in memory.

mod adapter;
mod chunks;

use std::sync::Arc;
use std::time::Duration;

use kmerge_proto::v1;
use tonic::Request;

pub use adapter::Adapter;

use crate::client::Client;
use crate::error::{Breach, Error};
use crate::retry::{Policy, Retry, chance};

/// What is said about an adapter when it is uploaded.
#[derive(Debug, Clone)]
pub struct Upload {
    /// The name under which apps will ask for it.
    pub task: String,
    /// A registered base model.
    pub base_model: String,
    /// Names the request: a repeated one with the same id gives the first one's answer. Without
    /// one, each call makes its own.
    pub request_id: Option<String>,
    /// Decide, but change nothing.
    pub validate_only: bool,
    /// When to try again.
    pub policy: Policy,
}

/// What happens during an upload.
#[derive(Debug)]
#[non_exhaustive]
pub enum UploadEvent<'a> {
    /// So many of the bytes have been handed to the connection. Starts again with each attempt.
    Sent {
        /// Bytes so far.
        bytes: u64,
        /// Bytes in all.
        of: u64,
    },
    /// An attempt failed, and another one follows.
    Waiting {
        /// After this long.
        wait: Duration,
        /// What the attempt failed with.
        error: &'a Error,
    },
}

/// What hears of the events of one upload.
type Listener = Arc<dyn Fn(UploadEvent<'_>) + Send + Sync>;

impl Upload {
    /// An upload that is merged, under a request id of its own, with the usual patience.
    #[must_use]
    pub fn new(task: impl Into<String>, base_model: impl Into<String>) -> Self {
        Self {
            task: task.into(),
            base_model: base_model.into(),
            request_id: None,
            validate_only: false,
            policy: Policy::UPLOAD,
        }
    }

    fn header(&self, adapter: &Adapter, request_id: &str) -> v1::UploadHeader {
        v1::UploadHeader {
            task: self.task.clone(),
            base_model: self.base_model.clone(),
            format: adapter.format().into(),
            config: adapter.config().to_vec(),
            size_bytes: adapter.size_bytes(),
            sha256: adapter.sha256().to_owned(),
            request_id: request_id.to_owned(),
            validate_only: self.validate_only,
        }
    }
}

impl Client {
    /// Uploads an adapter. The answer has the job that merges it, or with
    /// [`Upload::validate_only`] the decision that would be made now.
    ///
    /// The daemon may answer before it has all the bytes, because it has seen them before; that
    /// is an answer like any other. A full queue or a lost connection is tried again.
    ///
    /// # Errors
    /// Refused with the daemon's reason, [`Error::Unreachable`] once the policy is spent, or
    /// [`Error::File`] if the adapter cannot be read.
    pub async fn upload_adapter(
        &self,
        adapter: &Adapter,
        upload: &Upload,
        on_event: impl Fn(UploadEvent<'_>) + Send + Sync + 'static,
    ) -> Result<v1::UploadAdapterResponse, Error> {
        let listener: Listener = Arc::new(on_event);
        let request_id = upload
            .request_id
            .clone()
            .unwrap_or_else(|| uuid::Uuid::new_v4().to_string());
        let mut retry = Retry::new(upload.policy);
        loop {
            let header = upload.header(adapter, &request_id);
            let error = match self.attempt(adapter, header, &listener).await {
                Ok(answer) => return complete(answer, upload.validate_only),
                Err(error) => error,
            };
            if !error.is_transient() {
                return Err(error);
            }
            let Some(wait) = retry.failed(error.retry_after(), chance()) else {
                return Err(error);
            };
            listener(UploadEvent::Waiting {
                wait,
                error: &error,
            });
            tokio::time::sleep(wait).await;
        }
    }

    async fn attempt(
        &self,
        adapter: &Adapter,
        header: v1::UploadHeader,
        listener: &Listener,
    ) -> Result<v1::UploadAdapterResponse, Error> {
        let (messages, mut failure) = chunks::messages(adapter, header, Arc::clone(listener));
        let answer = self.adapters().upload_adapter(Request::new(messages)).await;
        // The daemon's complaint about missing bytes is only the echo of a failure to read them.
        self.read(answer)
            .map_err(|error| failure.try_recv().unwrap_or(error))
    }
}

/// Checks that the answer has what its kind promises.
fn complete(
    answer: v1::UploadAdapterResponse,
    validate_only: bool,
) -> Result<v1::UploadAdapterResponse, Error> {
    if validate_only && answer.decision.is_none() {
        return Err(Error::Protocol(Breach::Missing("decision")));
    }
    if !validate_only && answer.job.is_none() {
        return Err(Error::Protocol(Breach::Missing("job")));
    }
    Ok(answer)
}
