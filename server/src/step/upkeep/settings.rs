//! Other settings for a base model: its budget, and which slots are pinned. Its slots follow at once.

use std::collections::BTreeMap;

use kmerge_merge::Policy;
use kmerge_merge::progressive::{Packing, repack};
use kmerge_storage::{BaseModelState, SlotIndex};
use serde::{Deserialize, Serialize};

use super::super::progressive::{Slots, beside};
use super::super::{Report, Tools};
use super::{Content, Decided, Work, unite};
use crate::base_models::{PolicyWish, settle};
use crate::error::ServerError;
use crate::facts::{self, ChangeFacts};

/// What is to change; what is absent stays. Kept with the job until it runs, so that jobs which wait
/// for each other do not undo each other's changes.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Wish {
    /// K.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slots: Option<u32>,
    /// In bytes; 0 is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_bytes: Option<u64>,
    /// In bytes; 0 is each slot's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slot_bytes: Option<u64>,
    /// A retention.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub floor: Option<f64>,
    /// A slot that is to stay as it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pin: Option<u32>,
    /// A slot that may change again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unpin: Option<u32>,
}

impl Wish {
    pub(super) fn read(text: &str, base_model: &BaseModelState) -> Result<Self, ServerError> {
        let whose = base_model.record.name.as_ref();
        facts::parse(text, "a change of the settings of base model", whose)
    }

    /// As a job keeps it.
    #[must_use]
    pub fn to_json(&self) -> String {
        facts::to_json(self)
    }

    /// The policy with what is wished.
    fn applied(&self, base_model: &BaseModelState) -> Result<Policy, ServerError> {
        let policy = facts::policy(&base_model.record)?;
        let wish = PolicyWish {
            slots: self.slots,
            max_bytes: self.max_bytes,
            slot_bytes: self.slot_bytes,
            floor: self.floor,
            ..PolicyWish::default()
        };
        let mut policy = settle(&wish, &policy, policy.assignment.threshold())?;
        if let Some(slot) = self.pin {
            if !base_model.slots.contains_key(&SlotIndex(slot)) {
                let name = &base_model.record.name;
                return Err(ServerError::unknown_slot(name, SlotIndex(slot)));
            }
            policy.pinned.insert(slot);
        }
        if let Some(slot) = self.unpin {
            policy.pinned.remove(&slot);
        }
        Ok(policy)
    }
}

pub(super) fn decide(
    wish: &Wish,
    base_model: &BaseModelState,
    tools: &Tools,
    report: Report<'_>,
) -> Result<Decided, ServerError> {
    let before = facts::policy(&base_model.record)?;
    let policy = wish.applied(base_model)?;
    let work = if policy.operator.is_progressive() {
        repacked(&policy, base_model, tools)?
    } else {
        unite::decide(&policy, base_model, tools, report)?
    };
    let slots = work.iter().map(|work| work.facts(base_model)).collect();
    Ok(Decided {
        change: ChangeFacts {
            slots,
            forgotten: Vec::new(),
            reason: reason(wish, &before, &policy, &work),
        },
        work,
        settings: Some(policy),
    })
}

/// Slots that keep their members apart, under another policy.
fn repacked(
    policy: &Policy,
    base_model: &BaseModelState,
    tools: &Tools,
) -> Result<Vec<Work>, ServerError> {
    let slots = Slots::open(base_model, tools)?;
    let repacking = repack(policy, &slots.views(), beside(base_model, None))?;
    let expected = |slot: u32| {
        let state = base_model.slots.get(&SlotIndex(slot));
        state.map(|state| state.current().generation)
    };
    let written = repacking.written.into_iter().map(|packing| {
        let budget = packing.packed.budget;
        (packing.slot, Content::Packed { packing, budget })
    });
    let emptied = repacking.emptied.into_iter();
    let contents: BTreeMap<u32, Content> = written
        .chain(emptied.map(|slot| (slot, Content::Nothing)))
        .collect();
    let work = contents.into_iter().map(|(slot, content)| Work {
        slot: SlotIndex(slot),
        expected: expected(slot),
        content,
    });
    Ok(work.collect())
}

/// One sentence: what was changed, and what that did to the slots.
fn reason(wish: &Wish, before: &Policy, after: &Policy, work: &[Work]) -> String {
    let mut changes = Vec::new();
    let bytes = |bytes: Option<u64>, none: &str| {
        bytes.map_or_else(|| none.to_owned(), |bytes| bytes.to_string())
    };
    if before.slots != after.slots {
        changes.push(format!("slots {} to {}", before.slots, after.slots));
    }
    if before.max_bytes != after.max_bytes {
        let word = |limit| bytes(limit, "no limit");
        let (from, to) = (word(before.max_bytes), word(after.max_bytes));
        changes.push(format!("bytes in all {from} to {to}"));
    }
    if before.slot_bytes != after.slot_bytes {
        let word = |limit| bytes(limit, "its own");
        let (from, to) = (word(before.slot_bytes), word(after.slot_bytes));
        changes.push(format!("bytes of a slot {from} to {to}"));
    }
    if before.floor.to_bits() != after.floor.to_bits() {
        changes.push(format!("floor {} to {}", before.floor, after.floor));
    }
    if let Some(slot) = wish.pin {
        changes.push(format!("slot {slot} is pinned"));
    }
    if let Some(slot) = wish.unpin {
        changes.push(format!("slot {slot} is not pinned"));
    }
    if changes.is_empty() {
        changes.push("the settings are what they were".to_owned());
    }
    let emptied = work
        .iter()
        .filter(|work| matches!(work.content, Content::Nothing))
        .count();
    let effect = match (work.len() - emptied, emptied) {
        (0, 0) => "no slot changes".to_owned(),
        (written, 0) => format!("{} written anew", counted(written)),
        (0, emptied) => format!("{} emptied", counted(emptied)),
        (written, emptied) => format!(
            "{} emptied and {} written anew",
            counted(emptied),
            counted(written)
        ),
    };
    let worst = work
        .iter()
        .filter_map(|work| match &work.content {
            Content::Packed { packing, .. } => Some(packing),
            Content::Nothing | Content::Same { .. } | Content::Average { .. } => None,
        })
        .flat_map(worst)
        .min_by(f64::total_cmp);
    let worst = worst.map_or_else(String::new, |worst| {
        format!("; the task that is kept worst keeps a retention of {worst:.3}")
    });
    format!("{}: {effect}{worst}", changes.join(", "))
}

fn counted(slots: usize) -> String {
    match slots {
        1 => "1 slot is".to_owned(),
        slots => format!("{slots} slots are"),
    }
}

fn worst(packing: &Packing) -> Option<f64> {
    let retentions = packing.costs.iter().map(|cost| cost.after.retention);
    retentions.min_by(f64::total_cmp)
}
