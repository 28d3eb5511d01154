//! Taking a task out of its slot.
//!
//! A slot that keeps its members apart drops one and leaves the others as they are. An average cannot
//! be undone, but the generation before its newest member can come back as long as it is there.

use kmerge_merge::progressive::without;
use kmerge_storage::{BaseModelState, Generation, SlotState, TaskName};

use super::super::Tools;
use super::super::progressive::Slots;
use super::{Content, Decided, Work, open_slot, rollback};
use crate::error::ServerError;
use crate::facts::{self, ChangeFacts};
use crate::packs;

pub(super) fn decide(
    task: &TaskName,
    base_model: &BaseModelState,
    tools: &Tools,
) -> Result<Decided, ServerError> {
    let unknown = || ServerError::unknown_task(&base_model.record.name, task);
    let record = base_model.tasks.get(task).ok_or_else(unknown)?;
    let slot = record.slot;
    let policy = facts::policy(&base_model.record)?;
    let state = open_slot(slot, base_model, &policy)?;
    let current = state.current();
    let (content, reason) = if state.members.len() == 1 {
        let reason = format!("{task} was all that slot {slot} held, so it is empty");
        (Content::Nothing, reason)
    } else if packs::is_packed(current)? {
        let slots = Slots::open(base_model, tools)?;
        let packing = without(&slots.views(), slot.0, task.as_str()).ok_or_else(unknown)?;
        let given_back = current.bytes.saturating_sub(packing.packed.bytes());
        let budget = policy.slot_budget(packing.packed.budget);
        let reason = format!(
            "slot {slot} gives back {given_back} bytes, and its other tasks are kept as they were"
        );
        (Content::Packed { packing, budget }, reason)
    } else {
        let before = before_newest(task, state)
            .and_then(|generation| state.generations.get(&generation))
            .ok_or_else(|| ServerError::InAverage {
                task: task.clone(),
                slot,
            })?;
        let members = rollback::members_then(before, base_model, tools)?;
        let reason = format!(
            "{task} was the last to come, so slot {slot} holds again what it held at generation {}",
            before.generation
        );
        let of = before.as_ref().clone();
        (Content::Same { of, members }, reason)
    };
    let work = Work {
        slot,
        expected: Some(current.generation),
        content,
    };
    Ok(Decided {
        change: ChangeFacts {
            slots: vec![work.facts(base_model)],
            forgotten: vec![task.to_string()],
            reason,
        },
        work: vec![work],
        settings: None,
    })
}

/// The generation that a slot had before its newest member came, if that is this task and nothing
/// else has changed since.
fn before_newest(task: &TaskName, state: &SlotState) -> Option<Generation> {
    let newest = state.members.last()?;
    let current = state.current().generation;
    let is_newest = newest.task == *task && newest.generation == current;
    is_newest.then(|| Generation(current.0 - 1))
}
