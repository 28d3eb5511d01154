//! The catalog out of the database's records.
//!
//! Used by recovery. What holds: what loads is complete and consistent in itself; anything else is
//! a damage, and the whole catalog is then made again from the files beside it.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::catalog::{BaseModelState, Catalog, EmptiedSlot};
use crate::catalog_store::CatalogStore;
use crate::error::CatalogError;
use crate::ids::{BaseModelName, SlotIndex};
use crate::manifest::MemberEntry;
use crate::records::{BaseModelRecord, JobRecord};
use crate::sealed::SealError;
use crate::stored::{BaseModelHead, Position, Stored};

/// What the database holds.
#[derive(Debug)]
pub(crate) enum Loaded {
    /// No record at all.
    Empty,
    /// A catalog.
    Catalog(Catalog),
    /// Something that no commit has left; in words.
    Damaged(String),
    /// A record of a later version.
    NewerSchema(u16),
}

/// Reads all records.
pub(crate) fn load(store: &dyn CatalogStore) -> Result<Loaded, CatalogError> {
    let mut records = Vec::new();
    let mut problem = None;
    store.scan(&mut |key, value| match Stored::decode(key, value) {
        Ok(record) => records.push(record),
        Err(SealError::NewerSchema(schema)) => problem = Some(Loaded::NewerSchema(schema)),
        Err(SealError::Damaged) if problem.is_none() => {
            let key = String::from_utf8_lossy(key);
            problem = Some(Loaded::Damaged(format!("the record {key:?} is damaged")));
        }
        Err(SealError::Damaged) => {}
    })?;
    if let Some(problem) = problem {
        return Ok(problem);
    }
    if records.is_empty() {
        return Ok(Loaded::Empty);
    }
    Ok(assemble(records).map_or_else(|what| Loaded::Damaged(what.to_owned()), Loaded::Catalog))
}

/// Records by what they belong to.
#[derive(Default)]
struct Parts {
    position: Option<Position>,
    heads: Vec<BaseModelHead>,
    configs: BTreeMap<BaseModelName, BTreeMap<u32, Vec<u8>>>,
    members: BTreeMap<(BaseModelName, SlotIndex), BTreeMap<u32, MemberEntry>>,
    jobs: Vec<JobRecord>,
    results: BTreeMap<crate::ids::JobId, String>,
}

/// The catalog that records make together; what is wrong with them, in words, if they make none.
pub(crate) fn assemble(records: Vec<Stored>) -> Result<Catalog, &'static str> {
    let mut catalog = Catalog::default();
    let mut parts = Parts::default();
    let mut generations = Vec::new();
    let mut emptied = Vec::new();
    for record in records {
        match record {
            Stored::Position(position) => parts.position = Some(position),
            Stored::BaseModel(head) => parts.heads.push(head),
            Stored::BaseModelConfig(name, piece, bytes) => {
                parts.configs.entry(name).or_default().insert(piece, bytes);
            }
            Stored::Generation(record) => generations.push(Arc::new(record)),
            Stored::Emptied(record) => emptied.push(record),
            Stored::Member(base_model, slot, place, entry) => {
                parts
                    .members
                    .entry((base_model, slot))
                    .or_default()
                    .insert(place, entry);
            }
            Stored::Job(job) => parts.jobs.push(job),
            Stored::JobResult(id, text) => drop(parts.results.insert(id, text)),
            Stored::Event(event) => catalog.events.push_back(Arc::new(event)),
        }
    }
    let position = parts.position.ok_or("its position is missing")?;
    catalog.revision = position.revision;
    catalog.last_job = position.last_job;

    let mut base_models = base_models(&mut parts)?;
    for record in emptied {
        let base_model = base_models
            .get_mut(&record.base_model)
            .ok_or("an emptied slot has no base model")?;
        let (slot, generations) = (record.slot, BTreeMap::new());
        let state = EmptiedSlot {
            record,
            generations,
        };
        base_model.emptied.insert(slot, Arc::new(state));
    }
    for record in generations {
        let base_model = base_models
            .get_mut(&record.base_model)
            .ok_or("a generation has no base model")?;
        if let Some(slot) = base_model.emptied.get_mut(&record.slot) {
            Arc::make_mut(slot)
                .generations
                .insert(record.generation, record);
            continue;
        }
        let slot = base_model.slots.entry(record.slot).or_default();
        Arc::make_mut(slot)
            .generations
            .insert(record.generation, record);
    }
    for ((name, slot), entries) in parts.members {
        let base_model = base_models
            .get_mut(&name)
            .ok_or("a member has no base model")?;
        add_members(base_model, &name, slot, entries)?;
    }
    for base_model in base_models.values() {
        check_slots(base_model)?;
    }
    catalog.base_models = base_models
        .into_iter()
        .map(|(name, state)| (name, Arc::new(state)))
        .collect();

    for mut job in parts.jobs {
        job.result = parts.results.remove(&job.id);
        if job.id > catalog.last_job {
            return Err("a job is younger than the catalog");
        }
        catalog.jobs.insert(job.id, Arc::new(job));
    }
    if !parts.results.is_empty() {
        return Err("a result has no job");
    }
    Ok(catalog)
}

fn base_models(parts: &mut Parts) -> Result<BTreeMap<BaseModelName, BaseModelState>, &'static str> {
    let mut base_models = BTreeMap::new();
    for head in std::mem::take(&mut parts.heads) {
        let pieces = parts.configs.remove(&head.name).unwrap_or_default();
        let config = pieces.into_values().flatten().collect();
        let record = BaseModelRecord {
            name: head.name.clone(),
            config: String::from_utf8(config).map_err(|_| "a base model's config is no text")?,
            settings: head.settings,
            served_as: head.served_as,
            created: head.created,
        };
        // Finds a piece that is missing or out of place.
        if record.fingerprint() != head.fingerprint {
            return Err("a base model's config is not the one registered");
        }
        let state = BaseModelState {
            record: Arc::new(record),
            settings_change: head.settings_change,
            slots: BTreeMap::new(),
            emptied: BTreeMap::new(),
            tasks: BTreeMap::new(),
        };
        base_models.insert(head.name, state);
    }
    if parts.configs.is_empty() {
        Ok(base_models)
    } else {
        Err("a config has no base model")
    }
}

fn add_members(
    base_model: &mut BaseModelState,
    name: &BaseModelName,
    slot: SlotIndex,
    entries: BTreeMap<u32, MemberEntry>,
) -> Result<(), &'static str> {
    let state = base_model
        .slots
        .get_mut(&slot)
        .ok_or("a member has no slot")?;
    let members = &mut Arc::make_mut(state).members;
    for (expected, (place, entry)) in entries.into_iter().enumerate() {
        if usize::try_from(place) != Ok(expected) {
            return Err("a slot's members have a gap");
        }
        members.push(Arc::new(entry.member()));
        let task = Arc::new(entry.task(name, slot));
        if base_model.tasks.insert(entry.task, task).is_some() {
            return Err("a task is in two slots");
        }
    }
    Ok(())
}

fn check_slots(base_model: &BaseModelState) -> Result<(), &'static str> {
    for slot in base_model.slots.values() {
        let current = slot.current();
        if usize::try_from(current.members) != Ok(slot.members.len()) {
            return Err("a slot has another number of members than its generation says");
        }
        if current.superseded.is_some() {
            return Err("a slot's last generation is superseded by none");
        }
    }
    for slot in base_model.emptied.values() {
        for record in slot.generations.values() {
            if record.generation >= slot.record.generation || record.superseded.is_none() {
                return Err("an emptied slot has a generation");
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
