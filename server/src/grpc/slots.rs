//! SlotService: convert, call, convert.

use kmerge_proto::v1;
use kmerge_storage::{Revision, SlotIndex};
use tonic::{Request, Response, Status};

use super::caller::Caller;
use super::convert;
use super::watch::{self, Streaming};
use crate::maintenance::Upkeep;
use crate::pages::Page;
use crate::serving::{ExportOf, Serving};
use crate::watching::{self, Watching};

/// Serves SlotService.
#[derive(Debug)]
pub(super) struct Slots {
    /// What is there.
    pub(super) serving: Serving,
    /// Jobs that bring no adapter.
    pub(super) upkeep: Upkeep,
    /// Follows changes.
    pub(super) watching: Watching,
}

#[tonic::async_trait]
impl v1::slot_service_server::SlotService for Slots {
    async fn list_slots(
        &self,
        request: Request<v1::ListSlotsRequest>,
    ) -> Result<Response<v1::ListSlotsResponse>, Status> {
        let caller = Caller::of(&request);
        let request = request.into_inner();
        let base_model = convert::filter(&request.base_model)?;
        let page = Page::new(request.page_size, request.page_token)?;
        let cut = self.serving.slots(base_model.as_ref(), &page)?;
        Ok(Response::new(v1::ListSlotsResponse {
            slots: cut
                .items
                .into_iter()
                .map(|slot| caller.may_see(convert::slot(slot)))
                .collect(),
            next_page_token: cut.next_page_token,
        }))
    }

    async fn get_slot(
        &self,
        request: Request<v1::GetSlotRequest>,
    ) -> Result<Response<v1::GetSlotResponse>, Status> {
        let caller = Caller::of(&request);
        let request = request.into_inner();
        let base_model = convert::base_model(&request.base_model)?;
        let slot = self.serving.slot(&base_model, SlotIndex(request.slot))?;
        Ok(Response::new(v1::GetSlotResponse {
            slot: Some(caller.may_see(convert::slot(slot))),
        }))
    }

    type WatchSlotsStream = Streaming<v1::WatchSlotsResponse>;

    async fn watch_slots(
        &self,
        request: Request<v1::WatchSlotsRequest>,
    ) -> Result<Response<Self::WatchSlotsStream>, Status> {
        let caller = Caller::of(&request);
        let request = request.into_inner();
        let base_model = convert::filter(&request.base_model)?;
        let slots = self
            .watching
            .slots(base_model, Revision(request.after_revision))?;
        Ok(watch::respond(slots, move |event| {
            caller.may_see(convert::slot_event(event))
        }))
    }

    async fn resolve_task(
        &self,
        request: Request<v1::ResolveTaskRequest>,
    ) -> Result<Response<v1::ResolveTaskResponse>, Status> {
        let caller = Caller::of(&request);
        let request = request.into_inner();
        let base_model = convert::base_model(&request.base_model)?;
        let task = convert::task(&request.task)?;
        let resolved = if self.serving.resolves_at_once(&base_model, &task) {
            self.serving.resolve(&base_model, &task)?
        } else {
            let serving = self.serving.clone();
            watching::on_blocking_thread(move || serving.resolve(&base_model, &task)).await?
        };
        Ok(Response::new(
            caller.may_see(convert::resolved(request, &resolved)),
        ))
    }

    type FetchSlotStream = Streaming<v1::FetchSlotResponse>;

    async fn fetch_slot(
        &self,
        request: Request<v1::FetchSlotRequest>,
    ) -> Result<Response<Self::FetchSlotStream>, Status> {
        let request = request.into_inner();
        let format = convert::format(request.format)?;
        let generation = convert::generation(request.generation);
        let base_model = convert::base_model(&request.base_model)?;
        let of = if request.task.is_empty() {
            ExportOf::Slot(SlotIndex(request.slot))
        } else {
            ExportOf::Task(convert::task(&request.task)?)
        };
        let parts = self.watching.export(base_model, of, generation, format);
        Ok(watch::respond(parts, convert::export_part))
    }

    async fn rollback_slot(
        &self,
        request: Request<v1::RollbackSlotRequest>,
    ) -> Result<Response<v1::RollbackSlotResponse>, Status> {
        let request = request.into_inner();
        let base_model = convert::base_model(&request.base_model)?;
        let how = convert::request(request.request_id, request.validate_only)?;
        let (slot, to) = (
            SlotIndex(request.slot),
            convert::generation(request.generation),
        );
        let done = self.upkeep.roll_back(base_model, slot, to, how).await?;
        Ok(Response::new(v1::RollbackSlotResponse {
            change: done.change.as_ref().map(convert::change),
            job: convert::job_of(&self.serving, done.job.as_ref())?,
        }))
    }

    async fn pin_slot(
        &self,
        request: Request<v1::PinSlotRequest>,
    ) -> Result<Response<v1::PinSlotResponse>, Status> {
        let request = request.into_inner();
        let base_model = convert::base_model(&request.base_model)?;
        let wish = convert::pin(&request);
        let how = convert::request(request.request_id, false)?;
        let done = self.upkeep.settle(base_model, &wish, how).await?;
        Ok(Response::new(v1::PinSlotResponse {
            job: convert::job_of(&self.serving, done.job.as_ref())?,
        }))
    }
}
