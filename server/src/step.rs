//! One merge, from the newcomer's bytes and the slots as they are to a new tensor file and the
//! decision that explains it. Synchronous; knows neither queue nor catalog writes, so it is tested
//! with plain calls.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use kmerge_merge::{
    AdapterLayout, AdapterView, BaseModel, ModuleNorms, Outcome, Plan, Policy, SlotView,
    TensorSink, decode, decode_slot, execute, plan,
};
use kmerge_storage::{
    BaseModelState, Catalog, Commit, Digest, GenerationRecord, JobRecord, NewMember, Reader,
    SlotChange, SlotIndex, TaskName,
};

use crate::error::ServerError;
use crate::facts::{self, DecisionFacts, GenerationFacts};
use crate::progress::Stage;
use crate::serving::{self, WeightedMember};
use crate::tensors::{Discard, FileSink, FileSource};

/// Reports (stage, share of the stage that is done).
pub type Report<'a> = &'a (dyn Fn(Stage, f32) + Sync);

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

/// A newcomer and the base model it came for.
#[derive(Debug, Clone, Copy)]
pub struct Arrival<'a> {
    /// The base model's state when the newcomer is decided.
    pub base_model: &'a BaseModelState,
    /// The newcomer, validated.
    pub newcomer: AdapterView<'a>,
}

/// A merge that was carried out into a sink.
struct Merged {
    policy: Policy,
    plan: Plan,
    outcome: Outcome,
}

fn merge(
    arrival: Arrival<'_>,
    reader: &Reader,
    cache: &NormCache,
    sink: &mut dyn TensorSink,
    report: Report<'_>,
) -> Result<Merged, ServerError> {
    let policy = facts::policy(&arrival.base_model.record)?;
    let slots = arrival
        .base_model
        .slots
        .values()
        .map(|slot| OpenSlot::open(slot.current(), reader, cache))
        .collect::<Result<Vec<_>, _>>()?;
    let views: Vec<_> = slots.iter().map(OpenSlot::view).collect();
    let mut plan = plan(&policy, &views, arrival.newcomer, &|share| {
        report(Stage::Similarity, share)
    })?;
    for (slot, norms) in std::mem::take(&mut plan.norms) {
        if let Some(open) = slots.iter().find(|open| open.record.slot.0 == slot) {
            cache.insert(open.record.digest, norms);
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

/// What would be decided for a newcomer now.
#[derive(Debug)]
pub struct Decided {
    /// The decision.
    pub facts: DecisionFacts,
    /// The slot's members with the newcomer among them.
    pub members: Vec<WeightedMember>,
}

/// Decides for a newcomer as things are, and changes nothing.
///
/// # Errors
/// As the merge itself would fail.
pub fn decide(
    arrival: Arrival<'_>,
    task: &TaskName,
    reader: &Reader,
    cache: &NormCache,
) -> Result<Decided, ServerError> {
    let Merged { plan, outcome, .. } = merge(arrival, reader, cache, &mut Discard, &|_, _| {})?;
    let slot = arrival.base_model.slots.get(&SlotIndex(plan.slot));
    let mut members = slot.map_or_else(Vec::new, |slot| serving::members(slot, usize::MAX));
    for (_, weight) in &mut members {
        *weight *= 1.0 - plan.newcomer_weight;
    }
    members.push((task.clone(), plan.newcomer_weight));
    Ok(Decided {
        facts: DecisionFacts::new(&plan, &outcome),
        members,
    })
}

/// Carries out one job: reads its staged files and the slots of its base model, writes the new
/// tensor file, and returns what is to be committed. The mathematics runs on `pool`.
///
/// # Errors
/// If the staged files or a slot cannot be read or are damaged, the result cannot be represented,
/// or it would exceed the budget.
pub fn run(
    job: &JobRecord,
    catalog: &Catalog,
    reader: &Reader,
    cache: &NormCache,
    pool: &rayon::ThreadPool,
    report: Report<'_>,
) -> Result<Commit, ServerError> {
    let base_model = catalog
        .base_models
        .get(&job.base_model)
        .ok_or_else(|| ServerError::unknown_base_model(&job.base_model))?;
    let staged = reader.staged(job.id)?;
    let source = FileSource(staged.tensor);
    let shapes = BaseModel::from_config_json(base_model.record.config.as_bytes())?;
    let decoded = decode(&staged.config, &source, &shapes)?;
    let arrival = Arrival {
        base_model,
        newcomer: AdapterView {
            layout: &decoded.layout,
            source: &source,
        },
    };
    let mut writer = reader.new_tensor()?;
    // Only the mathematics takes the pool's threads; waiting for the disk would hold them from
    // the other base models.
    let merged =
        pool.install(|| merge(arrival, reader, cache, &mut FileSink(&mut writer), report))?;
    report(Stage::Commit, 0.0);
    let tensor = writer.finish()?;
    let decision = DecisionFacts::new(&merged.plan, &merged.outcome);
    let facts = GenerationFacts::new(&merged.plan, &merged.outcome, &merged.policy);
    cache.insert(tensor.digest, merged.outcome.norms);
    cache.retain_current(catalog);
    let slot = SlotIndex(merged.plan.slot);
    Ok(Commit {
        job: job.id,
        changes: vec![SlotChange {
            slot,
            expected: base_model
                .slots
                .get(&slot)
                .map(|slot| slot.current().generation),
            tensor,
            newcomer: Some(NewMember {
                task: job.task.clone(),
                weight: merged.plan.newcomer_weight,
            }),
            facts: facts::to_json(&facts),
        }],
        result: facts::to_json(&decision),
    })
}
