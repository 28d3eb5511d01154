//! `validate_only`: the decision that the real upload gets then, and no trace.

use kmerge_client::{Client, Upload, v1};

use crate::support::adapters::{Files, golden, small};
use crate::support::calls::{Picture, merge, policy, refusal, register, upload};
use crate::support::{BASE, Daemon, files_below};

async fn ask(client: &Client, task: &str, files: &Files) -> v1::Decision {
    let upload = Upload {
        validate_only: true,
        ..upload(task)
    };
    let answer = client
        .upload_adapter(&files.adapter(), &upload, |_| ())
        .await
        .unwrap();
    assert_eq!(answer.job, None);
    assert!(!answer.existing);
    answer.decision.unwrap()
}

/// The decisions are the same; weights may differ in the last bits, for they are worked out in
/// another order.
fn assert_same(task: &str, asked: &v1::Decision, done: &v1::Decision) {
    let tasks = |decision: &v1::Decision| -> Vec<String> {
        decision
            .members
            .iter()
            .map(|member| member.task.clone())
            .collect()
    };
    assert_eq!(tasks(asked), tasks(done), "{task}");
    for (asked, done) in asked.members.iter().zip(&done.members) {
        assert!(
            (asked.weight - done.weight).abs() < 1e-12,
            "{task}: {asked:?}, {done:?}"
        );
    }
    let rest = |decision: &v1::Decision| v1::Decision {
        members: Vec::new(),
        ..decision.clone()
    };
    assert_eq!(rest(asked), rest(done), "{task}");
}

/// Everything below the state directory but the catalog's own files, which change by themselves.
fn on_disk(daemon: &Daemon) -> Vec<std::path::PathBuf> {
    let mut files = files_below(&daemon.state());
    files.retain(|file| !file.starts_with("catalog"));
    files
}

#[tokio::test]
async fn asking_changes_nothing_and_tells_what_will_be() {
    for operator in [
        v1::Operator::KmergeLinear,
        v1::Operator::Linear,
        v1::Operator::Exact,
    ] {
        let mut daemon = Daemon::start().await;
        let client = daemon.client().await;
        let policy = v1::MergePolicy {
            operator: operator.into(),
            ..policy(2)
        };
        register(&client, BASE, policy).await;
        let mut merged = 0;
        for task in ["a0", "a1", "a2", "a3", "a4"] {
            let files = golden(task);
            let before = (Picture::take(&client).await, on_disk(&daemon));
            let asked = ask(&client, task, &files).await;
            assert_eq!(
                ask(&client, task, &files).await,
                asked,
                "{task}, asked again"
            );
            assert_eq!(
                (Picture::take(&client).await, on_disk(&daemon)),
                before,
                "{task}"
            );
            let done = merge(&client, task, &files.adapter()).await;
            assert_same(task, &asked, &done);
            merged += u32::from(done.assignment() == v1::Assignment::Merged);
        }
        assert_eq!(merged, 3);
        daemon.stop().await;
        daemon.assert_quiet(&[]);
    }
}

#[tokio::test]
async fn asking_with_a_bad_adapter_is_refused_alike() {
    let mut daemon = Daemon::start().await;
    let client = daemon.client().await;
    register(&client, BASE, policy(2)).await;
    let mut files = small(4, 1);
    files.tensors.pop();
    let mut refusals = Vec::new();
    for validate_only in [true, false] {
        let upload = Upload {
            validate_only,
            ..upload("a")
        };
        let answer = client
            .upload_adapter(&files.adapter(), &upload, |_| ())
            .await;
        let refusal = refusal(answer.unwrap_err());
        refusals.push((refusal.code, refusal.reason, refusal.message));
    }
    assert_eq!(refusals[0], refusals[1]);
    daemon.stop().await;
    daemon.assert_quiet(&[]);
}
