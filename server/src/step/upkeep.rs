//! Jobs that bring no adapter: what each comes to is decided first, which also answers what it would
//! do, and then carried out. Synchronous; knows neither queue nor catalog writes.
//!
//! | job | file |
//! |---|---|
//! | takes a task out | `forget` |
//! | lets a slot hold again what it held | `rollback` |
//! | changes the budget, pins | `settings`, and `unite` for slots that are averages |

mod forget;
mod rollback;
mod settings;
mod unite;

use std::sync::Arc;

use kmerge_merge::progressive::Packing;
use kmerge_merge::{MergeError, Policy};
use kmerge_storage::{
    BaseModelState, Catalog, Generation, GenerationRecord, JobKind, JobRecord, MembersChange,
    NextGeneration, PlacedMember, Rearrangement, SlotIndex, SlotOutcome, SlotState, SlotStep,
    StoredTensor, TaskName,
};

pub use settings::Wish;

use super::progressive::Slots;
use super::{Report, Tools};
use crate::error::ServerError;
use crate::facts::{self, ChangeFacts, GenerationFacts, SlotChangeFacts};
use crate::progress::Stage;
use crate::tensors::FileSink;

/// What a job comes to.
#[derive(Debug)]
struct Decided {
    change: ChangeFacts,
    work: Vec<Work>,
    /// The base model's settings from here on, if they change.
    settings: Option<Policy>,
}

/// What is to be done with one slot.
#[derive(Debug)]
struct Work {
    slot: SlotIndex,
    expected: Option<Generation>,
    content: Content,
}

/// What a slot will hold.
#[derive(Debug)]
enum Content {
    /// Nothing.
    Nothing,
    /// What an earlier generation, or another slot, holds.
    Same {
        of: GenerationRecord,
        members: Vec<PlacedMember>,
    },
    /// Stored members, apart.
    Packed { packing: Packing, budget: u64 },
    /// An average that is written already.
    Average {
        tensor: StoredTensor,
        facts: GenerationFacts,
        members: Vec<PlacedMember>,
    },
}

/// Says what a job of that kind would do as things are, and changes nothing.
///
/// # Errors
/// As the job itself would fail.
pub fn foresee(
    kind: &JobKind,
    base_model: &BaseModelState,
    tools: &Tools,
) -> Result<ChangeFacts, ServerError> {
    decide(kind, base_model, tools, &|_, _| {}).map(|decided| decided.change.shortened())
}

/// Carries out one job: writes the new tensor files, and returns what is to be committed. The
/// mathematics runs on `pool`.
///
/// # Errors
/// If the base model's slots are in the way of what is asked, or cannot be read or written.
pub(super) fn run(
    job: &JobRecord,
    base_model: &BaseModelState,
    catalog: &Catalog,
    tools: &Tools,
    pool: &rayon::ThreadPool,
    report: Report<'_>,
) -> Result<Rearrangement, ServerError> {
    report(Stage::Merge, 0.0);
    let decided = pool.install(|| decide(&job.kind, base_model, tools, report))?;
    let policy = match &decided.settings {
        Some(policy) => policy.clone(),
        None => facts::policy(&base_model.record)?,
    };
    let has_packed = decided.work.iter().any(Work::is_packed);
    let slots = has_packed
        .then(|| Slots::open(base_model, tools))
        .transpose()?;
    // What was current until now goes; what follows is not in the catalog yet.
    tools.packs.retain_current(catalog);
    let mut steps = Vec::with_capacity(decided.work.len());
    for work in decided.work {
        steps.push(work.step(slots.as_ref(), &policy, tools)?);
    }
    report(Stage::Commit, 0.0);
    Ok(Rearrangement {
        job: job.id,
        steps,
        settings: decided.settings.map(|policy| facts::to_json(&policy)),
        result: facts::to_json(&decided.change.shortened()),
    })
}

fn decide(
    kind: &JobKind,
    base_model: &BaseModelState,
    tools: &Tools,
    report: Report<'_>,
) -> Result<Decided, ServerError> {
    match kind {
        JobKind::Forget { task } => forget::decide(task, base_model, tools),
        JobKind::Rollback { slot, to } => rollback::decide(*slot, *to, base_model, tools),
        JobKind::Repack { settings } => {
            let wish = settings::Wish::read(settings, base_model)?;
            settings::decide(&wish, base_model, tools, report)
        }
        // Uploads have a way of their own.
        JobKind::Upload => Err(ServerError::Panicked),
    }
}

impl Work {
    fn is_packed(&self) -> bool {
        matches!(self.content, Content::Packed { .. })
    }

    /// Writes what there is to write.
    fn step(
        self,
        slots: Option<&Slots<'_>>,
        policy: &Policy,
        tools: &Tools,
    ) -> Result<SlotStep, ServerError> {
        let next = |tensor, facts, members| {
            SlotOutcome::Next(NextGeneration {
                tensor,
                facts,
                members: MembersChange::Replace(members),
            })
        };
        let outcome = match self.content {
            Content::Nothing => SlotOutcome::Emptied,
            Content::Same { of, members } => {
                next(tools.reader.tensor_again(&of)?, of.facts, members)
            }
            Content::Packed { packing, .. } => {
                let views = slots.map_or_else(Vec::new, Slots::views);
                let mut writer = tools.reader.new_tensor()?;
                packing.write(&views, &mut FileSink(&mut writer))?;
                let tensor = writer.finish()?;
                let facts = GenerationFacts::packed(&packing.packed, policy);
                let members = placed(&packing)?;
                let head = Arc::new(packing.packed);
                tools.packs.insert(tensor.digest, head);
                next(tensor, facts::to_json(&facts), members)
            }
            Content::Average {
                tensor,
                facts,
                members,
            } => next(tensor, facts::to_json(&facts), members),
        };
        Ok(SlotStep {
            slot: self.slot,
            expected: self.expected,
            outcome,
        })
    }

    /// What is to be said of it.
    fn facts(&self, base_model: &BaseModelState) -> SlotChangeFacts {
        let before = base_model.slots.get(&self.slot);
        let (bytes, tasks, budget, costs) = match &self.content {
            Content::Nothing => (0, 0, None, Vec::new()),
            Content::Same { of, members } => (of.bytes, members.len(), None, Vec::new()),
            Content::Packed { packing, budget } => (
                packing.packed.bytes(),
                packing.packed.members.len(),
                Some(*budget),
                SlotChangeFacts::losses(&packing.costs),
            ),
            Content::Average {
                tensor, members, ..
            } => (tensor.bytes, members.len(), None, Vec::new()),
        };
        SlotChangeFacts {
            slot: self.slot.0,
            generation: base_model.next_generation(self.slot).0,
            emptied: matches!(self.content, Content::Nothing),
            bytes_before: before.map_or(0, |slot| slot.current().bytes),
            bytes,
            tasks: facts::saturate(tasks),
            budget,
            costs,
        }
    }
}

/// The members of a packed slot: each counts the same.
#[expect(clippy::cast_precision_loss, reason = "members are far below 2^52")]
fn placed(packing: &Packing) -> Result<Vec<PlacedMember>, ServerError> {
    let members = &packing.packed.members;
    let weight = 1.0 / members.len().max(1) as f64;
    let placed = members.iter().map(|member| {
        let task: Result<TaskName, _> = member.task.parse();
        task.map(|task| PlacedMember { task, weight }).map_err(|_| {
            let what = "a member of it has no task's name";
            ServerError::Merge(MergeError::DamagedSlot { what })
        })
    });
    placed.collect()
}

/// A slot that is in use and may change.
fn open_slot<'a>(
    slot: SlotIndex,
    base_model: &'a BaseModelState,
    policy: &Policy,
) -> Result<&'a SlotState, ServerError> {
    let state = base_model
        .slots
        .get(&slot)
        .ok_or_else(|| ServerError::unknown_slot(&base_model.record.name, slot))?;
    if policy.pinned.contains(&slot.0) {
        return Err(MergeError::Pinned { slot: slot.0 }.into());
    }
    Ok(state)
}
