//! How a slot's module and a newcomer's become one.
//!
//! One file per operator, one function each: it fills a module's two factors in f32, A before B as
//! they will lie in the file, at the rank of the target. Rounding to the stored type, the check that
//! everything is finite, and the norms are the caller's.

pub(crate) mod exact;
pub(crate) mod linear;

use crate::{MergeError, ModuleLayout, TensorSource, element};

/// One side of a merge: a module and the file that it lies in.
#[derive(Clone, Copy)]
pub(crate) struct Side<'a> {
    pub(crate) module: &'a ModuleLayout,
    pub(crate) source: &'a dyn TensorSource,
}

/// The module to be written.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Target {
    pub(crate) out_features: usize,
    pub(crate) in_features: usize,
    pub(crate) rank: usize,
}

impl Target {
    /// Elements of A; the same number times `out_features / in_features` for B.
    pub(crate) fn a_len(self) -> usize {
        self.rank * self.in_features
    }

    /// Elements of both factors.
    pub(crate) fn len(self) -> usize {
        self.a_len() + self.out_features * self.rank
    }
}

/// Memory of one thread for reading factors.
#[derive(Debug, Default)]
pub(crate) struct ReadScratch {
    values: Vec<f32>,
    halves: Vec<u16>,
}

impl Side<'_> {
    /// A, rank × `in_features`, in `scratch`.
    fn a<'s>(&self, scratch: &'s mut ReadScratch) -> Result<&'s mut [f32], MergeError> {
        let ReadScratch { values, halves } = scratch;
        values.resize(self.module.rank * self.module.in_features, 0.0);
        element::read(self.source, &self.module.a, values, halves).map_err(MergeError::Source)?;
        Ok(values)
    }

    /// B, `out_features` × rank, in `scratch`.
    fn b<'s>(&self, scratch: &'s mut ReadScratch) -> Result<&'s mut [f32], MergeError> {
        let ReadScratch { values, halves } = scratch;
        values.resize(self.module.out_features * self.module.rank, 0.0);
        element::read(self.source, &self.module.b, values, halves).map_err(MergeError::Source)?;
        Ok(values)
    }
}

/// A number as f32: coefficients are computed in f64 and applied in f32.
#[expect(
    clippy::cast_possible_truncation,
    reason = "rounding to f32 is the purpose"
)]
fn narrow(value: f64) -> f32 {
    value as f32
}
