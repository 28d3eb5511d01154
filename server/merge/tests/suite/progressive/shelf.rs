//! Packed slots in memory, kept the way a caller keeps them. Shared with the benches and the
//! example, so it stands alone.

use std::collections::BTreeMap;

use kmerge_merge::progressive::{Beside, Newcomer, PackedSlot, PackedView, Placement, place};
use kmerge_merge::{AssignmentRule, MergeError, Operator, Policy};

use super::synthetic::Adapter;

/// One slot at its current generation.
#[derive(Debug, Clone)]
pub(crate) struct Stored {
    pub(crate) packed: PackedSlot,
    pub(crate) file: Vec<u8>,
    pub(crate) generation: u64,
}

/// All slots of one base model.
#[derive(Debug, Clone, Default)]
pub(crate) struct Shelf {
    pub(crate) slots: BTreeMap<u32, Stored>,
    pub(crate) beside: Beside,
}

/// K slots of so many bytes.
pub(crate) fn policy(slots: u32, slot_bytes: u64) -> Policy {
    Policy {
        slots,
        assignment: AssignmentRule::KMerge,
        operator: Operator::Progressive,
        slot_bytes: Some(slot_bytes),
        ..Policy::default()
    }
}

impl Shelf {
    pub(crate) fn views(&self) -> Vec<PackedView<'_>> {
        self.slots
            .iter()
            .map(|(&slot, stored)| PackedView {
                slot,
                generation: stored.generation,
                packed: &stored.packed,
                source: &stored.file,
            })
            .collect()
    }

    /// Decides and packs, and changes nothing.
    pub(crate) fn place(
        &self,
        policy: &Policy,
        task: &str,
        adapter: &Adapter,
    ) -> Result<Placement, MergeError> {
        let newcomer = Newcomer {
            task,
            adapter: adapter.view(),
        };
        place(policy, &self.views(), newcomer, self.beside, &|_| ())
    }

    /// Decides, packs, and keeps the slot's next generation.
    pub(crate) fn arrive(
        &mut self,
        policy: &Policy,
        task: &str,
        adapter: &Adapter,
    ) -> Result<Placement, MergeError> {
        let placement = self.place(policy, task, adapter)?;
        self.keep(&placement, adapter)?;
        Ok(placement)
    }

    /// Writes what was decided.
    pub(crate) fn keep(
        &mut self,
        placement: &Placement,
        adapter: &Adapter,
    ) -> Result<(), MergeError> {
        let mut file = Vec::new();
        placement.write(&self.views(), adapter.view(), &mut file)?;
        let stored = Stored {
            packed: placement.packed.clone(),
            file,
            generation: placement.generation,
        };
        self.slots.insert(placement.slot, stored);
        Ok(())
    }
}
