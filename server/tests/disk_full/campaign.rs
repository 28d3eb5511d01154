//! Others fill the disk at any moment, to any level, and keep it full by taking whatever becomes
//! free, while clients push, forget, take jobs back and read, and while the daemon is killed. When
//! they have gone, all that was acknowledged ends done.
//!
//! KMERGE_DISK_FULL_ROUNDS says how often (4), KMERGE_DISK_FULL_SEED with which chances (1).

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use kmerge_client::{Client, Error, v1};
use tonic::Code;

use super::{BASE, DISK, Daemon, PACKED, Setup, SmallDisk, assert_undisturbed, push_to, start};
use crate::support::calls::{ended, refusal};
use crate::support::namespace::entered;

/// Chances that are the same for each seed.
struct Chances(u64);

impl Chances {
    /// A number below `limit`.
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap())
}

/// What one round has acknowledged.
#[derive(Default)]
struct Acknowledged {
    pushed: Vec<(&'static str, String, u64)>,
    cancelled: BTreeSet<u64>,
    forgets: Vec<u64>,
    /// The tasks of those: one that waits for room is not asked for again.
    leaving: BTreeSet<String>,
    refused: u32,
}

#[test]
fn nothing_acknowledged_is_lost_on_a_disk_that_is_filled_at_any_moment() {
    if !entered("campaign::nothing_acknowledged_is_lost_on_a_disk_that_is_filled_at_any_moment") {
        return;
    }
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let rounds = number("KMERGE_DISK_FULL_ROUNDS", 4);
        let mut chances = Chances(number("KMERGE_DISK_FULL_SEED", 1));
        let setup = Setup::default().config("serving.grace_seconds = 0");
        let (mut daemon, disk, _) = start(setup).await;
        let (mut acknowledged, mut refused) = (0, 0);
        let mut slowest = Duration::ZERO;
        for round in 0..rounds {
            let done = one_round(&mut daemon, &disk, &mut chances, round).await;
            acknowledged += done.0;
            refused += done.1;
            slowest = slowest.max(done.2);
        }
        println!(
            "{rounds} rounds: {acknowledged} acknowledged and none lost, {refused} refused, the \
             slowest end {slowest:?} after there was room"
        );
        daemon.stop().await;
    });
}

async fn one_round(
    daemon: &mut Daemon,
    disk: &SmallDisk,
    chances: &mut Chances,
    round: u64,
) -> (usize, u32, Duration) {
    let client = daemon.client().await;
    let level = [0, 4 << 10, 100 << 10, 1 << 20][usize::try_from(chances.below(4)).unwrap()];
    let before = Duration::from_millis(chances.below(60));
    let during = Duration::from_millis(100 + chances.below(900));
    let is_hungry = chances.below(2) == 0;
    let is_killed = chances.below(3) == 0;
    let stop = AtomicBool::new(false);
    let mut acknowledged = Acknowledged::default();
    let work = work(&client, chances, round, &stop, &mut acknowledged);
    let filling = async {
        tokio::time::sleep(before).await;
        let until = Instant::now() + during;
        disk.fill(level);
        while Instant::now() < until {
            tokio::time::sleep(Duration::from_millis(2)).await;
            if is_hungry {
                disk.fill(level);
            }
        }
        stop.store(true, Ordering::Relaxed);
    };
    tokio::join!(work, filling);
    assert_undisturbed(daemon);
    if is_killed {
        daemon.kill();
        daemon.launch();
        daemon.ready().await;
    }
    disk.clear();
    let cleared = Instant::now();
    let client = daemon.client().await;
    let mut forgotten = BTreeSet::new();
    for &job in &acknowledged.forgets {
        let job = ended(&client, job).await;
        assert_eq!(job.state(), v1::JobState::Done, "{job:?}");
        forgotten.insert(job.task);
    }
    for (base, task, job) in &acknowledged.pushed {
        let job = ended(&client, *job).await;
        let expected = match acknowledged.cancelled.contains(&job.id) {
            true => v1::JobState::Cancelled,
            false => v1::JobState::Done,
        };
        assert_eq!(job.state(), expected, "{base}/{task}: {job:?}");
        let is_there =
            expected == v1::JobState::Done && !(*base == PACKED && forgotten.contains(task));
        let found = client.get_adapter(base, task).await;
        assert_eq!(found.is_ok(), is_there, "{base}/{task}: {found:?}");
    }
    let slowest = cleared.elapsed();
    println!(
        "round {round}: to {level} bytes for {during:?}{}{}: {} pushed, {} refused, {} taken back, \
         {} forgotten; ended after {slowest:?}, {} bytes free of {DISK}",
        if is_hungry { ", kept full" } else { "" },
        if is_killed { ", killed" } else { "" },
        acknowledged.pushed.len(),
        acknowledged.refused,
        acknowledged.cancelled.len(),
        acknowledged.forgets.len(),
        disk.free(),
    );
    // The next round has the room that this one had.
    for adapter in client.list_adapters(Some(PACKED)).await.unwrap() {
        let job = forget(&client, &adapter.task).await.unwrap();
        assert_eq!(ended(&client, job).await.state(), v1::JobState::Done);
    }
    assert_undisturbed(daemon);
    let count = acknowledged.pushed.len() + acknowledged.forgets.len();
    (count, acknowledged.refused, slowest)
}

async fn work(
    client: &Client,
    chances: &mut Chances,
    round: u64,
    stop: &AtomicBool,
    acknowledged: &mut Acknowledged,
) {
    let mut number = 0;
    while !stop.load(Ordering::Relaxed) {
        number += 1;
        match chances.below(8) {
            0..=4 => {
                let base = [BASE, PACKED][usize::try_from(number % 2).unwrap()];
                let task = format!("r{round}-{number}");
                match push_to(client, base, &task, 1000 * round + number).await {
                    Ok(job) => acknowledged.pushed.push((base, task, job)),
                    Err(refusal) => {
                        // A full queue is a refusal like another.
                        assert_eq!(refusal.code, Code::ResourceExhausted, "{refusal:?}");
                        acknowledged.refused += 1;
                    }
                }
            }
            5 => {
                let Some((_, _, job)) = acknowledged.pushed.last() else {
                    continue;
                };
                match client.cancel_job(*job).await {
                    Ok(job) => drop(acknowledged.cancelled.insert(job.id)),
                    Err(error) => {
                        let code = refusal(error).code;
                        let is_known =
                            matches!(code, Code::FailedPrecondition | Code::ResourceExhausted);
                        assert!(is_known, "{code:?}");
                    }
                }
            }
            6 => {
                let adapters = client.list_adapters(Some(PACKED)).await.unwrap();
                let mut stays = adapters
                    .iter()
                    .filter(|adapter| !acknowledged.leaving.contains(&adapter.task));
                let Some(adapter) = stays.next() else {
                    continue;
                };
                match forget(client, &adapter.task).await {
                    Ok(job) => {
                        acknowledged.forgets.push(job);
                        acknowledged.leaving.insert(adapter.task.clone());
                    }
                    Err(error) => {
                        let code = refusal(error).code;
                        // Somebody keeps the disk full, or it was forgotten before.
                        let is_known = matches!(code, Code::ResourceExhausted | Code::NotFound);
                        assert!(is_known, "{code:?}");
                    }
                }
            }
            _ => {
                client.resolve_task(BASE, "a").await.unwrap();
                assert!(client.get_status().await.unwrap().accepts_writes);
            }
        }
    }
}

async fn forget(client: &Client, task: &str) -> Result<u64, Error> {
    let request = v1::ForgetTaskRequest {
        base_model: PACKED.to_owned(),
        task: task.to_owned(),
        ..v1::ForgetTaskRequest::default()
    };
    Ok(client.forget_task(request).await?.job.unwrap().id)
}
