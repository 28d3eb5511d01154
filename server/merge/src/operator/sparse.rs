//! The frame of the operators that thin out factors before they are added: TIES and DARE.
//!
//! As PEFT's `add_weighted_adapter` does it, on A and B apart: every factor is pruned by itself,
//! then the two are joined with the roots of their weights, √w₁ and √w₂. Both sides come in normal
//! form, as a slot stores them, so that signs are compared at the sizes at which the factors are
//! added. (PEFT compares a slot's folded values with a newcomer's unfolded ones; where all scalings
//! are one it does the same as this.) What a side lacks by rank is zero; padding that is stored
//! counts as values when a share of them is kept.

use super::{Factor, Side, Target, narrow};
use crate::MergeError;

/// Which of a module's two factors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Which {
    A,
    B,
}

/// Which of the two sides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Owner {
    Slot,
    Newcomer,
}

/// The two that are merged; a side that lacks the module is `None`.
#[derive(Clone, Copy)]
pub(crate) struct Pair<'a> {
    pub(crate) slot: Option<Side<'a>>,
    pub(crate) newcomer: Option<Side<'a>>,
    /// What their updates are multiplied by.
    pub(crate) weights: [f64; 2],
}

/// Memory of one thread.
#[derive(Debug, Default)]
pub(crate) struct SparseScratch {
    /// One factor, as read.
    values: Vec<f32>,
    halves: Vec<u16>,
    /// The newcomer's factor at the target's rank.
    second: Vec<f32>,
}

/// √w₁·x + √w₂·y.
pub(super) fn sum([x, y]: [f32; 2], [to_x, to_y]: [f32; 2]) -> f32 {
    to_x * x + to_y * y
}

/// Fills `out` (A, then B); `prune` is called for every factor of either side, `join` for every two
/// values with the roots of their weights.
pub(super) fn combine(
    pair: Pair<'_>,
    target: Target,
    scratch: &mut SparseScratch,
    out: &mut [f32],
    mut prune: impl FnMut(Which, Owner, &mut [f32]),
    join: impl Fn([f32; 2], [f32; 2]) -> f32,
) -> Result<(), MergeError> {
    let (a, b) = out.split_at_mut(target.a_len());
    for (which, row, out) in [(Which::A, target.a_len(), a), (Which::B, target.rank, b)] {
        let SparseScratch {
            values,
            halves,
            second,
        } = scratch;
        second.resize(out.len(), 0.0);
        for (owner, side, place) in [
            (Owner::Slot, pair.slot, &mut *out),
            (Owner::Newcomer, pair.newcomer, &mut second[..]),
        ] {
            let Some(side) = side else {
                place.fill(0.0);
                continue;
            };
            let factor: Factor<'_> = match which {
                Which::A => side.a(),
                Which::B => side.b(),
            };
            values.resize(factor.len(), 0.0);
            factor.read(values, halves)?;
            let fold = narrow(side.module.scaling.sqrt());
            values.iter_mut().for_each(|value| *value *= fold);
            prune(which, owner, values);
            for (place, values) in place
                .chunks_exact_mut(row)
                .zip(values.chunks_exact(factor.row))
            {
                let (shared, padding) = place.split_at_mut(values.len());
                shared.copy_from_slice(values);
                padding.fill(0.0);
            }
        }
        let roots = pair.weights.map(|weight| narrow(weight.sqrt()));
        out.iter_mut()
            .zip(&*second)
            .for_each(|(out, &value)| *out = join([*out, value], roots));
    }
    Ok(())
}
