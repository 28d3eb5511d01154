//! The header of a file in normal form, and the layout that goes with it.
//!
//! Tensors follow in the order of the layout, A before B, all of one type, so the file can be
//! written from front to back while modules are computed. Its length is known before any value is.

use super::PREFIX_BYTES;
use crate::{AdapterLayout, Dtype, ModuleLayout, TensorRange};

/// The data starts at a multiple of this, so that mapped factors are aligned.
const ALIGNMENT: usize = 8;

/// What the header needs to know of a module.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ShapedModule<'a> {
    pub(crate) path: &'a str,
    pub(crate) out_features: usize,
    pub(crate) in_features: usize,
}

/// A file in normal form, before its values.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct NormalForm {
    /// Length prefix and header: the bytes before the first tensor.
    pub(crate) head: Vec<u8>,
    /// Modules in file order, scaling 1, one rank.
    pub(crate) layout: AdapterLayout,
    /// Length of the whole file.
    pub(crate) bytes: u64,
}

impl NormalForm {
    /// Lays out `modules`, which must be sorted and without repetition.
    pub(crate) fn new<'a>(
        modules: impl IntoIterator<Item = ShapedModule<'a>>,
        rank: usize,
        dtype: Dtype,
    ) -> Self {
        let mut header = String::from(r#"{"__metadata__":{"format":"pt"}"#);
        let mut end = 0;
        let mut layouts = Vec::new();
        for module in modules {
            let mut place = |factor: char, rows: usize, columns: usize| {
                let bytes = wide(rows) * wide(columns) * wide(dtype.size_bytes());
                let range = TensorRange {
                    dtype,
                    offset: end,
                    bytes,
                };
                end += bytes;
                let name = format!("base_model.model.{}.lora_{factor}.weight", module.path);
                let name = serde_json::Value::String(name);
                header.push_str(&format!(
                    r#",{name}:{{"dtype":"{dtype}","shape":[{rows},{columns}],"data_offsets":[{},{end}]}}"#,
                    range.offset,
                ));
                range
            };
            let a = place('A', rank, module.in_features);
            let b = place('B', module.out_features, rank);
            layouts.push(ModuleLayout {
                path: module.path.to_owned(),
                in_features: module.in_features,
                out_features: module.out_features,
                rank,
                scaling: 1.0,
                a,
                b,
            });
        }
        header.push('}');
        while header.len() % ALIGNMENT != 0 {
            header.push(' ');
        }
        let start = PREFIX_BYTES + wide(header.len());
        for module in &mut layouts {
            module.a.offset += start;
            module.b.offset += start;
        }
        let mut head = wide(header.len()).to_le_bytes().to_vec();
        head.extend_from_slice(header.as_bytes());
        Self {
            head,
            layout: AdapterLayout { modules: layouts },
            bytes: start + end,
        }
    }
}

/// A count as u64: no platform has a wider usize.
fn wide(count: usize) -> u64 {
    u64::try_from(count).expect("usize has at most 64 bits")
}
