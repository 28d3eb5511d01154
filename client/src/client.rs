//! The connection, and one method for each plain call of the contract.
//!
//! A [`Client`] is cheap to clone; clones share one connection, which is opened again when it was
//! lost. Lists are read to their end, page by page. Uploads are in [`crate::upload`], watches in
//! [`crate::watch`], exports in [`crate::fetch`].

use std::os::unix::fs::FileTypeExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use kmerge_proto::{limits, v1};
use tonic::{Request, Response, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::address::Address;
use crate::error::{Breach, Error, Unreachable};
use crate::link::{Link, NoLink};
use v1::adapter_service_client::AdapterServiceClient;
use v1::admin_service_client::AdminServiceClient;
use v1::base_model_service_client::BaseModelServiceClient;
use v1::job_service_client::JobServiceClient;
use v1::runtime_service_client::RuntimeServiceClient;
use v1::slot_service_client::SlotServiceClient;

/// How long a plain call may take. The daemon's own limit is shorter; this one ends a wait for a
/// daemon that hangs.
const CALL_TIMEOUT: Duration = Duration::from_secs(60);

/// The largest answer that is read, in bytes. Answers name every member of a slot, so they grow
/// with the number of tasks; streams of tensor bytes have the contract's smaller limit.
pub(crate) const ANSWER_BYTES: usize = 16 * 1024 * 1024;

/// Runtimes in a page: each names all its adapters.
const FEW_ITEMS: i32 = 4;

/// Items per page of the lists whose items grow with the number of members, and of the others.
const LARGE_ITEMS: i32 = 32;
const SMALL_ITEMS: i32 = limits::MAX_PAGE_SIZE;

/// A connection to the daemon.
#[derive(Debug, Clone)]
pub struct Client {
    link: Link,
    address: Arc<Address>,
}

/// What the daemon says about its own health.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// It takes calls.
    Serving,
    /// It is starting or stopping.
    NotServing,
    /// It does not say.
    Unknown,
}

impl Client {
    /// Connects to the daemon that listens on `socket`.
    ///
    /// # Errors
    /// [`Error::Unreachable`] says why nobody answers there.
    pub async fn connect(socket: &Path) -> Result<Self, Error> {
        Self::connect_to(&Address::from(socket)).await
    }

    /// Connects to the daemon at an address.
    ///
    /// # Errors
    /// [`Error::Unreachable`] says why nobody answers there, [`Error::Address`] what is missing to go
    /// there at all.
    pub async fn connect_to(address: &Address) -> Result<Self, Error> {
        let link = match address {
            Address::Socket(path) => Link::to_socket(path).await,
            Address::Network(network) => Link::to_network(network).await,
        };
        match (link, address) {
            (Ok(link), _) => Ok(Self {
                link,
                address: Arc::new(address.clone()),
            }),
            (Err(NoLink::Error(error)), _) => Err(error),
            // Connecting to a regular file is refused like a socket without a listener.
            (Err(NoLink::Transport(_)), Address::Socket(path)) if is_other_than_socket(path) => {
                Err(Error::Unreachable {
                    address: Box::new(address.clone()),
                    why: Unreachable::NotASocket,
                })
            }
            (Err(NoLink::Transport(error)), _) => Err(Error::unreachable(&error, address)),
        }
    }

    /// Where this client is connected to.
    #[must_use]
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Registers a base model. Registering the same again changes nothing.
    ///
    /// # Errors
    /// Refused if the configuration is not understood, or the name is taken by another one.
    pub async fn register_base_model(
        &self,
        request: v1::RegisterBaseModelRequest,
    ) -> Result<v1::BaseModel, Error> {
        let answer = self
            .base_models()
            .register_base_model(bounded(request))
            .await;
        present(self.read(answer)?.base_model, "base_model")
    }

    /// A base model by name.
    ///
    /// # Errors
    /// Not found if it is not registered.
    pub async fn get_base_model(&self, name: &str) -> Result<v1::BaseModel, Error> {
        let request = v1::GetBaseModelRequest {
            name: name.to_owned(),
        };
        let answer = self.base_models().get_base_model(bounded(request)).await;
        present(self.read(answer)?.base_model, "base_model")
    }

    /// All base models, in order of name.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn list_base_models(&self) -> Result<Vec<v1::BaseModel>, Error> {
        let mut pages = Pages::new();
        while let Some(page_token) = pages.next_token() {
            let request = v1::ListBaseModelsRequest {
                page_size: SMALL_ITEMS,
                page_token,
            };
            let answer = self.base_models().list_base_models(bounded(request)).await;
            let page = self.read(answer)?;
            pages.add(page.base_models, page.next_page_token)?;
        }
        Ok(pages.items)
    }

    /// The adapter that arrived for a task.
    ///
    /// # Errors
    /// Not found if no adapter of that task has been merged.
    pub async fn get_adapter(&self, base_model: &str, task: &str) -> Result<v1::Adapter, Error> {
        let request = v1::GetAdapterRequest {
            base_model: base_model.to_owned(),
            task: task.to_owned(),
        };
        let answer = self.adapters().get_adapter(bounded(request)).await;
        present(self.read(answer)?.adapter, "adapter")
    }

    /// The adapters that have been merged, of one base model or of all, in order of task.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn list_adapters(&self, base_model: Option<&str>) -> Result<Vec<v1::Adapter>, Error> {
        let base_model = base_model.unwrap_or_default().to_owned();
        let mut pages = Pages::new();
        while let Some(page_token) = pages.next_token() {
            let request = v1::ListAdaptersRequest {
                base_model: base_model.clone(),
                page_size: SMALL_ITEMS,
                page_token,
            };
            let answer = self.adapters().list_adapters(bounded(request)).await;
            let page = self.read(answer)?;
            pages.add(page.adapters, page.next_page_token)?;
        }
        Ok(pages.items)
    }

    /// A job.
    ///
    /// # Errors
    /// Not found if there is no such job, or it ended long ago.
    pub async fn get_job(&self, id: u64) -> Result<v1::Job, Error> {
        let answer = self.jobs().get_job(bounded(v1::GetJobRequest { id })).await;
        present(self.read(answer)?.job, "job")
    }

    /// Jobs, the newest first, of one base model or of all, in one state or in any.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn list_jobs(
        &self,
        base_model: Option<&str>,
        state: Option<v1::JobState>,
    ) -> Result<Vec<v1::Job>, Error> {
        let base_model = base_model.unwrap_or_default().to_owned();
        let mut pages = Pages::new();
        while let Some(page_token) = pages.next_token() {
            let request = v1::ListJobsRequest {
                base_model: base_model.clone(),
                state: state.unwrap_or_default().into(),
                page_size: LARGE_ITEMS,
                page_token,
            };
            let answer = self.jobs().list_jobs(bounded(request)).await;
            let page = self.read(answer)?;
            pages.add(page.jobs, page.next_page_token)?;
        }
        Ok(pages.items)
    }

    /// Takes a queued job back.
    ///
    /// # Errors
    /// Refused if the job runs or has ended.
    pub async fn cancel_job(&self, id: u64) -> Result<v1::Job, Error> {
        let answer = self
            .jobs()
            .cancel_job(bounded(v1::CancelJobRequest { id }))
            .await;
        present(self.read(answer)?.job, "job")
    }

    /// The occupied slots, of one base model or of all, in order of base model and slot.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn list_slots(&self, base_model: Option<&str>) -> Result<Vec<v1::Slot>, Error> {
        let base_model = base_model.unwrap_or_default().to_owned();
        let mut pages = Pages::new();
        while let Some(page_token) = pages.next_token() {
            let request = v1::ListSlotsRequest {
                base_model: base_model.clone(),
                page_size: LARGE_ITEMS,
                page_token,
            };
            let answer = self.slots(ANSWER_BYTES).list_slots(bounded(request)).await;
            let page = self.read(answer)?;
            pages.add(page.slots, page.next_page_token)?;
        }
        Ok(pages.items)
    }

    /// One slot at its newest generation.
    ///
    /// # Errors
    /// Not found if the slot is free or there is no such base model.
    pub async fn get_slot(&self, base_model: &str, slot: u32) -> Result<v1::Slot, Error> {
        let request = v1::GetSlotRequest {
            base_model: base_model.to_owned(),
            slot,
        };
        let answer = self.slots(ANSWER_BYTES).get_slot(bounded(request)).await;
        present(self.read(answer)?.slot, "slot")
    }

    /// Which slot serves a task, and where its files are.
    ///
    /// # Errors
    /// Not found if no adapter of that task has been merged.
    pub async fn resolve_task(
        &self,
        base_model: &str,
        task: &str,
    ) -> Result<v1::ResolveTaskResponse, Error> {
        let request = v1::ResolveTaskRequest {
            base_model: base_model.to_owned(),
            task: task.to_owned(),
        };
        let answer = self
            .slots(ANSWER_BYTES)
            .resolve_task(bounded(request))
            .await;
        self.read(answer)
    }

    /// The runtimes that the daemon keeps up to date, in order of name.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn list_runtimes(&self) -> Result<Vec<v1::Runtime>, Error> {
        let mut pages = Pages::new();
        while let Some(page_token) = pages.next_token() {
            let request = v1::ListRuntimesRequest {
                page_size: FEW_ITEMS,
                page_token,
            };
            let answer = self.runtimes().list_runtimes(bounded(request)).await;
            let page = self.read(answer)?;
            pages.add(page.runtimes, page.next_page_token)?;
        }
        Ok(pages.items)
    }

    /// How the daemon is.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn get_status(&self) -> Result<v1::GetStatusResponse, Error> {
        let answer = self
            .admin()
            .get_status(bounded(v1::GetStatusRequest {}))
            .await;
        self.read(answer)
    }

    /// Whether the daemon takes calls, by grpc.health.v1.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn health(&self) -> Result<Health, Error> {
        let request = tonic_health::pb::HealthCheckRequest {
            service: String::new(),
        };
        let answer = HealthClient::new(self.link.clone())
            .check(bounded(request))
            .await;
        Ok(match self.read(answer)?.status() {
            ServingStatus::Serving => Health::Serving,
            ServingStatus::NotServing => Health::NotServing,
            ServingStatus::Unknown | ServingStatus::ServiceUnknown => Health::Unknown,
        })
    }

    pub(crate) fn base_models(&self) -> BaseModelServiceClient<Link> {
        BaseModelServiceClient::new(self.link.clone()).max_decoding_message_size(ANSWER_BYTES)
    }

    pub(crate) fn adapters(&self) -> AdapterServiceClient<Link> {
        AdapterServiceClient::new(self.link.clone())
            .max_decoding_message_size(ANSWER_BYTES)
            .max_encoding_message_size(limits::MAX_MESSAGE_BYTES)
    }

    pub(crate) fn admin(&self) -> AdminServiceClient<Link> {
        AdminServiceClient::new(self.link.clone()).max_decoding_message_size(ANSWER_BYTES)
    }

    pub(crate) fn jobs(&self) -> JobServiceClient<Link> {
        JobServiceClient::new(self.link.clone()).max_decoding_message_size(ANSWER_BYTES)
    }

    pub(crate) fn runtimes(&self) -> RuntimeServiceClient<Link> {
        RuntimeServiceClient::new(self.link.clone()).max_decoding_message_size(ANSWER_BYTES)
    }

    /// `limit`: the largest answer to read; exports come in messages of the contract's size.
    pub(crate) fn slots(&self, limit: usize) -> SlotServiceClient<Link> {
        SlotServiceClient::new(self.link.clone()).max_decoding_message_size(limit)
    }

    /// The answer, or what went wrong.
    pub(crate) fn read<A>(&self, answer: Result<Response<A>, Status>) -> Result<A, Error> {
        match answer {
            Ok(answer) => Ok(answer.into_inner()),
            Err(status) => Err(self.error(&status)),
        }
    }

    pub(crate) fn error(&self, status: &Status) -> Error {
        Error::from_status(status, &self.address)
    }
}

/// A request that is given up after a while.
pub(crate) fn bounded<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(CALL_TIMEOUT);
    request
}

/// A field that the contract promises.
pub(crate) fn present<T>(field: Option<T>, name: &'static str) -> Result<T, Error> {
    field.ok_or(Error::Protocol(Breach::Missing(name)))
}

fn is_other_than_socket(path: &Path) -> bool {
    path.metadata()
        .is_ok_and(|metadata| !metadata.file_type().is_socket())
}

/// A list that is read page by page.
struct Pages<T> {
    items: Vec<T>,
    token: Option<String>,
}

impl<T> Pages<T> {
    fn new() -> Self {
        Self {
            items: Vec::new(),
            token: Some(String::new()),
        }
    }

    /// The token of the next page to ask for; `None` at the end.
    fn next_token(&self) -> Option<String> {
        self.token.clone()
    }

    /// Takes a page in. A list that does not move on would never end, so it is an error.
    fn add(&mut self, items: Vec<T>, next: String) -> Result<(), Error> {
        if !next.is_empty() && self.token.as_ref() == Some(&next) {
            return Err(Error::Protocol(Breach::RepeatedPage));
        }
        self.items.extend(items);
        self.token = Some(next).filter(|token| !token.is_empty());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_asked_for_until_a_token_is_empty() {
        let mut pages = Pages::new();
        assert_eq!(pages.next_token().as_deref(), Some(""));
        pages.add(vec![1, 2], "2".into()).unwrap();
        assert_eq!(pages.next_token().as_deref(), Some("2"));
        pages.add(vec![3], String::new()).unwrap();
        assert_eq!(pages.next_token(), None);
        assert_eq!(pages.items, [1, 2, 3]);
    }

    #[test]
    fn a_list_that_does_not_move_on_is_an_error() {
        let mut pages = Pages::new();
        pages.add(vec![1], "1".into()).unwrap();
        let error = pages.add(vec![1], "1".into()).unwrap_err();
        assert!(
            matches!(error, Error::Protocol(Breach::RepeatedPage)),
            "{error:?}"
        );
    }

    #[test]
    fn a_promised_field_that_is_absent_is_an_error() {
        let error = present(None::<u8>, "job").unwrap_err();
        assert_eq!(
            error.to_string(),
            "kmerged answered against the contract: the answer has no job"
        );
    }
}
