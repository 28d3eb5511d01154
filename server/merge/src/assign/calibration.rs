//! The threshold of kmerge++ from the similarities that were seen so far.
//!
//! A threshold that suits one base model and one way of training means nothing for another: the
//! released scripts have .020 for one and .028 for the other. Similarities between arrivals and
//! slots tell alike from unlike by themselves, so a threshold can be taken from them. Pure: the same
//! similarities in any order give the same threshold.

use crate::AssignmentRule;

/// How a threshold is taken from similarities.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Calibration {
    /// Their median: K-Merge's rule, there on adapters that are set aside for it.
    Median,
    /// Halfway across the gap between the two groups that they fall into: the split into two means
    /// with the least squared error.
    TwoMeans,
}

/// Similarities from which on a calibration is trusted; until then the published threshold holds.
pub const ENOUGH: usize = 8;

/// Standard deviations of chance below which no threshold is put.
const FLOOR: f64 = 10.0;

/// The threshold to use after these similarities.
///
/// `chance` is the standard deviation of the similarity of unrelated adapters, see [`chance`]; the
/// threshold stays at ten times that or above, and at 1 or below. Similarities that are not finite
/// are left out.
#[must_use]
pub fn threshold(observed: &[f64], calibration: Calibration, chance: f64) -> f64 {
    let mut sorted: Vec<f64> = observed
        .iter()
        .copied()
        .filter(|value| value.is_finite())
        .collect();
    sorted.sort_by(f64::total_cmp);
    let found = if sorted.len() < ENOUGH {
        AssignmentRule::DEFAULT_THRESHOLD
    } else {
        match calibration {
            Calibration::Median => median(&sorted),
            Calibration::TwoMeans => two_means(&sorted).unwrap_or_else(|| median(&sorted)),
        }
    };
    found.max(FLOOR * chance).min(1.0)
}

/// Standard deviation of the similarity of two adapters with nothing in common, for modules of
/// these (rows, columns): a module's cosine is 0 ± 1/√(rows·columns), and similarity is their mean.
#[must_use]
pub fn chance(shapes: &[(usize, usize)]) -> f64 {
    #[expect(
        clippy::cast_precision_loss,
        reason = "sizes of matrices, far inside f64"
    )]
    let as_number = |count: usize| count as f64;
    if shapes.is_empty() {
        return 0.0;
    }
    let variance: f64 = shapes
        .iter()
        .map(|&(rows, columns)| 1.0 / (as_number(rows) * as_number(columns)).max(1.0))
        .sum();
    variance.sqrt() / as_number(shapes.len())
}

fn median(sorted: &[f64]) -> f64 {
    let middle = sorted.len() / 2;
    if sorted.len() % 2 == 1 {
        sorted[middle]
    } else {
        f64::midpoint(sorted[middle - 1], sorted[middle])
    }
}

/// The middle of the gap between two groups; `None` where all are equal.
fn two_means(sorted: &[f64]) -> Option<f64> {
    let total: f64 = sorted.iter().sum();
    let mut below = 0.0;
    let mut best: Option<(f64, f64)> = None;
    for (pair, count) in sorted.windows(2).zip(1_u32..) {
        below += pair[0];
        if pair[0] >= pair[1] {
            continue;
        }
        let rest = u32::try_from(sorted.len()).ok()? - count;
        let (n_below, n_above) = (f64::from(count), f64::from(rest));
        // What is left to minimise once the total is fixed: the variance between the groups.
        let apart = below / n_below - (total - below) / n_above;
        let between = n_below * n_above * apart * apart;
        if best.is_none_or(|(most, _)| between > most) {
            best = Some((between, f64::midpoint(pair[0], pair[1])));
        }
    }
    best.map(|(_, threshold)| threshold)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOTH: [Calibration; 2] = [Calibration::Median, Calibration::TwoMeans];

    #[test]
    fn a_cold_start_is_the_published_threshold() {
        for calibration in BOTH {
            for observed in [&[][..], &[0.5; ENOUGH - 1]] {
                assert_eq!(threshold(observed, calibration, 1e-4), 0.02);
            }
            // What is not a number is not an observation.
            assert_eq!(threshold(&[f64::NAN; 50], calibration, 1e-4), 0.02);
        }
    }

    #[test]
    fn nothing_below_ten_times_chance_and_nothing_above_one() {
        for calibration in BOTH {
            let near_zero: Vec<f64> = (-6_i32..6).map(|at| f64::from(at) * 1e-5).collect();
            assert_eq!(threshold(&near_zero, calibration, 1e-4), 1e-3);
            assert_eq!(threshold(&[], calibration, 0.5), 1.0);
        }
    }

    #[test]
    fn two_groups_are_split_in_the_gap_whatever_their_sizes() {
        for (few, many) in [(4, 30), (30, 4), (10, 10)] {
            let spread = |middle: f64, count: u32| {
                (0..count).map(move |at| middle + 0.004 * (f64::from(at * 7 % 5) - 2.0) / 2.0)
            };
            let mut observed: Vec<f64> = spread(0.06, few).chain(spread(0.012, many)).collect();
            let found = threshold(&observed, Calibration::TwoMeans, 1e-4);
            assert!((0.017..0.055).contains(&found), "{few}, {many}: {found}");
            observed.reverse();
            assert_eq!(threshold(&observed, Calibration::TwoMeans, 1e-4), found);
        }
    }

    #[test]
    fn the_median_is_the_middle() {
        let odd: Vec<f64> = (1..=9).rev().map(|at| f64::from(at) / 10.0).collect();
        assert_eq!(threshold(&odd, Calibration::Median, 0.0), 0.5);
        let even: Vec<f64> = (1..=8).map(|at| f64::from(at) / 8.0).collect();
        assert_eq!(threshold(&even, Calibration::Median, 0.0), 0.5625);
        assert_eq!(threshold(&[0.3; 9], Calibration::TwoMeans, 0.0), 0.3);
    }

    #[test]
    fn chance_shrinks_with_size_and_number() {
        let one = chance(&[(2048, 2048)]);
        assert!((one - 1.0 / 2048.0).abs() < 1e-12);
        assert!((chance(&[(2048, 2048); 64]) - one / 8.0).abs() < 1e-12);
        assert_eq!(chance(&[]), 0.0);
    }
}
