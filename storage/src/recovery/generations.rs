//! Step 4 of recovery: the catalog and the manifests agree.

use std::collections::{BTreeMap, BTreeSet};

use super::base_models::is_later;
use super::survey::{SlotKey, read};
use super::{Recovery, set_aside};
use crate::catalog::Catalog;
use crate::durable;
use crate::error::OpenError;
use crate::ids::{BaseModelName, Generation, JobId, Revision, SlotIndex, UnixMillis};
use crate::manifest::{Manifest, MemberEntry};
use crate::records::{GenerationRecord, JobRecord};
use crate::sealed;

/// A generation, or the emptying of a slot, that has a manifest, but no record.
struct Candidate {
    /// Without its member list, unless it is the newest of its slot: no other will need it, or else
    /// it is read again.
    manifest: Manifest,
    members: u32,
}

impl Candidate {
    fn slot_key(&self) -> SlotKey {
        (self.manifest.base_model.clone(), self.manifest.slot)
    }
}

impl Recovery<'_> {
    /// Takes in what the catalog lacks, gives up what has lost its tensors, and writes missing
    /// manifests again.
    pub(super) fn recover_generations(&mut self) -> Result<(), OpenError> {
        for path in &self.survey.damaged_manifests {
            self.report
                .notes
                .push(format!("{} is damaged", path.display()));
        }
        let mut whole = Vec::new();
        let mut newest = BTreeMap::new();
        for (revision, commit) in self.find_candidates()? {
            if !self.is_whole(&commit) || !self.has_tensors(&commit)? {
                let job = commit.first().map(|candidate| candidate.manifest.job.id);
                let job = job.unwrap_or_default();
                self.note(format!(
                    "dropped the unfinished commit of job {job}; it runs again"
                ));
                continue;
            }
            self.unrecorded += u32::from(!self.settings_taken.contains(&revision));
            for candidate in &commit {
                newest.insert(candidate.slot_key(), candidate.manifest.generation);
            }
            whole.extend(commit);
        }
        let mut taken_in = Vec::new();
        for candidate in whole {
            let is_newest =
                newest.get(&candidate.slot_key()) == Some(&candidate.manifest.generation);
            taken_in.extend(self.take_in(candidate, is_newest)?);
        }
        self.part_members()?;
        self.report.generations_recovered = u32::try_from(taken_in.len()).unwrap_or(u32::MAX);
        self.give_up_lost_tensors(&taken_in)?;
        self.write_missing_manifests()
    }

    fn find_candidates(&mut self) -> Result<BTreeMap<Revision, Vec<Candidate>>, OpenError> {
        let mut candidates: BTreeMap<Revision, Vec<Candidate>> = BTreeMap::new();
        for (key, manifests) in &self.survey.manifests {
            let (name, slot) = key;
            let current = self.before.number(name, *slot);
            let newer = manifests
                .iter()
                .filter(|&(&g, _)| current.is_none_or(|c| g > c));
            for (&generation, path) in newer {
                let Some(mut manifest) = self.read_manifest(key, generation, path)? else {
                    self.note(format!(
                        "{} is damaged or not of this state",
                        path.display()
                    ));
                    continue;
                };
                let members = u32::try_from(manifest.members.len()).unwrap_or(u32::MAX);
                if manifests.keys().next_back() != Some(&generation) {
                    manifest.members = Vec::new();
                }
                let commit = candidates.entry(manifest.revision).or_default();
                commit.push(Candidate { manifest, members });
            }
        }
        Ok(candidates)
    }

    /// The manifest at `path`, if it is what its place says.
    pub(super) fn read_manifest(
        &self,
        (name, slot): &SlotKey,
        generation: Generation,
        path: &std::path::Path,
    ) -> Result<Option<Manifest>, OpenError> {
        let Some(state) = self.transaction.catalog().base_model(name) else {
            return Ok(None);
        };
        Ok(read::<Manifest>(path)?.filter(|manifest| {
            manifest.base_model == *name
                && manifest.slot == *slot
                && manifest.generation == generation
                && manifest.base_model_fingerprint == state.registered_as()
        }))
    }

    /// Whether every slot of a commit has its manifest, or had it and has moved on.
    fn is_whole(&self, commit: &[Candidate]) -> bool {
        let Some(Candidate { manifest, .. }) = commit.first() else {
            return false;
        };
        manifest.commit.iter().all(|&(slot, generation)| {
            let base_model = &manifest.base_model;
            let manifests = self.survey.manifests.get(&(base_model.clone(), slot));
            let on_file = manifests.and_then(|of_slot| of_slot.keys().next_back());
            let recorded = self.before.number(base_model, slot);
            on_file.is_some_and(|&newest| newest >= generation)
                || recorded.is_some_and(|current| current >= generation)
        })
    }

    /// Whether the tensor files of a commit are what its manifests say. When the whole catalog is
    /// made again this is not asked here: then one bad file must not take its siblings with it.
    fn has_tensors(&self, commit: &[Candidate]) -> Result<bool, OpenError> {
        if self.rebuilding {
            return Ok(true);
        }
        for Candidate { manifest, .. } in commit {
            if let Some(tensor) = &manifest.tensor
                && !self.is_tensor_whole(&tensor.digest, tensor.bytes)?
            {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Records a generation, or that a slot was emptied, as its commit would have. The newest of a
    /// slot brings its members.
    fn take_in(
        &mut self,
        candidate: Candidate,
        is_newest: bool,
    ) -> Result<Option<GenerationRecord>, OpenError> {
        let key = candidate.slot_key();
        let Candidate {
            mut manifest,
            members,
        } = candidate;
        let (base_model, slot) = &key;
        let known = self.transaction.base_model_state(base_model);
        if let Some(settings) = &manifest.settings
            && is_later(manifest.revision, known)
        {
            self.transaction
                .set_settings(base_model, settings.clone(), manifest.revision)?;
        }
        let since = manifest.reopens.unwrap_or(manifest.committed);
        self.transaction.supersede(base_model, *slot, since)?;
        let Some(tensor) = &manifest.tensor else {
            self.transaction.empty_slot(manifest.emptied())?;
            self.put_job_of(manifest)?;
            return Ok(None);
        };
        self.transaction.open_again(base_model, *slot);
        if is_newest {
            let mut entries = std::mem::take(&mut manifest.members);
            if entries.is_empty() {
                entries = self.entries(&key, manifest.generation)?;
            }
            for entry in &entries {
                // Its own manifest may have gone already, but that it is here says that it is done.
                let known = self.transaction.catalog().task(base_model, &entry.task);
                let is_known = known.is_some_and(|known| known.job == entry.job);
                if entry.job != manifest.job.id && !is_known {
                    let done = JobRecord::of_task(&entry.task(base_model, *slot));
                    self.put_done_job(done)?;
                }
            }
            self.transaction
                .replace_members(base_model, *slot, &entries)?;
        }
        let record = manifest.record(tensor, members);
        self.transaction.put_generation(record.clone())?;
        self.put_job_of(manifest)?;
        Ok(Some(record))
    }

    /// Records the job of a manifest, unless nothing but its number was known any more.
    fn put_job_of(&mut self, manifest: Manifest) -> Result<(), OpenError> {
        if manifest.job_dropped {
            self.transaction.skip_jobs_to(manifest.job.id);
        } else {
            self.transaction.put_job(manifest.job)?;
        }
        Ok(())
    }

    /// The member list in the manifest of a generation; none if there is no such manifest.
    pub(super) fn entries(
        &self,
        key: &SlotKey,
        generation: Generation,
    ) -> Result<Vec<MemberEntry>, OpenError> {
        let path = self
            .survey
            .manifests
            .get(key)
            .and_then(|manifests| manifests.get(&generation));
        let manifest = match path {
            Some(path) => self.read_manifest(key, generation, path)?,
            None => None,
        };
        Ok(manifest
            .map(|manifest| manifest.members)
            .unwrap_or_default())
    }

    /// A task that is in two slots belongs to the one that named it last. Only the loss of the
    /// catalog and of a manifest together leads to that.
    fn part_members(&mut self) -> Result<(), OpenError> {
        let mut parted = BTreeSet::new();
        for (name, state) in &self.transaction.catalog().base_models {
            for (&slot, members) in &state.slots {
                let is_here = |task| state.tasks.get(task).is_some_and(|task| task.slot == slot);
                if !members.members.iter().all(|member| is_here(&member.task)) {
                    parted.insert((name.clone(), slot));
                }
            }
        }
        for (base_model, slot) in parted {
            let state = self.transaction.base_model_state(&base_model);
            let Some(current) = state.slots.get(&slot) else {
                continue;
            };
            let entries: Vec<MemberEntry> = current
                .members
                .iter()
                .filter_map(|member| {
                    let task = state.tasks.get(&member.task)?;
                    (task.slot == slot).then(|| MemberEntry::new(member, task))
                })
                .collect();
            let record = GenerationRecord {
                members: u32::try_from(entries.len()).unwrap_or(u32::MAX),
                ..current.current().clone()
            };
            self.transaction
                .replace_members(&base_model, slot, &entries)?;
            self.transaction.put_generation(record)?;
            self.note(format!(
                "slot {slot} of {base_model} leaves members to the slots that name them since"
            ));
        }
        Ok(())
    }

    fn put_done_job(&mut self, done: JobRecord) -> Result<(), OpenError> {
        let known = self.transaction.catalog().jobs.get(&done.id);
        if known.is_none_or(|job| !job.state.is_finished()) {
            self.transaction.put_job(done)?;
        }
        Ok(())
    }

    /// Writes the manifests of recorded generations and emptied slots that have none.
    fn write_missing_manifests(&mut self) -> Result<(), OpenError> {
        let has_manifest = |base_model: &BaseModelName, slot, generation: &Generation| {
            let manifests = self.survey.manifests.get(&(base_model.clone(), slot));
            manifests.is_some_and(|found| found.contains_key(generation))
        };
        let catalog = self.transaction.catalog();
        let mut missing = Vec::new();
        let mut lost = Vec::new();
        for record in catalog.generations() {
            let (base_model, slot) = (&record.base_model, record.slot);
            if has_manifest(base_model, slot, &record.generation) {
                continue;
            }
            let state = self.transaction.base_model_state(base_model);
            let is_known = state
                .slots
                .get(&slot)
                .is_some_and(|slot| slot.members_of(record).is_some());
            if !is_known {
                lost.push((base_model.clone(), slot, record.generation));
                continue;
            }
            let (job, job_dropped) = find_job(catalog, base_model, record.job, record.committed);
            let siblings = siblings(catalog, base_model, record.revision);
            missing.push(Manifest {
                job_dropped,
                ..Manifest::new(record, state, &job, siblings)
            });
        }
        for record in catalog.emptied_slots() {
            let (base_model, slot) = (&record.base_model, record.slot);
            if has_manifest(base_model, slot, &record.generation) {
                continue;
            }
            let state = self.transaction.base_model_state(base_model);
            let siblings = siblings(catalog, base_model, record.revision);
            let (job, job_dropped) = find_job(catalog, base_model, record.job, record.committed);
            missing.push(Manifest {
                job_dropped,
                ..Manifest::of_emptied(record, state, &job, siblings)
            });
        }
        let layout = &self.shared.layout;
        for (base_model, slot, generation) in lost {
            let path = layout.manifest(&base_model, slot, generation);
            self.note(format!(
                "{} is missing and cannot be made again",
                path.display()
            ));
        }
        for manifest in missing {
            let path = layout.manifest(&manifest.base_model, manifest.slot, manifest.generation);
            if durable::exists(&path) {
                let aside = set_aside(self.shared, &path, self.now)?;
                self.note(format!("moved the damaged one to {}", aside.display()));
            }
            let directory = path.parent().unwrap_or(&path);
            self.shared
                .disk
                .ensure_directory(layout.root(), directory)?;
            let temporary = layout.temporary("manifest");
            self.shared
                .disk
                .put_durably(&temporary, &path, &sealed::seal(&manifest))?;
            self.note(format!(
                "wrote {} again, which was missing or damaged",
                path.display()
            ));
        }
        Ok(())
    }
}

/// The job of a generation, or what is left to say of it; and whether that is its number only.
pub(crate) fn find_job(
    catalog: &Catalog,
    base_model: &BaseModelName,
    id: JobId,
    committed: UnixMillis,
) -> (JobRecord, bool) {
    if let Some(job) = catalog.jobs.get(&id) {
        return (JobRecord::clone(job), false);
    }
    let state = catalog.base_model(base_model);
    let mut tasks = state.into_iter().flat_map(|state| state.tasks.values());
    match tasks.find(|task| task.job == id) {
        Some(task) => (JobRecord::of_task(task), false),
        None => (JobRecord::dropped(base_model, id, committed), true),
    }
}

/// All live generations and emptied slots of the same commit.
pub(crate) fn siblings(
    catalog: &Catalog,
    base_model: &BaseModelName,
    revision: Revision,
) -> Vec<(SlotIndex, Generation)> {
    let generations = catalog
        .generations()
        .filter(|other| other.base_model == *base_model && other.revision == revision)
        .map(|other| (other.slot, other.generation));
    let emptied = catalog
        .emptied_slots()
        .filter(|other| other.base_model == *base_model && other.revision == revision)
        .map(|other| (other.slot, other.generation));
    generations.chain(emptied).collect()
}
