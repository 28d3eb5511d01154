//! Jobs: decided in arrival order within a base model, side by side across base models, watched
//! from the queue to their end, taken back, and failing without a trace in any slot.
//!
//! Merges are held up at a named point of the worker, never by their size: what then happens
//! beside them needs no clock to be told.

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]
#![expect(clippy::disallowed_methods, reason = "the tests read their own files")]

#[path = "jobs/looking_back.rs"]
mod looking_back;
#[path = "jobs/replay.rs"]
mod replay;
mod support;

use kmerge_client::{Adapter, Client, Upload, retry::Policy, v1};
use support::adapters::{Files, Tensors, small};
use support::calls::{Picture, Refusal, ended, golden, policy, refusal, register};
use support::{BASE, Daemon, Setup, eventually};
use tonic::Code;
use v1::job_service_client::JobServiceClient;

/// Holds every merge up before its tensors get their name, for longer than any test lasts.
const HELD: &str = "tensor.data_durable=sleep@1:600000";

/// Holds every merge up there for a moment, long enough for a watch to begin on a busy machine.
const SLOWED: &str = "tensor.data_durable=sleep@1:1000";

/// A daemon whose merges meet `plan`, with the base models `tiny` and `other` of two slots each.
async fn started(plan: &str) -> (Daemon, Client) {
    // A merge that is held up keeps its thread.
    let daemon = Setup::default()
        .config("[workers]\nthreads = 3")
        .env("KMERGE_FAILPOINT", plan)
        .start()
        .await;
    let client = daemon.client().await;
    register(&client, BASE, policy(2)).await;
    register(&client, "other", policy(2)).await;
    (daemon, client)
}

async fn push(client: &Client, base_model: &str, task: &str, adapter: &Adapter) -> v1::Job {
    let upload = Upload {
        policy: Policy::NEVER,
        ..Upload::new(task, base_model)
    };
    let answer = client.upload_adapter(adapter, &upload, |_| ()).await;
    answer.unwrap().job.unwrap()
}

async fn until_running(client: &Client, job: u64) {
    eventually("the job runs", async || {
        client.get_job(job).await.unwrap().state() == v1::JobState::Running
    })
    .await;
}

/// An adapter that a slot of F16 cannot hold.
fn huge() -> Adapter {
    let mut tensors = Tensors::fitting(2, 5);
    tensors.first().set(0, 1e6);
    let Files { config, .. } = small(2, 5);
    let tensors = tensors.file();
    Files { config, tensors }.adapter()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn arrivals_are_decided_in_the_order_of_their_ids() {
    let daemon = Setup::default()
        .config("[uploads]\nparallel = 16")
        .start()
        .await;
    let client = daemon.client().await;
    register(&client, BASE, policy(3)).await;
    let mut adapters: Vec<(String, Adapter)> = (0..10)
        .map(|number| format!("a{number}"))
        .chain(["a1-f16".to_owned(), "a4-bf16".to_owned()])
        .map(|name| (name.clone(), golden(&name)))
        .collect();
    for seed in 0..4_u64 {
        let rank = usize::try_from(seed).unwrap() + 1;
        adapters.push((format!("made-{seed}"), small(rank, seed).adapter()));
    }
    let senders: Vec<_> = adapters
        .chunks(2)
        .map(|pair| {
            let (pair, socket) = (pair.to_vec(), daemon.socket());
            tokio::spawn(async move {
                let client = Client::connect(&socket).await.unwrap();
                for (task, adapter) in pair {
                    push(&client, BASE, &task, &adapter).await;
                }
            })
        })
        .collect();
    assert_eq!(senders.len(), 8);
    for sender in senders {
        sender.await.unwrap();
    }
    let mut jobs = Vec::new();
    for job in client.list_jobs(Some(BASE), None).await.unwrap() {
        jobs.push(ended(&client, job.id).await);
    }
    jobs.sort_by_key(|job| job.id);
    assert_eq!(jobs.len(), 16);

    let mut replay = replay::Replay::new(3);
    for job in &jobs {
        let (_, adapter) = adapters.iter().find(|(task, _)| *task == job.task).unwrap();
        let files = replay.files(&job.task, adapter);
        let expected = replay.arrive(&files);
        let mut found = job.decision.clone().unwrap();
        found.members.clear();
        // The kernels of a matrix product depend on where its bytes lie in memory, and so the last
        // digit of a similarity does: what is decided from it is the same.
        assert_eq!(found.similarities.len(), expected.similarities.len());
        for (found, expected) in found.similarities.iter_mut().zip(&expected.similarities) {
            assert!((found.similarity - expected.similarity).abs() <= 1e-6);
            found.similarity = expected.similarity;
        }
        assert_eq!(found, expected, "job {} of {}", job.id, job.task);
    }
    for slot in client.list_slots(None).await.unwrap() {
        assert_eq!(slot.sha256, replay.digest(slot.slot), "slot {}", slot.slot);
    }
    daemon.assert_quiet(&[]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn base_models_do_not_wait_for_each_other() {
    let (_daemon, client) = started(HELD).await;
    let first = push(&client, BASE, "first", &golden("a0")).await;
    let second = push(&client, BASE, "second", &golden("a1")).await;
    until_running(&client, first.id).await;

    // The second base model's job came later, and runs while the first one's is held up.
    let beside = push(&client, "other", "beside", &golden("a2")).await;
    until_running(&client, beside.id).await;
    let first = client.get_job(first.id).await.unwrap();
    assert_eq!(first.state(), v1::JobState::Running);
    // Of one base model there is never more than one.
    let second = client.get_job(second.id).await.unwrap();
    assert_eq!(second.state(), v1::JobState::Queued);
    assert_eq!(second.attempts, 0);
    let status = client.get_status().await.unwrap();
    assert_eq!((status.jobs_running, status.jobs_queued), (2, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_quick_job_ends_before_a_slow_one_of_another_base_model() {
    let (daemon, client) = started(HELD).await;
    let narrow = v1::MergePolicy {
        dtype: v1::SlotDtype::F16.into(),
        ..policy(1)
    };
    register(&client, "narrow", narrow).await;
    let slow = push(&client, BASE, "slow", &golden("a0")).await;
    until_running(&client, slow.id).await;
    // It ends before the point at which the other one is held up.
    let quick = push(&client, "narrow", "quick", &huge()).await;
    assert_eq!(ended(&client, quick.id).await.state(), v1::JobState::Failed);
    let slow = client.get_job(slow.id).await.unwrap();
    assert_eq!(slow.state(), v1::JobState::Running);
    daemon.assert_quiet(&["task=quick"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watched_job_only_goes_forward() {
    let (daemon, client) = started(SLOWED).await;
    push(&client, BASE, "before", &golden("a0")).await;
    let job = push(&client, BASE, "watched", &golden("a1")).await;
    let mut watch = client.watch_job(job.id).with_policy(Policy::NEVER);
    let mut seen = Vec::new();
    while let Some(step) = watch.next().await.unwrap() {
        assert_eq!(step.id, job.id);
        seen.push(step);
    }
    let position = |step: &v1::Job| (step.state, step.stage, step.percent);
    for pair in seen.windows(2) {
        let (one, next) = (&pair[0], &pair[1]);
        assert!(one.state <= next.state, "{one:?} then {next:?}");
        assert!(one.percent <= next.percent, "{one:?} then {next:?}");
        assert_ne!(position(one), position(next), "nothing new in {next:?}");
        if next.state() == v1::JobState::Running {
            assert!(one.stage <= next.stage, "{one:?} then {next:?}");
        }
    }
    assert_eq!(seen[0].state(), v1::JobState::Queued);
    assert_eq!(seen[0].percent, 0);
    // Held up there, it cannot have been missed.
    let held = seen
        .iter()
        .find(|step| step.stage() == v1::JobStage::Commit);
    let held = held.unwrap_or_else(|| panic!("{seen:?}"));
    assert_eq!(held.state(), v1::JobState::Running);
    assert!((1..100).contains(&held.percent), "{held:?}");
    assert!(held.decision.is_none() && held.start_time.is_some());
    let last = seen.last().unwrap();
    assert_eq!((last.state(), last.percent), (v1::JobState::Done, 100));
    assert_eq!(last.decision.as_ref().unwrap().generation, 1);
    assert_eq!(last.attempts, 1);
    daemon.assert_quiet(&[]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watching_a_job_that_has_ended_gives_it_once() {
    let daemon = Daemon::start().await;
    let client = daemon.client().await;
    register(&client, BASE, policy(2)).await;
    let job = push(&client, BASE, "task", &golden("a0")).await;
    let last = ended(&client, job.id).await;
    let mut raw = JobServiceClient::new(daemon.channel().await);
    let request = v1::WatchJobRequest { id: job.id };
    let mut stream = raw.watch_job(request).await.unwrap().into_inner();
    assert_eq!(stream.message().await.unwrap().unwrap().job, Some(last));
    assert_eq!(stream.message().await.unwrap(), None);

    let unknown = raw.watch_job(v1::WatchJobRequest { id: 99 }).await;
    let unknown = Refusal::from(unknown.unwrap_err());
    assert_eq!(unknown.code, Code::NotFound);
    assert_eq!(unknown.reason, "JOB_UNKNOWN");
    daemon.assert_quiet(&[]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_a_queued_job_can_be_taken_back() {
    let (mut daemon, client) = started(HELD).await;
    let running = push(&client, BASE, "running", &golden("a0")).await;
    let queued = push(&client, BASE, "queued", &golden("a1")).await;
    until_running(&client, running.id).await;
    let watching = {
        let watch = client.watch_job(queued.id);
        tokio::spawn(watch.ended())
    };
    let staged = daemon.state().join(format!("staging/{}", queued.id));
    assert!(staged.exists());

    let cancelled = client.cancel_job(queued.id).await.unwrap();
    assert_eq!(cancelled.state(), v1::JobState::Cancelled);
    assert!(cancelled.end_time.is_some() && cancelled.decision.is_none());
    assert!(!staged.exists());
    let watched = watching.await.unwrap().unwrap();
    assert_eq!(watched.state(), v1::JobState::Cancelled);

    for (id, state) in [(queued.id, "cancelled"), (running.id, "running")] {
        let refused = refusal(client.cancel_job(id).await.unwrap_err());
        assert_eq!(refused.code, Code::FailedPrecondition, "{state}");
        assert_eq!(refused.reason, "JOB_STATE", "{state}");
        assert!(refused.message.contains(state), "{}", refused.message);
    }
    let unknown = refusal(client.cancel_job(99).await.unwrap_err());
    assert_eq!(unknown.code, Code::NotFound);

    // What was taken back can be sent again, and is another job.
    let again = push(&client, BASE, "queued", &golden("a1")).await;
    assert!(again.id > queued.id);
    daemon.kill();
    daemon.clear("KMERGE_FAILPOINT");
    daemon.launch();
    daemon.ready().await;
    let client = daemon.client().await;
    for id in [running.id, again.id] {
        assert_eq!(ended(&client, id).await.state(), v1::JobState::Done);
        let refused = refusal(client.cancel_job(id).await.unwrap_err());
        assert_eq!(refused.code, Code::FailedPrecondition);
    }
    let cancelled = client.get_job(queued.id).await.unwrap();
    assert_eq!(cancelled.state(), v1::JobState::Cancelled);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_merge_that_fails_changes_no_slot() {
    let daemon = Daemon::start().await;
    let client = daemon.client().await;
    let narrow = v1::MergePolicy {
        dtype: v1::SlotDtype::F16.into(),
        ..policy(1)
    };
    register(&client, BASE, narrow).await;
    let first = push(&client, BASE, "fits", &small(2, 1).adapter()).await;
    assert_eq!(ended(&client, first.id).await.state(), v1::JobState::Done);
    let before = client.list_slots(None).await.unwrap();

    let job = push(&client, BASE, "huge", &huge()).await;
    let failed = ended(&client, job.id).await;
    assert_eq!(failed.state(), v1::JobState::Failed);
    assert!(failed.decision.is_none() && failed.end_time.is_some());
    let error = failed.error.unwrap();
    assert_eq!(Code::from(error.code), Code::FailedPrecondition);
    assert_eq!(error.reason, "MERGE_NOT_FINITE");
    assert!(error.message.contains("not finite in F16"), "{error:?}");
    assert!(error.message.contains("wider type"), "{error:?}");

    assert_eq!(client.list_slots(None).await.unwrap(), before);
    assert_eq!(client.list_adapters(None).await.unwrap().len(), 1);
    let unknown = client.resolve_task(BASE, "huge").await.unwrap_err();
    assert_eq!(refusal(unknown).reason, "TASK_UNKNOWN");
    assert!(daemon.staged().is_empty(), "{:?}", daemon.staged());

    // The queue goes on, and the task is free for a better adapter.
    let next = push(&client, BASE, "huge", &small(2, 2).adapter()).await;
    assert_eq!(ended(&client, next.id).await.state(), v1::JobState::Done);
    daemon.assert_quiet(&["task=huge"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_do_not_wait_for_a_merge() {
    let mut daemon = Daemon::start().await;
    let client = daemon.client().await;
    register(&client, BASE, policy(1)).await;
    let first = push(&client, BASE, "there", &golden("a0")).await;
    ended(&client, first.id).await;
    daemon.env("KMERGE_FAILPOINT", HELD);
    daemon.restart().await;
    let client = daemon.client().await;
    let held = push(&client, BASE, "held", &golden("a1")).await;
    until_running(&client, held.id).await;

    let resolved = client.resolve_task(BASE, "there").await.unwrap();
    assert_eq!((resolved.slot, resolved.generation), (0, 1));
    let picture = Picture::take(&client).await;
    assert_eq!(
        client.get_slot(BASE, 0).await.unwrap().sha256,
        resolved.sha256
    );
    let into = daemon.room().join("fetched");
    let fetch = kmerge_client::Fetch {
        base_model: BASE.to_owned(),
        slot: 0,
        generation: 0,
        format: v1::AdapterFormat::Peft,
        into,
        replace: false,
    };
    let fetched = client.fetch_slot(&fetch).await.unwrap();
    assert_eq!(fetched.header.generation, 1);
    // Writes of others do not wait either.
    register(&client, "late", policy(1)).await;
    let job = client.get_job(held.id).await.unwrap();
    assert_eq!(job.state(), v1::JobState::Running);
    assert_ne!(Picture::take(&client).await, picture, "the registration");
}
