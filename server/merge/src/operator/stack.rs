//! Two modules side by side, and the strongest directions of what they make together.
//!
//! The factors of a slot and a newcomer are stacked, L = [B₁, B₂] and R = [A₁ᵀ, A₂ᵀ], so that every
//! combination of the two updates is L·W·Rᵀ with a small W. All that operators decide is decided in
//! matrices of the stacks' m = r₁ + r₂ columns:
//!
//! ```text
//! G_L = LᵀL,  G_R = RᵀR = C·Cᵀ           (m × m; C by a semidefinite Cholesky)
//! Cᵀ·G_L·C = Y·Σ²·Yᵀ                      (symmetric; Σ are the singular values of L·Rᵀ)
//! L·C·Y·Σ^-½ = U·√Σ,   Σ^-3/2·Yᵀ·Cᵀ·G_L·Rᵀ = √Σ·Vᵀ
//! ```
//!
//! No inverse of C is needed, so singular stacks (shared directions, padded factors) are ordinary
//! input. Squaring loses half of the digits, which is why the Gram matrices and the core are f64:
//! directions below about 3·10⁻⁸·‖L‖·‖R‖ are lost, which is the rounding of f32 factors. Only the
//! two tall products are f32.

use faer::linalg::matmul::matmul;
use faer::linalg::matmul::triangular::{self, BlockStructure};
use faer::{Accum, Mat, MatMut, MatRef, Par};

use super::{ReadScratch, Side, Target};
use crate::MergeError;
use crate::linalg::semidefinite_cholesky;

/// Columns or rows of a stack that are widened to f64 at a time.
const TILE: usize = 512;
/// Squared singular values below this share of ‖G_L‖·‖G_R‖ are rounding. The share is of the factors'
/// size, not of the largest value: where two updates cancel, all values are rounding.
pub(super) const NEGLIGIBLE: f64 = 4.0 * f64::EPSILON;

/// Squared singular values of one module: those kept and all of them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Energy {
    pub(crate) kept: f64,
    pub(crate) all: f64,
}

/// Memory of one thread.
#[derive(Debug, Default)]
pub(crate) struct Stacks {
    read: ReadScratch,
    /// [B₁, B₂], `out_features` × m.
    left: Vec<f32>,
    /// [A₁; A₂], m × `in_features`.
    right: Vec<f32>,
    tile: Vec<f64>,
}

/// The strongest directions of L·Rᵀ, as those of Cᵀ·G_L·C.
pub(super) struct Core {
    /// Squared singular values that are kept, in descending order.
    pub(super) values: Vec<f64>,
    /// Sum of all squared singular values.
    pub(super) all: f64,
    /// C·Y.
    pub(super) c_y: Mat<f64>,
    /// G_L·C·Y.
    pub(super) left_c_y: Mat<f64>,
}

impl Core {
    /// At most `rank` directions, none at or below `negligible`; `None` when the eigenvalue
    /// iteration does not converge.
    pub(super) fn new(
        gram_left: &Mat<f64>,
        gram_right: &Mat<f64>,
        rank: usize,
        negligible: f64,
    ) -> Option<Self> {
        let c = semidefinite_cholesky(gram_right);
        if c.ncols() == 0 {
            let nothing = Mat::zeros(gram_left.nrows(), 0);
            return Some(Self {
                values: Vec::new(),
                all: 0.0,
                c_y: nothing.clone(),
                left_c_y: nothing,
            });
        }
        let left_c = gram_left * &c;
        let core = c.transpose() * &left_c;
        let all = (0..core.nrows())
            .map(|index| core[(index, index)].max(0.0))
            .sum();
        let decomposition = core.self_adjoint_eigen(faer::Side::Lower).ok()?;
        let eigenvalues = decomposition.S().column_vector();
        // They ascend; the strongest directions come last.
        let last = core.nrows();
        let values: Vec<f64> = (0..last)
            .rev()
            .take(rank)
            .map(|index| eigenvalues[index])
            .take_while(|&value| value > negligible)
            .collect();
        let y = Mat::from_fn(last, values.len(), |row, column| {
            decomposition.U()[(row, last - 1 - column)]
        });
        Some(Self {
            all,
            c_y: &c * &y,
            left_c_y: &left_c * &y,
            values,
        })
    }
}

/// Weights both sides of a Gram matrix of which the lower triangle is given, and fills the upper.
pub(super) fn weigh(mut gram: Mat<f64>, weights: &[f64]) -> Mat<f64> {
    for (column, right) in weights.iter().enumerate() {
        for (row, left) in weights.iter().enumerate().skip(column) {
            let weighed = gram[(row, column)] * left * right;
            gram[(row, column)] = weighed;
            gram[(column, row)] = weighed;
        }
    }
    gram
}

impl Stacks {
    /// Reads both sides into the stacks.
    pub(crate) fn read(
        &mut self,
        slot: Side<'_>,
        newcomer: Side<'_>,
        target: Target,
    ) -> Result<(), MergeError> {
        let Self {
            read, left, right, ..
        } = self;
        let ReadScratch { values, halves } = read;
        let m = slot.module.rank + newcomer.module.rank;
        right.resize(m * target.in_features, 0.0);
        left.resize(target.out_features * m, 0.0);
        let (above, below) = right.split_at_mut(slot.a().len());
        slot.a().read(above, halves)?;
        newcomer.a().read(below, halves)?;
        let mut offset = 0;
        for factor in [slot.b(), newcomer.b()] {
            values.resize(factor.len(), 0.0);
            factor.read(values, halves)?;
            for (row, values) in left
                .chunks_exact_mut(m)
                .zip(values.chunks_exact(factor.row))
            {
                row[offset..offset + factor.row].copy_from_slice(values);
            }
            offset += factor.row;
        }
        Ok(())
    }
}

impl Stacks {
    /// LᵀL and RᵀR of stacks of `m` columns, lower triangles.
    pub(super) fn grams(&mut self, m: usize) -> [Mat<f64>; 2] {
        let Self {
            left, right, tile, ..
        } = self;
        [gram_of_columns(left, m, tile), gram_of_rows(right, m, tile)]
    }

    /// Fills `out` (A, then B) with `to_a`·Rᵀ and L·`to_b`; both are row-major, rank × m and
    /// m × rank.
    pub(super) fn factors(&self, to_a: &[f32], to_b: &[f32], target: Target, out: &mut [f32]) {
        let m = to_a.len() / target.rank;
        let (a, b) = out.split_at_mut(target.a_len());
        product(to_a, &self.right, [target.rank, m, target.in_features], a);
        product(&self.left, to_b, [target.out_features, m, target.rank], b);
    }
}

/// XᵀX for X with m columns, lower triangle, tile of rows by tile.
fn gram_of_columns(x: &[f32], m: usize, tile: &mut Vec<f64>) -> Mat<f64> {
    let mut gram = Mat::zeros(m, m);
    for rows in x.chunks(TILE * m) {
        tile.clear();
        tile.extend(rows.iter().map(|&value| f64::from(value)));
        let wide = MatRef::from_row_major_slice(tile, rows.len() / m, m);
        accumulate(gram.as_mut(), wide.transpose());
    }
    gram
}

/// XXᵀ for X with m rows, lower triangle, tile of columns by tile.
fn gram_of_rows(x: &[f32], m: usize, tile: &mut Vec<f64>) -> Mat<f64> {
    let mut gram = Mat::zeros(m, m);
    let width = x.len() / m;
    for start in (0..width).step_by(TILE) {
        let columns = TILE.min(width - start);
        tile.clear();
        for row in x.chunks_exact(width) {
            tile.extend(
                row[start..start + columns]
                    .iter()
                    .map(|&value| f64::from(value)),
            );
        }
        accumulate(
            gram.as_mut(),
            MatRef::from_row_major_slice(tile, m, columns),
        );
    }
    gram
}

/// gram += x·xᵀ, lower triangle.
fn accumulate(gram: MatMut<'_, f64>, x: MatRef<'_, f64>) {
    triangular::matmul(
        gram,
        BlockStructure::TriangularLower,
        Accum::Add,
        x,
        BlockStructure::Rectangular,
        x.transpose(),
        BlockStructure::Rectangular,
        1.0,
        Par::Seq,
    );
}

/// out = x·y, all row-major; sizes are rows of x, inner, columns of y.
fn product(x: &[f32], y: &[f32], [rows, inner, columns]: [usize; 3], out: &mut [f32]) {
    matmul(
        MatMut::from_row_major_slice_mut(out, rows, columns),
        Accum::Replace,
        MatRef::from_row_major_slice(x, rows, inner),
        MatRef::from_row_major_slice(y, inner, columns),
        1.0,
        Par::Seq,
    );
}
