//! Manifests: beside each generation a file that says all that the catalog knows of it.
//!
//! Written by the committer before the catalog is, read by recovery. What holds: a manifest never
//! changes; it is complete by itself, so that older ones can go; a commit that changes several
//! slots is whole when each of its generations, or a later one of that slot, has a manifest. The
//! newest manifest of a slot tells its members; one without tensors tells that it has none.

use serde::{Deserialize, Serialize};

use crate::catalog::BaseModelState;
use crate::digest::Digest;
use crate::ids::{BaseModelName, Generation, JobId, Revision, SlotIndex, TaskName, UnixMillis};
use crate::records::{
    EmptiedRecord, GenerationRecord, JobRecord, MemberRecord, TaskRecord, UploadFacts,
};
use crate::sealed::Document;

/// The fields of a member entry, in their order; each manifest carries this list.
pub(crate) const MEMBER_FIELDS: [&str; 11] = [
    "task",
    "weight_at_join",
    "job",
    "generation",
    "request_id",
    "format",
    "size_bytes",
    "digest",
    "config_digest",
    "created",
    "placed",
];

/// All that is known of a member: its place in the slot and the upload that it came from.
///
/// There is one for each task, in the catalog and in the manifest, so it is written as a list of
/// values without their names, which would take half of it again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(from = "MemberValues", into = "MemberValues")]
pub(crate) struct MemberEntry {
    pub(crate) task: TaskName,
    pub(crate) weight_at_join: f64,
    pub(crate) job: JobId,
    pub(crate) generation: Generation,
    pub(crate) request_id: Option<String>,
    pub(crate) upload: UploadFacts,
    pub(crate) created: UnixMillis,
    pub(crate) placed: bool,
}

/// A member entry as it is written.
#[derive(Serialize, Deserialize)]
struct MemberValues(
    TaskName,
    f64,
    JobId,
    Generation,
    Option<String>,
    String,
    u64,
    Digest,
    Digest,
    UnixMillis,
    #[serde(default)] bool,
);

impl From<MemberValues> for MemberEntry {
    fn from(values: MemberValues) -> Self {
        let MemberValues(
            task,
            weight_at_join,
            job,
            generation,
            request_id,
            format,
            size_bytes,
            digest,
            config_digest,
            created,
            placed,
        ) = values;
        let upload = UploadFacts {
            format,
            size_bytes,
            digest,
            config_digest,
        };
        Self {
            task,
            weight_at_join,
            job,
            generation,
            request_id,
            upload,
            created,
            placed,
        }
    }
}

impl From<MemberEntry> for MemberValues {
    fn from(entry: MemberEntry) -> Self {
        let MemberEntry {
            task,
            weight_at_join,
            job,
            generation,
            request_id,
            upload,
            created,
            placed,
        } = entry;
        let UploadFacts {
            format,
            size_bytes,
            digest,
            config_digest,
        } = upload;
        Self(
            task,
            weight_at_join,
            job,
            generation,
            request_id,
            format,
            size_bytes,
            digest,
            config_digest,
            created,
            placed,
        )
    }
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
            placed: member.placed,
        }
    }

    /// The member.
    pub(crate) fn member(&self) -> MemberRecord {
        MemberRecord {
            task: self.task.clone(),
            weight_at_join: self.weight_at_join,
            job: self.job,
            generation: self.generation,
            placed: self.placed,
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
    /// None says that the commit emptied the slot.
    pub(crate) tensor: Option<TensorEntry>,
    pub(crate) facts: String,
    /// When the slot had been emptied, if this generation opened it again.
    #[serde(default)]
    pub(crate) reopens: Option<UnixMillis>,
    /// The generation that began the member list; none for the first of the slot.
    #[serde(default)]
    pub(crate) members_since: Option<Generation>,
    /// The base model's settings, if the commit changed them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) settings: Option<String>,
    /// The job as it was when it was done.
    pub(crate) job: JobRecord,
    /// Whether nothing of the job is true but its number: the manifest was written again after the
    /// job's own record had been dropped.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) job_dropped: bool,
    /// What the values of each member are.
    pub(crate) member_fields: Vec<String>,
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
            base_model_fingerprint: base_model.registered_as(),
            slot: record.slot,
            generation: record.generation,
            revision: record.revision,
            committed: record.committed,
            commit,
            tensor: Some(TensorEntry {
                digest: record.digest,
                bytes: record.bytes,
            }),
            facts: record.facts.clone(),
            reopens: None,
            members_since: Some(record.members_since),
            settings: None,
            job: job.clone(),
            job_dropped: false,
            member_fields: MEMBER_FIELDS.map(str::to_owned).to_vec(),
            members: members
                .take(count)
                .filter_map(|member| {
                    let task = base_model.tasks.get(&member.task)?;
                    Some(MemberEntry::new(member, task))
                })
                .collect(),
        }
    }

    /// The manifest that says that a slot was emptied.
    pub(crate) fn of_emptied(
        record: &EmptiedRecord,
        base_model: &BaseModelState,
        job: &JobRecord,
        commit: Vec<(SlotIndex, Generation)>,
    ) -> Self {
        Self {
            base_model: record.base_model.clone(),
            base_model_fingerprint: base_model.registered_as(),
            slot: record.slot,
            generation: record.generation,
            revision: record.revision,
            committed: record.committed,
            commit,
            tensor: None,
            facts: String::new(),
            reopens: None,
            members_since: None,
            settings: None,
            job: job.clone(),
            job_dropped: false,
            member_fields: MEMBER_FIELDS.map(str::to_owned).to_vec(),
            members: Vec::new(),
        }
    }

    /// What the catalog records of a slot that was emptied.
    pub(crate) fn emptied(&self) -> EmptiedRecord {
        EmptiedRecord {
            base_model: self.base_model.clone(),
            slot: self.slot,
            generation: self.generation,
            job: self.job.id,
            revision: self.revision,
            committed: self.committed,
        }
    }

    /// The generation as the catalog records it while it is current.
    pub(crate) fn record(&self, tensor: &TensorEntry, members: u32) -> GenerationRecord {
        GenerationRecord {
            base_model: self.base_model.clone(),
            slot: self.slot,
            generation: self.generation,
            digest: tensor.digest,
            bytes: tensor.bytes,
            members,
            members_since: self.members_since.unwrap_or(Generation::FIRST),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn member_entries_are_written_in_the_order_of_their_fields() {
        let digest = Digest::of(b"upload");
        let entry = MemberEntry {
            task: "french".parse().unwrap(),
            weight_at_join: 0.1 + 0.2,
            job: JobId(7),
            generation: Generation(3),
            request_id: None,
            upload: UploadFacts {
                format: "peft".to_owned(),
                size_bytes: 11,
                digest,
                config_digest: Digest::of(b"config"),
            },
            created: UnixMillis(5),
            placed: true,
        };
        let value = serde_json::to_value(&entry).unwrap();
        let field = |name| {
            &value[MEMBER_FIELDS
                .iter()
                .position(|&field| field == name)
                .unwrap()]
        };
        assert_eq!(value.as_array().map(Vec::len), Some(MEMBER_FIELDS.len()));
        assert_eq!(field("task"), "french");
        assert_eq!(field("weight_at_join"), 0.1 + 0.2);
        assert_eq!(field("job"), 7);
        assert_eq!(field("generation"), 3);
        assert!(field("request_id").is_null());
        assert_eq!(field("format"), "peft");
        assert_eq!(field("size_bytes"), 11);
        assert_eq!(field("digest"), &digest.to_string());
        assert_eq!(field("config_digest"), &Digest::of(b"config").to_string());
        assert_eq!(field("created"), 5);
        assert_eq!(field("placed"), true);
        let text = serde_json::to_string(&entry).unwrap();
        assert_eq!(serde_json::from_str::<MemberEntry>(&text).unwrap(), entry);
    }
}
