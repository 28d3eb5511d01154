//! AdapterService: convert, call, convert.

use std::time::{Duration, Instant};

use kmerge_proto::v1;
use kmerge_proto::v1::upload_adapter_request::Content;
use tokio_stream::{Stream, StreamExt as _};
use tonic::{Request, Response, Status, Streaming};

use super::caller::Caller;
use super::convert;
use crate::error::ServerError;
use crate::maintenance::Upkeep;
use crate::pages::Page;
use crate::serving::Serving;
use crate::shares::Peer;
use crate::shutdown::Stop;
use crate::uploads::{Accepted, Begun, Uploads};

/// Serves AdapterService.
#[derive(Debug)]
pub(super) struct Adapters {
    /// The way in.
    pub(super) uploads: Uploads,
    /// Jobs that bring no adapter.
    pub(super) upkeep: Upkeep,
    /// What is there.
    pub(super) serving: Serving,
    /// Ends uploads when kmerged stops.
    pub(super) stop: Stop,
    /// How long an upload may be silent.
    pub(super) idle: Duration,
}

/// One upload from its first message to its answer: a header, then chunks, then the end.
///
/// Apart from the service, so that it can be driven without a connection.
#[derive(Debug)]
pub struct Receiver<'a> {
    /// The way in.
    pub uploads: &'a Uploads,
    /// Ends the upload when kmerged stops.
    pub stop: &'a Stop,
    /// How long the upload may be silent.
    pub idle: Duration,
    /// Whose upload it is.
    pub peer: Peer,
}

/// The messages of an upload, and how fast they come.
struct Messages<S> {
    stream: S,
    began: Instant,
    /// The time that was spent waiting for them.
    waited: Duration,
    bytes: u64,
}

impl Receiver<'_> {
    /// Takes an upload in.
    ///
    /// # Errors
    /// What the client did wrong, why the upload is refused, or what the stream itself failed with.
    pub async fn receive<S>(&self, stream: S) -> Result<Accepted, Status>
    where
        S: Stream<Item = Result<v1::UploadAdapterRequest, Status>> + Unpin,
    {
        let permit = self.uploads.enter(self.peer)?;
        let mut messages = Messages {
            stream,
            began: Instant::now(),
            waited: Duration::ZERO,
            bytes: 0,
        };
        let Some(Content::Header(header)) = self.next(&mut messages).await? else {
            return Err(ServerError::HeaderMissing.into());
        };
        let announced = convert::announced(header)?;
        let mut upload = match self.uploads.begin(announced, permit).await? {
            Begun::Upload(upload) => upload,
            Begun::Existing(job) => {
                return Ok(Accepted::Job {
                    job,
                    existing: true,
                    warnings: Vec::new(),
                });
            }
        };
        while let Some(content) = self.next(&mut messages).await? {
            match content {
                Content::Chunk(chunk) => upload.chunk(chunk).await?,
                Content::Header(_) => return Err(ServerError::SecondHeader.into()),
            }
        }
        Ok(upload.finish().await?)
    }

    /// The next message of an upload; `None` at its end.
    async fn next<S>(&self, messages: &mut Messages<S>) -> Result<Option<Content>, Status>
    where
        S: Stream<Item = Result<v1::UploadAdapterRequest, Status>> + Unpin,
    {
        let (pace, asked) = (self.uploads.pace(), Instant::now());
        let left = pace.longest.saturating_sub(messages.began.elapsed());
        let patience = self.idle.min(left);
        let message = tokio::select! {
            message = tokio::time::timeout(patience, messages.stream.next()) => message,
            () = self.stop.requested() => return Err(ServerError::Stopping.into()),
        };
        messages.waited += asked.elapsed();
        let late = || {
            if messages.began.elapsed() < pace.longest {
                let seconds = self.idle.as_secs();
                return ServerError::UploadSilent { seconds };
            }
            let seconds = pace.longest.as_secs();
            ServerError::UploadLong { seconds }
        };
        let Some(message) = message.map_err(|_| late())?.transpose()? else {
            return Ok(None);
        };
        let content = message.content.ok_or(ServerError::EmptyMessage)?;
        let length = match &content {
            Content::Header(header) => header.config.len(),
            Content::Chunk(chunk) => chunk.len(),
        };
        messages.bytes += length as u64;
        pace.judge(messages.bytes, messages.waited, messages.began.elapsed())
            .map_err(ServerError::from)?;
        Ok(Some(content))
    }
}

#[tonic::async_trait]
impl v1::adapter_service_server::AdapterService for Adapters {
    async fn upload_adapter(
        &self,
        request: Request<Streaming<v1::UploadAdapterRequest>>,
    ) -> Result<Response<v1::UploadAdapterResponse>, Status> {
        let receiver = Receiver {
            uploads: &self.uploads,
            stop: &self.stop,
            idle: self.idle,
            peer: Caller::of(&request).peer,
        };
        self.answer(receiver.receive(request.into_inner()).await?)
    }

    async fn get_adapter(
        &self,
        request: Request<v1::GetAdapterRequest>,
    ) -> Result<Response<v1::GetAdapterResponse>, Status> {
        let request = request.into_inner();
        let base_model = convert::base_model(&request.base_model)?;
        let task = self
            .serving
            .task(&base_model, &convert::task(&request.task)?)?;
        Ok(Response::new(v1::GetAdapterResponse {
            adapter: Some(convert::adapter(&task)),
        }))
    }

    async fn forget_task(
        &self,
        request: Request<v1::ForgetTaskRequest>,
    ) -> Result<Response<v1::ForgetTaskResponse>, Status> {
        let request = request.into_inner();
        let base_model = convert::base_model(&request.base_model)?;
        let task = convert::task(&request.task)?;
        let how = convert::request(request.request_id, request.validate_only)?;
        let done = self.upkeep.forget(base_model, task, how).await?;
        Ok(Response::new(v1::ForgetTaskResponse {
            change: done.change.as_ref().map(convert::change),
            job: convert::job_of(&self.serving, done.job.as_ref())?,
        }))
    }

    async fn list_adapters(
        &self,
        request: Request<v1::ListAdaptersRequest>,
    ) -> Result<Response<v1::ListAdaptersResponse>, Status> {
        let request = request.into_inner();
        let page = Page::new(request.page_size, request.page_token)?;
        let cut = self
            .serving
            .tasks(convert::filter(&request.base_model)?.as_ref(), &page)?;
        Ok(Response::new(v1::ListAdaptersResponse {
            adapters: cut.items.iter().map(convert::adapter).collect(),
            next_page_token: cut.next_page_token,
        }))
    }
}

impl Adapters {
    fn answer(&self, accepted: Accepted) -> Result<Response<v1::UploadAdapterResponse>, Status> {
        let response = match accepted {
            Accepted::Job {
                job,
                existing,
                warnings,
            } => v1::UploadAdapterResponse {
                job: Some(convert::job(self.serving.view_of(&job)?)),
                decision: None,
                existing,
                warnings,
            },
            Accepted::Decided { decision, warnings } => v1::UploadAdapterResponse {
                job: None,
                decision: Some(convert::decision(&decision.facts, decision.members)),
                existing: false,
                warnings,
            },
        };
        Ok(Response::new(response))
    }
}
