//! Jobs that bring no adapter: forgetting, rolling back, pins, other budgets.
//!
//! Each call makes a job, or only says what it would do. A call that is repeated with the same
//! request id gives the first one's job.

use kmerge_proto::v1;

use crate::client::{ANSWER_BYTES, Client, bounded};
use crate::error::Error;

/// What came of a call.
#[derive(Debug, Clone, PartialEq)]
pub struct Maintained {
    /// The job; none if it was only asked what it would do.
    pub job: Option<v1::Job>,
    /// What it does, as things were when it was asked for; none if jobs before it decide that.
    pub change: Option<v1::Change>,
}

impl Client {
    /// Takes a task out of its slot.
    ///
    /// # Errors
    /// Not found if there is no such task; refused if its slot is pinned or an average that cannot
    /// be undone.
    pub async fn forget_task(&self, request: v1::ForgetTaskRequest) -> Result<Maintained, Error> {
        let answer = self.adapters().forget_task(bounded(request)).await;
        let v1::ForgetTaskResponse { job, change } = self.read(answer)?;
        Ok(Maintained { job, change })
    }

    /// Lets a slot hold again what an earlier generation held.
    ///
    /// # Errors
    /// Not found if the slot is free or the generation gone; refused if the slot is pinned or what
    /// it held then has been forgotten or has moved.
    pub async fn rollback_slot(
        &self,
        request: v1::RollbackSlotRequest,
    ) -> Result<Maintained, Error> {
        let answer = self
            .slots(ANSWER_BYTES)
            .rollback_slot(bounded(request))
            .await;
        let v1::RollbackSlotResponse { job, change } = self.read(answer)?;
        Ok(Maintained { job, change })
    }

    /// Pins a slot, or unpins it.
    ///
    /// # Errors
    /// Not found if the slot is free.
    pub async fn pin_slot(&self, request: v1::PinSlotRequest) -> Result<Maintained, Error> {
        let answer = self.slots(ANSWER_BYTES).pin_slot(bounded(request)).await;
        let v1::PinSlotResponse { job } = self.read(answer)?;
        Ok(Maintained { job, change: None })
    }

    /// Changes how many slots a base model has, and how many bytes.
    ///
    /// # Errors
    /// Refused if a value is out of range, a pinned slot is in the way, or the members cannot be
    /// kept.
    pub async fn set_budget(&self, request: v1::SetBudgetRequest) -> Result<Maintained, Error> {
        let answer = self.base_models().set_budget(bounded(request)).await;
        let v1::SetBudgetResponse { job, change } = self.read(answer)?;
        Ok(Maintained { job, change })
    }
}
