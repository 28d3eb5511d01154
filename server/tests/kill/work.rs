//! What clients do while a daemon is killed.

use kmerge_client::{Adapter, Client, v1};

use crate::oracle::Oracle;
use crate::support::adapters::{Files, Tensors, small};
use crate::support::calls::{policy, progressive};

/// An adapter whose merge into an F16 slot must fail.
fn huge(seed: u64) -> Adapter {
    let mut tensors = Tensors::fitting(2, seed);
    tensors.first().set(0, 1e6);
    let Files { config, .. } = small(2, seed);
    let tensors = tensors.file();
    Files { config, tensors }.adapter()
}

/// What clients do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Work {
    /// Base models are registered and adapters arrive.
    Arrivals,
    /// Slots keep their members apart as well, tasks leave, and slots get other sizes.
    Everything,
}

/// Does it. Ends early when the daemon does.
pub(crate) async fn work(oracle: &Oracle, client: &Client, what: Work, round: u64) {
    match what {
        Work::Arrivals => arrivals(oracle, client, round).await,
        Work::Everything => {
            tokio::join!(
                arrivals(oracle, client, round),
                changes(oracle, client, round)
            );
        }
    }
}

/// The base model whose slots keep their members apart.
const APART: &str = "apart";

/// Bytes of its slots, in turn: both have room for all that comes.
const SLOT_BYTES: [u64; 2] = [400_000, 300_000];

/// What clients do with slots that keep their members apart: arrivals, another size, and tasks that
/// leave while others come.
async fn changes(oracle: &Oracle, client: &Client, round: u64) -> Option<()> {
    let apart = progressive(2, SLOT_BYTES[0]);
    oracle.register_with(client, APART, apart).await?;
    let arrive = async |number: u64| {
        let seed = round * 100 + number;
        let (task, adapter) = (format!("task-{seed}"), small(2, seed).adapter());
        oracle.push(client, &task, APART, adapter, false).await
    };
    let before = oracle.merged(APART);
    let leave = async |task: Option<&String>| match task {
        Some(task) => oracle.forget(client, APART, task).await,
        None => Some(()),
    };
    let (first, second, left) = tokio::join!(arrive(1), arrive(2), leave(before.first()));
    first.and(second).and(left)?;
    let turn = usize::try_from(round % 2).unwrap();
    let request_id = format!("size-{round}");
    let (resized, third) = tokio::join!(
        oracle.resize(client, APART, &request_id, SLOT_BYTES[turn]),
        arrive(3)
    );
    resized.and(third)?;
    leave(oracle.merged(APART).last()).await
}

/// What clients do in one run: base models, arrivals in parallel, one that cannot be merged, and a
/// last arrival alone. Ends early when the daemon does.
async fn arrivals(oracle: &Oracle, client: &Client, round: u64) {
    let narrow = v1::MergePolicy {
        dtype: v1::SlotDtype::F16.into(),
        ..policy(1)
    };
    let registered = async {
        oracle.register(client, "tiny", 2).await?;
        oracle.register_with(client, "narrow", narrow).await?;
        oracle.register(client, &format!("base-{round}"), 2).await
    };
    if registered.await.is_none() {
        return;
    }
    let arrive = async |number: u64| {
        let seed = round * 100 + number;
        let (task, adapter) = (format!("task-{seed}"), small(2, seed).adapter());
        oracle.push(client, &task, "tiny", adapter, false).await
    };
    let fail = async {
        let task = format!("huge-{round}");
        oracle
            .push(client, &task, "narrow", huge(round), true)
            .await
    };
    let ends = tokio::join!(arrive(1), arrive(2), arrive(3), fail);
    if ends == (Some(()), Some(()), Some(()), Some(())) {
        // Nothing depends on whether the daemon lives to see it.
        let _ = arrive(4).await;
    }
}
