//! The good end of a job: new generations of slots.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::Committer;
use crate::catalog::Catalog;
use crate::durable;
use crate::error::{CommitDefect, CommitError};
use crate::failpoint;
use crate::ids::{BaseModelName, Generation, JobId, SlotIndex, TaskName, UnixMillis};
use crate::manifest::{Manifest, MemberEntry};
use crate::records::{Event, GenerationRecord, JobRecord, JobState};
use crate::sealed;
use crate::tensors::StoredTensor;
use crate::transaction::Transaction;

/// The outcome of a job.
#[derive(Debug)]
pub struct Commit {
    /// The job. It must be running.
    pub job: JobId,
    /// The slots that change: at least one, each once.
    pub changes: Vec<SlotChange>,
    /// Opaque JSON: the decision.
    pub result: String,
}

/// A slot's next generation.
#[derive(Debug)]
pub struct SlotChange {
    /// The slot.
    pub slot: SlotIndex,
    /// The generation that the decision was made for; none if the slot must be empty.
    pub expected: Option<Generation>,
    /// The new tensor file.
    pub tensor: StoredTensor,
    /// The task that joins, if one does. It must be the job's task.
    pub newcomer: Option<NewMember>,
    /// Opaque JSON: what the tensors are.
    pub facts: String,
}

/// A task that joins a slot.
#[derive(Debug, Clone, PartialEq)]
pub struct NewMember {
    /// The task.
    pub task: TaskName,
    /// Its weight at joining; those before it are scaled by the rest. A finite number.
    pub weight: f64,
}

impl Committer {
    /// Commits the outcome of a running job: all of its changes or none. Durable on return; gives
    /// the catalog with the new generations.
    ///
    /// 1. The job is running, the slots are at the generations that the decision was made for,
    ///    and the tensor files are there, which are durable since they have their names.
    /// 2. The manifest of each new generation is written.
    /// 3. The manifests' names are durable. From here on a start finds the whole commit, whatever
    ///    happens to the catalog. Before, it finds a part at most, and drops it.
    /// 4. The catalog moves in one batch: generations, members, tasks, the job, the event.
    ///    That is made durable, and then visible.
    /// 5. The staged files go.
    ///
    /// # Errors
    /// [`CommitError::GenerationMoved`] if a slot has moved, [`CommitError::TensorMissing`],
    /// [`CommitError::JobState`], [`CommitError::Invalid`] if the commit makes no sense,
    /// [`CommitError::Record`] if a text is too long, and what any write may meet. Nothing is
    /// changed then, unless the state is read-only from now on.
    pub fn commit(&mut self, commit: Commit, now: UnixMillis) -> Result<Arc<Catalog>, CommitError> {
        let Commit {
            job,
            changes,
            result,
        } = commit;
        let committed = self.commit_changes(job, &changes, result, now);
        // The tensor files of a commit that was refused are nobody's from here on.
        drop(changes);
        self.remove_returned_tensors();
        committed.map(|()| self.catalog())
    }

    fn commit_changes(
        &mut self,
        job: JobId,
        changes: &[SlotChange],
        result: String,
        now: UnixMillis,
    ) -> Result<(), CommitError> {
        self.check_writable()?;
        // 1.
        let job = self.job_in_state(job, JobState::Running)?;
        let done = JobRecord {
            state: JobState::Done,
            ended: Some(now),
            result: Some(result),
            ..JobRecord::clone(job)
        };
        self.check_changes(&done, changes)?;
        let mut transaction = self.begin(now);
        let done = transaction.put_job(done)?;
        let manifests = self.plan(&mut transaction, &done, changes, now)?;
        let slots = manifests
            .first()
            .map(|manifest| manifest.commit.clone())
            .unwrap_or_default();
        let event = Event::SlotsCommitted {
            base_model: done.base_model.clone(),
            job: done.id,
            slots,
        };
        let prepared = self.prepare(transaction, event, Some(done.id))?;
        failpoint::hit("commit.checked");
        // 2. and 3.
        self.write_manifests(&manifests)?;
        // 4.
        self.persist(prepared)?;
        // 5. What cannot be removed is swept by the next start.
        drop(durable::remove_tree(&self.shared.layout.staged(done.id)));
        failpoint::hit("commit.staging_removed");
        Ok(())
    }

    fn check_changes(&self, job: &JobRecord, changes: &[SlotChange]) -> Result<(), CommitError> {
        let invalid = |defect| {
            Err(CommitError::Invalid {
                job: job.id,
                defect,
            })
        };
        if changes.is_empty() {
            return invalid(CommitDefect::Empty);
        }
        let mut slots = BTreeSet::new();
        let mut has_newcomer = false;
        for change in changes {
            if !slots.insert(change.slot) {
                return invalid(CommitDefect::SlotTwice { slot: change.slot });
            }
            if let Some(NewMember { task, weight }) = &change.newcomer {
                if std::mem::replace(&mut has_newcomer, true) {
                    return invalid(CommitDefect::NewcomerTwice);
                }
                if *task != job.task {
                    let (newcomer, task) = (task.clone(), job.task.clone());
                    return invalid(CommitDefect::ForeignNewcomer { newcomer, task });
                }
                if !weight.is_finite() {
                    return invalid(CommitDefect::Weight {
                        newcomer: task.clone(),
                    });
                }
            } else if change.expected.is_none() {
                return invalid(CommitDefect::NoMember { slot: change.slot });
            }
            self.check_slot(&job.base_model, change)?;
        }
        Ok(())
    }

    fn check_slot(
        &self,
        base_model: &BaseModelName,
        change: &SlotChange,
    ) -> Result<(), CommitError> {
        let slot = change.slot;
        let found = self
            .catalog
            .slot(base_model, slot)
            .map(|state| state.current().generation);
        if found != change.expected {
            let expected = change.expected;
            return Err(CommitError::GenerationMoved {
                slot,
                expected,
                found,
            });
        }
        let StoredTensor { digest, bytes, .. } = change.tensor;
        if durable::length_if_there(&self.shared.layout.tensor(&digest))? == Some(bytes) {
            Ok(())
        } else {
            Err(CommitError::TensorMissing {
                slot,
                digest,
                bytes,
            })
        }
    }

    /// Moves the transaction to the new generations and gives their manifests.
    fn plan(
        &self,
        transaction: &mut Transaction,
        job: &Arc<JobRecord>,
        changes: &[SlotChange],
        now: UnixMillis,
    ) -> Result<Vec<Manifest>, CommitError> {
        let base_model = &job.base_model;
        let siblings: Vec<_> = changes
            .iter()
            .map(|change| {
                (
                    change.slot,
                    change.expected.map_or(Generation::FIRST, Generation::next),
                )
            })
            .collect();
        let mut manifests = Vec::with_capacity(changes.len());
        for (change, &(slot, generation)) in changes.iter().zip(&siblings) {
            transaction.supersede(base_model, slot, now)?;
            if let Some(newcomer) = &change.newcomer {
                let entry = MemberEntry {
                    task: newcomer.task.clone(),
                    weight_at_join: newcomer.weight,
                    job: job.id,
                    generation,
                    request_id: job.request_id.clone(),
                    upload: job.upload.clone(),
                    created: job.created,
                };
                transaction.push_member(base_model, slot, &entry)?;
            }
            let state = transaction.base_model_state(base_model);
            let members = state.slots.get(&slot).map_or(0, |slot| slot.members.len());
            let members = u32::try_from(members).map_err(|_| CommitError::Invalid {
                job: job.id,
                defect: CommitDefect::TooManyMembers { slot },
            })?;
            let record = GenerationRecord {
                base_model: base_model.clone(),
                slot,
                generation,
                digest: change.tensor.digest,
                bytes: change.tensor.bytes,
                members,
                facts: change.facts.clone(),
                job: job.id,
                revision: transaction.catalog().revision,
                committed: now,
                superseded: None,
            };
            manifests.push(Manifest::new(&record, state, job, siblings.clone()));
            transaction.put_generation(record)?;
        }
        Ok(manifests)
    }

    fn write_manifests(&self, manifests: &[Manifest]) -> Result<(), CommitError> {
        let written = self.try_write_manifests(manifests);
        if written.is_err() && !self.is_read_only() {
            // The commit did not happen, so no part of it may be found later.
            for manifest in manifests {
                let path = self.manifest_path(manifest);
                let directory = path.parent().unwrap_or(&path);
                let undone = durable::unlink(&path)
                    .and_then(|()| self.shared.disk.sync_directory(directory));
                if let Err(error) = undone
                    && !error.is_missing()
                {
                    self.shared.disk.health().fail(&error);
                }
            }
        }
        written
    }

    fn try_write_manifests(&self, manifests: &[Manifest]) -> Result<(), CommitError> {
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
