//! Deciding what becomes of a newcomer: its slot, and the exact shape of the file to be written.
//!
//! A plan is a value. It costs the similarity search and writes nothing, so it also answers "what
//! would happen?". [`execute`](crate::execute()) carries it out on the very same slots; a slot that
//! has moved on meanwhile is noticed.

use std::collections::BTreeSet;

use crate::assign::{Choice, Room, decide};
use crate::header::{NormalForm, ShapedModule};
use crate::modules::align;
use crate::similarity::{Search, search};
use crate::{
    AdapterLayout, AdapterView, Dtype, MergeError, ModuleNorms, Operator, Policy, SlotDtype,
    Weighting,
};

/// Told how far the work is, from 0 to 1, after each module and by the thread that finished it.
pub type Progress<'a> = &'a (dyn Fn(f32) + Sync);

/// What becomes of a newcomer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Assignment {
    /// It opens a slot of its own.
    Opened,
    /// It is merged into an existing slot.
    Merged,
}

/// One stored slot, at the generation that is current.
#[derive(Debug, Clone, Copy)]
pub struct SlotView<'a> {
    /// Its number, from 0.
    pub slot: u32,
    /// Its current generation.
    pub generation: u64,
    /// How many tasks are merged into it.
    pub members: u32,
    /// Its factors in normal form.
    pub adapter: AdapterView<'a>,
    /// Norms of its updates, when they were kept; norms that do not fit are measured again.
    pub norms: Option<&'a ModuleNorms>,
}

/// A decision, its reasons, and the file it leads to.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// Whether the newcomer gets a slot of its own.
    pub assignment: Assignment,
    /// The slot to be written.
    pub slot: u32,
    /// The generation to be written: 1 for a slot that is opened, otherwise the slot's next one.
    pub generation: u64,
    /// Similarity to each slot that exists, by slot number.
    pub similarities: Vec<(u32, f64)>,
    /// Why, in one sentence with the numbers.
    pub reason: String,
    /// w, the newcomer's share; the weights of older members are multiplied by 1 − w.
    pub newcomer_weight: f64,
    /// What the operator multiplies the slot's update and the newcomer's by: 1 − w and w, but 1 and
    /// 1 for TIES and DARE with the released weighting.
    pub weights: [f64; 2],
    /// For TIES and DARE: the share of values that is kept.
    pub density: f64,
    /// How the two become one; without meaning for a slot that is opened.
    pub operator: Operator,
    /// Rank of every module of the file to be written.
    pub rank: usize,
    /// Type of every factor of the file to be written.
    pub dtype: Dtype,
    /// Exact length of the file to be written.
    pub bytes: u64,
    /// Norms of the slots that came without usable ones, worth keeping with those slots.
    pub norms: Vec<(u32, ModuleNorms)>,
    /// Layout of the file to be written.
    pub layout: AdapterLayout,
}

/// Decides where `newcomer` goes among `slots`, which may come in any order.
///
/// A slot is free as long as fewer than `policy.slots` are in use and the byte limit has room for
/// the newcomer as it would be stored.
///
/// # Errors
///
/// [`MergeError::OverBudget`] when no slot can take the newcomer within the byte limit,
/// [`MergeError::NoSlots`], [`MergeError::SlotOutOfRange`] and [`MergeError::DuplicateSlot`] for
/// contradictory input,
/// [`MergeError::ShapeMismatch`] for slots of another base model, [`MergeError::Source`] and
/// [`MergeError::NotFinite`] from reading values.
pub fn plan(
    policy: &Policy,
    slots: &[SlotView<'_>],
    newcomer: AdapterView<'_>,
    progress: Progress<'_>,
) -> Result<Plan, MergeError> {
    if policy.slots == 0 {
        return Err(MergeError::NoSlots);
    }
    if policy.operator.is_progressive() {
        return Err(MergeError::NotAnAverage);
    }
    let mut slots = slots.to_vec();
    slots.sort_by_key(|view| view.slot);
    if let Some(pair) = slots.windows(2).find(|pair| pair[0].slot == pair[1].slot) {
        return Err(MergeError::DuplicateSlot { slot: pair[0].slot });
    }
    if let Some(view) = slots.last().filter(|view| view.slot >= policy.slots) {
        return Err(MergeError::SlotOutOfRange {
            slot: view.slot,
            slots: policy.slots,
        });
    }
    let alone = normal_form(None, newcomer.layout, policy.dtype)?;
    let used = slots.iter().map(|view| view.adapter.source.len()).sum();
    let room = room(policy, &slots, used, alone.bytes);
    let Search {
        similarities,
        measured,
    } = search(&slots, newcomer, progress)?;
    let decision = decide(policy, room, &similarities);
    let (assignment, slot, view, form) = match decision.choice {
        Choice::Open(slot) => (Assignment::Opened, slot, None, alone),
        Choice::Merge(slot) => {
            let view = slots
                .iter()
                .find(|view| view.slot == slot)
                .expect("chosen among the slots");
            let form = normal_form(Some(view.adapter.layout), newcomer.layout, policy.dtype)?;
            (Assignment::Merged, slot, Some(view), form)
        }
        Choice::Nowhere if !slots.is_empty() => {
            let slots = policy.slots;
            return Err(MergeError::AllPinned { slots });
        }
        // Only a byte limit can leave an empty base model without room.
        Choice::Nowhere => {
            let allowed = policy.max_bytes.unwrap_or(u64::MAX);
            return Err(MergeError::OverBudget {
                needed: alone.bytes,
                allowed,
            });
        }
    };
    let replaced = view.map_or(0, |view| view.adapter.source.len());
    within_budget(policy, used - replaced + form.bytes)?;
    let share = view.map_or(1.0, |view| share(policy, view.members, 1));
    Ok(Plan {
        assignment,
        slot,
        generation: view.map_or(1, |view| view.generation + 1),
        similarities,
        reason: decision.reason,
        newcomer_weight: share,
        weights: weights(policy, share),
        density: policy.density,
        operator: policy.operator,
        rank: form.layout.rank(),
        dtype: form.layout.dtype(),
        bytes: form.bytes,
        norms: measured,
        layout: form.layout,
    })
}

/// How one slot's adapter becomes part of another's: as a newcomer would, with the share that its
/// members have. [`execute`](crate::execute()) carries it out with `from`'s adapter as the newcomer.
///
/// # Errors
///
/// [`MergeError::NotAnAverage`] for slots that keep their members apart,
/// [`MergeError::ShapeMismatch`] for slots of different base models.
pub fn unite(
    policy: &Policy,
    into: &SlotView<'_>,
    from: &SlotView<'_>,
) -> Result<Plan, MergeError> {
    if policy.operator.is_progressive() {
        return Err(MergeError::NotAnAverage);
    }
    let form = normal_form(Some(into.adapter.layout), from.adapter.layout, policy.dtype)?;
    let share = share(policy, into.members, from.members);
    Ok(Plan {
        assignment: Assignment::Merged,
        slot: into.slot,
        generation: into.generation + 1,
        similarities: Vec::new(),
        reason: format!("slot {} went into slot {}", from.slot, into.slot),
        newcomer_weight: share,
        weights: weights(policy, share),
        density: policy.density,
        operator: policy.operator,
        rank: form.layout.rank(),
        dtype: form.layout.dtype(),
        bytes: form.bytes,
        norms: Vec::new(),
        layout: form.layout,
    })
}

/// The file that holds `newcomer` alone, or merged into `slot`: the union of the modules at the
/// larger rank.
pub(crate) fn normal_form(
    slot: Option<&AdapterLayout>,
    newcomer: &AdapterLayout,
    dtype: SlotDtype,
) -> Result<NormalForm, MergeError> {
    let layouts: Vec<&AdapterLayout> = slot.into_iter().chain([newcomer]).collect();
    let rank = layouts
        .iter()
        .map(|layout| layout.rank())
        .max()
        .unwrap_or(0);
    let dtype = match dtype {
        SlotDtype::Widest => layouts
            .iter()
            .map(|layout| layout.dtype())
            .reduce(Dtype::widest)
            .unwrap_or(Dtype::F32),
        SlotDtype::F32 => Dtype::F32,
        SlotDtype::F16 => Dtype::F16,
        SlotDtype::Bf16 => Dtype::Bf16,
    };
    let modules = align(&layouts)?;
    let shapes = modules.iter().map(|module| ShapedModule {
        path: module.path,
        out_features: module.out_features,
        in_features: module.in_features,
    });
    Ok(NormalForm::new(shapes, rank, dtype))
}

fn room(policy: &Policy, slots: &[SlotView<'_>], used: u64, newcomer: u64) -> Room {
    let taken: BTreeSet<u32> = slots.iter().map(|view| view.slot).collect();
    let Some(free) = (0..policy.slots).find(|slot| !taken.contains(slot)) else {
        return Room::AllTaken;
    };
    let needed = used + newcomer;
    match policy.max_bytes {
        Some(allowed) if needed > allowed => Room::NoBytes { needed, allowed },
        Some(_) | None => Room::Free(free),
    }
}

fn within_budget(policy: &Policy, needed: u64) -> Result<(), MergeError> {
    match policy.max_bytes {
        Some(allowed) if needed > allowed => Err(MergeError::OverBudget { needed, allowed }),
        Some(_) | None => Ok(()),
    }
}

/// The share of `joining` members in a slot that has `members` before them.
fn share(policy: &Policy, members: u32, joining: u32) -> f64 {
    match (policy.operator, policy.weighting) {
        (Operator::Linear, _) | (_, Weighting::Released) => 0.5,
        (
            Operator::KMergeLinear
            | Operator::Exact
            | Operator::Progressive
            | Operator::Ties
            | Operator::DareLinear
            | Operator::DareTies
            | Operator::Opcm
            | Operator::Svd,
            Weighting::Running,
        ) => f64::from(joining) / (f64::from(members) + f64::from(joining)),
    }
}

/// What slot and newcomer are multiplied by when the newcomer has this share.
fn weights(policy: &Policy, share: f64) -> [f64; 2] {
    match (policy.operator, policy.weighting) {
        (Operator::Ties | Operator::DareLinear | Operator::DareTies, Weighting::Released) => {
            [1.0, 1.0]
        }
        (
            Operator::KMergeLinear
            | Operator::Linear
            | Operator::Exact
            | Operator::Progressive
            | Operator::Opcm
            | Operator::Svd,
            Weighting::Released,
        )
        | (_, Weighting::Running) => [1.0 - share, share],
    }
}
