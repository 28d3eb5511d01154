//! Requests for jobs that bring no adapter: forgetting, rolling back, other budgets, pins.
//!
//! Each is looked at as things are, which answers what it would do and refuses early what cannot be
//! done, and is then put into the same queue as uploads: what was accepted before is decided before.

use std::sync::Arc;

use kmerge_storage::{
    BaseModelName, BaseModelState, Catalog, Generation, JobKind, JobRecord, SlotIndex, TaskName,
};
use tokio::sync::watch;

use crate::error::ServerError;
use crate::facts::ChangeFacts;
use crate::owner::{Maintenance, Owner};
use crate::step::{self, Tools, Wish};
use crate::watching::on_blocking_thread;

/// How something is asked for.
#[derive(Debug, Clone, Default)]
pub struct Request {
    /// The client's id for this request.
    pub request_id: Option<String>,
    /// Say what it would do, but change nothing.
    pub validate_only: bool,
}

/// What became of a request.
#[derive(Debug)]
pub struct Maintained {
    /// Its job, durably; none if it was only asked about.
    pub job: Option<Arc<JobRecord>>,
    /// What it does, as things are; none if jobs before it decide that.
    pub change: Option<ChangeFacts>,
}

/// Takes requests.
#[derive(Debug, Clone)]
pub struct Upkeep {
    /// Makes jobs.
    pub owner: Owner,
    /// The catalog as it is now.
    pub view: watch::Receiver<Arc<Catalog>>,
    /// Reads slots.
    pub tools: Tools,
    /// Threads for looking ahead, apart from the merges, which would make it wait.
    pub pool: Arc<rayon::ThreadPool>,
}

impl Upkeep {
    /// Takes a task out of its slot.
    ///
    /// # Errors
    /// If there is no such task, its slot is pinned, or an average cannot give it back.
    pub async fn forget(
        &self,
        base_model: BaseModelName,
        task: TaskName,
        request: Request,
    ) -> Result<Maintained, ServerError> {
        self.ask(base_model, JobKind::Forget { task }, request)
            .await
    }

    /// Lets a slot hold again what it held at a generation; `None` is the newest of the earlier ones.
    ///
    /// # Errors
    /// If the slot is empty or pinned, the generation is not kept, or its members cannot return.
    pub async fn roll_back(
        &self,
        base_model: BaseModelName,
        slot: SlotIndex,
        to: Option<Generation>,
        request: Request,
    ) -> Result<Maintained, ServerError> {
        let to = match to {
            Some(to) => to,
            None => newest_before(&*self.base_model(&base_model)?, slot)?,
        };
        self.ask(base_model, JobKind::Rollback { slot, to }, request)
            .await
    }

    /// Changes the settings of a base model.
    ///
    /// # Errors
    /// If a value is out of range, pinned slots are in the way, or the members cannot be kept.
    pub async fn settle(
        &self,
        base_model: BaseModelName,
        wish: &Wish,
        request: Request,
    ) -> Result<Maintained, ServerError> {
        let settings = wish.to_json();
        self.ask(base_model, JobKind::Repack { settings }, request)
            .await
    }

    async fn ask(
        &self,
        base_model: BaseModelName,
        kind: JobKind,
        request: Request,
    ) -> Result<Maintained, ServerError> {
        let state = self.base_model(&base_model)?;
        let catalog = Arc::clone(&self.view.borrow());
        let known = request.request_id.as_deref();
        let is_repeated = known.is_some_and(|id| catalog.job_by_request(id).is_some());
        let waits = catalog
            .unfinished_jobs()
            .any(|job| job.base_model == base_model);
        let change = if is_repeated && !request.validate_only {
            None
        } else {
            match self.foresee(state, kind.clone()).await {
                Ok(change) => Some(change),
                // What stands in the way may be gone when its turn comes.
                Err(_) if waits && !request.validate_only => None,
                Err(error) => return Err(error),
            }
        };
        if request.validate_only {
            return Ok(Maintained { job: None, change });
        }
        let order = Maintenance {
            base_model,
            kind,
            request_id: request.request_id,
        };
        let job = self.owner.maintain(order).await?.job;
        Ok(Maintained {
            job: Some(job),
            change,
        })
    }

    async fn foresee(
        &self,
        state: Arc<BaseModelState>,
        kind: JobKind,
    ) -> Result<ChangeFacts, ServerError> {
        let (tools, pool) = (self.tools.clone(), Arc::clone(&self.pool));
        on_blocking_thread(move || pool.install(|| step::foresee(&kind, &state, &tools))).await
    }

    fn base_model(&self, name: &BaseModelName) -> Result<Arc<BaseModelState>, ServerError> {
        let catalog = self.view.borrow();
        let found = catalog.base_models.get(name).cloned();
        found.ok_or_else(|| ServerError::unknown_base_model(name))
    }
}

fn newest_before(base_model: &BaseModelState, slot: SlotIndex) -> Result<Generation, ServerError> {
    let name = &base_model.record.name;
    let state = base_model
        .slots
        .get(&slot)
        .ok_or_else(|| ServerError::unknown_slot(name, slot))?;
    crate::serving::earlier_generations(state)
        .next()
        .ok_or_else(|| ServerError::NothingEarlier {
            base_model: name.clone(),
            slot,
            current: state.current().generation,
        })
}
