//! Manifests: beside each generation a file that says all that the catalog knows of it.
//!
//! Written by the committer before the catalog is, read by recovery. What holds: a manifest never
//! changes; it is complete by itself, so that older ones can go; a commit that changes several
//! slots is whole when each of its generations, or a later one of that slot, has a manifest.

use serde::{Deserialize, Serialize};

use crate::catalog::BaseModelState;
use crate::digest::Digest;
use crate::ids::{BaseModelName, Generation, JobId, Revision, SlotIndex, TaskName, UnixMillis};
use crate::records::{GenerationRecord, JobRecord, MemberRecord, TaskRecord, UploadFacts};
use crate::sealed::Document;

/// All that is known of a member: its place in the slot and the upload that it came from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct MemberEntry {
    pub(crate) task: TaskName,
    pub(crate) weight_at_join: f64,
    pub(crate) job: JobId,
    pub(crate) generation: Generation,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) request_id: Option<String>,
    pub(crate) upload: UploadFacts,
    pub(crate) created: UnixMillis,
}

impl MemberEntry {
    /// The entry of a member and its task.
    pub(crate) fn new(member: &MemberRecord, task: &TaskRecord) -> Self {
        Self {
            task: member.task.clone(),
            weight_at_join: member.weight_at_join,
            job: member.job,
            generation: member.generation,
            request_id: task.request_id.clone(),
            upload: task.upload.clone(),
            created: task.created,
        }
    }

    /// The member.
    pub(crate) fn member(&self) -> MemberRecord {
        MemberRecord {
            task: self.task.clone(),
            weight_at_join: self.weight_at_join,
            job: self.job,
            generation: self.generation,
        }
    }

    /// The task.
    pub(crate) fn task(&self, base_model: &BaseModelName, slot: SlotIndex) -> TaskRecord {
        TaskRecord {
            base_model: base_model.clone(),
            task: self.task.clone(),
            slot,
            generation: self.generation,
            job: self.job,
            request_id: self.request_id.clone(),
            upload: self.upload.clone(),
            created: self.created,
        }
    }
}

/// What the tensor file of a generation must be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TensorEntry {
    pub(crate) digest: Digest,
    pub(crate) bytes: u64,
}

/// The manifest of one generation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Manifest {
    pub(crate) base_model: BaseModelName,
    /// The fingerprint of the base model, so that one of the same name is not taken for it.
    pub(crate) base_model_fingerprint: Digest,
    pub(crate) slot: SlotIndex,
    pub(crate) generation: Generation,
    pub(crate) revision: Revision,
    pub(crate) committed: UnixMillis,
    /// Every generation of the same commit, this one included.
    pub(crate) commit: Vec<(SlotIndex, Generation)>,
    pub(crate) tensor: TensorEntry,
    pub(crate) facts: String,
    /// The job as it was when it was done.
    pub(crate) job: JobRecord,
    /// All members, in order.
    pub(crate) members: Vec<MemberEntry>,
}

impl Document for Manifest {
    const KIND: &'static str = "manifest";
}

impl Manifest {
    /// The manifest of a generation. `base_model` holds at least its members, `job` made it, and
    /// `commit` lists all generations that it made.
    pub(crate) fn new(
        record: &GenerationRecord,
        base_model: &BaseModelState,
        job: &JobRecord,
        commit: Vec<(SlotIndex, Generation)>,
    ) -> Self {
        let count = usize::try_from(record.members).unwrap_or(usize::MAX);
        let members = base_model
            .slots
            .get(&record.slot)
            .into_iter()
            .flat_map(|slot| &slot.members);
        Self {
            base_model: record.base_model.clone(),
            base_model_fingerprint: base_model.record.fingerprint(),
            slot: record.slot,
            generation: record.generation,
            revision: record.revision,
            committed: record.committed,
            commit,
            tensor: TensorEntry {
                digest: record.digest,
                bytes: record.bytes,
            },
            facts: record.facts.clone(),
            job: job.clone(),
            members: members
                .take(count)
                .filter_map(|member| {
                    let task = base_model.tasks.get(&member.task)?;
                    Some(MemberEntry::new(member, task))
                })
                .collect(),
        }
    }

    /// The generation as the catalog records it while it is current.
    pub(crate) fn record(&self, members: u32) -> GenerationRecord {
        GenerationRecord {
            base_model: self.base_model.clone(),
            slot: self.slot,
            generation: self.generation,
            digest: self.tensor.digest,
            bytes: self.tensor.bytes,
            members,
            facts: self.facts.clone(),
            job: self.job.id,
            revision: self.revision,
            committed: self.committed,
            superseded: None,
        }
    }
}

/// The part of a manifest that tells how old it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ManifestHead {
    pub(crate) revision: Revision,
}

impl Document for ManifestHead {
    const KIND: &'static str = Manifest::KIND;
}
