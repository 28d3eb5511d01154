//! m̄, the weighted mean of the norms of a slot's members: what debiases a mean of their updates.

use crate::modules::align;
use crate::similarity::stored_norm;
use crate::{AdapterLayout, MergeError, ModuleNorms};

/// Norms with the layout that they are in the order of.
pub(super) type Normed<'a> = (&'a AdapterLayout, &'a ModuleNorms);

/// m̄ of a slot that becomes w₀·slot + w₁·other, in the order of the union of their modules. Members
/// without a module have norm 0 there.
pub(super) fn mixed(
    slot: Normed<'_>,
    other: Normed<'_>,
    [to_slot, to_other]: [f64; 2],
) -> Result<ModuleNorms, MergeError> {
    let modules = align(&[slot.0, other.0])?;
    let norms = modules.iter().map(|module| {
        let part = |owner: usize, norms: &ModuleNorms, weight: f64| {
            let place = module.found.get(owner).copied().flatten();
            let norm = place.and_then(|(place, _)| norms.as_slice().get(place));
            norm.map_or(0.0, |norm| weight * f64::from(*norm))
        };
        let norm = part(0, slot.1, to_slot) + part(1, other.1, to_other);
        stored_norm(norm, module.path)
    });
    Ok(ModuleNorms::new(norms.collect::<Result<_, _>>()?))
}
