//! Registers base models: reads the config.json, settles the policy, and lets the catalog's owner
//! record both.

use kmerge_merge::{
    AssignmentRule, BaseModel, Operator, Policy, PolicyError, SlotDtype, Weighting,
};
use kmerge_storage::{BaseModelName, BaseModelRecord, Registered};

use crate::clock;
use crate::config::MAX_SLOTS;
use crate::error::ServerError;
use crate::facts;
use crate::owner::Owner;

/// What is asked for; what is absent comes from the configuration.
#[derive(Debug, Clone, Default)]
pub struct PolicyWish {
    /// K.
    pub slots: Option<u32>,
    /// In bytes; 0 is none.
    pub max_bytes: Option<u64>,
    /// Which rule. Its threshold is not read here.
    pub assignment: Option<AssignmentRule>,
    /// For kmerge++.
    pub threshold: Option<f64>,
    /// Which operator.
    pub operator: Option<Operator>,
    /// Which type.
    pub dtype: Option<SlotDtype>,
    /// Which weights.
    pub weighting: Option<Weighting>,
    /// For TIES and DARE.
    pub density: Option<f64>,
    /// For progressive slots, in bytes; 0 is as many as the first adapter takes.
    pub slot_bytes: Option<u64>,
    /// For progressive slots, a retention.
    pub floor: Option<f64>,
}

/// A base model to be registered.
#[derive(Debug, Clone)]
pub struct Registration {
    /// Its name here.
    pub name: BaseModelName,
    /// Its config.json.
    pub config: Vec<u8>,
    /// Its name where it is served.
    pub served_as: Option<String>,
    /// How its adapters are to be kept.
    pub wish: PolicyWish,
}

/// Registers base models.
#[derive(Debug, Clone)]
pub struct BaseModels {
    /// Records them.
    pub owner: Owner,
    /// For what a registration leaves open.
    pub defaults: Policy,
    /// For kmerge++ where the registration has none; none: found from similarities.
    pub default_threshold: Option<f64>,
}

impl BaseModels {
    /// Registers a base model. The same again changes nothing.
    ///
    /// # Errors
    /// If the config.json cannot be used, a policy value is out of range, or the name is taken by
    /// another base model.
    pub async fn register(&self, registration: Registration) -> Result<BaseModelName, ServerError> {
        let shapes = BaseModel::from_config_json(&registration.config)?;
        let config = String::from_utf8(registration.config).map_err(|_| ServerError::Field {
            field: "config",
            problem: "is not UTF-8 text".into(),
        })?;
        let policy = settle(&registration.wish, &self.defaults, self.default_threshold)?;
        let served_as = registration
            .served_as
            .or_else(|| {
                shapes
                    .name_or_path()
                    .filter(|name| !name.is_empty())
                    .map(str::to_owned)
            })
            .unwrap_or_else(|| registration.name.to_string());
        let record = BaseModelRecord {
            name: registration.name.clone(),
            config,
            settings: facts::to_json(&policy),
            served_as,
            created: clock::now(),
        };
        match self.owner.register(record).await? {
            Registered::Created(record) => {
                tracing::info!(name = %record.name, architecture = shapes.architecture(), "registered a base model");
            }
            Registered::Identical(_) => {}
        }
        Ok(registration.name)
    }
}

/// The policy in force: the wish where there is one, the defaults elsewhere.
pub(crate) fn settle(
    wish: &PolicyWish,
    defaults: &Policy,
    default_threshold: Option<f64>,
) -> Result<Policy, ServerError> {
    let refuse = |field, problem: String| Err(ServerError::Field { field, problem });
    let slots = wish.slots.unwrap_or(defaults.slots);
    if slots == 0 || u64::from(slots) > MAX_SLOTS {
        return refuse(
            "policy.slots",
            format!("is {slots}; it must be from 1 to {MAX_SLOTS}"),
        );
    }
    if let Some(threshold) = wish.threshold
        && !(threshold > 0.0 && threshold <= 1.0)
    {
        return refuse(
            "policy.threshold",
            format!("is {threshold}; it must be above 0 and at most 1"),
        );
    }
    let assignment = match wish.assignment.unwrap_or(defaults.assignment) {
        AssignmentRule::KMerge | AssignmentRule::Roomiest | AssignmentRule::BestPair
            if wish.threshold.is_some() =>
        {
            return refuse(
                "policy.threshold",
                "is for kmerge++ only: leave it out, or ask for kmerge++".into(),
            );
        }
        rule @ (AssignmentRule::KMerge | AssignmentRule::Roomiest | AssignmentRule::BestPair) => {
            rule
        }
        AssignmentRule::KMergePlusPlus { .. } => AssignmentRule::KMergePlusPlus {
            threshold: wish.threshold.or(default_threshold),
        },
    };
    let max_bytes = wish
        .max_bytes
        .map_or(defaults.max_bytes, |bytes| (bytes > 0).then_some(bytes));
    let operator = wish.operator.unwrap_or(defaults.operator);
    for (field, given) in [
        ("policy.slot_bytes", wish.slot_bytes.is_some()),
        ("policy.floor", wish.floor.is_some()),
    ] {
        if given && !operator.is_progressive() {
            return refuse(
                field,
                format!("is for the operator progressive only, and this one is {operator}"),
            );
        }
    }
    let policy = Policy {
        slots,
        max_bytes,
        // A default rule that means nothing for the operator is no wish.
        assignment: match assignment {
            AssignmentRule::Roomiest if wish.assignment.is_none() && !operator.is_progressive() => {
                AssignmentRule::KMerge
            }
            AssignmentRule::BestPair if wish.assignment.is_none() && !operator.joins_slots() => {
                AssignmentRule::KMerge
            }
            rule @ (AssignmentRule::KMerge
            | AssignmentRule::KMergePlusPlus { .. }
            | AssignmentRule::Roomiest
            | AssignmentRule::BestPair) => rule,
        },
        operator,
        dtype: wish.dtype.unwrap_or(defaults.dtype),
        weighting: wish.weighting.unwrap_or(defaults.weighting),
        density: wish.density.unwrap_or(defaults.density),
        slot_bytes: wish
            .slot_bytes
            .map_or(defaults.slot_bytes, |bytes| (bytes > 0).then_some(bytes)),
        floor: wish.floor.unwrap_or(defaults.floor),
        pinned: defaults.pinned.clone(),
    };
    policy.check().map_err(|error| ServerError::Field {
        field: policy_field(&error),
        problem: format!("cannot be used: {error}"),
    })?;
    Ok(policy)
}

/// The field that a policy is wrong in.
fn policy_field(error: &PolicyError) -> &'static str {
    match error {
        PolicyError::NoSlots => "policy.slots",
        PolicyError::Threshold { .. } => "policy.threshold",
        PolicyError::Density { .. } => "policy.density",
        PolicyError::Floor { .. } => "policy.floor",
        PolicyError::RoomiestWithout { .. }
        | PolicyError::BestPairWithout { .. }
        | PolicyError::BestPairWeighting => "policy.assignment",
        PolicyError::UnknownWord { .. } => "policy",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn defaults() -> Policy {
        Policy {
            slots: 8,
            max_bytes: Some(1000),
            assignment: AssignmentRule::KMerge,
            operator: Operator::KMergeLinear,
            dtype: SlotDtype::Widest,
            ..Policy::default()
        }
    }

    #[test]
    fn a_wish_wins_and_the_rest_is_default() {
        let wish = PolicyWish {
            slots: Some(3),
            max_bytes: Some(0),
            assignment: Some(AssignmentRule::KMergePlusPlus { threshold: None }),
            ..PolicyWish::default()
        };
        let policy = settle(&wish, &defaults(), Some(0.02)).unwrap();
        assert_eq!(policy.slots, 3);
        assert_eq!(policy.max_bytes, None);
        assert_eq!(
            policy.assignment,
            AssignmentRule::KMergePlusPlus {
                threshold: Some(0.02)
            }
        );
        let policy = settle(&wish, &defaults(), None).unwrap();
        assert_eq!(policy.assignment.threshold(), None);
        assert_eq!(policy.operator, Operator::KMergeLinear);
        assert_eq!(
            settle(&PolicyWish::default(), &defaults(), Some(0.02)).unwrap(),
            defaults()
        );
    }

    #[test]
    fn values_out_of_range_name_their_field() {
        let refused = |wish: PolicyWish| match settle(&wish, &defaults(), Some(0.02)) {
            Err(ServerError::Field { field, .. }) => field,
            other => panic!("{other:?}"),
        };
        assert_eq!(
            refused(PolicyWish {
                slots: Some(0),
                ..Default::default()
            }),
            "policy.slots"
        );
        assert_eq!(
            refused(PolicyWish {
                slots: Some(129),
                ..Default::default()
            }),
            "policy.slots"
        );
        for threshold in [0.0, 1.5, f64::NAN, -1.0] {
            let wish = PolicyWish {
                threshold: Some(threshold),
                ..Default::default()
            };
            assert_eq!(refused(wish), "policy.threshold");
        }
        let wish = PolicyWish {
            threshold: Some(0.5),
            ..Default::default()
        };
        assert_eq!(
            refused(wish),
            "policy.threshold",
            "a threshold without kmerge++"
        );
        for operator in [Operator::Ties, Operator::Linear, Operator::Progressive] {
            let wish = PolicyWish {
                assignment: Some(AssignmentRule::BestPair),
                operator: Some(operator),
                ..Default::default()
            };
            assert_eq!(refused(wish), "policy.assignment", "{operator}");
        }
    }
}
