//! TIES-Merging (arXiv 2306.01708) of the factors, as PEFT's `ties`.
//!
//! Trim: of every factor the largest values are kept, a share of `density` of them. Elect: at every
//! place the sign of the sum of what is left on both sides, plus where it is zero. Merge: the mean
//! of the weighed values that have this sign, over as many as there are.
//!
//! Signs of single entries depend on the basis that an adapter happens to be written in, so this is
//! here to be compared with, not to be recommended.

use super::Target;
use super::sparse::{self, Pair, SparseScratch};
use crate::MergeError;

/// Memory of one thread.
#[derive(Debug, Default)]
pub(crate) struct TiesScratch {
    sparse: SparseScratch,
    magnitudes: Vec<u32>,
}

/// Fills `out` (A, then B).
pub(crate) fn merge(
    pair: Pair<'_>,
    density: f64,
    target: Target,
    scratch: &mut TiesScratch,
    out: &mut [f32],
) -> Result<(), MergeError> {
    let TiesScratch { sparse, magnitudes } = scratch;
    sparse::combine(
        pair,
        target,
        sparse,
        out,
        |_, _, values| keep_largest(values, density, magnitudes),
        elect,
    )
}

/// Sets all but the largest ⌊density · count⌋ values to zero; of equals the first are kept.
///
/// Values are multiplied, not overwritten, so that one that is not finite is never lost.
fn keep_largest(values: &mut [f32], density: f64, magnitudes: &mut Vec<u32>) {
    let kept = share(values.len(), density);
    if density >= 1.0 || kept >= values.len() {
        return;
    }
    // The bits of values without a sign are in the order of the values.
    magnitudes.clear();
    magnitudes.extend(values.iter().map(|value| value.abs().to_bits()));
    let smallest = match kept.checked_sub(1) {
        None => u32::MAX,
        Some(last) => {
            let descending = |left: &u32, right: &u32| right.cmp(left);
            *magnitudes.select_nth_unstable_by(last, descending).1
        }
    };
    let bits = |value: f32| value.abs().to_bits();
    let count = |keeps: fn(u32, u32) -> bool| {
        let each = magnitudes.iter().map(|&bits| keeps(bits, smallest));
        each.map(usize::from).sum::<usize>()
    };
    // Without equals to choose from there is nothing to count on the way, and the loop is fast.
    if count(|bits, smallest| bits >= smallest) == kept {
        for value in values {
            *value *= f32::from(u8::from(bits(*value) >= smallest));
        }
        return;
    }
    let mut equals = kept.saturating_sub(count(|bits, smallest| bits > smallest));
    for value in values {
        let bits = bits(*value);
        let equal = bits == smallest && equals > 0;
        equals -= usize::from(equal);
        *value *= f32::from(u8::from(bits > smallest || equal));
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "a count of elements in memory times a share of them, rounded down on purpose"
)]
fn share(count: usize, density: f64) -> usize {
    (count as f64 * density) as usize
}

/// The mean of what agrees with the elected sign.
pub(super) fn elect([x, y]: [f32; 2], [to_x, to_y]: [f32; 2]) -> f32 {
    let sign = if x + y >= 0.0 { 1.0 } else { -1.0 };
    // Not a number agrees with everything, so that it is found in the result. Selections in place
    // of branches: signs are unpredictable.
    let agrees = |value: f32| (value * sign > 0.0) | value.is_nan();
    let (first, second) = (agrees(x), agrees(y));
    let left = if first { x * to_x } else { 0.0 };
    let right = if second { y * to_y } else { 0.0 };
    (left + right) * if first & second { 0.5 } else { 1.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(values: &[f32], density: f64) -> Vec<f32> {
        let mut values = values.to_vec();
        keep_largest(&mut values, density, &mut vec![7; 99]);
        values
    }

    #[test]
    fn the_largest_share_is_kept_and_the_first_of_equals() {
        let values = [1.0, -4.0, 2.0, -2.0, 3.0, 0.5];
        assert_eq!(kept(&values, 0.5), [0.0, -4.0, 2.0, 0.0, 3.0, 0.0]);
        assert_eq!(kept(&values, 0.34), [0.0, -4.0, 0.0, 0.0, 3.0, 0.0]);
        assert_eq!(kept(&values, 0.1), [0.0; 6]);
        assert_eq!(kept(&values, 1.0), values);
        assert_eq!(kept(&[2.0; 5], 0.5), [2.0, 2.0, 0.0, 0.0, 0.0]);
        assert_eq!(kept(&[], 0.5), [0.0; 0]);
    }

    #[test]
    fn what_is_not_finite_survives_every_density() {
        for broken in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for density in [0.1, 0.5] {
                let left = kept(&[1.0, broken, 2.0, 3.0], density);
                assert!(!left[1].is_finite(), "{broken} at {density}");
            }
            for other in [0.0, 5.0, -5.0, -broken] {
                assert!(!elect([broken, other], [0.7, 0.7]).is_finite());
                assert!(!elect([other, broken], [0.7, 0.7]).is_finite());
            }
        }
    }

    #[test]
    fn the_elected_sign_decides_who_is_averaged() {
        let roots = [0.5, 0.25];
        for (pair, expected) in [
            ([2.0, 4.0], 1.0),
            ([-2.0, -4.0], -1.0),
            ([-2.0, 4.0], 1.0),
            ([2.0, -4.0], -1.0),
            ([4.0, -2.0], 2.0),
            // The sum is zero, and zero is plus.
            ([2.0, -2.0], 1.0),
            ([-2.0, 2.0], 0.5),
            // What was pruned does not count.
            ([0.0, 4.0], 1.0),
            ([-2.0, 0.0], -1.0),
            ([0.0, 0.0], 0.0),
        ] {
            assert_eq!(elect(pair, roots), expected, "{pair:?}");
        }
    }
}
