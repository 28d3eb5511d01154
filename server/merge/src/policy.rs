//! The choices of a base model: how many slots, which slot a newcomer goes to, how two become one.
//!
//! A policy is data that callers store as JSON. Reading is lenient towards the future (unknown
//! fields are ignored, absent ones have defaults) and strict about values: an unknown word or an
//! impossible threshold is an error, never a silent default.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Everything that decides what becomes of a newcomer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Written", into = "Written")]
pub struct Policy {
    /// K: slots are numbered from 0 to K − 1.
    pub slots: u32,
    /// Limit for the files of all slots together, in bytes; `None` means no limit.
    pub max_bytes: Option<u64>,
    /// Which slot a newcomer goes to.
    pub assignment: AssignmentRule,
    /// How a newcomer and a slot become one.
    pub operator: Operator,
    /// How slots are stored.
    pub dtype: SlotDtype,
    /// The weights of slot and newcomer.
    pub weighting: Weighting,
    /// For TIES and DARE: the share of values that is kept, in (0, 1].
    pub density: f64,
    /// For the progressive operator: the bytes of one slot with all that belongs to it; `None`
    /// means as many as its first adapter takes at its rank in F16.
    pub slot_bytes: Option<u64>,
    /// For the progressive operator: a newcomer is refused if a member's retention would fall
    /// below this, in [0, 1); 0 means never.
    pub floor: f64,
    /// Slots that stay as they are: no newcomer goes there.
    pub pinned: BTreeSet<u32>,
}

impl Default for Policy {
    /// K-Merge as published, with eight slots and no byte limit.
    fn default() -> Self {
        Self {
            slots: 8,
            max_bytes: None,
            assignment: AssignmentRule::KMerge,
            operator: Operator::KMergeLinear,
            dtype: SlotDtype::Widest,
            weighting: Weighting::Running,
            density: Self::DEFAULT_DENSITY,
            slot_bytes: None,
            floor: 0.0,
            pinned: BTreeSet::new(),
        }
    }
}

/// Which slot a newcomer goes to (K-Merge, arXiv 2510.13537).
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum AssignmentRule {
    /// Fill all slots, then the most similar one.
    KMerge,
    /// Open a slot only for a newcomer that is unlike every slot.
    KMergePlusPlus {
        /// Similarity from which on a newcomer counts as alike, in [-1, 1]; `None` means that it is
        /// found from the similarities seen so far (see [`crate::assign::calibration`]), and for
        /// progressive slots [`AssignmentRule::DEFAULT_THRESHOLD`].
        threshold: Option<f64>,
    },
    /// Fill all slots, then join the two closest of all slots and the newcomer, by average linkage:
    /// two slots may become one, and the newcomer takes the slot that is freed (see
    /// [`crate::assign::best_pair`]).
    BestPair,
    /// Progressive slots only: where the worst kept member stays best kept.
    Roomiest,
}

/// The weights of a slot and a newcomer that becomes its n-th member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Weighting {
    /// 1 − 1/n and 1/n: every member counts the same.
    Running,
    /// As in the code released with K-Merge: ½ and ½, which forgets old members, and 1 and 1 for
    /// TIES and DARE, which forget them by pruning them again.
    Released,
}

/// How a newcomer and a slot become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operator {
    /// Weighted sum of the factors, every member weighing 1/n: K-Merge's own, cross terms included.
    KMergeLinear,
    /// Weighted sum of the factors with 0.5 and 0.5: the control, which forgets old members.
    Linear,
    /// Best approximation of the average of the updates at the slot's rank.
    Exact,
    /// Every member keeps its own strongest directions, coded as precisely as the slot's bytes
    /// allow.
    Progressive,
    /// TIES-Merging of the factors (arXiv 2306.01708): trim, elect a sign, average what has it.
    Ties,
    /// DARE of the factors (arXiv 2311.03099), then their weighted sum.
    DareLinear,
    /// DARE of the factors, then TIES without its trimming.
    DareTies,
    /// Continual merging by orthogonal projection (arXiv 2501.09522), on the updates.
    Opcm,
    /// PEFT's `svd`: the weighted sum of the updates, cut at the slot's rank. With weights of sum
    /// one it is the same as [`Operator::Exact`].
    Svd,
}

impl Operator {
    /// Whether slots hold members apart, in place of one adapter that is a mean of them.
    #[must_use]
    pub fn is_progressive(self) -> bool {
        self == Self::Progressive
    }

    /// Whether a slot is the mean of its members' updates, but for what its rank cuts off. Its norm
    /// then falls as members come, by √n among strangers; a mean of factors does not shrink so,
    /// since its cross terms make up for it.
    #[must_use]
    pub fn shrinks(self) -> bool {
        match self {
            Self::Exact | Self::Svd => true,
            Self::KMergeLinear
            | Self::Linear
            | Self::Progressive
            | Self::Ties
            | Self::DareLinear
            | Self::DareTies
            | Self::Opcm => false,
        }
    }

    /// Whether two slots with several members each can become one as their members would have:
    /// where a slot is a mean in which every member counts the same.
    #[must_use]
    pub fn joins_slots(self) -> bool {
        match self {
            Self::KMergeLinear | Self::Exact | Self::Svd => true,
            Self::Linear
            | Self::Progressive
            | Self::Ties
            | Self::DareLinear
            | Self::DareTies
            | Self::Opcm => false,
        }
    }

    /// Whether a merge cuts an update off at the slot's rank.
    #[must_use]
    pub fn truncates(self) -> bool {
        match self {
            Self::Exact | Self::Opcm | Self::Svd => true,
            Self::KMergeLinear
            | Self::Linear
            | Self::Progressive
            | Self::Ties
            | Self::DareLinear
            | Self::DareTies => false,
        }
    }
}

/// How slots are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SlotDtype {
    /// The narrowest type that holds every value of slot and newcomer.
    Widest,
    /// Always F32.
    F32,
    /// Always F16.
    F16,
    /// Always BF16.
    Bf16,
}

/// A word or number that no policy can have.
#[derive(Debug, Clone, PartialEq, Error)]
pub enum PolicyError {
    /// An unknown word.
    #[error("\"{got}\" is no {what}; choose one of {known}")]
    UnknownWord {
        /// What the word should have named.
        what: &'static str,
        /// The word.
        got: String,
        /// The words known.
        known: &'static str,
    },
    /// No slot at all.
    #[error("slots must be at least 1")]
    NoSlots,
    /// A threshold that no similarity can be compared with.
    #[error("the threshold is {got}; it must be between -1 and 1, as similarities are")]
    Threshold {
        /// The number.
        got: f64,
    },
    /// A share of values that is none.
    #[error("the density is {got}; it must be above 0 and at most 1")]
    Density {
        /// The number.
        got: f64,
    },
    /// A floor that no retention can stay above.
    #[error("the floor is {got}; it must be at least 0 and below 1, as retentions are")]
    Floor {
        /// The number.
        got: f64,
    },
    /// A rule that means nothing for the operator.
    #[error(
        "the assignment \"roomiest\" compares what slots have left, which only slots of the operator \"progressive\" know, not those of \"{operator}\""
    )]
    RoomiestWithout {
        /// The operator.
        operator: Operator,
    },
    /// A rule that joins slots, for an operator that cannot.
    #[error(
        "the assignment \"best-pair\" may join two slots that are means of their members, which those of \"{operator}\" are not; choose \"kmerge-linear\", \"exact\" or \"svd\", or the assignment \"kmerge\""
    )]
    BestPairWithout {
        /// The operator.
        operator: Operator,
    },
    /// A rule that joins slots, with weights under which members do not count the same.
    #[error(
        "the assignment \"best-pair\" joins slots by their numbers of members; it needs the weighting \"running\""
    )]
    BestPairWeighting,
}

impl AssignmentRule {
    /// The threshold that the released K-Merge++ scripts use for Llama-3.2-1B.
    pub const DEFAULT_THRESHOLD: f64 = 0.02;

    /// The threshold, where the rule has one.
    #[must_use]
    pub fn threshold(self) -> Option<f64> {
        match self {
            Self::KMerge | Self::Roomiest | Self::BestPair => None,
            Self::KMergePlusPlus { threshold } => threshold,
        }
    }
}

impl fmt::Display for AssignmentRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::KMerge => "kmerge",
            Self::KMergePlusPlus { .. } => "kmerge++",
            Self::Roomiest => "roomiest",
            Self::BestPair => "best-pair",
        })
    }
}

impl FromStr for AssignmentRule {
    type Err = PolicyError;

    /// `kmerge++` comes without a threshold.
    fn from_str(word: &str) -> Result<Self, PolicyError> {
        match word {
            "kmerge" => Ok(Self::KMerge),
            "kmerge++" => Ok(Self::KMergePlusPlus { threshold: None }),
            "roomiest" => Ok(Self::Roomiest),
            "best-pair" => Ok(Self::BestPair),
            _ => Err(PolicyError::UnknownWord {
                what: "assignment rule",
                got: word.to_owned(),
                known: "kmerge, kmerge++, roomiest, best-pair",
            }),
        }
    }
}

/// Display, `FromStr` and serde of an enum that is written as one word.
macro_rules! words {
    ($type:ident, $what:literal, $known:literal, $($variant:ident = $word:literal),+) => {
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(match self { $(Self::$variant => $word),+ })
            }
        }

        impl FromStr for $type {
            type Err = PolicyError;

            fn from_str(word: &str) -> Result<Self, PolicyError> {
                match word {
                    $($word => Ok(Self::$variant),)+
                    _ => Err(PolicyError::UnknownWord {
                        what: $what,
                        got: word.to_owned(),
                        known: $known,
                    }),
                }
            }
        }

        impl Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

words!(
    Operator,
    "operator",
    "kmerge-linear, linear, exact, progressive, ties, dare-linear, dare-ties, opcm, svd",
    KMergeLinear = "kmerge-linear",
    Linear = "linear",
    Exact = "exact",
    Progressive = "progressive",
    Ties = "ties",
    DareLinear = "dare-linear",
    DareTies = "dare-ties",
    Opcm = "opcm",
    Svd = "svd"
);
words!(
    Weighting,
    "weighting",
    "running, released",
    Running = "running",
    Released = "released"
);
words!(
    SlotDtype,
    "slot dtype",
    "widest, f32, f16, bf16",
    Widest = "widest",
    F32 = "f32",
    F16 = "f16",
    Bf16 = "bf16"
);

/// The flat form on disk.
#[derive(Serialize, Deserialize)]
struct Written {
    slots: u32,
    #[serde(default)]
    max_bytes: Option<u64>,
    #[serde(default = "default_assignment")]
    assignment: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    threshold: Option<f64>,
    #[serde(default = "default_operator")]
    operator: Operator,
    #[serde(default = "default_dtype")]
    dtype: SlotDtype,
    #[serde(default = "default_weighting")]
    weighting: Weighting,
    #[serde(default = "default_density")]
    density: f64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    slot_bytes: Option<u64>,
    #[serde(default)]
    floor: f64,
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pinned: BTreeSet<u32>,
}

fn default_assignment() -> String {
    AssignmentRule::KMerge.to_string()
}

fn default_operator() -> Operator {
    Operator::KMergeLinear
}

fn default_dtype() -> SlotDtype {
    SlotDtype::Widest
}

fn default_weighting() -> Weighting {
    Weighting::Running
}

fn default_density() -> f64 {
    Policy::DEFAULT_DENSITY
}

impl TryFrom<Written> for Policy {
    type Error = PolicyError;

    fn try_from(written: Written) -> Result<Self, PolicyError> {
        let Written {
            slots,
            max_bytes,
            assignment,
            threshold,
            operator,
            dtype,
            weighting,
            density,
            slot_bytes,
            floor,
            pinned,
        } = written;
        let mut assignment = assignment.parse()?;
        if let AssignmentRule::KMergePlusPlus { threshold: found } = &mut assignment {
            *found = threshold;
        }
        let policy = Self {
            slots,
            max_bytes,
            assignment,
            operator,
            dtype,
            weighting,
            density,
            slot_bytes,
            floor,
            pinned,
        };
        policy.check()?;
        Ok(policy)
    }
}

impl From<Policy> for Written {
    fn from(policy: Policy) -> Self {
        let Policy {
            slots,
            max_bytes,
            assignment,
            operator,
            dtype,
            weighting,
            density,
            slot_bytes,
            floor,
            pinned,
        } = policy;
        Self {
            slots,
            max_bytes,
            assignment: assignment.to_string(),
            threshold: assignment.threshold(),
            operator,
            dtype,
            weighting,
            density,
            slot_bytes,
            floor,
            pinned,
        }
    }
}

impl Policy {
    /// The share of values that the released K-Merge scripts keep for TIES and DARE.
    pub const DEFAULT_DENSITY: f64 = 0.5;

    /// The bytes that a slot may take which would have `own` of them by itself: as many as the
    /// policy gives every slot, and never more than it gives all.
    #[must_use]
    pub fn slot_budget(&self, own: u64) -> u64 {
        let wanted = self.slot_bytes.unwrap_or(own);
        wanted.min(self.max_bytes.unwrap_or(u64::MAX))
    }

    /// Checks what the types cannot say; reading from JSON does it by itself.
    ///
    /// # Errors
    ///
    /// [`PolicyError`], except for words.
    pub fn check(&self) -> Result<(), PolicyError> {
        if self.slots == 0 {
            return Err(PolicyError::NoSlots);
        }
        if !(self.density > 0.0 && self.density <= 1.0) {
            return Err(PolicyError::Density { got: self.density });
        }
        if !(0.0..1.0).contains(&self.floor) {
            return Err(PolicyError::Floor { got: self.floor });
        }
        if self.assignment == AssignmentRule::Roomiest && !self.operator.is_progressive() {
            return Err(PolicyError::RoomiestWithout {
                operator: self.operator,
            });
        }
        if self.assignment == AssignmentRule::BestPair {
            let operator = self.operator;
            if !operator.joins_slots() {
                return Err(PolicyError::BestPairWithout { operator });
            }
            if self.weighting != Weighting::Running {
                return Err(PolicyError::BestPairWeighting);
            }
        }
        match self.assignment.threshold() {
            Some(got) if !(-1.0..=1.0).contains(&got) => Err(PolicyError::Threshold { got }),
            Some(_) | None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<Policy, String> {
        serde_json::from_str(json).map_err(|error| error.to_string())
    }

    #[test]
    fn a_policy_is_flat_and_round_trips() {
        let policy = Policy {
            slots: 5,
            max_bytes: Some(1 << 30),
            assignment: AssignmentRule::KMergePlusPlus {
                threshold: Some(0.028),
            },
            operator: Operator::Exact,
            dtype: SlotDtype::F16,
            ..Policy::default()
        };
        let json = serde_json::to_string(&policy).unwrap();
        assert_eq!(
            json,
            r#"{"slots":5,"max_bytes":1073741824,"assignment":"kmerge++","threshold":0.028,"operator":"exact","dtype":"f16","weighting":"running","density":0.5,"floor":0.0}"#
        );
        assert_eq!(read(&json).unwrap(), policy);
    }

    #[test]
    fn absent_fields_have_defaults_and_unknown_ones_are_ignored() {
        let policy = read(r#"{"slots":2,"from_a_later_version":{"x":1}}"#).unwrap();
        assert_eq!(policy.assignment, AssignmentRule::KMerge);
        assert_eq!(policy.operator, Operator::KMergeLinear);
        assert_eq!((policy.dtype, policy.max_bytes), (SlotDtype::Widest, None));
        let policy = read(r#"{"slots":2,"assignment":"kmerge++"}"#).unwrap();
        let without = AssignmentRule::KMergePlusPlus { threshold: None };
        assert_eq!(policy.assignment, without);
        let again = serde_json::to_string(&policy).unwrap();
        assert_eq!(read(&again).unwrap(), policy);
    }

    #[test]
    fn impossible_values_are_refused_by_name() {
        for (json, word) in [
            (r#"{"slots":0}"#, "at least 1"),
            (
                r#"{"slots":1,"assignment":"kmerge++","threshold":1.5}"#,
                "between -1 and 1",
            ),
            (r#"{"slots":1,"assignment":"nearest"}"#, "kmerge, kmerge++"),
            (
                r#"{"slots":1,"operator":"median"}"#,
                "kmerge-linear, linear, exact",
            ),
            (r#"{"slots":1,"weighting":"none"}"#, "running, released"),
            (r#"{"slots":1,"density":0.0}"#, "above 0"),
            (r#"{"slots":1,"floor":1.0}"#, "below 1"),
            (r#"{"slots":1,"assignment":"roomiest"}"#, "progressive"),
            (
                r#"{"slots":1,"assignment":"best-pair","operator":"ties"}"#,
                "choose \"kmerge-linear\", \"exact\" or \"svd\"",
            ),
            (
                r#"{"slots":1,"assignment":"best-pair","weighting":"released"}"#,
                "needs the weighting \"running\"",
            ),
            (r#"{"slots":1,"dtype":"f64"}"#, "widest, f32, f16, bf16"),
        ] {
            let message = read(json).unwrap_err();
            assert!(message.contains(word), "{json}: {message}");
        }
    }
}
