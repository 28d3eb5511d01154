//! Keeping the database small.
//!
//! sled's log holds several times what is live, and never shrinks. All that it holds is in memory
//! as well, so when it has grown too far it is written again from there and put in the place of
//! the old one. Owned by the committer, on whose thread it runs. What holds: the two directories
//! change places in one step, so there is a whole catalog at every moment.

use std::path::Path;

use crate::catalog::Catalog;
use crate::catalog_store::{Batch, CatalogStore, StoreOpener};
use crate::durable;
use crate::error::{CatalogError, FileError};
use crate::failpoint;
use crate::manifest::MemberEntry;
use crate::records::JobRecord;
use crate::shared::Shared;
use crate::stored::{BaseModelHead, Position, Stored, config_pieces};
use crate::usage;

/// How many records one batch holds when a whole catalog is written. Small batches with a flush
/// after each leave the database half as large as one big batch does.
pub(crate) const WHOLE_BATCH: usize = 100;

/// What must be free beside what a new database takes, in bytes.
const ROOM_BESIDE: u64 = 4 * 1024 * 1024;

/// What a task, a job and an event take in a database that was just written, in bytes, measured.
const TASK_BYTES: usize = 780;
const JOB_BYTES: usize = 1900;
const EVENT_BYTES: usize = 300;

/// Decides when the database is written again, and does it.
#[derive(Debug)]
pub(crate) struct Compactor {
    opener: StoreOpener,
    floor_bytes: u64,
    /// What it took when it was last written again. Writing it again cannot do better soon.
    last_size: u64,
    /// Whether the file system can do it at all.
    is_possible: bool,
}

impl Compactor {
    /// Rewrites databases that `opener` opens, once they are larger than `floor_bytes`.
    pub(crate) fn new(opener: StoreOpener, floor_bytes: u64) -> Self {
        Self {
            opener,
            floor_bytes,
            last_size: 0,
            is_possible: true,
        }
    }

    /// Whether the database has grown too far beyond what `catalog` needs.
    pub(crate) fn is_due(&self, shared: &Shared, catalog: &Catalog) -> bool {
        // A size that cannot be found out is no reason to do anything.
        let size = usage::length(&shared.layout.catalog()).unwrap_or(0);
        let grown = self.last_size.saturating_add(self.last_size / 4);
        let needed = needed(catalog).max(grown).max(self.floor_bytes);
        // Both databases are there for a while, and one that meets a full disk is given up.
        let has_room = || {
            let free = durable::free_space(shared.layout.root()).unwrap_or(0);
            free > size.saturating_add(ROOM_BESIDE)
        };
        self.is_possible && size > needed && has_room()
    }

    /// Writes the database again and gives the one that is in place then: the new one, or the old
    /// one after a failure that harms nothing.
    ///
    /// 1. The old database is closed, durable; two at a time would take twice the memory.
    /// 2. All records are written into a new one in a temporary directory; it is closed, durable.
    /// 3. The two directories change places; that is made durable.
    /// 4. The database that is now in place is opened.
    /// 5. The other one is removed.
    ///
    /// An error means that there is no database any more. If the disk was full, one can be made
    /// again from memory; otherwise the state can only be read.
    pub(crate) fn run(
        &mut self,
        shared: &Shared,
        store: Box<dyn CatalogStore>,
        catalog: &Catalog,
    ) -> Result<Box<dyn CatalogStore>, CatalogError> {
        let temporary = shared.layout.temporary("catalog");
        let replaced = self.replace(shared, store, &temporary, catalog);
        // 5. What cannot be removed is swept by the next start.
        drop(durable::remove_tree(&temporary));
        failpoint::hit("compact.old_removed");
        replaced
    }

    /// Writes the database again when there is none that could be used, and puts it in the place of
    /// the old one. It is not opened.
    pub(crate) fn renew(&self, shared: &Shared, catalog: &Catalog) -> Result<(), CatalogError> {
        let temporary = shared.layout.temporary("catalog");
        let renewed = self.put_anew(shared, &temporary, catalog);
        // What cannot be removed is swept by the next start.
        drop(durable::remove_tree(&temporary));
        renewed
    }

    fn put_anew(
        &self,
        shared: &Shared,
        temporary: &Path,
        catalog: &Catalog,
    ) -> Result<(), CatalogError> {
        self.write(shared, temporary, catalog)?;
        let path = shared.layout.catalog();
        if exchange(shared, temporary, &path)? {
            return Ok(());
        }
        // On a file system that cannot do it in one step a start between these two makes the
        // catalog again from the files beside it.
        durable::remove_tree(&path)?;
        durable::rename(temporary, &path)?;
        Ok(shared.disk.sync_directory(shared.layout.root())?)
    }

    /// Opens the database that is in place.
    pub(crate) fn open(&self, shared: &Shared) -> Result<Box<dyn CatalogStore>, CatalogError> {
        self.opener.open(&shared.layout.catalog())
    }

    /// Steps 1 to 4.
    fn replace(
        &mut self,
        shared: &Shared,
        store: Box<dyn CatalogStore>,
        temporary: &Path,
        catalog: &Catalog,
    ) -> Result<Box<dyn CatalogStore>, CatalogError> {
        let path = shared.layout.catalog();
        // 1.
        store.close()?;
        // 2.
        let written = self.write(shared, temporary, catalog);
        failpoint::hit("compact.written");
        match written {
            // 3.
            Ok(()) => match exchange(shared, temporary, &path) {
                Ok(done) => self.is_possible = done,
                Err(error) if shared.failure().is_some() => return Err(error.into()),
                // The names could not be changed, so the old database is where it was.
                Err(_) => {}
            },
            Err(error) if shared.failure().is_some() => return Err(error),
            // Too little room, perhaps. The old database is as good as it was.
            Err(_) => {}
        }
        failpoint::hit("compact.exchanged");
        // 4.
        let store = self.opener.open(&path)?;
        self.last_size = usage::length(&path)?;
        Ok(store)
    }

    /// What a new database of `catalog` takes, with a margin.
    fn room(&self, catalog: &Catalog) -> u64 {
        needed(catalog)
            .max(self.floor_bytes)
            .saturating_add(ROOM_BESIDE)
    }

    fn write(
        &self,
        shared: &Shared,
        temporary: &Path,
        catalog: &Catalog,
    ) -> Result<(), CatalogError> {
        durable::create_directory(temporary)?;
        let mut store = self.opener.open(temporary)?;
        let batches = whole(catalog).split(WHOLE_BATCH);
        if let Err(error) = store.make_room(self.room(catalog)) {
            store.close()?;
            return Err(error);
        }
        for batch in batches {
            store.apply(&batch)?;
            store.flush()?;
        }
        store.close()?;
        Ok(shared.disk.sync_directory(temporary)?)
    }
}

/// Lets two directories change places; says whether the file system knows how.
fn exchange(shared: &Shared, temporary: &Path, path: &Path) -> Result<bool, FileError> {
    if !durable::exchange(temporary, path)? {
        return Ok(false);
    }
    shared.disk.sync_directory(shared.layout.root())?;
    shared.disk.sync_directory(&shared.layout.staging())?;
    Ok(true)
}

/// What the database of `catalog` takes when it was just written, with room to breathe.
fn needed(catalog: &Catalog) -> u64 {
    let base_models = catalog.base_models.values();
    let bytes: usize = base_models
        .map(|base_model| {
            let generations = base_model.slots.values().map(|slot| slot.generations.len());
            let emptied = base_model.emptied.values();
            let emptied = emptied.map(|slot| 1 + slot.generations.len());
            3 * base_model.record.config.len()
                + base_model.tasks.len() * TASK_BYTES
                + (generations.sum::<usize>() + emptied.sum::<usize>()) * TASK_BYTES
        })
        .sum();
    let bytes = bytes + catalog.jobs.len() * JOB_BYTES + catalog.events.len() * EVENT_BYTES;
    let bytes = bytes + bytes / 7;
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

/// All records of a catalog.
fn whole(catalog: &Catalog) -> Batch {
    let mut batch = Batch::default();
    records(catalog, &mut |record| {
        let value = record
            .value()
            .expect("what is in the catalog has fitted it before");
        batch.put(record.key(), value);
    });
    batch
}

/// Shows every record of a catalog.
pub(crate) fn records(catalog: &Catalog, show: &mut dyn FnMut(&Stored)) {
    for (name, base_model) in &catalog.base_models {
        show(&Stored::BaseModel(BaseModelHead::new(
            &base_model.record,
            base_model.settings_change,
        )));
        config_pieces(&base_model.record).for_each(|piece| show(&piece));
        for slot in base_model.emptied.values() {
            show(&Stored::Emptied(slot.record.clone()));
            for record in slot.generations.values() {
                show(&Stored::Generation((**record).clone()));
            }
        }
        for (&index, slot) in &base_model.slots {
            for record in slot.generations.values() {
                show(&Stored::Generation((**record).clone()));
            }
            for (member, place) in slot.members.iter().zip(0..) {
                let task = base_model.tasks.get(&member.task);
                let task = task.expect("a member and its task come and go together");
                let entry = MemberEntry::new(member, task);
                show(&Stored::Member(name.clone(), index, place, entry));
            }
        }
    }
    for job in catalog.jobs.values() {
        show(&Stored::Job(JobRecord {
            result: None,
            ..(**job).clone()
        }));
        if let Some(result) = &job.result {
            show(&Stored::JobResult(job.id, result.clone()));
        }
    }
    for event in &catalog.events {
        show(&Stored::Event((**event).clone()));
    }
    let Catalog {
        revision, last_job, ..
    } = *catalog;
    show(&Stored::Position(Position { revision, last_job }));
}
