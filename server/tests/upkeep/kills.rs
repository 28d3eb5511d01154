//! SIGKILL while slots are changed: what is seen afterwards is the state before a change or after
//! it, and asking again brings everything to the same end.

use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;

use kmerge_client::upkeep::Maintained;
use kmerge_client::{Client, Error, retry::Policy, v1};

use crate::support::{BASE, Daemon, Setup, files_below};
use crate::{LONG, forgetting, going_back, merge_all, progressive, started};

/// Each point and the hits at which the daemon is killed, each from the same state.
const POINTS: &[(&str, &[u32])] = &[
    ("catalog.applied", &[1, 3, 6, 9, 12]),
    ("catalog.synced", &[2, 5]),
    ("commit.checked", &[1, 2, 3, 4]),
    ("commit.manifest_written", &[1, 2, 3, 4, 5]),
    ("commit.manifests_durable", &[1, 2, 3]),
    ("commit.remains_removed", &[1, 2]),
    ("commit.settings_durable", &[1, 2]),
    ("commit.staging_removed", &[1, 2, 3]),
    ("enqueue.header_durable", &[1, 3]),
    ("enqueue.renamed", &[1, 2, 4]),
    ("tensor.data_durable", &[1, 2]),
    ("tensor.renamed", &[1, 2]),
];

/// What an observer can tell apart: the policy, and each slot's number, generation, bytes and tasks.
type Seen = (v1::MergePolicy, Vec<(u32, u64, String, bool, Vec<String>)>);

/// What is seen now; `None` once the daemon is gone. It takes two calls, and a job may run on after a
/// restart, so they are made until nothing has changed between them.
async fn seen(client: &Client) -> Option<Seen> {
    let mut before = None;
    loop {
        let base = here(client.get_base_model(BASE).await)?;
        let slots = here(client.list_slots(Some(BASE)).await)?;
        let slots = slots.into_iter().map(|slot| {
            let tasks = slot.members.into_iter().map(|member| member.task);
            let tasks = tasks.collect();
            (slot.slot, slot.generation, slot.sha256, slot.pinned, tasks)
        });
        let now = Some((base.policy.unwrap(), slots.collect()));
        if now == before {
            return now;
        }
        before = now;
    }
}

/// What a daemon that is there answered; `None` if it has gone.
fn here<T>(answer: Result<T, Error>) -> Option<T> {
    match answer {
        Ok(answer) => Some(answer),
        Err(error) if error.is_transient() => None,
        Err(error) => panic!("{error}: {error:?}"),
    }
}

const STEPS: usize = 5;

/// One of the changes, under a request id of its own.
async fn ask(client: &Client, step: usize) -> Result<Maintained, Error> {
    let request_id = format!("step-{step}");
    match step {
        0 => {
            let request = v1::ForgetTaskRequest {
                request_id,
                ..forgetting("lookup-en", false)
            };
            client.forget_task(request).await
        }
        1 => {
            let request = v1::SetBudgetRequest {
                base_model: BASE.to_owned(),
                slots: Some(1),
                request_id,
                ..v1::SetBudgetRequest::default()
            };
            client.set_budget(request).await
        }
        2 => {
            let request = v1::ForgetTaskRequest {
                request_id,
                ..forgetting("slug-en", false)
            };
            client.forget_task(request).await
        }
        3 => {
            let request = v1::PinSlotRequest {
                base_model: BASE.to_owned(),
                slot: 0,
                pinned: Some(true),
                request_id,
            };
            client.pin_slot(request).await
        }
        _ => {
            let request = v1::PinSlotRequest {
                base_model: BASE.to_owned(),
                slot: 0,
                pinned: Some(false),
                request_id,
            };
            client.pin_slot(request).await
        }
    }
}

/// Makes the changes, one after the other, and says what is seen after each; `None` once the daemon
/// is gone.
async fn change(client: &Client) -> Option<Vec<Seen>> {
    let mut all = Vec::new();
    for step in 0..STEPS {
        let job = here(ask(client, step).await)?.job.unwrap();
        let watch = client.watch_job(job.id).with_policy(Policy::NEVER);
        let ended = here(watch.ended().await)?;
        assert_eq!(ended.state(), v1::JobState::Done, "{:?}", ended.error);
        all.push(seen(client).await?);
    }
    Some(all)
}

fn copy(from: &Path, to: &Path) {
    for file in files_below(from) {
        let target = to.join(&file);
        std::fs::create_dir_all(target.parent().unwrap()).unwrap();
        std::fs::copy(from.join(&file), target).unwrap();
    }
}

/// A daemon that is not started yet, on a copy of a state.
fn on_copy(state: &Path) -> Daemon {
    let daemon = Setup::default().config(LONG).prepare();
    copy(state, &daemon.state());
    daemon
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_kill_during_a_change_leaves_it_undone_or_done() {
    let (mut first, client) = started(LONG, progressive(3, 240_000)).await;
    let tasks = [
        "slug-en",
        "lookup-en",
        "longest-de",
        "correction-en",
        "slug-de",
    ];
    merge_all(&client, &tasks).await;
    let mut expected = vec![seen(&client).await.unwrap()];
    first.stop().await;
    let state = first.state();

    let mut reference = on_copy(&state);
    reference.launch();
    reference.ready().await;
    expected.extend(change(&reference.client().await).await.unwrap());
    assert_eq!(expected.len(), STEPS + 1);
    assert_eq!(expected[2].1.len(), 1, "{:?}", expected[2]);

    for (point, hits) in POINTS {
        for hit in *hits {
            let plan = format!("{point}=kill@{hit}");
            let mut daemon = on_copy(&state);
            daemon.env("KMERGE_FAILPOINT", &plan);
            daemon.launch();
            daemon.ready().await;
            let survived = change(&daemon.client().await).await;
            // The last point may lie behind the last answer.
            assert!(survived.is_none() || daemon.exited().is_some(), "{plan}");
            let status = daemon.wait().await;
            assert_eq!(status.signal(), Some(9), "{plan} ended with {status}");

            daemon.clear("KMERGE_FAILPOINT");
            daemon.launch();
            daemon.ready().await;
            let client = daemon.client().await;
            let found = seen(&client).await.unwrap();
            assert!(expected.contains(&found), "{plan}: {found:?}");
            let all = change(&client).await.unwrap();
            assert_eq!(all.last(), expected.last(), "{plan}");
            let back = client.rollback_slot(going_back(0, 1, true)).await;
            assert!(back.is_err(), "{plan}: what was forgotten came back");
            daemon.assert_quiet(&["recovery:"]);
        }
    }
}
