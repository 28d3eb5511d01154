//! A module's update in its own directions: D = Σ σᵢ·uᵢ·vᵢᵀ, from the factors.
//!
//! QR of both factors and a singular value decomposition of the small core (never a dense update),
//! in f64, so that it does not depend on how the update is split into factors.

use faer::linalg::solvers::Qr;
use faer::{Mat, MatRef};

use crate::operator::{ReadScratch, narrow};
use crate::{AdapterView, Dtype, MergeError, ModuleLayout, element};

/// One direction of an update.
#[derive(Debug, Clone, Default)]
pub(super) struct Component {
    /// Singular value.
    pub(super) sigma: f64,
    /// Left singular vector, `out_features` entries.
    pub(super) left: Vec<f32>,
    /// Right singular vector, `in_features` entries.
    pub(super) right: Vec<f32>,
}

/// Both factors by QR, and the core between their bases.
struct Factored {
    left: Qr<f64>,
    right: Qr<f64>,
    core: Mat<f64>,
}

fn factored(
    module: &ModuleLayout,
    view: AdapterView<'_>,
    scratch: &mut ReadScratch,
) -> Result<Factored, MergeError> {
    let a = read(view, module, &module.a, scratch)?;
    let a = MatRef::from_row_major_slice(&a, module.rank, module.in_features);
    let right = Mat::from_fn(module.in_features, module.rank, |row, column| {
        a[(column, row)]
    });
    let b = read(view, module, &module.b, scratch)?;
    let b = MatRef::from_row_major_slice(&b, module.out_features, module.rank).to_owned();
    let (left, right) = (b.qr(), right.qr());
    let core = left.thin_R() * right.thin_R().transpose() * faer::Scale(module.scaling);
    Ok(Factored { left, right, core })
}

fn not_converged(module: &ModuleLayout) -> MergeError {
    MergeError::Decomposition {
        module: module.path.clone(),
    }
}

/// The singular values of a module alone, the largest first: half the work of its components.
pub(super) fn sizes(
    module: &ModuleLayout,
    view: AdapterView<'_>,
    scratch: &mut ReadScratch,
) -> Result<Vec<f64>, MergeError> {
    let Factored { core, .. } = factored(module, view, scratch)?;
    core.singular_values().map_err(|_| not_converged(module))
}

/// The components of a module, the strongest first.
pub(super) fn components(
    module: &ModuleLayout,
    view: AdapterView<'_>,
    scratch: &mut ReadScratch,
) -> Result<Vec<Component>, MergeError> {
    let Factored { left, right, core } = factored(module, view, scratch)?;
    let decomposition = core.thin_svd().map_err(|_| not_converged(module))?;
    let sigma = decomposition.S().column_vector();
    let left = left.compute_thin_Q() * decomposition.U();
    let right = right.compute_thin_Q() * decomposition.V();
    Ok((0..sigma.nrows())
        .map(|index| {
            let column = left.col(index);
            // Signs are free; the largest entry of a left vector is positive.
            let largest = column.iter().copied().fold(0.0_f64, |most, next| {
                if next.abs() > most.abs() { next } else { most }
            });
            let sign = if largest < 0.0 { -1.0 } else { 1.0 };
            Component {
                sigma: sigma[index],
                left: column.iter().map(|&entry| narrow(entry * sign)).collect(),
                right: right
                    .col(index)
                    .iter()
                    .map(|&entry| narrow(entry * sign))
                    .collect(),
            }
        })
        .collect())
}

/// One factor as f64.
fn read(
    view: AdapterView<'_>,
    module: &ModuleLayout,
    range: &crate::TensorRange,
    scratch: &mut ReadScratch,
) -> Result<Vec<f64>, MergeError> {
    let size = u64::try_from(range.dtype.size_bytes()).unwrap_or(u64::MAX);
    let count = usize::try_from(range.bytes / size).unwrap_or(usize::MAX);
    let (values, halves) = scratch.buffers();
    values.resize(count, 0.0);
    element::read(view.source, range, values, halves).map_err(MergeError::Source)?;
    if !element::all_finite(values) {
        return Err(MergeError::NotFinite {
            module: module.path.clone(),
            dtype: Dtype::F32,
        });
    }
    Ok(values.iter().map(|&value| f64::from(value)).collect())
}
