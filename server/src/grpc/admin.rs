//! AdminService: convert, call, convert.

use std::sync::Arc;

use kmerge_proto::v1;
use tonic::{Request, Response, Status};

use super::caller::Caller;
use super::convert;
use super::runtimes::summary;
use super::watch::{self, Streaming};
use crate::backup::Backups;
use crate::error::ServerError;
use crate::runtimes::board::Board;
use crate::scrub::Scrubber;
use crate::serving::Serving;
use crate::shutdown::Stop;
use crate::status_report::{self, About};

/// Serves AdminService.
#[derive(Debug)]
pub(super) struct Admin {
    /// What does not change.
    pub(super) about: Arc<About>,
    /// What is known of runtimes.
    pub(super) board: Board,
    /// Gives the whole state out.
    pub(super) backups: Backups,
    /// Reads everything again.
    pub(super) scrubber: Scrubber,
    /// What is there.
    pub(super) serving: Serving,
    /// Whether kmerged stops, and why.
    pub(super) stop: Stop,
}

#[tonic::async_trait]
impl v1::admin_service_server::AdminService for Admin {
    async fn get_status(
        &self,
        request: Request<v1::GetStatusRequest>,
    ) -> Result<Response<v1::GetStatusResponse>, Status> {
        let caller = Caller::of(&request);
        let (serving, stop) = (self.serving.clone(), self.stop.clone());
        let report = tokio::task::spawn_blocking(move || status_report::report(&serving, &stop))
            .await
            .map_err(|_| ServerError::Panicked)??;
        let mut status = convert::status(&self.about, report);
        let states = self.board.states();
        status.runtimes = states.values().map(|state| summary(state)).collect();
        status.last_scrub = self.scrubber.last().map(convert::scrubbed);
        status.scrub = Some(convert::own_scrub(self.scrubber.own.state()));
        Ok(Response::new(caller.may_see(status)))
    }

    type ScrubStream = Streaming<v1::ScrubResponse>;

    async fn scrub(
        &self,
        request: Request<v1::ScrubRequest>,
    ) -> Result<Response<Self::ScrubStream>, Status> {
        let rate = request.into_inner().bytes_per_second;
        let states = self.scrubber.start((rate > 0).then_some(rate));
        Ok(watch::respond(states, |state| v1::ScrubResponse {
            scrubbed: Some(convert::scrubbed(state)),
        }))
    }

    async fn set_scrub(
        &self,
        request: Request<v1::SetScrubRequest>,
    ) -> Result<Response<v1::SetScrubResponse>, Status> {
        let paused = request.into_inner().paused;
        let own = Arc::clone(&self.scrubber.own);
        tokio::task::spawn_blocking(move || own.pause(paused))
            .await
            .map_err(|_| ServerError::Panicked)?
            .map_err(ServerError::Read)?;
        let scrub = Some(convert::own_scrub(self.scrubber.own.state()));
        Ok(Response::new(v1::SetScrubResponse { scrub }))
    }

    type BackupStream = Streaming<v1::BackupResponse>;

    async fn backup(
        &self,
        _: Request<v1::BackupRequest>,
    ) -> Result<Response<Self::BackupStream>, Status> {
        let parts = self.backups.start().await?;
        Ok(watch::respond(parts, convert::backup_part))
    }
}
