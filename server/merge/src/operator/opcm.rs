//! Continual merging by orthogonal projection (OPCM, arXiv 2501.09522), on the updates.
//!
//! What the slot has is M = U·S·Vᵀ, what comes is D. From D is taken what it shares with M:
//!
//! ```text
//! K = Uᵀ·D·V                       p: how many of S come before their running share exceeds ½
//! clean = D − U·(mask ∘ K)·Vᵀ      the mask has the leading p × p block and the diagonal
//! M' ∝ λ·M + clean                 cut at the target's rank, at the mean norm of all members
//! ```
//!
//! Everything is a small matrix between the stacked factors ([`stack`](super::stack)); no update is
//! formed. U and V are the thin ones: the published formulas leave open in which basis of M's null
//! space a diagonal would be taken, so none is.
//!
//! The method keeps two numbers beside the merged update, a slot keeps neither. The mean norm of the
//! members is the slot's own norm, because every merge leaves it at that: the norm is restored
//! *after* the cut, where the publication, which never cuts, has nothing to restore.
//! λ² grows by one with each cleaned update of the mean norm, since those are orthogonal to what is
//! there; so it is the number of members, which is (1 − w)/w with w the newcomer's share.

use faer::{Mat, MatRef};

use super::exact::{Energy, ExactScratch};
use super::stack::{Core, NEGLIGIBLE, weigh};
use super::{Side, Target, narrow};
use crate::{Dtype, MergeError};

/// The share of the singular values' sum whose directions are kept clear of the newcomer: the
/// publication's choice.
const ALPHA: f64 = 0.5;
/// Squared singular values of M below this share of its factors' size have no direction that could
/// be told from rounding, hence nothing to protect.
const INDISTINCT: f64 = 1e-10;

/// Fills `out` (A, then B) from two sides that both have the module. `weight` is the newcomer's
/// share: 1/n for the n-th member.
pub(crate) fn merge(
    slot: Side<'_>,
    newcomer: Side<'_>,
    weight: f64,
    target: Target,
    scratch: &mut ExactScratch,
    out: &mut [f32],
) -> Result<Energy, MergeError> {
    scratch.read(slot, newcomer, target)?;
    let (own, scaling) = (slot.module.rank, newcomer.module.scaling);
    let m = own + newcomer.module.rank;
    let module = &slot.module.path;
    let [left, right] = scratch.grams(m).map(|gram| weigh(gram, &vec![1.0; m]));
    if !(left.norm_l2() * right.norm_l2()).is_finite() {
        return Err(MergeError::NotFinite {
            module: module.clone(),
            dtype: Dtype::F32,
        });
    }
    let not_converged = || MergeError::Decomposition {
        module: module.clone(),
    };
    let shared = shared(&left, &right, own).ok_or_else(not_converged)?;
    let kept_share = ((1.0 - weight) / weight).sqrt();
    let middle = Mat::from_fn(m, m, |row, column| {
        let diagonal = f64::from(u8::from(row == column));
        match (row < own, column < own) {
            (true, true) => kept_share * diagonal - scaling * shared[(row, column)],
            (false, false) => scaling * diagonal,
            (true, false) | (false, true) => 0.0,
        }
    });
    let weighed = middle.transpose() * &left * &middle;
    let size = weighed.norm_l2() * right.norm_l2();
    let core =
        Core::new(&weighed, &right, target.rank, size * NEGLIGIBLE).ok_or_else(not_converged)?;

    let at = |start: usize, count: usize| -> f64 {
        let block = |gram: &Mat<f64>| gram.submatrix(start, start, count, count).to_owned();
        norm(block(&left).as_ref(), block(&right).as_ref())
    };
    let mean = (1.0 - weight) * at(0, own) + weight * scaling * at(own, m - own);
    let kept: f64 = core.values.iter().sum();
    let gain = if kept > 0.0 { mean / kept.sqrt() } else { 0.0 };
    let middle_c_y = &middle * &core.c_y;
    let rank = target.rank;
    let mut to_b = vec![0.0; m * rank];
    let mut to_a = vec![0.0; rank * m];
    for (column, &value) in core.values.iter().enumerate() {
        // Powers of σ = √value; the gain is shared between the factors.
        let (root, cubed_root) = (
            gain.sqrt() * value.powf(-0.25),
            gain.sqrt() * value.powf(-0.75),
        );
        for row in 0..m {
            to_b[row * rank + column] = narrow(middle_c_y[(row, column)] * root);
            to_a[column * m + row] = narrow(core.left_c_y[(row, column)] * cubed_root);
        }
    }
    scratch.factors(&to_a, &to_b, target, out);
    Ok(Energy {
        kept: gain * gain * kept,
        all: gain * gain * core.all,
    })
}

/// X with B₁·X·A₁ = U·(mask ∘ K)·Vᵀ, K of an unscaled newcomer; `None` when the eigenvalue
/// iteration does not converge.
fn shared(left: &Mat<f64>, right: &Mat<f64>, own: usize) -> Option<Mat<f64>> {
    let new = left.nrows() - own;
    let block = |gram: &Mat<f64>| gram.submatrix(0, 0, own, own).to_owned();
    let (own_left, own_right) = (block(left), block(right));
    let size = own_left.norm_l2() * own_right.norm_l2();
    let core = Core::new(&own_left, &own_right, own, size * INDISTINCT)?;
    let directions = core.values.len();
    // U = B₁·to_u and V = A₁ᵀ·to_v.
    let to_u = Mat::from_fn(own, directions, |row, column| {
        core.c_y[(row, column)] / core.values[column].sqrt()
    });
    let to_v = Mat::from_fn(own, directions, |row, column| {
        core.left_c_y[(row, column)] / core.values[column]
    });
    let k = (to_u.transpose() * left.submatrix(0, own, own, new))
        * (right.submatrix(own, 0, new, own) * &to_v);
    let sigma: Vec<f64> = core.values.iter().map(|value| value.sqrt()).collect();
    let protected = protected(&sigma);
    let masked = Mat::from_fn(directions, directions, |row, column| {
        if row == column || row.max(column) < protected {
            k[(row, column)]
        } else {
            0.0
        }
    });
    Some(to_u * masked * to_v.transpose())
}

/// The number of leading values before the first whose running share of the sum exceeds [`ALPHA`].
fn protected(sigma: &[f64]) -> usize {
    let limit = ALPHA * sigma.iter().sum::<f64>();
    let mut running = 0.0;
    sigma
        .iter()
        .take_while(|&value| {
            running += value;
            running <= limit
        })
        .count()
}

/// ‖B·A‖ from BᵀB and AAᵀ.
fn norm(left: MatRef<'_, f64>, right: MatRef<'_, f64>) -> f64 {
    (left * right)
        .diagonal()
        .column_vector()
        .iter()
        .sum::<f64>()
        .max(0.0)
        .sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leading_values_are_protected_until_half_of_the_sum() {
        for (sigma, expected) in [
            (vec![], 0),
            (vec![5.0], 0),
            (vec![3.0, 2.0, 1.0], 1),
            (vec![1.0; 4], 2),
            (vec![1.0; 5], 2),
            (vec![6.0, 1.0, 1.0], 0),
        ] {
            assert_eq!(protected(&sigma), expected, "{sigma:?}");
        }
    }

    #[test]
    fn the_norm_is_that_of_the_product() {
        let b = Mat::from_fn(4, 2, |row, column| if row == column { 3.0 } else { 0.5 });
        let a = Mat::from_fn(2, 3, |row, column| if row < column { -2.0 } else { 1.0 });
        let found = norm((b.transpose() * &b).as_ref(), (&a * a.transpose()).as_ref());
        assert!((found - (&b * &a).norm_l2()).abs() < 1e-12);
        let nothing = Mat::<f64>::zeros(2, 2);
        assert_eq!(norm(nothing.as_ref(), nothing.as_ref()), 0.0);
    }
}
