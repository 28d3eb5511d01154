//! Start-up: from whatever the last run left to one consistent catalog.
//!
//! Runs once, under the lock, before any capability exists, so nothing else changes the directory.
//! One path serves a clean start, a crash and the loss of the catalog; only the catalog that it
//! begins with differs. In order:
//!
//! 1. Survey the files. A later version's state is refused here, untouched. Their names are made
//!    durable, because all that follows is built on them.
//! 2. Open and load the database. If that fails in any way it is set aside, and everything below
//!    starts from nothing.
//! 3. Base models: those on file are registered, newer settings are taken from there. After step 4,
//!    which may bring settings too, missing and older files are written again.
//! 4. Generations: whole commits that the catalog lacks are taken in; parts of commits are
//!    dropped; what has lost its tensor file is given up.
//! 5. Jobs: what was interrupted is queued again, up to a limit; what was staged is queued.
//! 6. All of this becomes durable in the catalog.
//! 7. Sweep: what nothing refers to is removed. Only now, so that nothing goes before the records
//!    that made it superfluous are durable.

mod base_models;
mod generations;
mod jobs;
mod survey;
mod sweep;
mod tensors;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use crate::catalog::Catalog;
use crate::catalog_store::{CatalogStore, StoreOpener};
use crate::commit::{Committer, Start};
use crate::compact::{Compactor, WHOLE_BATCH};
use crate::counter::{Counter, Reading};
use crate::durable;
use crate::error::{CatalogError, FileError, OpenError};
use crate::ids::{JobId, Revision, UnixMillis};
use crate::load::{self, Loaded};
use crate::open::{Options, RecoveryReport};
use crate::records::Event;
use crate::shared::Shared;
use crate::transaction::{Retention, Transaction};
pub(crate) use generations::{find_job, siblings};
use survey::Survey;

/// How far counting goes on beyond what is known when the counter's own file is lost too.
const BLIND_STEP: u64 = 1000;

/// Recovers the directory and gives its writer.
pub(crate) fn recover(
    shared: &Arc<Shared>,
    options: &Options,
    now: UnixMillis,
    opener: StoreOpener,
) -> Result<(Committer, RecoveryReport), OpenError> {
    let mut report = RecoveryReport::default();
    // 1.
    let survey = Survey::take(&shared.layout)?;
    make_names_durable(shared)?;
    // 2.
    let (mut store, found) = open_catalog(shared, &survey, now, &opener, &mut report)?;
    let (before, event) = match found {
        Found::Catalog(catalog) => (catalog, Event::Recovered),
        Found::Blank => (Catalog::default(), Event::Created),
        Found::Lost => (Catalog::default(), Event::Recovered),
    };
    let rebuilding = report.catalog_rebuilt;
    let has_lost_its_end = !rebuilding && lost_its_end(&before, &survey);
    if has_lost_its_end {
        report.notes.push(
            "the catalog has lost its last changes; what files know of them is taken in".to_owned(),
        );
    }

    let mut recovery = Recovery::new(shared, now, &survey, &before, rebuilding, report);
    recovery.unrecorded += if has_lost_its_end { 2 } else { 0 };
    // 3. to 5.
    recovery.recover_base_models()?;
    recovery.recover_generations()?;
    recovery.write_base_models()?;
    recovery.recover_jobs()?;
    let retention = Retention {
        finished_jobs: options.finished_jobs_kept,
        events: options.events_kept,
    };
    recovery.skip_numbers();
    let unneeded = std::mem::take(&mut recovery.unneeded);
    let transaction = recovery.transaction;
    let mut report = recovery.report;

    // 6.
    let layout = &shared.layout;
    let mut revisions = Counter::new(layout.revisions(), ceiling(survey.revisions));
    let mut job_ids = Counter::new(layout.job_ids(), ceiling(survey.job_ids));
    let mut catalog = before;
    let is_changed = rebuilding || has_lost_its_end || !transaction.is_empty();
    if is_changed || event == Event::Created {
        // The catalog of a new state comes before any other file, so that a start which finds
        // files and no catalog knows that it is lost.
        let is_new = event == Event::Created;
        let (next, batch) = transaction.finish(event, None, retention)?;
        if !is_new {
            revisions.reserve(&shared.disk, layout.temporary("revisions"), next.revision.0)?;
            job_ids.reserve(&shared.disk, layout.temporary("job-ids"), next.last_job.0)?;
        }
        // A batch is all or nothing. When there are several, the catalog's position comes with
        // the last one, and without it the next start takes the whole for damaged.
        for batch in batch.split(if rebuilding { WHOLE_BATCH } else { usize::MAX }) {
            shared.reserve.lend_for_start(2 * batch.room())?;
            store.make_room(batch.room())?;
            store.apply(&batch)?;
            store.flush()?;
        }
        store.sync()?;
        catalog = next;
    }
    // 7.
    sweep::sweep(
        shared,
        &survey,
        &catalog,
        unneeded,
        options.quarantines_kept,
        &mut report,
    )?;
    let start = Start {
        store,
        compactor: Compactor::new(opener, options.catalog_floor_bytes),
        catalog,
        retention,
        job_ids,
        revisions,
    };
    let mut committer = Committer::new(Arc::clone(shared), start);
    committer.compact_if_due()?;
    Ok((committer, report))
}

/// Makes durable what the survey found. The last run may have ended between giving a name and
/// flushing its directory; the name is there then, and a power cut could still take it away after
/// something has been built on it.
fn make_names_durable(shared: &Shared) -> Result<(), FileError> {
    let layout = &shared.layout;
    let directories = [
        layout.root().to_owned(),
        layout.base_models(),
        layout.staging(),
        layout.tensors(),
        layout.manifests(),
    ];
    for directory in directories {
        shared.disk.sync_directory(&directory)?;
    }
    for base_model in durable::list(&layout.manifests())? {
        if base_model.is_directory {
            shared.disk.sync_directory(&base_model.path)?;
            for slot in durable::list(&base_model.path)? {
                if slot.is_directory {
                    shared.disk.sync_directory(&slot.path)?;
                }
            }
        }
    }
    Ok(())
}

/// Whether there was more in the catalog once than there is now: it was at a later revision, or more
/// than the one job that a crash may leave unrecorded has come since.
fn lost_its_end(catalog: &Catalog, survey: &Survey) -> bool {
    let unrecorded = survey
        .staged
        .iter()
        .filter(|&(&job, directory)| job > catalog.last_job && directory.header.is_some());
    survey.reached > catalog.revision || unrecorded.count() > 1
}

/// What the database holds.
enum Found {
    /// Nothing, and there is nothing beside it either.
    Blank,
    /// A catalog.
    Catalog(Catalog),
    /// Nothing, but there was something once: the files are all there is.
    Lost,
}

/// Opens the database and loads the catalog in it.
fn open_catalog(
    shared: &Shared,
    survey: &Survey,
    now: UnixMillis,
    opener: &StoreOpener,
    report: &mut RecoveryReport,
) -> Result<(Box<dyn CatalogStore>, Found), OpenError> {
    let path = shared.layout.catalog();
    if durable::exists(&path) && !path.is_dir() {
        let quarantined = set_aside(shared, &path, now)?;
        report.notes.push(format!(
            "something else was in the place of the catalog; it was moved to {}",
            quarantined.display()
        ));
        report.quarantined = Some(quarantined);
    }
    remove_half_snapshots(&path, report)?;
    shared.disk.ensure_directory(shared.layout.root(), &path)?;
    let opened = opener
        .open(&path)
        .and_then(|store| Ok((load::load(&*store)?, store)));
    let problem = match opened {
        Ok((Loaded::Catalog(catalog), store)) => return Ok((store, Found::Catalog(catalog))),
        Ok((Loaded::Empty, store)) if survey.is_blank() => {
            return Ok((store, Found::Blank));
        }
        Ok((Loaded::Empty, store)) => {
            report.catalog_rebuilt = true;
            report
                .notes
                .push("the catalog was missing and was made again".to_owned());
            return Ok((store, Found::Lost));
        }
        Ok((Loaded::NewerSchema(found), _)) => return Err(survey::newer(&path, found)),
        Ok((Loaded::Damaged(what), _)) => what,
        // The database was not reached, so it may be whole.
        Err(CatalogError::File(error)) => return Err(error.into()),
        // The thread that waits for it would go on in whatever has the same name. It works on what
        // is moved away now, and ends with this process.
        Err(CatalogError::Hung { patience, .. }) => {
            let quarantined = set_aside(shared, &path, now)?;
            return Err(OpenError::CatalogHung {
                patience,
                quarantined,
            });
        }
        Err(error) => in_full(&error),
    };
    let quarantined = set_aside(shared, &path, now)?;
    report.catalog_rebuilt = true;
    report.notes.push(format!(
        "the catalog was damaged ({problem}); it was moved to {} and made again",
        quarantined.display()
    ));
    report.quarantined = Some(quarantined);
    shared.disk.ensure_directory(shared.layout.root(), &path)?;
    Ok((opener.open(&path)?, Found::Lost))
}

/// The database takes a snapshot that was not finished for a damaged one, and then does not open.
/// The snapshot before it is still there.
fn remove_half_snapshots(catalog: &Path, report: &mut RecoveryReport) -> Result<(), FileError> {
    for entry in durable::list(catalog)? {
        if entry.name.starts_with("snap.") && entry.name.ends_with(".generating") {
            durable::unlink(&entry.path)?;
            report
                .notes
                .push(format!("removed the unfinished snapshot {}", entry.name));
        }
    }
    Ok(())
}

/// Moves something damaged out of the way and gives its new place.
pub(crate) fn set_aside(
    shared: &Shared,
    path: &Path,
    now: UnixMillis,
) -> Result<std::path::PathBuf, FileError> {
    let layout = &shared.layout;
    let directory = layout.quarantine_at(now);
    shared.disk.ensure_directory(layout.root(), &directory)?;
    let name = path.file_name().unwrap_or(path.as_os_str());
    let mut target = directory.join(name);
    let mut number = 0;
    while durable::exists(&target) {
        number += 1;
        target = directory.join(format!("{}.{number}", name.to_string_lossy()));
    }
    durable::rename(path, &target)?;
    shared.disk.sync_directory(&directory)?;
    shared.disk.sync_directory(path.parent().unwrap_or(path))?;
    Ok(target)
}

fn in_full(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

fn ceiling(reading: Reading) -> u64 {
    match reading {
        Reading::Ceiling(ceiling) => ceiling,
        Reading::Missing | Reading::Damaged => 0,
    }
}

/// The recovery under way.
struct Recovery<'a> {
    shared: &'a Arc<Shared>,
    now: UnixMillis,
    survey: &'a Survey,
    /// The catalog as it was loaded.
    before: &'a Catalog,
    /// Whether it was lost, so that the files are all there is.
    rebuilding: bool,
    transaction: Transaction,
    report: RecoveryReport,
    /// Changes that the files know and the catalog did not. One writer leaves at most one behind;
    /// more mean that the catalog has lost what it once had.
    unrecorded: u32,
    /// The revisions whose settings were taken from a base model's file.
    settings_taken: BTreeSet<Revision>,
    /// Staged files that no job needs.
    unneeded: Vec<std::path::PathBuf>,
}

impl<'a> Recovery<'a> {
    fn new(
        shared: &'a Arc<Shared>,
        now: UnixMillis,
        survey: &'a Survey,
        before: &'a Catalog,
        rebuilding: bool,
        report: RecoveryReport,
    ) -> Self {
        let known = before.revision.max(survey.newest_revision);
        let known = known.max(survey.reached);
        let behind = rebuilding || known > before.revision || lost_its_end(before, survey);
        // A reader may have seen any revision up to the ceiling, and must never see one twice.
        let last = match survey.revisions {
            Reading::Ceiling(ceiling) if behind => known.max(Revision(ceiling)),
            Reading::Missing | Reading::Damaged if behind => Revision(known.0 + BLIND_STEP),
            Reading::Ceiling(_) | Reading::Missing | Reading::Damaged => known,
        };
        let transaction = Transaction::new(before, last.next(), now);
        Self {
            shared,
            now,
            survey,
            before,
            rebuilding,
            transaction,
            report,
            unrecorded: 0,
            settings_taken: BTreeSet::new(),
            unneeded: Vec::new(),
        }
    }

    fn note(&mut self, note: String) {
        self.report.notes.push(note);
    }

    /// When the catalog has lost jobs, no id that they may have had is given out again.
    fn skip_numbers(&mut self) {
        if !self.rebuilding && self.unrecorded <= 1 {
            return;
        }
        let known = self.transaction.catalog().last_job;
        let last = match self.survey.job_ids {
            Reading::Ceiling(ceiling) => known.max(JobId(ceiling)),
            Reading::Missing | Reading::Damaged => JobId(known.0 + BLIND_STEP),
        };
        if last > known || self.rebuilding {
            self.transaction.skip_jobs_to(last);
        }
    }
}
