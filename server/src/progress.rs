//! How far the running jobs are. In memory only: after a restart a job starts over anyway.
//!
//! Owned by the workers, who write; watchers read. A watcher that is slow misses steps.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use kmerge_storage::JobId;
use tokio::sync::watch;

/// What a job is doing, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Waiting, though it would be its turn: the disk has no room for it.
    DiskSpace,
    /// Comparing the newcomer with the slots.
    Similarity,
    /// Computing the slot's new tensors.
    Merge,
    /// Making the new generation durable, and publishing it.
    Commit,
}

/// Where a running job is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JobProgress {
    /// What it is doing.
    pub stage: Stage,
    /// 0 to 100, over the whole job.
    pub percent: u32,
}

type Running = Arc<BTreeMap<JobId, JobProgress>>;

/// The progress of all running jobs.
#[derive(Debug, Clone)]
pub struct ProgressBoard {
    sender: Arc<watch::Sender<Running>>,
}

impl Default for ProgressBoard {
    fn default() -> Self {
        Self {
            sender: Arc::new(watch::Sender::new(Running::default())),
        }
    }
}

impl ProgressBoard {
    /// Says where `job` is, from the share of the stage that is done. Watchers are woken only when
    /// the percentage or the stage changes.
    pub fn report(&self, job: JobId, stage: Stage, share: f32) {
        let progress = JobProgress {
            stage,
            percent: percent(stage, share),
        };
        self.sender.send_if_modified(|running| {
            // Threads report in any order; whoever is late has nothing new to say.
            let known = running.get(&job);
            let changed = known.is_none_or(|known| {
                (known.stage, known.percent) < (progress.stage, progress.percent)
            });
            if changed {
                Arc::make_mut(running).insert(job, progress);
            }
            changed
        });
    }

    /// Says which queued jobs wait for room on the disk. Those that did and do no longer are
    /// forgotten.
    pub fn wait_for_disk_space(&self, jobs: &BTreeSet<JobId>) {
        let waits = JobProgress {
            stage: Stage::DiskSpace,
            percent: 0,
        };
        self.sender.send_if_modified(|running| {
            let waiting = running.iter().filter(|(_, job)| **job == waits);
            if waiting.map(|(job, _)| job).eq(jobs) {
                return false;
            }
            let running = Arc::make_mut(running);
            running.retain(|_, job| *job != waits);
            running.extend(jobs.iter().map(|&job| (job, waits)));
            true
        });
    }

    /// How many jobs wait for room on the disk.
    pub fn waiting_for_disk_space(&self) -> usize {
        let running = self.sender.borrow();
        let waiting = running.values().filter(|job| job.stage == Stage::DiskSpace);
        waiting.count()
    }

    /// The job runs no longer.
    pub fn remove(&self, job: JobId) {
        self.sender
            .send_if_modified(|running| Arc::make_mut(running).remove(&job).is_some());
    }

    /// Where `job` is, if it runs.
    pub fn of(&self, job: JobId) -> Option<JobProgress> {
        self.sender.borrow().get(&job).copied()
    }

    /// Wakes its holder at each change.
    pub fn subscribe(&self) -> watch::Receiver<Running> {
        self.sender.subscribe()
    }
}

/// The search takes about a third of a whole job, the commit a little at the end.
fn percent(stage: Stage, share: f32) -> u32 {
    let (from, to) = match stage {
        Stage::DiskSpace => (0, 0),
        Stage::Similarity => (0, 35),
        Stage::Merge => (35, 90),
        Stage::Commit => (90, 100),
    };
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "0 to 100"
    )]
    #[expect(clippy::cast_precision_loss, reason = "small whole numbers")]
    let within = (share.clamp(0.0, 1.0) * (to - from) as f32) as u32;
    from + within
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_percentage_never_falls_over_a_job() {
        let mut last = 0;
        for stage in [Stage::Similarity, Stage::Merge, Stage::Commit] {
            for step in 0u8..=10 {
                let now = percent(stage, f32::from(step) / 10.0);
                assert!(now >= last, "{stage:?} {step}: {now} after {last}");
                last = now;
            }
        }
        assert_eq!(last, 100);
        assert_eq!(percent(Stage::Merge, f32::NAN.max(7.0)), 90);
    }

    #[test]
    fn who_waits_for_the_disk_is_told_until_it_runs() {
        let board = ProgressBoard::default();
        let mut watcher = board.subscribe();
        let jobs = BTreeSet::from([JobId(1), JobId(2)]);
        board.report(JobId(3), Stage::Merge, 0.5);
        board.wait_for_disk_space(&jobs);
        assert_eq!(board.waiting_for_disk_space(), 2);
        watcher.mark_unchanged();
        board.wait_for_disk_space(&jobs);
        assert!(!watcher.has_changed().unwrap());
        board.report(JobId(1), Stage::Similarity, 0.0);
        board.wait_for_disk_space(&BTreeSet::from([JobId(2)]));
        let stage = |job| board.of(JobId(job)).map(|progress| progress.stage);
        assert_eq!(stage(1), Some(Stage::Similarity));
        assert_eq!(stage(2), Some(Stage::DiskSpace));
        board.wait_for_disk_space(&BTreeSet::new());
        assert_eq!((stage(2), stage(3)), (None, Some(Stage::Merge)));
    }

    #[test]
    fn watchers_wake_only_for_a_change() {
        let board = ProgressBoard::default();
        let mut watcher = board.subscribe();
        board.report(JobId(1), Stage::Merge, 0.5);
        assert!(watcher.has_changed().unwrap());
        watcher.mark_unchanged();
        board.report(JobId(1), Stage::Merge, 0.501);
        assert!(!watcher.has_changed().unwrap());
        // Late reports of other threads change nothing.
        board.report(JobId(1), Stage::Merge, 0.2);
        board.report(JobId(1), Stage::Similarity, 1.0);
        assert!(!watcher.has_changed().unwrap());
        board.remove(JobId(1));
        assert!(watcher.has_changed().unwrap());
        assert_eq!(board.of(JobId(1)), None);
    }
}
