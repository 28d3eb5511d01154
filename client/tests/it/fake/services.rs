//! The contract's services, answering by script.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};

use kmerge_client::v1;
use sha2::{Digest as _, Sha256};
use tokio_stream::Stream;
use tonic::transport::Server;
use tonic::transport::server::Router;
use tonic::{Request, Response, Status, Streaming};
use v1::adapter_service_server::{AdapterService, AdapterServiceServer};
use v1::admin_service_server::{AdminService, AdminServiceServer};
use v1::base_model_service_server::{BaseModelService, BaseModelServiceServer};
use v1::job_service_server::{JobService, JobServiceServer};
use v1::slot_service_server::{SlotService, SlotServiceServer};
use v1::upload_adapter_request::Content;

use super::{Messages, OnUpload, Script};

#[derive(Clone)]
struct Services(Arc<Mutex<Script>>);

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

pub(super) async fn router(script: &Arc<Mutex<Script>>) -> Router {
    let services = Services(Arc::clone(script));
    let (reporter, health) = tonic_health::server::health_reporter();
    reporter
        .set_service_status("", tonic_health::ServingStatus::Serving)
        .await;
    Server::builder()
        .add_service(health)
        .add_service(AdapterServiceServer::new(services.clone()))
        .add_service(AdminServiceServer::new(services.clone()))
        .add_service(BaseModelServiceServer::new(services.clone()))
        .add_service(JobServiceServer::new(services.clone()))
        .add_service(SlotServiceServer::new(services))
}

pub(super) fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

impl Services {
    fn script(&self) -> MutexGuard<'_, Script> {
        self.0.lock().unwrap()
    }
}

/// Streams the messages; a script that ends leaves the stream open.
fn stream<T: Send + 'static>(messages: Option<Messages<T>>) -> Response<Answers<T>> {
    match messages {
        Some(messages) => Response::new(Box::pin(tokio_stream::iter(messages))),
        None => Response::new(Box::pin(tokio_stream::pending())),
    }
}

/// One page of a list, and the token of the next: the index of its first item.
fn page<T: Clone>(items: &[T], size: usize, token: &str) -> (Vec<T>, String) {
    let start = token.parse().unwrap_or(0);
    let size = if size == 0 { items.len() } else { size };
    let end = (start + size).min(items.len());
    let next = if end < items.len() {
        end.to_string()
    } else {
        String::new()
    };
    (items[start..end].to_vec(), next)
}

/// What a job that brings no adapter answers with.
fn maintained(validate_only: bool, kind: v1::JobKind) -> (Option<v1::Job>, Option<v1::Change>) {
    let change = v1::Change {
        reason: "as asked".into(),
        ..v1::Change::default()
    };
    let job = v1::Job {
        kind: kind.into(),
        ..super::job(7, v1::JobState::Queued)
    };
    ((!validate_only).then_some(job), Some(change))
}

#[tonic::async_trait]
impl AdapterService for Services {
    async fn forget_task(
        &self,
        request: Request<v1::ForgetTaskRequest>,
    ) -> Result<Response<v1::ForgetTaskResponse>, Status> {
        let request = request.into_inner();
        let (job, change) = maintained(request.validate_only, v1::JobKind::Forget);
        self.script().asked.push(format!("{request:?}"));
        Ok(Response::new(v1::ForgetTaskResponse { job, change }))
    }

    async fn upload_adapter(
        &self,
        request: Request<Streaming<v1::UploadAdapterRequest>>,
    ) -> Result<Response<v1::UploadAdapterResponse>, Status> {
        let mut messages = request.into_inner();
        let first = messages
            .message()
            .await?
            .and_then(|message| message.content);
        let Some(Content::Header(header)) = first else {
            return Err(Status::invalid_argument("the first message is no header"));
        };
        let action = self
            .script()
            .on_upload
            .pop_front()
            .unwrap_or(OnUpload::Accept);
        match action {
            OnUpload::Refuse(status) => {
                self.script().uploads.push((header, Vec::new()));
                return Err(status);
            }
            OnUpload::KnownAlready => {
                self.script().uploads.push((header, Vec::new()));
                let job = Some(super::job(7, v1::JobState::Done));
                return Ok(Response::new(v1::UploadAdapterResponse {
                    job,
                    existing: true,
                    ..Default::default()
                }));
            }
            OnUpload::Accept | OnUpload::Vanish => {}
        }
        let mut bytes = Vec::new();
        while let Some(message) = messages.message().await? {
            match message.content {
                Some(Content::Chunk(chunk)) => bytes.extend_from_slice(&chunk),
                _ => {
                    return Err(Status::invalid_argument(
                        "only the first message is a header",
                    ));
                }
            }
        }
        if sha256(&bytes) != header.sha256 {
            return Err(Status::invalid_argument(
                "the bytes are not those of the header",
            ));
        }
        let validate_only = header.validate_only;
        let task = header.task.clone();
        self.script().uploads.push((header, bytes));
        if matches!(action, OnUpload::Vanish) {
            return Err(Status::unavailable("kmerged is stopping"));
        }
        let job = v1::Job {
            task,
            ..super::job(7, v1::JobState::Queued)
        };
        Ok(Response::new(v1::UploadAdapterResponse {
            job: (!validate_only).then_some(job),
            decision: validate_only.then(super::decision),
            existing: false,
            warnings: vec!["lora_dropout is 0.1 and is ignored".into()],
        }))
    }

    async fn get_adapter(
        &self,
        request: Request<v1::GetAdapterRequest>,
    ) -> Result<Response<v1::GetAdapterResponse>, Status> {
        let wanted = request.into_inner();
        let found = self
            .script()
            .adapters
            .iter()
            .find(|a| a.task == wanted.task)
            .cloned();
        let adapter = found.ok_or_else(|| Status::not_found("there is no such adapter"))?;
        Ok(Response::new(v1::GetAdapterResponse {
            adapter: Some(adapter),
        }))
    }

    async fn list_adapters(
        &self,
        request: Request<v1::ListAdaptersRequest>,
    ) -> Result<Response<v1::ListAdaptersResponse>, Status> {
        let script = self.script();
        let (adapters, next_page_token) = page(
            &script.adapters,
            script.page,
            &request.into_inner().page_token,
        );
        Ok(Response::new(v1::ListAdaptersResponse {
            adapters,
            next_page_token,
        }))
    }
}

#[tonic::async_trait]
impl JobService for Services {
    type WatchJobStream = Answers<v1::WatchJobResponse>;

    async fn get_job(
        &self,
        request: Request<v1::GetJobRequest>,
    ) -> Result<Response<v1::GetJobResponse>, Status> {
        let id = request.into_inner().id;
        let found = self.script().jobs.iter().find(|job| job.id == id).cloned();
        let job = found.ok_or_else(|| Status::not_found(format!("there is no job {id}")))?;
        Ok(Response::new(v1::GetJobResponse { job: Some(job) }))
    }

    async fn list_jobs(
        &self,
        request: Request<v1::ListJobsRequest>,
    ) -> Result<Response<v1::ListJobsResponse>, Status> {
        let script = self.script();
        let (jobs, next_page_token) =
            page(&script.jobs, script.page, &request.into_inner().page_token);
        Ok(Response::new(v1::ListJobsResponse {
            jobs,
            next_page_token,
        }))
    }

    async fn watch_job(
        &self,
        request: Request<v1::WatchJobRequest>,
    ) -> Result<Response<Self::WatchJobStream>, Status> {
        if request.into_inner().id == 404 {
            return Err(Status::not_found("there is no job 404"));
        }
        Ok(stream(self.script().job_streams.pop_front()))
    }

    async fn cancel_job(
        &self,
        request: Request<v1::CancelJobRequest>,
    ) -> Result<Response<v1::CancelJobResponse>, Status> {
        let id = request.into_inner().id;
        if id == 1 {
            return Err(Status::failed_precondition(
                "job 1 runs and cannot be cancelled",
            ));
        }
        let job = Some(super::job(id, v1::JobState::Cancelled));
        Ok(Response::new(v1::CancelJobResponse { job }))
    }
}

#[tonic::async_trait]
impl SlotService for Services {
    type WatchSlotsStream = Answers<v1::WatchSlotsResponse>;
    type FetchSlotStream = Answers<v1::FetchSlotResponse>;

    async fn list_slots(
        &self,
        request: Request<v1::ListSlotsRequest>,
    ) -> Result<Response<v1::ListSlotsResponse>, Status> {
        let script = self.script();
        let (slots, next_page_token) =
            page(&script.slots, script.page, &request.into_inner().page_token);
        Ok(Response::new(v1::ListSlotsResponse {
            slots,
            next_page_token,
        }))
    }

    async fn get_slot(
        &self,
        request: Request<v1::GetSlotRequest>,
    ) -> Result<Response<v1::GetSlotResponse>, Status> {
        let wanted = request.into_inner().slot;
        let found = self
            .script()
            .slots
            .iter()
            .find(|slot| slot.slot == wanted)
            .cloned();
        let slot = found.ok_or_else(|| Status::not_found(format!("slot {wanted} is free")))?;
        Ok(Response::new(v1::GetSlotResponse { slot: Some(slot) }))
    }

    async fn watch_slots(
        &self,
        request: Request<v1::WatchSlotsRequest>,
    ) -> Result<Response<Self::WatchSlotsStream>, Status> {
        let mut script = self.script();
        script
            .watched_after
            .push(request.into_inner().after_revision);
        Ok(stream(script.slot_streams.pop_front()))
    }

    async fn resolve_task(
        &self,
        request: Request<v1::ResolveTaskRequest>,
    ) -> Result<Response<v1::ResolveTaskResponse>, Status> {
        let wanted = request.into_inner();
        if wanted.task != "slug-de" {
            return Err(Status::not_found(format!(
                "no adapter of task {:?} has been merged for {:?}",
                wanted.task, wanted.base_model
            )));
        }
        Ok(Response::new(v1::ResolveTaskResponse {
            task: wanted.task,
            base_model: wanted.base_model,
            slot: 1,
            generation: 2,
            path: "/state/exports/smollm2/1/2".into(),
            sha256: "cd".repeat(32),
            ..v1::ResolveTaskResponse::default()
        }))
    }

    async fn rollback_slot(
        &self,
        request: Request<v1::RollbackSlotRequest>,
    ) -> Result<Response<v1::RollbackSlotResponse>, Status> {
        let request = request.into_inner();
        let (job, change) = maintained(request.validate_only, v1::JobKind::Rollback);
        self.script().asked.push(format!("{request:?}"));
        Ok(Response::new(v1::RollbackSlotResponse { job, change }))
    }

    async fn pin_slot(
        &self,
        request: Request<v1::PinSlotRequest>,
    ) -> Result<Response<v1::PinSlotResponse>, Status> {
        let (job, _) = maintained(false, v1::JobKind::Settings);
        self.script()
            .asked
            .push(format!("{:?}", request.into_inner()));
        Ok(Response::new(v1::PinSlotResponse { job }))
    }

    async fn fetch_slot(
        &self,
        request: Request<v1::FetchSlotRequest>,
    ) -> Result<Response<Self::FetchSlotStream>, Status> {
        let mut script = self.script();
        script.fetched.push(request.into_inner());
        let export = script.exports.pop_front();
        export
            .map(|export| stream(Some(export)))
            .ok_or_else(|| Status::not_found("it is free"))
    }
}

#[tonic::async_trait]
impl BaseModelService for Services {
    async fn register_base_model(
        &self,
        request: Request<v1::RegisterBaseModelRequest>,
    ) -> Result<Response<v1::RegisterBaseModelResponse>, Status> {
        let request = request.into_inner();
        let base_model = Some(super::base_model(&request.name));
        self.script().registered.push(request);
        Ok(Response::new(v1::RegisterBaseModelResponse { base_model }))
    }

    async fn set_budget(
        &self,
        request: Request<v1::SetBudgetRequest>,
    ) -> Result<Response<v1::SetBudgetResponse>, Status> {
        let request = request.into_inner();
        let (job, change) = maintained(request.validate_only, v1::JobKind::Settings);
        self.script().asked.push(format!("{request:?}"));
        Ok(Response::new(v1::SetBudgetResponse { job, change }))
    }

    async fn get_base_model(
        &self,
        request: Request<v1::GetBaseModelRequest>,
    ) -> Result<Response<v1::GetBaseModelResponse>, Status> {
        let name = request.into_inner().name;
        let found = self
            .script()
            .base_models
            .iter()
            .find(|base| base.name == name)
            .cloned();
        let base_model = found.ok_or_else(|| Status::not_found("there is no such base model"))?;
        Ok(Response::new(v1::GetBaseModelResponse {
            base_model: Some(base_model),
        }))
    }

    async fn list_base_models(
        &self,
        request: Request<v1::ListBaseModelsRequest>,
    ) -> Result<Response<v1::ListBaseModelsResponse>, Status> {
        let script = self.script();
        let (base_models, next_page_token) = page(
            &script.base_models,
            script.page,
            &request.into_inner().page_token,
        );
        Ok(Response::new(v1::ListBaseModelsResponse {
            base_models,
            next_page_token,
        }))
    }
}

#[tonic::async_trait]
impl AdminService for Services {
    type ScrubStream = Answers<v1::ScrubResponse>;

    async fn scrub(
        &self,
        _: Request<v1::ScrubRequest>,
    ) -> Result<Response<Self::ScrubStream>, Status> {
        // Cut off: it never comes to its end.
        let so_far = v1::ScrubResponse {
            scrubbed: Some(v1::Scrubbed::default()),
        };
        Ok(stream(Some([Ok(so_far)].into())))
    }

    async fn set_scrub(
        &self,
        request: Request<v1::SetScrubRequest>,
    ) -> Result<Response<v1::SetScrubResponse>, Status> {
        let scrub = Some(v1::ScrubState {
            paused: request.into_inner().paused,
            ..v1::ScrubState::default()
        });
        Ok(Response::new(v1::SetScrubResponse { scrub }))
    }

    type BackupStream = Answers<v1::BackupResponse>;

    async fn backup(
        &self,
        _: Request<v1::BackupRequest>,
    ) -> Result<Response<Self::BackupStream>, Status> {
        Ok(stream(Some(self.script().backup.clone())))
    }

    async fn get_status(
        &self,
        _: Request<v1::GetStatusRequest>,
    ) -> Result<Response<v1::GetStatusResponse>, Status> {
        Ok(Response::new(self.script().status.clone()))
    }
}
