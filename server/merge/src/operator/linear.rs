//! Weighted sums of factors: A' = √(1−w)·A_slot + √(w·s)·A_new, and B' likewise.
//!
//! On slots in normal form this is PEFT's `linear`, and with w = 1/n K-Merge's own operator
//! (arXiv 2510.13537). B'A' contains the cross terms B_slot·A_new and B_new·A_slot: for equal
//! adapters the update grows, for orthogonal ones it keeps their norm. With the newcomer alone and
//! w = 1 the same function folds an adapter into normal form.
//!
//! The work is moving bytes, so each element is touched as few times as possible: the slot is read
//! straight into the output, the newcomer in pieces that stay in the innermost cache.

use super::{Factor, ReadScratch, Side, Target, narrow};
use crate::MergeError;

/// Elements of the newcomer that are read at a time.
const PIECE: usize = 1 << 13;

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
    let old = narrow((1.0 - weight).sqrt());
    let new = |side: Side<'_>| narrow((weight * side.module.scaling).sqrt());
    match (slot, newcomer) {
        (Some(slot), Some(newcomer)) => {
            let new = new(newcomer);
            sum(
                a,
                target.a_len(),
                (slot.a(), old),
                (newcomer.a(), new),
                scratch,
            )?;
            sum(
                b,
                target.rank,
                (slot.b(), old),
                (newcomer.b(), new),
                scratch,
            )
        }
        (Some(side), None) => {
            scaled(a, target.a_len(), side.a(), old, scratch)?;
            scaled(b, target.rank, side.b(), old, scratch)
        }
        (None, Some(side)) => {
            scaled(a, target.a_len(), side.a(), new(side), scratch)?;
            scaled(b, target.rank, side.b(), new(side), scratch)
        }
        (None, None) => {
            out.fill(0.0);
            Ok(())
        }
    }
}

/// `out` ← c₁·first + c₂·second; rows of `out` have `row` elements.
fn sum(
    out: &mut [f32],
    row: usize,
    (first, c1): (Factor<'_>, f32),
    (second, c2): (Factor<'_>, f32),
    scratch: &mut ReadScratch,
) -> Result<(), MergeError> {
    padded(out, row, first, scratch)?;
    let ReadScratch { values, halves } = scratch;
    if second.row == row {
        for (place, out) in out.chunks_mut(PIECE).enumerate() {
            values.resize(out.len(), 0.0);
            second.read_from(place * PIECE, values, halves)?;
            blend(out, c1, values, c2);
        }
        return Ok(());
    }
    values.resize(second.len(), 0.0);
    second.read(values, halves)?;
    for (out, values) in out
        .chunks_exact_mut(row)
        .zip(values.chunks_exact(second.row))
    {
        let (shared, rest) = out.split_at_mut(values.len());
        blend(shared, c1, values, c2);
        rest.iter_mut().for_each(|out| *out *= c1);
    }
    Ok(())
}

/// `out` ← c·factor.
fn scaled(
    out: &mut [f32],
    row: usize,
    factor: Factor<'_>,
    c: f32,
    scratch: &mut ReadScratch,
) -> Result<(), MergeError> {
    padded(out, row, factor, scratch)?;
    out.iter_mut().for_each(|out| *out *= c);
    Ok(())
}

/// `out` ← factor, zeros where it has nothing.
fn padded(
    out: &mut [f32],
    row: usize,
    factor: Factor<'_>,
    scratch: &mut ReadScratch,
) -> Result<(), MergeError> {
    let ReadScratch { values, halves } = scratch;
    if factor.row == row {
        return factor.read(out, halves);
    }
    values.resize(factor.len(), 0.0);
    factor.read(values, halves)?;
    for (out, values) in out
        .chunks_exact_mut(row)
        .zip(values.chunks_exact(factor.row))
    {
        let (shared, padding) = out.split_at_mut(values.len());
        shared.copy_from_slice(values);
        padding.fill(0.0);
    }
    Ok(())
}

fn blend(out: &mut [f32], c1: f32, values: &[f32], c2: f32) {
    out.iter_mut()
        .zip(values)
        .for_each(|(out, value)| *out = c1 * *out + c2 * value);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Dtype, TensorRange};

    /// Factors of f32 in one file.
    fn file(values: &[f32]) -> (Vec<u8>, TensorRange) {
        let bytes: Vec<u8> = values
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect();
        let length = u64::try_from(bytes.len()).unwrap();
        (
            bytes,
            TensorRange {
                dtype: Dtype::F32,
                offset: 0,
                bytes: length,
            },
        )
    }

    fn run(row: usize, first: (&[f32], usize), second: (&[f32], usize)) -> Vec<f32> {
        let (first_file, first_range) = file(first.0);
        let (second_file, second_range) = file(second.0);
        let factor = |values: &[f32], row, range, source| Factor {
            range,
            source,
            row,
            rows: values.len() / row,
        };
        let rows = first.0.len() / first.1;
        // Stale memory must not shine through.
        let mut out = vec![9.0; row * rows];
        sum(
            &mut out,
            row,
            (factor(first.0, first.1, &first_range, &first_file), 2.0),
            (factor(second.0, second.1, &second_range, &second_file), 0.5),
            &mut ReadScratch::default(),
        )
        .unwrap();
        out
    }

    #[test]
    fn either_side_may_have_the_shorter_rows() {
        let (wide, narrow) = ([1.0, 2.0, 3.0, 4.0], [6.0, 8.0]);
        assert_eq!(run(2, (&wide, 2), (&narrow, 1)), [5.0, 4.0, 10.0, 8.0]);
        assert_eq!(run(2, (&narrow, 1), (&wide, 2)), [12.5, 1.0, 17.5, 2.0]);
        assert_eq!(
            run(3, (&narrow, 1), (&wide, 2)),
            [12.5, 1.0, 0.0, 17.5, 2.0, 0.0]
        );
    }

    #[test]
    fn pieces_join_without_a_seam() {
        let count = PIECE * 2 + 5;
        let first: Vec<f32> = (0_u16..).map(f32::from).take(count).collect();
        let second: Vec<f32> = first.iter().map(|value| value * 4.0).collect();
        let expected: Vec<f32> = first.iter().map(|value| value * 4.0).collect();
        assert_eq!(run(count, (&first, count), (&second, count)), expected);
    }
}
