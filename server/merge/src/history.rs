//! What earlier arrivals left behind, for the rules that look back: a value that the caller keeps.

use std::collections::BTreeMap;

use crate::ModuleNorms;

/// What is known from before. Everything may be missing: it is measured again, or done without.
#[derive(Debug, Clone, Default)]
pub struct History<'a> {
    /// By slot: m̄, the weighted mean of the norms of its members' updates, module by module in the
    /// order of the slot's layout ([`Plan::member_norms`](crate::Plan)). Where they are missing the
    /// slot's own norms stand in, as for a slot with one member.
    pub member_norms: BTreeMap<u32, &'a ModuleNorms>,
    /// How close pairs of slots are, lower number first, as an earlier plan found it
    /// ([`Plan::linkages`](crate::Plan)). A linkage holds as long as neither slot has changed.
    pub linkages: BTreeMap<(u32, u32), f64>,
    /// Similarities of earlier newcomers to the slots they met, in any order.
    pub observed: Vec<f64>,
}

impl<'a> History<'a> {
    /// m̄ of a slot with a layout of so many modules.
    pub(crate) fn member_norms(&self, slot: u32, modules: usize) -> Option<&'a ModuleNorms> {
        let norms = self.member_norms.get(&slot).copied();
        norms.filter(|norms| norms.fits(modules))
    }
}
