//! The same arrivals through the mathematics alone: what the daemon must decide, and the bytes
//! that it must keep.

use std::collections::BTreeMap;

use kmerge_client::{Adapter, v1};
use kmerge_merge::{
    AdapterLayout, AdapterView, Assignment, AssignmentRule, BaseModel, History, ModuleNorms,
    Operator, Outcome, Plan, Policy, SlotDtype, SlotView, decode, execute, execute_joined,
    plan_after,
};
use kmerge_storage::Digest;

use crate::support::adapters::{Files, golden, small};
use crate::support::goldens;

struct Slot {
    layout: AdapterLayout,
    bytes: Vec<u8>,
    generation: u64,
    members: Vec<String>,
    /// As they come back from disk.
    member_norms: Option<ModuleNorms>,
}

/// The slots of one base model under the default policy.
pub(crate) struct Replay {
    policy: Policy,
    base: BaseModel,
    slots: BTreeMap<u32, Slot>,
    /// Similarities so far.
    observed: Vec<f64>,
}

impl Replay {
    pub(crate) fn new(slots: u32) -> Self {
        Self::under(Policy {
            slots,
            max_bytes: None,
            assignment: AssignmentRule::KMerge,
            operator: Operator::KMergeLinear,
            dtype: SlotDtype::Widest,
            ..Policy::default()
        })
    }

    pub(crate) fn under(policy: Policy) -> Self {
        let config = std::fs::read(goldens().join("base/config.json")).unwrap();
        Self {
            policy,
            observed: Vec::new(),
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
        self.arrive_as("", files)
    }

    /// The same for a task with a name. Nothing that can be measured again is remembered.
    pub(crate) fn arrive_as(&mut self, task: &str, files: &Files) -> v1::Decision {
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
                members: u32::try_from(slot.members.len()).unwrap(),
                adapter: AdapterView {
                    layout: &slot.layout,
                    source: &slot.bytes,
                },
                norms: None,
            })
            .collect();
        let norms = self.slots.iter();
        let norms = norms.filter_map(|(slot, stored)| Some((*slot, stored.member_norms.as_ref()?)));
        let history = History {
            member_norms: norms.collect(),
            observed: self.observed.clone(),
            ..History::default()
        };
        let plan = plan_after(&self.policy, &views, newcomer, &history, &|_| ()).unwrap();
        let mut bytes = Vec::new();
        let outcome = execute(&plan, &views, newcomer, &mut bytes, &|_| ()).unwrap();
        let mut both = Vec::new();
        let joined = plan.joined.as_ref().map(|joined| {
            let outcome = execute_joined(joined, &views, &mut both, &|_| ()).unwrap();
            (joined, outcome)
        });
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
            freed_into: plan.joined.as_ref().map(|joined| joined.plan.slot),
            ..v1::Decision::default()
        };
        if let Some((joined, outcome)) = joined {
            let mut members = self.slots[&joined.plan.slot].members.clone();
            members.extend(self.slots.remove(&joined.from).unwrap().members);
            self.keep(&joined.plan, outcome, both, members);
        }
        let slot = self.slots.get(&plan.slot);
        let mut members = slot.map_or_else(Vec::new, |slot| slot.members.clone());
        members.push(task.to_owned());
        self.keep(&plan, outcome, bytes, members);
        let similarities = decision.similarities.iter();
        self.observed
            .extend(similarities.map(|found| found.similarity));
        decision
    }

    fn keep(&mut self, plan: &Plan, outcome: Outcome, bytes: Vec<u8>, members: Vec<String>) {
        let kept = |norms: &ModuleNorms| ModuleNorms::from_text(&norms.to_text()).unwrap();
        let slot = Slot {
            layout: outcome.layout,
            bytes,
            generation: plan.generation,
            members,
            member_norms: plan.member_norms.as_ref().map(kept),
        };
        self.slots.insert(plan.slot, slot);
    }

    /// How many slots are in use.
    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }

    /// The members of a slot.
    pub(crate) fn members(&self, slot: u32) -> Vec<&str> {
        let members = self.slots[&slot].members.iter();
        members.map(String::as_str).collect()
    }

    /// SHA-256 of a slot's tensor file.
    pub(crate) fn digest(&self, slot: u32) -> String {
        Digest::of(&self.slots[&slot].bytes).to_string()
    }
}
