//! A bug that panics takes one upload or one job with it, and a bug that ends the process takes
//! one job with it after three attempts: the daemon serves everybody else.
//!
//! Panics are asked for at named points: where a tensor file is read, which validation and merges
//! do on threads of the mathematics' pools, and where one is made durable.

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]
#![expect(clippy::disallowed_methods, reason = "the tests read their own files")]

mod support;

use kmerge_client::{Client, Health, v1};
use support::adapters::small;
use support::calls::{self, Picture, ended, policy, push, refusal, register};
use support::{BASE, Daemon, Setup, eventually, files_below};
use tonic::Code;

/// What a log may say of a panic that was asked for.
const SAID: &[&str] = &["panicked at", "failed", "job{", "panicked"];

/// A daemon that meets `plan`, with a base model.
async fn started(plan: &str) -> (Daemon, Client) {
    let daemon = Setup::default()
        .config("[workers]\nthreads = 2")
        .env("KMERGE_FAILPOINT", plan)
        .start()
        .await;
    let client = daemon.client().await;
    register(&client, BASE, policy(2)).await;
    (daemon, client)
}

/// What somebody was told of a panic.
#[derive(Debug, PartialEq, Eq)]
enum Met {
    Upload,
    Job,
    Nobody,
}

/// Sends an adapter to a daemon that meets `plan` and says who was told of a panic. Holds that it
/// was told as INTERNAL, that nothing is left of what failed, and that the next one goes through.
async fn meet(plan: &str) -> Met {
    let (mut daemon, client) = started(plan).await;
    let before = Picture::take(&client).await;
    let adapter = small(2, 1).adapter();
    let answer = client
        .upload_adapter(&adapter, &calls::upload("unlucky"), |_| ())
        .await;
    let met = match answer {
        Err(error) => {
            let refused = refusal(error);
            assert_eq!(
                (refused.code, refused.reason.as_str()),
                (Code::Internal, "BUG")
            );
            assert!(
                !refused.message.contains("asked to panic"),
                "{}",
                refused.message
            );
            assert_eq!(Picture::take(&client).await, before, "{plan}");
            Met::Upload
        }
        Ok(answer) => {
            let job = ended(&client, answer.job.unwrap().id).await;
            if job.state() == v1::JobState::Done {
                Met::Nobody
            } else {
                assert_eq!(job.state(), v1::JobState::Failed);
                let error = job.error.unwrap();
                assert_eq!(
                    (Code::from(error.code), error.reason.as_str()),
                    (Code::Internal, "BUG")
                );
                assert!(client.list_slots(None).await.unwrap().is_empty(), "{plan}");
                Met::Job
            }
        }
    };
    assert_eq!(client.health().await.unwrap(), Health::Serving, "{plan}");
    eventually("nothing stays staged", async || daemon.staged().is_empty()).await;
    if met != Met::Nobody {
        // The same adapter again, and another one that is merged with it.
        calls::merge(&client, "lucky", &adapter).await;
        calls::merge(&client, "another", &small(3, 2).adapter()).await;
    }
    eventually("no half-made tensor file stays", async || {
        let files = files_below(&daemon.state().join("tensors"));
        files
            .iter()
            .all(|file| !file.to_string_lossy().contains("tmp-"))
    })
    .await;
    daemon.stop().await;
    match met {
        Met::Nobody => daemon.assert_quiet(&[]),
        Met::Upload | Met::Job => {
            assert!(
                daemon.log().contains("asked to panic"),
                "{plan}: {}",
                daemon.log()
            );
            daemon.assert_quiet(SAID);
        }
    }
    met
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_at_any_read_takes_one_upload_or_one_job_with_it() {
    let mut met = Vec::new();
    // The header by itself and the first values, which threads of a pool read; then in growing steps
    // through validation and merge, until nothing is read any more.
    for hit in [1, 3, 6, 12, 18, 36, 72, 144] {
        let who = meet(&format!("tensor.read=panic@{hit}")).await;
        let done = who == Met::Nobody;
        met.push(who);
        if done {
            break;
        }
    }
    assert_eq!(met[..2], [Met::Upload, Met::Upload], "{met:?}");
    assert!(met.contains(&Met::Job), "{met:?}");
    assert_eq!(met.last(), Some(&Met::Nobody), "{met:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_where_a_file_is_made_durable_takes_one_upload_or_one_job_with_it() {
    assert_eq!(meet("staging.data_durable=panic@1").await, Met::Upload);
    assert_eq!(meet("tensor.data_durable=panic@1").await, Met::Job);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_ends_the_process_three_times_is_failed_and_the_daemon_stays() {
    let (mut daemon, client) = started("tensor.data_durable=kill@1").await;
    let job = push(&client, "deadly", &small(2, 1).adapter()).await;
    drop(client);
    for start in 1..=3 {
        eventually("the process is killed", async || daemon.exited().is_some()).await;
        daemon.kill();
        if start == 3 {
            // Whoever else comes is not to meet it.
            daemon.clear("KMERGE_FAILPOINT");
        }
        daemon.launch();
        if start < 3 {
            continue;
        }
        daemon.ready().await;
    }
    let client = daemon.client().await;
    let failed = client.get_job(job.id).await.unwrap();
    assert_eq!((failed.state(), failed.attempts), (v1::JobState::Failed, 3));
    let error = failed.error.unwrap();
    assert_eq!(
        (Code::from(error.code), error.reason.as_str()),
        (Code::Internal, "CRASH_LOOP")
    );
    assert!(error.message.contains('3'), "{}", error.message);
    assert!(daemon.staged().is_empty(), "{:?}", daemon.staged());
    calls::merge(&client, "harmless", &small(2, 2).adapter()).await;
    daemon.stop().await;
}
