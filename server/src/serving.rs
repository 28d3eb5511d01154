//! Everything that is asked and nothing that is changed: reads of the current catalog view.
//!
//! No read waits for a merge or for the catalog's owner: each takes the view that is current when
//! it comes. Nothing here knows protobuf.

use std::path::PathBuf;
use std::sync::Arc;

use kmerge_merge::Format;
use kmerge_merge::progressive::{Fidelity, PackedSlot};
use kmerge_storage::{
    BaseModelName, BaseModelState, Catalog, Digest, EmptiedRecord, ExportedFile, Generation,
    GenerationRecord, JobId, JobRecord, JobState, ReadError, Reader, Revision, SlotIndex,
    SlotState, TaskName, TaskRecord,
};
use tokio::sync::watch;

use crate::converted::Foreign;
use crate::doubts::Doubts;
use crate::error::ServerError;
use crate::exports::{self, PEFT};
use crate::facts::{self, ChangeFacts, DecisionFacts, GenerationFacts};
use crate::packs;
use crate::pages::{Cut, Descending, Page, Pair};
use crate::progress::{JobProgress, ProgressBoard, Stage};
use crate::served::{Served, Wanted};

/// Whose files are asked for.
#[derive(Debug, Clone)]
pub enum ExportOf {
    /// A slot's own adapter.
    Slot(SlotIndex),
    /// The adapter that serves a task, which is its slot's unless the slot keeps its members apart.
    Task(TaskName),
}

/// A task in a slot and the weight of its update there.
pub type WeightedMember = (TaskName, f64);

/// A job as it stands.
#[derive(Debug, Clone)]
pub struct JobView {
    /// What is recorded.
    pub record: Arc<JobRecord>,
    /// Where it is, while it runs.
    pub progress: Option<JobProgress>,
    /// What was decided, once it is done, and the slot's members as the job left them.
    pub decision: Option<(DecisionFacts, Vec<WeightedMember>)>,
    /// What it did, once it is done and brought no adapter.
    pub change: Option<ChangeFacts>,
}

/// One generation of a slot.
#[derive(Debug, Clone)]
pub struct SlotView {
    /// What is recorded.
    pub record: GenerationRecord,
    /// What the server noted with it.
    pub facts: GenerationFacts,
    /// In order of arrival.
    pub members: Vec<WeightedMember>,
    /// What it keeps of each member, where it keeps them apart.
    pub packed: Option<Arc<PackedSlot>>,
    /// Its PEFT directory; none before anyone has asked for it, where it keeps its members apart.
    pub path: Option<PathBuf>,
    /// Bytes that it may take, where it has a budget of its own.
    pub budget: Option<u64>,
    /// Whether it must stay as it is.
    pub is_pinned: bool,
    /// The generations before it that are kept, the newest first.
    pub earlier: Vec<Generation>,
}

/// Something new about a slot.
#[derive(Debug, Clone)]
pub enum SlotEvent {
    /// It has a new generation.
    Moved(Box<SlotView>),
    /// It holds nothing any more.
    Emptied(EmptiedRecord),
}

impl SlotEvent {
    /// The revision that made it.
    pub fn revision(&self) -> Revision {
        match self {
            Self::Moved(view) => view.record.revision,
            Self::Emptied(record) => record.revision,
        }
    }
}

/// An adapter as it arrived, and what is kept of it.
#[derive(Debug, Clone)]
pub struct TaskView {
    /// What is recorded.
    pub record: Arc<TaskRecord>,
    /// What its slot keeps of it, where it keeps its members apart.
    pub fidelity: Option<Fidelity>,
}

/// Where a task is served from.
#[derive(Debug, Clone, PartialEq)]
pub struct Resolved {
    /// The slot.
    pub slot: SlotIndex,
    /// Its newest generation.
    pub generation: Generation,
    /// The PEFT directory.
    pub path: PathBuf,
    /// Of the tensor file in it.
    pub digest: Digest,
    /// What the slot keeps of the task, where it keeps its members apart.
    pub fidelity: Option<Fidelity>,
}

/// Answers questions.
#[derive(Debug, Clone)]
pub struct Serving {
    view: watch::Receiver<Arc<Catalog>>,
    reader: Reader,
    progress: ProgressBoard,
    served: Served,
    doubts: Doubts,
}

/// How often a call looks again at what is current, when that has gone under it: jobs may follow each
/// other faster than a task's adapter is made, and grace may be zero.
const LOOKS: u32 = 4;

impl Serving {
    /// Answers from `view`, `reader`, `progress` and `served`; `doubts` deals with damage.
    pub fn new(
        view: watch::Receiver<Arc<Catalog>>,
        reader: Reader,
        progress: ProgressBoard,
        served: Served,
        doubts: Doubts,
    ) -> Self {
        Self {
            view,
            reader,
            progress,
            served,
            doubts,
        }
    }

    /// The catalog as it is now.
    pub fn catalog(&self) -> Arc<Catalog> {
        Arc::clone(&self.view.borrow())
    }

    /// Wakes its holder at each change of the catalog.
    pub fn changes(&self) -> watch::Receiver<Arc<Catalog>> {
        self.view.clone()
    }

    /// Wakes its holder at each step of a running job.
    pub fn progress(&self) -> &ProgressBoard {
        &self.progress
    }

    /// Reads of the disk.
    pub fn reader(&self) -> &Reader {
        &self.reader
    }

    /// A base model.
    ///
    /// # Errors
    /// [`ServerError::NotFound`].
    pub fn base_model(&self, name: &BaseModelName) -> Result<Arc<BaseModelState>, ServerError> {
        let catalog = self.catalog();
        let found = catalog.base_models.get(name).cloned();
        found.ok_or_else(|| ServerError::unknown_base_model(name))
    }

    /// All base models, in order of name.
    ///
    /// # Errors
    /// A bad page token.
    pub fn base_models(&self, page: &Page) -> Result<Cut<Arc<BaseModelState>>, ServerError> {
        let catalog = self.catalog();
        page.cut(catalog.base_models.values().cloned(), |base| {
            base.record.name.clone()
        })
    }

    /// The adapter that arrived for a task.
    ///
    /// # Errors
    /// [`ServerError::NotFound`].
    pub fn task(
        &self,
        base_model: &BaseModelName,
        task: &TaskName,
    ) -> Result<TaskView, ServerError> {
        let base_model = self.base_model(base_model)?;
        let found = base_model.tasks.get(task);
        let record =
            found.ok_or_else(|| ServerError::unknown_task(&base_model.record.name, task))?;
        self.task_view(&base_model, record)
    }

    fn task_view(
        &self,
        base_model: &BaseModelState,
        record: &Arc<TaskRecord>,
    ) -> Result<TaskView, ServerError> {
        let slot = slot_of(base_model, record.slot)?;
        let packed = self.served.packs().head(slot.current())?;
        Ok(TaskView {
            record: Arc::clone(record),
            fidelity: packed.and_then(|packed| packs::fidelity(&packed, record.task.as_str())),
        })
    }

    /// The tasks of one or all base models.
    ///
    /// # Errors
    /// An unknown base model or a bad page token.
    pub fn tasks(
        &self,
        base_model: Option<&BaseModelName>,
        page: &Page,
    ) -> Result<Cut<TaskView>, ServerError> {
        let chosen = self.chosen(base_model)?;
        let tasks = chosen
            .iter()
            .flat_map(|base| base.tasks.values().map(move |task| (base, task)));
        page.cut(tasks, |(_, task)| {
            Pair(task.base_model.clone(), task.task.clone())
        })?
        .try_map(|(base, task)| self.task_view(base, task))
    }

    fn chosen(
        &self,
        base_model: Option<&BaseModelName>,
    ) -> Result<Vec<Arc<BaseModelState>>, ServerError> {
        match base_model {
            Some(name) => Ok(vec![self.base_model(name)?]),
            None => Ok(self.catalog().base_models.values().cloned().collect()),
        }
    }

    /// A job.
    ///
    /// # Errors
    /// [`ServerError::NotFound`].
    pub fn job(&self, id: JobId) -> Result<JobView, ServerError> {
        let catalog = self.catalog();
        let record = catalog
            .jobs
            .get(&id)
            .ok_or(ServerError::UnknownJob { id })?;
        self.job_view(&catalog, record)
    }

    /// A job whose record is at hand, even if the catalog has forgotten it meanwhile.
    ///
    /// # Errors
    /// If its decision cannot be read.
    pub fn view_of(&self, record: &Arc<JobRecord>) -> Result<JobView, ServerError> {
        self.job_view(&self.catalog(), record)
    }

    fn job_view(&self, catalog: &Catalog, record: &Arc<JobRecord>) -> Result<JobView, ServerError> {
        let decision = facts::decision(record)?.map(|decision| {
            let slot = catalog
                .base_models
                .get(&record.base_model)
                .and_then(|base| base.slots.get(&SlotIndex(decision.slot)));
            let members = slot.map_or_else(Vec::new, |slot| {
                let joined = |generation: Generation| generation.0 <= decision.generation;
                let count = slot
                    .members
                    .iter()
                    .take_while(|member| joined(member.generation))
                    .count();
                members(slot, count)
            });
            (decision, members)
        });
        let progress = self.progress.of(record.id).filter(|progress| {
            let waits = progress.stage == Stage::DiskSpace;
            match record.state {
                JobState::Queued => waits,
                JobState::Running => !waits,
                JobState::Done | JobState::Failed | JobState::Cancelled => false,
            }
        });
        Ok(JobView {
            record: Arc::clone(record),
            progress,
            decision,
            change: facts::change(record)?,
        })
    }

    /// Jobs, the newest first.
    ///
    /// # Errors
    /// A bad page token.
    pub fn jobs(
        &self,
        base_model: Option<&BaseModelName>,
        state: Option<JobState>,
        page: &Page,
    ) -> Result<Cut<JobView>, ServerError> {
        let catalog = self.catalog();
        let wanted = |job: &&Arc<JobRecord>| {
            base_model.is_none_or(|name| job.base_model == *name)
                && state.is_none_or(|state| job.state == state)
        };
        page.cut(catalog.jobs.values().rev().filter(wanted), |job| {
            Descending(job.id)
        })?
        .try_map(|record| self.job_view(&catalog, record))
    }

    /// A slot at its newest generation.
    ///
    /// # Errors
    /// [`ServerError::NotFound`].
    pub fn slot(
        &self,
        base_model: &BaseModelName,
        slot: SlotIndex,
    ) -> Result<SlotView, ServerError> {
        let base_model = self.base_model(base_model)?;
        self.slot_view(&base_model, slot_of(&base_model, slot)?)
    }

    /// The occupied slots of one or all base models.
    ///
    /// # Errors
    /// An unknown base model or a bad page token.
    pub fn slots(
        &self,
        base_model: Option<&BaseModelName>,
        page: &Page,
    ) -> Result<Cut<SlotView>, ServerError> {
        let chosen = self.chosen(base_model)?;
        let slots = chosen
            .iter()
            .flat_map(|base| base.slots.values().map(move |slot| (base, slot)));
        let key = |(_, slot): &(&Arc<BaseModelState>, &Arc<SlotState>)| {
            let current = slot.current();
            Pair(current.base_model.clone(), current.slot)
        };
        page.cut(slots, key)?
            .try_map(|(base, slot)| self.slot_view(base, slot))
    }

    /// Every slot whose newest generation came after `revision`, or that was emptied after it, the
    /// oldest change first.
    ///
    /// # Errors
    /// If facts cannot be read.
    pub fn slots_after(
        &self,
        catalog: &Catalog,
        base_model: Option<&BaseModelName>,
        revision: Revision,
    ) -> Result<Vec<SlotEvent>, ServerError> {
        let mut events = Vec::new();
        for (name, base) in &catalog.base_models {
            if base_model.is_some_and(|wanted| name != wanted) {
                continue;
            }
            for slot in base.slots.values() {
                if slot.current().revision > revision {
                    let view = self.slot_view(base, slot)?;
                    events.push(SlotEvent::Moved(Box::new(view)));
                }
            }
            let emptied = base.emptied.values().map(|slot| &slot.record);
            let emptied = emptied.filter(|record| record.revision > revision);
            events.extend(emptied.cloned().map(SlotEvent::Emptied));
        }
        // Changes of one revision stay in order of base model and slot, the emptied ones last.
        events.sort_by_key(SlotEvent::revision);
        Ok(events)
    }

    fn slot_view(
        &self,
        base_model: &BaseModelState,
        slot: &SlotState,
    ) -> Result<SlotView, ServerError> {
        let record = slot.current();
        let packed = self.served.packs().head(record)?;
        let policy = facts::policy(&base_model.record)?;
        let facts = facts::generation(record)?;
        Ok(SlotView {
            budget: facts.budget.map(|own| policy.slot_budget(own)),
            is_pinned: policy.pinned.contains(&record.slot.0),
            earlier: earlier_generations(slot).collect(),
            facts,
            members: members(slot, usize::try_from(record.members).unwrap_or(usize::MAX)),
            path: match &packed {
                None => Some(self.reader.export_path(record, PEFT)),
                Some(_) => self.served.known_path(record, &Wanted::Slot),
            },
            packed,
            record: record.clone(),
        })
    }

    /// Where a task is served from. Blocks on the disk where the task's own adapter is yet to be
    /// made.
    ///
    /// # Errors
    /// [`ServerError::NotFound`], and what making the adapter may meet.
    pub fn resolve(
        &self,
        base_model: &BaseModelName,
        task: &TaskName,
    ) -> Result<Resolved, ServerError> {
        let mut resolved = self.try_resolve(base_model, task);
        for _ in 0..LOOKS {
            match &resolved {
                // It is read once more, and given up if it is damaged: then there may be another.
                Err(error) if Doubts::is_reason(error) => {
                    self.look_into(base_model, &ExportOf::Task(task.clone()), None)?;
                }
                // The generation that was current a moment ago may have gone.
                Err(ServerError::Read(_) | ServerError::Export(_)) => {}
                Ok(_) | Err(_) => break,
            }
            resolved = self.try_resolve(base_model, task);
        }
        resolved
    }

    /// Whether [`Serving::resolve`] answers from memory: nothing has to be made.
    pub fn resolves_at_once(&self, base_model: &BaseModelName, task: &TaskName) -> bool {
        let Ok(base_model) = self.base_model(base_model) else {
            return true;
        };
        let current = base_model
            .tasks
            .get(task)
            .and_then(|task| slot_of(&base_model, task.slot).ok())
            .map(|slot| slot.current());
        current.is_none_or(|current| {
            !packs::is_packed(current).unwrap_or(false)
                || self.served.packs().knows(current)
                    && self
                        .served
                        .known_path(current, &Wanted::Task(task.clone()))
                        .is_some()
        })
    }

    fn try_resolve(
        &self,
        base_model: &BaseModelName,
        task: &TaskName,
    ) -> Result<Resolved, ServerError> {
        let base_model = self.base_model(base_model)?;
        let found = base_model.tasks.get(task);
        let record =
            found.ok_or_else(|| ServerError::unknown_task(&base_model.record.name, task))?;
        let current = slot_of(&base_model, record.slot)?.current();
        let (path, digest, fidelity) = match self.served.packs().head(current)? {
            None => (self.reader.export_path(current, PEFT), current.digest, None),
            Some(packed) => {
                let wanted = Wanted::Task(task.clone());
                let (path, digest) = self.served.locate(&base_model.record, current, &wanted)?;
                (path, digest, packs::fidelity(&packed, task.as_str()))
            }
        };
        Ok(Resolved {
            slot: current.slot,
            generation: current.generation,
            path,
            digest,
            fidelity,
        })
    }

    /// Opens the files of a generation in one format; `None` is the newest. Blocks on the disk.
    ///
    /// # Errors
    /// [`ServerError::NotFound`] if the slot is empty or the generation gone or not there yet; a
    /// file that is damaged.
    pub fn open_export(
        &self,
        base_model: &BaseModelName,
        of: &ExportOf,
        generation: Option<Generation>,
        format: Format,
    ) -> Result<(GenerationRecord, Vec<ExportedFile>), ServerError> {
        let opened = self.try_open_export(base_model, of, generation, format);
        // A newer generation may have replaced the one that was current a moment ago, and its
        // grace may be zero. One more look at the newer view settles that.
        match opened {
            Err(error) if Doubts::is_reason(&error) => {
                self.look_into(base_model, of, generation)?;
                self.try_open_export(base_model, of, generation, format)
            }
            Err(ServerError::Read(_) | ServerError::Export(_)) if generation.is_none() => {
                self.try_open_export(base_model, of, None, format)
            }
            opened => opened,
        }
    }

    /// Looks into the generation that an answer came from.
    fn look_into(
        &self,
        base_model: &BaseModelName,
        of: &ExportOf,
        generation: Option<Generation>,
    ) -> Result<(), ServerError> {
        let base_model = self.base_model(base_model)?;
        let slot = match of {
            ExportOf::Slot(slot) => Some(*slot),
            ExportOf::Task(task) => base_model.tasks.get(task).map(|task| task.slot),
        };
        let Some(state) = slot.and_then(|slot| base_model.slots.get(&slot)) else {
            return Ok(());
        };
        let record = match generation {
            None => Some(state.current()),
            Some(wanted) => state.generations.get(&wanted).map(Arc::as_ref),
        };
        if let Some(record) = record {
            self.doubts.look_into(record)?;
        }
        Ok(())
    }

    /// Deals with bytes of an export that are not those that were announced.
    ///
    /// # Errors
    /// If the catalog cannot be written.
    pub fn distrust(&self, record: &GenerationRecord) -> Result<(), ServerError> {
        // They may have been made on demand: then they are made again.
        self.reader.forget_derived(record)?;
        self.doubts.look_into(record).map(drop)
    }

    fn try_open_export(
        &self,
        base_model: &BaseModelName,
        of: &ExportOf,
        generation: Option<Generation>,
        format: Format,
    ) -> Result<(GenerationRecord, Vec<ExportedFile>), ServerError> {
        let base_model = self.base_model(base_model)?;
        let (slot, wanted) = match of {
            ExportOf::Slot(slot) => (*slot, Wanted::Slot),
            ExportOf::Task(task) => {
                let found = base_model.tasks.get(task);
                let record = found
                    .ok_or_else(|| ServerError::unknown_task(&base_model.record.name, task))?;
                (record.slot, Wanted::Task(task.clone()))
            }
        };
        let state = slot_of(&base_model, slot)?;
        let current = state.current();
        let unknown = |wanted| ServerError::UnknownGeneration {
            base_model: base_model.record.name.clone(),
            slot,
            generation: wanted,
            current: current.generation,
        };
        let record = match generation {
            None => current,
            Some(wanted) => state
                .generations
                .get(&wanted)
                .ok_or_else(|| unknown(wanted))?,
        };
        match self.open_files(&base_model, record, &wanted, format) {
            Ok(files) => Ok((record.clone(), files)),
            // A superseded generation without files has come to the end of its grace just now.
            Err(ServerError::Read(
                ReadError::TensorMissing { .. } | ReadError::ExportMissing { .. },
            )) if record.generation != current.generation => Err(unknown(record.generation)),
            Err(error) => Err(error),
        }
    }

    fn open_files(
        &self,
        base_model: &BaseModelState,
        record: &GenerationRecord,
        wanted: &Wanted,
        format: Format,
    ) -> Result<Vec<ExportedFile>, ServerError> {
        let base_model = &base_model.record;
        // A slot that is one adapter serves all its tasks with it.
        let wanted = if packs::is_packed(record)? {
            wanted
        } else {
            &Wanted::Slot
        };
        match Foreign::of(format) {
            None if packs::is_packed(record)? => self.served.open(base_model, record, wanted),
            None => {
                if !self.reader.has_export(record, PEFT) {
                    exports::publish(&self.reader, base_model, record)?;
                }
                Ok(self.reader.open_export(record, PEFT)?)
            }
            // One that is published for runtimes need not be made again.
            Some(foreign) if self.reader.has_export(record, foreign.name()) => {
                Ok(self.reader.open_export(record, foreign.name())?)
            }
            Some(foreign) => self
                .served
                .open_converted(base_model, record, wanted, foreign),
        }
    }
}

fn slot_of(base_model: &BaseModelState, slot: SlotIndex) -> Result<&Arc<SlotState>, ServerError> {
    base_model
        .slots
        .get(&slot)
        .ok_or_else(|| ServerError::unknown_slot(&base_model.record.name, slot))
}

/// The generations before the current one that are kept, the newest first. Whether a slot can go
/// back to one depends on what has become of its members since.
pub fn earlier_generations(slot: &SlotState) -> impl Iterator<Item = Generation> + '_ {
    let current = slot.current().generation;
    let generations = slot.generations.keys().rev().copied();
    generations.filter(move |generation| *generation < current)
}

/// The first `count` members of a slot with their weights when it had so many.
pub fn members(slot: &SlotState, count: usize) -> Vec<WeightedMember> {
    let weights = slot.weights(count);
    slot.members
        .iter()
        .map(|member| member.task.clone())
        .zip(weights)
        .collect()
}
