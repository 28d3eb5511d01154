//! The exact operator: a pair reaches the optimum that the goldens state, and no slot is better
//! than the optimum or worse than what kmerge-linear makes of the same members.

use kmerge_client::v1;
use serde_json::Value;

use crate::replay::{json, names};
use crate::support::calls::{golden, merge, policy, register};
use crate::support::tensors::{self, Matrix};
use crate::support::{Daemon, goldens};

/// What f32 arithmetic may add, as a share of the update's norm.
const SLACK: f64 = 1e-5;

fn exact(slots: u32) -> v1::MergePolicy {
    v1::MergePolicy {
        operator: v1::Operator::Exact.into(),
        ..policy(slots)
    }
}

/// The distance of each module's served update from the golden average, with the golden figures.
fn errors(
    served: &std::collections::BTreeMap<String, Matrix>,
    averages: &str,
    figures: &Value,
) -> Vec<(String, f64, Value)> {
    let averages = std::fs::read(goldens().join("expected").join(averages)).unwrap();
    let averages = tensors::read(&averages);
    assert_eq!(averages.len(), served.len());
    let modules = served.iter().map(|(module, update)| {
        let error = update.distance(&averages[&format!("{module}.delta")]);
        (module.clone(), error, figures["modules"][module].clone())
    });
    modules.collect()
}

#[tokio::test]
async fn two_adapters_reach_the_optimum() {
    let mut daemon = Daemon::start().await;
    let client = daemon.client().await;
    let channel = daemon.channel().await;
    let mut pairs = 0;
    for case in json("exact-sets/cases.json").as_array().unwrap() {
        let members = names(&case["members"]);
        let base = format!("case-{}", case["case"]);
        if members.len() != 2 {
            continue;
        }
        pairs += 1;
        register(&client, &base, exact(1)).await;
        for member in &members {
            let adapter = golden(member);
            let upload = kmerge_client::Upload::new(*member, &base);
            let answer = client
                .upload_adapter(&adapter, &upload, |_| ())
                .await
                .unwrap();
            let job = client
                .watch_job(answer.job.unwrap().id)
                .ended()
                .await
                .unwrap();
            assert_eq!(job.state(), v1::JobState::Done, "{base}: {:?}", job.error);
        }
        let export = tensors::fetch(&channel, &base, 0, 0).await.unwrap();
        let served = tensors::updates(&tensors::read(export.tensors()));
        let averages = format!("exact-sets/case-{}.safetensors", case["case"]);
        for (module, error, figures) in errors(&served, &averages, case) {
            let optimum = figures["optimal_error"].as_f64().unwrap();
            let slack = SLACK * figures["frobenius"].as_f64().unwrap();
            assert!(
                (error - optimum).abs() <= slack,
                "{base}, {module}: {error}, and the optimum is {optimum}"
            );
        }
    }
    assert!(pairs >= 2, "the goldens have {pairs} pairs");
    daemon.stop().await;
    daemon.assert_quiet(&[]);
}

#[tokio::test]
async fn a_slot_of_many_lies_between_the_optimum_and_the_linear_way() {
    let mut daemon = Daemon::start().await;
    let client = daemon.client().await;
    let channel = daemon.channel().await;
    for (slot, figures) in json("exact-K2/truncation.json").as_object().unwrap() {
        // Each golden slot's members, in its order, into one slot of a base model of its own.
        register(&client, slot, exact(1)).await;
        for member in names(&figures["members"]) {
            let upload = kmerge_client::Upload::new(member, slot);
            let answer = client
                .upload_adapter(&golden(member), &upload, |_| ())
                .await
                .unwrap();
            let job = client
                .watch_job(answer.job.unwrap().id)
                .ended()
                .await
                .unwrap();
            let decision = job.decision.unwrap();
            if decision.assignment() == v1::Assignment::Merged {
                let kept = decision.energy_kept.unwrap();
                assert!(
                    (0.0..=1.0 + 1e-9).contains(&kept),
                    "{slot}, {member}: {kept}"
                );
            }
        }
        let export = tensors::fetch(&channel, slot, 0, 0).await.unwrap();
        let served = tensors::updates(&tensors::read(export.tensors()));
        let averages = format!("exact-K2/{slot}.safetensors");
        for (module, error, figures) in errors(&served, &averages, figures) {
            let slack = SLACK * figures["frobenius"].as_f64().unwrap();
            let optimum = figures["optimal_error"].as_f64().unwrap();
            let linear = figures["kmerge_linear_error"].as_f64().unwrap();
            assert!(
                error >= optimum - slack,
                "{slot}, {module}: {error} below {optimum}"
            );
            assert!(
                error < linear,
                "{slot}, {module}: {error}, linear has {linear}"
            );
        }
    }
    daemon.stop().await;
    daemon.assert_quiet(&[]);
}

#[tokio::test]
async fn the_exact_run_keeps_members_in_the_order_of_arrival() {
    let mut daemon = Daemon::start().await;
    let client = daemon.client().await;
    register(&client, crate::support::BASE, exact(2)).await;
    for arrival in names(&json("kmerge-K2/assignment.json")["arrivals"]) {
        let decision = merge(&client, arrival, &golden(arrival)).await;
        assert_eq!(decision.members.last().unwrap().task, arrival);
        let equal = 1.0 / f64::from(u32::try_from(decision.members.len()).unwrap());
        for member in &decision.members {
            assert!(
                (member.weight - equal).abs() < 1e-12,
                "{arrival}: {:?}",
                decision.members
            );
        }
    }
    daemon.stop().await;
    daemon.assert_quiet(&[]);
}
