//! Errors of planning and executing a merge.

use std::io;

use thiserror::Error;

use crate::Dtype;

/// Why a newcomer could not be placed or merged.
#[derive(Debug, Error)]
pub enum MergeError {
    /// Bytes of a slot or of the newcomer could not be read.
    #[error("reading tensors failed")]
    Source(#[source] io::Error),
    /// The merged file could not be written.
    #[error("writing the merged tensors failed")]
    Sink(#[source] io::Error),
    /// The compute device refused.
    #[error("the compute device failed; without an accelerator feature everything runs on the CPU")]
    Device {
        /// What candle reported.
        #[source]
        source: Box<candle_core::Error>,
    },
    /// A value left the range of the type that it is computed or stored in.
    #[error(
        "{module}: a value is not finite in {dtype}; store the slot in a wider type, or retrain the adapter with smaller factors"
    )]
    NotFinite {
        /// Module path.
        module: String,
        /// The type whose range was left.
        dtype: Dtype,
    },
    /// The byte limit leaves no room.
    #[error(
        "the slots would take {needed} bytes where {allowed} are allowed; raise the byte limit, forget tasks, or begin another base model with slots in a narrower type"
    )]
    OverBudget {
        /// Bytes that all slots together would take.
        needed: u64,
        /// The limit.
        allowed: u64,
    },
    /// The policy allows no slot at all.
    #[error("the policy allows no slot; set slots to 1 or more")]
    NoSlots,
    /// The progressive operator does not make one adapter of two.
    #[error(
        "slots of the progressive operator hold their members apart and are not planned as an average; this is a defect of kmerge, please report it"
    )]
    NotAnAverage,
    /// The file of a packed slot is not one that was written here.
    #[error(
        "the slot's file is damaged: {what}; restore the state directory from a copy, or begin a new one and push the adapters again"
    )]
    DamagedSlot {
        /// What is wrong.
        what: &'static str,
    },
    /// The members of a slot do not fit its bytes at their coarsest.
    #[error(
        "slot {slot} would need {needed} bytes to keep even the roughest of its {members} members where {allowed} are allowed; forget tasks, or give the base model more bytes for each slot (slot_bytes) or more slots"
    )]
    SlotFull {
        /// The slot.
        slot: u32,
        /// Bytes of all members at their first rung.
        needed: u64,
        /// The slot's budget.
        allowed: u64,
        /// Members, the newcomer included.
        members: usize,
    },
    /// A member would be kept less well than the policy allows.
    #[error(
        "in slot {slot} the task \"{task}\" would keep a retention of {retention:.3} where the floor is {floor:.3}; to make room, forget tasks, raise slot_bytes from {allowed} to about {needed}, or give the base model more slots or a lower floor"
    )]
    BelowFloor {
        /// The slot.
        slot: u32,
        /// The member that would be kept worst.
        task: String,
        /// What it would keep.
        retention: f64,
        /// What it must keep.
        floor: f64,
        /// The slot's budget.
        allowed: u64,
        /// Bytes at which every member stays at the floor.
        needed: u64,
    },
    /// A slot that must stay as it is.
    #[error("slot {slot} is pinned and stays as it is; unpin it first")]
    Pinned {
        /// The slot.
        slot: u32,
    },
    /// Every slot that could take a newcomer must stay as it is.
    #[error(
        "all slots in use are pinned and none of the {slots} is free; unpin one, or give the base model more slots"
    )]
    AllPinned {
        /// How many slots the policy has.
        slots: u32,
    },
    /// A slot number that the policy does not have.
    #[error(
        "slot {slot} is outside the policy's {slots} slots; raise slots again or empty that slot first"
    )]
    SlotOutOfRange {
        /// The number.
        slot: u32,
        /// How many slots the policy has.
        slots: u32,
    },
    /// One slot number twice among the views.
    #[error("slot {slot} was given twice; each slot may be given once, at its current generation")]
    DuplicateSlot {
        /// The number.
        slot: u32,
    },
    /// The slots are no longer those that the plan was made for.
    #[error("the plan was made for generation {planned} of slot {slot}, which is now {found}; make a new plan", found = generation_words(*.found))]
    StalePlan {
        /// The slot to be written.
        slot: u32,
        /// The generation that the plan writes.
        planned: u64,
        /// The slot's generation now; `None`: the slot is empty.
        found: Option<u64>,
    },
    /// The newcomer is not the one that the plan was made for.
    #[error("the plan was made for another newcomer or for other slot contents; make a new plan")]
    OtherAdapters,
    /// Slot and newcomer disagree on a module's shape.
    #[error(
        "{module} is {slot_out} x {slot_in} in the slot and {new_out} x {new_in} in the newcomer; adapters of different base models cannot be merged"
    )]
    ShapeMismatch {
        /// Module path.
        module: String,
        /// Rows of B in the slot.
        slot_out: usize,
        /// Columns of A in the slot.
        slot_in: usize,
        /// Rows of B in the newcomer.
        new_out: usize,
        /// Columns of A in the newcomer.
        new_in: usize,
    },
    /// The eigenvalue iteration did not converge.
    #[error(
        "{module}: the spectral decomposition did not converge; use the kmerge-linear operator for this base model"
    )]
    Decomposition {
        /// Module path.
        module: String,
    },
}

fn generation_words(generation: Option<u64>) -> String {
    generation.map_or_else(
        || "empty".to_owned(),
        |number| format!("at generation {number}"),
    )
}

impl MergeError {
    /// A stable word for machines, UPPER_SNAKE, at most 63 characters.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Source(_) => "TENSOR_SOURCE_FAILED",
            Self::Sink(_) => "TENSOR_SINK_FAILED",
            Self::Device { .. } => "COMPUTE_DEVICE_FAILED",
            Self::NotFinite { .. } => "MERGE_NOT_FINITE",
            Self::OverBudget { .. } => "OVER_BYTE_BUDGET",
            Self::NoSlots => "NO_SLOTS",
            Self::NotAnAverage => "NOT_AN_AVERAGE",
            Self::DamagedSlot { .. } => "SLOT_DAMAGED",
            Self::SlotFull { .. } => "SLOT_FULL",
            Self::BelowFloor { .. } => "BELOW_FLOOR",
            Self::Pinned { .. } => "SLOT_PINNED",
            Self::AllPinned { .. } => "ALL_SLOTS_PINNED",
            Self::SlotOutOfRange { .. } => "SLOT_OUT_OF_RANGE",
            Self::DuplicateSlot { .. } => "DUPLICATE_SLOT",
            Self::StalePlan { .. } => "STALE_PLAN",
            Self::OtherAdapters => "PLAN_FOR_OTHER_ADAPTERS",
            Self::ShapeMismatch { .. } => "MODULE_SHAPE_MISMATCH",
            Self::Decomposition { .. } => "DECOMPOSITION_FAILED",
        }
    }
}
