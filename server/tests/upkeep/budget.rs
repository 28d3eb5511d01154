//! Slots follow another budget at once, up and down, and what it costs is said beforehand.

use kmerge_client::{Client, Error, v1};
use tonic::Code;

use crate::support::BASE;
use crate::support::calls::{merge, policy, refusal};
use crate::{
    LONG, demo, done, foreseen, lose_catalog, merge_all, pin, progressive, roll_back, served,
    started, tasks,
};

const SIX: [&str; 6] = [
    "slug-en",
    "lookup-en",
    "longest-de",
    "correction-en",
    "slug-de",
    "lookup-de",
];

fn budget(slots: u32) -> v1::SetBudgetRequest {
    v1::SetBudgetRequest {
        base_model: BASE.to_owned(),
        slots: Some(slots),
        ..v1::SetBudgetRequest::default()
    }
}

/// Asks, looks ahead first, and does it: both must say the same.
async fn set(client: &Client, request: v1::SetBudgetRequest) -> Result<v1::Change, Error> {
    let rehearsal = v1::SetBudgetRequest {
        validate_only: true,
        ..request.clone()
    };
    let rehearsal = foreseen(client.set_budget(rehearsal).await?);
    let change = done(client, client.set_budget(request).await?).await;
    assert_eq!(change, rehearsal);
    Ok(change)
}

async fn used(client: &Client) -> (u32, u64, u64) {
    let base = client.get_base_model(BASE).await.unwrap();
    (base.slots_used, base.bytes_used, base.tasks)
}

#[tokio::test]
async fn fewer_and_smaller_slots_keep_every_task() {
    let (mut daemon, client) = started(LONG, progressive(3, 240_000)).await;
    merge_all(&client, &SIX).await;
    assert_eq!(used(&client).await.0, 3);

    let change = set(&client, budget(1)).await.unwrap();
    let emptied = change.slots.iter().filter(|slot| slot.emptied).count();
    assert_eq!((change.slots.len(), emptied), (3, 2));
    assert!(
        change
            .reason
            .starts_with("slots 3 to 1: 2 slots are emptied"),
        "{}",
        change.reason
    );
    assert!(change.slots[0].costs.iter().all(|cost| {
        let (before, after) = (cost.before.unwrap(), cost.after.unwrap());
        after.retention < before.retention && after.bytes < before.bytes
    }));
    assert_eq!(used(&client).await.2, 6);
    let slot = client.get_slot(BASE, 0).await.unwrap();
    assert!(slot.bytes <= 240_000 && slot.budget_bytes == Some(240_000));

    let smaller = v1::SetBudgetRequest {
        slot_bytes: Some(100_000),
        slots: None,
        ..budget(0)
    };
    let change = set(&client, smaller).await.unwrap();
    assert_eq!(change.slots.len(), 1);
    let check = async |client: &Client| {
        assert_eq!(used(client).await.2, 6);
        let slot = client.get_slot(BASE, 0).await.unwrap();
        assert!(slot.bytes <= 100_000 && slot.budget_bytes == Some(100_000));
        for task in SIX {
            let (_, fidelity) = served(client, task).await;
            assert!(fidelity.unwrap().retention > 0.5);
        }
        let policy = client.get_base_model(BASE).await.unwrap().policy.unwrap();
        assert_eq!((policy.slots, policy.slot_bytes), (Some(1), Some(100_000)));
    };
    check(&client).await;
    let client = lose_catalog(&mut daemon).await;
    check(&client).await;

    // What was larger than the budget now is cannot come back.
    let earlier = refusal(roll_back(&client, 0, 0).await.unwrap_err());
    assert_eq!(
        (earlier.code, earlier.reason.as_str()),
        (Code::ResourceExhausted, "OVER_BYTE_BUDGET")
    );

    // Up again: nothing is written, and there is room for more.
    let change = set(&client, budget(2)).await.unwrap();
    assert!(change.slots.is_empty(), "{change:?}");
    assert_eq!(
        merge(&client, "longest-en", &demo("longest-en")).await.slot,
        1
    );
}

#[tokio::test]
async fn a_floor_is_kept_and_says_what_would_be_enough() {
    let (_daemon, client) = started(LONG, progressive(2, 240_000)).await;
    merge_all(&client, &SIX).await;
    let floored = v1::SetBudgetRequest {
        slot_bytes: Some(60_000),
        floor: Some(0.95),
        ..budget(1)
    };
    let refused = refusal(set(&client, floored.clone()).await.unwrap_err());
    assert_eq!(
        (refused.code, refused.reason.as_str()),
        (Code::FailedPrecondition, "BELOW_FLOOR")
    );
    assert_eq!(used(&client).await.0, 2, "nothing has changed");
    let about = refused.message.split("to about ").nth(1).unwrap();
    let needed: u64 = about.split([' ', ',']).next().unwrap().parse().unwrap();
    let enough = v1::SetBudgetRequest {
        slot_bytes: Some(needed),
        ..floored
    };
    set(&client, enough).await.unwrap();
    assert_eq!(used(&client).await.0, 1);
}

#[tokio::test]
async fn averages_that_are_most_alike_become_one() {
    for operator in [v1::Operator::KmergeLinear, v1::Operator::Exact] {
        let wished = v1::MergePolicy {
            operator: operator.into(),
            ..policy(4)
        };
        let (mut daemon, client) = started(LONG, wished).await;
        let order = ["slug-en", "lookup-en", "slug-de", "longest-de", "lookup-de"];
        merge_all(&client, &order).await;
        let before = tasks(&client).await;
        assert_eq!(before.len(), 4);

        let change = set(&client, budget(2)).await.unwrap();
        let emptied = change.slots.iter().filter(|slot| slot.emptied).count();
        assert_eq!(emptied, 2, "{operator:?}: {change:?}");
        let client = lose_catalog(&mut daemon).await;
        let slots = client.list_slots(Some(BASE)).await.unwrap();
        assert_eq!(slots.len(), 2);
        assert!(slots.iter().all(|slot| slot.slot < 2));
        let mut together = Vec::new();
        for slot in &slots {
            let weights: f64 = slot.members.iter().map(|member| member.weight).sum();
            assert!((weights - 1.0).abs() < 1e-9, "{operator:?}");
            // Everyone counts the same.
            let share = 1.0 / f64::from(u32::try_from(slot.members.len()).unwrap());
            assert!(
                slot.members
                    .iter()
                    .all(|member| (member.weight - share).abs() < 1e-9)
            );
            let mut names: Vec<_> = slot.members.iter().map(|m| m.task.as_str()).collect();
            names.sort_unstable();
            together.push(names.join(" "));
        }
        // The slugs are more like each other than anything else.
        assert!(
            together
                .iter()
                .any(|names| names.contains("slug-de slug-en")),
            "{together:?}"
        );
        for task in order {
            served(&client, task).await;
        }
    }
}

#[tokio::test]
async fn a_slot_beyond_the_last_number_takes_a_free_one() {
    let (_daemon, client) = started(LONG, policy(3)).await;
    merge_all(&client, &["slug-en", "lookup-en", "longest-de"]).await;
    crate::forget(&client, "slug-en").await.unwrap();
    let before = client.get_slot(BASE, 2).await.unwrap();
    set(&client, budget(2)).await.unwrap();
    let after = client.list_slots(Some(BASE)).await.unwrap();
    let numbers: Vec<u32> = after.iter().map(|slot| slot.slot).collect();
    assert_eq!(numbers, [0, 1]);
    // Slot 0 had been emptied at generation 2.
    assert_eq!((&after[0].sha256, after[0].generation), (&before.sha256, 3));
    served(&client, "longest-de").await;
}

#[tokio::test]
async fn a_byte_limit_unites_averages_as_far_as_it_takes() {
    let (_daemon, client) = started(LONG, policy(4)).await;
    merge_all(&client, &["slug-en", "lookup-en", "longest-de"]).await;
    let (_, bytes, _) = used(&client).await;
    let limit = v1::SetBudgetRequest {
        max_bytes: Some(bytes * 2 / 3 + 10),
        slots: None,
        ..budget(0)
    };
    set(&client, limit.clone()).await.unwrap();
    assert_eq!(used(&client).await.0, 2);
    let nothing = v1::SetBudgetRequest {
        max_bytes: Some(1000),
        ..limit
    };
    let refused = refusal(set(&client, nothing).await.unwrap_err());
    assert_eq!(refused.reason, "OVER_BYTE_BUDGET");
    assert_eq!(used(&client).await.0, 2);
}

#[tokio::test]
async fn what_makes_no_sense_or_meets_a_pin_is_refused() {
    let (_daemon, client) = started(LONG, progressive(2, 240_000)).await;
    merge_all(&client, &SIX[..3]).await;
    let invalid = |request: v1::SetBudgetRequest| async {
        let refused = refusal(client.set_budget(request).await.unwrap_err());
        assert_eq!(refused.code, Code::InvalidArgument);
        refused.details.bad_request().unwrap().field_violations[0]
            .field
            .clone()
    };
    assert_eq!(invalid(budget(0)).await, "policy.slots");
    assert_eq!(invalid(budget(129)).await, "policy.slots");
    let nothing = v1::SetBudgetRequest {
        slots: None,
        ..budget(0)
    };
    assert_eq!(invalid(nothing.clone()).await, "slots");
    let floor = v1::SetBudgetRequest {
        floor: Some(1.0),
        ..nothing
    };
    assert_eq!(invalid(floor).await, "policy.floor");
    pin(&client, 1, true).await.unwrap();
    let pinned = refusal(client.set_budget(budget(1)).await.unwrap_err());
    assert_eq!(pinned.reason, "SLOT_PINNED");
    let unknown = v1::SetBudgetRequest {
        base_model: "nobody".into(),
        ..budget(1)
    };
    let unknown = refusal(client.set_budget(unknown).await.unwrap_err());
    assert_eq!(unknown.reason, "BASE_MODEL_UNKNOWN");
}
