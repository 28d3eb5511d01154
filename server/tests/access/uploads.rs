//! Uploads: how many at once, and how fast, decided before or between bytes.

use std::time::Duration;

use kmerge_client::v1;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Status};
use v1::adapter_service_client::AdapterServiceClient;
use v1::upload_adapter_request::Content;

use crate::support::adapters::small;
use crate::support::calls::{Refusal, header, message, policy, register};
use crate::support::{BASE, Daemon, Setup, eventually};

type Messages = mpsc::Sender<v1::UploadAdapterRequest>;
type Answer = tokio::task::JoinHandle<Result<v1::UploadAdapterResponse, Status>>;

/// An upload of which nothing has been sent.
fn begin(channel: &Channel) -> (Messages, Answer) {
    let (messages, stream) = mpsc::channel(1);
    let mut client = AdapterServiceClient::new(channel.clone());
    let answer = tokio::spawn(async move {
        let answer = client.upload_adapter(ReceiverStream::new(stream)).await;
        answer.map(tonic::Response::into_inner)
    });
    (messages, answer)
}

fn assert_busy(refusal: &Refusal, reason: &str, quota: &str) {
    let found = (refusal.code, refusal.reason.as_str());
    assert_eq!(found, (Code::ResourceExhausted, reason));
    let violations = &refusal.details.quota_failure().unwrap().violations;
    assert_eq!(violations[0].subject, quota);
    assert!(refusal.details.retry_info().unwrap().retry_delay.is_some());
}

/// Opens as many uploads as are let in, none of which sends anything, and gives the refusal of the
/// one too many.
async fn fill(channel: &Channel, limit: usize) -> (Vec<(Messages, Answer)>, Refusal) {
    let mut open: Vec<(Messages, Answer)> = Vec::new();
    for _ in 0..=limit {
        open.push(begin(channel));
    }
    let mut refused = None;
    eventually("one is refused", async || {
        refused = open.iter().position(|(_, answer)| answer.is_finished());
        refused.is_some()
    })
    .await;
    let (_, answer) = open.remove(refused.unwrap());
    (open, Refusal::from(answer.await.unwrap().unwrap_err()))
}

#[tokio::test]
async fn places_are_given_before_anything_is_read() {
    for (config, limit, reason, quota) in [
        ("", 4, "UPLOADS_BUSY", "uploads.parallel"),
        (
            "uploads.parallel_per_user = 2",
            2,
            "USER_UPLOADS_BUSY",
            "uploads.parallel_per_user",
        ),
    ] {
        let daemon = Setup::default().config(config).start().await;
        let channel = daemon.channel().await;
        let (open, refusal) = fill(&channel, limit).await;
        assert_busy(&refusal, reason, quota);
        assert_eq!(open.len(), limit);
        assert!(open.iter().all(|(_, answer)| !answer.is_finished()));
        drop(open);
        daemon.assert_quiet(&[]);
    }
}

async fn slow(config: &str, interval: Duration, bytes: usize) -> (Daemon, Refusal) {
    let daemon = Setup::default().config(config).start().await;
    register(&daemon.client().await, BASE, policy(2)).await;
    let files = small(4, 1);
    let mut announced = header("a", &files.config, &files.tensors);
    // More than will ever come.
    announced.size_bytes = 64 << 20;
    let (messages, answer) = begin(&daemon.channel().await);
    let first = message(Content::Header(announced));
    messages.send(first).await.unwrap();
    while !answer.is_finished() {
        let chunk = Content::Chunk(vec![0; bytes].into());
        if messages.send(message(chunk)).await.is_err() {
            break;
        }
        tokio::time::sleep(interval).await;
    }
    let refusal = Refusal::from(answer.await.unwrap().unwrap_err());
    eventually("nothing is staged", async || daemon.staged().is_empty()).await;
    (daemon, refusal)
}

#[tokio::test]
async fn one_that_drips_is_dropped() {
    let config = "uploads.grace_seconds = 1\nuploads.min_bytes_per_second = \"64KiB\"";
    let (daemon, refusal) = slow(config, Duration::from_millis(100), 100).await;
    let found = (refusal.code, refusal.reason.as_str());
    assert_eq!(found, (Code::DeadlineExceeded, "UPLOAD_SLOW"));
    assert!(refusal.message.contains("65536"), "{}", refusal.message);
    daemon.assert_quiet(&[]);
}

#[tokio::test]
async fn one_that_takes_too_long_is_dropped_although_it_is_fast_enough() {
    let config = "uploads.max_seconds = 1\nuploads.min_bytes_per_second = 0";
    let (daemon, refusal) = slow(config, Duration::from_millis(50), 1000).await;
    let found = (refusal.code, refusal.reason.as_str());
    assert_eq!(found, (Code::DeadlineExceeded, "UPLOAD_LONG"));
    daemon.assert_quiet(&[]);
}

#[tokio::test]
async fn one_that_says_nothing_at_all_is_dropped() {
    let daemon = Setup::default()
        .config("listen.stream_idle_seconds = 1")
        .start()
        .await;
    let (messages, answer) = begin(&daemon.channel().await);
    let refusal = Refusal::from(answer.await.unwrap().unwrap_err());
    assert_eq!(refusal.reason, "UPLOAD_SILENT");
    drop(messages);
    daemon.assert_quiet(&[]);
}
