//! Step 4 of recovery: the catalog and the manifests agree.

use std::collections::BTreeMap;

use super::Recovery;
use super::survey::{SlotKey, read};
use crate::catalog::Catalog;
use crate::error::OpenError;
use crate::ids::{Generation, JobId, Revision, SlotIndex};
use crate::manifest::{Manifest, MemberEntry};
use crate::records::{GenerationRecord, JobRecord};
use crate::sealed;

/// A generation that has a manifest, but no record.
struct Candidate {
    /// Without its member list, which only the newest of a slot needs.
    manifest: Manifest,
    members: u32,
}

/// The generations that have manifests and no records.
#[derive(Default)]
struct Candidates {
    by_commit: BTreeMap<Revision, Vec<Candidate>>,
    /// The member list of the newest manifest of each slot. Those of older ones begin it.
    members: BTreeMap<SlotKey, Vec<MemberEntry>>,
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
        let Candidates { by_commit, members } = self.find_candidates()?;
        let mut taken_in = Vec::new();
        for (_, commit) in by_commit {
            if !self.is_whole(&commit) || !self.has_tensors(&commit)? {
                let job = commit.first().map(|candidate| candidate.manifest.job.id);
                let job = job.unwrap_or_default();
                self.note(format!(
                    "dropped the unfinished commit of job {job}; it runs again"
                ));
                continue;
            }
            self.unrecorded += 1;
            for candidate in commit {
                let key = (
                    candidate.manifest.base_model.clone(),
                    candidate.manifest.slot,
                );
                let entries = members.get(&key).map(Vec::as_slice).unwrap_or_default();
                taken_in.push(self.take_in(candidate, entries)?);
            }
        }
        self.report.generations_recovered = u32::try_from(taken_in.len()).unwrap_or(u32::MAX);
        self.give_up_lost_tensors(&taken_in)?;
        self.write_missing_manifests()
    }

    fn find_candidates(&mut self) -> Result<Candidates, OpenError> {
        let mut candidates = Candidates::default();
        for (key, manifests) in &self.survey.manifests {
            let (name, slot) = key;
            let current = self
                .before
                .slot(name, *slot)
                .map(|slot| slot.current().generation);
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
                let entries = std::mem::take(&mut manifest.members);
                let members = u32::try_from(entries.len()).unwrap_or(u32::MAX);
                // In rising order, so the newest one stays.
                candidates.members.insert(key.clone(), entries);
                let commit = candidates.by_commit.entry(manifest.revision).or_default();
                commit.push(Candidate { manifest, members });
            }
        }
        Ok(candidates)
    }

    /// The manifest at `path`, if it is what its place says.
    fn read_manifest(
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
                && manifest.base_model_fingerprint == state.record.fingerprint()
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
            let recorded = self
                .before
                .slot(base_model, slot)
                .map(|slot| slot.current().generation);
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
            let tensor = &manifest.tensor;
            if !self.is_tensor_whole(&tensor.digest, tensor.bytes)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Records a generation as its commit would have.
    fn take_in(
        &mut self,
        candidate: Candidate,
        entries: &[MemberEntry],
    ) -> Result<GenerationRecord, OpenError> {
        let Candidate { manifest, members } = candidate;
        let (base_model, slot) = (&manifest.base_model, manifest.slot);
        self.transaction
            .supersede(base_model, slot, manifest.committed)?;
        let known = self.transaction.catalog().slot(base_model, slot);
        let known = known.map_or(0, |slot| slot.members.len());
        let count = usize::try_from(members).unwrap_or(usize::MAX);
        for entry in entries.iter().take(count).skip(known) {
            self.transaction.push_member(base_model, slot, entry)?;
            // Its own manifest may have gone already, but that it is here says that it is done.
            if entry.job != manifest.job.id {
                let done = JobRecord::of_task(&entry.task(base_model, slot));
                self.put_done_job(done)?;
            }
        }
        let record = manifest.record(members);
        self.transaction.put_generation(record.clone())?;
        self.transaction.put_job(manifest.job)?;
        Ok(record)
    }

    fn put_done_job(&mut self, done: JobRecord) -> Result<(), OpenError> {
        let known = self.transaction.catalog().jobs.get(&done.id);
        if known.is_none_or(|job| !job.state.is_finished()) {
            self.transaction.put_job(done)?;
        }
        Ok(())
    }

    /// Writes the manifests of recorded generations that have none.
    fn write_missing_manifests(&mut self) -> Result<(), OpenError> {
        let layout = &self.shared.layout;
        let mut missing = Vec::new();
        for record in self.transaction.catalog().generations() {
            let key = (record.base_model.clone(), record.slot);
            let manifests = self.survey.manifests.get(&key);
            if manifests.is_none_or(|found| !found.contains_key(&record.generation)) {
                missing.push(GenerationRecord::clone(record));
            }
        }
        for record in missing {
            let path = layout.manifest(&record.base_model, record.slot, record.generation);
            let catalog = self.transaction.catalog();
            let Some(job) = find_job(catalog, &record) else {
                self.note(format!(
                    "{} is missing and cannot be made again",
                    path.display()
                ));
                continue;
            };
            let state = self.transaction.base_model_state(&record.base_model);
            let manifest = Manifest::new(&record, state, &job, siblings(catalog, &record));
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

/// The job that made a generation, or what is left to say of it.
fn find_job(catalog: &Catalog, record: &GenerationRecord) -> Option<JobRecord> {
    let id: JobId = record.job;
    if let Some(job) = catalog.jobs.get(&id) {
        return Some(JobRecord::clone(job));
    }
    let mut tasks = catalog.base_model(&record.base_model)?.tasks.values();
    tasks
        .find(|task| task.job == id)
        .map(|task| JobRecord::of_task(task))
}

/// All live generations of the same commit.
fn siblings(catalog: &Catalog, record: &GenerationRecord) -> Vec<(SlotIndex, Generation)> {
    catalog
        .generations()
        .filter(|other| other.base_model == record.base_model && other.revision == record.revision)
        .map(|other| (other.slot, other.generation))
        .collect()
}
