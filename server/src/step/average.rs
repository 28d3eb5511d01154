//! The operators that make one adapter of a slot and a newcomer.

use std::sync::Arc;

use kmerge_merge::{
    AdapterLayout, AdapterView, Assignment, AssignmentRule, History, Joined, ModuleNorms, Outcome,
    Plan, Policy, SlotView, TensorSink, decode_slot, execute, execute_joined, plan_after,
};
use kmerge_storage::{
    BaseModelName, BaseModelState, Catalog, GenerationRecord, JobRecord, MembersChange,
    NextGeneration, PlacedMember, Reader, Rearrangement, SlotIndex, SlotOutcome, SlotStep,
    StoredTensor, TaskName,
};

use super::norms::NormCache;
use super::{Arrival, Decided, Report, Tools, Written, with_newcomer};
use crate::error::ServerError;
use crate::facts::{self, DecisionFacts, GenerationFacts};
use crate::progress::Stage;
use crate::serving;
use crate::tensors::{Discard, FileSink, FileSource};

/// A slot opened for reading.
struct OpenSlot<'a> {
    record: &'a GenerationRecord,
    source: FileSource,
    layout: AdapterLayout,
    norms: Option<Arc<ModuleNorms>>,
    member_norms: Option<ModuleNorms>,
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
            member_norms: facts::generation(record)?.member_norms(),
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

/// A decision with the slots that it was made for.
struct Planned<'a> {
    policy: Policy,
    slots: Vec<OpenSlot<'a>>,
    plan: Plan,
}

impl<'a> Planned<'a> {
    fn new(
        arrival: Arrival<'a>,
        base_model: &BaseModelName,
        catalog: &Catalog,
        tools: &Tools,
        report: Report<'_>,
    ) -> Result<Self, ServerError> {
        let state = arrival.base_model;
        let policy = facts::policy(&state.record)?;
        let slots = state
            .slots
            .values()
            .map(|slot| OpenSlot::open(slot.current(), &tools.reader, &tools.norms))
            .collect::<Result<Vec<_>, _>>()?;
        let views: Vec<_> = slots.iter().map(OpenSlot::view).collect();
        let members = slots.iter().filter_map(|open| {
            let norms = open.member_norms.as_ref()?;
            Some((open.record.slot.0, norms))
        });
        let history = History {
            member_norms: members.collect(),
            linkages: tools.norms.linkages(base_model, state),
            observed: observed(&policy, base_model, catalog),
        };
        let mut plan = plan_after(&policy, &views, arrival.newcomer, &history, &|share| {
            report(Stage::Similarity, share)
        })?;
        for (slot, norms) in std::mem::take(&mut plan.norms) {
            if let Some(open) = slots.iter().find(|open| open.record.slot.0 == slot) {
                tools.norms.insert(open.record.digest, norms);
            }
        }
        let measured = std::mem::take(&mut plan.linkages);
        tools.norms.insert_linkages(base_model, state, &measured);
        Ok(Self {
            policy,
            slots,
            plan,
        })
    }

    /// Writes the file with the newcomer.
    fn execute(
        &self,
        newcomer: AdapterView<'_>,
        sink: &mut dyn TensorSink,
        report: Report<'_>,
    ) -> Result<Outcome, ServerError> {
        let views: Vec<_> = self.slots.iter().map(OpenSlot::view).collect();
        let told = |share| report(Stage::Merge, share);
        Ok(execute(&self.plan, &views, newcomer, sink, &told)?)
    }

    /// Writes the file of two slots that become one.
    fn join(
        &self,
        joined: &Joined,
        sink: &mut dyn TensorSink,
        report: Report<'_>,
    ) -> Result<Outcome, ServerError> {
        let views: Vec<_> = self.slots.iter().map(OpenSlot::view).collect();
        let told = |share| report(Stage::Merge, share);
        Ok(execute_joined(joined, &views, sink, &told)?)
    }
}

/// The similarities that the catalog's jobs of a base model found, where the rule looks back.
fn observed(policy: &Policy, base_model: &BaseModelName, catalog: &Catalog) -> Vec<f64> {
    if !matches!(
        policy.assignment,
        AssignmentRule::KMergePlusPlus { threshold: None }
    ) {
        return Vec::new();
    }
    let jobs = catalog.jobs.values();
    let decided = jobs
        .filter(|job| job.base_model == *base_model)
        .filter_map(|job| facts::decision(job).ok().flatten());
    decided
        .flat_map(|decision| decision.similarities)
        .map(|(_, similarity)| similarity)
        .collect()
}

/// Decides for a newcomer as things are, and changes nothing.
pub(super) fn decide(
    arrival: Arrival<'_>,
    task: &TaskName,
    catalog: &Catalog,
    tools: &Tools,
) -> Result<Decided, ServerError> {
    let silent: Report<'_> = &|_, _| {};
    let base_model = &arrival.base_model.record.name;
    let planned = Planned::new(arrival, base_model, catalog, tools, silent)?;
    if let Some(joined) = &planned.plan.joined {
        planned.join(joined, &mut Discard, silent)?;
    }
    let outcome = planned.execute(arrival.newcomer, &mut Discard, silent)?;
    let plan = planned.plan;
    let slot = match plan.assignment {
        Assignment::Opened => None,
        Assignment::Merged => arrival.base_model.slots.get(&SlotIndex(plan.slot)),
    };
    Ok(Decided {
        facts: DecisionFacts::new(&plan, &outcome).numbered(arrival.base_model),
        members: with_newcomer(slot, task, plan.newcomer_weight),
    })
}

/// Writes the new tensor files of one job, and gives what is to be committed.
pub(super) fn run(
    job: &JobRecord,
    arrival: Arrival<'_>,
    catalog: &Catalog,
    tools: &Tools,
    pool: &rayon::ThreadPool,
    report: Report<'_>,
) -> Result<Rearrangement, ServerError> {
    let mut writer = tools.reader.new_tensor()?;
    // Only the mathematics takes the pool's threads; waiting for the disk would hold them from
    // the other base models.
    let planned =
        pool.install(|| Planned::new(arrival, &job.base_model, catalog, tools, report))?;
    let joined = match &planned.plan.joined {
        None => None,
        Some(joined) => {
            let mut writer = tools.reader.new_tensor()?;
            let sink = &mut FileSink(&mut writer);
            let outcome = pool.install(|| planned.join(joined, sink, report))?;
            let tensor = writer.finish()?;
            tools.packs.trust(tensor.digest);
            Some((joined, tensor, outcome))
        }
    };
    let sink = &mut FileSink(&mut writer);
    let outcome = pool.install(|| planned.execute(arrival.newcomer, sink, report))?;
    report(Stage::Commit, 0.0);
    let tensor = writer.finish()?;
    tools.packs.trust(tensor.digest);
    let decision = DecisionFacts::new(&planned.plan, &outcome).numbered(arrival.base_model);
    let facts = GenerationFacts::new(&planned.plan, &outcome, &planned.policy);
    // What was current until now goes; what follows is not in the catalog yet.
    tools.norms.retain_current(catalog);
    tools.norms.insert(tensor.digest, outcome.norms);
    let Some((joined, joined_tensor, joined_outcome)) = joined else {
        let written = Written {
            slot: SlotIndex(planned.plan.slot),
            tensor,
            newcomer_weight: planned.plan.newcomer_weight,
            facts,
            decision,
        };
        return Ok(written.commit(job, arrival.base_model).into());
    };
    let joined_facts = GenerationFacts::new(&joined.plan, &joined_outcome, &planned.policy);
    tools
        .norms
        .insert(joined_tensor.digest, joined_outcome.norms);
    let state = arrival.base_model;
    let (kept, freed) = (SlotIndex(joined.plan.slot), SlotIndex(joined.from));
    let newcomer = PlacedMember {
        task: job.task.clone(),
        weight: 1.0,
    };
    Ok(Rearrangement {
        job: job.id,
        steps: vec![
            replaced(
                state,
                kept,
                joined_tensor,
                &joined_facts,
                together(state, kept, freed, joined.plan.newcomer_weight),
            ),
            replaced(state, freed, tensor, &facts, vec![newcomer]),
        ],
        settings: None,
        result: facts::to_json(&decision),
    })
}

/// The members of two slots, of which the second weighs so much.
fn together(
    state: &BaseModelState,
    kept: SlotIndex,
    freed: SlotIndex,
    weight: f64,
) -> Vec<PlacedMember> {
    [(kept, 1.0 - weight), (freed, weight)]
        .into_iter()
        .filter_map(|(slot, share)| Some((state.slots.get(&slot)?, share)))
        .flat_map(|(slot, share)| {
            let members = serving::members(slot, usize::MAX).into_iter();
            members.map(move |(task, weight)| PlacedMember {
                task,
                weight: weight * share,
            })
        })
        .collect()
}

/// The step that gives a slot other members.
fn replaced(
    state: &BaseModelState,
    slot: SlotIndex,
    tensor: StoredTensor,
    facts: &GenerationFacts,
    members: Vec<PlacedMember>,
) -> SlotStep {
    let current = state.slots.get(&slot);
    SlotStep {
        slot,
        expected: current.map(|slot| slot.current().generation),
        outcome: SlotOutcome::Next(NextGeneration {
            tensor,
            facts: facts::to_json(facts),
            members: MembersChange::Replace(members),
        }),
    }
}
