//! A safetensors file on this side: where each tensor is, and its bytes. The files are the user's
//! own and may be of any size; what their headers claim is checked before it is used.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::numbers::Kind;
use super::{failed, unusable};
use crate::failure::Failure;
use crate::files;

/// Longest header read; the format's own limit.
const MAX_HEADER: u64 = 100_000_000;

/// One tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) name: String,
    pub(super) dtype: String,
    pub(super) shape: Vec<usize>,
    /// Counted from the start of the data.
    begin: u64,
    pub(super) bytes: u64,
}

/// A file, open.
#[derive(Debug)]
pub(super) struct Container {
    pub(super) path: PathBuf,
    file: File,
    /// Everything before the data, as it is in the file.
    pub(super) head: Vec<u8>,
    /// In the order of their data, which they cover without gap or overlap.
    pub(super) entries: Vec<Entry>,
    /// Of the whole file.
    pub(super) bytes: u64,
}

#[derive(Deserialize)]
struct Described {
    dtype: String,
    shape: Vec<usize>,
    data_offsets: [u64; 2],
}

impl Container {
    /// Opens a file and reads its header.
    pub(super) fn open(path: &Path) -> Result<Self, Failure> {
        let file = files::open(path)?;
        let bytes = file
            .metadata()
            .map_err(|error| failed("look at", path, &error))?
            .len();
        let mut length = [0; 8];
        let damaged = |why: &str| unusable(path, format!("is no whole safetensors file: {why}"));
        if bytes < 8 {
            return Err(damaged("it is too short"));
        }
        read_at(&file, path, 0, &mut length)?;
        let length = u64::from_le_bytes(length);
        if length > MAX_HEADER.min(bytes - 8) {
            return Err(damaged("its header is longer than it"));
        }
        let mut head = vec![0; 8 + usize::try_from(length).expect("at most MAX_HEADER")];
        read_at(&file, path, 0, &mut head)?;
        let described: BTreeMap<String, serde_json::Value> =
            serde_json::from_slice(&head[8..]).map_err(|error| damaged(&error.to_string()))?;
        let mut entries = Vec::new();
        for (name, value) in described {
            if name == "__metadata__" {
                continue;
            }
            let Described {
                dtype,
                shape,
                data_offsets: [begin, end],
            } = serde_json::from_value(value)
                .map_err(|error| damaged(&format!("{name}: {error}")))?;
            let bytes = end
                .checked_sub(begin)
                .ok_or_else(|| damaged(&format!("{name} ends before it begins")))?;
            let expected = Kind::of(&dtype).map(|kind| {
                shape
                    .iter()
                    .try_fold(kind.size(), |product, &size| product.checked_mul(size))
                    .and_then(|size| u64::try_from(size).ok())
            });
            if expected.is_some_and(|expected| expected != Some(bytes)) {
                return Err(damaged(&format!("{name} has not the bytes of its shape")));
            }
            entries.push(Entry {
                name,
                dtype,
                shape,
                begin,
                bytes,
            });
        }
        entries.sort_by_key(|entry| (entry.begin, entry.bytes));
        let mut end = 0;
        for entry in &entries {
            if entry.begin != end {
                return Err(damaged(&format!(
                    "{} is not where it should be",
                    entry.name
                )));
            }
            end = entry.begin.saturating_add(entry.bytes);
        }
        if end != bytes - 8 - length {
            return Err(damaged("its tensors do not end where it does"));
        }
        Ok(Self {
            path: path.to_owned(),
            file,
            head,
            entries,
            bytes,
        })
    }

    pub(super) fn entry(&self, name: &str) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.name == name)
    }

    /// Fills `buffer` with a tensor's bytes from `from` on.
    pub(super) fn read(&self, entry: &Entry, from: u64, buffer: &mut [u8]) -> Result<(), Failure> {
        let start = u64::try_from(self.head.len()).expect("a header is small");
        read_at(&self.file, &self.path, start + entry.begin + from, buffer)
    }

    /// All of a small tensor as f32.
    pub(super) fn values(&self, entry: &Entry) -> Result<Vec<f32>, Failure> {
        let kind = Kind::of(&entry.dtype).ok_or_else(|| {
            unusable(&self.path, format!("has {} as {}", entry.name, entry.dtype))
        })?;
        let mut bytes = vec![0; usize::try_from(entry.bytes).unwrap_or(usize::MAX)];
        self.read(entry, 0, &mut bytes)?;
        let mut values = Vec::new();
        kind.widen(&bytes, &mut values);
        Ok(values)
    }
}

fn read_at(file: &File, path: &Path, offset: u64, buffer: &mut [u8]) -> Result<(), Failure> {
    file.read_exact_at(buffer, offset)
        .map_err(|error| failed("read", path, &error))
}
