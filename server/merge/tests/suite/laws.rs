//! Laws of the mathematics, on random adapters.

use faer::Mat;
use kmerge_merge::{AssignmentRule, Dtype, Operator, similarity};
use proptest::prelude::*;

use crate::support::dense::{self, average, cosine, relative_difference, updates};
use crate::support::files::{Adapter, Module, adapter};
use crate::support::store::{Store, policy, united};

/// Every operator that makes one adapter of two.
const OPERATORS: [Operator; 8] = [
    Operator::KMergeLinear,
    Operator::Linear,
    Operator::Exact,
    Operator::Ties,
    Operator::DareLinear,
    Operator::DareTies,
    Operator::Opcm,
    Operator::Svd,
];

/// Modules of the tiny base with their shapes.
const MODULES: [(&str, [usize; 2]); 4] = [
    ("0.self_attn.q_proj", [12, 12]),
    ("0.self_attn.k_proj", [4, 12]),
    ("1.mlp.up_proj", [20, 12]),
    ("3.mlp.down_proj", [12, 20]),
];

/// An adapter with any non-empty set of modules, ranks up to 4, any scaling.
fn any_adapter() -> impl Strategy<Value = Adapter> {
    let ranks = proptest::collection::vec(0_usize..=4, MODULES.len());
    (ranks, any::<u64>(), 0.5_f64..32.0).prop_filter_map("no module", |(ranks, seed, alpha)| {
        let modules: Vec<Module> = MODULES
            .iter()
            .zip(ranks)
            .filter(|&(_, rank)| rank > 0)
            .map(|(&(path, shape), rank)| Module::random(path, shape, rank, seed))
            .collect();
        (!modules.is_empty()).then(|| adapter(&modules, alpha, Dtype::F32))
    })
}

/// An adapter with all modules and one rank.
fn full_adapter(rank: usize) -> impl Strategy<Value = Adapter> {
    (any::<u64>(), 0.5_f64..32.0).prop_map(move |(seed, alpha)| full(rank, seed, alpha))
}

fn full(rank: usize, seed: u64, alpha: f64) -> Adapter {
    let modules = MODULES.map(|(path, shape)| Module::random(path, shape, rank, seed));
    adapter(&modules, alpha, Dtype::F32)
}

fn merged(operator: Operator, members: &[Adapter]) -> Store {
    let policy = policy(1, AssignmentRule::KMerge, operator);
    let mut store = Store::default();
    for member in members {
        store.arrive(&policy, member).unwrap();
    }
    store
}

/// Similarity by its definition, from dense updates.
fn dense_similarity(left: &Adapter, right: &Adapter) -> f64 {
    let (left, right) = (updates(left.view()), updates(right.view()));
    let cosines: Vec<f64> = left
        .iter()
        .filter_map(|(path, update)| Some(cosine(update, right.get(path)?)))
        .collect();
    if cosines.is_empty() {
        return 0.0;
    }
    cosines.iter().sum::<f64>() / f64::from(u32::try_from(cosines.len()).unwrap())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn similarity_is_symmetric_bounded_and_what_the_definition_says(
        left in any_adapter(), right in any_adapter()
    ) {
        let found = similarity(left.view(), right.view()).unwrap();
        let back = similarity(right.view(), left.view()).unwrap();
        prop_assert!((found - back).abs() < 1e-6, "{found} and {back}");
        prop_assert!((-1.0..=1.0).contains(&found));
        prop_assert!((found - dense_similarity(&left, &right)).abs() < 1e-5);
        prop_assert!((similarity(left.view(), left.view()).unwrap() - 1.0).abs() < 1e-5);
    }

    #[test]
    fn similarity_does_not_depend_on_the_gauge(
        seeds in any::<[u64; 2]>(), scale in 0.05_f32..20.0, shear in -2.0_f32..2.0
    ) {
        let (path, shape) = MODULES[0];
        let [plain, other] = seeds.map(|seed| Module::random(path, shape, 3, seed));
        // (B·T, T⁻¹·A) with T a shear after a scaling of the first direction.
        let mut gauged = plain.clone();
        for row in gauged.b.chunks_mut(3) {
            row[0] *= scale;
            row[1] += shear * row[0];
        }
        for column in 0..shape[1] {
            gauged.a[column] = gauged.a[column] / scale - shear * gauged.a[shape[1] + column];
        }
        let make = |module: &Module| adapter(std::slice::from_ref(module), 3.0, Dtype::F32);
        let expected = similarity(make(&plain).view(), make(&other).view()).unwrap();
        let found = similarity(make(&gauged).view(), make(&other).view()).unwrap();
        prop_assert!((found - expected).abs() < 1e-4, "{found} against {expected}");
    }

    #[test]
    fn exact_of_an_adapter_with_itself_is_the_adapter(newcomer in any_adapter(), copies in 2_usize..5) {
        let store = merged(Operator::Exact, &vec![newcomer.clone(); copies]);
        let found = updates(store.slots[&0].view());
        let difference = relative_difference(&found, &updates(newcomer.view()));
        prop_assert!(difference < 5e-6, "{difference:e}");
    }

    #[test]
    fn kmerge_linear_of_n_copies_is_n_times_the_update(newcomer in any_adapter(), copies in 1_u32..6) {
        let members = vec![newcomer.clone(); usize::try_from(copies).unwrap()];
        let store = merged(Operator::KMergeLinear, &members);
        let own = updates(newcomer.view());
        let expected = average(&[(f64::from(copies), &own)]);
        prop_assert!(relative_difference(&updates(store.slots[&0].view()), &expected) < 5e-6);
    }

    #[test]
    fn kmerge_linear_is_its_closed_form_in_any_order(
        mut members in proptest::collection::vec(full_adapter(3), 2..5), turn in 0_usize..4
    ) {
        let n = f64::from(u32::try_from(members.len()).unwrap());
        let forward = updates(merged(Operator::KMergeLinear, &members).slots[&0].view());
        for (path, found) in &forward {
            // (1/n) (Σ √sᵢ Bᵢ) (Σ √sᵢ Aᵢ)
            let mut sums: Option<(Mat<f64>, Mat<f64>)> = None;
            for member in &members {
                let root = member.layout.module(path).unwrap().scaling.sqrt();
                let (a, b) = dense::factors(member.view(), path);
                let (a, b) = (faer::Scale(root) * a, faer::Scale(root) * b);
                sums = Some(match sums {
                    None => (a, b),
                    Some((sum_a, sum_b)) => (sum_a + a, sum_b + b),
                });
            }
            let (a, b) = sums.unwrap();
            let expected = faer::Scale(1.0 / n) * (b * a);
            let difference = (found - &expected).norm_max();
            prop_assert!(difference <= 5e-6 * expected.norm_max(), "{path}: {difference:e}");
        }
        let by = turn % members.len();
        members.rotate_left(by);
        members.swap(0, 1);
        let turned = updates(merged(Operator::KMergeLinear, &members).slots[&0].view());
        prop_assert!(relative_difference(&turned, &forward) < 1e-5);
    }

    #[test]
    fn exact_of_two_is_the_best_approximation_of_their_average(
        left in full_adapter(3), right in full_adapter(2)
    ) {
        let store = merged(Operator::Exact, &[left.clone(), right.clone()]);
        let found = updates(store.slots[&0].view());
        let average = average(&[(0.5, &updates(left.view())), (0.5, &updates(right.view()))]);
        for (path, wanted) in &average {
            let error = (wanted - &found[path]).norm_l2();
            let optimal = dense::tail(wanted, 3);
            prop_assert!(
                (error - optimal).abs() <= 1e-5 * wanted.norm_l2(),
                "{path}: {error} against {optimal}"
            );
            // The factors are balanced: BᵀB = AAᵀ = Σ.
            let (a, b) = dense::factors(store.slots[&0].view(), path);
            let imbalance = (&a * a.transpose() - b.transpose() * &b).norm_max();
            prop_assert!(imbalance <= 1e-5 * wanted.norm_l2(), "{path}: {imbalance:e}");
        }
    }

    #[test]
    fn zero_padding_changes_nothing(seeds in any::<[u64; 2]>(), operator in 0_usize..3) {
        let operator = [Operator::KMergeLinear, Operator::Linear, Operator::Exact][operator];
        let make = |seed: u64, padded: bool| {
            let modules = MODULES.map(|(path, shape)| {
                let mut module = Module::random(path, shape, 2, seed);
                if padded {
                    module.a.resize(4 * module.in_features, 0.0);
                    module.b = module.b.chunks(2).flat_map(|row| [row, &[0.0; 2]].concat()).collect();
                    module.rank = 4;
                }
                module
            });
            // The same scaling at either rank.
            adapter(&modules, if padded { 8.0 } else { 4.0 }, Dtype::F32)
        };
        // The first member has rank 4 either way, so both slots do.
        let first = make(seeds[0], true);
        let plain = merged(operator, &[first.clone(), make(seeds[1], false)]);
        let padded = merged(operator, &[first, make(seeds[1], true)]);
        let difference = relative_difference(
            &updates(padded.slots[&0].view()),
            &updates(plain.slots[&0].view()),
        );
        prop_assert!(difference < 5e-6, "{difference:e}");
    }

    #[test]
    fn whatever_arrives_the_slots_are_finite_and_as_promised(
        arrivals in proptest::collection::vec(any_adapter(), 1..6),
        operator in 0..OPERATORS.len(),
        slots in 1_u32..4,
    ) {
        let operator = OPERATORS[operator];
        let policy = policy(slots, AssignmentRule::KMerge, operator);
        let mut store = Store::default();
        for newcomer in &arrivals {
            let before = store.clone();
            let (plan, outcome) = store.arrive(&policy, newcomer).unwrap();
            prop_assert!(plan.slot < slots);
            prop_assert_eq!(plan.generation, before.slots.get(&plan.slot).map_or(1, |s| s.generation + 1));
            let old = before.slots.get(&plan.slot).map_or(0, |slot| slot.layout.rank());
            prop_assert_eq!(outcome.layout.rank(), old.max(newcomer.layout.rank()));
            prop_assert!(plan.similarities.iter().all(|(_, s)| (-1.0..=1.0).contains(s)));
            if let Some(kept) = outcome.energy_kept {
                prop_assert!((0.0..=1.0).contains(&kept));
            }
            let stored = updates(store.slots[&plan.slot].view());
            for (module, &norm) in outcome.layout.modules.iter().zip(outcome.norms.as_slice()) {
                let expected = stored[&module.path].norm_l2();
                prop_assert!(expected.is_finite());
                prop_assert!((f64::from(norm) - expected).abs() <= 1e-5 * expected + 1e-6, "{}", module.path);
            }
        }
    }
}

#[test]
fn slots_that_unite_are_the_mean_of_all_their_members() {
    let members: Vec<Adapter> = (0..5).map(|seed| full(3, seed, 4.0)).collect();
    for operator in [Operator::KMergeLinear, Operator::Linear, Operator::Exact] {
        let (left, right) = (
            merged(operator, &members[..2]),
            merged(operator, &members[2..]),
        );
        let (plan, both) = united(&policy(1, AssignmentRule::KMerge, operator), &left, &right);
        let expected_share = if operator == Operator::Linear {
            0.5
        } else {
            0.6
        };
        assert!((plan.newcomer_weight - expected_share).abs() < 1e-15);
        if operator == Operator::KMergeLinear {
            // Means of factors do not depend on the way that they were made.
            let all = merged(operator, &members);
            let difference =
                relative_difference(&updates(both.view()), &updates(all.slots[&0].view()));
            assert!(difference < 1e-5, "{operator}: {difference}");
        }
    }
}
