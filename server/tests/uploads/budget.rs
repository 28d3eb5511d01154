//! The byte budget: a newcomer merges where a slot of its own would not fit, and a result that
//! does not fit either fails its job and changes nothing.

use kmerge_client::v1;
use tonic::Code;

use crate::support::adapters::{Files, Tensor, Tensors, factor, small};
use crate::support::calls::{Picture, ended, merge, policy, push, register};
use crate::support::{BASE, Daemon};

fn limited(slots: u32, max_bytes: u64) -> v1::MergePolicy {
    v1::MergePolicy {
        max_bytes: Some(max_bytes),
        ..policy(slots)
    }
}

/// An adapter of modules that [`small`] does not have, of about its size.
fn elsewhere(seed: u64) -> Files {
    let mut tensors = Vec::new();
    for layer in 0..3 {
        for (module, out) in [("self_attn.o_proj", 64), ("self_attn.k_proj", 32)] {
            tensors.push(Tensor::random(factor(layer, module, "A"), &[4, 64], seed));
            tensors.push(Tensor::random(
                factor(layer, module, "B"),
                &[out, 4],
                seed + 1,
            ));
        }
    }
    Files {
        tensors: Tensors(tensors).file(),
        ..small(4, 1)
    }
}

/// What an adapter takes as a slot of its own, by the daemon's own account.
async fn slot_bytes(files: &Files) -> u64 {
    let daemon = Daemon::start().await;
    let client = daemon.client().await;
    register(&client, BASE, policy(1)).await;
    merge(&client, "a", &files.adapter()).await.bytes
}

#[tokio::test]
async fn a_newcomer_merges_where_a_slot_of_its_own_would_not_fit() {
    let one = slot_bytes(&small(4, 1)).await;
    let mut daemon = Daemon::start().await;
    let client = daemon.client().await;
    // Room for two slots, and four may be opened.
    let budget = 2 * one + one / 2;
    register(&client, BASE, limited(4, budget)).await;
    let mut assignments = Vec::new();
    for seed in 1..=5 {
        let decision = merge(&client, &format!("t{seed}"), &small(4, seed).adapter()).await;
        if decision.assignment() == v1::Assignment::Merged {
            assert!(decision.reason.contains("bytes"), "{}", decision.reason);
        }
        assignments.push(decision.assignment());
        let used = client.get_base_model(BASE).await.unwrap().bytes_used;
        assert!(used <= budget, "{used} of {budget}");
    }
    let (opened, merged) = (v1::Assignment::Opened, v1::Assignment::Merged);
    assert_eq!(assignments, [opened, opened, merged, merged, merged]);
    daemon.stop().await;
    daemon.assert_quiet(&[]);
}

#[tokio::test]
async fn a_result_over_the_budget_fails_its_job_and_changes_nothing() {
    let one = slot_bytes(&small(4, 1)).await;
    let mut daemon = Daemon::start().await;
    let client = daemon.client().await;
    // One slot of either adapter fits; the modules of both together do not.
    register(&client, BASE, limited(4, one + one / 2)).await;
    merge(&client, "here", &small(4, 1).adapter()).await;
    let slots = client.list_slots(None).await.unwrap();
    let adapters = client.list_adapters(None).await.unwrap();

    let job = push(&client, "elsewhere", &elsewhere(7).adapter()).await;
    let failed = ended(&client, job.id).await;
    assert_eq!(failed.state(), v1::JobState::Failed, "{failed:?}");
    let error = failed.error.unwrap();
    assert_eq!(
        Code::from_i32(error.code),
        Code::ResourceExhausted,
        "{error:?}"
    );
    assert_eq!(error.reason, "OVER_BYTE_BUDGET", "{error:?}");
    assert!(error.message.contains("bytes"), "{error:?}");
    assert_eq!(failed.decision, None);

    assert_eq!(client.list_slots(None).await.unwrap(), slots);
    assert_eq!(client.list_adapters(None).await.unwrap(), adapters);
    crate::nothing_staged(&daemon).await;
    let asked = client.resolve_task(BASE, "elsewhere").await;
    assert!(
        matches!(asked, Err(kmerge_client::Error::NotFound(_))),
        "{asked:?}"
    );

    // The task is free again: the same bytes get a new job, which fares no better.
    let again = push(&client, "elsewhere", &elsewhere(7).adapter()).await;
    assert_ne!(again.id, job.id);
    assert_eq!(ended(&client, again.id).await.state(), v1::JobState::Failed);
    // The log has each failure, and nothing else that is loud.
    daemon.assert_quiet(&["workers: failed"]);
    let before = Picture::take(&client).await;
    daemon.restart().await;
    assert_eq!(Picture::take(&daemon.client().await).await, before);
    daemon.stop().await;
    daemon.assert_quiet(&[]);
}
