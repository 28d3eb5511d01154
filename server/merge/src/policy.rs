//! The choices of a base model: how many slots, which slot a newcomer goes to, how two become one.
//!
//! A policy is data that callers store as JSON. Reading is lenient towards the future (unknown
//! fields are ignored, absent ones have defaults) and strict about values: an unknown word or an
//! impossible threshold is an error, never a silent default.

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
}

/// Which slot a newcomer goes to (K-Merge, arXiv 2510.13537).
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum AssignmentRule {
    /// Fill all slots, then the most similar one.
    KMerge,
    /// Open a slot only for a newcomer that is unlike every slot.
    KMergePlusPlus {
        /// Similarity from which on a newcomer counts as alike, in [-1, 1].
        threshold: f64,
    },
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
}

impl AssignmentRule {
    /// The threshold that the released K-Merge++ scripts use for Llama-3.2-1B.
    pub const DEFAULT_THRESHOLD: f64 = 0.02;

    /// The threshold, where the rule has one.
    #[must_use]
    pub fn threshold(self) -> Option<f64> {
        match self {
            Self::KMerge => None,
            Self::KMergePlusPlus { threshold } => Some(threshold),
        }
    }
}

impl fmt::Display for AssignmentRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::KMerge => "kmerge",
            Self::KMergePlusPlus { .. } => "kmerge++",
        })
    }
}

impl FromStr for AssignmentRule {
    type Err = PolicyError;

    /// `kmerge++` comes with [`AssignmentRule::DEFAULT_THRESHOLD`].
    fn from_str(word: &str) -> Result<Self, PolicyError> {
        match word {
            "kmerge" => Ok(Self::KMerge),
            "kmerge++" => Ok(Self::KMergePlusPlus {
                threshold: Self::DEFAULT_THRESHOLD,
            }),
            _ => Err(PolicyError::UnknownWord {
                what: "assignment rule",
                got: word.to_owned(),
                known: "kmerge, kmerge++",
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
    "kmerge-linear, linear, exact",
    KMergeLinear = "kmerge-linear",
    Linear = "linear",
    Exact = "exact"
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
        } = written;
        let mut assignment = assignment.parse()?;
        if let (AssignmentRule::KMergePlusPlus { threshold }, Some(given)) =
            (&mut assignment, threshold)
        {
            *threshold = given;
        }
        let policy = Self {
            slots,
            max_bytes,
            assignment,
            operator,
            dtype,
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
        } = policy;
        Self {
            slots,
            max_bytes,
            assignment: assignment.to_string(),
            threshold: assignment.threshold(),
            operator,
            dtype,
        }
    }
}

impl Policy {
    /// Checks what the types cannot say; reading from JSON does it by itself.
    ///
    /// # Errors
    ///
    /// [`PolicyError::NoSlots`] and [`PolicyError::Threshold`].
    pub fn check(&self) -> Result<(), PolicyError> {
        if self.slots == 0 {
            return Err(PolicyError::NoSlots);
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
            assignment: AssignmentRule::KMergePlusPlus { threshold: 0.028 },
            operator: Operator::Exact,
            dtype: SlotDtype::F16,
        };
        let json = serde_json::to_string(&policy).unwrap();
        assert_eq!(
            json,
            r#"{"slots":5,"max_bytes":1073741824,"assignment":"kmerge++","threshold":0.028,"operator":"exact","dtype":"f16"}"#
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
        assert_eq!(
            policy.assignment.threshold(),
            Some(AssignmentRule::DEFAULT_THRESHOLD)
        );
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
                r#"{"slots":1,"operator":"ties"}"#,
                "kmerge-linear, linear, exact",
            ),
            (r#"{"slots":1,"dtype":"f64"}"#, "widest, f32, f16, bf16"),
        ] {
            let message = read(json).unwrap_err();
            assert!(message.contains(word), "{json}: {message}");
        }
    }
}
