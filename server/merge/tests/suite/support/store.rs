//! A store of slots in a map, kept the way a real caller keeps them.

use std::collections::BTreeMap;

use kmerge_merge::{
    AdapterLayout, AdapterView, AssignmentRule, History, MergeError, ModuleNorms, Operator,
    Outcome, Plan, Policy, SlotDtype, SlotView, decode_slot, execute, plan, unite,
};

use super::files::Adapter;

/// One slot at its current generation.
#[derive(Debug, Clone)]
pub(crate) struct Stored {
    pub(crate) bytes: Vec<u8>,
    pub(crate) layout: AdapterLayout,
    pub(crate) generation: u64,
    pub(crate) members: u32,
    pub(crate) norms: ModuleNorms,
}

impl Stored {
    pub(crate) fn view(&self) -> AdapterView<'_> {
        AdapterView {
            layout: &self.layout,
            source: &self.bytes,
        }
    }
}

/// All slots of one base model.
#[derive(Debug, Clone, Default)]
pub(crate) struct Store {
    pub(crate) slots: BTreeMap<u32, Stored>,
}

/// A policy without a byte limit that stores in the widest type.
pub(crate) fn policy(slots: u32, assignment: AssignmentRule, operator: Operator) -> Policy {
    Policy {
        slots,
        max_bytes: None,
        assignment,
        operator,
        dtype: SlotDtype::Widest,
        ..Policy::default()
    }
}

impl Store {
    pub(crate) fn views(&self) -> Vec<SlotView<'_>> {
        self.slots
            .iter()
            .map(|(&slot, stored)| SlotView {
                slot,
                generation: stored.generation,
                members: stored.members,
                adapter: stored.view(),
                norms: Some(&stored.norms),
            })
            .collect()
    }

    /// Plans and executes one arrival, and checks what every arrival promises.
    pub(crate) fn arrive(
        &mut self,
        policy: &Policy,
        newcomer: &Adapter,
    ) -> Result<(Plan, Outcome), MergeError> {
        let views = self.views();
        let plan = plan(policy, &views, newcomer.view(), &|_| ())?;
        let mut bytes = Vec::new();
        let outcome = execute(&plan, &views, newcomer.view(), &mut bytes, &|_| ())?;
        assert_eq!(
            u64::try_from(bytes.len()).unwrap(),
            plan.bytes,
            "planned and written bytes"
        );
        assert_eq!(
            decode_slot(&bytes).unwrap(),
            outcome.layout,
            "layout as read back"
        );
        assert_eq!(outcome.layout, plan.layout);
        let members = self
            .slots
            .get(&plan.slot)
            .map_or(0, |stored| stored.members)
            + 1;
        let stored = Stored {
            bytes,
            layout: outcome.layout.clone(),
            generation: plan.generation,
            members,
            norms: outcome.norms.clone(),
        };
        self.slots.insert(plan.slot, stored);
        Ok((plan, outcome))
    }
}

/// The only slots of two stores as one.
pub(crate) fn united(policy: &Policy, into: &Store, from: &Store) -> (Plan, Stored) {
    let (target, views) = (into.views()[0], into.views());
    let source = from.views()[0];
    let plan = unite(policy, &target, &source, &History::default()).unwrap();
    let mut bytes = Vec::new();
    let outcome = execute(&plan, &views, source.adapter, &mut bytes, &|_| ()).unwrap();
    let stored = Stored {
        bytes,
        layout: outcome.layout,
        generation: plan.generation,
        members: target.members + source.members,
        norms: outcome.norms,
    };
    (plan, stored)
}
