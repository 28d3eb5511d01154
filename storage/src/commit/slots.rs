//! The good end of a job: new generations of slots, and slots that are emptied.

use std::sync::Arc;

use super::changes::{
    Commit, MembersChange, NextGeneration, PlacedMember, Rearrangement, SlotOutcome, SlotStep,
};
use super::doubt::Traces;
use super::{Committer, Room};
use crate::base_model_file::BaseModelFile;
use crate::catalog::Catalog;
use crate::durable;
use crate::error::{CommitDefect, CommitError};
use crate::exports;
use crate::failpoint;
use crate::ids::{BaseModelName, Generation, SlotIndex, TaskName, UnixMillis};
use crate::layout::CURRENT;
use crate::manifest::{Manifest, MemberEntry};
use crate::records::{EmptiedRecord, Event, GenerationRecord, JobRecord, JobState};
use crate::sealed;
use crate::transaction::Transaction;

/// A step with the number that it moves its slot to.
struct Numbered<'a> {
    step: &'a SlotStep,
    generation: Generation,
}

impl Committer {
    /// Commits the outcome of a running job: all of its changes or none. Durable on return; gives
    /// the catalog with the new generations.
    ///
    /// # Errors
    /// As [`Committer::rearrange`].
    pub fn commit(&mut self, commit: Commit, now: UnixMillis) -> Result<Arc<Catalog>, CommitError> {
        self.rearrange(commit.into(), now)
    }

    /// Commits the outcome of a running job: all of its steps or none. Durable on return; gives
    /// the catalog with the new generations.
    ///
    /// 1. The job is running, the slots are at the generations that the decision was made for,
    ///    and the tensor files are there, which are durable since they have their names.
    /// 2. The manifest of each new generation, and of each emptied slot, is written.
    /// 3. The manifests' names are durable. From here on a start finds the whole commit, whatever
    ///    happens to the catalog. Before, it finds a part at most, and drops it.
    /// 4. If the settings change, the base model's file is replaced, durably. A start that finds it,
    ///    or a manifest with the settings, takes them from there.
    /// 5. The catalog moves in one batch: generations, members, tasks, settings, the job, the event.
    ///    That is made durable, and then visible.
    /// 6. The staged files go, and so does what named emptied slots: the links to their newest
    ///    exports, and the manifests of those that were opened again.
    ///
    /// # Errors
    /// [`CommitError::GenerationMoved`] if a slot has moved, [`CommitError::TensorMissing`],
    /// [`CommitError::JobState`], [`CommitError::Invalid`] if the commit makes no sense,
    /// [`CommitError::Record`] if a text is too long, and what any write may meet. Nothing is
    /// changed then, unless the state is read-only from now on.
    pub fn rearrange(
        &mut self,
        rearrangement: Rearrangement,
        now: UnixMillis,
    ) -> Result<Arc<Catalog>, CommitError> {
        let committed = self.try_rearrange(&rearrangement, now);
        // The tensor files of a commit that was refused are nobody's from here on.
        drop(rearrangement);
        self.remove_returned_tensors();
        committed.map(|()| self.catalog())
    }

    fn try_rearrange(
        &mut self,
        rearrangement: &Rearrangement,
        now: UnixMillis,
    ) -> Result<(), CommitError> {
        let Rearrangement {
            job,
            steps,
            settings,
            result,
        } = rearrangement;
        self.check_writable()?;
        // 1.
        let job = self.job_in_state(*job, JobState::Running)?;
        let done = JobRecord {
            state: JobState::Done,
            ended: Some(now),
            result: Some(result.clone()),
            ..JobRecord::clone(job)
        };
        self.check_steps(&done, steps)?;
        let before = self.catalog();
        let mut transaction = self.begin(now);
        let done = transaction.put_job(done)?;
        let mut manifests = self.plan(&mut transaction, &done, steps, now)?;
        if let Some(settings) = settings {
            let revision = transaction.catalog().revision;
            transaction.set_settings(&done.base_model, settings.clone(), revision)?;
            for manifest in &mut manifests {
                manifest.settings = Some(settings.clone());
            }
        }
        let file = BaseModelFile::of(transaction.base_model_state(&done.base_model));
        let slots = manifests
            .first()
            .map(|manifest| manifest.commit.clone())
            .unwrap_or_default();
        let event = Event::SlotsCommitted {
            base_model: done.base_model.clone(),
            job: done.id,
            slots,
        };
        let prepared = self.prepare(transaction, event, Some(done.id), Room::FILES)?;
        failpoint::hit("commit.checked");
        // 2. and 3.
        self.write_manifests(&manifests)?;
        // 4.
        if settings.is_some() {
            if let Err(error) = file.write(&self.shared) {
                self.undo_manifests(&manifests);
                return Err(error.into());
            }
            failpoint::hit("commit.settings_durable");
        }
        // 5.
        let traces = Traces {
            manifests: manifests.iter().map(|it| self.manifest_path(it)).collect(),
            base_model: settings.as_ref().map(|_| done.base_model.clone()),
            staged: None,
        };
        self.persist(prepared, traces)?;
        // 6. What cannot be removed is swept by the next start.
        drop(durable::remove_tree(&self.shared.layout.staged(done.id)));
        failpoint::hit("commit.staging_removed");
        for step in steps {
            self.remove_remains(&before, &done.base_model, step);
        }
        Ok(())
    }

    /// What is left of a slot's being empty, or of its not being empty. What cannot be removed is
    /// swept by the next start.
    fn remove_remains(&self, before: &Catalog, base_model: &BaseModelName, step: &SlotStep) {
        let layout = &self.shared.layout;
        let slot = step.slot;
        match &step.outcome {
            SlotOutcome::Next(_) => {
                let Some(emptied) = before.emptied(base_model, slot) else {
                    return;
                };
                let manifest = layout.manifest(base_model, slot, emptied.record.generation);
                drop(durable::unlink(&manifest));
            }
            SlotOutcome::Emptied => {
                let _exports = exports::hold(&self.shared);
                for format in durable::list(&layout.exports()).iter().flatten() {
                    let exports = layout.slot_exports(&format.name, base_model, slot);
                    drop(durable::unlink(&exports.join(CURRENT)));
                }
            }
        }
        failpoint::hit("commit.remains_removed");
    }

    /// Moves the transaction to the new generations and gives their manifests.
    fn plan(
        &self,
        transaction: &mut Transaction,
        job: &Arc<JobRecord>,
        steps: &[SlotStep],
        now: UnixMillis,
    ) -> Result<Vec<Manifest>, CommitError> {
        let base_model = &job.base_model;
        let number = |slot| self.catalog.number(base_model, slot);
        let siblings: Vec<_> = steps
            .iter()
            .map(|step| step.slot)
            .map(|slot| {
                (
                    slot,
                    number(slot).map_or(Generation::FIRST, Generation::next),
                )
            })
            .collect();
        let mut manifests = Vec::with_capacity(steps.len());
        for (step, &(slot, generation)) in steps.iter().zip(&siblings) {
            transaction.supersede(base_model, slot, now)?;
            let manifest = match &step.outcome {
                SlotOutcome::Next(next) => {
                    let numbered = Numbered { step, generation };
                    let record = self.next_generation(transaction, job, &numbered, next, now)?;
                    let state = transaction.base_model_state(base_model);
                    let emptied = self.catalog.emptied(base_model, slot);
                    let manifest = Manifest {
                        reopens: emptied.map(|emptied| emptied.record.committed),
                        ..Manifest::new(&record, state, job, siblings.clone())
                    };
                    transaction.put_generation(record)?;
                    manifest
                }
                SlotOutcome::Emptied => {
                    let record = EmptiedRecord {
                        base_model: base_model.clone(),
                        slot,
                        generation,
                        job: job.id,
                        revision: transaction.catalog().revision,
                        committed: now,
                    };
                    transaction.empty_slot(record.clone())?;
                    let state = transaction.base_model_state(base_model);
                    Manifest::of_emptied(&record, state, job, siblings.clone())
                }
            };
            manifests.push(manifest);
        }
        Ok(manifests)
    }

    /// Moves a slot's members on and gives the record of its next generation.
    fn next_generation(
        &self,
        transaction: &mut Transaction,
        job: &JobRecord,
        numbered: &Numbered<'_>,
        next: &NextGeneration,
        now: UnixMillis,
    ) -> Result<GenerationRecord, CommitError> {
        let Numbered { step, generation } = *numbered;
        let (base_model, slot) = (&job.base_model, step.slot);
        let current = self.catalog.slot(base_model, slot);
        transaction.open_again(base_model, slot);
        match &next.members {
            MembersChange::Join(newcomer) => {
                let entry = newcomer_entry(job, newcomer.weight, generation);
                transaction.push_member(base_model, slot, &entry)?;
            }
            MembersChange::Keep => {}
            MembersChange::Replace(placed) => {
                let entries: Vec<MemberEntry> = placed
                    .iter()
                    .map(|member| self.placed_entry(job, slot, member, generation))
                    .collect();
                transaction.replace_members(base_model, slot, &entries)?;
            }
        }
        let members_since = match (&next.members, current) {
            (MembersChange::Join(_) | MembersChange::Keep, Some(current)) => {
                current.current().members_since
            }
            (MembersChange::Replace(_), _) | (_, None) => generation,
        };
        let members = transaction.catalog().slot(base_model, slot);
        let members = members.map_or(0, |slot| slot.members.len());
        let members = u32::try_from(members).map_err(|_| CommitError::Invalid {
            job: job.id,
            defect: CommitDefect::TooManyMembers { slot },
        })?;
        Ok(GenerationRecord {
            base_model: base_model.clone(),
            slot,
            generation,
            digest: next.tensor.digest,
            bytes: next.tensor.bytes,
            members,
            members_since,
            facts: next.facts.clone(),
            job: job.id,
            revision: transaction.catalog().revision,
            committed: now,
            superseded: None,
        })
    }

    /// A placed member with what is known of its upload. One that stays in its slot joined when it
    /// did; one that moves joins now.
    fn placed_entry(
        &self,
        job: &JobRecord,
        slot: SlotIndex,
        member: &PlacedMember,
        generation: Generation,
    ) -> MemberEntry {
        let PlacedMember { task, weight } = member;
        let task: &TaskName = task;
        let mut entry = newcomer_entry(job, *weight, generation);
        entry.placed = true;
        if let Some(known) = self.catalog.task(&job.base_model, task) {
            entry.task = task.clone();
            entry.job = known.job;
            entry.request_id.clone_from(&known.request_id);
            entry.upload = known.upload.clone();
            entry.created = known.created;
            if known.slot == slot {
                entry.generation = known.generation;
            }
        }
        entry
    }

    fn write_manifests(&self, manifests: &[Manifest]) -> Result<(), CommitError> {
        let written = self.try_write_manifests(manifests);
        if written.is_err() {
            self.undo_manifests(manifests);
        }
        written
    }

    /// The commit did not happen, so no part of it may be found later. After a failure that ends
    /// all writing, the next start finds out whether it did.
    fn undo_manifests(&self, manifests: &[Manifest]) {
        if self.is_read_only() {
            return;
        }
        for manifest in manifests {
            let path = self.manifest_path(manifest);
            let directory = path.parent().unwrap_or(&path);
            // There was no room for the directory itself, and so none for what would be in it.
            if !durable::exists(directory) {
                continue;
            }
            let undone =
                durable::unlink(&path).and_then(|()| self.shared.disk.sync_directory(directory));
            if let Err(error) = undone
                && !error.is_missing()
            {
                self.shared.disk.health().fail(&error);
            }
        }
    }

    pub(super) fn try_write_manifests(&self, manifests: &[Manifest]) -> Result<(), CommitError> {
        let layout = &self.shared.layout;
        let disk = &self.shared.disk;
        // 2.
        for manifest in manifests {
            let path = self.manifest_path(manifest);
            disk.ensure_directory(layout.root(), path.parent().unwrap_or(&path))?;
            disk.put(
                &layout.temporary("manifest"),
                &path,
                &sealed::seal(manifest),
            )?;
            failpoint::hit("commit.manifest_written");
        }
        // 3.
        for manifest in manifests {
            disk.sync_directory(&layout.slot_manifests(&manifest.base_model, manifest.slot))?;
        }
        failpoint::hit("commit.manifests_durable");
        Ok(())
    }

    fn manifest_path(&self, manifest: &Manifest) -> std::path::PathBuf {
        let Manifest {
            base_model,
            slot,
            generation,
            ..
        } = manifest;
        self.shared.layout.manifest(base_model, *slot, *generation)
    }
}

/// The job's own task as a member.
fn newcomer_entry(job: &JobRecord, weight: f64, generation: Generation) -> MemberEntry {
    MemberEntry {
        task: job.task.clone(),
        weight_at_join: weight,
        job: job.id,
        generation,
        request_id: job.request_id.clone(),
        upload: job.upload.clone(),
        created: job.created,
        placed: false,
    }
}
