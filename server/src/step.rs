//! One merge, from the newcomer's bytes and the slots as they are to a new tensor file and the
//! decision that explains it. Synchronous; knows neither queue nor catalog writes, so it is tested
//! with plain calls.
//!
//! | slots that | file |
//! |---|---|
//! | are one adapter, a mean of their members | `average` |
//! | keep their members apart | `progressive` |
//!
//! Jobs that bring no adapter are in `upkeep`.

mod average;
mod norms;
mod progressive;
mod upkeep;

use std::sync::Arc;

use kmerge_merge::{AdapterView, BaseModel};
use kmerge_storage::{
    BaseModelState, Catalog, Commit, JobRecord, NewMember, Reader, Rearrangement, SlotChange,
    SlotIndex, SlotState, StoredTensor, TaskName,
};

pub use norms::NormCache;
pub use upkeep::{Wish, foresee};

use crate::error::ServerError;
use crate::facts::{self, CostFacts, DecisionFacts, GenerationFacts};
use crate::packs::Packs;
use crate::progress::Stage;
use crate::serving::{self, WeightedMember};
use crate::tensors::FileSource;

/// Reports (stage, share of the stage that is done).
pub type Report<'a> = &'a (dyn Fn(Stage, f32) + Sync);

/// What a merge reads, and what it remembers for the next one.
#[derive(Debug, Clone)]
pub struct Tools {
    /// Reads slots and staged files, and makes new tensor files.
    pub reader: Reader,
    /// Norms of slots that are one adapter.
    pub norms: Arc<NormCache>,
    /// Heads of slots that keep their members apart.
    pub packs: Packs,
}

/// A newcomer and the base model it came for.
#[derive(Debug, Clone, Copy)]
pub struct Arrival<'a> {
    /// The base model's state when the newcomer is decided.
    pub base_model: &'a BaseModelState,
    /// The newcomer, validated.
    pub newcomer: AdapterView<'a>,
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
    catalog: &Catalog,
    tools: &Tools,
) -> Result<Decided, ServerError> {
    if facts::policy(&arrival.base_model.record)?
        .operator
        .is_progressive()
    {
        progressive::decide(arrival, task, tools)
    } else {
        average::decide(arrival, task, catalog, tools)
    }
}

/// Carries out one job: reads its staged files, if it has any, and the slots of its base model,
/// writes the new tensor files, and returns what is to be committed. The mathematics runs on `pool`.
///
/// # Errors
/// If the staged files or a slot cannot be read or are damaged, the result cannot be represented,
/// or it would exceed the budget.
pub fn run(
    job: &JobRecord,
    catalog: &Catalog,
    tools: &Tools,
    pool: &rayon::ThreadPool,
    report: Report<'_>,
) -> Result<Rearrangement, ServerError> {
    let base_model = catalog
        .base_models
        .get(&job.base_model)
        .ok_or_else(|| ServerError::unknown_base_model(&job.base_model))?;
    // What is made of wrong bytes would be wrong for good.
    for slot in base_model.slots.values() {
        tools.packs.check(slot.current())?;
    }
    if !job.kind.is_upload() {
        return upkeep::run(job, base_model, catalog, tools, pool, report);
    }
    let staged = tools.reader.staged(job.id)?;
    let source = FileSource(staged.tensor);
    let shapes = BaseModel::from_config_json(base_model.record.config.as_bytes())?;
    let format = facts::format(&job.upload.format)?;
    let decoded = format.decode(&staged.config, &source, &shapes)?;
    let arranged = decoded.arrangement.apply(&source);
    let arrival = Arrival {
        base_model,
        newcomer: AdapterView {
            layout: &decoded.layout,
            source: &arranged,
        },
    };
    if facts::policy(&base_model.record)?.operator.is_progressive() {
        progressive::run(job, arrival, catalog, tools, pool, report).map(Rearrangement::from)
    } else {
        average::run(job, arrival, catalog, tools, pool, report)
    }
}

/// A tensor file that is written, and what is to be said of it.
struct Written {
    slot: SlotIndex,
    tensor: StoredTensor,
    newcomer_weight: f64,
    facts: GenerationFacts,
    decision: DecisionFacts,
}

impl Written {
    fn commit(self, job: &JobRecord, base_model: &BaseModelState) -> Commit {
        Commit {
            job: job.id,
            changes: vec![SlotChange {
                slot: self.slot,
                expected: base_model
                    .slots
                    .get(&self.slot)
                    .map(|slot| slot.current().generation),
                tensor: self.tensor,
                newcomer: Some(NewMember {
                    task: job.task.clone(),
                    weight: self.newcomer_weight,
                }),
                facts: facts::to_json(&self.facts),
            }],
            result: facts::to_json(&self.decision),
        }
    }
}

/// A slot's members with a newcomer of the given weight behind them.
fn with_newcomer(
    slot: Option<&Arc<SlotState>>,
    task: &TaskName,
    weight: f64,
) -> Vec<WeightedMember> {
    let mut members = slot.map_or_else(Vec::new, |slot| serving::members(slot, usize::MAX));
    for (_, older) in &mut members {
        *older *= 1.0 - weight;
    }
    members.push((task.clone(), weight));
    members
}
