//! Packed slots without a newcomer: under another policy, fewer of them or smaller ones, and a slot
//! without one of its members.
//!
//! Called when the budget of a base model changes, and when a task is forgotten. Nothing is coded again: members move as they are
//! and are cut at one water level as on an arrival, so what they gave up before stays given up, and
//! every figure stays certified. The outcome depends on the slots and the policy alone. A pinned slot
//! is left as it is.

use std::collections::BTreeSet;

use super::budget::{bytes_at_floor, share_out};
use super::member::Member;
use super::place::{Beside, MemberCost, PackedView, budget_of};
use super::slot::PackedSlot;
use super::table::Table;
use crate::{MergeError, Policy, TensorSink};

/// What follows from another policy. Nothing is written until [`Packing::write`].
#[derive(Debug)]
pub struct Repacking {
    /// The slots to be written, by number.
    pub written: Vec<Packing>,
    /// The slots whose members have all moved, by number.
    pub emptied: Vec<u32>,
}

/// A slot to be written from members that are stored.
#[derive(Debug)]
pub struct Packing {
    /// Its number.
    pub slot: u32,
    /// The generation that it has now; `None` if it is opened.
    pub from: Option<u64>,
    /// What it costs each member, those that stay before those that come.
    pub costs: Vec<MemberCost>,
    /// The head of the file to be written.
    pub packed: PackedSlot,
    origins: Vec<Origin>,
}

/// Where a member's layers are: an index into the slots given, and its place there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Origin {
    view: usize,
    member: usize,
}

/// Decides what becomes of `slots` under `policy`, which may come in any order.
///
/// Slots beyond `policy.slots` go, and then, as long as the budgets of the rest exceed the byte
/// limit, the one with the fewest bytes. Their members go one by one to where the worst kept member
/// stays best kept, a slot that can be opened included. Slots that exceed their budget are cut.
///
/// # Errors
///
/// [`MergeError::Pinned`] when a pinned slot stands in the way, [`MergeError::AllPinned`] when no
/// slot is left to move to, [`MergeError::SlotFull`] when members do not fit at their roughest,
/// [`MergeError::BelowFloor`] when one would fall below `policy.floor`, [`MergeError::NoSlots`] and
/// [`MergeError::DuplicateSlot`] for contradictory input, [`MergeError::ShapeMismatch`] for slots of
/// different base models.
pub fn repack(
    policy: &Policy,
    slots: &[PackedView<'_>],
    beside: Beside,
) -> Result<Repacking, MergeError> {
    if policy.slots == 0 {
        return Err(MergeError::NoSlots);
    }
    let mut numbers = BTreeSet::new();
    if let Some(view) = slots.iter().find(|view| !numbers.insert(view.slot)) {
        return Err(MergeError::DuplicateSlot { slot: view.slot });
    }
    let mut order: Vec<usize> = (0..slots.len()).collect();
    order.sort_by_key(|&index| slots[index].slot);
    let leaving = leaving(policy, slots, &order)?;

    let mut bins: Vec<Bin> = order
        .iter()
        .filter(|index| !leaving.contains(index))
        .map(|&index| Bin::of(policy, slots, index))
        .collect();
    for &index in order.iter().filter(|index| leaving.contains(index)) {
        for member in 0..slots[index].packed.members.len() {
            let origin = Origin {
                view: index,
                member,
            };
            settle(policy, slots, &mut bins, origin, beside)?;
        }
    }
    bins.sort_by_key(|bin| bin.slot);

    let written = bins
        .into_iter()
        .filter_map(|bin| bin.pack(policy, slots, beside).transpose())
        .collect::<Result<Vec<_>, _>>()?;
    let emptied = order
        .iter()
        .map(|&index| (index, slots[index].slot))
        .filter(|&(index, slot)| {
            leaving.contains(&index) && !written.iter().any(|packing| packing.slot == slot)
        })
        .map(|(_, slot)| slot)
        .collect();
    Ok(Repacking { written, emptied })
}

/// A slot without one of its members, and without modules that only that one had. What the others
/// have given up stays given up. `None` if there is no such slot or member; a slot may be left
/// without members.
#[must_use]
pub fn without(slots: &[PackedView<'_>], slot: u32, task: &str) -> Option<Packing> {
    let view = slots.iter().position(|view| view.slot == slot)?;
    let before = slots[view].packed;
    let gone = before
        .members
        .iter()
        .position(|member| member.task == task)?;
    let staying: Vec<usize> = (0..before.members.len())
        .filter(|&member| member != gone)
        .collect();
    let kept: Vec<bool> = (0..before.table.len())
        .map(|place| {
            let mut staying = staying.iter();
            staying.any(|&member| before.members[member].modules[place].is_some())
        })
        .collect();
    let members: Vec<Member> = staying
        .iter()
        .map(|&member| before.members[member].clone().narrowed(&kept))
        .collect();
    let figures = members.iter().zip(&staying);
    Some(Packing {
        slot,
        from: Some(slots[view].generation),
        costs: figures
            .map(|(member, &old)| MemberCost {
                task: member.task.clone(),
                before: Some(before.members[old].fidelity()),
                after: member.fidelity(),
            })
            .collect(),
        packed: PackedSlot::lay_out(before.budget, before.table.clone().narrowed(&kept), members),
        origins: staying
            .into_iter()
            .map(|member| Origin { view, member })
            .collect(),
    })
}

/// The slots that do not stay.
fn leaving(
    policy: &Policy,
    slots: &[PackedView<'_>],
    order: &[usize],
) -> Result<BTreeSet<usize>, MergeError> {
    let mut leaving = BTreeSet::new();
    for &index in order {
        let slot = slots[index].slot;
        if slot < policy.slots {
            continue;
        }
        if policy.pinned.contains(&slot) {
            return Err(MergeError::Pinned { slot });
        }
        leaving.insert(index);
    }
    loop {
        let staying = || order.iter().filter(|index| !leaving.contains(index));
        let budgets: u64 = staying()
            .map(|&index| budget_of(policy, slots[index]))
            .sum();
        let fits = policy.max_bytes.is_none_or(|allowed| budgets <= allowed);
        if fits || staying().count() <= 1 {
            return Ok(leaving);
        }
        let least = staying()
            .filter(|&&index| !policy.pinned.contains(&slots[index].slot))
            // Of equals the last one goes.
            .min_by_key(|&&index| (slots[index].packed.bytes(), u32::MAX - slots[index].slot));
        match least {
            Some(&index) => leaving.insert(index),
            None => {
                return Err(MergeError::OverBudget {
                    needed: budgets,
                    allowed: policy.max_bytes.unwrap_or(u64::MAX),
                });
            }
        };
    }
}

/// Finds a member of a slot that goes a new place.
fn settle(
    policy: &Policy,
    slots: &[PackedView<'_>],
    bins: &mut Vec<Bin>,
    origin: Origin,
    beside: Beside,
) -> Result<(), MergeError> {
    let mut best: Option<(f64, usize, Bin)> = None;
    let mut refused = None;
    let opened = Bin::opened(policy, slots, bins, origin);
    for (place, bin) in bins.iter().chain(&opened).enumerate() {
        if bin.is_pinned(policy) {
            continue;
        }
        let joined = bin.joined(slots, origin)?;
        match joined.shares(beside) {
            Ok(shares) => {
                let worst = joined.worst(&shares);
                if best.as_ref().is_none_or(|(best, ..)| worst > *best) {
                    best = Some((worst, place, joined));
                }
            }
            Err(error) => {
                refused.get_or_insert(error);
            }
        }
    }
    let Some((_, place, joined)) = best else {
        return Err(refused.unwrap_or(MergeError::AllPinned {
            slots: policy.slots,
        }));
    };
    match bins.get_mut(place) {
        Some(bin) => *bin = joined,
        None => bins.push(joined),
    }
    Ok(())
}

/// A slot as it is being filled.
#[derive(Debug, Clone)]
struct Bin {
    slot: u32,
    from: Option<u64>,
    budget: u64,
    table: Table,
    members: Vec<(Origin, Member)>,
    /// How many were there before.
    own: usize,
}

impl Bin {
    fn of(policy: &Policy, slots: &[PackedView<'_>], view: usize) -> Self {
        let found = slots[view];
        let members = found.packed.members.iter().cloned().enumerate();
        Self {
            slot: found.slot,
            from: Some(found.generation),
            budget: budget_of(policy, found),
            table: found.packed.table.clone(),
            own: found.packed.members.len(),
            members: members
                .map(|(member, content)| (Origin { view, member }, content))
                .collect(),
        }
    }

    /// A slot that could be opened for a member, if one could.
    fn opened(
        policy: &Policy,
        slots: &[PackedView<'_>],
        bins: &[Self],
        origin: Origin,
    ) -> Option<Self> {
        let taken: BTreeSet<u32> = bins.iter().map(|bin| bin.slot).collect();
        let slot = (0..policy.slots).find(|slot| !taken.contains(slot))?;
        let budget = budget_of(policy, slots[origin.view]);
        let budgets: u64 = bins.iter().map(|bin| bin.budget).sum();
        let allowed = policy.max_bytes.unwrap_or(u64::MAX);
        // A number whose slot goes as well is opened at that slot's next generation.
        let before = slots.iter().find(|view| view.slot == slot);
        (budgets.saturating_add(budget) <= allowed).then(|| Self {
            slot,
            from: before.map(|view| view.generation),
            budget,
            table: Table::default(),
            members: Vec::new(),
            own: 0,
        })
    }

    fn is_pinned(&self, policy: &Policy) -> bool {
        policy.pinned.contains(&self.slot)
    }

    /// With one more member.
    fn joined(&self, slots: &[PackedView<'_>], origin: Origin) -> Result<Self, MergeError> {
        let source = slots[origin.view].packed;
        let member = &source.members[origin.member];
        // Modules that only others had there are not taken along.
        let kept: Vec<bool> = member.modules.iter().map(Option::is_some).collect();
        let narrow = source.table.clone().narrowed(&kept);
        let joined = self.table.join_table(&narrow)?;
        let length = joined.table.len();
        let stay = |(origin, member): &(Origin, Member)| {
            (*origin, member.clone().moved(&joined.old, length))
        };
        let mut members: Vec<(Origin, Member)> = self.members.iter().map(stay).collect();
        let moved = member.clone().narrowed(&kept).moved(&joined.new, length);
        members.push((origin, moved));
        Ok(Self {
            table: joined.table,
            members,
            ..*self
        })
    }

    fn fixed(&self, beside: Beside) -> u64 {
        let count = self.members.len();
        PackedSlot::fixed_bytes(&self.table, count) + beside.of(count)
    }

    /// How many rungs each member keeps.
    fn shares(&self, beside: Beside) -> Result<Vec<usize>, MergeError> {
        let all: Vec<&Member> = self.members.iter().map(|(_, member)| member).collect();
        share_out(&all, self.fixed(beside), self.budget).map_err(|needed| MergeError::SlotFull {
            slot: self.slot,
            needed,
            allowed: self.budget,
            members: all.len(),
        })
    }

    fn worst(&self, shares: &[usize]) -> f64 {
        let kept = self.members.iter().zip(shares);
        kept.map(|((_, member), &rungs)| member.fidelity_at(rungs).retention)
            .fold(f64::INFINITY, f64::min)
    }

    /// The slot as it will be; `None` if it can stay as it is.
    fn pack(
        self,
        policy: &Policy,
        slots: &[PackedView<'_>],
        beside: Beside,
    ) -> Result<Option<Packing>, MergeError> {
        let shares = self.shares(beside)?;
        let kept = self.members.iter().zip(&shares);
        let is_whole = kept
            .clone()
            .all(|((_, member), &rungs)| member.height() == rungs);
        if is_whole && self.own == self.members.len() {
            return Ok(None);
        }
        if self.is_pinned(policy) {
            return Err(MergeError::Pinned { slot: self.slot });
        }
        let mut costs = Vec::with_capacity(self.members.len());
        for ((origin, member), &rungs) in kept.clone() {
            let before = slots[origin.view].packed.members[origin.member].fidelity();
            let after = member.fidelity_at(rungs);
            if after.retention < before.retention && after.retention < policy.floor {
                let all: Vec<&Member> = self.members.iter().map(|(_, member)| member).collect();
                return Err(MergeError::BelowFloor {
                    slot: self.slot,
                    task: member.task.clone(),
                    retention: after.retention,
                    floor: policy.floor,
                    allowed: self.budget,
                    needed: bytes_at_floor(&all, self.fixed(beside), policy.floor),
                });
            }
            costs.push(MemberCost {
                task: member.task.clone(),
                before: Some(before),
                after,
            });
        }
        let members = kept
            .map(|((_, member), &rungs)| member.cut(rungs))
            .collect();
        Ok(Some(Packing {
            slot: self.slot,
            from: self.from,
            costs,
            packed: PackedSlot::lay_out(self.budget, self.table.clone(), members),
            origins: self.members.iter().map(|&(origin, _)| origin).collect(),
        }))
    }
}

impl Packing {
    /// Writes the slot's next file. `slots` are those that it was decided for.
    ///
    /// # Errors
    ///
    /// [`MergeError::Source`] and [`MergeError::Sink`] from reading and writing.
    pub fn write(
        &self,
        slots: &[PackedView<'_>],
        sink: &mut dyn TensorSink,
    ) -> Result<(), MergeError> {
        sink.write(&self.packed.head()).map_err(MergeError::Sink)?;
        for (origin, kept) in self.origins.iter().zip(&self.packed.members) {
            let view = &slots[origin.view];
            view.packed
                .copy_layers(view.source, origin.member, kept, sink)?;
        }
        Ok(())
    }
}
