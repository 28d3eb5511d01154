//! A forgotten task is gone for good, gives its bytes back, and nobody else notices.

use kmerge_client::{SlotEvent, v1};
use tonic::Code;

use crate::support::calls::{ended, merge, policy, push, refusal};
use crate::support::{BASE, Setup, eventually, files_below};
use crate::{
    LONG, NONE, demo, foreseen, forget, forgetting, lose_catalog, merge_all, progressive, served,
    started, tasks,
};

const THREE: [&str; 3] = ["slug-en", "lookup-en", "longest-de"];

#[tokio::test]
async fn a_task_leaves_and_the_others_stay_as_they_were() {
    let (mut daemon, client) = started(NONE, progressive(1, 240_000)).await;
    merge_all(&client, &THREE).await;
    let before = client.get_slot(BASE, 0).await.unwrap();
    let others = [
        served(&client, THREE[0]).await,
        served(&client, THREE[2]).await,
    ];

    let rehearsal = client
        .forget_task(forgetting("lookup-en", true))
        .await
        .unwrap();
    let rehearsal = foreseen(rehearsal);
    assert_eq!(client.get_slot(BASE, 0).await.unwrap().generation, 3);
    let change = forget(&client, "lookup-en").await.unwrap();
    assert_eq!(change, rehearsal);
    assert_eq!(change.forgotten_tasks, ["lookup-en"]);
    let [slot] = &change.slots[..] else {
        panic!("{change:?}");
    };
    assert_eq!((slot.generation, slot.tasks, slot.emptied), (4, 2, false));
    let gone = before.members[1].fidelity.unwrap().bytes;
    assert_eq!(slot.bytes_before - slot.bytes, gone);
    assert!(
        change.reason.contains(&gone.to_string()),
        "{}",
        change.reason
    );

    let check = async |client: &kmerge_client::Client| {
        assert_eq!(
            tasks(client).await,
            [(0, vec![THREE[0].into(), THREE[2].into()])]
        );
        let unknown = client.resolve_task(BASE, "lookup-en").await.unwrap_err();
        assert_eq!(refusal(unknown).reason, "TASK_UNKNOWN");
        assert_eq!(served(client, THREE[0]).await, others[0]);
        assert_eq!(served(client, THREE[2]).await, others[1]);
    };
    check(&client).await;
    // Without a grace its bytes are nowhere any more.
    let name_is_left = || {
        let tensors = daemon.state().join("tensors");
        let files = files_below(&tensors);
        assert!(!files.is_empty());
        let is_left = |file: &std::path::PathBuf| {
            // One that has gone since it was listed holds nothing.
            let bytes = std::fs::read(tensors.join(file)).unwrap_or_default();
            bytes.windows(9).any(|window| window == b"lookup-en")
        };
        files.iter().any(is_left)
    };
    eventually("the old generation goes", async || !name_is_left()).await;
    daemon.restart().await;
    check(&daemon.client().await).await;
    let client = lose_catalog(&mut daemon).await;
    check(&client).await;

    // The name is free, also for something else; the same is not taken for an earlier push.
    let decision = merge(&client, "lookup-en", &demo("correction-en")).await;
    assert_eq!(decision.generation, 5);
    assert!(forget(&client, "lookup-en").await.is_ok());
    let decision = merge(&client, "lookup-en", &demo("correction-en")).await;
    assert_eq!(decision.generation, 7);
}

#[tokio::test]
async fn the_last_one_leaves_an_empty_slot_whose_numbers_go_on() {
    let (mut daemon, client) = started(NONE, progressive(2, 240_000)).await;
    merge_all(&client, &["slug-en"]).await;
    let mut watch = client.watch_slots(Some(BASE), 0);
    let first = watch.next().await.unwrap();
    assert!(matches!(first, SlotEvent::Changed(_)), "{first:?}");
    let change = forget(&client, "slug-en").await.unwrap();
    assert!(change.slots[0].emptied);
    assert_eq!((change.slots[0].bytes, change.slots[0].generation), (0, 2));
    let emptied = v1::EmptiedSlot {
        base_model: BASE.to_owned(),
        slot: 0,
        generation: 2,
    };
    assert_eq!(watch.next().await.unwrap(), SlotEvent::Emptied(emptied));
    assert!(tasks(&client).await.is_empty());
    let client = lose_catalog(&mut daemon).await;
    assert!(tasks(&client).await.is_empty());
    // Who begins to watch now is told that it is empty.
    let mut watch = client.watch_slots(Some(BASE), 0);
    let first = watch.next().await.unwrap();
    assert!(matches!(first, SlotEvent::Emptied(_)), "{first:?}");
    let decision = merge(&client, "lookup-en", &demo("lookup-en")).await;
    assert_eq!((decision.slot, decision.generation), (0, 3));
    assert_eq!(client.get_slot(BASE, 0).await.unwrap().generation, 3);
}

#[tokio::test]
async fn an_average_forgets_only_who_came_last() {
    let (_daemon, client) = started(LONG, policy(1)).await;
    merge_all(&client, &THREE[..2]).await;
    let before = client.get_slot(BASE, 0).await.unwrap();
    merge_all(&client, &THREE[2..]).await;
    let stuck = refusal(forget(&client, "slug-en").await.unwrap_err());
    assert_eq!(
        (stuck.code, stuck.reason.as_str()),
        (Code::FailedPrecondition, "TASK_IN_AVERAGE")
    );
    assert!(stuck.message.contains("average"), "{}", stuck.message);
    let change = forget(&client, THREE[2]).await.unwrap();
    assert_eq!(change.forgotten_tasks, [THREE[2]]);
    let after = client.get_slot(BASE, 0).await.unwrap();
    assert_eq!((&after.sha256, after.generation), (&before.sha256, 4));
    assert_eq!(after.members, before.members);
    // What came last now came before that generation: it cannot be undone once more.
    let stuck = refusal(forget(&client, THREE[1]).await.unwrap_err());
    assert_eq!(stuck.reason, "TASK_IN_AVERAGE");
}

#[tokio::test]
async fn it_waits_for_its_turn_behind_the_upload() {
    let daemon = Setup::default()
        .config(LONG)
        .env("KMERGE_FAILPOINT", "tensor.data_durable=sleep@1:1500")
        .start()
        .await;
    let client = daemon.client().await;
    crate::support::calls::register(&client, BASE, policy(2)).await;
    let early = refusal(forget(&client, "a0").await.unwrap_err());
    assert_eq!(
        (early.code, early.reason.as_str()),
        (Code::NotFound, "TASK_UNKNOWN")
    );
    let upload = push(&client, "a0", &crate::support::calls::golden("a0")).await;
    let request = v1::ForgetTaskRequest {
        request_id: "forget-a0".into(),
        ..forgetting("a0", false)
    };
    let asked = client.forget_task(request.clone()).await.unwrap();
    let job = asked.job.unwrap();
    assert!(job.id > upload.id);
    assert_eq!((job.kind(), job.task.as_str()), (v1::JobKind::Forget, "a0"));
    assert_eq!(ended(&client, upload.id).await.state(), v1::JobState::Done);
    assert_eq!(ended(&client, job.id).await.state(), v1::JobState::Done);
    assert!(tasks(&client).await.is_empty());
    // The same request again is the same job, whatever there would be to do now.
    let again = client.forget_task(request.clone()).await.unwrap();
    assert_eq!(again.job.unwrap().id, job.id);
    let other = v1::ForgetTaskRequest {
        task: "a1".into(),
        ..request
    };
    let reused = refusal(client.forget_task(other).await.unwrap_err());
    assert_eq!(reused.code, Code::AlreadyExists);
}
