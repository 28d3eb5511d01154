//! Stopping by SIGTERM and SIGINT with everything under way: streams end with a status, a half
//! upload leaves nothing, a running job ends or runs again, and the process ends with 0.

use kmerge_client::v1;
use kmerge_client::v1::adapter_service_client::AdapterServiceClient;
use kmerge_client::v1::job_service_client::JobServiceClient;
use kmerge_client::v1::slot_service_client::SlotServiceClient;
use kmerge_client::v1::upload_adapter_request::Content;
use rustix::process::Signal;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::support::adapters::small;
use crate::support::calls::{ended, golden, header, merge, message, policy, push, register};
use crate::support::{BASE, Daemon, Setup, eventually};

/// The status with which a stream ends.
async fn end<T>(stream: &mut Streaming<T>) -> Status {
    loop {
        match stream.next().await {
            Some(Ok(_)) => {}
            Some(Err(status)) => return status,
            None => panic!("the stream ended without a status"),
        }
    }
}

/// Sends `signal` and waits for the orderly end.
async fn stop_by(daemon: &mut Daemon, signal: Signal) {
    daemon.signal(signal);
    let status = daemon.wait().await;
    assert_eq!(status.code(), Some(0), "{signal:?}: {status}");
    assert!(!daemon.socket().exists(), "{signal:?} left the socket");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn open_streams_end_with_a_status() {
    for signal in [Signal::TERM, Signal::INT] {
        let mut daemon = Daemon::start().await;
        let client = daemon.client().await;
        register(&client, BASE, policy(1)).await;
        merge(&client, "a", &golden("a0")).await;
        let mut slots = SlotServiceClient::new(daemon.channel().await);
        let mut watch = slots
            .watch_slots(v1::WatchSlotsRequest::default())
            .await
            .unwrap()
            .into_inner();
        watch.next().await.unwrap().unwrap();
        let ending = tokio::spawn(async move { end(&mut watch).await });
        stop_by(&mut daemon, signal).await;
        let status = ending.await.unwrap();
        assert_eq!(status.code(), Code::Unavailable, "{status:?}");
        assert!(daemon.log().contains("stopped"));
        daemon.assert_quiet(&[]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_half_upload_is_dropped() {
    for signal in [Signal::TERM, Signal::INT] {
        let mut daemon = Daemon::start().await;
        register(&daemon.client().await, BASE, policy(1)).await;
        let files = small(64, 1);
        let (sender, receiver) = tokio::sync::mpsc::channel(4);
        let first = Content::Header(header("half", &files.config, &files.tensors));
        sender.send(message(first)).await.unwrap();
        let half = files.tensors[..files.tensors.len() / 2].to_vec();
        let half = Content::Chunk(half.into());
        sender.send(message(half)).await.unwrap();
        let mut adapters = AdapterServiceClient::new(daemon.channel().await);
        let uploading =
            tokio::spawn(
                async move { adapters.upload_adapter(ReceiverStream::new(receiver)).await },
            );
        eventually("bytes are staged", async || !daemon.staged().is_empty()).await;

        stop_by(&mut daemon, signal).await;
        let status = uploading.await.unwrap().unwrap_err();
        assert_eq!(status.code(), Code::Unavailable, "{status:?}");
        assert!(daemon.staged().is_empty(), "{:?}", daemon.staged());
        daemon.assert_quiet(&[]);
        drop(sender);
        daemon.restart().await;
        let client = daemon.client().await;
        assert!(client.list_jobs(None, None).await.unwrap().is_empty());
        daemon.assert_quiet(&[]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_running_job_may_end() {
    let mut daemon = Setup::default()
        .env("KMERGE_FAILPOINT", "tensor.data_durable=sleep@1:1500")
        .start()
        .await;
    let client = daemon.client().await;
    register(&client, BASE, policy(1)).await;
    let running = push(&client, "running", &golden("a0")).await;
    let waiting = push(&client, "waiting", &golden("a1")).await;
    eventually("the job runs", async || {
        client.get_job(running.id).await.unwrap().state() == v1::JobState::Running
    })
    .await;
    stop_by(&mut daemon, Signal::TERM).await;
    daemon.assert_quiet(&[]);
    daemon.clear("KMERGE_FAILPOINT");
    daemon.restart().await;
    let client = daemon.client().await;
    // It was done before the end: nothing was interrupted.
    let running = client.get_job(running.id).await.unwrap();
    assert_eq!((running.state(), running.attempts), (v1::JobState::Done, 1));
    let waiting = ended(&client, waiting.id).await;
    assert_eq!((waiting.state(), waiting.attempts), (v1::JobState::Done, 1));
    daemon.assert_quiet(&[]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_takes_too_long_runs_again() {
    let mut daemon = Setup::default()
        .config("[shutdown]\njobs_seconds = 1")
        .env("KMERGE_FAILPOINT", "tensor.data_durable=sleep@1:600000")
        .start()
        .await;
    let client = daemon.client().await;
    register(&client, BASE, policy(1)).await;
    let job = push(&client, "held", &golden("a0")).await;
    eventually("the job runs", async || {
        client.get_job(job.id).await.unwrap().state() == v1::JobState::Running
    })
    .await;
    let mut jobs = JobServiceClient::new(daemon.channel().await);
    let request = v1::WatchJobRequest { id: job.id };
    let mut watch = jobs.watch_job(request).await.unwrap().into_inner();
    watch.next().await.unwrap().unwrap();
    let ending = tokio::spawn(async move { end(&mut watch).await });
    stop_by(&mut daemon, Signal::TERM).await;
    assert_eq!(ending.await.unwrap().code(), Code::Unavailable);
    daemon.assert_quiet(&["a merge did not end in time"]);

    daemon.clear("KMERGE_FAILPOINT");
    daemon.restart().await;
    let client = daemon.client().await;
    let job = ended(&client, job.id).await;
    assert_eq!((job.state(), job.attempts), (v1::JobState::Done, 2));
    assert_eq!(client.get_slot(BASE, 0).await.unwrap().generation, 1);
    let recovery = client.get_status().await.unwrap().recovery.unwrap();
    assert_eq!(recovery.jobs_requeued, 1);
    daemon.assert_quiet(&[]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_says_so_while_stopping() {
    let mut daemon = Setup::default()
        .config("[shutdown]\ndrain_seconds = 1")
        .start()
        .await;
    let mut watches = Vec::new();
    for service in ["", "kmerge.v1.AdapterService", "kmerge.v1.SlotService"] {
        let mut health = HealthClient::new(daemon.channel().await);
        let request = HealthCheckRequest {
            service: service.to_owned(),
        };
        let mut watch = health.watch(request).await.unwrap().into_inner();
        let now = watch.next().await.unwrap().unwrap();
        assert_eq!(now.status(), ServingStatus::Serving, "{service}");
        watches.push(watch);
    }
    daemon.signal(Signal::TERM);
    for watch in &mut watches {
        let now = watch.next().await.unwrap().unwrap();
        assert_eq!(now.status(), ServingStatus::NotServing);
    }
    assert_eq!(daemon.wait().await.code(), Some(0));
    // A health watch has no end of its own, so the stop ends it.
    daemon.assert_quiet(&["open calls did not end in time"]);
}
