//! Watches: to the end, over broken streams, and never back.

use std::time::Duration;

use kmerge_client::retry::Policy;
use kmerge_client::{Error, v1};
use tonic::Status;

use crate::fake::{Fake, Messages, Script, job, slot};
use v1::JobState::{Done, Failed, Queued, Running};

const HASTY: Policy = Policy {
    initial: Duration::from_millis(1),
    longest: Duration::from_millis(2),
    attempts: 4,
    patience: Duration::from_secs(60),
};

fn jobs<const N: usize>(states: [v1::JobState; N]) -> Messages<v1::WatchJobResponse> {
    states
        .map(|state| {
            Ok(v1::WatchJobResponse {
                job: Some(job(3, state)),
            })
        })
        .into()
}

fn changes<const N: usize>(revisions: [u64; N]) -> Messages<v1::WatchSlotsResponse> {
    revisions
        .map(|revision| {
            Ok(v1::WatchSlotsResponse {
                slot: Some(slot(0, revision)),
                revision,
                emptied: None,
            })
        })
        .into()
}

async fn states(script: Script) -> Result<Vec<v1::JobState>, Error> {
    let fake = Fake::start(script).await;
    let mut watch = fake.client().await.watch_job(3).with_policy(HASTY);
    let mut states = Vec::new();
    while let Some(job) = watch.next().await? {
        states.push(job.state());
    }
    Ok(states)
}

#[tokio::test]
async fn a_job_is_watched_to_its_end() {
    let job_streams = [jobs([Queued, Running, Running, Done])].into();
    let seen = states(Script {
        job_streams,
        ..Script::default()
    })
    .await
    .unwrap();
    assert_eq!(seen, [Queued, Running, Running, Done]);
}

#[tokio::test]
async fn a_broken_stream_is_opened_again() {
    let mut broken = jobs([Running]);
    broken.push(Err(Status::unavailable("kmerged is stopping")));
    // The second one ends without a word.
    let job_streams = [broken, jobs([Queued]), jobs([Running, Failed])].into();
    let seen = states(Script {
        job_streams,
        ..Script::default()
    })
    .await
    .unwrap();
    assert_eq!(seen, [Running, Queued, Running, Failed]);
}

#[tokio::test]
async fn nothing_is_asked_after_the_end() {
    let job_streams = [jobs([Done, Running])].into();
    assert_eq!(
        states(Script {
            job_streams,
            ..Script::default()
        })
        .await
        .unwrap(),
        [Done]
    );
}

#[tokio::test]
async fn streams_that_keep_breaking_end_the_watch() {
    let job_streams = std::iter::repeat_with(|| jobs([])).take(20).collect();
    let error = states(Script {
        job_streams,
        ..Script::default()
    })
    .await
    .unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "{error:?}");
}

#[tokio::test]
async fn the_last_job_is_given_whole() {
    let job_streams = [jobs([Queued, Done])].into();
    let fake = Fake::start(Script {
        job_streams,
        ..Script::default()
    })
    .await;
    let job = fake.client().await.watch_job(3).ended().await.unwrap();
    assert_eq!(job.decision.unwrap().slot, 1);
}

#[tokio::test]
async fn a_lost_slot_watch_goes_on_after_its_last_revision() {
    let mut broken = changes([4, 6]);
    broken.push(Err(Status::unavailable("kmerged is stopping")));
    let slot_streams = [broken, changes([]), changes([7])].into();
    let fake = Fake::start(Script {
        slot_streams,
        ..Script::default()
    })
    .await;
    let mut watch = fake
        .client()
        .await
        .watch_slots(Some("smollm2"), 2)
        .with_policy(HASTY);
    let mut revisions = Vec::new();
    for _ in 0..3 {
        watch.next().await.unwrap();
        revisions.push(watch.revision());
    }
    assert_eq!(revisions, [4, 6, 7]);
    assert_eq!(fake.script().watched_after, [2, 6, 6]);
}

#[tokio::test]
async fn a_slot_watch_never_goes_back() {
    let slot_streams = [changes([5, 3, 5, 9])].into();
    let fake = Fake::start(Script {
        slot_streams,
        ..Script::default()
    })
    .await;
    let mut watch = fake.client().await.watch_slots(None, 0);
    let mut generations = Vec::new();
    for _ in 0..3 {
        let slot = watch.next().await.unwrap().into_slot().unwrap();
        generations.push(slot.generation);
    }
    assert_eq!(generations, [5, 5, 9]);
}

#[tokio::test]
async fn a_watch_outlives_a_daemon_that_is_restarted() {
    let job_streams = [jobs([Running]), jobs([Done])].into();
    let mut fake = Fake::start(Script {
        job_streams,
        ..Script::default()
    })
    .await;
    let patient = Policy {
        attempts: 1000,
        longest: Duration::from_millis(20),
        ..HASTY
    };
    let mut watch = fake.client().await.watch_job(3).with_policy(patient);
    assert_eq!(watch.next().await.unwrap().unwrap().state(), Running);
    fake.stop();
    let waiting = tokio::spawn(async move { watch.next().await });
    fake.listen().await;
    assert_eq!(waiting.await.unwrap().unwrap().unwrap().state(), Done);
}
