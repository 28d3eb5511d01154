//! Small records overwritten again and again: the database is a log, and neither it nor the process
//! may grow with what was overwritten.
//!
//! KMERGE_AGE_OVERWRITES says how often (2,000).

#![expect(clippy::unwrap_used, reason = "a test that fails may panic")]
#![expect(clippy::disallowed_methods, reason = "it looks at its own process")]

mod common;
#[path = "common/flat.rs"]
mod flat;

use std::time::{Duration, Instant};

use common::{at, base_name, scratch, task};
use flat::{Run, SAMPLES, Sample};
use kmerge_storage::{JobFailure, JobKind, Opened, Options, Rearrangement, RecoveryReport, open};

/// Changes of the catalog, each durable by itself, in one turn of the life of a few jobs.
const A_TURN: u64 = 8;

#[test]
fn a_database_that_is_overwritten_stays_as_it_is() {
    let overwrites: u64 =
        std::env::var("KMERGE_AGE_OVERWRITES").map_or(2_000, |text| text.parse().unwrap());
    let directory = scratch();
    let options = Options {
        finished_jobs_kept: 100,
        ..Options::default()
    };
    let Opened {
        mut committer,
        reader,
        ..
    } = open(directory.path(), &options, at(0)).unwrap();
    committer.register_base_model(common::base_model()).unwrap();
    let base_model = base_name();
    let turns = overwrites.div_ceil(A_TURN);
    let mut run = Run::default();
    let started = Instant::now();
    for turn in 0..turns {
        let now = at(turn);
        // Queued and taken back.
        let forget = JobKind::Forget { task: task("a") };
        let job = committer.enqueue_maintenance(&base_model, forget.clone(), None, now);
        committer.cancel_job(job.unwrap().job.id, now).unwrap();
        // Queued, begun, failed.
        let job = committer.enqueue_maintenance(&base_model, forget, None, now);
        let job = job.unwrap().job.id;
        committer.start_job(job, now).unwrap();
        let failure = JobFailure {
            code: 9,
            reason: "AGE".to_owned(),
            message: format!("turn {turn}"),
        };
        committer.fail_job(job, failure, now).unwrap();
        // Queued, begun, done: other settings.
        let settings = format!("{{\"slots\":{}}}", 1 + turn % 8);
        let repack = JobKind::Repack {
            settings: settings.clone(),
        };
        let job = committer.enqueue_maintenance(&base_model, repack, None, now);
        let job = job.unwrap().job.id;
        committer.start_job(job, now).unwrap();
        let done = Rearrangement {
            job,
            steps: Vec::new(),
            settings: Some(settings),
            result: "{}".to_owned(),
        };
        committer.rearrange(done, now).unwrap();
        committer.collect(Duration::ZERO, now).unwrap();
        if turn % turns.div_ceil(SAMPLES) == 0 {
            let usage = reader.disk_usage(&committer.catalog()).unwrap();
            run.add(Sample::of("self", usage.total));
        }
    }
    let report = run.report();
    println!("{} overwrites in {:?}", turns * A_TURN, started.elapsed());
    println!("{}", report.as_ref().unwrap_or_else(|grown| grown));
    let settings = committer.catalog().base_models[&base_model]
        .record
        .settings
        .clone();
    committer.close().unwrap();
    drop(reader);
    let opened = open(directory.path(), &options, at(turns)).unwrap();
    assert_eq!(opened.report, RecoveryReport::default());
    let catalog = opened.committer.catalog();
    assert_eq!(catalog.base_models[&base_model].record.settings, settings);
    assert!(report.is_ok(), "it grows:\n{}", report.unwrap_err());
}
