//! Reading, and the writing that needs no record: new tensor files and exports.
//!
//! [`Reader`] is held by everyone who is not the committer. What holds: it never touches the
//! database, and nothing that it writes exists for others before the committer or a rename makes
//! it so.

use std::path::PathBuf;
use std::sync::Arc;

use crate::catalog::{Catalog, final_weights};
use crate::commit::PlacedMember;
use crate::durable;
use crate::error::{FileError, ReadError};
use crate::ids::JobId;
use crate::manifest::{Manifest, MemberEntry};
use crate::records::{GenerationRecord, MemberRecord};
use crate::sealed;
use crate::shared::Shared;
use crate::staging;
use crate::tensors::{StoredTensor, TensorFile, TensorWriter};
use crate::usage::{self, DiskUsage};

/// Reads tensors and exports, and writes new ones.
#[derive(Debug, Clone)]
pub struct Reader {
    pub(crate) shared: Arc<Shared>,
}

/// The files of a job.
#[derive(Debug)]
pub struct StagedFiles {
    /// The adapter's configuration, as it came.
    pub config: Vec<u8>,
    /// The tensor file.
    pub tensor: TensorFile,
}

impl Reader {
    /// Reads from that directory.
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// Opens the tensor file of a generation. Once open it stays readable, even when the
    /// generation is removed meanwhile.
    ///
    /// # Errors
    /// If it is not there or has another length than the record says.
    pub fn tensor(&self, generation: &GenerationRecord) -> Result<TensorFile, ReadError> {
        let digest = generation.digest;
        let tensor =
            TensorFile::open(&self.shared.layout.tensor(&digest)).map_err(|error| match error {
                error if error.is_missing() => ReadError::TensorMissing { digest },
                error => ReadError::File(error),
            })?;
        if tensor.len() != generation.bytes {
            let (expected, found) = (generation.bytes, tensor.len());
            return Err(ReadError::TensorLength {
                digest,
                expected,
                found,
            });
        }
        Ok(tensor)
    }

    /// The members of a generation with their weights in it, in order, whatever has become of them
    /// since: also those that were forgotten. As long as the generation is there they can be read.
    ///
    /// # Errors
    /// If the generation has been removed, its manifest is damaged, or the disk refuses.
    pub fn generation_members(
        &self,
        generation: &GenerationRecord,
    ) -> Result<Vec<PlacedMember>, ReadError> {
        let manifest = self.manifest(generation)?;
        let entries = &manifest.members;
        let members: Vec<MemberRecord> = entries.iter().map(MemberEntry::member).collect();
        let weights = final_weights(members.iter());
        let placed = members.into_iter().zip(weights);
        Ok(placed
            .map(|(MemberRecord { task, .. }, weight)| PlacedMember { task, weight })
            .collect())
    }

    /// Opens the staged files of an unfinished job.
    ///
    /// # Errors
    /// If the job has none, or they are damaged.
    pub fn staged(&self, job: JobId) -> Result<StagedFiles, ReadError> {
        let directory = self.shared.layout.staged(job);
        let header = match staging::read_header(&directory)? {
            None => return Err(ReadError::StagedMissing { job }),
            Some(Err(_)) => return Err(ReadError::StagedDamaged { job }),
            Some(Ok(header)) => header,
        };
        let missing = |error: crate::error::FileError| match error {
            error if error.is_missing() => ReadError::StagedMissing { job },
            error => ReadError::File(error),
        };
        let config = durable::read(&staging::config_path(&directory)).map_err(missing)?;
        let tensor = TensorFile::open(&staging::tensors_path(&directory)).map_err(missing)?;
        let is_whole = tensor.len() == header.upload.size_bytes
            && crate::Digest::of(&config) == header.upload.config_digest;
        if is_whole {
            Ok(StagedFiles { config, tensor })
        } else {
            Err(ReadError::StagedDamaged { job })
        }
    }

    /// Begins a new tensor file.
    ///
    /// # Errors
    /// If the state can only be read, or the disk refuses.
    pub fn new_tensor(&self) -> Result<TensorWriter, ReadError> {
        TensorWriter::new(&self.shared)
    }

    /// The tensors of a generation that is there, for a commit that lets its slot hold them again.
    /// Reads all of them. While the value is held the file stays, whatever becomes of the
    /// generation.
    ///
    /// # Errors
    /// If they are not there, damaged, the state can only be read, or the disk refuses.
    pub fn tensor_again(&self, generation: &GenerationRecord) -> Result<StoredTensor, ReadError> {
        StoredTensor::existing(&self.shared, generation.digest, generation.bytes)
    }

    /// Reads a generation's tensor file and manifest again and compares them with what was written.
    /// After each `piece` bytes, and at their end, `go_on` is told how many were read; if it says no,
    /// that is the end of it.
    ///
    /// # Errors
    /// If either is not there or not what it was, the disk refuses, or `go_on` said no.
    pub fn verify(
        &self,
        generation: &GenerationRecord,
        piece: u64,
        go_on: &mut dyn FnMut(u64) -> bool,
    ) -> Result<(), ReadError> {
        let file = self.tensor(generation)?;
        let digest = generation.digest;
        let found = file
            .digest_while(piece, go_on)
            .map_err(|source| FileError {
                verb: "read",
                path: self.shared.layout.tensor(&digest),
                source,
            })?;
        if found != digest {
            return Err(ReadError::TensorAltered { digest });
        }
        self.manifest(generation).map(drop)
    }

    /// The manifest of a generation.
    fn manifest(&self, generation: &GenerationRecord) -> Result<Manifest, ReadError> {
        let GenerationRecord {
            base_model, slot, ..
        } = generation;
        let layout = &self.shared.layout;
        let path = layout.manifest(base_model, *slot, generation.generation);
        let manifest = sealed::unseal::<Manifest>(&durable::read(&path)?)
            .ok()
            .filter(|manifest| manifest.revision == generation.revision);
        manifest.ok_or(ReadError::ManifestAltered {
            slot: *slot,
            generation: generation.generation,
        })
    }

    /// Forgets the exports of a generation that were made on demand; they are made again.
    ///
    /// # Errors
    /// If the disk refuses.
    pub fn forget_derived(&self, generation: &GenerationRecord) -> Result<(), ReadError> {
        Ok(crate::derived::remove_generation(&self.shared, generation)?)
    }

    /// Opens a tensor file that waits for its commit.
    ///
    /// # Errors
    /// If the disk refuses.
    pub fn stored(&self, tensor: &StoredTensor) -> Result<TensorFile, ReadError> {
        let path = self.shared.layout.tensor(&tensor.digest);
        Ok(TensorFile::open(&path)?)
    }

    /// What lies on the disk, by purpose.
    ///
    /// # Errors
    /// If the disk refuses.
    pub fn disk_usage(&self, catalog: &Catalog) -> Result<DiskUsage, ReadError> {
        Ok(usage::measure(&self.shared.layout, catalog)?)
    }

    /// The bytes that the file system of the state still has for this process.
    ///
    /// # Errors
    /// If the disk refuses.
    pub fn free_bytes(&self) -> Result<u64, ReadError> {
        Ok(durable::free_space(self.shared.layout.root())?)
    }

    /// Sees to it that `room` bytes are free, by giving up as much of the reserve as that takes. For
    /// what gives room back in the end.
    ///
    /// # Errors
    /// If the disk refuses.
    pub fn lend_reserve(&self, room: u64) -> Result<(), ReadError> {
        Ok(self.shared.reserve.lend(room)?)
    }

    /// The state directory.
    pub fn directory(&self) -> PathBuf {
        self.shared.layout.root().to_owned()
    }
}
