//! Which job runs next. Plain code: no locks, no threads, no clock.
//!
//! Jobs of one base model are decided in arrival order, one at a time, because each decision
//! depends on the one before. Different base models do not wait for each other; among them the
//! job that has waited longest comes first.

use std::collections::BTreeSet;

use kmerge_storage::{BaseModelName, Catalog, JobId, JobState};

/// The next job to run while the base models in `busy` have one running.
///
/// Job ids rise in arrival order, so the first queued one of a base model is its oldest.
pub fn next(catalog: &Catalog, busy: &BTreeSet<BaseModelName>) -> Option<(JobId, BaseModelName)> {
    catalog
        .unfinished_jobs()
        .find(|job| job.state == JobState::Queued && !busy.contains(&job.base_model))
        .map(|job| (job.id, job.base_model.clone()))
}

/// How many jobs wait or run.
pub fn unfinished(catalog: &Catalog) -> usize {
    catalog.unfinished_jobs().count()
}
