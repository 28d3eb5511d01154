//! Where a newcomer goes among packed slots, what that costs everyone, and the file it gives.

use std::collections::BTreeSet;

use super::budget::{bytes_at_floor, rungs_at, share_out};
use super::encode::{Code, Outline};
use super::likeness::likeness;
use super::member::{Fidelity, Member};
use super::slot::PackedSlot;
use super::table::Joined;
use crate::assign::{Choice, Room, decide};
use crate::{
    AdapterView, Assignment, AssignmentRule, MergeError, Policy, Progress, TensorSink, TensorSource,
};

/// One packed slot at the generation that is current.
#[derive(Clone, Copy)]
pub struct PackedView<'a> {
    /// Its number, from 0.
    pub slot: u32,
    /// Its current generation.
    pub generation: u64,
    /// Its head.
    pub packed: &'a PackedSlot,
    /// Its file.
    pub source: &'a dyn TensorSource,
}

impl std::fmt::Debug for PackedView<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PackedView")
            .field("slot", &self.slot)
            .field("generation", &self.generation)
            .field("packed", self.packed)
            .finish_non_exhaustive()
    }
}

/// A task and the adapter that has arrived for it.
#[derive(Debug, Clone, Copy)]
pub struct Newcomer<'a> {
    /// The task.
    pub task: &'a str,
    /// The adapter, checked.
    pub adapter: AdapterView<'a>,
}

/// Bytes that a slot takes outside its file: they count against its budget.
#[derive(Debug, Clone, Copy, Default)]
pub struct Beside {
    /// Whatever its members.
    pub slot: u64,
    /// For each member.
    pub member: u64,
}

impl Beside {
    /// For a slot of so many members.
    #[must_use]
    pub fn of(self, members: usize) -> u64 {
        self.slot + self.member * u64::try_from(members).unwrap_or(u64::MAX / 2)
    }
}

/// What a placement costs one member.
#[derive(Debug, Clone, PartialEq)]
pub struct MemberCost {
    /// The task.
    pub task: String,
    /// What is kept now; `None` for the newcomer.
    pub before: Option<Fidelity>,
    /// What will be kept.
    pub after: Fidelity,
}

/// A decision, its reasons and its price. Nothing is written until [`Placement::write`].
#[derive(Debug)]
pub struct Placement {
    /// Whether the newcomer gets a slot of its own.
    pub assignment: Assignment,
    /// The slot to be written.
    pub slot: u32,
    /// The generation to be written.
    pub generation: u64,
    /// Similarity to each slot that exists, by slot number: average linkage on rough codes.
    pub similarities: Vec<(u32, f64)>,
    /// Why, in one sentence with the numbers.
    pub reason: String,
    /// By member, in order of arrival, the newcomer last.
    pub costs: Vec<MemberCost>,
    /// The head of the file to be written.
    pub packed: PackedSlot,
    outline: Outline,
    code: Code,
}

/// Decides where `newcomer` goes among `slots`, and packs it.
///
/// A slot is free as long as fewer than `policy.slots` are in use and the byte limit has room for
/// the budget of another one. Under [`AssignmentRule::Roomiest`] the newcomer goes, once no slot is
/// free, where the worst kept member stays best kept.
///
/// # Errors
///
/// [`MergeError::SlotFull`] when the members do not fit at their roughest,
/// [`MergeError::BelowFloor`] when one would be kept less well than `policy.floor`,
/// [`MergeError::NoSlots`], [`MergeError::SlotOutOfRange`] and [`MergeError::DuplicateSlot`] for
/// contradictory input, [`MergeError::ShapeMismatch`] for slots of another base model, and what
/// reading and decomposing may meet.
pub fn place(
    policy: &Policy,
    slots: &[PackedView<'_>],
    newcomer: Newcomer<'_>,
    beside: Beside,
    progress: Progress<'_>,
) -> Result<Placement, MergeError> {
    let slots = sorted(policy, slots)?;
    let outline = Outline::of(newcomer.adapter)?;
    let own_budget = policy.slot_budget(half_precision_bytes(newcomer.adapter));
    let similarities = slots
        .iter()
        .map(|view| Ok((view.slot, likeness(view, newcomer.adapter, &outline)?)))
        .collect::<Result<Vec<_>, MergeError>>()?;
    progress(0.3);

    let candidates: Vec<Candidate<'_>> = slots
        .iter()
        .filter(|view| !policy.pinned.contains(&view.slot))
        .map(|&view| Candidate::existing(policy, view))
        .chain(free_slot(policy, &slots, own_budget))
        .collect();
    if candidates.is_empty() && !slots.is_empty() {
        let slots = policy.slots;
        return Err(MergeError::AllPinned { slots });
    }
    let chosen = choose(policy, &slots, &candidates, &similarities, own_budget)?;
    let considered = match &chosen {
        Chosen::One(index, _) => std::slice::from_ref(&candidates[*index]),
        Chosen::Roomiest => &candidates[..],
    };
    let last = considered
        .iter()
        .map(|candidate| candidate.last_rung(&outline, beside))
        .max()
        .unwrap_or(0);
    let code = outline.code(newcomer.adapter, last, &|share| {
        progress(0.3 + 0.6 * share);
    })?;

    let mut best: Option<(Packed<'_>, String)> = None;
    let mut refused = None;
    for candidate in considered {
        let packed = match candidate.pack(newcomer, &outline, &code, beside, policy.floor) {
            Ok(packed) => packed,
            Err(error @ (MergeError::SlotFull { .. } | MergeError::BelowFloor { .. })) => {
                refused.get_or_insert(error);
                continue;
            }
            Err(error) => return Err(error),
        };
        let worst = packed.worst();
        if best.as_ref().is_none_or(|(best, _)| worst > best.worst()) {
            let reason = match &chosen {
                Chosen::One(_, reason) => reason.clone(),
                Chosen::Roomiest => format!(
                    "all {} slots were in use; slot {} keeps its worst member best, at a retention of {worst:.3}",
                    policy.slots, candidate.slot
                ),
            };
            best = Some((packed, reason));
        }
    }
    let Some((packed, reason)) = best else {
        return Err(refused.unwrap_or(MergeError::NoSlots));
    };
    progress(1.0);
    let Packed {
        candidate,
        costs,
        packed,
    } = packed;
    Ok(Placement {
        assignment: match candidate.view {
            Some(_) => Assignment::Merged,
            None => Assignment::Opened,
        },
        slot: candidate.slot,
        generation: candidate.view.map_or(1, |view| view.generation + 1),
        similarities,
        reason,
        costs,
        packed,
        outline,
        code,
    })
}

impl Placement {
    /// Writes the slot's next file: old members cut to what they keep, the newcomer behind them.
    /// `slots` and `adapter` are those that it was placed with.
    ///
    /// # Errors
    ///
    /// [`MergeError::StalePlan`] when the slot has moved on, [`MergeError::Source`] and
    /// [`MergeError::Sink`] from reading and writing.
    pub fn write(
        &self,
        slots: &[PackedView<'_>],
        adapter: AdapterView<'_>,
        sink: &mut dyn TensorSink,
    ) -> Result<(), MergeError> {
        let view = slots.iter().find(|view| view.slot == self.slot);
        let found = view.map(|view| view.generation);
        let expected = match self.assignment {
            Assignment::Opened => None,
            Assignment::Merged => Some(self.generation - 1),
        };
        if found != expected {
            return Err(MergeError::StalePlan {
                slot: self.slot,
                planned: self.generation,
                found,
            });
        }
        sink.write(&self.packed.head()).map_err(MergeError::Sink)?;
        if let Some(view) = view {
            for (index, kept) in self.packed.members[..view.packed.members.len()]
                .iter()
                .enumerate()
            {
                view.packed.copy_layers(view.source, index, kept, sink)?;
            }
        }
        let Some(newcomer) = self.packed.members.last() else {
            return Ok(());
        };
        let kept = u8::try_from(newcomer.height()).unwrap_or(u8::MAX);
        let rungs = newcomer.first..newcomer.first.saturating_add(kept);
        self.outline.write_layers(adapter, &self.code, rungs, sink)
    }
}

/// Bytes of an adapter in normal form at half precision, its header not counted.
fn half_precision_bytes(adapter: AdapterView<'_>) -> u64 {
    let rank = adapter.layout.rank();
    let modules = adapter.layout.modules.iter();
    modules
        .map(|module| {
            let width = module.out_features + module.in_features;
            u64::try_from(width * rank * 2).unwrap_or(u64::MAX)
        })
        .sum()
}

fn sorted<'a>(
    policy: &Policy,
    slots: &[PackedView<'a>],
) -> Result<Vec<PackedView<'a>>, MergeError> {
    if policy.slots == 0 {
        return Err(MergeError::NoSlots);
    }
    let mut slots = slots.to_vec();
    slots.sort_by_key(|view| view.slot);
    if let Some(pair) = slots.windows(2).find(|pair| pair[0].slot == pair[1].slot) {
        return Err(MergeError::DuplicateSlot { slot: pair[0].slot });
    }
    match slots.last().filter(|view| view.slot >= policy.slots) {
        Some(view) => Err(MergeError::SlotOutOfRange {
            slot: view.slot,
            slots: policy.slots,
        }),
        None => Ok(slots),
    }
}

/// A slot that the newcomer could go to.
#[derive(Debug, Clone, Copy)]
struct Candidate<'a> {
    slot: u32,
    budget: u64,
    view: Option<PackedView<'a>>,
}

/// A candidate with the newcomer in it.
#[derive(Debug)]
struct Packed<'a> {
    candidate: Candidate<'a>,
    costs: Vec<MemberCost>,
    packed: PackedSlot,
}

enum Chosen {
    One(usize, String),
    Roomiest,
}

fn free_slot<'a>(policy: &Policy, slots: &[PackedView<'_>], budget: u64) -> Option<Candidate<'a>> {
    match room(policy, slots, budget) {
        Room::Free(slot) => Some(Candidate {
            slot,
            budget,
            view: None,
        }),
        Room::AllTaken | Room::NoBytes { .. } => None,
    }
}

fn room(policy: &Policy, slots: &[PackedView<'_>], budget: u64) -> Room {
    let taken: BTreeSet<u32> = slots.iter().map(|view| view.slot).collect();
    let Some(free) = (0..policy.slots).find(|slot| !taken.contains(slot)) else {
        return Room::AllTaken;
    };
    let budgets: u64 = slots.iter().map(|view| budget_of(policy, *view)).sum();
    let needed = budgets.saturating_add(budget);
    match policy.max_bytes {
        Some(allowed) if needed > allowed => Room::NoBytes { needed, allowed },
        Some(_) | None => Room::Free(free),
    }
}

pub(super) fn budget_of(policy: &Policy, view: PackedView<'_>) -> u64 {
    policy.slot_budget(view.packed.budget)
}

fn choose(
    policy: &Policy,
    slots: &[PackedView<'_>],
    candidates: &[Candidate<'_>],
    similarities: &[(u32, f64)],
    own_budget: u64,
) -> Result<Chosen, MergeError> {
    let room = room(policy, slots, own_budget);
    if policy.assignment == AssignmentRule::Roomiest
        && !slots.is_empty()
        && !matches!(room, Room::Free(_))
    {
        return Ok(Chosen::Roomiest);
    }
    let decision = decide(policy, room, similarities);
    let (Choice::Open(slot) | Choice::Merge(slot)) = decision.choice else {
        return Err(MergeError::OverBudget {
            needed: own_budget,
            allowed: policy.max_bytes.unwrap_or(u64::MAX),
        });
    };
    let index = candidates
        .iter()
        .position(|candidate| candidate.slot == slot);
    index
        .map(|index| Chosen::One(index, decision.reason))
        .ok_or(MergeError::NoSlots)
}

impl<'a> Candidate<'a> {
    fn existing(policy: &Policy, view: PackedView<'a>) -> Self {
        Self {
            slot: view.slot,
            budget: budget_of(policy, view),
            view: Some(view),
        }
    }

    fn members(&self) -> &'a [Member] {
        self.view.map_or(&[], |view| &view.packed.members)
    }

    /// The last rung that the newcomer could keep here.
    fn last_rung(&self, outline: &Outline, beside: Beside) -> u8 {
        let members = self.members();
        let available = self.budget.saturating_sub(beside.of(members.len() + 1));
        let others = |rung: u8| -> u64 {
            let costs = members
                .iter()
                .map(|member| member.cost(rungs_at(member, rung)));
            costs.sum()
        };
        // The newcomer's share at the water level, or what the others leave if they are all lower.
        let alone = outline.last_rung(available);
        let level = (0..=alone)
            .rev()
            .find(|&rung| {
                let left = available.saturating_sub(others(rung));
                #[expect(clippy::cast_precision_loss, reason = "an estimate")]
                let left = left as f64;
                outline.expected_bytes(rung) <= left
            })
            .unwrap_or(0);
        alone.min(level.saturating_add(3))
    }

    fn pack(
        self,
        newcomer: Newcomer<'_>,
        outline: &Outline,
        code: &Code,
        beside: Beside,
        floor: f64,
    ) -> Result<Packed<'a>, MergeError> {
        let empty = PackedSlot::empty(self.budget);
        let before = self.view.map_or(&empty, |view| view.packed);
        let Joined { table, old, new } = before.table.join(newcomer.adapter.layout)?;
        let mut members: Vec<Member> = before
            .members
            .iter()
            .map(|member| {
                if table.len() == old.len() {
                    member.clone()
                } else {
                    member.clone().moved(&old, table.len())
                }
            })
            .collect();
        let arrived = |code: &Code| Member::new(newcomer.task, outline, code, &new, &table);
        members.push(arrived(code));

        let all: Vec<&Member> = members.iter().collect();
        let fixed = PackedSlot::fixed_bytes(&table, all.len()) + beside.of(all.len());
        let rungs = share_out(&all, fixed, self.budget).map_err(|needed| MergeError::SlotFull {
            slot: self.slot,
            needed,
            allowed: self.budget,
            members: all.len(),
        })?;
        let mut costs = Vec::with_capacity(all.len());
        for (index, (member, &rungs)) in all.iter().zip(&rungs).enumerate() {
            let before = before.members.get(index).map(Member::fidelity);
            let after = member.fidelity_at(rungs);
            let falls = before.is_none_or(|before| after.retention < before.retention);
            if falls && after.retention < floor {
                return Err(MergeError::BelowFloor {
                    slot: self.slot,
                    task: member.task.clone(),
                    retention: after.retention,
                    floor,
                    allowed: self.budget,
                    needed: {
                        let complete = outline.code_to(newcomer.adapter, floor, code, arrived)?;
                        let others = &all[..all.len() - 1];
                        let all: Vec<&Member> = others.iter().copied().chain([&complete]).collect();
                        bytes_at_floor(&all, fixed, floor)
                    },
                });
            }
            costs.push(MemberCost {
                task: member.task.clone(),
                before,
                after,
            });
        }
        let kept = all
            .iter()
            .zip(&rungs)
            .map(|(member, &rungs)| member.cut(rungs))
            .collect();
        Ok(Packed {
            candidate: self,
            costs,
            packed: PackedSlot::lay_out(self.budget, table, kept),
        })
    }
}

impl Packed<'_> {
    /// The lowest retention of any member.
    fn worst(&self) -> f64 {
        let retentions = self.costs.iter().map(|cost| cost.after.retention);
        retentions.fold(f64::INFINITY, f64::min)
    }
}
