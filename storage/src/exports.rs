//! Exports: a generation written in a runtime's own format, in a directory named by it.
//!
//! Written through [`Reader`], removed by the committer. What holds: a directory that is named by
//! a generation is whole; its tensor file is the slot's own, under a second name, or one of its own
//! where a format needs other bytes; `current` names one whole directory and never goes back to an
//! older generation.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{MutexGuard, PoisonError};

use crate::digest::Digest;
use crate::durable;
use crate::error::{ExportError, FileError, ReadError};
use crate::failpoint;
use crate::ids::{Generation, check_name};
use crate::layout::CURRENT;
use crate::manifest::Manifest;
use crate::read::Reader;
use crate::records::GenerationRecord;
use crate::sealed;
use crate::shared::Shared;
use crate::staging::Unfinished;
use crate::tensors::{HashedFile, TensorFile};

/// A file of an export.
#[derive(Debug)]
pub struct ExportedFile {
    /// Its name in the export's directory.
    pub name: String,
    /// Its length in bytes.
    pub size_bytes: u64,
    /// The SHA-256 of its bytes.
    pub digest: Digest,
    /// The file, open.
    pub file: TensorFile,
}

/// An export that is being written with a tensor file of its own. Dropped before its end, it leaves
/// nothing.
#[derive(Debug)]
pub struct ExportWriter {
    reader: Reader,
    directory: Unfinished,
    tensor: HashedFile,
    tensor_name: String,
}

impl ExportWriter {
    /// Takes the next bytes of the tensor file.
    ///
    /// # Errors
    /// If the disk refuses.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), FileError> {
        self.tensor.write(bytes)
    }

    /// Ends the export and publishes it as [`Reader::publish_export`] does.
    ///
    /// # Errors
    /// As [`Reader::publish_export`].
    pub fn finish(
        self,
        generation: &GenerationRecord,
        format: &str,
        files: &[(&str, &[u8])],
    ) -> Result<PathBuf, ExportError> {
        let Self {
            reader,
            directory,
            tensor,
            tensor_name,
        } = self;
        check_format(format)?;
        check_file_names(&tensor_name, files)?;
        let disk = &reader.shared.disk;
        let path = tensor.path().to_owned();
        let (file, _) = tensor.finish()?;
        durable::seal(&file, &path)?;
        disk.sync(&file, &path)?;
        for (name, bytes) in files {
            disk.write_new(&directory.path().join(name), bytes)?;
        }
        disk.sync_directory(directory.path())?;
        failpoint::hit("export.files_durable");
        reader.place_export(generation, format, Some(directory))
    }
}

fn check_format(format: &str) -> Result<(), ExportError> {
    check_name(format).map_err(|source| ExportError::Format {
        format: format.to_owned(),
        source,
    })
}

/// While this is held, no export comes or goes.
pub(crate) fn hold(shared: &Shared) -> MutexGuard<'_, ()> {
    // It guards directories, which are whole at every moment, so a panic elsewhere does not matter.
    shared
        .exports
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
}

impl Reader {
    /// Writes the export of a generation, or finds it there, and lets `current` point to it unless
    /// that points to a later one, or members have left the slot since, which must not be served
    /// again. `files` are written as they are; the tensor file becomes
    /// `tensor_name` without a copy. Gives the directory.
    ///
    /// 1. The files are written into a temporary directory, and all of it is made durable.
    /// 2. The directory gets its name.
    /// 3. `current` is moved.
    ///
    /// # Errors
    /// If a name is not a plain one, the generation has been removed, or the disk refuses.
    pub fn publish_export(
        &self,
        generation: &GenerationRecord,
        format: &str,
        tensor_name: &str,
        files: &[(&str, &[u8])],
    ) -> Result<PathBuf, ExportError> {
        check_format(format)?;
        check_file_names(tensor_name, files)?;
        if let Some(why) = self.shared.failure() {
            return Err(ExportError::ReadOnly {
                why: why.to_owned(),
            });
        }
        // 1.
        let whole = if self.export_path(generation, format).is_dir() {
            None
        } else {
            Some(self.write_export(generation, tensor_name, files)?)
        };
        self.place_export(generation, format, whole)
    }

    /// Begins an export with a tensor file of its own, which will be called `tensor_name`.
    ///
    /// # Errors
    /// If the name is not a plain one, the state can only be read, or the disk refuses.
    pub fn new_export(&self, tensor_name: &str) -> Result<ExportWriter, ExportError> {
        if let Some(why) = self.shared.failure() {
            return Err(ExportError::ReadOnly {
                why: why.to_owned(),
            });
        }
        check_file_names(tensor_name, &[])?;
        let directory = Unfinished::create(&self.shared, "export")?;
        let tensor = HashedFile::create(directory.path().join(tensor_name))?;
        Ok(ExportWriter {
            reader: self.clone(),
            directory,
            tensor,
            tensor_name: tensor_name.to_owned(),
        })
    }

    /// Gives a whole directory its name, unless there is one of that name, and moves `current`.
    fn place_export(
        &self,
        generation: &GenerationRecord,
        format: &str,
        whole: Option<Unfinished>,
    ) -> Result<PathBuf, ExportError> {
        let path = self.export_path(generation, format);
        let slot = path.parent().unwrap_or(&path);
        let layout = &self.shared.layout;
        let disk = &self.shared.disk;
        let _exports = hold(&self.shared);
        // 2.
        if let Some(directory) = whole
            && !path.is_dir()
        {
            // The manifest goes before the exports do: without it, this one would stay for ever.
            if !durable::exists(&layout.manifest(
                &generation.base_model,
                generation.slot,
                generation.generation,
            )) {
                return Err(removed(generation));
            }
            disk.ensure_directory(layout.root(), slot)?;
            directory.rename(&path)?;
            disk.sync_directory(slot)?;
            failpoint::hit("export.renamed");
        }
        // 3.
        let is_newest = current_export(slot)?.is_none_or(|current| current < generation.generation);
        if is_newest && !self.has_other_members(generation)? {
            let temporary = layout.temporary("current");
            durable::symlink(&generation.generation.to_string(), &temporary)?;
            durable::rename(&temporary, &slot.join(CURRENT))?;
            disk.sync_directory(slot)?;
            failpoint::hit("export.current_moved");
        }
        Ok(path)
    }

    /// Whether the slot has been emptied, or got another member list, since that generation. While
    /// exports are held, so that whoever empties a slot takes the link away after this was asked.
    fn has_other_members(&self, generation: &GenerationRecord) -> Result<bool, FileError> {
        let layout = &self.shared.layout;
        let (base_model, slot) = (&generation.base_model, generation.slot);
        let listed = durable::list(&layout.slot_manifests(base_model, slot))?;
        let newest = listed
            .iter()
            .filter_map(|entry| entry.name.strip_suffix(".json")?.parse::<Generation>().ok())
            .max();
        let Some(newest) = newest.filter(|newest| *newest > generation.generation) else {
            return Ok(false);
        };
        let path = layout.manifest(base_model, slot, newest);
        let Some(bytes) = durable::read_if_there(&path)? else {
            return Ok(false);
        };
        // One that is damaged says nothing; the next start finds out.
        Ok(sealed::unseal::<Manifest>(&bytes).is_ok_and(|manifest| {
            let since = manifest.members_since.unwrap_or(Generation::FIRST);
            manifest.tensor.is_none() || since > generation.generation
        }))
    }

    fn write_export(
        &self,
        generation: &GenerationRecord,
        tensor_name: &str,
        files: &[(&str, &[u8])],
    ) -> Result<Unfinished, ExportError> {
        let disk = &self.shared.disk;
        let directory = Unfinished::create(&self.shared, "export")?;
        for (name, bytes) in files {
            disk.write_new(&directory.path().join(name), bytes)?;
        }
        let tensor = self.shared.layout.tensor(&generation.digest);
        durable::link(&tensor, &directory.path().join(tensor_name)).map_err(|error| {
            if error.is_missing() {
                removed(generation)
            } else {
                error.into()
            }
        })?;
        disk.sync_directory(directory.path())?;
        failpoint::hit("export.files_durable");
        Ok(directory)
    }

    /// Where the export of a generation is, or would be.
    pub fn export_path(&self, generation: &GenerationRecord, format: &str) -> PathBuf {
        self.shared
            .layout
            .slot_exports(format, &generation.base_model, generation.slot)
            .join(generation.generation.to_string())
    }

    /// Whether the export of a generation is there.
    pub fn has_export(&self, generation: &GenerationRecord, format: &str) -> bool {
        check_name(format).is_ok() && self.export_path(generation, format).is_dir()
    }

    /// Opens all files of an export, in the order of their names. Once open they stay readable.
    ///
    /// # Errors
    /// If the export is not there, or the disk refuses.
    pub fn open_export(
        &self,
        generation: &GenerationRecord,
        format: &str,
    ) -> Result<Vec<ExportedFile>, ReadError> {
        let missing = || ReadError::ExportMissing {
            slot: generation.slot,
            generation: generation.generation,
            format: format.to_owned(),
        };
        if !self.has_export(generation, format) {
            return Err(missing());
        }
        let tensor = self.tensor(generation)?;
        let path = self.export_path(generation, format);
        let mut files = Vec::new();
        for entry in durable::list(&path)? {
            let file = TensorFile::open(&entry.path).map_err(|error| match error {
                error if error.is_missing() => missing(),
                error => ReadError::File(error),
            })?;
            let digest = digest_of(&file, &entry.path, generation, &tensor)?;
            files.push(ExportedFile {
                name: entry.name,
                size_bytes: file.len(),
                digest,
                file,
            });
        }
        // An empty list means that the directory went away meanwhile.
        if files.is_empty() {
            Err(missing())
        } else {
            Ok(files)
        }
    }
}

/// The digest of an exported file; the tensor file's is known and not computed again.
fn digest_of(
    file: &TensorFile,
    path: &Path,
    generation: &GenerationRecord,
    tensor: &TensorFile,
) -> Result<Digest, FileError> {
    let identity = |file: &TensorFile| file.metadata().map(|found| (found.dev(), found.ino()));
    let failed = |verb| {
        move |source| FileError {
            verb,
            path: path.to_owned(),
            source,
        }
    };
    if identity(file).map_err(failed("look at"))? == identity(tensor).map_err(failed("look at"))? {
        return Ok(generation.digest);
    }
    file.digest().map_err(failed("read"))
}

pub(crate) fn removed(generation: &GenerationRecord) -> ExportError {
    ExportError::GenerationRemoved {
        slot: generation.slot,
        generation: generation.generation,
    }
}

pub(crate) fn check_file_names(
    tensor_name: &str,
    files: &[(&str, &[u8])],
) -> Result<(), ExportError> {
    let mut seen = BTreeSet::new();
    for name in files.iter().map(|(name, _)| *name).chain([tensor_name]) {
        let is_plain = !name.is_empty()
            && !name.starts_with('.')
            && name
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
        if !is_plain || name.len() > crate::NAME_LIMIT || !seen.insert(name) {
            return Err(ExportError::FileName {
                name: name.to_owned(),
            });
        }
    }
    Ok(())
}

/// The generation that `current` names, if that export is there.
pub(crate) fn current_export(slot: &Path) -> Result<Option<Generation>, FileError> {
    let Some(target) = durable::read_link(&slot.join(CURRENT))? else {
        return Ok(None);
    };
    let generation = target
        .to_str()
        .and_then(|name| name.parse::<Generation>().ok());
    Ok(generation.filter(|generation| slot.join(generation.to_string()).is_dir()))
}
