//! What is in a backup, and what its entries are called.
//!
//! Pure. What holds: a name in an archive is one of the few that are known here, and a path on the
//! disk is made from what it means, never from its text.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::ids::{BaseModelName, Generation, JobId, Revision, SlotIndex, UnixMillis};
use crate::layout::Layout;
use crate::sealed::Document;
use crate::staging;

/// What a backup holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupContents {
    /// The version of kmerge that made it.
    pub version: String,
    /// When it was made.
    pub created: UnixMillis,
    /// The catalog's revision that it holds.
    pub revision: Revision,
    /// Base models.
    pub base_models: u64,
    /// Slots that hold something.
    pub slots: u64,
    /// Tasks in those slots.
    pub tasks: u64,
    /// Jobs, ended or not.
    pub jobs: u64,
    /// Jobs that have not ended, each with its uploaded files.
    pub unfinished_jobs: u64,
    /// Different tensor files.
    pub tensors: u64,
    /// Bytes of all entries but the first and the last.
    pub bytes: u64,
    /// No job id above this one had been given out.
    pub job_ids: u64,
    /// No revision above this one had been given out.
    pub revisions: u64,
}

impl Document for BackupContents {
    const KIND: &'static str = "backup";
}

/// An entry, in the order of the archive.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum EntryName {
    Contents,
    Catalog,
    BaseModel(BaseModelName),
    Manifest(BaseModelName, SlotIndex, Generation),
    Staged(JobId, StagedPart),
    Tensor(Digest),
    Sums,
}

/// One of the files of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum StagedPart {
    Header,
    Config,
    Tensors,
}

impl StagedPart {
    /// All of them, in the order of the archive.
    pub(crate) const ALL: [Self; 3] = [Self::Header, Self::Config, Self::Tensors];

    fn name(self) -> &'static str {
        match self {
            Self::Header => "header.json",
            Self::Config => "config.json",
            Self::Tensors => "tensors",
        }
    }
}

impl EntryName {
    /// Whether it is read whole, and so must not be long.
    pub(crate) fn is_document(&self) -> bool {
        !matches!(self, Self::Tensor(_) | Self::Staged(_, StagedPart::Tensors))
    }

    /// Where it lies in a state directory; none for what is only in the archive.
    pub(crate) fn place(&self, layout: &Layout) -> Option<PathBuf> {
        Some(match self {
            Self::Contents | Self::Catalog | Self::Sums => return None,
            Self::BaseModel(name) => layout.base_model(name),
            Self::Manifest(name, slot, generation) => layout.manifest(name, *slot, *generation),
            Self::Staged(job, part) => {
                let directory = layout.staged(*job);
                match part {
                    StagedPart::Header => staging::header_path(&directory),
                    StagedPart::Config => staging::config_path(&directory),
                    StagedPart::Tensors => staging::tensors_path(&directory),
                }
            }
            Self::Tensor(digest) => layout.tensor(digest),
        })
    }
}

impl fmt::Display for EntryName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Contents => f.write_str("kmerge-backup.json"),
            Self::Catalog => f.write_str("catalog.jsonl"),
            Self::BaseModel(name) => write!(f, "base-models/{name}/base-model.json"),
            Self::Manifest(name, slot, generation) => {
                write!(f, "manifests/{name}/{slot}/{generation}.json")
            }
            Self::Staged(job, part) => write!(f, "staging/{job}/{}", part.name()),
            Self::Tensor(digest) => {
                let name = digest.to_string();
                write!(f, "tensors/{}/{name}", &name[..2])
            }
            Self::Sums => f.write_str("SHA256SUMS"),
        }
    }
}

/// A name that no backup has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct UnknownEntry;

impl FromStr for EntryName {
    type Err = UnknownEntry;

    fn from_str(text: &str) -> Result<Self, UnknownEntry> {
        let parts: Vec<&str> = text.split('/').collect();
        let parsed = match parts[..] {
            ["kmerge-backup.json"] => Some(Self::Contents),
            ["catalog.jsonl"] => Some(Self::Catalog),
            ["SHA256SUMS"] => Some(Self::Sums),
            ["base-models", name, "base-model.json"] => name.parse().ok().map(Self::BaseModel),
            ["manifests", name, slot, file] => manifest(name, slot, file),
            ["staging", job, file] => {
                let part = StagedPart::ALL.into_iter().find(|part| part.name() == file);
                job.parse()
                    .ok()
                    .zip(part)
                    .map(|(job, part)| Self::Staged(job, part))
            }
            ["tensors", _, digest] => digest.parse().ok().map(Self::Tensor),
            _ => None,
        };
        // One spelling only: no sign, no leading zero, the right two digits.
        parsed
            .filter(|entry| entry.to_string() == text)
            .ok_or(UnknownEntry)
    }
}

fn manifest(name: &str, slot: &str, file: &str) -> Option<EntryName> {
    let generation = file.strip_suffix(".json")?.parse().ok()?;
    let (name, slot) = (name.parse().ok()?, slot.parse().ok()?);
    Some(EntryName::Manifest(name, slot, generation))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_back_in_order() {
        let name: BaseModelName = "a.b".parse().unwrap();
        let digest = Digest::of(b"x");
        let names = [
            EntryName::Contents,
            EntryName::Catalog,
            EntryName::BaseModel(name.clone()),
            EntryName::Manifest(name, SlotIndex(3), Generation(10)),
            EntryName::Staged(JobId(7), StagedPart::Header),
            EntryName::Staged(JobId(7), StagedPart::Config),
            EntryName::Staged(JobId(7), StagedPart::Tensors),
            EntryName::Tensor(digest),
            EntryName::Sums,
        ];
        assert!(names.is_sorted());
        for name in names {
            assert_eq!(name.to_string().parse(), Ok(name));
        }
    }

    #[test]
    fn other_names_are_refused() {
        let digest = Digest::of(b"x").to_string();
        for name in [
            "",
            "/etc/passwd",
            "../LOCK",
            "tensors/../LOCK",
            "staging/7/../../x",
            "staging/07/header.json",
            "staging/+7/header.json",
            "staging/7/other",
            "./catalog.jsonl",
            "catalog.jsonl/",
            "base-models/../base-model.json",
            "base-models/A/base-model.json",
            "manifests/a/0/1",
            "manifests/a/00/1.json",
            &format!("tensors/zz/{digest}"),
            &format!("tensors/{}/{}", &digest[..2], digest.to_uppercase()),
        ] {
            assert_eq!(name.parse::<EntryName>(), Err(UnknownEntry), "{name}");
        }
    }
}
