//! What storage keeps for the server without reading it: the policy of a base model, the facts of
//! a generation, the decision of a job. Small JSON texts, forward-compatible: unknown fields are
//! ignored, so that a newer daemon's state opens in an older one as far as it can.

mod change;

use kmerge_merge::progressive::{Fidelity, MemberCost, PackedSlot, Placement};
use kmerge_merge::{
    Assignment, Dtype, Format, ModuleNorms, Operator, Outcome, Plan, Policy, SlotDtype,
};
use kmerge_storage::{BaseModelRecord, BaseModelState, GenerationRecord, JobRecord, SlotIndex};
use serde::{Deserialize, Serialize};

pub use change::{ChangeFacts, SlotChangeFacts, change};

use crate::error::ServerError;

/// The facts of one generation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GenerationFacts {
    /// The rank of every module.
    pub rank: u32,
    /// The type of every tensor.
    #[serde(with = "dtype_word")]
    pub dtype: Dtype,
    /// The number of target modules.
    pub modules: u32,
    /// The operator that made it.
    pub operator: Operator,
    /// Bytes that the slot may take, where it has a budget of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget: Option<u64>,
    /// The mean norms of its members, as [`ModuleNorms::to_text`] writes them, where the operator
    /// makes slots shrink.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub member_norms: Option<String>,
}

/// A decision as it is kept with its job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DecisionFacts {
    /// Whether a slot was opened or merged into.
    #[serde(with = "assignment_word")]
    pub assignment: Assignment,
    /// Which slot.
    pub slot: u32,
    /// The slot's generation with the newcomer in it.
    pub generation: u64,
    /// (slot, similarity) for each slot that existed.
    pub similarities: Vec<(u32, f64)>,
    /// One sentence for people.
    pub reason: String,
    /// The slot's rank.
    pub rank: u32,
    /// The bytes of the slot's tensor file.
    pub bytes: u64,
    /// The share of energy that the rank could keep, where the operator truncates.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub energy_kept: Option<f64>,
    /// What it costs the members, the newcomer among them: of many, those that lose most.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub costs: Vec<CostFacts>,
    /// Bytes that the slot may take, where it has a budget of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget: Option<u64>,
    /// The slot was freed for the newcomer: what was in it is in this one now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub freed_into: Option<u32>,
}

/// What a decision costs one member.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CostFacts {
    /// The task.
    pub task: String,
    /// What was kept; none for the newcomer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<FidelityFacts>,
    /// What is kept now.
    pub after: FidelityFacts,
}

/// [`Fidelity`], written as a list to save the names.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(from = "FidelityValues", into = "FidelityValues")]
pub struct FidelityFacts(pub Fidelity);

#[derive(Serialize, Deserialize)]
struct FidelityValues(f64, f64, f64, u64, usize, f64);

impl FidelityFacts {
    /// The figures to as many digits as are kept, so that what is foreseen equals what is recorded.
    pub fn rounded(fidelity: Fidelity) -> Self {
        Self(Fidelity {
            retention: rounded(fidelity.retention),
            error_bound: rounded(fidelity.error_bound),
            energy_kept: rounded(fidelity.energy_kept),
            mean_rank: rounded(fidelity.mean_rank),
            ..fidelity
        })
    }
}

impl From<FidelityValues> for FidelityFacts {
    fn from(values: FidelityValues) -> Self {
        let FidelityValues(retention, error_bound, energy_kept, bytes, rank, mean_rank) = values;
        Self(Fidelity {
            retention,
            error_bound,
            energy_kept,
            bytes,
            rank,
            mean_rank,
        })
    }
}

impl From<FidelityFacts> for FidelityValues {
    fn from(FidelityFacts(fidelity): FidelityFacts) -> Self {
        Self(
            fidelity.retention,
            fidelity.error_bound,
            fidelity.energy_kept,
            fidelity.bytes,
            fidelity.rank,
            fidelity.mean_rank,
        )
    }
}

impl CostFacts {
    /// The cost as it is kept.
    pub fn new(cost: &MemberCost) -> Self {
        Self {
            task: cost.task.clone(),
            before: cost.before.map(FidelityFacts::rounded),
            after: FidelityFacts::rounded(cost.after),
        }
    }

    /// How much retention is lost; the newcomer comes before everyone.
    pub fn loss(&self) -> f64 {
        self.before.map_or(f64::INFINITY, |before| {
            before.0.retention - self.after.0.retention
        })
    }
}

/// A type as safetensors writes it.
mod dtype_word {
    use kmerge_merge::Dtype;
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    pub(super) fn serialize<S: Serializer>(dtype: &Dtype, out: S) -> Result<S::Ok, S::Error> {
        out.serialize_str(dtype.safetensors_name())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Dtype, D::Error> {
        let word = String::deserialize(from)?;
        Dtype::from_safetensors_name(&word).ok_or_else(|| D::Error::custom("an unknown dtype"))
    }
}

/// An assignment as one word.
mod assignment_word {
    use kmerge_merge::Assignment;
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    pub(super) fn serialize<S: Serializer>(value: &Assignment, out: S) -> Result<S::Ok, S::Error> {
        out.serialize_str(match value {
            Assignment::Opened => "opened",
            Assignment::Merged => "merged",
        })
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Assignment, D::Error> {
        match String::deserialize(from)?.as_str() {
            "opened" => Ok(Assignment::Opened),
            "merged" => Ok(Assignment::Merged),
            _ => Err(D::Error::custom("an unknown assignment")),
        }
    }
}

fn rounded(value: f64) -> f64 {
    (value * SIMILARITY_DIGITS).round() / SIMILARITY_DIGITS
}

/// Similarities are kept to this many digits after the point: far below any difference that
/// matters, and 128 of them fit a catalog record.
const SIMILARITY_DIGITS: f64 = 1e9;

/// The most modules whose members' norms fit a catalog record, at three bytes each. A slot with
/// more is compared by its own norms.
const NORMED_MODULES: usize = 1000;

impl DecisionFacts {
    /// The decision that `plan` made and `outcome` carried out.
    pub fn new(plan: &Plan, outcome: &Outcome) -> Self {
        Self {
            assignment: plan.assignment,
            slot: plan.slot,
            generation: plan.generation,
            similarities: plan
                .similarities
                .iter()
                .map(|&(slot, similarity)| (slot, rounded(similarity)))
                .collect(),
            reason: plan.reason.clone(),
            rank: saturate(plan.rank),
            bytes: plan.bytes,
            energy_kept: outcome.energy_kept,
            costs: Vec::new(),
            budget: None,
            freed_into: plan.joined.as_ref().map(|joined| joined.plan.slot),
        }
    }

    /// With the number that the slot's next generation will have: it goes on where the slot was
    /// emptied before.
    #[must_use]
    pub fn numbered(mut self, base_model: &BaseModelState) -> Self {
        self.generation = base_model.next_generation(SlotIndex(self.slot)).0;
        self
    }

    /// The decision of a placement that keeps members apart.
    pub fn packed(placement: &Placement, costs: Vec<CostFacts>) -> Self {
        let newcomer = placement.costs.last();
        let similarities = placement.similarities.iter();
        Self {
            assignment: placement.assignment,
            slot: placement.slot,
            generation: placement.generation,
            similarities: similarities
                .map(|&(slot, similarity)| (slot, rounded(similarity)))
                .collect(),
            reason: placement.reason.clone(),
            rank: saturate(placement.packed.rank()),
            bytes: placement.packed.bytes(),
            energy_kept: newcomer.map(|cost| rounded(cost.after.energy_kept)),
            costs,
            budget: Some(placement.packed.budget),
            freed_into: None,
        }
    }
}

impl GenerationFacts {
    /// The facts of the generation that `plan` makes under `policy`.
    pub fn new(plan: &Plan, outcome: &Outcome, policy: &Policy) -> Self {
        Self {
            rank: saturate(plan.rank),
            dtype: plan.dtype,
            modules: saturate(outcome.layout.modules.len()),
            operator: policy.operator,
            budget: None,
            member_norms: plan
                .member_norms
                .as_ref()
                .filter(|norms| norms.as_slice().len() <= NORMED_MODULES)
                .map(ModuleNorms::to_text),
        }
    }

    /// The mean norms of its members, if they are kept.
    pub fn member_norms(&self) -> Option<ModuleNorms> {
        self.member_norms
            .as_deref()
            .and_then(ModuleNorms::from_text)
    }

    /// The facts of a generation that keeps its members apart. Its dtype is that of the adapters
    /// that are served from it.
    pub fn packed(packed: &PackedSlot, policy: &Policy) -> Self {
        Self {
            rank: saturate(packed.rank()),
            dtype: served_dtype(policy),
            modules: saturate(packed.modules()),
            operator: policy.operator,
            budget: Some(packed.budget),
            member_norms: None,
        }
    }
}

/// The type of adapters that are served from slots that keep their members apart: half precision
/// is more precise than any code is.
pub fn served_dtype(policy: &Policy) -> Dtype {
    match policy.dtype {
        SlotDtype::Widest | SlotDtype::F16 => Dtype::F16,
        SlotDtype::F32 => Dtype::F32,
        SlotDtype::Bf16 => Dtype::Bf16,
    }
}

/// Counts on the wire are 32 bits wide; validation keeps every one of them far below that.
pub fn saturate(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

/// The policy of a registered base model.
///
/// # Errors
/// [`ServerError::Facts`] if the record was written by something else.
pub fn policy(record: &BaseModelRecord) -> Result<Policy, ServerError> {
    parse(
        &record.settings,
        "the policy of base model",
        record.name.as_ref(),
    )
}

/// The facts of a committed generation.
///
/// # Errors
/// [`ServerError::Facts`] if the record was written by something else.
pub fn generation(record: &GenerationRecord) -> Result<GenerationFacts, ServerError> {
    parse(
        &record.facts,
        "the facts of a slot of",
        record.base_model.as_ref(),
    )
}

/// The decision of a job that is done.
///
/// # Errors
/// [`ServerError::Facts`] if the record was written by something else.
pub fn decision(record: &JobRecord) -> Result<Option<DecisionFacts>, ServerError> {
    record
        .result
        .as_deref()
        .filter(|_| record.kind.is_upload())
        .map(|text| parse(text, "the decision for task", record.task.as_ref()))
        .transpose()
}

pub(crate) fn parse<'a, T: Deserialize<'a>>(
    text: &'a str,
    what: &'static str,
    whose: &str,
) -> Result<T, ServerError> {
    serde_json::from_str(text).map_err(|source| ServerError::Facts {
        what,
        whose: whose.to_owned(),
        source,
    })
}

/// The format in which an upload came.
///
/// # Errors
/// If it is one of a later version.
pub fn format(word: &str) -> Result<Format, ServerError> {
    Format::from_name(word).ok_or_else(|| ServerError::UnknownFormat {
        format: word.to_owned(),
    })
}

/// The JSON text of a value that is made of numbers, words and texts only.
pub fn to_json<T: Serialize>(value: &T) -> String {
    serde_json::to_string(value).expect("numbers, words and texts always serialise")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_decision_over_all_slots_fits_a_record() {
        let decision = DecisionFacts {
            assignment: Assignment::Merged,
            slot: 127,
            generation: u64::MAX,
            similarities: (0..128).map(|slot| (slot, -0.123_456_789)).collect(),
            reason: "r".repeat(400),
            rank: 1024,
            bytes: u64::MAX,
            energy_kept: Some(0.123_456_789_012_345_67),
            costs: Vec::new(),
            budget: None,
            freed_into: Some(127),
        };
        let text = to_json(&decision);
        assert!(text.len() < 3500, "{}", text.len());
        assert_eq!(
            serde_json::from_str::<DecisionFacts>(&text).unwrap(),
            decision
        );
    }
}
