//! Clients that are slow, or do nothing at all, cost the daemon next to nothing: a thousand streams
//! that watch, readers that take a KiB a second or stop, and uploads that stop.

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]
#![expect(clippy::disallowed_methods, reason = "the tests read their own files")]

mod support;

use kmerge_client::{Client, v1};
use support::adapters::{Tensors, config, small};
use support::calls::{ended, header, message, policy, register, upload};
use support::{BASE, Daemon, Setup};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_stream::StreamExt as _;
use tonic::Streaming;
use tonic::transport::Channel;
use v1::job_service_client::JobServiceClient;
use v1::slot_service_client::SlotServiceClient;
use v1::upload_adapter_request::Content;

/// How much more memory a thousand streams, or some dozens of readers and writers, may cost.
const LIMIT: u64 = 24 << 20;

const STREAMS: usize = 1000;
const PER_CONNECTION: usize = 25;

/// Resident memory, the smallest of a few looks: what is there all the time.
async fn resident(client: &Client) -> u64 {
    let mut least = u64::MAX;
    for _ in 0..5 {
        least = least.min(client.get_status().await.unwrap().resident_bytes);
        tokio::time::sleep(std::time::Duration::from_millis(40)).await;
    }
    least
}

fn mib(bytes: u64) -> u64 {
    bytes >> 20
}

async fn start() -> (Daemon, Client) {
    let daemon = Setup::default()
        .many_connections()
        // Nobody is sent away while the test looks.
        .config("listen.stream_idle_seconds = 3600")
        .config("uploads.parallel = 64")
        .config("uploads.grace_seconds = 3600")
        .start()
        .await;
    let client = daemon.client().await;
    register(&client, BASE, policy(1)).await;
    (daemon, client)
}

/// Merges an adapter, so that the daemon has done once what it does, and gives the job.
async fn warm_up(client: &Client, task: &str, adapter: &kmerge_client::Adapter) -> u64 {
    let answer = client.upload_adapter(adapter, &upload(task), |_| ()).await;
    let job = answer.unwrap().job.unwrap().id;
    assert_eq!(ended(client, job).await.state(), v1::JobState::Done);
    client.resolve_task(BASE, task).await.unwrap();
    job
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_streams_that_only_watch_cost_little() {
    let mut daemon = Setup::default()
        .many_connections()
        // The job that is watched does not end.
        .env("KMERGE_FAILPOINT", "commit.checked=sleep@2:3600000")
        .start()
        .await;
    let client = daemon.client().await;
    register(&client, BASE, policy(1)).await;
    warm_up(&client, "first", &small(4, 1).adapter()).await;
    let second = small(4, 2).adapter();
    let job = client
        .upload_adapter(&second, &upload("second"), |_| ())
        .await;
    let job = job.unwrap().job.unwrap().id;
    let before = resident(&client).await;

    let mut slots: Vec<Streaming<v1::WatchSlotsResponse>> = Vec::new();
    let mut jobs: Vec<Streaming<v1::WatchJobResponse>> = Vec::new();
    let mut channel = daemon.channel().await;
    for number in 0..STREAMS {
        if number.is_multiple_of(PER_CONNECTION) {
            channel = daemon.channel().await;
        }
        if number.is_multiple_of(2) {
            let request = v1::WatchSlotsRequest::default();
            let answer = SlotServiceClient::new(channel.clone())
                .watch_slots(request)
                .await;
            slots.push(answer.unwrap().into_inner());
        } else {
            let request = v1::WatchJobRequest { id: job };
            let answer = JobServiceClient::new(channel.clone())
                .watch_job(request)
                .await;
            jobs.push(answer.unwrap().into_inner());
        }
    }
    // Each is there and follows: it has been sent what is.
    for stream in &mut slots {
        stream.next().await.unwrap().unwrap();
    }
    for stream in &mut jobs {
        stream.next().await.unwrap().unwrap();
    }
    let with = resident(&client).await;
    println!(
        "{} MiB, and {} with {STREAMS} streams",
        mib(before),
        mib(with)
    );
    assert!(with <= before + LIMIT, "{before} bytes, then {with}");
    drop((slots, jobs));
    client.resolve_task(BASE, "first").await.unwrap();
    daemon.kill();
}

/// A request for the bytes of a slot, as a client sends it that knows nothing of flow control.
async fn fetch(channel: &Channel) -> Streaming<v1::FetchSlotResponse> {
    let request = v1::FetchSlotRequest {
        base_model: BASE.to_owned(),
        format: v1::AdapterFormat::Peft.into(),
        ..v1::FetchSlotRequest::default()
    };
    let answer = SlotServiceClient::new(channel.clone())
        .fetch_slot(request)
        .await;
    answer.unwrap().into_inner()
}

/// A way to the daemon that lets a KiB a second through, or nothing any more after a while.
async fn slow_way(daemon: &Daemon, is_stalled: bool) -> std::path::PathBuf {
    let path = daemon.room().join(format!("slow-{is_stalled}.sock"));
    let listener = tokio::net::UnixListener::bind(&path).unwrap();
    let socket = daemon.socket();
    tokio::spawn(async move {
        while let Ok((near, _)) = listener.accept().await {
            let far = tokio::net::UnixStream::connect(&socket).await.unwrap();
            let (mut from_near, mut to_near) = near.into_split();
            let (mut from_far, mut to_far) = far.into_split();
            tokio::spawn(async move { tokio::io::copy(&mut from_near, &mut to_far).await });
            tokio::spawn(async move {
                let (mut piece, mut passed) = ([0; 1024], 0);
                while let Ok(length) = from_far.read(&mut piece).await {
                    if length == 0 || to_near.write_all(&piece[..length]).await.is_err() {
                        return;
                    }
                    passed += length;
                    // What begins a stream goes through.
                    if passed > 4096 {
                        let time = if is_stalled { 3600 } else { 1 };
                        tokio::time::sleep(std::time::Duration::from_secs(time)).await;
                    }
                }
            });
        }
    });
    path
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_and_stalled_readers_and_writers_cost_little() {
    const READERS: usize = 16;
    let (mut daemon, client) = start().await;
    // Large enough that nobody is given all of it at once.
    let files = support::adapters::Files {
        config: serde_json::Value::Object(config(1024))
            .to_string()
            .into_bytes(),
        tensors: Tensors::fitting(1024, 1).file(),
    };
    warm_up(&client, "first", &files.adapter()).await;
    for _ in 0..4 {
        // A whole fetch, as warm-up.
        let mut stream = fetch(&daemon.channel().await).await;
        while let Some(part) = stream.next().await {
            part.unwrap();
        }
    }
    let before = resident(&client).await;
    let mut kept = Vec::new();
    for is_stalled in [false, true] {
        let path = slow_way(&daemon, is_stalled).await;
        for _ in 0..READERS {
            let address = format!("unix://{}", path.display());
            let endpoint = tonic::transport::Endpoint::from_shared(address).unwrap();
            let channel = endpoint.connect().await.unwrap();
            let mut stream = fetch(&channel).await;
            let reading = tokio::spawn(async move { while stream.next().await.is_some() {} });
            kept.push((channel, reading));
        }
    }
    // Readers that read nothing of a stream on a connection that works.
    let mut unread = Vec::new();
    for _ in 0..READERS {
        unread.push(fetch(&daemon.channel().await).await);
    }
    // Uploads that stop in the middle.
    let mut uploads = Vec::new();
    for number in 0..READERS {
        let header = header(&format!("slow-{number}"), &files.config, &files.tensors);
        let (sender, receiver) = tokio::sync::mpsc::channel(4);
        let mut service =
            v1::adapter_service_client::AdapterServiceClient::new(daemon.channel().await);
        let messages = tokio_stream::wrappers::ReceiverStream::new(receiver);
        let answer = tokio::spawn(async move { service.upload_adapter(messages).await });
        sender.send(message(Content::Header(header))).await.unwrap();
        let chunk = files.tensors[..256 * 1024].to_vec();
        sender
            .send(message(Content::Chunk(chunk.into())))
            .await
            .unwrap();
        uploads.push((sender, answer));
    }
    support::eventually("all uploads are being staged", async || {
        daemon.staged().len() >= 2 * READERS
    })
    .await;
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    let with = resident(&client).await;
    println!(
        "{} MiB, and {} with {READERS} readers of 1 KiB/s, {} that are stalled, and {READERS} uploads that are",
        mib(before),
        mib(with),
        2 * READERS
    );
    // Each holds a few pieces of the file and the windows of its connection, and no more.
    let each = (with.saturating_sub(before)) / (4 * READERS as u64);
    println!("{} KiB each", each >> 10);
    assert!(with <= before + 2 * LIMIT, "{before} bytes, then {with}");
    client.resolve_task(BASE, "first").await.unwrap();
    drop((kept, unread, uploads));
    daemon.kill();
}
