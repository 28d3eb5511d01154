//! What is known of an adapter before any of its values is read.
//!
//! A layout says where each module's factors lie in a file and how they are scaled; a view joins it
//! with the bytes. Layouts come from [`decode`](crate::decode()) and
//! [`decode_slot`](crate::decode_slot()), which check everything, or from
//! [`execute`](crate::execute()), which wrote the file. Always: modules sorted in natural order, no
//! path twice, ranges inside the file and of exactly the size that shape and dtype give.

use std::cmp::Ordering;

use candle_core::{Device, Tensor};

use crate::{Dtype, MergeError, TensorSource};

/// Where one tensor lies in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TensorRange {
    /// Storage type of the elements, little-endian.
    pub dtype: Dtype,
    /// First byte, counted from the start of the file.
    pub offset: u64,
    /// Number of bytes.
    pub bytes: u64,
}

/// One target module: its update is `scaling · B · A`.
#[derive(Debug, Clone, PartialEq)]
pub struct ModuleLayout {
    /// Path in the base model, such as `model.layers.0.self_attn.q_proj`.
    pub path: String,
    /// Columns of A.
    pub in_features: usize,
    /// Rows of B.
    pub out_features: usize,
    /// Rows of A and columns of B.
    pub rank: usize,
    /// alpha/r, or alpha/√r with rsLoRA; 1 in normal form.
    pub scaling: f64,
    /// A, rank × `in_features`, row-major.
    pub a: TensorRange,
    /// B, `out_features` × rank, row-major.
    pub b: TensorRange,
}

/// All modules of an adapter, sorted by [`compare_paths`].
#[derive(Debug, Clone, PartialEq, Default)]
pub struct AdapterLayout {
    /// The target modules.
    pub modules: Vec<ModuleLayout>,
}

impl AdapterLayout {
    /// Largest rank of any module; 0 for an adapter without modules.
    #[must_use]
    pub fn rank(&self) -> usize {
        self.modules
            .iter()
            .map(|module| module.rank)
            .max()
            .unwrap_or(0)
    }

    /// The type that holds every value of every factor; F32 for an adapter without modules.
    #[must_use]
    pub fn dtype(&self) -> Dtype {
        self.modules
            .iter()
            .flat_map(|module| [module.a.dtype, module.b.dtype])
            .reduce(Dtype::widest)
            .unwrap_or(Dtype::F32)
    }

    /// Bytes of all factors together, header not counted.
    #[must_use]
    pub fn tensor_bytes(&self) -> u64 {
        self.modules
            .iter()
            .map(|module| module.a.bytes + module.b.bytes)
            .sum()
    }

    /// The module at `path`.
    #[must_use]
    pub fn module(&self, path: &str) -> Option<&ModuleLayout> {
        self.modules
            .binary_search_by(|module| compare_paths(&module.path, path))
            .ok()
            .map(|index| &self.modules[index])
    }
}

/// An adapter's layout together with its bytes.
#[derive(Clone, Copy)]
pub struct AdapterView<'a> {
    /// What is where.
    pub layout: &'a AdapterLayout,
    /// The file itself.
    pub source: &'a dyn TensorSource,
}

impl std::fmt::Debug for AdapterView<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AdapterView")
            .field("layout", self.layout)
            .field("source_bytes", &self.source.len())
            .finish()
    }
}

impl AdapterView<'_> {
    /// The factors (A, B) of one module as candle tensors in their stored type, scaling not applied.
    ///
    /// # Errors
    ///
    /// [`MergeError::Source`] when the bytes cannot be read, [`MergeError::Device`] when the device
    /// cannot hold them.
    pub fn factors(
        &self,
        module: &ModuleLayout,
        device: &Device,
    ) -> Result<(Tensor, Tensor), MergeError> {
        let load = |range: &TensorRange, shape: [usize; 2]| {
            let elements = shape[0] * shape[1];
            let mut bytes = vec![0; elements * range.dtype.size_bytes()];
            self.source
                .read_at(range.offset, &mut bytes)
                .map_err(MergeError::Source)?;
            Tensor::from_raw_buffer(&bytes, range.dtype.candle(), &shape, device).map_err(
                |source| MergeError::Device {
                    source: Box::new(source),
                },
            )
        };
        Ok((
            load(&module.a, [module.rank, module.in_features])?,
            load(&module.b, [module.out_features, module.rank])?,
        ))
    }
}

/// Orders module paths as people count: segment by segment, numbers by value, so that `layers.2`
/// comes before `layers.10`.
#[must_use]
pub fn compare_paths(left: &str, right: &str) -> Ordering {
    let mut left_segments = left.split('.');
    let mut right_segments = right.split('.');
    loop {
        let order = match (left_segments.next(), right_segments.next()) {
            // Spellings of one number ("1", "01") are still different paths.
            (None, None) => return left.cmp(right),
            (None, Some(_)) => Ordering::Less,
            (Some(_), None) => Ordering::Greater,
            (Some(l), Some(r)) => match (l.parse::<u64>(), r.parse::<u64>()) {
                (Ok(l), Ok(r)) => l.cmp(&r),
                (Ok(_), Err(_)) => Ordering::Less,
                (Err(_), Ok(_)) => Ordering::Greater,
                (Err(_), Err(_)) => l.cmp(r),
            },
        };
        if order != Ordering::Equal {
            return order;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_sort_by_layer_number() {
        let mut paths = [
            "m.layers.10.q",
            "m.layers.2.v",
            "m.layers.2.q",
            "m.layers",
            "m.head",
        ];
        paths.sort_by(|l, r| compare_paths(l, r));
        assert_eq!(
            paths,
            [
                "m.head",
                "m.layers",
                "m.layers.2.q",
                "m.layers.2.v",
                "m.layers.10.q"
            ]
        );
        assert_ne!(compare_paths("m.1", "m.01"), Ordering::Equal);
    }

    #[test]
    fn an_empty_layout_has_neutral_figures() {
        let layout = AdapterLayout::default();
        assert_eq!(
            (layout.rank(), layout.dtype(), layout.tensor_bytes()),
            (0, Dtype::F32, 0)
        );
        assert!(layout.module("model.layers.0.self_attn.q_proj").is_none());
    }
}
