//! The one factorisation that `faer` does not have in this form: a Cholesky that copes with
//! singular matrices. Everything is f64.
//!
//! Gram matrices of stacked factors are singular as soon as two adapters share directions or a
//! factor was zero-padded, so plain Cholesky would fail on ordinary input.

use faer::Mat;

/// C with C·Cᵀ = G to rounding, for a positive semidefinite G: as many columns as G has numerical
/// rank.
///
/// Complete pivoting: the largest remaining diagonal entry goes first, and once it is below
/// n · ε · max diag G the whole remainder is below it too and is dropped (Higham, *Accuracy and
/// Stability of Numerical Algorithms*, 2nd ed., section 10.3). Only the lower triangle is read.
pub(crate) fn semidefinite_cholesky(gram: &Mat<f64>) -> Mat<f64> {
    let n = gram.nrows();
    // The remainder, full and row-major: its rows are contiguous for the updates below.
    let mut rest: Vec<f64> = (0..n * n)
        .map(|index| {
            let (row, column) = (index / n, index % n);
            gram[(row.max(column), row.min(column))]
        })
        .collect();
    let diagonal = |rest: &[f64], index: usize| rest[index * n + index];
    let largest = (0..n)
        .map(|index| diagonal(&rest, index))
        .fold(0.0, f64::max);
    let negligible = largest * f64::EPSILON * f64::from(u32::try_from(n).unwrap_or(u32::MAX));

    let mut open: Vec<usize> = (0..n).collect();
    let mut columns: Vec<Vec<f64>> = Vec::new();
    while let Some(place) = (0..open.len())
        .max_by(|&l, &r| diagonal(&rest, open[l]).total_cmp(&diagonal(&rest, open[r])))
    {
        let pivot = open[place];
        let value = diagonal(&rest, pivot);
        if value.is_nan() || value <= negligible {
            break;
        }
        open.swap_remove(place);
        let root = value.sqrt();
        let mut column = vec![0.0; n];
        column[pivot] = root;
        for &row in &open {
            column[row] = rest[pivot * n + row] / root;
        }
        for &row in &open {
            let factor = column[row];
            let updated = &mut rest[row * n..(row + 1) * n];
            updated
                .iter_mut()
                .zip(&column)
                .for_each(|(entry, &other)| *entry -= factor * other);
        }
        columns.push(column);
    }
    Mat::from_fn(n, columns.len(), |row, column| columns[column][row])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// G = X·Xᵀ for X of the given shape, rows of very different size.
    fn gram(n: usize, rank: usize) -> Mat<f64> {
        let x = Mat::from_fn(n, rank, |row, column| {
            let index = f64::from(u32::try_from(row * rank + column).unwrap());
            (index * index * 0.731 + 0.5).sin() * 10_f64.powi(-i32::try_from(row % 5).unwrap())
        });
        &x * x.transpose()
    }

    #[test]
    fn reproduces_matrices_of_every_rank() {
        for (n, rank) in [(1, 1), (5, 5), (8, 3), (64, 32), (64, 64)] {
            let g = gram(n, rank);
            let c = semidefinite_cholesky(&g);
            assert_eq!(c.ncols(), rank, "{n} of rank {rank}");
            let error = (&c * c.transpose() - &g).norm_max();
            assert!(
                error <= 1e-13 * g.norm_max(),
                "{n} of rank {rank}: {error:e}"
            );
        }
    }

    #[test]
    fn zero_and_not_a_number_have_no_columns() {
        assert_eq!(semidefinite_cholesky(&Mat::zeros(4, 4)).ncols(), 0);
        assert_eq!(semidefinite_cholesky(&Mat::full(3, 3, f64::NAN)).ncols(), 0);
        assert_eq!(semidefinite_cholesky(&Mat::zeros(0, 0)).ncols(), 0);
    }
}
