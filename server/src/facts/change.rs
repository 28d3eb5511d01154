//! What a job that brings no adapter did, as it is kept with the job.

use kmerge_merge::progressive::MemberCost;
use kmerge_storage::JobRecord;
use serde::{Deserialize, Serialize};

use super::{CostFacts, parse};
use crate::error::ServerError;

/// What became of the slots of a base model.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ChangeFacts {
    /// The slots that changed, by number.
    pub slots: Vec<SlotChangeFacts>,
    /// Tasks that are in no slot any more.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub forgotten: Vec<String>,
    /// One sentence for people.
    pub reason: String,
}

/// What became of one slot.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SlotChangeFacts {
    /// Its number.
    pub slot: u32,
    /// The number that its new state has.
    pub generation: u64,
    /// Whether it holds nothing any more.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub emptied: bool,
    /// Bytes of its tensors before.
    pub bytes_before: u64,
    /// Bytes of its tensors now.
    pub bytes: u64,
    /// How many tasks it holds now.
    pub tasks: u32,
    /// Bytes that it may take, where it has a budget of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget: Option<u64>,
    /// What it costs the members, where it costs anything: those that lose most come first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub costs: Vec<CostFacts>,
}

/// Members whose costs are kept for each slot, and the length of the text that all is kept in: a
/// catalog record holds little.
const COSTS_KEPT: usize = 8;
const CHANGE_BYTES: usize = 3000;

impl ChangeFacts {
    /// Everything, cut to what a record has room for: first the costs of those that lose least,
    /// then the names of the forgotten, then slots.
    #[must_use]
    pub fn shortened(mut self) -> Self {
        for slot in &mut self.slots {
            slot.costs.truncate(COSTS_KEPT);
        }
        while super::to_json(&self).len() > CHANGE_BYTES {
            let longest = self.slots.iter_mut().max_by_key(|slot| slot.costs.len());
            let cut = longest.is_some_and(|slot| slot.costs.pop().is_some())
                || self.forgotten.pop().is_some()
                || self.slots.pop().is_some();
            if !cut {
                break;
            }
        }
        self
    }
}

impl SlotChangeFacts {
    /// What `costs` says of those that lose anything, the greatest loss first.
    pub fn losses(costs: &[MemberCost]) -> Vec<CostFacts> {
        let mut losses: Vec<CostFacts> = costs
            .iter()
            .map(CostFacts::new)
            .filter(|cost| cost.loss() > 0.0)
            .collect();
        losses.sort_by(|l, r| r.loss().total_cmp(&l.loss()));
        losses
    }
}

/// What a job did that is done and brought no adapter.
///
/// # Errors
/// [`ServerError::Facts`] if the record was written by something else.
pub fn change(record: &JobRecord) -> Result<Option<ChangeFacts>, ServerError> {
    if record.kind.is_upload() {
        return Ok(None);
    }
    let result = record.result.as_deref();
    result
        .map(|text| parse(text, "what was done for job", &record.id.to_string()))
        .transpose()
}

#[cfg(test)]
mod tests {
    use kmerge_merge::progressive::Fidelity;

    use super::super::FidelityFacts;
    use super::*;

    #[test]
    fn a_change_of_everything_fits_a_record() {
        let fidelity = FidelityFacts(Fidelity {
            retention: 0.123_456_789,
            error_bound: 0.123_456_789,
            energy_kept: 0.123_456_789,
            bytes: u64::MAX,
            rank: 1024,
            mean_rank: 3.123_456_789,
        });
        let cost = |task: u32| CostFacts {
            task: format!("{task}-{}", "t".repeat(100)),
            before: Some(fidelity),
            after: fidelity,
        };
        let slot = |slot| SlotChangeFacts {
            slot,
            generation: u64::MAX,
            emptied: false,
            bytes_before: u64::MAX,
            bytes: u64::MAX,
            tasks: u32::MAX,
            budget: Some(u64::MAX),
            costs: (0..50).map(cost).collect(),
        };
        let all = ChangeFacts {
            slots: (0..128).map(slot).collect(),
            forgotten: (0..1000).map(|task| format!("task-{task}")).collect(),
            reason: "r".repeat(400),
        };
        let kept = all.clone().shortened();
        assert!(super::super::to_json(&kept).len() <= CHANGE_BYTES);
        assert!(!kept.slots.is_empty());
        assert_eq!(kept.reason, all.reason);
        let one = ChangeFacts {
            slots: vec![slot(0)],
            ..ChangeFacts::default()
        };
        let kept = one.shortened();
        assert_eq!(kept.slots[0].costs.len(), COSTS_KEPT);
    }
}
