//! The rules beside each other on five tasks in eight languages, where the truth is known.
//!
//! Forty updates of norm one; cosines .06 within a task, .025 within a language, .012 otherwise, all
//! ± .006. Orders are random, or one task after the other. Slots are exact means, so their inner
//! products are sums over this table of cosines.

use super::best_pair::{Linkage, Move, Row, Table};
use super::calibration::{Calibration, threshold};
use super::{Choice, Room, decide};
use crate::{AssignmentRule, Policy};

const TASKS: usize = 5;
const LANGUAGES: usize = 8;
const ALL: usize = TASKS * LANGUAGES;
const ORDERS: u64 = 60;
/// Between the cosines within a task and all others.
const RIGHT: f64 = 0.04;
/// Among the cosines of strangers.
const LOW: f64 = 0.02;

#[derive(Debug, Clone, Copy)]
enum Rule {
    First(AssignmentRule),
    /// kmerge with the plain cosine to exact means, which shrink as they gain members.
    Inflated,
    Calibrated(Calibration),
    BestPair(Linkage),
}

/// Means over all orders.
#[derive(Debug)]
struct Figures {
    /// Share of the updates that are in a slot where their task is the most frequent.
    purity: f64,
    /// Mean cosine of an update with its slot.
    retention: f64,
    slots: f64,
}

struct Random(u64);

impl Random {
    /// Uniform in [0, 1).
    fn next(&mut self) -> f64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        f64::from(u32::try_from(self.0 >> 32).unwrap()) / 4_294_967_296.0
    }

    fn shuffle(&mut self, places: &mut [usize]) {
        for last in (1..places.len()).rev() {
            let (drawn, mut other) = (self.next(), 0);
            while number(other + 1) <= drawn * number(last + 1) {
                other += 1;
            }
            places.swap(last, other);
        }
    }
}

fn number(count: usize) -> f64 {
    f64::from(u32::try_from(count).unwrap())
}

fn cosines(random: &mut Random) -> Vec<Vec<f64>> {
    let mut table = vec![vec![1.0; ALL]; ALL];
    let pairs = (0..ALL).flat_map(|one| (0..one).map(move |other| (one, other)));
    for (one, other) in pairs {
        let level = if one / LANGUAGES == other / LANGUAGES {
            0.06
        } else if one % LANGUAGES == other % LANGUAGES {
            0.025
        } else {
            0.012
        };
        let cosine = level + 0.006 * (2.0 * random.next() - 1.0);
        table[one][other] = cosine;
        table[other][one] = cosine;
    }
    table
}

fn order(adversarial: bool, random: &mut Random) -> Vec<usize> {
    let mut order: Vec<usize> = (0..ALL).collect();
    random.shuffle(&mut order);
    if adversarial {
        let mut tasks: Vec<usize> = (0..TASKS).collect();
        random.shuffle(&mut tasks);
        order.sort_by_key(|&one| tasks[one / LANGUAGES]);
    }
    order
}

/// ⟨μ_a, μ_b⟩.
fn product(cosines: &[Vec<f64>], a: &[usize], b: &[usize]) -> f64 {
    let pairs = a
        .iter()
        .flat_map(|&one| b.iter().map(move |&other| (one, other)));
    pairs.map(|(one, other)| cosines[one][other]).sum::<f64>() / number(a.len() * b.len())
}

fn first_come(
    rule: AssignmentRule,
    limit: usize,
    slots: &mut Vec<Vec<usize>>,
    similarities: &[(u32, f64)],
    newcomer: usize,
) {
    let room = if slots.len() < limit {
        Room::Free(u32::try_from(slots.len()).unwrap())
    } else {
        Room::AllTaken
    };
    let policy = Policy {
        slots: u32::try_from(limit).unwrap(),
        assignment: rule,
        ..Policy::default()
    };
    match decide(&policy, room, similarities).choice {
        Choice::Merge(slot) => slots[usize::try_from(slot).unwrap()].push(newcomer),
        Choice::Open(_) | Choice::Nowhere => slots.push(vec![newcomer]),
    }
}

fn cluster(rule: Rule, limit: usize, cosines: &[Vec<f64>], order: &[usize]) -> Vec<Vec<usize>> {
    let mut slots: Vec<Vec<usize>> = Vec::new();
    let mut table = Table::default();
    let mut observed = Vec::new();
    for &newcomer in order {
        let products: Vec<f64> = slots
            .iter()
            .map(|slot| product(cosines, slot, &[newcomer]))
            .collect();
        // Slots of kmerge-linear stay at the norm of their members when those are strangers, so the
        // cosine with one is the mean cosine with its members.
        let similarities: Vec<(u32, f64)> = (0..).zip(products.iter().copied()).collect();
        match rule {
            Rule::First(rule) => first_come(rule, limit, &mut slots, &similarities, newcomer),
            Rule::Inflated => {
                let inflated: Vec<(u32, f64)> = similarities
                    .iter()
                    .zip(&slots)
                    .map(|(&(slot, mean), all)| (slot, mean / product(cosines, all, all).sqrt()))
                    .collect();
                first_come(
                    AssignmentRule::KMerge,
                    limit,
                    &mut slots,
                    &inflated,
                    newcomer,
                );
            }
            Rule::Calibrated(calibration) => {
                // Of norm one: the product with a mean is the mean cosine to its members.
                observed.extend(&products);
                let threshold = threshold(&observed, calibration, 1e-4);
                let rule = AssignmentRule::KMergePlusPlus {
                    threshold: Some(threshold),
                };
                first_come(rule, limit, &mut slots, &similarities, newcomer);
            }
            Rule::BestPair(linkage) => {
                let row = Row {
                    norm: 1.0,
                    products,
                };
                let chosen = table.choose(&row, limit, linkage).unwrap();
                table = table.moved(&row, chosen).unwrap();
                match chosen {
                    Move::Open { .. } => slots.push(vec![newcomer]),
                    Move::Join { slot, .. } => slots[slot].push(newcomer),
                    Move::Pair { kept, freed, .. } => {
                        let moving = std::mem::replace(&mut slots[freed], vec![newcomer]);
                        slots[kept].extend(moving);
                    }
                }
            }
        }
    }
    slots
}

fn figures(rule: Rule, limit: usize, adversarial: bool) -> Figures {
    let (mut pure, mut retention, mut used) = (0, 0.0, 0);
    for seed in 1..=ORDERS {
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let cosines = cosines(&mut random);
        let order = order(adversarial, &mut random);
        let slots = cluster(rule, limit, &cosines, &order);
        used += slots.len();
        for slot in &slots {
            let of_task = |task| slot.iter().filter(|&&one| one / LANGUAGES == task).count();
            pure += (0..TASKS).map(of_task).max().unwrap();
            let norm = product(&cosines, slot, slot).sqrt();
            let own = slot
                .iter()
                .map(|&one| product(&cosines, slot, &[one]) / norm);
            retention += own.sum::<f64>();
        }
    }
    let orders = number(usize::try_from(ORDERS).unwrap());
    Figures {
        purity: number(pure) / orders / number(ALL),
        retention: retention / orders / number(ALL),
        slots: number(used) / orders,
    }
}

fn assert_near(rule: Rule, limit: usize, adversarial: bool, [purity, retention]: [f64; 2]) {
    let found = figures(rule, limit, adversarial);
    assert!(
        (found.purity - purity).abs() < 0.02 && (found.retention - retention).abs() < 0.01,
        "{rule:?}, {limit} slots, adversarial {adversarial}: {found:?}"
    );
}

#[test]
fn first_come_first_served_mixes_tasks() {
    let kmerge = Rule::First(AssignmentRule::KMerge);
    let low = Rule::First(AssignmentRule::KMergePlusPlus {
        threshold: Some(LOW),
    });
    let right = Rule::First(AssignmentRule::KMergePlusPlus {
        threshold: Some(RIGHT),
    });
    for (rule, limit, adversarial, expected) in [
        (kmerge, 5, false, [0.85, 0.405]),
        (kmerge, 5, true, [0.78, 0.39]),
        (kmerge, 8, false, [0.966, 0.485]),
        (kmerge, 8, true, [0.892, 0.454]),
        (low, 5, false, [0.86, 0.39]),
        (low, 5, true, [1.0, 0.421]),
        (right, 5, false, [1.0, 0.421]),
        (right, 5, true, [1.0, 0.421]),
        (right, 8, false, [1.0, 0.421]),
    ] {
        assert_near(rule, limit, adversarial, expected);
    }
}

#[test]
fn the_best_pair_finds_the_tasks_in_any_order() {
    for linkage in [Linkage::Average, Linkage::Ward] {
        for adversarial in [false, true] {
            for (limit, retention) in [(5, 0.421), (8, 0.486)] {
                assert_near(
                    Rule::BestPair(linkage),
                    limit,
                    adversarial,
                    [1.0, retention],
                );
            }
        }
    }
}

#[test]
fn ward_uses_slots_that_are_left_more_evenly() {
    for adversarial in [false, true] {
        let [average, ward] = [Linkage::Average, Linkage::Ward]
            .map(|linkage| figures(Rule::BestPair(linkage), 8, adversarial).retention);
        assert!(ward > average + 0.003, "{ward} against {average}");
    }
}

#[test]
fn a_threshold_by_two_means_comes_close_to_the_right_one() {
    for adversarial in [false, true] {
        let by = |calibration| figures(Rule::Calibrated(calibration), 5, adversarial);
        let [split, median] = [Calibration::TwoMeans, Calibration::Median].map(by);
        assert!(split.purity > 0.95 && split.slots > 4.9, "{split:?}");
        // The median lies among strangers, of whom there are more.
        assert!(median.purity < split.purity - 0.1, "{median:?}");
    }
}

#[test]
fn plain_cosines_to_exact_means_draw_everything_to_the_largest_slot() {
    for adversarial in [false, true] {
        let [inflated, kmerge] = [Rule::Inflated, Rule::First(AssignmentRule::KMerge)]
            .map(|rule| figures(rule, 5, adversarial).purity);
        assert!(inflated < kmerge - 0.05, "{inflated} against {kmerge}");
    }
}
