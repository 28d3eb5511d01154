//! A slot holds again exactly what it held, and nothing that was forgotten comes back with it.

use tonic::Code;

use crate::support::BASE;
use crate::support::calls::{policy, refusal};
use crate::{
    LONG, NONE, foreseen, forget, going_back, lose_catalog, merge_all, progressive, roll_back,
    served, started, tasks,
};

const FOUR: [&str; 4] = ["slug-en", "lookup-en", "longest-de", "correction-en"];

#[tokio::test]
async fn bit_for_bit_with_the_members_of_then() {
    let (mut daemon, client) = started(LONG, progressive(1, 120_000)).await;
    merge_all(&client, &FOUR[..2]).await;
    let before = client.get_slot(BASE, 0).await.unwrap();
    let kept = [
        served(&client, FOUR[0]).await,
        served(&client, FOUR[1]).await,
    ];
    merge_all(&client, &FOUR[2..]).await;
    assert_ne!(served(&client, FOUR[0]).await, kept[0], "they were cut");
    let now = client.get_slot(BASE, 0).await.unwrap();
    assert_eq!(now.earlier_generations, [3, 2, 1]);

    let rehearsal = foreseen(client.rollback_slot(going_back(0, 2, true)).await.unwrap());
    let change = roll_back(&client, 0, 2).await.unwrap();
    assert_eq!(change, rehearsal);
    assert_eq!(change.forgotten_tasks, FOUR[2..]);
    let check = async |client: &kmerge_client::Client| {
        let after = client.get_slot(BASE, 0).await.unwrap();
        assert_eq!((&after.sha256, after.generation), (&before.sha256, 5));
        assert_eq!(after.members, before.members);
        assert_eq!(served(client, FOUR[0]).await, kept[0]);
        assert_eq!(served(client, FOUR[1]).await, kept[1]);
        assert_eq!(
            tasks(client).await,
            [(0, FOUR[..2].iter().map(|&task| task.to_owned()).collect())]
        );
    };
    check(&client).await;
    let client = lose_catalog(&mut daemon).await;
    check(&client).await;

    // Those that came later were forgotten, so there is no way forward again.
    let forward = refusal(roll_back(&client, 0, 4).await.unwrap_err());
    assert_eq!(
        (forward.code, forward.reason.as_str()),
        (Code::FailedPrecondition, "GENERATION_CANNOT_RETURN")
    );
    assert!(
        forward.message.contains("longest-de"),
        "{}",
        forward.message
    );
    // They can be sent again, under the same names.
    merge_all(&client, &FOUR[2..3]).await;
    let again = refusal(roll_back(&client, 0, 3).await.unwrap_err());
    assert_eq!(
        again.reason, "GENERATION_CANNOT_RETURN",
        "not the same arrival"
    );
}

#[tokio::test]
async fn what_was_forgotten_does_not_come_back() {
    let (_daemon, client) = started(LONG, progressive(1, 240_000)).await;
    merge_all(&client, &FOUR[..2]).await;
    forget(&client, FOUR[0]).await.unwrap();
    for generation in [0, 2, 1] {
        let gone = refusal(roll_back(&client, 0, generation).await.unwrap_err());
        assert_eq!(gone.reason, "GENERATION_CANNOT_RETURN");
        assert!(gone.message.contains("slug-en"), "{}", gone.message);
    }
}

#[tokio::test]
async fn an_average_goes_back_too_and_the_one_before_is_the_default() {
    let (_daemon, client) = started(LONG, policy(1)).await;
    merge_all(&client, &FOUR[..1]).await;
    let none = refusal(roll_back(&client, 0, 0).await.unwrap_err());
    assert_eq!(
        (none.code, none.reason.as_str()),
        (Code::FailedPrecondition, "NO_EARLIER_GENERATION")
    );
    let before = client.get_slot(BASE, 0).await.unwrap();
    merge_all(&client, &FOUR[1..2]).await;
    roll_back(&client, 0, 0).await.unwrap();
    let after = client.get_slot(BASE, 0).await.unwrap();
    assert_eq!(
        (after.sha256, after.members),
        (before.sha256, before.members)
    );
    assert_eq!(
        served(&client, FOUR[0]).await.0,
        client.get_slot(BASE, 0).await.unwrap().sha256
    );
}

#[tokio::test]
async fn what_is_not_there_is_refused() {
    let (_daemon, client) = started(NONE, progressive(2, 240_000)).await;
    merge_all(&client, &FOUR[..1]).await;
    let empty = refusal(roll_back(&client, 1, 0).await.unwrap_err());
    assert_eq!(
        (empty.code, empty.reason.as_str()),
        (Code::NotFound, "SLOT_EMPTY")
    );
    for generation in [1, 2, 9] {
        let unknown = refusal(roll_back(&client, 0, generation).await.unwrap_err());
        assert_eq!(
            (unknown.code, unknown.reason.as_str()),
            (Code::NotFound, "GENERATION_UNKNOWN"),
            "{generation}"
        );
    }
}
