//! The operator that keeps a slot's members apart within a budget of bytes.

use std::sync::Arc;

use kmerge_merge::progressive::{Beside, Newcomer, PackedView, Placement, place};
use kmerge_storage::{BaseModelState, Catalog, Commit, JobRecord, SlotIndex, TaskName};

use super::{Arrival, CostFacts, Decided, Report, Tools, Written, with_newcomer};
use crate::error::ServerError;
use crate::facts::{self, DecisionFacts, GenerationFacts};
use crate::packs::OpenPack;
use crate::progress::Stage;
use crate::tensors::FileSink;

/// Bytes of a manifest beside its members: names, digests, numbers, the list of fields.
const MANIFEST_BYTES: u64 = 1536;
/// Bytes of a member's line in a manifest beside its texts: two digests, numbers, punctuation.
const MEMBER_BYTES: u64 = 288;

/// Members whose costs are kept with a job, and the length of the text that they are kept in: a
/// catalog record holds little.
const COSTS_KEPT: usize = 8;
const DECISION_BYTES: usize = 3500;

/// A base model's slots, opened.
pub(super) struct Slots<'a>(Vec<(&'a kmerge_storage::GenerationRecord, OpenPack)>);

impl<'a> Slots<'a> {
    pub(super) fn open(base_model: &'a BaseModelState, tools: &Tools) -> Result<Self, ServerError> {
        let slots = base_model.slots.values().map(|slot| {
            let record = slot.current();
            Ok((record, tools.packs.open(record)?))
        });
        slots.collect::<Result<_, _>>().map(Self)
    }

    pub(super) fn views(&self) -> Vec<PackedView<'_>> {
        self.0
            .iter()
            .map(|(record, open)| PackedView {
                slot: record.slot.0,
                generation: record.generation.0,
                packed: &open.packed,
                source: &open.source,
            })
            .collect()
    }
}

/// What the slots of a base model take outside their files, at most: their manifests. `newcomer` is
/// a task that comes, with the id of its request.
pub(super) fn beside(
    base_model: &BaseModelState,
    newcomer: Option<(&TaskName, Option<&str>)>,
) -> Beside {
    let length = |task: &TaskName, request_id: Option<&str>| {
        // JSON may write a character of a request id as six.
        let texts = task.as_str().len() + 6 * request_id.map_or(0, str::len);
        u64::try_from(texts).unwrap_or(u64::MAX)
    };
    let tasks = base_model.tasks.values();
    let longest = tasks
        .map(|known| length(&known.task, known.request_id.as_deref()))
        .fold(
            newcomer.map_or(0, |(task, request_id)| length(task, request_id)),
            u64::max,
        );
    Beside {
        slot: MANIFEST_BYTES,
        member: MEMBER_BYTES + longest,
    }
}

/// Decides for a newcomer as things are, and changes nothing.
pub(super) fn decide(
    arrival: Arrival<'_>,
    task: &TaskName,
    tools: &Tools,
) -> Result<Decided, ServerError> {
    let slots = Slots::open(arrival.base_model, tools)?;
    let placement = place(
        &facts::policy(&arrival.base_model.record)?,
        &slots.views(),
        Newcomer {
            task: task.as_str(),
            adapter: arrival.newcomer,
        },
        beside(arrival.base_model, Some((task, None))),
        &|_| {},
    )?;
    let slot = arrival.base_model.slots.get(&SlotIndex(placement.slot));
    Ok(Decided {
        members: with_newcomer(slot, task, newcomer_weight(&placement)),
        facts: decision(&placement, placement.costs.len()).numbered(arrival.base_model),
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
    let policy = facts::policy(&arrival.base_model.record)?;
    let slots = Slots::open(arrival.base_model, tools)?;
    let views = slots.views();
    let newcomer = Newcomer {
        task: job.task.as_str(),
        adapter: arrival.newcomer,
    };
    let newcomer_texts = (&job.task, job.request_id.as_deref());
    let beside = beside(arrival.base_model, Some(newcomer_texts));
    report(Stage::Similarity, 0.0);
    let placement = pool.install(|| {
        place(&policy, &views, newcomer, beside, &|share| {
            report(Stage::Merge, share);
        })
    })?;
    let mut writer = tools.reader.new_tensor()?;
    pool.install(|| placement.write(&views, arrival.newcomer, &mut FileSink(&mut writer)))?;
    report(Stage::Commit, 0.0);
    let tensor = writer.finish()?;
    let mut decision = decision(&placement, COSTS_KEPT).numbered(arrival.base_model);
    while facts::to_json(&decision).len() > DECISION_BYTES && decision.costs.pop().is_some() {}
    let written = Written {
        slot: SlotIndex(placement.slot),
        newcomer_weight: newcomer_weight(&placement),
        facts: GenerationFacts::packed(&placement.packed, &policy),
        decision,
        tensor,
    };
    // What was current until now goes; what follows is not in the catalog yet.
    tools.packs.retain_current(catalog);
    tools
        .packs
        .insert(written.tensor.digest, Arc::new(placement.packed));
    Ok(written.commit(job, arrival.base_model))
}

/// The newcomer's share in the slot's own adapter, which is the mean of its members.
#[expect(clippy::cast_precision_loss, reason = "a count of members")]
fn newcomer_weight(placement: &Placement) -> f64 {
    1.0 / placement.costs.len().max(1) as f64
}

/// The decision with the costs of at most `kept` members: the newcomer, and who loses most.
fn decision(placement: &Placement, kept: usize) -> DecisionFacts {
    let mut costs: Vec<CostFacts> = placement.costs.iter().map(CostFacts::new).collect();
    if costs.len() > kept {
        costs.sort_by(|l, r| r.loss().total_cmp(&l.loss()));
        costs.truncate(kept);
    }
    DecisionFacts::packed(placement, costs)
}
