//! BaseModelService: convert, call, convert.

use kmerge_proto::v1;
use tonic::{Request, Response, Status};

use super::convert;
use crate::base_models::BaseModels;
use crate::maintenance::Upkeep;
use crate::pages::Page;
use crate::serving::Serving;

/// Serves BaseModelService.
#[derive(Debug)]
pub(super) struct BaseModelCalls {
    /// Registers.
    pub(super) base_models: BaseModels,
    /// Jobs that bring no adapter.
    pub(super) upkeep: Upkeep,
    /// What is there.
    pub(super) serving: Serving,
}

#[tonic::async_trait]
impl v1::base_model_service_server::BaseModelService for BaseModelCalls {
    async fn register_base_model(
        &self,
        request: Request<v1::RegisterBaseModelRequest>,
    ) -> Result<Response<v1::RegisterBaseModelResponse>, Status> {
        let registration = convert::registration(request.into_inner())?;
        let name = self.base_models.register(registration).await?;
        let base_model = convert::base_model_message(&*self.serving.base_model(&name)?)?;
        Ok(Response::new(v1::RegisterBaseModelResponse {
            base_model: Some(base_model),
        }))
    }

    async fn get_base_model(
        &self,
        request: Request<v1::GetBaseModelRequest>,
    ) -> Result<Response<v1::GetBaseModelResponse>, Status> {
        let name = convert::name(&request.into_inner().name)?;
        let base_model = convert::base_model_message(&*self.serving.base_model(&name)?)?;
        Ok(Response::new(v1::GetBaseModelResponse {
            base_model: Some(base_model),
        }))
    }

    async fn list_base_models(
        &self,
        request: Request<v1::ListBaseModelsRequest>,
    ) -> Result<Response<v1::ListBaseModelsResponse>, Status> {
        let request = request.into_inner();
        let page = Page::new(request.page_size, request.page_token)?;
        let cut = self.serving.base_models(&page)?;
        let cut = cut.try_map(|state| convert::base_model_message(&state))?;
        Ok(Response::new(v1::ListBaseModelsResponse {
            base_models: cut.items,
            next_page_token: cut.next_page_token,
        }))
    }

    async fn set_budget(
        &self,
        request: Request<v1::SetBudgetRequest>,
    ) -> Result<Response<v1::SetBudgetResponse>, Status> {
        let request = request.into_inner();
        let base_model = convert::base_model(&request.base_model)?;
        let wish = convert::budget(&request)?;
        let how = convert::request(request.request_id, request.validate_only)?;
        let done = self.upkeep.settle(base_model, &wish, how).await?;
        Ok(Response::new(v1::SetBudgetResponse {
            change: done.change.as_ref().map(convert::change),
            job: convert::job_of(&self.serving, done.job.as_ref())?,
        }))
    }
}
