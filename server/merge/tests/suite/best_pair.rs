//! The rules that look back: the two closest are what becomes one, what is remembered changes
//! nothing, and two slots become what their members would have.

use std::collections::BTreeMap;

use kmerge_merge::{
    Assignment, AssignmentRule, Dtype, History, MergeError, ModuleNorms, Operator, Outcome, Plan,
    Policy, decode_slot, execute, execute_joined, plan_after,
};
use proptest::prelude::*;

use crate::support::dense::{Updates, average, relative_difference, updates};
use crate::support::files::{Adapter, Module, adapter};
use crate::support::store::{Store, Stored, policy};

const MODULES: [(&str, [usize; 2]); 3] = [
    ("0.self_attn.q_proj", [12, 12]),
    ("1.mlp.up_proj", [20, 12]),
    ("3.mlp.down_proj", [12, 20]),
];

/// Rank one of every module, mixed from a family's values and its own.
fn relative(family: u64, own: u64, alpha: f64) -> Adapter {
    let modules = MODULES.map(|(path, shape)| {
        let mut module = Module::random(path, shape, 1, family);
        let other = Module::random(path, shape, 1, own + 1000);
        for (value, other) in module.a.iter_mut().zip(other.a) {
            *value += 0.5 * other;
        }
        for (value, other) in module.b.iter_mut().zip(other.b) {
            *value += 0.5 * other;
        }
        module
    });
    adapter(&modules, alpha, Dtype::F32)
}

/// Slots with everything that a caller keeps beside them.
#[derive(Default)]
struct Shelf {
    store: Store,
    member_norms: BTreeMap<u32, ModuleNorms>,
    linkages: BTreeMap<(u32, u32), f64>,
    /// The updates of each slot's members.
    members: BTreeMap<u32, Vec<Updates>>,
    observed: Vec<f64>,
}

impl Shelf {
    fn history(&self) -> History<'_> {
        History {
            member_norms: self
                .member_norms
                .iter()
                .map(|(slot, n)| (*slot, n))
                .collect(),
            linkages: self.linkages.clone(),
            observed: self.observed.clone(),
        }
    }

    fn plan(&self, policy: &Policy, newcomer: &Adapter) -> Result<Plan, MergeError> {
        let history = self.history();
        plan_after(
            policy,
            &self.store.views(),
            newcomer.view(),
            &history,
            &|_| (),
        )
    }

    fn keep(&mut self, plan: &Plan, bytes: Vec<u8>, outcome: Outcome, members: Vec<Updates>) {
        assert_eq!(u64::try_from(bytes.len()).unwrap(), plan.bytes);
        assert_eq!(decode_slot(&bytes).unwrap(), plan.layout);
        let stored = Stored {
            bytes,
            layout: outcome.layout,
            generation: plan.generation,
            members: u32::try_from(members.len()).unwrap(),
            norms: outcome.norms,
        };
        let slot = plan.slot;
        self.store.slots.insert(slot, stored);
        self.linkages.retain(|(a, b), _| *a != slot && *b != slot);
        self.members.insert(slot, members);
        if let Some(norms) = &plan.member_norms {
            self.member_norms.insert(slot, norms.clone());
        }
    }

    fn arrive(&mut self, policy: &Policy, newcomer: &Adapter) -> Plan {
        let plan = self.plan(policy, newcomer).unwrap();
        self.linkages.extend(plan.linkages.iter().copied());
        let views = self.store.views();
        let mut joining = Vec::new();
        let joined = plan
            .joined
            .as_ref()
            .map(|joined| execute_joined(joined, &views, &mut joining, &|_| ()).unwrap());
        let mut bytes = Vec::new();
        let outcome = execute(&plan, &views, newcomer.view(), &mut bytes, &|_| ()).unwrap();
        if let Some((joined, outcome)) = plan.joined.as_ref().zip(joined) {
            let mut members = self.members[&joined.plan.slot].clone();
            members.extend(self.members.remove(&joined.from).unwrap());
            self.keep(&joined.plan, joining, outcome, members);
        }
        let mut members = match plan.assignment {
            Assignment::Merged => self.members.remove(&plan.slot).unwrap(),
            Assignment::Opened => Vec::new(),
        };
        members.push(updates(newcomer.view()));
        self.keep(&plan, bytes, outcome, members);
        self.observed
            .extend(plan.similarities.iter().map(|found| found.1));
        plan
    }

    /// The mean of a slot's members, before anything is cut off.
    fn mean(&self, slot: u32) -> Updates {
        let members = &self.members[&slot];
        let weight = 1.0 / f64::from(u32::try_from(members.len()).unwrap());
        average(
            &members
                .iter()
                .map(|member| (weight, member))
                .collect::<Vec<_>>(),
        )
    }
}

/// ⟨x, y⟩/(m̄_x·m̄_y), the mean over modules, by definition.
fn debiased(x: &[Updates], y: &[Updates]) -> f64 {
    let count = |all: &[Updates]| f64::from(u32::try_from(all.len()).unwrap());
    let mean_norm = |all: &[Updates], path: &str| {
        all.iter().map(|one| one[path].norm_l2()).sum::<f64>() / count(all)
    };
    let mean = |all: &[Updates]| {
        let weight = 1.0 / count(all);
        average(&all.iter().map(|one| (weight, one)).collect::<Vec<_>>())
    };
    let (of_x, of_y) = (mean(x), mean(y));
    let cosines = MODULES.map(|(path, [rows, columns])| {
        let product: f64 = (0..rows)
            .flat_map(|row| (0..columns).map(move |column| (row, column)))
            .map(|at| of_x[&*named(path, x)][at] * of_y[&*named(path, y)][at])
            .sum();
        product / (mean_norm(x, &named(path, x)) * mean_norm(y, &named(path, y)))
    });
    cosines.iter().sum::<f64>() / count_of(&cosines)
}

/// The full name of a module.
fn named(path: &str, all: &[Updates]) -> String {
    let mut names = all[0].keys();
    names.find(|name| name.ends_with(path)).unwrap().clone()
}

fn count_of<T>(all: &[T]) -> f64 {
    f64::from(u32::try_from(all.len()).unwrap())
}

fn best_pair(slots: u32, operator: Operator) -> Policy {
    let policy = policy(slots, AssignmentRule::BestPair, operator);
    policy.check().unwrap();
    policy
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_two_closest_of_all_become_one(
        arrivals in proptest::collection::vec((0_u64..4, any::<u32>(), 0.5_f64..8.0), 5..10)
    ) {
        // Of rank 12 nothing is cut off, so that the definition can be computed from the members.
        let policy = best_pair(3, Operator::Exact);
        let mut shelf = Shelf::default();
        for (family, own, alpha) in arrivals {
            let newcomer = wide(&relative(family, own.into(), alpha));
            let before = shelf.members.clone();
            let plan = shelf.arrive(&policy, &newcomer);
            if before.len() < 3 {
                prop_assert_eq!((plan.assignment, &plan.joined), (Assignment::Opened, &None));
                continue;
            }
            let mut all: Vec<(Option<u32>, Vec<Updates>)> =
                before.into_iter().map(|(slot, members)| (Some(slot), members)).collect();
            all.push((None, vec![updates(newcomer.view())]));
            let mut pairs = Vec::new();
            for b in 0..all.len() {
                for a in 0..b {
                    pairs.push(((all[a].0, all[b].0), debiased(&all[a].1, &all[b].1)));
                }
            }
            let chosen = match &plan.joined {
                Some(joined) => (Some(joined.plan.slot), Some(joined.from)),
                None => (Some(plan.slot), None),
            };
            let most = pairs.iter().map(|pair| pair.1).fold(f64::MIN, f64::max);
            let of_chosen = pairs.iter().find(|pair| pair.0 == chosen).unwrap().1;
            prop_assert!(of_chosen > most - 1e-4, "{chosen:?} of {pairs:?}");
            for (slot, similarity) in &plan.similarities {
                let pair = (Some(*slot), None);
                let expected = pairs.iter().find(|other| other.0 == pair).unwrap().1;
                prop_assert!((similarity - expected).abs() < 1e-4, "{similarity}, {expected}");
            }
            for slot in shelf.store.slots.keys() {
                let found = updates(shelf.store.slots[slot].view());
                let difference = relative_difference(&found, &shelf.mean(*slot));
                prop_assert!(difference < 1e-4, "slot {slot}: {difference}");
            }
        }
    }

    #[test]
    fn what_is_remembered_is_what_would_be_measured(
        arrivals in proptest::collection::vec((0_u64..4, any::<u32>()), 6..10), linear in any::<bool>()
    ) {
        let operator = if linear { Operator::KMergeLinear } else { Operator::Exact };
        let policy = best_pair(3, operator);
        let mut shelf = Shelf::default();
        for (family, own) in arrivals {
            let newcomer = relative(family, own.into(), 2.0);
            let remembered = shelf.plan(&policy, &newcomer).unwrap();
            let linkages = std::mem::take(&mut shelf.linkages);
            let measured = shelf.plan(&policy, &newcomer).unwrap();
            // Bit by bit: the plans are the same but for what was measured on the way.
            let mut all = linkages.clone();
            all.extend(remembered.linkages.iter().copied());
            prop_assert_eq!(&all, &measured.linkages.iter().copied().collect());
            let without = |plan: Plan| Plan { linkages: Vec::new(), ..plan };
            prop_assert_eq!(without(remembered), without(measured));
            shelf.linkages = linkages;
            shelf.arrive(&policy, &newcomer);
        }
    }
}

/// The same update at a rank that holds any.
fn wide(narrow: &Adapter) -> Adapter {
    let modules: Vec<Module> = narrow
        .layout
        .modules
        .iter()
        .map(|layout| {
            let (a, b) = crate::support::dense::factors(narrow.view(), &layout.path);
            let (path, shape) = MODULES
                .into_iter()
                .find(|(path, _)| layout.path.ends_with(path))
                .unwrap();
            let mut module = Module::random(path, shape, 12, 1);
            #[expect(clippy::cast_possible_truncation, reason = "they were f32 before")]
            for rank in 0..12 {
                for column in 0..shape[1] {
                    module.a[rank * shape[1] + column] = if rank == 0 {
                        a[(0, column)] as f32
                    } else {
                        0.0
                    };
                }
                for row in 0..shape[0] {
                    module.b[row * 12 + rank] = if rank == 0 { b[(row, 0)] as f32 } else { 0.0 };
                }
            }
            module
        })
        .collect();
    adapter(
        &modules,
        12.0 * narrow.layout.modules[0].scaling,
        Dtype::F32,
    )
}

/// Three of two families and a stranger, for two slots.
fn crossed(operator: Operator) -> (Shelf, Policy) {
    let policy = best_pair(3, operator);
    let mut shelf = Shelf::default();
    for (family, own) in [(1, 1), (2, 2), (1, 3)] {
        let plan = shelf.arrive(&policy, &relative(family, own, 2.0));
        assert_eq!(plan.assignment, Assignment::Opened);
    }
    (shelf, policy)
}

#[test]
fn two_slots_make_room_for_a_stranger() {
    for operator in [Operator::KMergeLinear, Operator::Exact, Operator::Svd] {
        let (mut shelf, policy) = crossed(operator);
        let stranger = relative(3, 4, 2.0);
        let plan = shelf.arrive(&policy, &stranger);
        let joined = plan.joined.as_ref().unwrap();
        assert_eq!((plan.slot, plan.generation), (2, 2), "{}", plan.reason);
        assert_eq!(
            (joined.plan.slot, joined.plan.generation, joined.from),
            (0, 2, 2)
        );
        assert_eq!(joined.plan.newcomer_weight, 0.5);
        assert!(
            plan.reason.contains("slot 2 was merged into slot 0"),
            "{}",
            plan.reason
        );
        // The stranger's own file is as it would be in a slot of its own.
        let mut alone = Store::default();
        alone.arrive(&policy, &stranger).unwrap();
        assert_eq!(shelf.store.slots[&2].bytes, alone.slots[&0].bytes);
        // And the next of the first family finds both of it in one slot.
        let plan = shelf.arrive(&policy, &relative(1, 5, 2.0));
        assert_eq!((plan.assignment, plan.slot), (Assignment::Merged, 0));
        assert_eq!(plan.newcomer_weight, 1.0 / 3.0);
    }
}

#[test]
fn a_mean_of_factors_is_the_same_however_it_came_about() {
    let (mut shelf, policy) = crossed(Operator::KMergeLinear);
    shelf.arrive(&policy, &relative(3, 4, 2.0));
    let mut in_a_row = Store::default();
    let one = crate::support::store::policy(1, AssignmentRule::KMerge, Operator::KMergeLinear);
    for own in [1, 3] {
        in_a_row.arrive(&one, &relative(1, own, 2.0)).unwrap();
    }
    let found = updates(shelf.store.slots[&0].view());
    let expected = updates(in_a_row.slots[&0].view());
    assert!(relative_difference(&found, &expected) < 1e-6);
}

#[test]
fn pinned_slots_are_in_no_pair() {
    let (mut shelf, mut policy) = crossed(Operator::Exact);
    policy.pinned = [2].into();
    let plan = shelf.arrive(&policy, &relative(3, 4, 2.0));
    assert!(
        plan.joined
            .is_none_or(|joined| joined.plan.slot == 0 && joined.from == 1)
    );
    assert_eq!(shelf.store.slots[&2].generation, 1);
    policy.pinned = [0, 1, 2].into();
    let refused = shelf.plan(&policy, &relative(3, 5, 2.0));
    assert!(matches!(refused, Err(MergeError::AllPinned { slots: 3 })));
}

#[test]
fn a_slot_that_has_moved_is_noticed() {
    let (shelf, policy) = crossed(Operator::Exact);
    let stranger = relative(3, 4, 2.0);
    let plan = shelf.plan(&policy, &stranger).unwrap();
    let joined = plan.joined.as_ref().unwrap();
    for slot in [0, 2] {
        let mut views = shelf.store.views();
        views[slot].generation = 9;
        let stale = execute_joined(joined, &views, &mut Vec::new(), &|_| ());
        assert!(matches!(stale, Err(MergeError::StalePlan { .. })), "{slot}");
    }
    let mut views = shelf.store.views();
    views[2].generation = 9;
    let stale = execute(&plan, &views, stranger.view(), &mut Vec::new(), &|_| ());
    assert!(matches!(stale, Err(MergeError::StalePlan { .. })));
}

#[test]
fn a_byte_limit_counts_both_files() {
    let (shelf, mut policy) = crossed(Operator::Exact);
    policy.slots = 8;
    let used = shelf.store.slots.values();
    let used: u64 = used
        .map(|slot| u64::try_from(slot.bytes.len()).unwrap())
        .sum();
    policy.max_bytes = Some(used);
    let plan = shelf.plan(&policy, &relative(3, 4, 2.0)).unwrap();
    assert!(plan.joined.is_some() && plan.reason.contains("another slot would need"));
    policy.max_bytes = Some(used - 1);
    let refused = shelf.plan(&policy, &relative(3, 4, 2.0));
    assert!(matches!(refused, Err(MergeError::OverBudget { needed, .. }) if needed == used));
}

#[test]
fn a_threshold_that_is_not_given_is_found() {
    let rule = AssignmentRule::KMergePlusPlus { threshold: None };
    let policy = policy(8, rule, Operator::Exact);
    let mut shelf = Shelf::default();
    let mut reasons = Vec::new();
    for (family, own) in [
        (1, 1),
        (2, 2),
        (3, 3),
        (1, 4),
        (2, 5),
        (3, 6),
        (1, 7),
        (4, 8),
        (2, 9),
    ] {
        reasons.push(shelf.arrive(&policy, &relative(family, own, 2.0)).reason);
    }
    let [first, .., last] = &reasons[..] else {
        panic!("{reasons:?}")
    };
    assert!(
        !first.contains("threshold") || first.contains("holds until"),
        "{first}"
    );
    assert!(last.contains("was found from"), "{last}");
    // A given one is used as it is, and says nothing of the kind.
    let rule = AssignmentRule::KMergePlusPlus {
        threshold: Some(0.3),
    };
    let given = Policy {
        assignment: rule,
        ..policy
    };
    let plan = shelf.plan(&given, &relative(2, 10, 2.0)).unwrap();
    assert!(!plan.reason.contains("was found"), "{}", plan.reason);
}
