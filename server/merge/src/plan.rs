//! Deciding what becomes of a newcomer: its slot, and the exact shape of the file to be written.
//!
//! A plan is a value. It costs the similarity search and writes nothing, so it also answers "what
//! would happen?". [`execute`](crate::execute()) carries it out on the very same slots; a slot that
//! has moved on meanwhile is noticed.

mod choose;
mod member_norms;
mod pair;

use std::collections::BTreeSet;

use self::member_norms::mixed;
use crate::assign::Room;
use crate::header::{NormalForm, ShapedModule};
use crate::modules::align;
use crate::similarity::{Against, search};
use crate::{
    AdapterLayout, AdapterView, Dtype, History, MergeError, ModuleNorms, Operator, Policy,
    SlotDtype, Weighting,
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
    /// A slot that was freed for the newcomer goes on counting.
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
    /// m̄ of the file to be written, where the operator makes slots shrink: the weighted mean of the
    /// norms of its members, worth keeping with the slot (`History::member_norms`).
    pub member_norms: Option<ModuleNorms>,
    /// How close pairs of slots are, where that was measured: worth keeping as long as neither
    /// changes ([`History::linkages`]).
    pub linkages: Vec<((u32, u32), f64)>,
    /// Two slots that become one, so that the newcomer gets the slot of one of them. To be carried
    /// out too, by [`execute_joined`](crate::execute_joined()).
    pub joined: Option<Box<Joined>>,
    /// Layout of the file to be written.
    pub layout: AdapterLayout,
}

/// Two slots that become one.
#[derive(Debug, Clone, PartialEq)]
pub struct Joined {
    /// The slot that is freed: [`Plan::slot`] of the newcomer's plan.
    pub from: u32,
    /// The generation of it that goes into the other one.
    pub from_generation: u64,
    /// The file of the slot that is kept, in which the freed one is the newcomer. Similarities,
    /// reason and norms are those of the newcomer's plan.
    pub plan: Plan,
}

/// Decides where `newcomer` goes among `slots`, which may come in any order.
///
/// A slot is free as long as fewer than `policy.slots` are in use and the byte limit has room for
/// the newcomer as it would be stored. Rules that look back see nothing behind them; see
/// [`plan_after`].
///
/// # Errors
///
/// [`MergeError::OverBudget`] when no slot can take the newcomer within the byte limit,
/// [`MergeError::NoSlots`], [`MergeError::SlotOutOfRange`] and [`MergeError::DuplicateSlot`] for
/// contradictory input, [`MergeError::AllPinned`] when nothing may change,
/// [`MergeError::ShapeMismatch`] for slots of another base model, [`MergeError::Source`] and
/// [`MergeError::NotFinite`] from reading values.
pub fn plan(
    policy: &Policy,
    slots: &[SlotView<'_>],
    newcomer: AdapterView<'_>,
    progress: Progress<'_>,
) -> Result<Plan, MergeError> {
    plan_after(policy, slots, newcomer, &History::default(), progress)
}

/// As [`plan()`], with what is known from earlier arrivals.
///
/// # Errors
///
/// As [`plan()`].
pub fn plan_after(
    policy: &Policy,
    slots: &[SlotView<'_>],
    newcomer: AdapterView<'_>,
    history: &History<'_>,
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
    let members: Vec<Option<&ModuleNorms>> = slots
        .iter()
        .map(|view| history.member_norms(view.slot, view.adapter.layout.modules.len()))
        .collect();
    let debiased = policy.operator.shrinks() && choose::looks_back(policy.assignment);
    let against = Against {
        slots: if debiased { &members } else { &[] },
        newcomer: None,
    };
    let found = search(&slots, newcomer, against, progress)?;
    let chosen = choose::choose(policy, room, &slots, newcomer, history, &found)?;
    let at = |slot: u32| {
        let index = slots.iter().position(|view| view.slot == slot);
        index.expect("chosen among the slots")
    };
    let norms = |index: usize| {
        let view = &slots[index];
        let fitting = |norms: &&ModuleNorms| norms.fits(view.adapter.layout.modules.len());
        let own = view.norms.filter(fitting).or_else(|| {
            let mut measured = found.measured.iter();
            measured
                .find(|(slot, _)| *slot == view.slot)
                .map(|(_, norms)| norms)
        });
        (view.adapter.layout, members[index].or(own))
    };
    let came = (newcomer.layout, Some(&found.newcomer));
    let one = |into: Option<usize>| -> Result<Made, MergeError> {
        let slot = into.map(|index| (&slots[index], norms(index)));
        Made::new(policy, slot, came, 1)
    };
    let (assignment, slot, generation, made, joined) = match chosen.choice {
        choose::Chosen::Open(slot) => (Assignment::Opened, slot, 1, one(None)?, None),
        choose::Chosen::Merge(slot) => {
            let index = at(slot);
            let generation = slots[index].generation + 1;
            let made = one(Some(index))?;
            (Assignment::Merged, slot, generation, made, None)
        }
        choose::Chosen::Join { kept, freed } => {
            let (into, from) = (at(kept), at(freed));
            let slot = Some((&slots[into], norms(into)));
            let made = Made::new(policy, slot, norms(from), slots[from].members)?;
            let generation = slots[into].generation + 1;
            let reason = String::new();
            let plan = made.plan(policy, (Assignment::Merged, kept, generation), reason);
            let joined = Joined {
                from: freed,
                from_generation: slots[from].generation,
                plan,
            };
            let generation = slots[from].generation + 1;
            let joined = Some(Box::new(joined));
            (Assignment::Opened, freed, generation, one(None)?, joined)
        }
        choose::Chosen::Nowhere if !slots.is_empty() => {
            let slots = policy.slots;
            return Err(MergeError::AllPinned { slots });
        }
        // Only a byte limit can leave an empty base model without room.
        choose::Chosen::Nowhere => {
            let allowed = policy.max_bytes.unwrap_or(u64::MAX);
            return Err(MergeError::OverBudget {
                needed: alone.bytes,
                allowed,
            });
        }
    };
    let written = [Some(slot), joined.as_ref().map(|joined| joined.plan.slot)];
    let kept = slots
        .iter()
        .filter(|view| !written.contains(&Some(view.slot)))
        .map(|view| view.adapter.source.len());
    let new = made.form.bytes + joined.as_ref().map_or(0, |joined| joined.plan.bytes);
    within_budget(policy, kept.sum::<u64>() + new)?;
    Ok(Plan {
        similarities: found.similarities,
        norms: found.measured,
        linkages: chosen.measured,
        joined,
        ..made.plan(policy, (assignment, slot, generation), chosen.reason)
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
    history: &History<'_>,
) -> Result<Plan, MergeError> {
    if policy.operator.is_progressive() {
        return Err(MergeError::NotAnAverage);
    }
    let norms = |view: &SlotView<'_>| {
        let modules = view.adapter.layout.modules.len();
        history.member_norms(view.slot, modules)
    };
    let slot = Some((into, (into.adapter.layout, norms(into))));
    let came = (from.adapter.layout, norms(from));
    let made = Made::new(policy, slot, came, from.members)?;
    let reason = format!("slot {} went into slot {}", from.slot, into.slot);
    let place = (Assignment::Merged, into.slot, into.generation + 1);
    Ok(made.plan(policy, place, reason))
}

/// A file that is to be written, before it is said why.
struct Made {
    form: NormalForm,
    share: f64,
    member_norms: Option<ModuleNorms>,
}

impl Made {
    /// What becomes of a slot, if there is one, and of an adapter that is the mean of `joining`
    /// members. Norms are those of the members, or of the adapter itself.
    fn new(
        policy: &Policy,
        slot: Option<(&SlotView<'_>, (&AdapterLayout, Option<&ModuleNorms>))>,
        (layout, norms): (&AdapterLayout, Option<&ModuleNorms>),
        joining: u32,
    ) -> Result<Self, MergeError> {
        let form = normal_form(slot.map(|(_, (layout, _))| layout), layout, policy.dtype)?;
        let share = slot.map_or(1.0, |(view, _)| share(policy, view.members, joining));
        let norms = norms.filter(|_| policy.operator.shrinks());
        let member_norms = match (slot, norms) {
            (_, None) | (Some((_, (_, None))), _) => None,
            (None, Some(norms)) => Some(norms.clone()),
            (Some((_, (of_slot, Some(slot)))), Some(norms)) => {
                let weights = weights(policy, share);
                Some(mixed((of_slot, slot), (layout, norms), weights)?)
            }
        };
        Ok(Self {
            form,
            share,
            member_norms,
        })
    }

    fn plan(
        self,
        policy: &Policy,
        (assignment, slot, generation): (Assignment, u32, u64),
        reason: String,
    ) -> Plan {
        let Self {
            form,
            share,
            member_norms,
        } = self;
        Plan {
            assignment,
            slot,
            generation,
            similarities: Vec::new(),
            reason,
            newcomer_weight: share,
            weights: weights(policy, share),
            density: policy.density,
            operator: policy.operator,
            rank: form.layout.rank(),
            dtype: form.layout.dtype(),
            bytes: form.bytes,
            norms: Vec::new(),
            member_norms,
            linkages: Vec::new(),
            joined: None,
            layout: form.layout,
        }
    }
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
