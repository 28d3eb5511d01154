//! The directory that an export is to become: looked at first, taken over by rename at the end.

use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::export::Export;
use crate::error::{Error, Target};
use crate::files;

/// A directory that may be written: it does not exist, or is empty, or may be replaced.
#[derive(Debug)]
pub(super) struct Directory {
    /// Where the target is, links resolved.
    path: PathBuf,
    parent: PathBuf,
    replace: bool,
}

impl Directory {
    /// Looks at the target, and makes its parents.
    pub(super) fn new(path: &Path, replace: bool) -> Result<Self, Error> {
        let refused = |why| Error::Target {
            path: path.to_owned(),
            why,
        };
        // A link to a directory stands for that directory.
        let path = match path.canonicalize() {
            Ok(existing) => existing,
            Err(_) => std::path::absolute(path).map_err(Error::file("find", path))?,
        };
        let parent = match (path.parent(), path.file_name()) {
            (Some(parent), Some(_)) => parent.to_owned(),
            _ => return Err(refused(Target::Nameless)),
        };
        files::create_directories(&parent)?;
        let directory = Self {
            path,
            parent,
            replace,
        };
        if let Some(why) = directory.obstacle()? {
            return Err(refused(why));
        }
        Ok(directory)
    }

    /// A new directory beside the target, which goes when it is dropped. It has the permissions
    /// that any new directory of the user would have.
    pub(super) fn temporary(&self) -> Result<TempDir, Error> {
        use std::os::unix::fs::PermissionsExt as _;
        tempfile::Builder::new()
            .prefix(".kmerge-pull-")
            .permissions(std::fs::Permissions::from_mode(0o777))
            .tempdir_in(&self.parent)
            .map_err(Error::file("create a directory in", &self.parent))
    }

    /// Gives a finished export the target's name.
    pub(super) fn publish(self, export: Export) -> Result<PathBuf, Error> {
        let (new, files) = export.finish()?;
        // What was there is moved aside, into a directory that goes at the end of this function.
        let aside = if self.entries()?.is_some_and(|names| !names.is_empty()) {
            // It is looked at again: much can have happened since.
            let foreign = self.foreign(|name| {
                is_of_an_export(name) || files.iter().any(|file| file.name == name)
            })?;
            if let Some(why) = foreign.or((!self.replace).then_some(Target::NotEmpty)) {
                return Err(Error::Target {
                    path: self.path,
                    why,
                });
            }
            let aside = self.temporary()?;
            files::rename(&self.path, &aside.path().join("replaced"))?;
            Some(aside)
        } else {
            None
        };
        if let Err(error) = files::rename(new.path(), &self.path) {
            if let Some(aside) = &aside {
                files::rename(&aside.path().join("replaced"), &self.path)?;
            }
            return Err(error);
        }
        // The rename took the directory away from the guard.
        let _ = new.keep();
        files::sync_directory(&self.parent)?;
        Ok(self.path)
    }

    /// What is in the way now, if anything.
    fn obstacle(&self) -> Result<Option<Target>, Error> {
        match self.path.symlink_metadata() {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::file("look at", &self.path)(error)),
            Ok(metadata) if !metadata.is_dir() => return Ok(Some(Target::NotADirectory)),
            Ok(_) => {}
        }
        let empty = self.entries()?.is_none_or(|names| names.is_empty());
        if empty {
            Ok(None)
        } else if self.replace {
            self.foreign(is_of_an_export)
        } else {
            Ok(Some(Target::NotEmpty))
        }
    }

    /// The first thing in the target that `known` does not know, or that is not a plain file.
    fn foreign(&self, known: impl Fn(&str) -> bool) -> Result<Option<Target>, Error> {
        let entries = self.entries()?.unwrap_or_default();
        let foreign = entries.into_iter().find(|name| {
            let is_file = self
                .path
                .join(name)
                .symlink_metadata()
                .is_ok_and(|m| m.is_file());
            !(is_file && known(name))
        });
        Ok(foreign.map(Target::Foreign))
    }

    /// The names in the target, in order; `None` if it does not exist.
    fn entries(&self) -> Result<Option<Vec<String>>, Error> {
        let listing = match self.path.read_dir() {
            Ok(listing) => listing,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::file("list", &self.path)(error)),
        };
        let mut names = Vec::new();
        for entry in listing {
            let entry = entry.map_err(Error::file("list", &self.path))?;
            names.push(entry.file_name().to_string_lossy().into_owned());
        }
        names.sort_unstable();
        Ok(Some(names))
    }
}

/// Whether a name is one that an export of some format has.
fn is_of_an_export(name: &str) -> bool {
    name.starts_with("adapter_") || ["adapter.gguf", "adapters.safetensors"].contains(&name)
}

#[cfg(test)]
mod tests;
