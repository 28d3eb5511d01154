//! The same arrivals through the mathematics alone: what the daemon must decide, and the bytes
//! that it must keep.

use std::collections::BTreeMap;

use kmerge_client::{Adapter, v1};
use kmerge_merge::{
    AdapterLayout, AdapterView, Assignment, AssignmentRule, BaseModel, Operator, Policy, SlotDtype,
    SlotView, decode, execute, plan,
};
use kmerge_storage::Digest;

use crate::support::adapters::{Files, golden, small};
use crate::support::goldens;

struct Slot {
    layout: AdapterLayout,
    bytes: Vec<u8>,
    generation: u64,
    members: u32,
}

/// The slots of one base model under the default policy.
pub(crate) struct Replay {
    policy: Policy,
    base: BaseModel,
    slots: BTreeMap<u32, Slot>,
}

impl Replay {
    pub(crate) fn new(slots: u32) -> Self {
        let config = std::fs::read(goldens().join("base/config.json")).unwrap();
        Self {
            policy: Policy {
                slots,
                max_bytes: None,
                assignment: AssignmentRule::KMerge,
                operator: Operator::KMergeLinear,
                dtype: SlotDtype::Widest,
                ..Policy::default()
            },
            base: BaseModel::from_config_json(&config).unwrap(),
            slots: BTreeMap::new(),
        }
    }

    /// The files that were sent for a task: they are read or made again.
    pub(crate) fn files(&self, task: &str, sent: &Adapter) -> Files {
        let files = match task.strip_prefix("made-") {
            Some(seed) => small(seed.parse::<usize>().unwrap() + 1, seed.parse().unwrap()),
            None => golden(task),
        };
        assert_eq!(Digest::of(&files.tensors).to_string(), sent.sha256());
        files
    }

    /// Decides the next arrival, and merges it. Similarities are told to nine decimals.
    pub(crate) fn arrive(&mut self, files: &Files) -> v1::Decision {
        let decoded = decode(&files.config, &files.tensors, &self.base).unwrap();
        let newcomer = AdapterView {
            layout: &decoded.layout,
            source: &files.tensors,
        };
        let views: Vec<_> = self
            .slots
            .iter()
            .map(|(number, slot)| SlotView {
                slot: *number,
                generation: slot.generation,
                members: slot.members,
                adapter: AdapterView {
                    layout: &slot.layout,
                    source: &slot.bytes,
                },
                norms: None,
            })
            .collect();
        let plan = plan(&self.policy, &views, newcomer, &|_| ()).unwrap();
        let mut bytes = Vec::new();
        let outcome = execute(&plan, &views, newcomer, &mut bytes, &|_| ()).unwrap();
        let members = self.slots.get(&plan.slot).map_or(0, |slot| slot.members) + 1;
        let decision = v1::Decision {
            assignment: match plan.assignment {
                Assignment::Opened => v1::Assignment::Opened.into(),
                Assignment::Merged => v1::Assignment::Merged.into(),
            },
            slot: plan.slot,
            generation: plan.generation,
            similarities: plan
                .similarities
                .iter()
                .map(|&(slot, similarity)| v1::SlotSimilarity {
                    slot,
                    similarity: (similarity * 1e9).round() / 1e9,
                })
                .collect(),
            reason: plan.reason.clone(),
            members: Vec::new(),
            rank: u32::try_from(plan.rank).unwrap(),
            bytes: plan.bytes,
            energy_kept: outcome.energy_kept,
            ..v1::Decision::default()
        };
        self.slots.insert(
            plan.slot,
            Slot {
                layout: outcome.layout,
                bytes,
                generation: plan.generation,
                members,
            },
        );
        decision
    }

    /// SHA-256 of a slot's tensor file.
    pub(crate) fn digest(&self, slot: u32) -> String {
        Digest::of(&self.slots[&slot].bytes).to_string()
    }
}
