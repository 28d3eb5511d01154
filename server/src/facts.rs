//! What storage keeps for the server without reading it: the policy of a base model, the facts of
//! a generation, the decision of a job. Small JSON texts, forward-compatible: unknown fields are
//! ignored, so that a newer daemon's state opens in an older one as far as it can.

use kmerge_merge::{Assignment, Dtype, Operator, Outcome, Plan, Policy};
use kmerge_storage::{BaseModelRecord, GenerationRecord, JobRecord};
use serde::{Deserialize, Serialize};

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

/// Similarities are kept to this many digits after the point: far below any difference that
/// matters, and 128 of them fit a catalog record.
const SIMILARITY_DIGITS: f64 = 1e9;

impl DecisionFacts {
    /// The decision that `plan` made and `outcome` carried out.
    pub fn new(plan: &Plan, outcome: &Outcome) -> Self {
        let rounded = |value: f64| (value * SIMILARITY_DIGITS).round() / SIMILARITY_DIGITS;
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
        }
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
        .map(|text| parse(text, "the decision for task", record.task.as_ref()))
        .transpose()
}

fn parse<'a, T: Deserialize<'a>>(
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
        };
        let text = to_json(&decision);
        assert!(text.len() < 3500, "{}", text.len());
        assert_eq!(
            serde_json::from_str::<DecisionFacts>(&text).unwrap(),
            decision
        );
    }
}
