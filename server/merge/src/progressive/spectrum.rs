//! A module's update in its own directions: D = Σ σᵢ·uᵢ·vᵢᵀ, from the factors.
//!
//! QR of both factors and a singular value decomposition of the small core (never a dense update),
//! in f64, so that it does not depend on how the update is split into factors. Each factor is
//! decomposed where it was read to, and its basis is never formed: what a thread needs is about two
//! of the larger factor.

use faer::dyn_stack::{MemBuffer, MemStack};
use faer::linalg::householder::{
    apply_block_householder_sequence_on_the_left_in_place_scratch as applying_needs,
    apply_block_householder_sequence_on_the_left_in_place_with_conj as apply_sequence,
};
use faer::linalg::qr::no_pivoting::factor::{
    qr_in_place, qr_in_place_scratch as factoring_needs, recommended_block_size,
};
use faer::{Conj, Mat, MatRef, Par};

use crate::operator::{ReadScratch, narrow};
use crate::{AdapterView, Dtype, MergeError, ModuleLayout, TensorRange, element};

/// Values that are read in one piece.
const PIECE: usize = 64 * 1024;

/// The strongest directions of an update.
#[derive(Debug, Clone)]
pub(super) struct Directions {
    /// Singular values, the largest first.
    pub(super) sigmas: Vec<f64>,
    /// Left singular vectors as columns, `out_features` entries each.
    pub(super) left: Mat<f32>,
    /// Right singular vectors as columns, `in_features` entries each.
    pub(super) right: Mat<f32>,
}

/// A matrix by QR, in the place of the matrix.
struct Factored {
    /// R in the upper triangle, the Householder vectors of Q below it.
    packed: Mat<f64>,
    coefficients: Mat<f64>,
}

impl Factored {
    fn of(mut matrix: Mat<f64>) -> Self {
        let (rows, columns) = matrix.shape();
        let block = recommended_block_size::<f64>(rows, columns);
        let mut coefficients = Mat::zeros(block, rows.min(columns));
        let needs = factoring_needs::<f64>(rows, columns, block, Par::Seq, Default::default());
        qr_in_place(
            matrix.as_mut(),
            coefficients.as_mut(),
            Par::Seq,
            MemStack::new(&mut MemBuffer::new(needs)),
            Default::default(),
        );
        Self {
            packed: matrix,
            coefficients,
        }
    }

    /// R without its zero rows.
    fn r(&self) -> Mat<f64> {
        let (rows, columns) = self.packed.shape();
        Mat::from_fn(rows.min(columns), columns, |row, column| {
            if row <= column {
                self.packed[(row, column)]
            } else {
                0.0
            }
        })
    }

    /// Q·X, for an X of as many rows as R has.
    fn times(&self, x: MatRef<'_, f64>) -> Mat<f64> {
        let rows = self.packed.nrows();
        let mut product = Mat::zeros(rows, x.ncols());
        product.as_mut().subrows_mut(0, x.nrows()).copy_from(x);
        let block = self.coefficients.nrows();
        let needs = applying_needs::<f64>(rows, block, x.ncols());
        let size = self.coefficients.ncols();
        apply_sequence(
            self.packed.as_ref().subcols(0, size),
            self.coefficients.as_ref(),
            Conj::No,
            product.as_mut(),
            Par::Seq,
            MemStack::new(&mut MemBuffer::new(needs)),
        );
        product
    }
}

/// Both factors by QR, and the core between their bases.
struct Decomposed {
    left: Factored,
    right: Factored,
    core: Mat<f64>,
}

fn decomposed(
    module: &ModuleLayout,
    view: AdapterView<'_>,
    scratch: &mut ReadScratch,
) -> Result<Decomposed, MergeError> {
    let (rank, width, height) = (module.rank, module.in_features, module.out_features);
    let mut transposed = Mat::zeros(width, rank);
    read(view, module, &module.a, width, scratch, |row, values| {
        let column = transposed.col_as_slice_mut(row);
        column.iter_mut().zip(values).for_each(widened);
    })?;
    let right = Factored::of(transposed);
    let mut matrix = Mat::zeros(height, rank);
    read(view, module, &module.b, rank, scratch, |row, values| {
        let target = matrix.as_mut().row_mut(row);
        target.iter_mut().zip(values).for_each(widened);
    })?;
    let left = Factored::of(matrix);
    let core = left.r() * right.r().transpose() * faer::Scale(module.scaling);
    Ok(Decomposed { left, right, core })
}

fn widened((target, value): (&mut f64, &f32)) {
    *target = f64::from(*value);
}

fn not_converged(module: &ModuleLayout) -> MergeError {
    MergeError::Decomposition {
        module: module.path.clone(),
    }
}

/// The singular values of a module alone, the largest first: half the work of its directions.
pub(super) fn sizes(
    module: &ModuleLayout,
    view: AdapterView<'_>,
    scratch: &mut ReadScratch,
) -> Result<Vec<f64>, MergeError> {
    let Decomposed { core, .. } = decomposed(module, view, scratch)?;
    core.singular_values().map_err(|_| not_converged(module))
}

/// The strongest `most` directions of a module, or as many as there are.
pub(super) fn directions(
    module: &ModuleLayout,
    view: AdapterView<'_>,
    most: usize,
    scratch: &mut ReadScratch,
) -> Result<Directions, MergeError> {
    let Decomposed { left, right, core } = decomposed(module, view, scratch)?;
    let decomposition = core.thin_svd().map_err(|_| not_converged(module))?;
    let sigma = decomposition.S().column_vector();
    let count = sigma.nrows().min(most);
    let vectors = left.times(decomposition.U().subcols(0, count));
    drop(left);
    // Signs are free; the largest entry of a left vector is positive.
    let signs: Vec<f64> = (0..count)
        .map(|index| {
            let column = vectors.col_as_slice(index).iter().copied();
            let largest = column.fold(
                0.0_f64,
                |most, next| {
                    if next.abs() > most.abs() { next } else { most }
                },
            );
            if largest < 0.0 { -1.0 } else { 1.0 }
        })
        .collect();
    let signed = |vectors: Mat<f64>| {
        Mat::from_fn(vectors.nrows(), count, |row, column| {
            narrow(vectors[(row, column)] * signs[column])
        })
    };
    let left = signed(vectors);
    let right = signed(right.times(decomposition.V().subcols(0, count)));
    Ok(Directions {
        sigmas: (0..count).map(|index| sigma[index]).collect(),
        left,
        right,
    })
}

/// Reads a factor a few rows of `width` values at a time.
fn read(
    view: AdapterView<'_>,
    module: &ModuleLayout,
    range: &TensorRange,
    width: usize,
    scratch: &mut ReadScratch,
    mut row: impl FnMut(usize, &[f32]),
) -> Result<(), MergeError> {
    let element = u64::try_from(range.dtype.size_bytes()).unwrap_or(u64::MAX);
    let count = usize::try_from(range.bytes / element).unwrap_or(usize::MAX);
    let piece = (PIECE / width).max(1) * width;
    let (values, halves) = scratch.buffers();
    for start in (0..count).step_by(piece) {
        values.resize(piece.min(count - start), 0.0);
        let offset = range.offset + u64::try_from(start).unwrap_or(u64::MAX) * element;
        let part = TensorRange { offset, ..*range };
        element::read(view.source, &part, values, halves).map_err(MergeError::Source)?;
        if !element::all_finite(values) {
            return Err(MergeError::NotFinite {
                module: module.path.clone(),
                dtype: Dtype::F32,
            });
        }
        for (index, values) in values.chunks_exact(width).enumerate() {
            row(start / width + index, values);
        }
    }
    Ok(())
}
