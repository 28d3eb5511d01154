//! The only writer of the catalog.
//!
//! [`Committer`] is owned by one thread. What holds: a change is on the medium before it is in the
//! view that [`Committer::catalog`] gives, and before the call that made it returns; the view's
//! revision only rises; after a failed flush nothing is written any more.

mod changes;
mod check;
mod collect;
mod distrust;
mod doubt;
mod jobs;
mod slots;

use std::sync::Arc;

pub use changes::{
    Commit, MembersChange, NewMember, NextGeneration, PlacedMember, Rearrangement, SlotChange,
    SlotOutcome, SlotStep,
};
pub use collect::Collected;
pub use distrust::Distrusted;
use doubt::Traces;
pub use jobs::Enqueued;
#[cfg(test)]
pub(crate) use jobs::shorten;

use crate::base_model_file::BaseModelFile;
use crate::catalog::Catalog;
use crate::catalog_store::{Batch, CatalogStore};
use crate::compact::Compactor;
use crate::counter::Counter;
use crate::error::{CatalogError, CommitError, Existing};
use crate::failpoint;
use crate::ids::{BaseModelName, JobId, UnixMillis};
use crate::records::{BaseModelRecord, Event, JobRecord, JobState};
use crate::shared::Shared;
use crate::transaction::{Retention, Transaction};

/// The largest configuration of a base model, in bytes.
const CONFIG_LIMIT: usize = 1024 * 1024;

/// The only writer of the catalog.
#[derive(Debug)]
pub struct Committer {
    shared: Arc<Shared>,
    /// There as long as the state can be written and the last change is not in doubt.
    store: Option<Box<dyn CatalogStore>>,
    /// What the change in doubt has left beside the database.
    doubt: Traces,
    compactor: Compactor,
    catalog: Arc<Catalog>,
    retention: Retention,
    job_ids: Counter,
    revisions: Counter,
}

/// What a committer starts with.
#[derive(Debug)]
pub(crate) struct Start {
    pub(crate) store: Box<dyn CatalogStore>,
    pub(crate) compactor: Compactor,
    pub(crate) catalog: Catalog,
    pub(crate) retention: Retention,
    pub(crate) job_ids: Counter,
    pub(crate) revisions: Counter,
}

/// What became of a registration.
#[derive(Debug, Clone)]
pub enum Registered {
    /// It is new.
    Created(Arc<BaseModelRecord>),
    /// The same content was registered before; this is that registration.
    Identical(Arc<BaseModelRecord>),
}

impl Committer {
    /// The writer of a recovered directory.
    pub(crate) fn new(shared: Arc<Shared>, start: Start) -> Self {
        let Start {
            store,
            compactor,
            catalog,
            retention,
            job_ids,
            revisions,
        } = start;
        Self {
            shared,
            store: Some(store),
            doubt: Traces::default(),
            compactor,
            catalog: Arc::new(catalog),
            retention,
            job_ids,
            revisions,
        }
    }

    /// The catalog as it is now.
    pub fn catalog(&self) -> Arc<Catalog> {
        Arc::clone(&self.catalog)
    }

    /// Registers a base model. Durable on return.
    ///
    /// 1. The file with the whole record is written and made durable.
    /// 2. The catalog learns of it.
    ///
    /// # Errors
    /// [`CommitError::AlreadyExists`] if the name stands for other content,
    /// [`CommitError::ConfigTooLarge`] and [`CommitError::Record`] if the record is too large, and
    /// what any write may meet.
    pub fn register_base_model(
        &mut self,
        record: BaseModelRecord,
    ) -> Result<Registered, CommitError> {
        self.check_writable()?;
        if let Some(known) = self.catalog.base_model(&record.name) {
            // What was registered is known by it, whatever the settings are now.
            let is_same =
                known.record.same_content(&record) || known.registered_as() == record.fingerprint();
            if is_same {
                return Ok(Registered::Identical(Arc::clone(&known.record)));
            }
            let existing = Existing::BaseModel {
                base_model: record.name,
            };
            return Err(CommitError::AlreadyExists { existing });
        }
        if record.config.len() > CONFIG_LIMIT {
            let (bytes, limit) = (record.config.len(), CONFIG_LIMIT);
            return Err(CommitError::ConfigTooLarge {
                base_model: record.name,
                bytes,
                limit,
            });
        }
        let record = Arc::new(record);
        let mut transaction = self.begin(record.created);
        transaction.put_base_model(&record, None)?;
        let event = Event::BaseModelRegistered {
            base_model: record.name.clone(),
        };
        let prepared = self.prepare(transaction, event, None, Room::Free)?;
        // 1.
        let file = BaseModelFile {
            record: BaseModelRecord::clone(&record),
            settings_change: None,
        };
        file.write(&self.shared)?;
        failpoint::hit("base_model.file_durable");
        // 2.
        let traces = Traces {
            base_model: Some(record.name.clone()),
            ..Traces::default()
        };
        self.persist(prepared, traces)?;
        Ok(Registered::Created(record))
    }

    /// Whether a write has failed, so that the state can only be read until the next start.
    pub fn is_read_only(&self) -> bool {
        self.read_only_reason().is_some()
    }

    /// The failure since which the state can only be read.
    pub fn read_only_reason(&self) -> Option<&str> {
        self.shared.failure()
    }

    /// Closes the catalog, so that the next start has nothing to recover. Dropping the committer
    /// instead loses nothing.
    ///
    /// # Errors
    /// If the database does not close cleanly; the next start recovers it.
    pub fn close(self) -> Result<(), CommitError> {
        let Some(store) = self.store else {
            return Ok(());
        };
        store.close()?;
        // Whatever happens to the catalog until the next start, that it once came so far is known.
        let temporary = self.shared.layout.temporary("revisions");
        let reached = self.catalog.revision.0;
        let disk = &self.shared.disk;
        Ok(self.revisions.note_reached(disk, temporary, reached)?)
    }

    /// The directory and what belongs to it.
    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// The highest job id and the highest revision that may have been given out.
    pub(crate) fn ceilings(&self) -> (u64, u64) {
        (self.job_ids.ceiling(), self.revisions.ceiling())
    }

    /// Refuses to write when that is no longer safe, and first makes it safe again after a full
    /// disk.
    fn check_writable(&mut self) -> Result<(), CommitError> {
        match self.read_only_reason() {
            Some(why) => Err(CommitError::ReadOnly {
                why: why.to_owned(),
            }),
            None => self.settle(),
        }
    }

    fn job(&self, job: JobId) -> Result<&Arc<JobRecord>, CommitError> {
        self.catalog
            .jobs
            .get(&job)
            .ok_or(CommitError::UnknownJob { job })
    }

    fn job_in_state(&self, job: JobId, needed: JobState) -> Result<&Arc<JobRecord>, CommitError> {
        let record = self.job(job)?;
        if record.state == needed {
            Ok(record)
        } else {
            Err(CommitError::JobState {
                job,
                state: record.state,
                needed,
            })
        }
    }

    fn known_base_model(&self, name: &BaseModelName) -> Result<(), CommitError> {
        match self.catalog.base_model(name) {
            Some(_) => Ok(()),
            None => Err(CommitError::UnknownBaseModel {
                base_model: name.clone(),
            }),
        }
    }

    /// Writes the database again if it has grown too far beyond what it holds.
    pub(crate) fn compact_if_due(&mut self) -> Result<(), CatalogError> {
        if self.is_read_only() || !self.compactor.is_due(&self.shared, &self.catalog) {
            return Ok(());
        }
        if let Some(store) = self.store.take() {
            match self.compactor.run(&self.shared, store, &self.catalog) {
                Ok(store) => self.store = Some(store),
                // Without a database, but with all that belongs in it: the next write makes one.
                Err(error) if error.is_disk_full() && !self.is_read_only() => {}
                Err(error) => {
                    self.shared.disk.health().fail(&error);
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// Begins a change of the catalog.
    fn begin(&self, now: UnixMillis) -> Transaction {
        Transaction::new(&self.catalog, self.catalog.revision.next(), now)
    }

    /// Ends a transaction: everything that may still be refused is refused here, before a file
    /// makes the change recoverable.
    fn prepare(
        &mut self,
        transaction: Transaction,
        event: Event,
        just_finished: Option<JobId>,
        room: Room,
    ) -> Result<Prepared, CommitError> {
        let (next, batch) = transaction.finish(event, just_finished, self.retention)?;
        self.make_room(&batch, room)?;
        let temporary = self.shared.layout.temporary("revisions");
        self.revisions
            .reserve(&self.shared.disk, temporary, next.revision.0)?;
        Ok(Prepared { next, batch })
    }

    /// Sees to it that a change does not meet a full disk half-way: the whole database would have to
    /// be written again.
    fn make_room(&mut self, batch: &Batch, room: Room) -> Result<(), CommitError> {
        let store = self
            .store
            .as_mut()
            .expect("each write begins with a check that it is there");
        let bytes = batch.room();
        let reserve = &self.shared.reserve;
        let made = match room {
            Room::Free => store.make_room(bytes),
            Room::Reserve(files) => {
                reserve.lend(files)?;
                match store.make_room(bytes) {
                    Err(error) if error.is_disk_full() => {
                        // As much again as it takes, since it asks for some more than it needs.
                        reserve.lend(files + 2 * bytes)?;
                        store.make_room(bytes)
                    }
                    made => made,
                }
            }
        };
        match made {
            Ok(()) => Ok(()),
            // Nothing has been changed.
            Err(CatalogError::File(error)) => Err(error.into()),
            Err(error) => Err(self.fail(error, Traces::default())),
        }
    }

    /// Takes room for what must work on a full disk, if some was given up and there is room again.
    /// Gives whether there is as much of it as there can be.
    pub fn replenish_reserve(&self) -> bool {
        // What cannot be had now may be had later.
        self.shared.reserve.replenish().unwrap_or(false)
    }

    /// Writes a change and shows it.
    ///
    /// 1. The batch is applied, all or nothing.
    /// 2. The database hands it to the system.
    /// 3. The medium has it.
    /// 4. The view is swapped.
    ///
    /// `traces` is what a start would find the change from without the database.
    fn persist(&mut self, prepared: Prepared, traces: Traces) -> Result<(), CommitError> {
        let Prepared { next, batch } = prepared;
        let store = self
            .store
            .as_mut()
            .expect("each write begins with a check that it is there");
        let mut write = || -> Result<(), CatalogError> {
            // 1.
            store.apply(&batch)?;
            failpoint::hit("catalog.applied");
            // 2.
            store.flush()?;
            failpoint::hit("catalog.flushed");
            // 3.
            store.sync()?;
            failpoint::hit("catalog.synced");
            Ok(())
        };
        write().map_err(|error| self.fail(error, traces))?;
        // 4.
        self.catalog = Arc::new(next);
        Ok(())
    }
}

/// Where the room for a change may come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Room {
    /// What is free. For what is new.
    Free,
    /// The reserve as well, with so many bytes for files beside the catalog. For what lets others
    /// go, and for the ends of what was begun.
    Reserve(u64),
}

impl Room {
    /// For changes of the catalog alone, and of its counters.
    const CATALOG: Self = Self::Reserve(64 * 1024);
    /// For a job's header, and for manifests of common sizes.
    const FILES: Self = Self::Reserve(512 * 1024);
}

/// A change that nothing but the disk can refuse any more.
#[derive(Debug)]
struct Prepared {
    next: Catalog,
    batch: Batch,
}
