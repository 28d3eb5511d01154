//! How a slot's module and a newcomer's become one.
//!
//! One file per operator, one function each: it fills a module's two factors in f32, A before B as
//! they will lie in the file, at the rank of the target. Rounding to the stored type, the check that
//! everything is finite, and the norms are the caller's.

pub(crate) mod dare;
pub(crate) mod exact;
pub(crate) mod linear;
pub(crate) mod opcm;
pub(crate) mod sparse;
mod stack;
pub(crate) mod ties;

use crate::{MergeError, ModuleLayout, TensorRange, TensorSource, element};

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

impl ReadScratch {
    /// Memory for values and for their stored form.
    pub(crate) fn buffers(&mut self) -> (&mut Vec<f32>, &mut Vec<u16>) {
        (&mut self.values, &mut self.halves)
    }
}

/// One factor of one side, as rows that keep their length when the rank is padded.
#[derive(Clone, Copy)]
struct Factor<'a> {
    range: &'a TensorRange,
    source: &'a dyn TensorSource,
    /// Elements of a row: all of A, or the rank for B.
    row: usize,
    rows: usize,
}

impl<'a> Side<'a> {
    /// A is padded with rows at its end, so all of it counts as one row.
    fn a(&self) -> Factor<'a> {
        let row = self.module.rank * self.module.in_features;
        Factor {
            range: &self.module.a,
            source: self.source,
            row,
            rows: 1,
        }
    }

    /// B is padded in every row.
    fn b(&self) -> Factor<'a> {
        let Side { module, source } = *self;
        Factor {
            range: &module.b,
            source,
            row: module.rank,
            rows: module.out_features,
        }
    }
}

impl Factor<'_> {
    fn len(&self) -> usize {
        self.row * self.rows
    }

    /// Reads all of it; `values` has exactly its length.
    fn read(&self, values: &mut [f32], halves: &mut Vec<u16>) -> Result<(), MergeError> {
        element::read(self.source, self.range, values, halves).map_err(MergeError::Source)
    }

    /// Reads `values.len()` elements from element `start` on.
    fn read_from(
        &self,
        start: usize,
        values: &mut [f32],
        halves: &mut Vec<u16>,
    ) -> Result<(), MergeError> {
        let skipped = u64::try_from(start * self.range.dtype.size_bytes()).expect("inside a file");
        let range = TensorRange {
            offset: self.range.offset + skipped,
            ..*self.range
        };
        element::read(self.source, &range, values, halves).map_err(MergeError::Source)
    }
}

/// A number as f32: coefficients are computed in f64 and applied in f32.
#[expect(
    clippy::cast_possible_truncation,
    reason = "rounding to f32 is the purpose"
)]
pub(crate) fn narrow(value: f64) -> f32 {
    value as f32
}
