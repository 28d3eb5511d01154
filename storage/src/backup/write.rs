//! A snapshot written as an archive.
//!
//! What holds: bytes that are not what was written once are never given out as a backup: every file
//! is compared with its digest on the way, and the writing ends with an error if it differs.

use std::io;

use super::DOCUMENT_LIMIT;
use super::contents::{BackupContents, EntryName, StagedPart};
use super::snapshot::{Snapshot, file};
use super::tar::{self, Header};
use crate::base_model_file::BaseModelFile;
use crate::compact;
use crate::digest::{Digest, Hasher};
use crate::error::{BackupError, FileError};
use crate::failpoint;
use crate::manifest::Manifest;
use crate::sealed;
use crate::staging::StagedHeader;
use crate::stored::Stored;
use crate::tensors::TensorFile;

/// Bytes read at once.
const PIECE: u64 = 256 * 1024;

/// A backup that is ready to be written.
#[derive(Debug)]
pub struct Backup {
    /// What it holds.
    pub contents: BackupContents,
    /// The length of the archive in bytes.
    pub length: u64,
    snapshot: Snapshot,
    /// The entries that are no files, in order, without the first and the last.
    documents: Vec<(EntryName, Vec<u8>)>,
}

/// An archive that was written whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    /// The SHA-256 of all its bytes.
    pub digest: Digest,
    /// Its length in bytes.
    pub length: u64,
}

/// Takes the bytes of an archive.
pub(super) type Sink<'a> = dyn FnMut(&[u8]) -> io::Result<()> + 'a;

impl Snapshot {
    /// Makes everything ready: what is left is to copy files.
    ///
    /// # Errors
    /// If the catalog is larger than a backup takes.
    pub fn prepare(self) -> Result<Backup, BackupError> {
        let mut documents = vec![(EntryName::Catalog, lines(&self))];
        for (name, state) in &self.catalog.base_models {
            let document = sealed::seal(&BaseModelFile::of(state));
            documents.push((EntryName::BaseModel(name.clone()), document));
        }
        let lengths = documents
            .iter()
            .map(|(name, document)| (name, document.len() as u64))
            .chain(self.files.iter().map(|(name, length)| (name, *length)));
        let (mut bytes, mut length) = (0, 0);
        for (name, of_entry) in lengths.clone() {
            check_length(name, of_entry)?;
            bytes += of_entry;
            length += tar::room(of_entry);
        }
        let catalog = &self.catalog;
        let slots = || {
            catalog
                .base_models
                .values()
                .flat_map(|of| of.slots.values())
        };
        let is_tensor = |name: &&EntryName| matches!(name, EntryName::Tensor(_));
        let contents = BackupContents {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            created: self.now,
            revision: catalog.revision,
            base_models: catalog.base_models.len() as u64,
            slots: slots().count() as u64,
            tasks: slots().map(|slot| slot.members.len() as u64).sum(),
            jobs: catalog.jobs.len() as u64,
            unfinished_jobs: catalog.unfinished_jobs().count() as u64,
            tensors: lengths.map(|(name, _)| name).filter(is_tensor).count() as u64,
            bytes,
            job_ids: self.job_ids,
            revisions: self.revisions,
        };
        let names = documents.iter().map(|(name, _)| name);
        let names = names.chain(self.files.iter().map(|(name, _)| name));
        let names = names.chain([&EntryName::Contents]);
        let sums: u64 = names
            .map(|name| sum_line(name, &Digest::of(b"")).len() as u64)
            .sum();
        let first = sealed::seal(&contents).len() as u64;
        length += tar::room(first) + tar::room(sums) + 2 * tar::BLOCK as u64;
        Ok(Backup {
            contents,
            length,
            snapshot: self,
            documents,
        })
    }
}

/// The catalog's records, a line each. Configurations of base models are in their own files.
fn lines(snapshot: &Snapshot) -> Vec<u8> {
    let mut lines = Vec::new();
    compact::records(&snapshot.catalog, &mut |record| {
        if !matches!(record, Stored::BaseModelConfig(..)) {
            lines.extend_from_slice(record.line().as_bytes());
            lines.push(b'\n');
        }
    });
    lines
}

fn check_length(name: &EntryName, bytes: u64) -> Result<(), BackupError> {
    let limit = if name.is_document() {
        DOCUMENT_LIMIT
    } else {
        tar::LENGTH_LIMIT
    };
    if bytes <= limit {
        return Ok(());
    }
    let entry = name.to_string();
    Err(BackupError::TooLarge {
        entry,
        bytes,
        limit,
    })
}

/// The line of an entry in `SHA256SUMS`.
pub(super) fn sum_line(name: &EntryName, digest: &Digest) -> String {
    format!("{digest}  {name}\n")
}

impl Backup {
    /// Writes the archive. Nothing that `sink` has taken is a backup before this returns.
    ///
    /// # Errors
    /// If a file is not what was written, cannot be read, or `sink` refuses.
    pub fn write(self, sink: &mut Sink<'_>) -> Result<Written, BackupError> {
        let Self {
            contents,
            snapshot,
            documents,
            ..
        } = self;
        let mut archive = Archive {
            sink,
            total: Hasher::default(),
            length: 0,
            seconds: contents.created.0 / 1000,
            sums: String::new(),
        };
        archive.document(&EntryName::Contents, &sealed::seal(&contents))?;
        for (name, document) in &documents {
            archive.document(name, document)?;
        }
        for ((name, length), number) in snapshot.files.iter().zip(0..) {
            let path = file(&snapshot.directory, number);
            let tensor = TensorFile::open(&path)?;
            let unreadable = |source| FileError {
                verb: "read",
                path: path.clone(),
                source,
            };
            archive.begin(name, *length)?;
            let mut hasher = Hasher::default();
            let mut whole = Vec::new();
            let mut offset = 0;
            while offset < *length {
                let piece = usize::try_from(PIECE.min(length - offset)).unwrap_or(0);
                let mut buffer = vec![0; piece];
                tensor
                    .read_exact_at(&mut buffer, offset)
                    .map_err(unreadable)?;
                hasher.update(&buffer);
                archive.give(&buffer)?;
                if name.is_document() {
                    whole.extend_from_slice(&buffer);
                }
                offset += buffer.len() as u64;
            }
            let digest = hasher.finish();
            if !is_what_was_written(&snapshot, name, &digest, &whole) {
                let entry = name.to_string();
                return Err(BackupError::Damaged { entry });
            }
            archive.end(name, *length, &digest)?;
            failpoint::hit("backup.file_written");
        }
        archive.finish()
    }
}

/// Whether a file is what its name and the catalog say.
fn is_what_was_written(
    snapshot: &Snapshot,
    name: &EntryName,
    digest: &Digest,
    document: &[u8],
) -> bool {
    match name {
        EntryName::Tensor(expected) => digest == expected,
        EntryName::Manifest(..) => sealed::unseal::<Manifest>(document).is_ok(),
        EntryName::Staged(job, part) => match (part, snapshot.catalog.jobs.get(job)) {
            (_, None) => false,
            (StagedPart::Header, Some(_)) => sealed::unseal::<StagedHeader>(document).is_ok(),
            (StagedPart::Config, Some(job)) => *digest == job.upload.config_digest,
            (StagedPart::Tensors, Some(job)) => *digest == job.upload.digest,
        },
        EntryName::Contents | EntryName::Catalog | EntryName::BaseModel(_) | EntryName::Sums => {
            true
        }
    }
}

/// An archive as it is written.
struct Archive<'a, 'b> {
    sink: &'a mut Sink<'b>,
    total: Hasher,
    length: u64,
    seconds: u64,
    sums: String,
}

impl Archive<'_, '_> {
    fn give(&mut self, bytes: &[u8]) -> Result<(), BackupError> {
        self.total.update(bytes);
        self.length += bytes.len() as u64;
        (self.sink)(bytes).map_err(BackupError::Sink)
    }

    fn begin(&mut self, name: &EntryName, length: u64) -> Result<(), BackupError> {
        let header = Header {
            name: name.to_string(),
            length,
            seconds: self.seconds,
        };
        let block = header.block().ok_or_else(|| BackupError::TooLarge {
            entry: name.to_string(),
            bytes: length,
            limit: tar::LENGTH_LIMIT,
        })?;
        self.give(&block)
    }

    fn end(&mut self, name: &EntryName, length: u64, digest: &Digest) -> Result<(), BackupError> {
        self.sums.push_str(&sum_line(name, digest));
        self.give(&[0; tar::BLOCK][..tar::padding(length)])
    }

    fn document(&mut self, name: &EntryName, document: &[u8]) -> Result<(), BackupError> {
        let length = document.len() as u64;
        self.begin(name, length)?;
        self.give(document)?;
        self.end(name, length, &Digest::of(document))
    }

    fn finish(mut self) -> Result<Written, BackupError> {
        let sums = std::mem::take(&mut self.sums);
        self.document(&EntryName::Sums, sums.as_bytes())?;
        self.give(&[0; 2 * tar::BLOCK])?;
        Ok(Written {
            digest: self.total.finish(),
            length: self.length,
        })
    }
}
