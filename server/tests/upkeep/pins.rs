//! A pinned slot stays as it is, whoever comes and whatever is asked.

use kmerge_client::v1;
use tonic::Code;

use crate::support::BASE;
use crate::support::calls::{ended, merge, policy, push, refusal};
use crate::{
    LONG, demo, forget, lose_catalog, merge_all, pin, progressive, roll_back, started, tasks,
};

#[tokio::test]
async fn newcomers_go_elsewhere_and_nothing_else_touches_it() {
    let (mut daemon, client) = started(LONG, progressive(2, 240_000)).await;
    merge_all(&client, &["slug-en", "lookup-en"]).await;
    let change = pin(&client, 0, true).await.unwrap();
    assert!(change.slots.is_empty() && change.reason.contains("slot 0 is pinned"));
    let before = client.get_slot(BASE, 0).await.unwrap();
    assert!(before.pinned);
    for task in ["longest-de", "slug-de", "correction-en"] {
        assert_eq!(merge(&client, task, &demo(task)).await.slot, 1);
    }
    let client = lose_catalog(&mut daemon).await;
    assert_eq!(
        client.get_slot(BASE, 0).await.unwrap().sha256,
        before.sha256
    );
    assert!(client.get_slot(BASE, 0).await.unwrap().pinned);
    for refused in [
        forget(&client, "slug-en").await,
        roll_back(&client, 0, 1).await,
    ] {
        let refused = refusal(refused.unwrap_err());
        assert_eq!(
            (refused.code, refused.reason.as_str()),
            (Code::FailedPrecondition, "SLOT_PINNED")
        );
        assert!(refused.message.contains("unpin"), "{}", refused.message);
    }

    // With every slot pinned there is no place, and that is said.
    pin(&client, 1, true).await.unwrap();
    let job = push(&client, "lookup-de", &demo("lookup-de")).await;
    let failed = ended(&client, job.id).await.error.unwrap();
    assert_eq!(failed.reason, "ALL_SLOTS_PINNED");
    pin(&client, 0, false).await.unwrap();
    assert_eq!(
        merge(&client, "lookup-de", &demo("lookup-de")).await.slot,
        0
    );
    assert!(forget(&client, "slug-en").await.is_ok());
    assert_eq!(tasks(&client).await[0].1, ["lookup-de"]);
}

#[tokio::test]
async fn a_pinned_average_is_never_the_nearest() {
    let (_daemon, client) = started(LONG, policy(2)).await;
    merge_all(&client, &["slug-en", "lookup-en"]).await;
    let empty = v1::PinSlotRequest {
        base_model: BASE.to_owned(),
        slot: 5,
        ..v1::PinSlotRequest::default()
    };
    let refused = refusal(client.pin_slot(empty).await.unwrap_err());
    assert_eq!(
        (refused.code, refused.reason.as_str()),
        (Code::NotFound, "SLOT_EMPTY")
    );
    // Pinned is what an absent wish means.
    let default = v1::PinSlotRequest {
        base_model: BASE.to_owned(),
        slot: 0,
        ..v1::PinSlotRequest::default()
    };
    let job = client.pin_slot(default).await.unwrap().job.unwrap();
    assert_eq!(ended(&client, job.id).await.kind(), v1::JobKind::Settings);
    // slug-de is most like slug-en.
    let decision = merge(&client, "slug-de", &demo("slug-de")).await;
    assert_eq!(decision.slot, 1, "{}", decision.reason);
    assert_eq!(decision.similarities.len(), 2);
    assert!(decision.similarities[0].similarity > decision.similarities[1].similarity);
}
