//! One content of a task, or one request id: one job, however often it comes, and at once too.

use std::collections::BTreeSet;
use std::sync::Arc;

use kmerge_client::{Upload, v1};
use tonic::Code;

use crate::support::adapters::small;
use crate::support::calls::{ended, policy, push, refusal, register, upload};
use crate::support::{BASE, Daemon, Setup};

/// Enough room for every upload of a test at once.
const ROOMY: &str = "uploads.parallel = 16";

#[tokio::test]
async fn the_same_bytes_for_a_task_are_one_job() {
    let mut daemon = Daemon::start().await;
    let client = daemon.client().await;
    register(&client, BASE, policy(2)).await;
    let adapter = small(4, 1).adapter();
    let first = push(&client, "a", &adapter).await;
    let again = client
        .upload_adapter(&adapter, &upload("a"), |_| ())
        .await
        .unwrap();
    assert!(again.existing);
    assert_eq!(again.job.unwrap().id, first.id);
    // Merged, it is still the same, and after a restart too.
    assert_eq!(ended(&client, first.id).await.state(), v1::JobState::Done);
    daemon.restart().await;
    let client = daemon.client().await;
    let again = client
        .upload_adapter(&adapter, &upload("a"), |_| ())
        .await
        .unwrap();
    assert!(again.existing);
    assert_eq!(again.job.unwrap().id, first.id);
    assert_eq!(client.list_jobs(None, None).await.unwrap().len(), 1);
    // The same bytes for another task are another adapter.
    assert_ne!(push(&client, "b", &adapter).await.id, first.id);
    daemon.stop().await;
    daemon.assert_quiet(&[]);
}

#[tokio::test]
async fn eight_at_once_are_one_job() {
    let mut daemon = Setup::default().config(ROOMY).start().await;
    let client = daemon.client().await;
    register(&client, BASE, policy(2)).await;
    let adapter = Arc::new(small(4, 1).adapter());
    let mut pushes = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let (client, adapter) = (daemon.client().await, Arc::clone(&adapter));
        // Each with a request id of its own: only the content says that they are one.
        pushes.spawn(async move {
            client
                .upload_adapter(&adapter, &upload("a"), |_| ())
                .await
                .unwrap()
        });
    }
    let answers = pushes.join_all().await;
    let jobs: BTreeSet<u64> = answers
        .iter()
        .map(|answer| answer.job.as_ref().unwrap().id)
        .collect();
    assert_eq!(jobs.len(), 1, "{jobs:?}");
    assert_eq!(answers.iter().filter(|answer| !answer.existing).count(), 1);
    for job in jobs {
        assert_eq!(ended(&client, job).await.state(), v1::JobState::Done);
    }
    assert_eq!(client.list_jobs(None, None).await.unwrap().len(), 1);
    assert_eq!(client.get_slot(BASE, 0).await.unwrap().members.len(), 1);
    daemon.stop().await;
    daemon.assert_quiet(&[]);
}

#[tokio::test]
async fn of_different_contents_at_once_one_wins() {
    let mut daemon = Setup::default().config(ROOMY).start().await;
    let client = daemon.client().await;
    register(&client, BASE, policy(2)).await;
    let mut pushes = tokio::task::JoinSet::new();
    for seed in 0..6 {
        let (client, adapter) = (daemon.client().await, small(4, seed).adapter());
        pushes.spawn(async move { client.upload_adapter(&adapter, &upload("a"), |_| ()).await });
    }
    let mut won = Vec::new();
    for answer in pushes.join_all().await {
        match answer {
            Ok(answer) => won.push(answer.job.unwrap()),
            Err(error) => {
                let refusal = refusal(error);
                let found = (refusal.code, refusal.reason.as_str());
                assert_eq!(
                    found,
                    (Code::AlreadyExists, "TASK_EXISTS"),
                    "{}",
                    refusal.message
                );
            }
        }
    }
    assert_eq!(won.len(), 1, "{won:?}");
    ended(&client, won[0].id).await;
    let adapter = client.get_adapter(BASE, "a").await.unwrap();
    assert_eq!(
        (adapter.job_id, &adapter.sha256),
        (won[0].id, &won[0].sha256)
    );
    daemon.stop().await;
    daemon.assert_quiet(&[]);
}

#[tokio::test]
async fn a_request_id_names_one_upload() {
    let mut daemon = Daemon::start().await;
    let client = daemon.client().await;
    register(&client, BASE, policy(2)).await;
    let request = |task: &str| Upload {
        request_id: Some("request-1".into()),
        ..upload(task)
    };
    let adapter = small(4, 1).adapter();
    let first = client
        .upload_adapter(&adapter, &request("a"), |_| ())
        .await
        .unwrap();
    let job = first.job.unwrap();
    assert_eq!(job.request_id, "request-1");
    let again = client
        .upload_adapter(&adapter, &request("a"), |_| ())
        .await
        .unwrap();
    assert!(again.existing);
    assert_eq!(again.job.unwrap().id, job.id);
    // Other bytes, or another task, under the same id.
    for (task, adapter) in [("a", small(4, 2).adapter()), ("b", adapter)] {
        let error = client
            .upload_adapter(&adapter, &request(task), |_| ())
            .await
            .unwrap_err();
        let refusal = refusal(error);
        let found = (refusal.code, refusal.reason.as_str());
        assert_eq!(found, (Code::AlreadyExists, "REQUEST_ID_REUSED"));
        assert!(refusal.message.contains("request-1"), "{}", refusal.message);
    }
    assert_eq!(client.list_jobs(None, None).await.unwrap().len(), 1);
    daemon.stop().await;
    daemon.assert_quiet(&[]);
}

#[tokio::test]
async fn a_task_keeps_its_content() {
    let mut daemon = Daemon::start().await;
    let client = daemon.client().await;
    register(&client, BASE, policy(2)).await;
    let job = push(&client, "a", &small(4, 1).adapter()).await;
    ended(&client, job.id).await;
    // Another tensor file, and the same one with another configuration.
    let mut configured = small(4, 1);
    configured.config = String::from_utf8(configured.config)
        .unwrap()
        .replace("\"lora_alpha\":8", "\"lora_alpha\":16")
        .into_bytes();
    assert_ne!(configured.config, small(4, 1).config);
    for other in [small(4, 2), configured] {
        let error = client
            .upload_adapter(&other.adapter(), &upload("a"), |_| ())
            .await;
        let refusal = refusal(error.unwrap_err());
        let found = (refusal.code, refusal.reason.as_str());
        assert_eq!(
            found,
            (Code::AlreadyExists, "TASK_EXISTS"),
            "{}",
            refusal.message
        );
        let resource = refusal.details.resource_info().unwrap();
        assert_eq!(resource.resource_name, format!("{BASE}/a"));
    }
    assert_eq!(client.get_slot(BASE, 0).await.unwrap().generation, 1);
    assert!(daemon.staged().is_empty());
    daemon.stop().await;
    daemon.assert_quiet(&[]);
}
