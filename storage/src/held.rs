//! Adapters that a program outside holds by path: whole directories under names of the holder's own,
//! there until they are released, whatever becomes of the generation or of the cache they came from.
//!
//! Each holder has one directory and is the only one that writes in it. A held adapter's files are
//! second names of the files they were taken from, or copies where the directory is on another file
//! system, so holding what is stored anyway costs no room. What holds: a name is there whole and
//! durable or not at all; it is never changed; a restart keeps it, because whoever was told the path
//! may read it again at any time.
//!
//! ```text
//! runtimes/<holder>/<name>/…
//! ```

use std::path::{Path, PathBuf};

use crate::digest::Digest;
use crate::durable::{self, Disk};
use crate::error::{ExportError, FileError};
use crate::exports::ExportedFile;
use crate::read::Reader;
use crate::tensors::TensorFile;

/// The longest name of a held adapter, in bytes: what file systems take.
const NAME_BYTES: usize = 255;

/// What is not whole yet begins with this; no adapter's name does.
const UNFINISHED: &str = ".unfinished-";

/// The adapters of one holder.
#[derive(Debug)]
pub struct Holdings {
    directory: PathBuf,
    /// Of its own: that a file cannot be held is no reason to stop writing the state.
    disk: Disk,
}

impl Reader {
    /// The adapters that `holder` holds, in the state directory or in `elsewhere`, which is made if
    /// it is not there. Whatever was not finished is removed.
    ///
    /// # Errors
    /// If the holder's name is not a plain one, or the disk refuses.
    pub fn holdings(
        &self,
        holder: &str,
        elsewhere: Option<&Path>,
    ) -> Result<Holdings, ExportError> {
        check(holder)?;
        let disk = Disk::default();
        let directory = match elsewhere {
            Some(directory) => {
                durable::create_root(directory)?;
                directory.to_owned()
            }
            None => {
                let layout = &self.shared.layout;
                let directory = layout.holder(holder);
                disk.ensure_directory(layout.root(), &directory)?;
                directory
            }
        };
        for entry in durable::list(&directory)? {
            if entry.name.starts_with(UNFINISHED) {
                durable::remove_tree(&entry.path)?;
            }
        }
        Ok(Holdings { directory, disk })
    }

    /// Releases all that is held in the state directory by others than `holders`. Gives their names.
    ///
    /// # Errors
    /// If the disk refuses.
    pub fn release_other_holders(&self, holders: &[&str]) -> Result<Vec<String>, FileError> {
        let mut gone = Vec::new();
        for entry in durable::list(&self.shared.layout.holders())? {
            if !holders.contains(&entry.name.as_str()) {
                durable::remove_tree(&entry.path)?;
                gone.push(entry.name);
            }
        }
        Ok(gone)
    }
}

impl Holdings {
    /// Where they are.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The names that are held, in order.
    ///
    /// # Errors
    /// If the disk refuses.
    pub fn names(&self) -> Result<Vec<String>, FileError> {
        let listed = durable::list(&self.directory)?;
        Ok(listed
            .into_iter()
            .filter(|entry| entry.is_directory && is_plain(&entry.name))
            .map(|entry| entry.name)
            .collect())
    }

    /// The directory of `name`, if that is held.
    pub fn find(&self, name: &str) -> Option<PathBuf> {
        let path = self.directory.join(name);
        (is_plain(name) && path.is_dir()).then_some(path)
    }

    /// Holds all files of the directory `from` under `name`, or finds that held already. Gives the
    /// directory.
    ///
    /// 1. Each file gets a second name, or a copy, in a directory that is not whole yet, and is made
    ///    durable: what is made on demand is not when it comes.
    /// 2. The directory gets its name, durably.
    ///
    /// # Errors
    /// If the name is not a plain one, `from` has gone, or the disk refuses.
    pub fn hold(&self, name: &str, from: &Path) -> Result<PathBuf, ExportError> {
        check(name)?;
        let path = self.directory.join(name);
        if path.is_dir() {
            return Ok(path);
        }
        // 1.
        let unfinished = self.directory.join(format!("{UNFINISHED}{name}"));
        durable::remove_tree(&unfinished)?;
        durable::create_directory(&unfinished)?;
        let filled = self.fill(&unfinished, from);
        if let Err(error) = filled {
            // The next attempt or the next start removes what stays.
            drop(durable::remove_tree(&unfinished));
            return Err(error.into());
        }
        // 2.
        durable::rename(&unfinished, &path)?;
        self.disk.sync_directory(&self.directory)?;
        Ok(path)
    }

    fn fill(&self, unfinished: &Path, from: &Path) -> Result<(), FileError> {
        let files = durable::list(from)?;
        if files.is_empty() {
            // Never an adapter without files: its source went away a moment ago.
            return Err(FileError {
                verb: "list",
                path: from.to_owned(),
                source: std::io::ErrorKind::NotFound.into(),
            });
        }
        for file in files {
            let to = unfinished.join(&file.name);
            match durable::link(&file.path, &to) {
                Err(error) if error.source.kind() == std::io::ErrorKind::CrossesDevices => {
                    durable::copy(&file.path, &to)?;
                }
                linked => linked?,
            }
            self.disk.sync(&durable::open(&to)?, &to)?;
        }
        self.disk.sync_directory(unfinished)
    }

    /// Opens all files held under `name`, in the order of their names, with their digests.
    ///
    /// # Errors
    /// If there are none, or the disk refuses.
    pub fn open(&self, name: &str) -> Result<Vec<ExportedFile>, ExportError> {
        check(name)?;
        let mut files = Vec::new();
        for entry in durable::list(&self.directory.join(name))? {
            let file = TensorFile::open(&entry.path)?;
            let digest: Digest = file.digest().map_err(|source| FileError {
                verb: "read",
                path: entry.path.clone(),
                source,
            })?;
            files.push(ExportedFile {
                name: entry.name,
                size_bytes: file.len(),
                digest,
                file,
            });
        }
        Ok(files)
    }

    /// Releases what is held under `name`. It is no failure if there is nothing.
    ///
    /// # Errors
    /// If the name is not a plain one, or the disk refuses.
    pub fn release(&self, name: &str) -> Result<(), ExportError> {
        check(name)?;
        let unfinished = self.directory.join(format!("{UNFINISHED}{name}"));
        let path = self.directory.join(name);
        if !durable::exists(&path) {
            return Ok(());
        }
        // The name goes at once, so that nobody finds half of it.
        durable::remove_tree(&unfinished)?;
        durable::rename(&path, &unfinished)?;
        Ok(durable::remove_tree(&unfinished)?)
    }
}

fn is_plain(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= NAME_BYTES - UNFINISHED.len()
        && !name.starts_with('.')
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
}

fn check(name: &str) -> Result<(), ExportError> {
    if is_plain(name) {
        Ok(())
    } else {
        Err(ExportError::FileName {
            name: name.to_owned(),
        })
    }
}
