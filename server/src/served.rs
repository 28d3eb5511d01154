//! Adapters that are made on demand: one for a task, or for a whole slot, of a generation that keeps
//! its members apart, and either in another format than the slot's.
//!
//! Made once and kept by storage while there is room; one at a time, since making one takes all
//! threads of the pool for some milliseconds. Blocks on the disk and on the pool.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use kmerge_merge::{EXPORT_CONFIG, EXPORT_TENSORS, TensorSink, export_config};
use kmerge_storage::{
    BaseModelRecord, Derived, DerivedLimit, DerivedName, DerivedWriter, Digest, ExportedFile,
    GenerationRecord, ReadError, Reader, TaskName, TensorFile, UnixMillis,
};

use crate::clock;
use crate::converted::{self, Foreign};
use crate::error::ServerError;
use crate::exports::PEFT;
use crate::facts;
use crate::packs::{self, OpenPack, Packs};
use crate::tensors::FileSource;

/// Whose adapter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    /// The slot's own: the mean of its members.
    Slot,
    /// One member's.
    Task(TaskName),
}

/// Makes adapters and finds those that are there.
#[derive(Debug, Clone)]
pub struct Served {
    reader: Reader,
    packs: Packs,
    pool: Arc<rayon::ThreadPool>,
    room: Room,
    making: Arc<Mutex<()>>,
}

/// The room for adapters that are kept.
#[derive(Debug, Clone, Copy)]
pub struct Room {
    /// Bytes of all together.
    pub bytes: u64,
    /// How long one stays after it was last asked for, whatever the room.
    pub grace: std::time::Duration,
}

impl Room {
    fn limit(self, now: UnixMillis) -> DerivedLimit {
        let grace = u64::try_from(self.grace.as_millis()).unwrap_or(u64::MAX);
        DerivedLimit {
            bytes: self.bytes,
            keep_since: UnixMillis(now.0.saturating_sub(grace)),
        }
    }
}

impl Wanted {
    fn of<'a>(&'a self, generation: &'a GenerationRecord, format: &'a str) -> DerivedName<'a> {
        DerivedName {
            generation,
            format,
            task: self.task(),
        }
    }

    fn task(&self) -> Option<&TaskName> {
        match self {
            Self::Slot => None,
            Self::Task(task) => Some(task),
        }
    }
}

struct Sink<'a>(&'a mut DerivedWriter);

impl TensorSink for Sink<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.0.write(bytes).map_err(std::io::Error::other)
    }
}

impl Served {
    /// Makes adapters with the threads of `pool`.
    pub fn new(reader: Reader, packs: Packs, pool: Arc<rayon::ThreadPool>, room: Room) -> Self {
        Self {
            reader,
            packs,
            pool,
            room,
            making: Arc::default(),
        }
    }

    /// What is known of packed slots.
    pub fn packs(&self) -> &Packs {
        &self.packs
    }

    /// Where an adapter is, if it has been made.
    pub fn known_path(&self, generation: &GenerationRecord, wanted: &Wanted) -> Option<PathBuf> {
        self.find(generation, wanted).map(|found| found.path)
    }

    fn find(&self, generation: &GenerationRecord, wanted: &Wanted) -> Option<Derived> {
        self.reader
            .derived(wanted.of(generation, PEFT), clock::now())
    }

    /// Where an adapter is, and the SHA-256 of its tensor file; made if it is not there.
    ///
    /// # Errors
    /// If the slot does not hold the task or is damaged, or the files cannot be written.
    pub fn locate(
        &self,
        base_model: &BaseModelRecord,
        generation: &GenerationRecord,
        wanted: &Wanted,
    ) -> Result<(PathBuf, Digest), ServerError> {
        let found = match self.find(generation, wanted) {
            Some(found) => found,
            None => self.make(base_model, generation, wanted)?,
        };
        Ok((found.path, found.digest))
    }

    /// Opens the files of an adapter, made if they are not there.
    ///
    /// # Errors
    /// As for [`Served::locate`].
    pub fn open(
        &self,
        base_model: &BaseModelRecord,
        generation: &GenerationRecord,
        wanted: &Wanted,
    ) -> Result<Vec<ExportedFile>, ServerError> {
        self.locate(base_model, generation, wanted)?;
        Ok(self
            .reader
            .open_derived(wanted.of(generation, PEFT), clock::now())?)
    }

    /// Opens the files of an adapter in another format, made if they are not there.
    ///
    /// # Errors
    /// As for [`Served::locate`], and if the base model's form in that format is not known.
    pub fn open_converted(
        &self,
        base_model: &BaseModelRecord,
        generation: &GenerationRecord,
        wanted: &Wanted,
        format: Foreign,
    ) -> Result<Vec<ExportedFile>, ServerError> {
        let name = wanted.of(generation, format.name());
        if self.reader.derived(name, clock::now()).is_none() {
            self.convert(base_model, generation, wanted, format)?;
        }
        Ok(self.reader.open_derived(name, clock::now())?)
    }

    /// Where an adapter in another format is, made if it is not there.
    ///
    /// # Errors
    /// As for [`Served::open_converted`].
    pub fn locate_converted(
        &self,
        base_model: &BaseModelRecord,
        generation: &GenerationRecord,
        wanted: &Wanted,
        format: Foreign,
    ) -> Result<PathBuf, ServerError> {
        let name = wanted.of(generation, format.name());
        if self.reader.derived(name, clock::now()).is_none() {
            self.convert(base_model, generation, wanted, format)?;
        }
        let found = self.reader.derived(name, clock::now());
        let missing = || ReadError::ExportMissing {
            slot: generation.slot,
            generation: generation.generation,
            format: format.name().to_owned(),
        };
        Ok(found.ok_or_else(missing)?.path)
    }

    fn convert(
        &self,
        base_model: &BaseModelRecord,
        generation: &GenerationRecord,
        wanted: &Wanted,
        format: Foreign,
    ) -> Result<(), ServerError> {
        let source = FileSource(self.peft_tensors(base_model, generation, wanted)?);
        let name = wanted.of(generation, format.name());
        let _turn = self.making.lock().unwrap_or_else(PoisonError::into_inner);
        if self.reader.derived(name, clock::now()).is_some() {
            return Ok(());
        }
        let mut writer = self.reader.new_derived(format.tensor_name())?;
        let of = (base_model, generation);
        let sink = &mut Sink(&mut writer);
        let files = converted::write(format, &source, of, wanted.task(), sink)?;
        let now = clock::now();
        writer.finish(
            name,
            &converted::borrowed(&files),
            self.room.limit(now),
            now,
        )?;
        Ok(())
    }

    /// The tensors in normal form that an adapter in another format is made from.
    fn peft_tensors(
        &self,
        base_model: &BaseModelRecord,
        generation: &GenerationRecord,
        wanted: &Wanted,
    ) -> Result<TensorFile, ServerError> {
        if !packs::is_packed(generation)? {
            return Ok(self.reader.tensor(generation)?);
        }
        let files = self.open(base_model, generation, wanted)?;
        let tensors = files.into_iter().find(|file| file.name == EXPORT_TENSORS);
        let missing = || ReadError::ExportMissing {
            slot: generation.slot,
            generation: generation.generation,
            format: PEFT.to_owned(),
        };
        Ok(tensors.ok_or_else(missing)?.file)
    }

    fn make(
        &self,
        base_model: &BaseModelRecord,
        generation: &GenerationRecord,
        wanted: &Wanted,
    ) -> Result<Derived, ServerError> {
        // It guards no data: one after the other is all that is asked.
        let _turn = self.making.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = self.find(generation, wanted) {
            return Ok(found);
        }
        let OpenPack { packed, source } = self.packs.open(generation)?;
        let dtype = facts::served_dtype(&facts::policy(base_model)?);
        let mut writer = self.reader.new_derived(EXPORT_TENSORS)?;
        let layout = self.pool.install(|| {
            let mut sink = Sink(&mut writer);
            match wanted {
                Wanted::Slot => Ok(packed.export_mean(&source, dtype, &mut sink)?),
                Wanted::Task(task) => {
                    let member = packed
                        .fidelities()
                        .position(|(name, _)| name == task.as_str());
                    let member = member
                        .ok_or_else(|| ServerError::unknown_task(&generation.base_model, task))?;
                    Ok::<_, ServerError>(packed.export_member(&source, member, dtype, &mut sink)?)
                }
            }
        })?;
        let config = export_config(&layout, &base_model.served_as);
        let now = clock::now();
        Ok(writer.finish(
            wanted.of(generation, PEFT),
            &[(EXPORT_CONFIG, config.as_slice())],
            self.room.limit(now),
            now,
        )?)
    }
}
