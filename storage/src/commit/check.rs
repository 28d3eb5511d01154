//! Whether a rearrangement makes sense and fits the catalog. Looks, and changes nothing.

use std::collections::{BTreeMap, BTreeSet};

use super::Committer;
use super::changes::{MembersChange, PlacedMember, SlotOutcome, SlotStep};
use crate::durable;
use crate::error::{CommitDefect, CommitError};
use crate::ids::{BaseModelName, SlotIndex, TaskName};
use crate::records::JobRecord;
use crate::tensors::StoredTensor;

impl Committer {
    /// Refuses what makes no sense, what was decided for another state, and what has no tensors.
    pub(super) fn check_steps(
        &self,
        job: &JobRecord,
        steps: &[SlotStep],
    ) -> Result<(), CommitError> {
        self.check_sense(job, steps)
            .map_err(|defect| CommitError::Invalid {
                job: job.id,
                defect,
            })?;
        for step in steps {
            self.check_slot(&job.base_model, step)?;
        }
        Ok(())
    }

    fn check_sense(&self, job: &JobRecord, steps: &[SlotStep]) -> Result<(), CommitDefect> {
        if steps.is_empty() && job.kind.is_upload() {
            return Err(CommitDefect::Empty);
        }
        let mut slots = BTreeSet::new();
        let mut has_newcomer = false;
        for step in steps {
            let slot = step.slot;
            if !slots.insert(slot) {
                return Err(CommitDefect::SlotTwice { slot });
            }
            let members = match &step.outcome {
                SlotOutcome::Next(next) => &next.members,
                SlotOutcome::Emptied if step.expected.is_none() => {
                    return Err(CommitDefect::EmptiesNothing { slot });
                }
                SlotOutcome::Emptied => continue,
            };
            match members {
                MembersChange::Join(newcomer) => {
                    if std::mem::replace(&mut has_newcomer, true) {
                        return Err(CommitDefect::NewcomerTwice);
                    }
                    if !job.kind.is_upload() {
                        let newcomer = newcomer.task.clone();
                        return Err(CommitDefect::NoUpload { newcomer });
                    }
                    if newcomer.task != job.task {
                        let (newcomer, task) = (newcomer.task.clone(), job.task.clone());
                        return Err(CommitDefect::ForeignNewcomer { newcomer, task });
                    }
                    check_weight(&newcomer.task, newcomer.weight)?;
                }
                MembersChange::Keep if step.expected.is_none() => {
                    return Err(CommitDefect::NoMember { slot });
                }
                MembersChange::Keep => {}
                MembersChange::Replace(placed) if placed.is_empty() => {
                    return Err(CommitDefect::NoMember { slot });
                }
                MembersChange::Replace(placed) => {
                    for PlacedMember { task, weight } in placed {
                        check_weight(task, *weight)?;
                    }
                }
            }
        }
        self.check_places(job, steps)
    }

    /// Every task is in at most one place afterwards, and every placed one is known.
    fn check_places(&self, job: &JobRecord, steps: &[SlotStep]) -> Result<(), CommitDefect> {
        /// Whether the members that the slot has are left where they are.
        fn stays(step: &SlotStep) -> bool {
            match &step.outcome {
                SlotOutcome::Next(next) => match next.members {
                    MembersChange::Join(_) | MembersChange::Keep => true,
                    MembersChange::Replace(_) => false,
                },
                SlotOutcome::Emptied => false,
            }
        }
        let stays: BTreeMap<SlotIndex, bool> =
            steps.iter().map(|step| (step.slot, stays(step))).collect();
        let mut places = BTreeSet::new();
        for step in steps {
            let SlotOutcome::Next(next) = &step.outcome else {
                continue;
            };
            let tasks: Vec<&TaskName> = match &next.members {
                MembersChange::Join(newcomer) => vec![&newcomer.task],
                MembersChange::Keep => Vec::new(),
                MembersChange::Replace(placed) => {
                    placed.iter().map(|member| &member.task).collect()
                }
            };
            for task in tasks {
                let known = self.catalog.task(&job.base_model, task);
                let is_left = known.is_some_and(|known| *stays.get(&known.slot).unwrap_or(&true));
                if is_left || !places.insert(task) {
                    return Err(CommitDefect::TaskTwice { task: task.clone() });
                }
                let is_own = job.kind.is_upload() && *task == job.task;
                if known.is_none() && !is_own {
                    return Err(CommitDefect::UnknownTask { task: task.clone() });
                }
            }
        }
        Ok(())
    }

    fn check_slot(&self, base_model: &BaseModelName, step: &SlotStep) -> Result<(), CommitError> {
        let slot = step.slot;
        let found = self
            .catalog
            .slot(base_model, slot)
            .map(|state| state.current().generation);
        if found != step.expected {
            let expected = step.expected;
            return Err(CommitError::GenerationMoved {
                slot,
                expected,
                found,
            });
        }
        let SlotOutcome::Next(next) = &step.outcome else {
            return Ok(());
        };
        let StoredTensor { digest, bytes, .. } = next.tensor;
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
}

fn check_weight(task: &TaskName, weight: f64) -> Result<(), CommitDefect> {
    if weight.is_finite() {
        Ok(())
    } else {
        let newcomer = task.clone();
        Err(CommitDefect::Weight { newcomer })
    }
}
