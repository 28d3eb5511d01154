//! WatchSlots: everything once, in order, resumed without gap or repetition.

use std::collections::BTreeMap;

use kmerge_client::{Client, v1};
use tonic::{Code, Streaming};
use v1::slot_service_client::SlotServiceClient;

use crate::merge;
use crate::support::adapters::small;
use crate::support::calls::{Refusal, golden, policy, register};
use crate::support::{BASE, Daemon};

async fn watch(
    daemon: &Daemon,
    base_model: &str,
    after_revision: u64,
) -> Result<Streaming<v1::WatchSlotsResponse>, Refusal> {
    let request = v1::WatchSlotsRequest {
        base_model: base_model.to_owned(),
        after_revision,
    };
    let answer = SlotServiceClient::new(daemon.channel().await)
        .watch_slots(request)
        .await;
    answer
        .map(tonic::Response::into_inner)
        .map_err(Refusal::from)
}

async fn next(stream: &mut Streaming<v1::WatchSlotsResponse>) -> (v1::Slot, u64) {
    let change = stream.message().await.unwrap().unwrap();
    let slot = change.slot.unwrap();
    assert_eq!(slot.revision, change.revision);
    (slot, change.revision)
}

/// A daemon with two base models of two slots, and its client.
async fn started() -> (Daemon, Client) {
    let daemon = Daemon::start().await;
    let client = daemon.client().await;
    register(&client, BASE, policy(2)).await;
    register(&client, "other", policy(2)).await;
    (daemon, client)
}

#[tokio::test]
async fn from_the_beginning_and_then_each_change() {
    let (daemon, client) = started().await;
    merge(&client, BASE, "a", &golden("a0")).await;
    merge(&client, BASE, "b", &golden("a1")).await;
    let mut stream = watch(&daemon, BASE, 0).await.unwrap();
    let (first, one) = next(&mut stream).await;
    let (second, two) = next(&mut stream).await;
    assert_eq!((first.slot, first.generation), (0, 1));
    assert_eq!((second.slot, second.generation), (1, 1));
    assert!(one < two);
    assert_eq!(vec![first, second], client.list_slots(None).await.unwrap());

    let mut last = two;
    for number in 2..6 {
        let name = format!("a{number}");
        let decision = merge(&client, BASE, &name, &golden(&name)).await;
        let (slot, revision) = next(&mut stream).await;
        assert_eq!(
            (slot.slot, slot.generation),
            (decision.slot, decision.generation)
        );
        assert_eq!(slot.members.last().unwrap().task, name);
        assert!(revision > last);
        last = revision;
    }
    daemon.assert_quiet(&[]);
}

#[tokio::test]
async fn resumed_after_a_revision() {
    let (daemon, client) = started().await;
    merge(&client, BASE, "a", &golden("a0")).await;
    merge(&client, BASE, "b", &golden("a1")).await;
    let seen = client.list_slots(None).await.unwrap();
    let newest = seen.iter().map(|slot| slot.revision).max().unwrap();
    let changed = merge(&client, BASE, "c", &golden("a2")).await;
    merge(&client, "other", "d", &golden("a3")).await;

    // What was seen does not come again, and what was missed comes in its newest state.
    let mut stream = watch(&daemon, "", newest).await.unwrap();
    let (slot, revision) = next(&mut stream).await;
    assert_eq!((slot.slot, slot.generation), (changed.slot, 2));
    let (other, last) = next(&mut stream).await;
    assert_eq!(other.base_model, "other");
    assert!(newest < revision && revision < last);

    // Nothing is left: the next that comes is the next that happens.
    let mut stream = watch(&daemon, "", last).await.unwrap();
    merge(&client, BASE, "e", &golden("a4")).await;
    let (slot, _) = next(&mut stream).await;
    assert_eq!(slot.members.last().unwrap().task, "e");

    // From between the two openings: only what came later.
    let middle = seen.iter().map(|slot| slot.revision).min().unwrap();
    let mut stream = watch(&daemon, BASE, middle).await.unwrap();
    let newest = client.list_slots(Some(BASE)).await.unwrap();
    let mut left: Vec<_> = newest
        .into_iter()
        .filter(|slot| slot.revision > middle)
        .collect();
    left.sort_by_key(|slot| slot.revision);
    for slot in left {
        assert_eq!(next(&mut stream).await.0, slot);
    }
    daemon.assert_quiet(&[]);
}

#[tokio::test]
async fn only_the_base_model_that_was_asked_for() {
    let (daemon, client) = started().await;
    let mut stream = watch(&daemon, "other", 0).await.unwrap();
    merge(&client, BASE, "a", &golden("a0")).await;
    merge(&client, "other", "b", &golden("a1")).await;
    merge(&client, BASE, "c", &golden("a2")).await;
    merge(&client, "other", "d", &golden("a3")).await;
    for (task, slot_number) in [("b", 0), ("d", 1)] {
        let (slot, _) = next(&mut stream).await;
        assert_eq!(
            (slot.base_model.as_str(), slot.slot),
            ("other", slot_number)
        );
        assert_eq!(slot.members[0].task, task);
    }
    let unknown = watch(&daemon, "nobody", 0).await.unwrap_err();
    assert_eq!(unknown.code, Code::NotFound);
    assert_eq!(unknown.reason, "BASE_MODEL_UNKNOWN");
    daemon.assert_quiet(&[]);
}

#[tokio::test]
async fn a_revision_that_has_not_come_is_out_of_range() {
    let (daemon, client) = started().await;
    merge(&client, BASE, "a", &golden("a0")).await;
    let newest = client.get_status().await.unwrap().revision;
    watch(&daemon, "", newest).await.unwrap();
    let ahead = watch(&daemon, "", newest + 1).await.unwrap_err();
    assert_eq!(ahead.code, Code::OutOfRange);
    assert_eq!(ahead.reason, "REVISION_AHEAD");
    assert!(ahead.message.contains("watch from 0"), "{}", ahead.message);
    daemon.assert_quiet(&[]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watchers_that_break_off_again_and_again_miss_nothing() {
    const TASKS: usize = 12;
    let (daemon, client) = started().await;
    let mut watchers = Vec::new();
    for length in 1..=3 {
        let socket = daemon.socket();
        watchers.push(tokio::spawn(async move {
            let client = Client::connect(&socket).await.unwrap();
            let mut newest: BTreeMap<u32, v1::Slot> = BTreeMap::new();
            let mut revision = 0;
            let tasks = |newest: &BTreeMap<u32, v1::Slot>| -> usize {
                newest.values().map(|slot| slot.members.len()).sum()
            };
            while tasks(&newest) < TASKS {
                let mut watch = client.watch_slots(Some(BASE), revision);
                for _ in 0..length {
                    if tasks(&newest) == TASKS {
                        break;
                    }
                    let slot = watch.next().await.unwrap().into_slot().unwrap();
                    assert!(watch.revision() > revision, "{slot:?} came again");
                    revision = watch.revision();
                    let before = newest.insert(slot.slot, slot.clone());
                    let before = before.map_or(0, |before| before.generation);
                    assert!(slot.generation > before, "{slot:?} after {before}");
                }
            }
            newest.into_values().collect::<Vec<_>>()
        }));
    }
    for number in 0..TASKS {
        let seed = u64::try_from(number).unwrap();
        let task = format!("task-{number}");
        merge(&client, BASE, &task, &small(2, seed).adapter()).await;
    }
    let slots = client.list_slots(Some(BASE)).await.unwrap();
    for watcher in watchers {
        assert_eq!(watcher.await.unwrap(), slots);
    }
    daemon.assert_quiet(&[]);
}
