//! What must be on the disk of a stopped daemon, and what must not: every byte belongs to a promise.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use kmerge_client::v1;
use kmerge_storage::Digest;

use super::Oracle;

impl Oracle {
    /// Holds the directory of a stopped daemon against all promises. [`Oracle::check_served`] comes
    /// first.
    pub(crate) fn check_disk(&self, state: &Path) {
        let promises = self.promises();
        for slot in &promises.listed {
            manifest_is_alone(state, slot);
            if is_published(slot) {
                current_is_whole(state, slot);
            }
        }
        let live: BTreeSet<String> = promises.listed.iter().map(|s| s.sha256.clone()).collect();
        // (d) and (f): files under their hash, and no others.
        assert_eq!(tensors(state), live, "tensor files");
        assert_eq!(names(&state.join("staging")), BTreeSet::new());
    }
}

/// Slots that keep their members apart have no export of their own.
fn is_published(slot: &v1::Slot) -> bool {
    slot.budget_bytes.is_none()
}

/// (f) Superseded generations leave nothing behind.
fn manifest_is_alone(state: &Path, slot: &v1::Slot) {
    let manifests = state.join(format!("manifests/{}/{}", slot.base_model, slot.slot));
    let manifest = format!("{}.json", slot.generation);
    assert_eq!(names(&manifests), BTreeSet::from([manifest]));
}

/// (c) `current` names exactly one generation, which is whole.
fn current_is_whole(state: &Path, slot: &v1::Slot) {
    let exports = state.join(format!(
        "exports/peft/{}/slot-{}",
        slot.base_model, slot.slot
    ));
    let generation = slot.generation.to_string();
    let current = std::fs::read_link(exports.join("current")).unwrap();
    assert_eq!(current, PathBuf::from(&generation));
    assert_eq!(
        names(&exports),
        BTreeSet::from(["current".to_owned(), generation])
    );
    let export = exports.join("current");
    assert_eq!(
        names(&export),
        BTreeSet::from([
            "adapter_config.json".to_owned(),
            "adapter_model.safetensors".to_owned()
        ])
    );
    assert_eq!(hash(&export.join("adapter_model.safetensors")), slot.sha256);
}

/// The names in a directory; none if it is not there.
fn names(directory: &Path) -> BTreeSet<String> {
    let entries = std::fs::read_dir(directory).into_iter().flatten();
    entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

/// SHA-256 of a file.
fn hash(path: &Path) -> String {
    let bytes = std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    Digest::of(&bytes).to_string()
}

/// The tensor files, each of which must have its hash as its name.
fn tensors(state: &Path) -> BTreeSet<String> {
    let tensors = state.join("tensors");
    let mut found = BTreeSet::new();
    for part in names(&tensors) {
        for name in names(&tensors.join(&part)) {
            assert_eq!(
                hash(&tensors.join(&part).join(&name)),
                name,
                "a tensor file"
            );
            found.insert(name);
        }
    }
    found
}
