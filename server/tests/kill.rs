//! SIGKILL at every named point of storage and at random moments, while adapters are uploaded,
//! merged, published and collected. An oracle outside the state directory knows what clients were
//! told; after each kill a new run must keep all of it, and a stopped one must leave nothing else
//! on disk.

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]
#![expect(
    clippy::disallowed_methods,
    reason = "the oracle looks at the state from outside"
)]

#[path = "support/oracle.rs"]
mod oracle;
mod support;

use std::collections::BTreeSet;
use std::os::unix::process::ExitStatusExt as _;
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Duration;

use kmerge_client::{Adapter, Client, Health, v1};
use kmerge_storage::failpoint;
use oracle::Oracle;
use support::adapters::{Files, Tensors, small};
use support::calls::policy;
use support::daemon::PATIENCE;
use support::{Daemon, Setup};

/// Each point and the hits at which the daemon is killed, one run after the other on one state
/// directory: the first on a new one, the later ones on what the kills before have left.
const FILES: &[(&str, &[u32])] = &[
    ("durable.create", &[1, 5, 12, 19]),
    ("durable.link", &[1, 2, 3, 5]),
    ("durable.rename", &[1, 3, 6, 10]),
    ("durable.sync", &[1, 3, 8, 15, 22]),
    ("durable.sync_dir", &[1, 6, 13, 20, 30]),
    ("durable.unlink", &[1, 2, 5, 8]),
    ("durable.write", &[1, 4, 10, 16]),
];

const UPLOADS: &[(&str, &[u32])] = &[
    ("base_model.file_durable", &[1, 2]),
    ("catalog.applied", &[1, 4, 12]),
    ("catalog.flushed", &[2, 9, 14]),
    ("catalog.synced", &[3, 8, 13]),
    ("counter.reserved", &[1]),
    ("enqueue.directory_durable", &[1, 3]),
    ("enqueue.header_durable", &[1, 3]),
    ("enqueue.renamed", &[1, 3]),
    ("job_end.staging_removed", &[1]),
    ("staging.created", &[1, 2]),
    ("staging.data_durable", &[1, 3]),
];

const MERGES: &[(&str, &[u32])] = &[
    ("collect.exports_removed", &[1, 2]),
    ("collect.manifests_removed", &[1, 2]),
    ("collect.tensors_removed", &[1, 2]),
    ("commit.checked", &[1, 3]),
    ("commit.manifest_written", &[1, 3]),
    ("commit.manifests_durable", &[1, 3]),
    ("commit.staging_removed", &[1, 3]),
    ("export.current_moved", &[1, 3]),
    ("export.files_durable", &[1, 3]),
    ("export.renamed", &[1, 3]),
    ("tensor.data_durable", &[1, 3]),
    ("tensor.directory_durable", &[1, 3]),
    ("tensor.renamed", &[1, 3]),
];

/// The job ids are counted in blocks, so the second block's point needs a state of its own.
const COUNTER: &[(&str, &[u32])] = &[("counter.reserved", &[2])];

const ALL: [&[(&str, &[u32])]; 4] = [FILES, UPLOADS, MERGES, COUNTER];

/// Not met here: in a database of several MiB, which no short run makes and where storage's own tests
/// kill, and when slots are emptied or settings changed, where the tests of upkeep do.
const ELSEWHERE: [&str; 3] = [
    "compact.",
    "commit.remains_removed",
    "commit.settings_durable",
];

/// A state directory, what was promised about it, and the runs so far.
struct Campaign {
    daemon: Daemon,
    oracle: Arc<Oracle>,
    round: u64,
}

impl Campaign {
    fn new() -> Self {
        Self {
            daemon: Setup::default()
                .env("KMERGE_SERVING__GRACE_SECONDS", "0")
                .prepare(),
            oracle: Arc::default(),
            round: 0,
        }
    }

    /// One run under a plan for the points, and another one that has to keep the promises.
    async fn killed_by(&mut self, plan: &str) {
        self.end_at(plan).await;
        self.keep_promises().await;
    }

    /// One run under a plan for the points, which has to end at one of them. Says whether it served
    /// before that.
    async fn end_at(&mut self, plan: &str) -> bool {
        self.daemon.env("KMERGE_FAILPOINT", plan);
        self.daemon.launch();
        let working = match serving(&mut self.daemon).await {
            Ok(client) => Some(self.work(client)),
            // The point lies on the way to serving.
            Err(_) => None,
        };
        let status = self.daemon.wait().await;
        assert_eq!(status.signal(), Some(9), "{plan} ended with {status}");
        self.daemon.clear("KMERGE_FAILPOINT");
        let served = working.is_some();
        if let Some(working) = working {
            working.await.unwrap();
        }
        served
    }

    /// One run that is killed when `moment` has passed.
    async fn killed_after(&mut self, moment: Duration) {
        self.daemon.launch();
        self.daemon.ready().await;
        let working = self.work(self.daemon.client().await);
        tokio::time::sleep(moment).await;
        self.daemon.kill();
        working.await.unwrap();
        self.keep_promises().await;
    }

    /// Starts what clients do, and somebody who watches.
    fn work(&mut self, client: Client) -> tokio::task::JoinHandle<()> {
        self.round += 1;
        let (oracle, round) = (Arc::clone(&self.oracle), self.round);
        tokio::spawn(async move {
            tokio::join!(oracle.watch(client.clone()), work(&oracle, &client, round));
        })
    }

    async fn keep_promises(&mut self) {
        self.daemon.launch();
        self.daemon.ready().await;
        let client = self.daemon.client().await;
        // A job that is never taken up again must not hold the test up for ever.
        tokio::time::timeout(PATIENCE, self.oracle.send_again(&client))
            .await
            .expect("every job ends");
        self.oracle.check_served(&client).await;
        self.daemon.stop().await;
        self.oracle.check_disk(&self.daemon.state());
        // Recovery says what it did, and the job that is to fail says so.
        self.daemon
            .assert_quiet(&["recovery:", "base_model=narrow"]);
    }
}

/// A client once the daemon serves, or how it ended before that.
async fn serving(daemon: &mut Daemon) -> Result<Client, ExitStatus> {
    loop {
        if let Some(status) = daemon.exited() {
            return Err(status);
        }
        if let Ok(client) = Client::connect(&daemon.socket()).await
            && client.health().await.ok() == Some(Health::Serving)
        {
            return Ok(client);
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// An adapter whose merge into an F16 slot must fail.
fn huge(seed: u64) -> Adapter {
    let mut tensors = Tensors::fitting(2, seed);
    tensors.first().set(0, 1e6);
    let Files { config, .. } = small(2, seed);
    let tensors = tensors.file();
    Files { config, tensors }.adapter()
}

/// What clients do in one run: base models, arrivals in parallel, one that cannot be merged, and a
/// last arrival alone. Ends early when the daemon does.
async fn work(oracle: &Oracle, client: &Client, round: u64) {
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

/// Kills at each of the points, each as often as it says.
async fn kill_at(points: &[(&str, &[u32])]) {
    for (point, hits) in points {
        let mut campaign = Campaign::new();
        for hit in *hits {
            campaign.killed_by(&format!("{point}=kill@{hit}")).await;
        }
    }
}

/// Points that recovery passes, and after which point the state is left to it.
const RECOVERIES: &[(&str, &str)] = &[
    ("staging.data_durable=kill@2", "durable.unlink=kill@1"),
    ("staging.created=kill@2", "durable.unlink=kill@2"),
    ("enqueue.directory_durable=kill@2", "durable.sync=kill@1"),
    ("tensor.directory_durable=kill@2", "durable.sync=kill@1"),
    ("commit.manifest_written=kill@2", "durable.unlink=kill@1"),
    ("commit.manifests_durable=kill@2", "durable.sync=kill@1"),
    ("commit.manifests_durable=kill@3", "durable.unlink=kill@1"),
    ("catalog.applied=kill@9", "durable.sync_dir=kill@1"),
    ("commit.staging_removed=kill@2", "export.renamed=kill@1"),
    ("export.files_durable=kill@2", "export.files_durable=kill@1"),
    ("export.renamed=kill@3", "export.current_moved=kill@1"),
    ("collect.manifests_removed=kill@1", "durable.unlink=kill@1"),
];

#[test]
fn every_named_point_has_its_kills() {
    let points: BTreeSet<&str> = ALL
        .iter()
        .flat_map(|part| part.iter())
        .map(|(n, _)| *n)
        .collect();
    let named = failpoint::NAMES
        .iter()
        .filter(|name| !ELSEWHERE.iter().any(|other| name.starts_with(other)));
    assert_eq!(points, named.copied().collect());
    let kills: usize = ALL
        .iter()
        .flat_map(|part| part.iter())
        .map(|(_, hits)| hits.len())
        .sum();
    assert!(
        points.len() >= 25 && kills >= 50,
        "{kills} kills at {} points",
        points.len()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_kill_at_a_file_operation_breaks_no_promise() {
    kill_at(FILES).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_kill_during_an_upload_breaks_no_promise() {
    kill_at(UPLOADS).await;
    kill_at(COUNTER).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_kill_during_a_merge_breaks_no_promise() {
    kill_at(MERGES).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_kill_at_any_moment_breaks_no_promise() {
    let mut campaign = Campaign::new();
    let mut random = 0x5eed_u64;
    for _ in 0..10 {
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        let moment = Duration::from_micros((random >> 33) % 150_000);
        campaign.killed_after(moment).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_kill_during_the_recovery_from_a_kill_breaks_no_promise() {
    for (first, second) in RECOVERIES {
        let mut campaign = Campaign::new();
        campaign.end_at(first).await;
        let served = campaign.end_at(second).await;
        assert!(!served, "recovery from {first} did not come to {second}");
        campaign.keep_promises().await;
    }
}
