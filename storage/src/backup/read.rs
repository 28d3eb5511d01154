//! An archive read back: every byte of it is checked, and what it holds is given out piece by piece.
//!
//! Nothing here trusts a length or a name: documents are read up to a limit, names are parsed, and the
//! order of entries rules out duplicates. What holds: when [`Archive::read`] returns, all that was
//! given out is what a kmerge wrote, and it belongs together.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{ErrorKind, Read};

use super::DOCUMENT_LIMIT;
use super::contents::{BackupContents, EntryName, StagedPart};
use super::tar::{self, Block, Header};
use super::write::sum_line;
use crate::base_model_file::BaseModelFile;
use crate::catalog::Catalog;
use crate::digest::{Digest, Hasher};
use crate::error::RestoreError;
use crate::ids::JobId;
use crate::load;
use crate::manifest::Manifest;
use crate::records::UploadFacts;
use crate::sealed::{self, Document, SCHEMA, SealError};
use crate::staging::StagedHeader;
use crate::stored::{Stored, config_pieces};

/// Bytes read at once.
const PIECE: usize = 256 * 1024;

/// Takes what an archive holds. The bytes of an entry come in order, and before they are checked.
pub(crate) trait Taker {
    /// The archive begins.
    fn contents(&mut self, contents: &BackupContents) -> Result<(), RestoreError>;
    /// An entry begins.
    fn begin(&mut self, name: &EntryName) -> Result<(), RestoreError>;
    /// Its next bytes.
    fn bytes(&mut self, bytes: &[u8]) -> Result<(), RestoreError>;
    /// It is whole and right.
    fn end(&mut self) -> Result<(), RestoreError>;
}

/// Takes nothing.
pub(crate) struct Nobody;

impl Taker for Nobody {
    fn contents(&mut self, _: &BackupContents) -> Result<(), RestoreError> {
        Ok(())
    }
    fn begin(&mut self, _: &EntryName) -> Result<(), RestoreError> {
        Ok(())
    }
    fn bytes(&mut self, _: &[u8]) -> Result<(), RestoreError> {
        Ok(())
    }
    fn end(&mut self) -> Result<(), RestoreError> {
        Ok(())
    }
}

/// What an archive held, all of it checked.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) contents: BackupContents,
    /// The records of the catalog, with the configurations of base models.
    pub(crate) records: Vec<Stored>,
    /// The same, put together.
    pub(crate) catalog: Catalog,
}

/// An archive that is read.
pub(crate) struct Archive<'a> {
    input: &'a mut dyn Read,
    offset: u64,
    entry: String,
    seconds: u64,
    sums: String,
    records: Vec<Stored>,
    manifests: BTreeMap<EntryName, Manifest>,
    base_models: Vec<BaseModelFile>,
    uploads: BTreeMap<JobId, UploadFacts>,
    entries: BTreeMap<EntryName, u64>,
}

impl<'a> Archive<'a> {
    /// Reads from `input`.
    pub(crate) fn new(input: &'a mut dyn Read) -> Self {
        Self {
            input,
            offset: 0,
            entry: "the beginning".to_owned(),
            seconds: 0,
            sums: String::new(),
            records: Vec::new(),
            manifests: BTreeMap::new(),
            base_models: Vec::new(),
            uploads: BTreeMap::new(),
            entries: BTreeMap::new(),
        }
    }

    fn damaged(&self, what: &'static str) -> RestoreError {
        RestoreError::Damaged {
            offset: self.offset,
            entry: self.entry.clone(),
            what,
        }
    }

    /// Fills `buffer`.
    fn fill(&mut self, buffer: &mut [u8]) -> Result<(), RestoreError> {
        match self.input.read_exact(buffer) {
            Ok(()) => {
                self.offset += buffer.len() as u64;
                Ok(())
            }
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => {
                Err(self.damaged("it ends here"))
            }
            Err(error) => Err(RestoreError::Source(error)),
        }
    }

    /// Reads all of it.
    pub(crate) fn read(mut self, taker: &mut dyn Taker) -> Result<Held, RestoreError> {
        let contents = self.read_contents()?;
        taker.contents(&contents)?;
        let mut last = EntryName::Contents;
        let mut bytes = 0;
        loop {
            let (name, length) = self.next_header(&last)?;
            if name == EntryName::Sums {
                self.read_sums(length)?;
                break;
            }
            taker.begin(&name)?;
            self.read_entry(&name, length, taker)?;
            taker.end()?;
            bytes += length;
            self.entries.insert(name.clone(), length);
            last = name;
        }
        self.read_end()?;
        if bytes != contents.bytes {
            return Err(inconsistent("its length is not the one that it states"));
        }
        self.assemble(contents)
    }

    fn next_header(&mut self, last: &EntryName) -> Result<(EntryName, u64), RestoreError> {
        self.entry = format!("what follows {last}");
        let mut block = [0; tar::BLOCK];
        self.fill(&mut block)?;
        let header = self.header(&block)?;
        let name: EntryName = header
            .name
            .parse()
            .map_err(|_| self.damaged("an entry has a name that no backup has"))?;
        self.entry = name.to_string();
        if name <= *last {
            return Err(self.damaged("an entry is out of order or there twice"));
        }
        if header.seconds != self.seconds {
            return Err(self.damaged("an entry is of another time"));
        }
        if name.is_document() && header.length > DOCUMENT_LIMIT {
            return Err(self.damaged("a document is too long"));
        }
        Ok((name, header.length))
    }

    fn header(&self, block: &Block) -> Result<Header, RestoreError> {
        Header::parse(block)
            .ok_or_else(|| self.damaged("there is no header of a plain file where one must be"))
    }

    fn read_contents(&mut self) -> Result<BackupContents, RestoreError> {
        let not_one = |what| RestoreError::NotABackup { what };
        let mut block = [0; tar::BLOCK];
        match self.fill(&mut block) {
            Err(RestoreError::Damaged { .. }) => return Err(not_one("it is too short")),
            filled => filled?,
        }
        let header = Header::parse(&block);
        let header = header.ok_or_else(|| not_one("it does not begin as a tar archive of ours"))?;
        let name = EntryName::Contents;
        if header.name != name.to_string() || header.length > DOCUMENT_LIMIT {
            return Err(not_one("its first entry is not kmerge-backup.json"));
        }
        self.entry.clone_from(&header.name);
        let document = self.document(header.length, &mut Nobody)?;
        let contents = self.unseal::<BackupContents>(&document)?;
        self.seconds = contents.created.0 / 1000;
        if header.seconds != self.seconds {
            return Err(self.damaged("an entry is of another time"));
        }
        self.sums.push_str(&sum_line(&name, &Digest::of(&document)));
        Ok(contents)
    }

    /// The bytes of an entry with the zeros after them.
    fn document(&mut self, length: u64, taker: &mut dyn Taker) -> Result<Vec<u8>, RestoreError> {
        let mut document = Vec::new();
        self.content(length, &mut |piece| {
            document.extend_from_slice(piece);
            taker.bytes(piece)
        })?;
        Ok(document)
    }

    /// Shows the bytes of an entry, and reads the zeros after them. Memory is taken for what is there,
    /// not for what was announced.
    fn content(
        &mut self,
        length: u64,
        show: &mut dyn FnMut(&[u8]) -> Result<(), RestoreError>,
    ) -> Result<(), RestoreError> {
        let mut buffer = vec![0; PIECE];
        let mut left = length;
        while left > 0 {
            let piece = usize::try_from(left).unwrap_or(PIECE).min(PIECE);
            self.fill(&mut buffer[..piece])?;
            show(&buffer[..piece])?;
            left -= piece as u64;
        }
        let padding = &mut buffer[..tar::padding(length)];
        self.fill(padding)?;
        match padding.iter().all(|&byte| byte == 0) {
            true => Ok(()),
            false => Err(self.damaged("there is something between two entries")),
        }
    }

    fn unseal<T: Document>(&self, document: &[u8]) -> Result<T, RestoreError> {
        sealed::unseal(document).map_err(|error| match error {
            SealError::Damaged => self.damaged("the document is not what was written"),
            SealError::NewerSchema(found) => RestoreError::NewerFormat {
                found,
                supported: SCHEMA,
            },
        })
    }

    fn read_entry(
        &mut self,
        name: &EntryName,
        length: u64,
        taker: &mut dyn Taker,
    ) -> Result<(), RestoreError> {
        let digest = if name.is_document() {
            let document = self.document(length, taker)?;
            let digest = Digest::of(&document);
            self.check_document(name, &document, &digest)?;
            digest
        } else {
            let mut hasher = Hasher::default();
            self.content(length, &mut |piece| {
                hasher.update(piece);
                taker.bytes(piece)
            })?;
            let digest = hasher.finish();
            let is_right = match name {
                EntryName::Tensor(expected) => digest == *expected,
                EntryName::Staged(job, _) => self
                    .uploads
                    .get(job)
                    .is_some_and(|upload| upload.digest == digest && upload.size_bytes == length),
                EntryName::Contents
                | EntryName::Catalog
                | EntryName::BaseModel(_)
                | EntryName::Manifest(..)
                | EntryName::Sums => false,
            };
            if !is_right {
                return Err(self.damaged("the bytes are not those that were written"));
            }
            digest
        };
        self.sums.push_str(&sum_line(name, &digest));
        Ok(())
    }

    fn check_document(
        &mut self,
        name: &EntryName,
        document: &[u8],
        digest: &Digest,
    ) -> Result<(), RestoreError> {
        let is_its_own = match name {
            EntryName::Catalog => {
                self.records = self.records(document)?;
                true
            }
            EntryName::BaseModel(base_model) => {
                let file = self.unseal::<BaseModelFile>(document)?;
                let is_its_own = file.record.name == *base_model;
                self.base_models.push(file);
                is_its_own
            }
            EntryName::Manifest(base_model, slot, generation) => {
                let manifest = self.unseal::<Manifest>(document)?;
                let is_its_own = manifest.base_model == *base_model
                    && manifest.slot == *slot
                    && manifest.generation == *generation;
                self.manifests.insert(name.clone(), manifest);
                is_its_own
            }
            EntryName::Staged(job, StagedPart::Header) => {
                let header = self.unseal::<StagedHeader>(document)?;
                let is_its_own = header.job == *job;
                self.uploads.insert(*job, header.upload);
                is_its_own
            }
            EntryName::Staged(job, _) => {
                let upload = self.uploads.get(job);
                upload.is_some_and(|upload| upload.config_digest == *digest)
            }
            EntryName::Contents | EntryName::Tensor(_) | EntryName::Sums => false,
        };
        match is_its_own {
            true => Ok(()),
            false => Err(self.damaged("the bytes are not those that were written")),
        }
    }

    fn records(&self, document: &[u8]) -> Result<Vec<Stored>, RestoreError> {
        let bad = || self.damaged("a line is no record of a catalog");
        let text = std::str::from_utf8(document).map_err(|_| bad())?;
        text.lines()
            .map(|line| Stored::from_line(line).ok_or_else(bad))
            .collect()
    }

    fn read_sums(&mut self, length: u64) -> Result<(), RestoreError> {
        let document = self.document(length, &mut Nobody)?;
        match document == self.sums.as_bytes() {
            true => Ok(()),
            false => Err(self.damaged("a digest is not that of its entry")),
        }
    }

    fn read_end(&mut self) -> Result<(), RestoreError> {
        self.entry = "the end".to_owned();
        let mut blocks = [0; 2 * tar::BLOCK];
        self.fill(&mut blocks)?;
        if blocks.iter().any(|&byte| byte != 0) {
            return Err(self.damaged("there is something after the last entry"));
        }
        match self.input.read(&mut blocks[..1]) {
            Ok(0) => Ok(()),
            Ok(_) => Err(self.damaged("there is something after the end")),
            Err(error) => Err(RestoreError::Source(error)),
        }
    }

    /// Puts the catalog together, and holds everything against it.
    fn assemble(mut self, contents: BackupContents) -> Result<Held, RestoreError> {
        let mut records = std::mem::take(&mut self.records);
        for file in &self.base_models {
            records.extend(config_pieces(&file.record));
        }
        let catalog = load::assemble(records.clone()).map_err(inconsistent)?;
        let mut needed = BTreeSet::from([EntryName::Catalog]);
        for file in &self.base_models {
            let known = catalog.base_model(&file.record.name);
            if known.is_none_or(|known| BaseModelFile::of(known) != *file) {
                return Err(inconsistent(
                    "a base model's file is not what the catalog says",
                ));
            }
            needed.insert(EntryName::BaseModel(file.record.name.clone()));
        }
        if catalog.base_models.len() != self.base_models.len() {
            return Err(inconsistent("a base model has no file"));
        }
        for record in catalog.generations() {
            let (base_model, slot) = (record.base_model.clone(), record.slot);
            let name = EntryName::Manifest(base_model, slot, record.generation);
            let manifest = self.manifests.get(&name);
            let tensor = manifest.and_then(|manifest| manifest.tensor.as_ref());
            let file = EntryName::Tensor(record.digest);
            let is_there = tensor.is_some_and(|tensor| {
                tensor.digest == record.digest && tensor.bytes == record.bytes
            }) && self.entries.get(&file) == Some(&record.bytes);
            if !is_there {
                return Err(inconsistent(
                    "a generation is without its manifest or tensors",
                ));
            }
            needed.extend([name, file]);
        }
        for record in catalog.emptied_slots() {
            let (base_model, slot) = (record.base_model.clone(), record.slot);
            needed.insert(EntryName::Manifest(base_model, slot, record.generation));
        }
        for job in catalog.unfinished_jobs() {
            let parts = match job.kind.is_upload() {
                true => &StagedPart::ALL[..],
                false => &StagedPart::ALL[..1],
            };
            if self.uploads.get(&job.id) != Some(&job.upload) {
                return Err(RestoreError::Job { job: job.id });
            }
            needed.extend(parts.iter().map(|part| EntryName::Staged(job.id, *part)));
        }
        if !needed.iter().eq(self.entries.keys()) {
            return Err(inconsistent(
                "its entries are not those that its catalog names",
            ));
        }
        if catalog.revision != contents.revision {
            return Err(inconsistent("the catalog is of another revision"));
        }
        Ok(Held {
            contents,
            records,
            catalog,
        })
    }
}

/// The refusal of entries that do not belong together.
pub(crate) fn inconsistent(what: &str) -> RestoreError {
    RestoreError::Inconsistent {
        what: what.to_owned(),
    }
}
