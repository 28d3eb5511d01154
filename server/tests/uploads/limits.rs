//! What is too much now is answered at once, before any bytes, with when to come again.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use kmerge_client::{Upload, UploadEvent, v1};
use tonic::Code;

use crate::support::adapters::small;
use crate::support::calls::{Refusal, ended, merge, policy, push, register};
use crate::support::{BASE, Daemon, Setup};
use crate::{Open, header_of, nothing_staged, staging};

/// Begins an upload of which nothing but the header is ever sent, and gives the refusal.
async fn refused(daemon: &Daemon, task: &str) -> Refusal {
    let open = Open::begin(&daemon.channel().await, header_of(task, &small(4, 9))).await;
    Refusal::from(open.answer().await.unwrap_err())
}

fn assert_busy(refusal: &Refusal, reason: &str, quota: &str) {
    assert_eq!(
        (refusal.code, refusal.reason.as_str()),
        (Code::ResourceExhausted, reason)
    );
    let violations = &refusal.details.quota_failure().unwrap().violations;
    assert_eq!(violations[0].subject, quota);
    let wait = refusal.details.retry_info().unwrap().retry_delay.unwrap();
    assert!(!wait.is_zero(), "{refusal:?}");
}

#[tokio::test]
async fn a_full_queue_says_when_to_come_again() {
    // Each commit takes a while, so the first job is in the queue when the second comes.
    let mut daemon = Setup::default()
        .config("uploads.queue = 1")
        .env("KMERGE_FAILPOINT", "commit.checked=sleep@1:1500")
        .start()
        .await;
    let client = daemon.client().await;
    register(&client, BASE, policy(2)).await;
    let first = push(&client, "first", &small(4, 1).adapter()).await;
    let refusal = refused(&daemon, "second").await;
    assert_busy(&refusal, "QUEUE_FULL", "uploads.queue");
    assert!(refusal.message.contains('1'), "{}", refusal.message);
    // The client library waits as it is told, and gets in.
    let waits = Arc::new(AtomicU32::new(0));
    let seen = Arc::clone(&waits);
    let upload = Upload::new("second", BASE);
    let adapter = small(4, 2).adapter();
    let second = client.upload_adapter(&adapter, &upload, move |event| {
        if let UploadEvent::Waiting { error, .. } = event {
            assert!(error.retry_after().is_some(), "{error:?}");
            seen.fetch_add(1, Ordering::SeqCst);
        }
    });
    let second = second.await.unwrap().job.unwrap();
    assert!(
        waits.load(Ordering::SeqCst) > 0,
        "the second upload never had to wait"
    );
    for job in [first, second] {
        assert_eq!(ended(&client, job.id).await.state(), v1::JobState::Done);
    }
    daemon.stop().await;
    daemon.assert_quiet(&[]);
}

#[tokio::test]
async fn uploads_at_once_are_limited() {
    let mut daemon = Setup::default()
        .config("uploads.parallel = 2")
        .start()
        .await;
    let client = daemon.client().await;
    register(&client, BASE, policy(2)).await;
    let channel = daemon.channel().await;
    let (a, b) = (small(4, 1), small(4, 2));
    let first = Open::begin(&channel, header_of("a", &a)).await;
    staging(&daemon).await;
    let second = Open::begin(&channel, header_of("b", &b)).await;
    crate::eventually("both are staged", async || {
        daemon
            .staged()
            .iter()
            .filter(|file| file.ends_with("tensors"))
            .count()
            == 2
    })
    .await;
    let refusal = refused(&daemon, "c").await;
    assert_busy(&refusal, "UPLOADS_BUSY", "uploads.parallel");
    // Both go on as if nothing had been asked, and then there is room.
    for (open, files) in [(second, &b), (first, &a)] {
        open.send(crate::Content::Chunk(files.tensors.clone().into()))
            .await;
        let job = open.finish().await.unwrap().job.unwrap();
        assert_eq!(ended(&client, job.id).await.state(), v1::JobState::Done);
    }
    merge(&client, "c", &small(4, 9).adapter()).await;
    nothing_staged(&daemon).await;
    daemon.stop().await;
    daemon.assert_quiet(&[]);
}

#[tokio::test]
async fn a_full_disk_takes_no_uploads_but_serves() {
    let mut daemon = Daemon::start().await;
    let client = daemon.client().await;
    register(&client, BASE, policy(2)).await;
    merge(&client, "a", &small(4, 1).adapter()).await;
    // No disk has this much free.
    daemon.env("KMERGE_STATE__MIN_FREE_BYTES", "1000TB");
    daemon.restart().await;
    let client = daemon.client().await;
    let refusal = refused(&daemon, "b").await;
    assert_busy(&refusal, "DISK_FULL", "state.min_free_bytes");
    assert_eq!(client.resolve_task(BASE, "a").await.unwrap().generation, 1);
    daemon.stop().await;
    daemon.assert_quiet(&[]);
}
