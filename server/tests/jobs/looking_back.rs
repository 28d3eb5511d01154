//! Rules that look back: what the daemon remembers, in its cache and on disk, is what the
//! mathematics alone would measure, a restart in the middle included.

use kmerge_client::{Client, v1};
use kmerge_merge::{AssignmentRule, Operator, Policy};
use tonic::Code;

use super::replay::Replay;
use crate::support::adapters::small;
use crate::support::calls::{golden, merge, policy, refusal, register, upload};
use crate::support::{BASE, Daemon, goldens};

/// Arrivals among which slots are joined, with one that has other ranks than the rest.
const ARRIVALS: [&str; 12] = [
    "a0", "a1", "a2", "made-0", "a3", "made-1", "a4", "a5", "made-3", "a6", "a7", "made-2",
];

fn adapter(task: &str) -> kmerge_client::Adapter {
    match task.strip_prefix("made-") {
        Some(seed) => small(seed.parse::<usize>().unwrap() + 1, seed.parse().unwrap()).adapter(),
        None => golden(task),
    }
}

/// Compares all but the last digits of similarities, see `arrivals_are_decided_…`.
fn assert_same(mut found: v1::Decision, expected: &v1::Decision) {
    found.members.clear();
    assert_eq!(found.similarities.len(), expected.similarities.len());
    for (found, expected) in found.similarities.iter_mut().zip(&expected.similarities) {
        assert!((found.similarity - expected.similarity).abs() <= 1e-6);
        found.similarity = expected.similarity;
    }
    assert_eq!(found, *expected);
}

async fn assert_slots(client: &Client, replay: &Replay) {
    let slots = client.list_slots(None).await.unwrap();
    assert_eq!(slots.len(), replay.len());
    for slot in slots {
        assert_eq!(slot.sha256, replay.digest(slot.slot), "slot {}", slot.slot);
        let members: Vec<&str> = slot.members.iter().map(|m| m.task.as_str()).collect();
        assert_eq!(members, replay.members(slot.slot), "slot {}", slot.slot);
        let share = 1.0 / f64::from(u32::try_from(members.len()).unwrap());
        for member in &slot.members {
            assert!(
                (member.weight - share).abs() < 1e-12,
                "{member:?} of {share}"
            );
        }
    }
}

/// Sends all arrivals, with a restart in the middle, and gives the decisions.
async fn arrive(
    rule: (v1::AssignmentRule, AssignmentRule),
    operator: (v1::Operator, Operator),
) -> Vec<v1::Decision> {
    let mut daemon = Daemon::start().await;
    let mut client = daemon.client().await;
    let asked = v1::MergePolicy {
        assignment: rule.0.into(),
        operator: operator.0.into(),
        ..policy(3)
    };
    register(&client, BASE, asked).await;
    let mut replay = Replay::under(Policy {
        slots: 3,
        assignment: rule.1,
        operator: operator.1,
        ..Policy::default()
    });
    let mut decisions = Vec::new();
    for (index, task) in ARRIVALS.into_iter().enumerate() {
        if index == 7 {
            // What was measured is forgotten, what is on disk is not.
            daemon.restart().await;
            client = daemon.client().await;
        }
        let sent = adapter(task);
        let wish = kmerge_client::Upload {
            validate_only: true,
            ..upload(task)
        };
        let dry = client.upload_adapter(&sent, &wish, |_| ()).await.unwrap();
        let dry = dry.decision.unwrap();
        let found = merge(&client, task, &sent).await;
        assert_same(
            dry,
            &v1::Decision {
                members: Vec::new(),
                ..found.clone()
            },
        );
        assert_same(
            found.clone(),
            &replay.arrive_as(task, &replay.files(task, &sent)),
        );
        decisions.push(found);
    }
    assert_slots(&client, &replay).await;
    for task in ARRIVALS {
        let found = client.resolve_task(BASE, task).await.unwrap();
        assert!(
            replay.members(found.slot).contains(&task),
            "{task}: {found:?}"
        );
    }
    daemon.assert_quiet(&[]);
    decisions
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_slots_become_one_and_the_newcomer_takes_the_freed_one() {
    let rule = (v1::AssignmentRule::BestPair, AssignmentRule::BestPair);
    for operator in [
        (v1::Operator::KmergeLinear, Operator::KMergeLinear),
        (v1::Operator::Exact, Operator::Exact),
    ] {
        let decisions = arrive(rule, operator).await;
        let freed = decisions.iter().filter(|d| d.freed_into.is_some());
        for decision in freed.clone() {
            assert_eq!(decision.assignment(), v1::Assignment::Opened);
            assert_eq!(decision.members.len(), 1);
            assert_ne!(decision.freed_into, Some(decision.slot));
        }
        assert!(freed.count() > 1, "{operator:?}: {decisions:#?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_threshold_that_is_not_given_comes_from_what_was_seen() {
    let rule = (
        v1::AssignmentRule::KmergePlusPlus,
        AssignmentRule::KMergePlusPlus { threshold: None },
    );
    let decisions = arrive(rule, (v1::Operator::Exact, Operator::Exact)).await;
    let last = decisions.last().unwrap();
    assert!(last.reason.contains("was found from"), "{}", last.reason);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn operators_that_cannot_join_slots_are_refused() {
    let daemon = Daemon::start().await;
    let client = daemon.client().await;
    for operator in [
        v1::Operator::Ties,
        v1::Operator::Linear,
        v1::Operator::Progressive,
    ] {
        let asked = v1::MergePolicy {
            assignment: v1::AssignmentRule::BestPair.into(),
            operator: operator.into(),
            ..policy(3)
        };
        let request = v1::RegisterBaseModelRequest {
            name: BASE.to_owned(),
            config: std::fs::read(goldens().join("base/config.json")).unwrap(),
            policy: Some(asked),
            served_as: String::new(),
        };
        let refused = refusal(client.register_base_model(request).await.unwrap_err());
        assert_eq!(refused.code, Code::InvalidArgument);
        assert!(refused.message.contains("best-pair"), "{}", refused.message);
        assert!(refused.message.contains("exact"), "{}", refused.message);
    }
}
