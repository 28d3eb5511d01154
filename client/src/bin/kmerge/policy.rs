//! The options that say how adapters are merged, once for every command that has them.
//!
//! What is left out is left out of the request too, and the daemon's own default holds.

use clap::Args;
use kmerge_client::v1;

use crate::values;

/// How adapters are assigned and merged, whatever the operator.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct Rules {
    /// Which slot a newcomer goes to
    #[arg(long, value_name = "RULE", value_enum)]
    pub(crate) assignment: Option<values::Assignment>,
    /// For kmerge++: open a slot for a newcomer less similar than this, in (0, 1]
    #[arg(long, value_name = "T")]
    pub(crate) threshold: Option<f64>,
    /// In which type slots keep their tensors
    #[arg(long, value_name = "DTYPE", value_enum)]
    pub(crate) dtype: Option<values::Dtype>,
    /// The weights of the slot and of the newcomer, where the operator takes weights
    #[arg(long, value_name = "WEIGHTING", value_enum)]
    pub(crate) weighting: Option<values::Weighting>,
    /// For ties and dare: the share of values that is kept, in (0, 1]
    #[arg(long, value_name = "D")]
    pub(crate) density: Option<f64>,
    /// For progressive: refuse what would push a member's retention below this, in [0, 1)
    #[arg(long, value_name = "F")]
    pub(crate) floor: Option<f64>,
}

impl Rules {
    /// The part of a policy that these options speak of.
    pub(crate) fn policy(&self) -> v1::MergePolicy {
        let assignment = self.assignment.map(v1::AssignmentRule::from);
        let dtype = self.dtype.map(v1::SlotDtype::from);
        let weighting = self.weighting.map(v1::Weighting::from);
        v1::MergePolicy {
            assignment: assignment.unwrap_or_default().into(),
            threshold: self.threshold,
            dtype: dtype.unwrap_or_default().into(),
            weighting: weighting.unwrap_or_default().into(),
            density: self.density,
            floor: self.floor,
            ..v1::MergePolicy::default()
        }
    }
}

/// The rules, with one operator and one size of slots.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct Merging {
    /// How a newcomer and a slot become one
    #[arg(long, value_name = "OPERATOR", value_enum)]
    pub(crate) operator: Option<values::Operator>,
    /// For progressive: bytes of one slot with all that belongs to it, as 480KiB; 0: as many as
    /// the first adapter takes
    #[arg(long, value_name = "SIZE", value_parser = values::bytes)]
    pub(crate) slot_bytes: Option<u64>,
    #[command(flatten)]
    pub(crate) rules: Rules,
}

impl Merging {
    /// The part of a policy that these options speak of.
    pub(crate) fn policy(&self) -> v1::MergePolicy {
        let operator = self.operator.map(v1::Operator::from);
        v1::MergePolicy {
            operator: operator.unwrap_or_default().into(),
            slot_bytes: self.slot_bytes,
            ..self.rules.policy()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_out_is_not_sent() {
        assert_eq!(Merging::default().policy(), v1::MergePolicy::default());
    }

    #[test]
    fn what_is_given_is_sent() {
        let merging = Merging {
            operator: Some(values::Operator::DareTies),
            slot_bytes: Some(9),
            rules: Rules {
                assignment: Some(values::Assignment::Roomiest),
                threshold: Some(0.5),
                dtype: Some(values::Dtype::F16),
                weighting: Some(values::Weighting::Released),
                density: Some(0.2),
                floor: Some(0.1),
            },
        };
        let expected = v1::MergePolicy {
            slots: None,
            max_bytes: None,
            assignment: v1::AssignmentRule::Roomiest.into(),
            threshold: Some(0.5),
            operator: v1::Operator::DareTies.into(),
            dtype: v1::SlotDtype::F16.into(),
            weighting: v1::Weighting::Released.into(),
            density: Some(0.2),
            slot_bytes: Some(9),
            floor: Some(0.1),
        };
        assert_eq!(merging.policy(), expected);
    }
}
