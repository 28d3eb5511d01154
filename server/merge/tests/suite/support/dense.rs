//! Dense oracles in f64: updates formed in full, and the plain QR and SVD of their average.

use std::collections::BTreeMap;

use candle_core::{DType, Device};
use faer::Mat;
use kmerge_merge::AdapterView;

/// Updates by module path.
pub(crate) type Updates = BTreeMap<String, Mat<f64>>;

/// Factors (A, B) of one module in f64.
pub(crate) fn factors(view: AdapterView<'_>, path: &str) -> (Mat<f64>, Mat<f64>) {
    let module = view.layout.module(path).unwrap();
    let (a, b) = view.factors(module, &Device::Cpu).unwrap();
    let read = |tensor: candle_core::Tensor| {
        let (rows, columns) = tensor.dims2().unwrap();
        let values: Vec<Vec<f64>> = tensor.to_dtype(DType::F64).unwrap().to_vec2().unwrap();
        Mat::from_fn(rows, columns, |row, column| values[row][column])
    };
    (read(a), read(b))
}

/// D = scaling · B · A of every module.
pub(crate) fn updates(view: AdapterView<'_>) -> Updates {
    view.layout
        .modules
        .iter()
        .map(|module| {
            let (a, b) = factors(view, &module.path);
            let update = faer::Scale(module.scaling) * (b * a);
            (module.path.clone(), update)
        })
        .collect()
}

/// Σ weight · D, a missing module counting as zero.
pub(crate) fn average(terms: &[(f64, &Updates)]) -> Updates {
    let mut sum = Updates::new();
    for (weight, updates) in terms {
        for (path, update) in *updates {
            let term = faer::Scale(*weight) * update;
            match sum.get_mut(path) {
                Some(total) => *total += term,
                None => {
                    sum.insert(path.clone(), term);
                }
            }
        }
    }
    sum
}

/// Singular values in descending order, by a plain SVD.
pub(crate) fn singular_values(update: &Mat<f64>) -> Vec<f64> {
    let svd = update.thin_svd().unwrap();
    svd.S().column_vector().iter().copied().collect()
}

/// Frobenius norm of what the best approximation of `rank` leaves out.
pub(crate) fn tail(update: &Mat<f64>, rank: usize) -> f64 {
    singular_values(update)
        .iter()
        .skip(rank)
        .map(|value| value * value)
        .sum::<f64>()
        .sqrt()
}

/// The best approximation of `rank` by QR of the stacked factors and an SVD of the small core: the
/// textbook way, as the oracle for the faster one. `terms` are (coefficient of the update, A, B).
pub(crate) fn qr_svd(terms: &[(f64, Mat<f64>, Mat<f64>)], rank: usize) -> Mat<f64> {
    let columns: usize = terms.iter().map(|(_, a, _)| a.nrows()).sum();
    let mut left = Mat::<f64>::zeros(terms[0].2.nrows(), columns);
    let mut right = Mat::<f64>::zeros(terms[0].1.ncols(), columns);
    let mut at = 0;
    for (coefficient, a, b) in terms {
        let r = a.nrows();
        left.subcols_mut(at, r)
            .copy_from(faer::Scale(*coefficient) * b);
        right.subcols_mut(at, r).copy_from(a.transpose());
        at += r;
    }
    let (left, right) = (left.qr(), right.qr());
    let core = left.thin_R() * right.thin_R().transpose();
    let svd = core.thin_svd().unwrap();
    let kept = rank.min(svd.S().column_vector().nrows());
    let u = left.compute_thin_Q() * svd.U().subcols(0, kept);
    let v = right.compute_thin_Q() * svd.V().subcols(0, kept);
    let sigma = svd.S().column_vector();
    let scaled = Mat::from_fn(u.nrows(), kept, |row, column| {
        u[(row, column)] * sigma[column]
    });
    scaled * v.transpose()
}

/// Cosine of two updates, 0 where one is zero.
pub(crate) fn cosine(left: &Mat<f64>, right: &Mat<f64>) -> f64 {
    let product: f64 = (0..left.nrows())
        .flat_map(|row| (0..left.ncols()).map(move |column| (row, column)))
        .map(|at| left[at] * right[at])
        .sum();
    let norms = left.norm_l2() * right.norm_l2();
    if norms > 0.0 { product / norms } else { 0.0 }
}

/// Largest absolute difference over all modules, relative to the largest expected entry of each.
pub(crate) fn relative_difference(found: &Updates, expected: &Updates) -> f64 {
    assert_eq!(
        found.keys().collect::<Vec<_>>(),
        expected.keys().collect::<Vec<_>>()
    );
    expected
        .iter()
        .map(|(path, expected)| {
            let largest = expected.norm_max();
            let difference = (&found[path] - expected).norm_max();
            if largest > 0.0 {
                difference / largest
            } else {
                difference
            }
        })
        .fold(0.0, f64::max)
}
