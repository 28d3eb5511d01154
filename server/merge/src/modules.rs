//! Lining up the modules of several adapters.

use crate::{AdapterLayout, MergeError, ModuleLayout, compare_paths};

/// One module path and who has it, in the order of the layouts given.
#[derive(Debug)]
pub(crate) struct Aligned<'a> {
    pub(crate) path: &'a str,
    pub(crate) out_features: usize,
    pub(crate) in_features: usize,
    /// For each layout: the module's index in it and the module.
    pub(crate) found: Vec<Option<(usize, &'a ModuleLayout)>>,
}

/// The union of all modules in natural order. The shapes of one module must agree; the error names
/// them as slot and newcomer, so the newcomer's layout comes last.
pub(crate) fn align<'a>(layouts: &[&'a AdapterLayout]) -> Result<Vec<Aligned<'a>>, MergeError> {
    let mut all: Vec<(usize, usize, &ModuleLayout)> = layouts
        .iter()
        .enumerate()
        .flat_map(|(owner, layout)| {
            layout
                .modules
                .iter()
                .enumerate()
                .map(move |(index, module)| (owner, index, module))
        })
        .collect();
    all.sort_by(|l, r| compare_paths(&l.2.path, &r.2.path).then(l.0.cmp(&r.0)));
    let mut union: Vec<Aligned<'a>> = Vec::new();
    for (owner, index, module) in all {
        if union.last().is_none_or(|last| last.path != module.path) {
            union.push(Aligned {
                path: &module.path,
                out_features: module.out_features,
                in_features: module.in_features,
                found: vec![None; layouts.len()],
            });
        }
        let last = union.last_mut().expect("pushed above when empty");
        if (last.out_features, last.in_features) != (module.out_features, module.in_features) {
            return Err(MergeError::ShapeMismatch {
                module: module.path.clone(),
                slot_out: last.out_features,
                slot_in: last.in_features,
                new_out: module.out_features,
                new_in: module.in_features,
            });
        }
        last.found[owner] = Some((index, module));
    }
    Ok(union)
}
