//! Where things lie in the state directory.
//!
//! Used by all modules, owned by none. Pure: paths from identifiers, nothing else. Names are valid
//! by type and numbers are decimal, so no path leads outside.
//!
//! ```text
//! LOCK                                            held by the one process that may be here
//! job-ids, revisions                              the highest numbers that may have been given out
//! reserve                                         room that is given up when the disk is full
//! scrub                                           what was read again and when; no part of the state
//! catalog/                                        the database
//! base-models/<name>.json                         what was registered, whole
//! manifests/<base model>/<slot>/<generation>.json what the catalog knows of a generation
//! tensors/<2 digits>/<sha256>                     immutable
//! staging/<job>/{header.json,config.json,tensors} a job; the header alone if it has no upload
//! staging/tmp-*                                   anything that is not whole yet
//! exports/<format>/<base model>/slot-<n>/<generation>/, …/current
//! derived/<format>/<base model>/slot-<n>/<generation>/…/  made on demand
//! runtimes/<holder>/<name>/                       what a program outside holds by path
//! quarantine/<time>/                              what recovery set aside
//! ```

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::digest::Digest;
use crate::durable;
use crate::ids::{BaseModelName, Generation, JobId, SlotIndex, UnixMillis};

/// The name of a staged or temporary thing that is not whole yet starts with this.
pub(crate) const TEMPORARY: &str = "tmp-";
/// The name of the link to the newest export of a slot.
pub(crate) const CURRENT: &str = "current";

/// The paths of one state directory.
#[derive(Debug)]
pub(crate) struct Layout {
    root: PathBuf,
    temporaries: AtomicU64,
}

impl Layout {
    /// The layout of the state in `root`.
    pub(crate) fn new(root: PathBuf) -> Self {
        Self {
            root,
            temporaries: AtomicU64::new(0),
        }
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn lock(&self) -> PathBuf {
        self.root.join("LOCK")
    }

    pub(crate) fn job_ids(&self) -> PathBuf {
        self.root.join("job-ids")
    }

    pub(crate) fn scrub_book(&self) -> PathBuf {
        self.root.join("scrub")
    }

    pub(crate) fn revisions(&self) -> PathBuf {
        self.root.join("revisions")
    }

    /// The file whose blocks are given up when the disk is full.
    pub(crate) fn reserve(&self) -> PathBuf {
        self.root.join("reserve")
    }

    pub(crate) fn catalog(&self) -> PathBuf {
        self.root.join("catalog")
    }

    pub(crate) fn base_models(&self) -> PathBuf {
        self.root.join("base-models")
    }

    pub(crate) fn base_model(&self, name: &BaseModelName) -> PathBuf {
        self.base_models().join(format!("{name}.json"))
    }

    pub(crate) fn manifests(&self) -> PathBuf {
        self.root.join("manifests")
    }

    /// The directory of a slot's manifests.
    pub(crate) fn slot_manifests(&self, base_model: &BaseModelName, slot: SlotIndex) -> PathBuf {
        self.manifests()
            .join(base_model.as_str())
            .join(slot.to_string())
    }

    pub(crate) fn manifest(
        &self,
        base_model: &BaseModelName,
        slot: SlotIndex,
        generation: Generation,
    ) -> PathBuf {
        self.slot_manifests(base_model, slot)
            .join(format!("{generation}.json"))
    }

    pub(crate) fn tensors(&self) -> PathBuf {
        self.root.join("tensors")
    }

    pub(crate) fn tensor(&self, digest: &Digest) -> PathBuf {
        let name = digest.to_string();
        self.tensors().join(&name[..2]).join(name)
    }

    pub(crate) fn staging(&self) -> PathBuf {
        self.root.join("staging")
    }

    /// The directory of a job's staged files.
    pub(crate) fn staged(&self, job: JobId) -> PathBuf {
        self.staging().join(job.to_string())
    }

    pub(crate) fn exports(&self) -> PathBuf {
        self.root.join("exports")
    }

    /// The directory of a slot's exports in one format.
    pub(crate) fn slot_exports(
        &self,
        format: &str,
        base_model: &BaseModelName,
        slot: SlotIndex,
    ) -> PathBuf {
        self.exports()
            .join(format)
            .join(base_model.as_str())
            .join(format!("slot-{slot}"))
    }

    /// The directory of all derived exports, which a start empties.
    pub(crate) fn derived(&self) -> PathBuf {
        self.root.join("derived")
    }

    /// The directory of all holders of adapters.
    pub(crate) fn holders(&self) -> PathBuf {
        self.root.join("runtimes")
    }

    /// The directory of what one holder holds.
    pub(crate) fn holder(&self, holder: &str) -> PathBuf {
        self.holders().join(holder)
    }

    pub(crate) fn quarantine(&self) -> PathBuf {
        self.root.join("quarantine")
    }

    /// Where something that is damaged at `now` goes.
    pub(crate) fn quarantine_at(&self, now: UnixMillis) -> PathBuf {
        // Of equal length for many years, so that the names sort by time.
        self.quarantine().join(format!("{:013}", now.0))
    }

    /// A path that nobody uses: for something that is not whole yet. A start sweeps them all, but
    /// only after recovery, which makes some itself and must not stumble over those of a recovery
    /// that was killed.
    pub(crate) fn temporary(&self, purpose: &str) -> PathBuf {
        loop {
            let number = self.temporaries.fetch_add(1, Ordering::Relaxed);
            let path = self
                .staging()
                .join(format!("{TEMPORARY}{purpose}-{number}"));
            if !durable::exists(&path) {
                return path;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_earlier_process_left_is_not_used_again() {
        let directory = tempfile::tempdir().unwrap();
        let layout = Layout::new(directory.path().to_owned());
        durable::create_directory(&layout.staging()).unwrap();
        for number in [0, 1, 3] {
            durable::create(&layout.staging().join(format!("tmp-revisions-{number}"))).unwrap();
        }
        let next = || layout.temporary("revisions");
        assert_eq!(next(), layout.staging().join("tmp-revisions-2"));
        assert_eq!(next(), layout.staging().join("tmp-revisions-4"));
    }
}
