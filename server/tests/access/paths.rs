//! What strangers are told names no directory of this machine: neither errors, however they are
//! provoked, nor answers.

use std::collections::BTreeSet;
use std::path::Path;

use kmerge_client::error::Code;
use kmerge_client::{Client, Error, Fetch, v1};

use crate::support::adapters::small;
use crate::support::calls::{merge, policy, push, register, upload};
use crate::support::{BASE, Daemon, Setup, files_below};
use crate::{TCP, with_token};

/// Everything that was said, and the word that must not be in it.
struct Ears {
    secret: String,
    heard: usize,
    codes: BTreeSet<String>,
}

impl Ears {
    fn new(daemon: &Daemon) -> Self {
        let room = daemon.room().file_name().unwrap();
        Self {
            secret: room.to_string_lossy().into_owned(),
            heard: 0,
            codes: BTreeSet::new(),
        }
    }

    fn hear(&mut self, what: &str) {
        self.heard += 1;
        assert!(!what.contains(&self.secret), "a path was told: {what}");
    }

    /// What the daemon answers, if it still does.
    fn answer<T: std::fmt::Debug>(&mut self, answer: &Result<T, Error>) {
        // A connection that is lost names this side's own files.
        if !matches!(answer, Err(Error::Unreachable { .. })) {
            self.hear(&format!("{answer:?}"));
        }
    }

    fn result<T: std::fmt::Debug>(&mut self, result: Result<T, Error>) {
        self.hear(&format!("{result:?}"));
        match result {
            Err(Error::Refused(refusal) | Error::NotFound(refusal)) => {
                self.hear(&refusal.message);
                self.codes.insert(format!("{:?}", refusal.code));
            }
            Err(other) => panic!("not the daemon's word: {other:?}"),
            Ok(_) => {}
        }
    }
}

/// Asks for everything that there is.
async fn ask_all(ears: &mut Ears, client: &Client, into: &Path) {
    ears.result(client.get_status().await);
    ears.result(client.list_slots(None).await);
    ears.result(client.list_jobs(None, None).await);
    ears.result(client.list_adapters(None).await);
    ears.result(client.list_base_models().await);
    ears.result(client.list_runtimes().await);
    for slot in [0, 1, 9] {
        ears.result(client.get_slot(BASE, slot).await);
    }
    for task in ["a", "b", "none", "../etc/passwd", ""] {
        ears.result(client.resolve_task(BASE, task).await);
        ears.result(client.get_adapter(BASE, task).await);
    }
    for format in [
        v1::AdapterFormat::Peft,
        v1::AdapterFormat::Gguf,
        v1::AdapterFormat::Mlx,
    ] {
        for slot in [0, 9] {
            let fetch = Fetch {
                base_model: BASE.into(),
                slot,
                generation: 0,
                format,
                into: into.to_owned(),
                replace: true,
            };
            ears.result(client.fetch_slot(&fetch).await);
            ears.result(client.fetch_task(&fetch, "a").await);
        }
    }
    ears.result(client.get_job(999).await);
    ears.result(client.cancel_job(1).await);
    ears.result(client.scrub(0, |_| ()).await);
    ears.result(client.list_jobs(None, None).await);
}

/// Everything that goes wrong without anything being wrong here.
async fn provoke(ears: &mut Ears, client: &Client) {
    let files = small(2, 1);
    for (task, base) in [
        ("../../x", BASE),
        ("/etc/x", BASE),
        ("x", "none"),
        ("x", "/x"),
    ] {
        let upload = kmerge_client::Upload {
            policy: kmerge_client::retry::Policy::NEVER,
            ..kmerge_client::Upload::new(task, base)
        };
        ears.result(
            client
                .upload_adapter(&files.adapter(), &upload, |_| ())
                .await,
        );
    }
    let junk = kmerge_client::Adapter::from_bytes(b"{}".to_vec(), vec![7; 99].into());
    ears.result(client.upload_adapter(&junk, &upload("j"), |_| ()).await);
    for config in ["", "{", "[]", "{\"model_type\": \"/x\"}"] {
        let request = v1::RegisterBaseModelRequest {
            name: "wrong".into(),
            config: config.into(),
            ..v1::RegisterBaseModelRequest::default()
        };
        ears.result(client.register_base_model(request).await);
    }
    let forget = v1::ForgetTaskRequest {
        base_model: BASE.into(),
        task: "a".into(),
        ..v1::ForgetTaskRequest::default()
    };
    let roll_back = v1::RollbackSlotRequest {
        base_model: BASE.into(),
        slot: 0,
        generation: 77,
        ..v1::RollbackSlotRequest::default()
    };
    ears.result(client.rollback_slot(roll_back).await.map(|done| done.job));
    ears.result(client.forget_task(forget).await.map(|done| done.job));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_tcp_neither_errors_nor_answers_name_a_directory() {
    let mut daemon = Setup::default().config(TCP).start().await;
    let mut ears = Ears::new(&daemon);
    let into = tempfile::tempdir().unwrap();
    let into = into.path().join("into");
    let client = Client::connect_to(&with_token(&daemon)).await.unwrap();
    register(&client, BASE, policy(2)).await;
    merge(&client, "a", &small(4, 1).adapter()).await;
    merge(&client, "b", &small(4, 2).adapter()).await;
    ask_all(&mut ears, &client, &into).await;

    // Damage at rest, found while it runs and again by a start.
    for directory in ["tensors", "exports"] {
        let below = daemon.state().join(directory);
        for file in files_below(&below) {
            let path = below.join(file);
            if path.symlink_metadata().unwrap().is_file() {
                std::fs::remove_file(&path).unwrap();
                std::fs::write(&path, "altered").unwrap();
            }
        }
    }
    ask_all(&mut ears, &client, &into).await;
    provoke(&mut ears, &client).await;
    let third = push(&client, "c", &small(4, 3).adapter()).await;
    let job = client.watch_job(third.id).ended().await;
    ears.result(job);
    daemon.restart().await;
    let client = Client::connect_to(&with_token(&daemon)).await.unwrap();
    ask_all(&mut ears, &client, &into).await;
    // The owner is told what the stranger is not.
    let own = daemon.client().await.get_status().await.unwrap();
    assert_eq!(Path::new(&own.state_directory), daemon.state());

    println!("{} answers and errors, with {:?}", ears.heard, ears.codes);
    for code in [
        Code::FailedPrecondition,
        Code::NotFound,
        Code::InvalidArgument,
    ] {
        assert!(
            ears.codes.contains(&format!("{code:?}")),
            "{:?}",
            ears.codes
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failures_of_the_disk_name_no_file() {
    for fault in [
        "staging.created=sleep@1:1",
        "durable.create=error@20",
        "durable.write=error@20",
        "durable.write=full@20",
        "durable.sync=error@20",
        "durable.rename=error@12",
        "database.apply=error@3",
    ] {
        let daemon = Setup::default()
            .config(TCP)
            .env("KMERGE_FAILPOINT", fault)
            .start()
            .await;
        let mut ears = Ears::new(&daemon);
        let Ok(client) = Client::connect_to(&with_token(&daemon)).await else {
            continue;
        };
        let mut said = 0;
        for seed in 0..12 {
            let answer = client
                .upload_adapter(
                    &small(4, seed).adapter(),
                    &upload(&format!("t{seed}")),
                    |_| (),
                )
                .await;
            if seed == 0 {
                let request = v1::RegisterBaseModelRequest {
                    name: BASE.into(),
                    config: std::fs::read(crate::support::goldens().join("base/config.json"))
                        .unwrap(),
                    policy: Some(policy(2)),
                    served_as: String::new(),
                };
                let registered = client.register_base_model(request).await;
                ears.answer(&registered);
            }
            said += usize::from(answer.is_err());
            ears.answer(&answer);
            if let Ok(answer) = answer
                && let Some(job) = answer.job
            {
                // A job may wait for room for ever, and the daemon may stop for the state's safety.
                for _ in 0..50 {
                    let job = client.get_job(job.id).await;
                    ears.answer(&job);
                    let waits = [v1::JobState::Queued, v1::JobState::Running];
                    if !job.is_ok_and(|job| waits.contains(&job.state())) {
                        break;
                    }
                    tokio::time::sleep(std::time::Duration::from_millis(10)).await;
                }
            }
            let status = client.get_status().await;
            ears.answer(&status);
            if matches!(status, Err(Error::Unreachable { .. })) {
                break;
            }
        }
        println!("{fault}: {said} errors");
    }
}
