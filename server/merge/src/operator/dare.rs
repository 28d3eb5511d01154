//! DARE (arXiv 2311.03099) of the factors, as PEFT's `dare_linear` and `dare_ties`.
//!
//! Every value is dropped with probability 1 − density and divided by the density otherwise, so
//! that its expectation stays; then the sides are added, or joined as TIES joins them.
//!
//! Chance is a function: which values are dropped follows from the module's path, the generation
//! that is written, the factor, the side and the value's place, so the same input gives the same
//! bytes. A later generation drops others.

use super::sparse::{self, Owner, Pair, SparseScratch, Which};
use super::{Target, narrow, ties};
use crate::MergeError;

/// How the sides become one once they are thinned out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Joining {
    /// The weighted sum.
    Linear,
    /// The mean of those that agree with the elected sign.
    Ties,
}

/// What decides which values are dropped.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Chance<'a> {
    /// The module.
    pub(crate) path: &'a str,
    /// The generation that is written.
    pub(crate) generation: u64,
    /// Share of values that is kept, in (0, 1].
    pub(crate) density: f64,
}

/// Fills `out` (A, then B).
pub(crate) fn merge(
    pair: Pair<'_>,
    joining: Joining,
    chance: Chance<'_>,
    target: Target,
    scratch: &mut SparseScratch,
    out: &mut [f32],
) -> Result<(), MergeError> {
    let prune = |which, owner, values: &mut [f32]| {
        drop_some(values, chance.density, chance.seed(which, owner));
    };
    match joining {
        Joining::Linear => sparse::combine(pair, target, scratch, out, prune, sparse::sum),
        Joining::Ties => sparse::combine(pair, target, scratch, out, prune, ties::elect),
    }
}

impl Chance<'_> {
    /// The path byte by byte, the generation, and one of four numbers for the factor, mixed in turn.
    fn seed(self, which: Which, owner: Owner) -> u64 {
        let place = match (which, owner) {
            (Which::A, Owner::Slot) => 0,
            (Which::A, Owner::Newcomer) => 1,
            (Which::B, Owner::Slot) => 2,
            (Which::B, Owner::Newcomer) => 3,
        };
        self.path
            .bytes()
            .map(u64::from)
            .chain([self.generation, place])
            .fold(0, |seed, next| mix(seed ^ next))
    }
}

/// Multiplies with zero what is dropped, so that a value that is not finite is never lost, and
/// divides the rest by `density`.
fn drop_some(values: &mut [f32], density: f64, seed: u64) {
    if density >= 1.0 {
        return;
    }
    let limit = limit(density);
    let divisor = narrow(density);
    for (place, value) in (0_u64..).zip(values) {
        // A selection in place of a branch: half of the time it would be mispredicted.
        let (kept, dropped) = (*value / divisor, *value * 0.0);
        *value = if draw(seed, place) < limit {
            kept
        } else {
            dropped
        };
    }
}

/// The draws below this number, of 2⁵³, are a share of `density`.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the density is in (0, 1), so the product is a whole number below 2⁵³ after rounding"
)]
fn limit(density: f64) -> u64 {
    const DRAWS: f64 = 9_007_199_254_740_992.0;
    (density * DRAWS) as u64
}

/// The number, below 2⁵³, at a place of a sequence: splitmix64 (Steele, Lea and Flood 2014), which
/// can be entered anywhere.
fn draw(seed: u64, place: u64) -> u64 {
    const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
    mix(seed.wrapping_add(STEP.wrapping_mul(place.wrapping_add(1)))) >> 11
}

/// splitmix64's output function.
fn mix(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHANCE: Chance<'static> = Chance {
        path: "model.layers.0.self_attn.q_proj",
        generation: 2,
        density: 0.5,
    };

    #[test]
    fn the_sequence_is_splitmix64() {
        // The first outputs for seed 1234567, as published with the generator.
        let outputs = [
            6_457_827_717_110_365_317_u64,
            3_203_168_211_198_807_973,
            9_817_491_932_198_370_423,
        ];
        for (place, output) in (0..).zip(outputs) {
            assert_eq!(draw(1_234_567, place), output >> 11);
        }
    }

    #[test]
    fn as_many_are_kept_as_the_density_says_and_the_mean_stays() {
        for density in [0.1, 0.5, 0.9] {
            let mut values = vec![1.0_f32; 100_000];
            drop_some(&mut values, density, CHANCE.seed(Which::A, Owner::Slot));
            let kept = values.iter().filter(|value| **value != 0.0).count();
            let share = f64::from(u32::try_from(kept).unwrap()) / 1e5;
            // Five standard deviations.
            let deviation = (density * (1.0 - density) / 1e5).sqrt();
            assert!((share - density).abs() < 5.0 * deviation, "{share}");
            let first = values.iter().find(|value| **value != 0.0).unwrap();
            assert!((f64::from(*first) * density - 1.0).abs() < 1e-6);
        }
        let mut all = vec![3.0; 9];
        drop_some(&mut all, 1.0, 1);
        assert_eq!(all, [3.0; 9]);
    }

    #[test]
    fn factors_sides_modules_and_generations_have_chances_of_their_own() {
        let mut seeds = Vec::new();
        for which in [Which::A, Which::B] {
            for owner in [Owner::Slot, Owner::Newcomer] {
                for generation in [2, 3] {
                    for path in [CHANCE.path, "model.layers.1.self_attn.q_proj"] {
                        let chance = Chance {
                            path,
                            generation,
                            ..CHANCE
                        };
                        seeds.push(chance.seed(which, owner));
                    }
                }
            }
        }
        let count = seeds.len();
        seeds.sort_unstable();
        seeds.dedup();
        assert_eq!(seeds.len(), count);
    }

    #[test]
    fn what_is_not_finite_is_never_dropped() {
        let mut values = vec![f32::NAN; 64];
        drop_some(&mut values, 0.25, 9);
        assert!(values.iter().all(|value| value.is_nan()));
    }
}
