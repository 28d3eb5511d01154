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
    /// ⟨B₁A₁, B₂A₂⟩ of two updates of the same shape.
    pub(crate) fn inner(
        &mut self,
        left: Factors<'_>,
        right: Factors<'_>,
        device: &Device,
    ) -> Result<f64, MergeError> {
        if !device.is_cpu() {
            let a = on_device(left.a, left.rank, right.a, right.rank, Side::Rows, device);
            let b = on_device(
                left.b,
                left.rank,
                right.b,
                right.rank,
                Side::Columns,
                device,
            );
            let failed = |source| MergeError::Device {
                source: Box::new(source),
            };
            return Ok(reduce(&a.map_err(failed)?, &b.map_err(failed)?));
        }
        let entries = left.rank * right.rank;
        self.a.resize(entries, 0.0);
        self.b.resize(entries, 0.0);
        rows(left.a, left.rank, right.a, right.rank, &mut self.a);
        columns(left.b, left.rank, right.b, right.rank, &mut self.b);
        Ok(reduce(&self.a, &self.b))
    }

    /// ‖BA‖.
    pub(crate) fn norm(
        &mut self,
        factors: Factors<'_>,
        device: &Device,
    ) -> Result<f64, MergeError> {
        // The square of a norm may come out a rounding below zero; NaN must stay NaN.
        let square = self.inner(factors, factors, device)?;
        Ok(if square < 0.0 { 0.0 } else { square.sqrt() })
    }
}

/// X·Yᵀ for X of `x_rank` rows and Y of `y_rank` rows.
fn rows(x: &[f32], x_rank: usize, y: &[f32], y_rank: usize, out: &mut [f32]) {
    let width = x.len() / x_rank;
    matmul(
        MatMut::from_row_major_slice_mut(out, x_rank, y_rank),
        Accum::Replace,
        MatRef::from_row_major_slice(x, x_rank, width),
        MatRef::from_row_major_slice(y, y_rank, width).transpose(),
        1.0,
        Par::Seq,
    );
}

/// Xᵀ·Y for X of `x_rank` columns and Y of `y_rank` columns.
fn columns(x: &[f32], x_rank: usize, y: &[f32], y_rank: usize, out: &mut [f32]) {
    let height = x.len() / x_rank;
    matmul(
        MatMut::from_row_major_slice_mut(out, x_rank, y_rank),
        Accum::Replace,
        MatRef::from_row_major_slice(x, height, x_rank).transpose(),
        MatRef::from_row_major_slice(y, height, y_rank),
        1.0,
        Par::Seq,
    );
}

/// Whether the rank is counted in rows (A) or in columns (B).
#[derive(Clone, Copy)]
enum Side {
    Rows,
    Columns,
}

/// The same products by candle, for devices other than the CPU.
fn on_device(
    x: &[f32],
    x_rank: usize,
    y: &[f32],
    y_rank: usize,
    side: Side,
    device: &Device,
) -> candle_core::Result<Vec<f32>> {
    let tensor = |values: &[f32], rank: usize| {
        let other = values.len() / rank;
        match side {
            Side::Rows => Tensor::from_slice(values, (rank, other), device),
            Side::Columns => Tensor::from_slice(values, (other, rank), device)?.t(),
        }
    };
    tensor(x, x_rank)?
        .matmul(&tensor(y, y_rank)?.t()?)?
        .flatten_all()?
        .to_vec1()
}

fn reduce(a: &[f32], b: &[f32]) -> f64 {
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
    fn equals_the_dense_inner_product_on_every_path() {
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
        let dense: f64 = (0..out)
            .flat_map(|row| (0..width).map(move |column| (row, column)))
            .map(|(row, column)| entry(left, row, column) * entry(right, row, column))
            .sum();
        let found = GramScratch::default()
            .inner(left, right, &Device::Cpu)
            .unwrap();
        assert!((found - dense).abs() < 1e-5, "{found} against {dense}");
        let a = on_device(&a1, 3, &a2, 2, Side::Rows, &Device::Cpu).unwrap();
        let b = on_device(&b1, 3, &b2, 2, Side::Columns, &Device::Cpu).unwrap();
        assert!((reduce(&a, &b) - dense).abs() < 1e-5);
    }
}
