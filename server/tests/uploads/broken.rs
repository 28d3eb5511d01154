//! Uploads that break off or fall silent leave no file and no job, and give their place back.

use kmerge_client::{Client, Upload, v1};
use tonic::Code;
use v1::upload_adapter_request::Content;

use crate::support::adapters::{Files, small};
use crate::support::calls::{Picture, Refusal, ended, policy, register};
use crate::support::{BASE, Daemon, Setup, eventually};
use crate::{Open, header_of, nothing_staged, staging};

/// Begins an upload and waits until it is being staged. The only place may still be that of an
/// upload before: it is given back just after its files are gone.
async fn begin(daemon: &Daemon, files: &Files) -> Open {
    let channel = daemon.channel().await;
    loop {
        let open = Open::begin(&channel, header_of("a", files)).await;
        eventually("the upload has its place or is refused", async || {
            !daemon.staged().is_empty() || open.answer.is_finished()
        })
        .await;
        if !open.answer.is_finished() {
            return open;
        }
        let refusal = Refusal::from(open.answer().await.unwrap_err());
        assert_eq!(refusal.reason, "UPLOADS_BUSY", "{}", refusal.message);
    }
}

/// The whole adapter gets in, sooner or later.
async fn whole(client: &Client, files: &Files) {
    let upload = Upload::new("a", BASE);
    let answer = client
        .upload_adapter(&files.adapter(), &upload, |_| ())
        .await;
    let job = ended(client, answer.unwrap().job.unwrap().id).await;
    assert_eq!(job.state(), v1::JobState::Done, "{:?}", job.error);
}

#[tokio::test]
async fn hanging_up_leaves_nothing_and_frees_the_place() {
    let mut daemon = Setup::default()
        .config("uploads.parallel = 1")
        .start()
        .await;
    let client = daemon.client().await;
    register(&client, BASE, policy(2)).await;
    let before = Picture::take(&client).await;
    let files = small(4, 1);
    // All but the last byte too: once that has come, the upload is whole, whoever still listens.
    let parts = [0, 1, files.tensors.len() / 2, files.tensors.len() - 1];
    for sent in parts {
        let open = begin(&daemon, &files).await;
        if sent > 0 {
            open.send(Content::Chunk(files.tensors[..sent].to_vec().into()))
                .await;
        }
        let unfinished = open.hang_up().await;
        nothing_staged(&daemon).await;
        drop(unfinished);
    }
    assert_eq!(Picture::take(&client).await, before);
    whole(&client, &files).await;
    daemon.stop().await;
    daemon.assert_quiet(&[]);
}

#[tokio::test]
async fn a_client_that_dies_leaves_nothing() {
    let mut daemon = Setup::default()
        .config("uploads.parallel = 1")
        .start()
        .await;
    let client = daemon.client().await;
    register(&client, BASE, policy(2)).await;
    let files = small(4, 1);
    // A connection and a runtime of its own, gone from one moment to the next.
    let header = header_of("a", &files);
    let half = files.tensors[..100].to_vec();
    let address = format!("unix://{}", daemon.socket().display());
    let (staged, wait) = tokio::sync::oneshot::channel();
    let dying = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let endpoint = tonic::transport::Endpoint::from_shared(address).unwrap();
            let channel = endpoint.connect().await.unwrap();
            let open = Open::begin(&channel, header).await;
            open.send(Content::Chunk(half.into())).await;
            let () = wait.await.unwrap();
            std::mem::forget(open);
        });
    });
    staging(&daemon).await;
    staged.send(()).unwrap();
    dying.join().unwrap();
    nothing_staged(&daemon).await;
    whole(&client, &files).await;
    daemon.stop().await;
    daemon.assert_quiet(&[]);
}

#[tokio::test]
async fn silence_is_dropped() {
    let mut daemon = Setup::default()
        .config("listen.stream_idle_seconds = 1")
        .start()
        .await;
    let client = daemon.client().await;
    register(&client, BASE, policy(2)).await;
    let before = Picture::take(&client).await;
    let channel = daemon.channel().await;
    let files = small(4, 1);
    let open = Open::begin(&channel, header_of("a", &files)).await;
    open.send(Content::Chunk(files.tensors[..100].to_vec().into()))
        .await;
    let refusal = Refusal::from(open.answer().await.unwrap_err());
    let found = (refusal.code, refusal.reason.as_str());
    assert_eq!(found, (Code::DeadlineExceeded, "UPLOAD_SILENT"));
    assert!(refusal.message.contains("1 seconds"), "{}", refusal.message);
    nothing_staged(&daemon).await;
    assert_eq!(Picture::take(&client).await, before);
    daemon.stop().await;
    daemon.assert_quiet(&[]);
}
