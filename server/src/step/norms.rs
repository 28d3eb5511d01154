//! What is remembered of slots that are one adapter, so that an arrival need not measure again what
//! has not changed. All of it can be measured again, to the same bits.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kmerge_merge::ModuleNorms;
use kmerge_storage::{BaseModelName, BaseModelState, Catalog, Digest, Generation, SlotIndex};

/// A slot at a generation, which never changes.
type Fixed = (SlotIndex, Generation);

/// Norms and linkages of stored slots.
#[derive(Debug, Default)]
pub struct NormCache(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    norms: HashMap<Digest, Arc<ModuleNorms>>,
    linkages: HashMap<BaseModelName, HashMap<(Fixed, Fixed), f64>>,
}

impl NormCache {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The norms of the tensors with this digest.
    pub(super) fn get(&self, digest: &Digest) -> Option<Arc<ModuleNorms>> {
        self.known().norms.get(digest).cloned()
    }

    /// Remembers the norms of the tensors with this digest.
    pub(super) fn insert(&self, digest: Digest, norms: ModuleNorms) {
        self.known().norms.insert(digest, Arc::new(norms));
    }

    /// How close pairs of a base model's slots are as they stand.
    pub(super) fn linkages(
        &self,
        base_model: &BaseModelName,
        state: &BaseModelState,
    ) -> BTreeMap<(u32, u32), f64> {
        let known = self.known();
        let all = known.linkages.get(base_model).into_iter().flatten();
        all.filter(|((low, high), _)| is_current(state, *low) && is_current(state, *high))
            .map(|(((low, _), (high, _)), linkage)| ((low.0, high.0), *linkage))
            .collect()
    }

    /// Remembers how close pairs of slots are as they stand.
    pub(super) fn insert_linkages(
        &self,
        base_model: &BaseModelName,
        state: &BaseModelState,
        measured: &[((u32, u32), f64)],
    ) {
        let fixed = |slot: u32| {
            let slot = SlotIndex(slot);
            Some((slot, state.slots.get(&slot)?.current().generation))
        };
        let mut known = self.known();
        let all = known.linkages.entry(base_model.clone()).or_default();
        for ((low, high), linkage) in measured {
            if let Some(pair) = fixed(*low).zip(fixed(*high)) {
                all.insert(pair, *linkage);
            }
        }
    }

    /// Forgets what no current generation has.
    pub(super) fn retain_current(&self, catalog: &Catalog) {
        let slots = || {
            catalog
                .base_models
                .values()
                .flat_map(|base| base.slots.values())
        };
        let mut known = self.known();
        let Known { norms, linkages } = &mut *known;
        norms.retain(|digest, _| slots().any(|slot| slot.current().digest == *digest));
        for (name, all) in linkages {
            let state = catalog.base_models.get(name);
            all.retain(|(low, high), _| {
                state.is_some_and(|state| is_current(state, *low) && is_current(state, *high))
            });
        }
    }
}

fn is_current(state: &BaseModelState, (slot, generation): Fixed) -> bool {
    let slot = state.slots.get(&slot);
    slot.is_some_and(|slot| slot.current().generation == generation)
}
