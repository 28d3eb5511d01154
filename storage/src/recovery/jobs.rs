//! Step 5 of recovery: the catalog and `staging/` agree.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use super::{Recovery, set_aside};
use crate::durable;
use crate::error::OpenError;
use crate::give_up::DATA_LOSS;
use crate::ids::JobId;
use crate::records::{JobFailure, JobRecord, JobState};
use crate::sealed;
use crate::staging::{StagedHeader, header_path};

/// A job that has ended the process this often is not begun again.
const MAX_ATTEMPTS: u32 = 3;

/// The canonical code for a fault of our own.
const INTERNAL: i32 = 13;

impl Recovery<'_> {
    /// Queues what was interrupted and what was staged, and fails what cannot run.
    pub(super) fn recover_jobs(&mut self) -> Result<(), OpenError> {
        let runnable = self.sort_staged()?;
        let unfinished: Vec<Arc<JobRecord>> = self
            .transaction
            .catalog()
            .unfinished_jobs()
            .cloned()
            .collect();
        for job in unfinished {
            let is_staged = self.survey.staged.contains_key(&job.id);
            if !job.kind.is_upload() && !is_staged {
                // Its header comes before its record and goes after its end, so it has ended, and
                // the catalog has lost that. It may have been taken back, so it must not run.
                let message = "The job had ended, but the catalog has lost how; look at the slots, \
                               and ask again if need be.";
                self.fail(&job, DATA_LOSS, "OUTCOME_LOST", message.to_owned())?;
                continue;
            }
            // What a job without an upload is to do is in its record.
            if job.kind.is_upload() && !runnable.contains(&job.id) {
                let message = "The uploaded files are missing or damaged; send the adapter again.";
                self.fail(&job, DATA_LOSS, "STAGED_LOST", message.to_owned())?;
            } else if job.state == JobState::Running {
                if job.attempts >= MAX_ATTEMPTS {
                    let message = format!(
                        "The daemon ended {} times while it worked on this job.",
                        job.attempts
                    );
                    self.fail(&job, INTERNAL, "CRASH_LOOP", message)?;
                } else {
                    let queued = JobRecord {
                        state: JobState::Queued,
                        started: None,
                        ..JobRecord::clone(&job)
                    };
                    self.transaction.put_job(queued)?;
                    self.report.jobs_requeued += 1;
                }
            }
        }
        Ok(())
    }

    /// Decides for each staged directory whether a job needs it. Gives the jobs that can run.
    fn sort_staged(&mut self) -> Result<BTreeSet<JobId>, OpenError> {
        let mut runnable = BTreeSet::new();
        for (&id, directory) in &self.survey.staged {
            let job = self.transaction.catalog().jobs.get(&id).cloned();
            let state = job.as_ref().map(|job| job.state);
            if let Some(job) = &job
                && !job.kind.is_upload()
                && !job.state.is_finished()
                && directory.header.is_none()
            {
                self.write_header_again(job, &directory.path)?;
                continue;
            }
            match (state, &directory.header) {
                (Some(state), _) if state.is_finished() => {
                    self.unneeded.push(directory.path.clone());
                }
                (Some(_), Some(_)) => drop(runnable.insert(id)),
                (None, Some(header)) if self.is_unrecorded(header) => {
                    self.transaction.put_job(header.job())?;
                    self.unrecorded += 1;
                    self.report.jobs_requeued += 1;
                    runnable.insert(id);
                }
                // Known once and forgotten since, so it ended.
                (None, Some(_)) => self.unneeded.push(directory.path.clone()),
                (_, None) => {
                    let target = set_aside(self.shared, &directory.path, self.now)?;
                    self.note(format!(
                        "the staged files of job {id} are damaged; they were moved to {}",
                        target.display()
                    ));
                }
            }
        }
        Ok(runnable)
    }

    /// Writes the header of a job without an upload again, from its record. Its directory stays
    /// where it is, because a job that has none has ended.
    fn write_header_again(&mut self, job: &JobRecord, directory: &Path) -> Result<(), OpenError> {
        let path = header_path(directory);
        if durable::exists(&path) {
            set_aside(self.shared, &path, self.now)?;
        }
        let header = sealed::seal(&StagedHeader::of(job));
        let temporary = self.shared.layout.temporary("header");
        let disk = &self.shared.disk;
        disk.put_durably(&temporary, &path, &header)?;
        self.note(format!(
            "wrote {} again, which was missing or damaged",
            path.display()
        ));
        Ok(())
    }

    /// Whether a staged upload is whole, but was interrupted before the catalog knew it. Ids rise,
    /// so the catalog has known all jobs up to its last one.
    fn is_unrecorded(&self, header: &StagedHeader) -> bool {
        let catalog = self.transaction.catalog();
        let is_new = self.rebuilding || header.job > self.before.last_job;
        is_new
            && catalog.base_model(&header.base_model).is_some()
            && (!header.kind.is_upload()
                || catalog
                    .job_for_task(&header.base_model, &header.task)
                    .is_none())
    }

    fn fail(
        &mut self,
        job: &JobRecord,
        code: i32,
        reason: &str,
        message: String,
    ) -> Result<(), OpenError> {
        self.note(format!("job {} failed: {message}", job.id));
        let failed = JobRecord {
            state: JobState::Failed,
            ended: Some(self.now),
            failure: Some(JobFailure {
                code,
                reason: reason.to_owned(),
                message,
            }),
            ..job.clone()
        };
        self.transaction.put_job(failed)?;
        // Its files go after this is durable, as those of any job that has ended.
        if let Some(directory) = self.survey.staged.get(&job.id)
            && directory.header.is_some()
        {
            self.unneeded.push(directory.path.clone());
        }
        Ok(())
    }
}
