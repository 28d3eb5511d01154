//! What lies in the state directory beside the catalog.
//!
//! Taken before anything is changed, so that a state of a later version is refused untouched.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::base_model_file::BaseModelFile;
use crate::counter::{self, Reading};
use crate::durable::{self, Entry};
use crate::error::OpenError;
use crate::ids::{BaseModelName, Generation, JobId, Revision, SlotIndex};
use crate::layout::{Layout, TEMPORARY};
use crate::manifest::ManifestHead;
use crate::sealed::{self, Document, SCHEMA, SealError};
use crate::staging::{self, StagedHeader};

/// A slot of a base model.
pub(super) type SlotKey = (BaseModelName, SlotIndex);

/// A directory that is named by a job.
#[derive(Debug)]
pub(super) struct StagedDirectory {
    pub(super) path: PathBuf,
    /// There if it is whole: the header opens, is this job's, and the files are there.
    pub(super) header: Option<StagedHeader>,
}

/// What was found.
#[derive(Debug)]
pub(super) struct Survey {
    pub(super) base_models: BTreeMap<BaseModelName, BaseModelFile>,
    pub(super) damaged_base_models: Vec<PathBuf>,
    /// Where the manifests are. The newest of each slot opens; the others have not been looked at.
    pub(super) manifests: BTreeMap<SlotKey, BTreeMap<Generation, PathBuf>>,
    pub(super) damaged_manifests: Vec<PathBuf>,
    /// The highest revision that a manifest or a base model's file names.
    pub(super) newest_revision: Revision,
    pub(super) staged: BTreeMap<JobId, StagedDirectory>,
    pub(super) temporaries: Vec<Entry>,
    pub(super) job_ids: Reading,
    pub(super) revisions: Reading,
    /// A revision that the catalog had at least.
    pub(super) reached: Revision,
    /// What is none of ours.
    pub(super) strangers: Vec<PathBuf>,
}

impl Survey {
    /// Looks at everything.
    pub(super) fn take(layout: &Layout) -> Result<Self, OpenError> {
        let mut survey = Self {
            base_models: BTreeMap::new(),
            damaged_base_models: Vec::new(),
            manifests: BTreeMap::new(),
            damaged_manifests: Vec::new(),
            newest_revision: Revision::default(),
            staged: BTreeMap::new(),
            temporaries: Vec::new(),
            job_ids: read_counter(&layout.job_ids())?,
            revisions: read_counter(&layout.revisions())?,
            reached: Revision(counter::reached(&layout.revisions())?),
            strangers: Vec::new(),
        };
        survey.find_base_models(layout)?;
        survey.find_manifests(layout)?;
        survey.find_staged(layout)?;
        Ok(survey)
    }

    /// Whether nothing was ever kept here.
    pub(super) fn is_blank(&self) -> bool {
        self.base_models.is_empty()
            && self.damaged_base_models.is_empty()
            && self.manifests.is_empty()
            && self.damaged_manifests.is_empty()
            && self.staged.is_empty()
            && self.job_ids == Reading::Missing
            && self.revisions == Reading::Missing
    }

    fn find_base_models(&mut self, layout: &Layout) -> Result<(), OpenError> {
        for entry in durable::list(&layout.base_models())? {
            let name = entry
                .name
                .strip_suffix(".json")
                .and_then(|name| name.parse().ok());
            let Some(name): Option<BaseModelName> = name else {
                self.strangers.push(entry.path);
                continue;
            };
            match read::<BaseModelFile>(&entry.path)? {
                Some(file) if file.record.name == name => {
                    let changed = file.settings_change.map(|change| change.revision);
                    self.newest_revision = self.newest_revision.max(changed.unwrap_or_default());
                    self.base_models.insert(name, file);
                }
                _ => self.damaged_base_models.push(entry.path),
            }
        }
        Ok(())
    }

    fn find_manifests(&mut self, layout: &Layout) -> Result<(), OpenError> {
        let base_model = |name: &str| name.parse::<BaseModelName>().ok();
        for (name, directory) in self.directories(&layout.manifests(), base_model)? {
            for (slot, directory) in self.directories(&directory, number)? {
                let mut generations = self.list_generations(&directory)?;
                self.drop_damaged(&mut generations)?;
                if !generations.is_empty() {
                    self.manifests
                        .insert((name.clone(), SlotIndex(slot)), generations);
                }
            }
        }
        Ok(())
    }

    fn list_generations(
        &mut self,
        directory: &Path,
    ) -> Result<BTreeMap<Generation, PathBuf>, OpenError> {
        let mut generations = BTreeMap::new();
        for entry in durable::list(directory)? {
            match entry.name.strip_suffix(".json").and_then(number) {
                Some(generation) => drop(generations.insert(Generation(generation), entry.path)),
                None => self.strangers.push(entry.path),
            }
        }
        Ok(generations)
    }

    /// Drops the newest manifests of a slot until one opens.
    fn drop_damaged(
        &mut self,
        generations: &mut BTreeMap<Generation, PathBuf>,
    ) -> Result<(), OpenError> {
        while let Some(newest) = generations.last_entry() {
            if let Some(head) = read::<ManifestHead>(newest.get())? {
                self.newest_revision = self.newest_revision.max(head.revision);
                break;
            }
            self.damaged_manifests.push(newest.remove());
        }
        Ok(())
    }

    fn find_staged(&mut self, layout: &Layout) -> Result<(), OpenError> {
        for entry in durable::list(&layout.staging())? {
            if entry.name.starts_with(TEMPORARY) {
                self.temporaries.push(entry);
                continue;
            }
            let Some(job) = number(&entry.name)
                .map(JobId)
                .filter(|_| entry.is_directory)
            else {
                self.strangers.push(entry.path);
                continue;
            };
            let mut header = read::<StagedHeader>(&staging::header_path(&entry.path))?;
            if let Some(found) = &header
                && (found.job != job || !found.files_are_there(&entry.path)?)
            {
                header = None;
            }
            self.staged.insert(
                job,
                StagedDirectory {
                    path: entry.path,
                    header,
                },
            );
        }
        Ok(())
    }

    /// The directories in `path` whose name `parse` understands.
    fn directories<T>(
        &mut self,
        path: &Path,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Result<Vec<(T, PathBuf)>, OpenError> {
        let mut found = Vec::new();
        for entry in durable::list(path)? {
            match parse(&entry.name).filter(|_| entry.is_directory) {
                Some(name) => found.push((name, entry.path)),
                None => self.strangers.push(entry.path),
            }
        }
        Ok(found)
    }
}

/// The number that `text` is the decimal form of, and the only one: no sign, no leading zero.
pub(super) fn number<T: std::str::FromStr + ToString>(text: &str) -> Option<T> {
    text.parse::<T>()
        .ok()
        .filter(|number| number.to_string() == text)
}

/// A document; nothing if it is missing or damaged.
pub(super) fn read<T: Document>(path: &Path) -> Result<Option<T>, OpenError> {
    let Some(bytes) = durable::read_if_there(path)? else {
        return Ok(None);
    };
    match sealed::unseal(&bytes) {
        Ok(document) => Ok(Some(document)),
        Err(SealError::Damaged) => Ok(None),
        Err(SealError::NewerSchema(found)) => Err(newer(path, found)),
    }
}

fn read_counter(path: &Path) -> Result<Reading, OpenError> {
    counter::read(path)?.map_err(|found| newer(path, found))
}

/// The refusal of a later version's state.
pub(super) fn newer(path: &Path, found: u16) -> OpenError {
    OpenError::NewerSchema {
        path: path.to_owned(),
        found,
        supported: SCHEMA,
    }
}
