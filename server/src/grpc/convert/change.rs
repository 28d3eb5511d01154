//! Jobs that bring no adapter: their requests, and what they do.

use kmerge_proto::{limits, v1};
use kmerge_storage::{EmptiedRecord, Generation, JobKind};

use super::{bounded, cost};
use crate::error::ServerError;
use crate::facts::{ChangeFacts, SlotChangeFacts};
use crate::maintenance::Request;
use crate::step::Wish;

/// How something is asked for.
pub(in super::super) fn request(
    request_id: String,
    validate_only: bool,
) -> Result<Request, ServerError> {
    bounded("request_id", request_id.len(), limits::MAX_REQUEST_ID_BYTES)?;
    Ok(Request {
        request_id: (!request_id.is_empty()).then_some(request_id),
        validate_only,
    })
}

/// A generation, or 0 for none in particular.
pub(in super::super) fn generation(number: u64) -> Option<Generation> {
    (number > 0).then_some(Generation(number))
}

/// Another budget. One that asks for nothing is refused: its author meant something else.
pub(in super::super) fn budget(request: &v1::SetBudgetRequest) -> Result<Wish, ServerError> {
    let wish = Wish {
        slots: request.slots,
        max_bytes: request.max_bytes,
        slot_bytes: request.slot_bytes,
        floor: request.floor,
        ..Wish::default()
    };
    if wish == Wish::default() {
        return Err(ServerError::Field {
            field: "slots",
            problem: "is absent, and so are max_bytes, slot_bytes and floor: set one of them"
                .into(),
        });
    }
    Ok(wish)
}

/// A pin.
pub(in super::super) fn pin(request: &v1::PinSlotRequest) -> Wish {
    let slot = Some(request.slot);
    if request.pinned.unwrap_or(true) {
        Wish {
            pin: slot,
            ..Wish::default()
        }
    } else {
        Wish {
            unpin: slot,
            ..Wish::default()
        }
    }
}

pub(super) fn kind(kind: &JobKind) -> v1::JobKind {
    match kind {
        JobKind::Upload => v1::JobKind::Upload,
        JobKind::Forget { .. } => v1::JobKind::Forget,
        JobKind::Rollback { .. } => v1::JobKind::Rollback,
        JobKind::Repack { .. } => v1::JobKind::Settings,
    }
}

/// What a job does or did.
pub(in super::super) fn change(change: &ChangeFacts) -> v1::Change {
    v1::Change {
        slots: change.slots.iter().map(slot).collect(),
        forgotten_tasks: change.forgotten.clone(),
        reason: change.reason.clone(),
    }
}

fn slot(change: &SlotChangeFacts) -> v1::SlotChange {
    v1::SlotChange {
        slot: change.slot,
        generation: change.generation,
        emptied: change.emptied,
        bytes_before: change.bytes_before,
        bytes: change.bytes,
        tasks: change.tasks,
        budget_bytes: change.budget,
        costs: change.costs.iter().map(cost).collect(),
    }
}

/// A slot that holds nothing any more.
pub(super) fn emptied(record: &EmptiedRecord) -> v1::EmptiedSlot {
    v1::EmptiedSlot {
        base_model: record.base_model.to_string(),
        slot: record.slot.0,
        generation: record.generation.0,
    }
}
