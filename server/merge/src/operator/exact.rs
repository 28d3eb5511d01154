//! The best approximation, at the target's rank, of the weighted average of two updates.
//!
//! Stack the factors: D = (1−w)·B₁A₁ + w·s·B₂A₂ = L·Rᵀ with L = [√(1−w)·B₁, √(ws)·B₂] and
//! R = [√(1−w)·A₁ᵀ, √(ws)·A₂ᵀ]. By Eckart and Young the truncated SVD of D is the best
//! approximation, and D has at most 2r singular values, all of which live in small matrices
//! ([`stack`](super::stack)): B̂ = U·√Σ and Â = √Σ·Vᵀ.
//!
//! PEFT's `svd` combination forms the same D and cuts it at the same rank. It leaves all of Σ in B̂
//! where this halves it, which is another pair of factors of one and the same update.

use super::stack::{Core, NEGLIGIBLE, weigh};
use super::{Side, Target, narrow};
use crate::{Dtype, MergeError};

pub(crate) use super::stack::{Energy, Stacks as ExactScratch};

/// Fills `out` (A, then B) from two sides that both have the module.
pub(crate) fn merge(
    slot: Side<'_>,
    newcomer: Side<'_>,
    weight: f64,
    target: Target,
    scratch: &mut ExactScratch,
    out: &mut [f32],
) -> Result<Energy, MergeError> {
    scratch.read(slot, newcomer, target)?;
    let ranks = [slot.module.rank, newcomer.module.rank];
    let m = ranks[0] + ranks[1];
    // Weights go into the small matrices, where they are exact, not into the factors.
    let weights = [
        (1.0 - weight).sqrt(),
        (weight * newcomer.module.scaling).sqrt(),
    ];
    let weights: Vec<f64> = (0..m)
        .map(|index| weights[usize::from(index >= ranks[0])])
        .collect();
    let [gram_left, gram_right] = scratch.grams(m).map(|gram| weigh(gram, &weights));
    let size = gram_left.norm_l2() * gram_right.norm_l2();
    let module = &slot.module.path;
    if !size.is_finite() {
        return Err(MergeError::NotFinite {
            module: module.clone(),
            dtype: Dtype::F32,
        });
    }
    let core =
        Core::new(&gram_left, &gram_right, target.rank, size * NEGLIGIBLE).ok_or_else(|| {
            MergeError::Decomposition {
                module: module.clone(),
            }
        })?;

    let rank = target.rank;
    let mut to_b = vec![0.0; m * rank];
    let mut to_a = vec![0.0; rank * m];
    for (column, &value) in core.values.iter().enumerate() {
        // Powers of σ = √value.
        let (root, cubed_root) = (value.powf(-0.25), value.powf(-0.75));
        for (row, weight) in weights.iter().enumerate() {
            to_b[row * rank + column] = narrow(core.c_y[(row, column)] * root * weight);
            to_a[column * m + row] = narrow(core.left_c_y[(row, column)] * cubed_root * weight);
        }
    }
    scratch.factors(&to_a, &to_b, target, out);
    Ok(Energy {
        kept: core.values.iter().sum(),
        all: core.all,
    })
}
