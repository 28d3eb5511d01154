//! The best pair of all slots and a newcomer, by average linkage; equals go to the lowest numbers.

use crate::assign::best_pair::{Cluster, Linkage, Move, Row, Table};
use crate::similarity::{Against, search};
use crate::{History, MergeError, Policy, SlotView};

/// A table of linkages: what was known and what was measured for it.
#[derive(Debug)]
pub(super) struct Linkages {
    slots: Vec<u32>,
    table: Table,
    /// What history did not have.
    pub(super) measured: Vec<((u32, u32), f64)>,
}

/// The two closest.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Closest {
    /// The newcomer and a slot.
    Newcomer { slot: u32, linkage: f64 },
    /// Two slots.
    Slots { kept: u32, freed: u32, linkage: f64 },
}

impl Linkages {
    /// The linkages of all slots that are not pinned. A pair is always measured by itself and with
    /// the higher number as the newcomer, so that what is known and what is measured again are the
    /// same bits.
    pub(super) fn new(
        policy: &Policy,
        slots: &[SlotView<'_>],
        history: &History<'_>,
    ) -> Result<Self, MergeError> {
        let open: Vec<SlotView<'_>> = slots
            .iter()
            .copied()
            .filter(|view| !policy.pinned.contains(&view.slot))
            .collect();
        let shrinks = policy.operator.shrinks();
        let norms = |view: &SlotView<'_>| {
            let modules = view.adapter.layout.modules.len();
            let norms = history.member_norms(view.slot, modules);
            norms.filter(|_| shrinks)
        };
        let mut measured = Vec::new();
        let mut products = Vec::with_capacity(open.len());
        for (index, higher) in open.iter().enumerate() {
            let mut row = Vec::with_capacity(index + 1);
            for lower in &open[..index] {
                let pair = (lower.slot, higher.slot);
                let linkage = match history.linkages.get(&pair) {
                    Some(known) => *known,
                    None => {
                        let against = Against {
                            slots: &[norms(lower)],
                            newcomer: norms(higher),
                        };
                        let found = search(&[*lower], higher.adapter, against, &|_| ())?;
                        let linkage = found.similarities.first().map_or(0.0, |found| found.1);
                        measured.push((pair, linkage));
                        linkage
                    }
                };
                row.push(linkage);
            }
            row.push(1.0);
            products.push(row);
        }
        // A linkage is a product of two updates of norm one.
        let clusters: Vec<Cluster> = open
            .iter()
            .map(|view| Cluster {
                members: view.members.max(1),
                mean_norm: 1.0,
                cut: 0.0,
            })
            .collect();
        let table = Table::measured(&clusters, &products)
            .expect("a finite linkage for each pair and a member in each slot");
        Ok(Self {
            slots: open.iter().map(|view| view.slot).collect(),
            table,
            measured,
        })
    }

    /// The two closest of all with a newcomer of these similarities; none if there is no slot.
    pub(super) fn closest(&self, similarities: &[(u32, f64)]) -> Option<Closest> {
        let of = |slot: &u32| {
            let found = similarities.iter().find(|(other, _)| other == slot);
            found.map_or(0.0, |found| found.1)
        };
        let row = Row {
            norm: 1.0,
            products: self.slots.iter().map(of).collect(),
        };
        // As many slots as there are: none is opened.
        let chosen = self.table.choose(&row, self.slots.len(), Linkage::Average);
        Some(match chosen.ok()? {
            Move::Join { slot, linkage } => Closest::Newcomer {
                slot: *self.slots.get(slot)?,
                linkage,
            },
            Move::Pair {
                kept,
                freed,
                linkage,
            } => Closest::Slots {
                kept: *self.slots.get(kept)?,
                freed: *self.slots.get(freed)?,
                linkage,
            },
            Move::Open { .. } => return None,
        })
    }
}
