//! JobService: convert, call, convert.

use kmerge_proto::v1;
use kmerge_storage::{JobId, JobState};

use tonic::{Request, Response, Status};

use super::convert;
use super::watch::{self, Streaming};
use crate::owner::Owner;
use crate::pages::Page;
use crate::serving::Serving;
use crate::watching::Watching;

/// Serves JobService.
#[derive(Debug)]
pub(super) struct Jobs {
    /// What is there.
    pub(super) serving: Serving,
    /// Takes jobs back.
    pub(super) owner: Owner,
    /// Follows changes.
    pub(super) watching: Watching,
}

#[tonic::async_trait]
impl v1::job_service_server::JobService for Jobs {
    async fn get_job(
        &self,
        request: Request<v1::GetJobRequest>,
    ) -> Result<Response<v1::GetJobResponse>, Status> {
        let job = self.serving.job(JobId(request.into_inner().id))?;
        Ok(Response::new(v1::GetJobResponse {
            job: Some(convert::job(job)),
        }))
    }

    async fn list_jobs(
        &self,
        request: Request<v1::ListJobsRequest>,
    ) -> Result<Response<v1::ListJobsResponse>, Status> {
        let request = request.into_inner();
        let state: Option<JobState> = convert::state_filter(request.state)?;
        let base_model = convert::filter(&request.base_model)?;
        let page = Page::new(request.page_size, request.page_token)?;
        let cut = self.serving.jobs(base_model.as_ref(), state, &page)?;
        Ok(Response::new(v1::ListJobsResponse {
            jobs: cut.items.into_iter().map(convert::job).collect(),
            next_page_token: cut.next_page_token,
        }))
    }

    type WatchJobStream = Streaming<v1::WatchJobResponse>;

    async fn watch_job(
        &self,
        request: Request<v1::WatchJobRequest>,
    ) -> Result<Response<Self::WatchJobStream>, Status> {
        let jobs = self.watching.job(JobId(request.into_inner().id))?;
        Ok(watch::respond(jobs, |job| v1::WatchJobResponse {
            job: Some(convert::job(job)),
        }))
    }

    async fn cancel_job(
        &self,
        request: Request<v1::CancelJobRequest>,
    ) -> Result<Response<v1::CancelJobResponse>, Status> {
        let id = JobId(request.into_inner().id);
        self.owner.cancel(id).await?;
        let job = self.serving.job(id)?;
        Ok(Response::new(v1::CancelJobResponse {
            job: Some(convert::job(job)),
        }))
    }
}
