//! The operators that make one adapter of a slot and a newcomer.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use kmerge_merge::{
    AdapterLayout, AdapterView, ModuleNorms, Outcome, Plan, Policy, SlotView, TensorSink,
    decode_slot, execute, plan,
};
use kmerge_storage::{
    Catalog, Commit, Digest, GenerationRecord, JobRecord, Reader, SlotIndex, TaskName,
};

use super::{Arrival, Decided, Report, Tools, Written, with_newcomer};
use crate::error::ServerError;
use crate::facts::{self, DecisionFacts, GenerationFacts};
use crate::progress::Stage;
use crate::tensors::{Discard, FileSink, FileSource};

/// The norms of stored slots, by the digest of their tensors, so that an arrival need not measure
/// again what has not changed.
#[derive(Debug, Default)]
pub struct NormCache(Mutex<HashMap<Digest, Arc<ModuleNorms>>>);

impl NormCache {
    fn get(&self, digest: &Digest) -> Option<Arc<ModuleNorms>> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(digest)
            .cloned()
    }

    fn insert(&self, digest: Digest, norms: ModuleNorms) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(digest, Arc::new(norms));
    }

    /// Forgets what no current generation has.
    fn retain_current(&self, catalog: &Catalog) {
        let slots = || {
            catalog
                .base_models
                .values()
                .flat_map(|base| base.slots.values())
        };
        let mut norms = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        norms.retain(|digest, _| slots().any(|slot| slot.current().digest == *digest));
    }
}

/// A slot opened for reading.
struct OpenSlot<'a> {
    record: &'a GenerationRecord,
    source: FileSource,
    layout: AdapterLayout,
    norms: Option<Arc<ModuleNorms>>,
}

impl<'a> OpenSlot<'a> {
    fn open(
        record: &'a GenerationRecord,
        reader: &Reader,
        cache: &NormCache,
    ) -> Result<Self, ServerError> {
        let source = FileSource(reader.tensor(record)?);
        let layout = decode_slot(&source).map_err(ServerError::StoredAdapter)?;
        Ok(Self {
            record,
            source,
            layout,
            norms: cache.get(&record.digest),
        })
    }

    fn view(&self) -> SlotView<'_> {
        SlotView {
            slot: self.record.slot.0,
            generation: self.record.generation.0,
            members: self.record.members,
            adapter: AdapterView {
                layout: &self.layout,
                source: &self.source,
            },
            norms: self.norms.as_deref(),
        }
    }
}

/// A merge that was carried out into a sink.
struct Merged {
    policy: Policy,
    plan: Plan,
    outcome: Outcome,
}

fn merge(
    arrival: Arrival<'_>,
    tools: &Tools,
    sink: &mut dyn TensorSink,
    report: Report<'_>,
) -> Result<Merged, ServerError> {
    let policy = facts::policy(&arrival.base_model.record)?;
    let slots = arrival
        .base_model
        .slots
        .values()
        .map(|slot| OpenSlot::open(slot.current(), &tools.reader, &tools.norms))
        .collect::<Result<Vec<_>, _>>()?;
    let views: Vec<_> = slots.iter().map(OpenSlot::view).collect();
    let mut plan = plan(&policy, &views, arrival.newcomer, &|share| {
        report(Stage::Similarity, share)
    })?;
    for (slot, norms) in std::mem::take(&mut plan.norms) {
        if let Some(open) = slots.iter().find(|open| open.record.slot.0 == slot) {
            tools.norms.insert(open.record.digest, norms);
        }
    }
    let outcome = execute(&plan, &views, arrival.newcomer, sink, &|share| {
        report(Stage::Merge, share)
    })?;
    Ok(Merged {
        policy,
        plan,
        outcome,
    })
}

/// Decides for a newcomer as things are, and changes nothing.
pub(super) fn decide(
    arrival: Arrival<'_>,
    task: &TaskName,
    tools: &Tools,
) -> Result<Decided, ServerError> {
    let Merged { plan, outcome, .. } = merge(arrival, tools, &mut Discard, &|_, _| {})?;
    let slot = arrival.base_model.slots.get(&SlotIndex(plan.slot));
    Ok(Decided {
        facts: DecisionFacts::new(&plan, &outcome).numbered(arrival.base_model),
        members: with_newcomer(slot, task, plan.newcomer_weight),
    })
}

/// Writes the new tensor file of one job, and gives what is to be committed.
pub(super) fn run(
    job: &JobRecord,
    arrival: Arrival<'_>,
    catalog: &Catalog,
    tools: &Tools,
    pool: &rayon::ThreadPool,
    report: Report<'_>,
) -> Result<Commit, ServerError> {
    let mut writer = tools.reader.new_tensor()?;
    // Only the mathematics takes the pool's threads; waiting for the disk would hold them from
    // the other base models.
    let merged = pool.install(|| merge(arrival, tools, &mut FileSink(&mut writer), report))?;
    report(Stage::Commit, 0.0);
    let tensor = writer.finish()?;
    let decision = DecisionFacts::new(&merged.plan, &merged.outcome).numbered(arrival.base_model);
    let facts = GenerationFacts::new(&merged.plan, &merged.outcome, &merged.policy);
    // What was current until now goes; what follows is not in the catalog yet.
    tools.norms.retain_current(catalog);
    tools.norms.insert(tensor.digest, merged.outcome.norms);
    let written = Written {
        slot: SlotIndex(merged.plan.slot),
        tensor,
        newcomer_weight: merged.plan.newcomer_weight,
        facts,
        decision,
    };
    Ok(written.commit(job, arrival.base_model))
}
