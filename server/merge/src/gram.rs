//! Inner products of updates without ever forming one.
//!
//! ⟨B₁A₁, B₂A₂⟩ = Σ (B₁ᵀB₂) ∘ (A₁A₂ᵀ): two products of r × r in place of one of out × in, which at
//! r = 32 and a width of 2048 is 32 times less arithmetic and no memory to speak of. Products are
//! f32; the final sum is f64, since similarities of unrelated adapters are sums that nearly cancel.

use candle_core::{Device, Tensor};
use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};

use crate::MergeError;

/// One module's factors as f32, scaling left out.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Factors<'a> {
    /// rank × `in_features`.
    pub(crate) a: &'a [f32],
    /// `out_features` × rank.
    pub(crate) b: &'a [f32],
    pub(crate) rank: usize,
}

/// Memory for two Gram matrices.
#[derive(Debug, Default)]
pub(crate) struct GramScratch {
    a: Vec<f32>,
    b: Vec<f32>,
}

impl GramScratch {
    /// ‖BA‖.
    pub(crate) fn norm(
        &mut self,
        factors: Factors<'_>,
        device: &Device,
    ) -> Result<f64, MergeError> {
        let Factors { a, b, rank } = factors;
        rows(a, rank, a, rank, &mut self.a, device)?;
        columns(b, rank, b, rank, &mut self.b, device)?;
        // The square of a norm may come out a rounding below zero; NaN must stay NaN.
        let square = reduce(&self.a, &self.b);
        Ok(if square < 0.0 { 0.0 } else { square.sqrt() })
    }
}

/// X·Yᵀ for X of `x_rank` rows and Y of `y_rank` rows, row-major.
pub(crate) fn rows(
    x: &[f32],
    x_rank: usize,
    y: &[f32],
    y_rank: usize,
    out: &mut Vec<f32>,
    device: &Device,
) -> Result<(), MergeError> {
    let width = x.len() / x_rank;
    out.resize(x_rank * y_rank, 0.0);
    if !device.is_cpu() {
        let product = || {
            let x = Tensor::from_slice(x, (x_rank, width), device)?;
            x.matmul(&Tensor::from_slice(y, (y_rank, width), device)?.t()?)
        };
        return download(product(), out);
    }
    matmul(
        MatMut::from_row_major_slice_mut(out, x_rank, y_rank),
        Accum::Replace,
        MatRef::from_row_major_slice(x, x_rank, width),
        MatRef::from_row_major_slice(y, y_rank, width).transpose(),
        1.0,
        Par::Seq,
    );
    Ok(())
}

/// Xᵀ·Y for X of `x_rank` columns and Y of `y_rank` columns, row-major.
pub(crate) fn columns(
    x: &[f32],
    x_rank: usize,
    y: &[f32],
    y_rank: usize,
    out: &mut Vec<f32>,
    device: &Device,
) -> Result<(), MergeError> {
    let height = x.len() / x_rank;
    out.resize(x_rank * y_rank, 0.0);
    if !device.is_cpu() {
        let product = || {
            let x = Tensor::from_slice(x, (height, x_rank), device)?.t()?;
            x.matmul(&Tensor::from_slice(y, (height, y_rank), device)?)
        };
        return download(product(), out);
    }
    matmul(
        MatMut::from_row_major_slice_mut(out, x_rank, y_rank),
        Accum::Replace,
        MatRef::from_row_major_slice(x, height, x_rank).transpose(),
        MatRef::from_row_major_slice(y, height, y_rank),
        1.0,
        Par::Seq,
    );
    Ok(())
}

/// Fetches a product from its device.
fn download(product: candle_core::Result<Tensor>, out: &mut [f32]) -> Result<(), MergeError> {
    let values: Vec<f32> = product
        .and_then(|product| product.flatten_all()?.to_vec1())
        .map_err(|source| MergeError::Device {
            source: Box::new(source),
        })?;
    out.copy_from_slice(&values);
    Ok(())
}

/// Σ A ∘ B of two Gram matrices.
pub(crate) fn reduce(a: &[f32], b: &[f32]) -> f64 {
    a.iter()
        .zip(b)
        .map(|(&a, &b)| f64::from(a) * f64::from(b))
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(count: usize, seed: f32) -> Vec<f32> {
        (0_u16..)
            .take(count)
            .map(|i| (f32::from(i) * 0.37 + seed).sin())
            .collect()
    }

    #[test]
    fn equals_the_dense_inner_product() {
        let (out, width) = (7, 9);
        let (a1, b1) = (values(3 * width, 0.1), values(out * 3, 0.2));
        let (a2, b2) = (values(2 * width, 0.3), values(out * 2, 0.4));
        let left = Factors {
            a: &a1,
            b: &b1,
            rank: 3,
        };
        let right = Factors {
            a: &a2,
            b: &b2,
            rank: 2,
        };
        let entry = |f: Factors<'_>, row: usize, column: usize| -> f64 {
            (0..f.rank)
                .map(|k| f64::from(f.b[row * f.rank + k]) * f64::from(f.a[k * width + column]))
                .sum()
        };
        let dense = |l: Factors<'_>, r: Factors<'_>| -> f64 {
            (0..out)
                .flat_map(|row| (0..width).map(move |column| (row, column)))
                .map(|(row, column)| entry(l, row, column) * entry(r, row, column))
                .sum()
        };
        let (mut a, mut b) = (Vec::new(), Vec::new());
        rows(&a1, 3, &a2, 2, &mut a, &Device::Cpu).unwrap();
        columns(&b1, 3, &b2, 2, &mut b, &Device::Cpu).unwrap();
        assert!((reduce(&a, &b) - dense(left, right)).abs() < 1e-5);
        let norm = GramScratch::default().norm(left, &Device::Cpu).unwrap();
        assert!((norm * norm - dense(left, left)).abs() < 1e-5);
    }
}
