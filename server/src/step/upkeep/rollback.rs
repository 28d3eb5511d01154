//! Letting a slot hold again exactly what an earlier generation held.

use kmerge_merge::MergeError;
use kmerge_storage::{BaseModelState, Generation, GenerationRecord, PlacedMember, SlotIndex};

use super::super::Tools;
use super::super::progressive::beside;
use super::{Content, Decided, Work, open_slot};
use crate::error::ServerError;
use crate::facts::{self, ChangeFacts};
use crate::packs;

pub(super) fn decide(
    slot: SlotIndex,
    to: Generation,
    base_model: &BaseModelState,
    tools: &Tools,
) -> Result<Decided, ServerError> {
    let policy = facts::policy(&base_model.record)?;
    let state = open_slot(slot, base_model, &policy)?;
    let current = state.current();
    let of = state
        .generations
        .get(&to)
        .filter(|record| record.generation < current.generation)
        .ok_or_else(|| ServerError::UnknownGeneration {
            base_model: base_model.record.name.clone(),
            slot,
            generation: to,
            current: current.generation,
        })?;
    let members = members_then(of, base_model, tools)?;
    let (needed, allowed) = if packs::is_packed(of)? {
        let head = tools.packs.open(of)?.packed;
        let needed = of.bytes + beside(base_model, None).of(members.len());
        (needed, Some(policy.slot_budget(head.budget)))
    } else {
        let all = base_model.slots.values().map(|slot| slot.current().bytes);
        (
            all.sum::<u64>() - current.bytes + of.bytes,
            policy.max_bytes,
        )
    };
    if let Some(allowed) = allowed.filter(|&allowed| needed > allowed) {
        return Err(MergeError::OverBudget { needed, allowed }.into());
    }
    let forgotten: Vec<String> = state
        .members
        .iter()
        .filter(|member| !members.iter().any(|then| then.task == member.task))
        .map(|member| member.task.to_string())
        .collect();
    let reason = match forgotten.as_slice() {
        [] => format!("slot {slot} holds again what it held at generation {to}"),
        [task] => {
            format!("slot {slot} holds again what it held at generation {to}, before {task} came")
        }
        several => format!(
            "slot {slot} holds again what it held at generation {to}, before {} tasks came",
            several.len()
        ),
    };
    let work = Work {
        slot,
        expected: Some(current.generation),
        content: Content::Same {
            of: of.as_ref().clone(),
            members,
        },
    };
    Ok(Decided {
        change: ChangeFacts {
            slots: vec![work.facts(base_model)],
            forgotten,
            reason,
        },
        work: vec![work],
        settings: None,
    })
}

/// The members of an earlier generation, if all of them are still in its slot and the same.
pub(super) fn members_then(
    of: &GenerationRecord,
    base_model: &BaseModelState,
    tools: &Tools,
) -> Result<Vec<PlacedMember>, ServerError> {
    let members = tools.reader.generation_members(of)?;
    for member in &members {
        let stays = base_model
            .tasks
            .get(&member.task)
            .is_some_and(|task| task.slot == of.slot && task.generation <= of.generation);
        if !stays {
            return Err(ServerError::CannotReturn {
                slot: of.slot,
                generation: of.generation,
                task: member.task.clone(),
            });
        }
    }
    Ok(members)
}
