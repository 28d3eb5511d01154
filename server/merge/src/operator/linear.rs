//! Weighted sums of factors: A' = √(1−w)·A_slot + √(w·s)·A_new, and B' likewise.
//!
//! On slots in normal form this is PEFT's `linear`, and with w = 1/n K-Merge's own operator
//! (arXiv 2510.13537). B'A' contains the cross terms B_slot·A_new and B_new·A_slot: for equal
//! adapters the update grows, for orthogonal ones it keeps their norm. With the newcomer alone and
//! w = 1 the same function folds an adapter into normal form.

use super::{ReadScratch, Side, Target, narrow};
use crate::MergeError;

/// Fills `out` (A, then B). A side that lacks the module is `None`; a smaller rank is padded with
/// zero rows of A and zero columns of B.
pub(crate) fn combine(
    slot: Option<Side<'_>>,
    newcomer: Option<Side<'_>>,
    weight: f64,
    target: Target,
    scratch: &mut ReadScratch,
    out: &mut [f32],
) -> Result<(), MergeError> {
    let (a, b) = out.split_at_mut(target.a_len());
    let terms = [
        (slot, (1.0 - weight).sqrt()),
        (
            newcomer,
            newcomer.map_or(0.0, |side| (weight * side.module.scaling).sqrt()),
        ),
    ];
    let mut first = true;
    for (side, coefficient) in terms {
        let Some(side) = side else { continue };
        let coefficient = narrow(coefficient);
        add(
            a,
            a_rows(target),
            side.a(scratch)?,
            a_rows(target),
            coefficient,
            first,
        );
        add(
            b,
            target.rank,
            side.b(scratch)?,
            side.module.rank,
            coefficient,
            first,
        );
        first = false;
    }
    Ok(())
}

/// A is padded at its end, so all of it is one row of B's kind.
fn a_rows(target: Target) -> usize {
    target.a_len()
}

/// `out` ← coefficient · `values` (+ `out`), both cut into rows; `first` overwrites, zeros where
/// `values` has nothing.
fn add(
    out: &mut [f32],
    out_row: usize,
    values: &[f32],
    values_row: usize,
    coefficient: f32,
    first: bool,
) {
    if out.len() == values.len() {
        scale_into(out, values, coefficient, first);
        return;
    }
    for (out, values) in out.chunks_exact_mut(out_row).zip(values.chunks(values_row)) {
        let (filled, padding) = out.split_at_mut(values.len());
        scale_into(filled, values, coefficient, first);
        if first {
            padding.fill(0.0);
        }
    }
}

fn scale_into(out: &mut [f32], values: &[f32], coefficient: f32, first: bool) {
    let pairs = out.iter_mut().zip(values);
    if first {
        pairs.for_each(|(out, value)| *out = coefficient * value);
    } else {
        pairs.for_each(|(out, value)| *out += coefficient * value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_padded_on_the_right_and_stale_memory_is_cleared() {
        let mut out = vec![9.0; 6];
        add(&mut out, 3, &[1.0, 2.0], 1, 2.0, true);
        assert_eq!(out, [2.0, 0.0, 0.0, 4.0, 0.0, 0.0]);
        add(&mut out, 3, &[1.0, 1.0, 1.0, 1.0], 2, 0.5, false);
        assert_eq!(out, [2.5, 0.5, 0.0, 4.5, 0.5, 0.0]);
    }

    #[test]
    fn equal_shapes_need_no_rows() {
        let mut out = vec![1.0; 4];
        add(&mut out, 4, &[1.0, 2.0, 3.0, 4.0], 4, 2.0, false);
        assert_eq!(out, [3.0, 5.0, 7.0, 9.0]);
    }
}
