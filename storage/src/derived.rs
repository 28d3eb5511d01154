//! Derived exports: files made on demand from a generation, for as long as there is room.
//!
//! A slot that keeps its members apart is served task by task, and nobody needs all tasks at all
//! times. Each derived export is a directory under its generation's, put there by one rename, so it
//! is whole or absent. It is a cache and nothing more: it need not survive a power cut and is not
//! flushed, a start begins without any, it goes with its generation, and what has not been asked
//! for longest goes first. What is known of them is in memory, owned here.
//!
//! ```text
//! derived/<format>/<base model>/slot-<n>/<generation>/{whole,task-<task>}/
//! ```

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::digest::Digest;
use crate::durable;
use crate::error::{ExportError, FileError, ReadError};
use crate::exports::{self, ExportedFile};
use crate::ids::{TaskName, UnixMillis, check_name};
use crate::read::Reader;
use crate::records::GenerationRecord;
use crate::shared::Shared;
use crate::staging::Unfinished;
use crate::tensors::{HashedFile, TensorFile};

/// Which export of which generation.
#[derive(Debug, Clone, Copy)]
pub struct DerivedName<'a> {
    /// The generation that it is made from.
    pub generation: &'a GenerationRecord,
    /// The runtime's format, a plain name.
    pub format: &'a str,
    /// The task that it serves; none for the slot as a whole.
    pub task: Option<&'a TaskName>,
}

/// What is known of a derived export.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Derived {
    /// Its directory.
    pub path: PathBuf,
    /// The SHA-256 of its tensor file.
    pub digest: Digest,
    /// The length of all its files together.
    pub bytes: u64,
}

/// How much room derived exports have, and which are safe.
#[derive(Debug, Clone, Copy)]
pub struct DerivedLimit {
    /// Bytes of all of them together.
    pub bytes: u64,
    /// Those asked for at or after this moment stay, whatever the limit.
    pub keep_since: UnixMillis,
}

/// What is there.
#[derive(Debug, Default)]
pub(crate) struct DerivedBook(Mutex<BTreeMap<PathBuf, Entry>>);

#[derive(Debug)]
struct Entry {
    digest: Digest,
    tensor_name: String,
    bytes: u64,
    used: UnixMillis,
}

type Entries<'a> = MutexGuard<'a, BTreeMap<PathBuf, Entry>>;

impl DerivedBook {
    fn lock(&self) -> Entries<'_> {
        // The book is whole after each change, so a panic elsewhere does not matter.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A derived export that is being written. Dropped before its end, it leaves nothing.
#[derive(Debug)]
pub struct DerivedWriter {
    directory: Unfinished,
    tensor: HashedFile,
    tensor_name: String,
}

impl DerivedWriter {
    /// Takes the next bytes of the tensor file.
    ///
    /// # Errors
    /// If the disk refuses.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), FileError> {
        self.tensor.write(bytes)
    }

    /// Ends the export: `files` are written beside the tensor file and the directory gets its name,
    /// unless one of that name is there. Then others make room, down to `limit`.
    ///
    /// # Errors
    /// If a name is not a plain one, the generation has been removed, or the disk refuses.
    pub fn finish(
        self,
        name: DerivedName<'_>,
        files: &[(&str, &[u8])],
        limit: DerivedLimit,
        now: UnixMillis,
    ) -> Result<Derived, ExportError> {
        let Self {
            directory,
            tensor,
            tensor_name,
        } = self;
        let shared = std::sync::Arc::clone(directory.shared());
        check_name(name.format).map_err(|source| ExportError::Format {
            format: name.format.to_owned(),
            source,
        })?;
        exports::check_file_names(&tensor_name, files)?;
        let mut bytes = tensor.length();
        let (file, digest) = tensor.finish()?;
        durable::seal(&file, &directory.path().join(&tensor_name))?;
        for (file_name, content) in files {
            let path = directory.path().join(file_name);
            durable::write(&durable::create(&path)?, &path, content)?;
            bytes += content.len() as u64;
        }
        let path = path_of(&shared, name);
        let _exports = exports::hold(&shared);
        let mut entries = shared.derived.lock();
        if !entries.contains_key(&path) {
            // As for exports: the manifest goes before what is made from the generation.
            let record = name.generation;
            let manifest =
                shared
                    .layout
                    .manifest(&record.base_model, record.slot, record.generation);
            if !durable::exists(&manifest) {
                return Err(exports::removed(record));
            }
            shared
                .disk
                .ensure_directory(shared.layout.root(), path.parent().unwrap_or(&path))?;
            directory.rename(&path)?;
            entries.insert(
                path.clone(),
                Entry {
                    digest,
                    tensor_name,
                    bytes,
                    used: now,
                },
            );
            make_room(&mut entries, limit, &path);
        }
        Ok(found(&mut entries, path, now).unwrap_or(Derived {
            path: PathBuf::new(),
            digest,
            bytes,
        }))
    }
}

/// Removes what was not used for longest, until the rest fits or is safe.
fn make_room(entries: &mut BTreeMap<PathBuf, Entry>, limit: DerivedLimit, newest: &Path) {
    loop {
        let total: u64 = entries.values().map(|entry| entry.bytes).sum();
        if total <= limit.bytes {
            return;
        }
        let oldest = entries
            .iter()
            .filter(|(path, entry)| entry.used < limit.keep_since && path.as_path() != newest)
            .min_by_key(|(_, entry)| entry.used)
            .map(|(path, _)| path.clone());
        let Some(path) = oldest else {
            return;
        };
        entries.remove(&path);
        // What cannot be removed is swept by the next start.
        drop(durable::remove_tree(&path));
    }
}

fn found(
    entries: &mut BTreeMap<PathBuf, Entry>,
    path: PathBuf,
    now: UnixMillis,
) -> Option<Derived> {
    let entry = entries.get_mut(&path)?;
    entry.used = entry.used.max(now);
    Some(Derived {
        digest: entry.digest,
        bytes: entry.bytes,
        path,
    })
}

fn path_of(shared: &Shared, name: DerivedName<'_>) -> PathBuf {
    let directory = name
        .task
        .map_or_else(|| "whole".to_owned(), |task| format!("task-{task}"));
    generation_directory(shared, name.format, name.generation).join(directory)
}

fn generation_directory(shared: &Shared, format: &str, record: &GenerationRecord) -> PathBuf {
    shared
        .layout
        .derived()
        .join(format)
        .join(record.base_model.as_str())
        .join(format!("slot-{}", record.slot))
        .join(record.generation.to_string())
}

/// Removes all that was made from a generation. While exports are held.
pub(crate) fn remove_generation(
    shared: &Shared,
    record: &GenerationRecord,
) -> Result<(), FileError> {
    let mut removed = Ok(());
    for format in durable::list(&shared.layout.derived())? {
        let directory = generation_directory(shared, &format.name, record);
        shared
            .derived
            .lock()
            .retain(|path, _| !path.starts_with(&directory));
        if durable::exists(&directory) {
            removed = removed.and(durable::remove_tree(&directory));
        }
    }
    removed
}

impl Reader {
    /// The derived export of that name, if it is there; it counts as used `now`.
    pub fn derived(&self, name: DerivedName<'_>, now: UnixMillis) -> Option<Derived> {
        let path = path_of(&self.shared, name);
        found(&mut self.shared.derived.lock(), path, now)
    }

    /// Begins a derived export; its tensor file will be called `tensor_name`.
    ///
    /// # Errors
    /// If the disk refuses, or the state is no longer written to.
    pub fn new_derived(&self, tensor_name: &str) -> Result<DerivedWriter, ExportError> {
        if let Some(why) = self.shared.failure() {
            return Err(ExportError::ReadOnly {
                why: why.to_owned(),
            });
        }
        exports::check_file_names(tensor_name, &[])?;
        let directory = Unfinished::create(&self.shared, "derived")?;
        let tensor = HashedFile::create(directory.path().join(tensor_name))?;
        Ok(DerivedWriter {
            directory,
            tensor,
            tensor_name: tensor_name.to_owned(),
        })
    }

    /// Opens all files of a derived export, in the order of their names. Once open they stay
    /// readable.
    ///
    /// # Errors
    /// If it is not there any more, or the disk refuses.
    pub fn open_derived(
        &self,
        name: DerivedName<'_>,
        now: UnixMillis,
    ) -> Result<Vec<ExportedFile>, ReadError> {
        let path = path_of(&self.shared, name);
        let missing = || ReadError::ExportMissing {
            slot: name.generation.slot,
            generation: name.generation.generation,
            format: name.format.to_owned(),
        };
        // Held, so that nothing is evicted between the look and the opening.
        let mut entries = self.shared.derived.lock();
        let entry = entries.get_mut(&path).ok_or_else(missing)?;
        entry.used = entry.used.max(now);
        durable::list(&path)?
            .into_iter()
            .map(|found| {
                let file = TensorFile::open(&found.path)?;
                let digest = if found.name == entry.tensor_name {
                    entry.digest
                } else {
                    file.digest().map_err(|source| FileError {
                        verb: "read",
                        path: found.path.clone(),
                        source,
                    })?
                };
                Ok(ExportedFile {
                    name: found.name,
                    size_bytes: file.len(),
                    digest,
                    file,
                })
            })
            .collect()
    }
}
