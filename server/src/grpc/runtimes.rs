//! RuntimeService: convert, call, convert.

use kmerge_proto::v1;
use tonic::{Request, Response, Status};

use super::caller::Caller;
use super::watch::{self, Streaming};
use crate::clock::timestamp;
use crate::facts::saturate;
use crate::pages::Page;
use crate::runtimes::board::{AdapterState, Board, Condition, RuntimeState};
use crate::runtimes::policy::Trouble;
use crate::watching::Watching;

/// Serves RuntimeService.
#[derive(Debug)]
pub(super) struct RuntimeCalls {
    /// What is known.
    pub(super) board: Board,
    /// Follows changes.
    pub(super) watching: Watching,
}

#[tonic::async_trait]
impl v1::runtime_service_server::RuntimeService for RuntimeCalls {
    async fn list_runtimes(
        &self,
        request: Request<v1::ListRuntimesRequest>,
    ) -> Result<Response<v1::ListRuntimesResponse>, Status> {
        let caller = Caller::of(&request);
        let request = request.into_inner();
        let page = Page::new(request.page_size, request.page_token)?;
        let states = self.board.states();
        let cut = page.cut(states.values(), |state| state.config.name.clone())?;
        Ok(Response::new(v1::ListRuntimesResponse {
            runtimes: cut
                .items
                .into_iter()
                .map(|state| caller.may_see(runtime(state)))
                .collect(),
            next_page_token: cut.next_page_token,
        }))
    }

    type WatchRuntimesStream = Streaming<v1::WatchRuntimesResponse>;

    async fn watch_runtimes(
        &self,
        request: Request<v1::WatchRuntimesRequest>,
    ) -> Result<Response<Self::WatchRuntimesStream>, Status> {
        let caller = Caller::of(&request);
        let name = request.into_inner().name;
        let name = (!name.is_empty()).then_some(name);
        let states = self.watching.runtimes(&self.board, name)?;
        Ok(watch::respond(states, move |state| {
            let runtime = caller.may_see(runtime(&state));
            v1::WatchRuntimesResponse {
                runtime: Some(runtime),
            }
        }))
    }
}

/// A runtime as the contract has it.
fn runtime(state: &RuntimeState) -> v1::Runtime {
    let config = &state.config;
    v1::Runtime {
        name: config.name.clone(),
        kind: config.kind.word().to_owned(),
        address: config
            .address
            .as_ref()
            .map(ToString::to_string)
            .unwrap_or_default(),
        base_model: config.selection.base_model.to_string(),
        condition: condition(state.condition).into(),
        adapters: state.adapters.iter().map(adapter).collect(),
        draining: state.draining.clone(),
        left_out: saturate(state.left_out),
        trouble: state.trouble.as_ref().map(trouble),
        answer_time: state.answered.map(timestamp),
        directory: state.directory.display().to_string(),
    }
}

/// A runtime in a few words.
pub(super) fn summary(state: &RuntimeState) -> v1::RuntimeSummary {
    v1::RuntimeSummary {
        name: state.config.name.clone(),
        kind: state.config.kind.word().to_owned(),
        condition: condition(state.condition).into(),
        adapters: saturate(state.adapters.len()),
        up_to_date: saturate(
            state
                .adapters
                .iter()
                .filter(|adapter| adapter.serving.as_ref() == Some(&adapter.name))
                .count(),
        ),
        message: state
            .trouble
            .as_ref()
            .map(|trouble| trouble.what.clone())
            .unwrap_or_default(),
    }
}

fn adapter(state: &AdapterState) -> v1::RuntimeAdapter {
    v1::RuntimeAdapter {
        alias: state.alias.clone(),
        tasks: state.tasks.iter().map(ToString::to_string).collect(),
        slot: state.slot.0,
        generation: state.generation.0,
        name: state.name.clone(),
        serving: state.serving.clone().unwrap_or_default(),
        trouble: state.trouble.as_ref().map(trouble),
    }
}

fn trouble(trouble: &Trouble) -> v1::RuntimeTrouble {
    v1::RuntimeTrouble {
        message: trouble.what.clone(),
        failures: trouble.failures,
        time: Some(timestamp(trouble.at)),
        retry_time: Some(timestamp(trouble.until)),
    }
}

fn condition(condition: Condition) -> v1::RuntimeCondition {
    match condition {
        Condition::Starting => v1::RuntimeCondition::Starting,
        Condition::Ready => v1::RuntimeCondition::Ready,
        Condition::Working => v1::RuntimeCondition::Working,
        Condition::Troubled => v1::RuntimeCondition::Troubled,
        Condition::Unreachable => v1::RuntimeCondition::Unreachable,
    }
}
