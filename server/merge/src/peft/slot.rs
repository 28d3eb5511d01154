//! Reading back a file in normal form, checked as strictly as an upload: it may have lain on a disk
//! for years, and a wrong slot must be found before it is served or merged into.

use std::collections::BTreeMap;

use super::decode::Pair;
use super::names;
use crate::{AdapterError, AdapterLayout, ModuleLayout, TensorSource, compare_paths, header};

/// Reads the header of a stored slot: canonical names, scaling 1, one rank, one type.
///
/// # Errors
///
/// [`AdapterError`]; for a file that [`execute`](crate::execute()) wrote, only when it was damaged.
pub fn decode_slot(source: &dyn TensorSource) -> Result<AdapterLayout, AdapterError> {
    let tensors = header::read(source)?;
    let mut pairs = BTreeMap::<&str, Pair<'_>>::new();
    for tensor in &tensors {
        let (module, factor) = names::parse_normal(&tensor.name)?;
        pairs
            .entry(module)
            .or_default()
            .add(module, factor, tensor)?;
        let expected = tensors[0].range.dtype;
        let got = tensor.range.dtype;
        if got != expected {
            return Err(AdapterError::SlotDtype {
                name: tensor.name.clone(),
                expected,
                got,
            });
        }
    }
    let mut modules = Vec::with_capacity(pairs.len());
    for (path, pair) in pairs {
        let pair = pair.complete(path)?;
        modules.push(ModuleLayout {
            path: path.to_owned(),
            in_features: pair.in_features,
            out_features: pair.out_features,
            rank: pair.rank,
            scaling: 1.0,
            a: pair.a.range,
            b: pair.b.range,
        });
    }
    modules.sort_by(|l, r| compare_paths(&l.path, &r.path));
    let Some(expected) = modules.first().map(|module| module.rank) else {
        return Err(AdapterError::NoModules);
    };
    if let Some(module) = modules.iter().find(|module| module.rank != expected) {
        return Err(AdapterError::SlotRank {
            module: module.path.clone(),
            expected,
            got: module.rank,
        });
    }
    Ok(AdapterLayout { modules })
}
