//! SIGKILL at every named point of storage and at random moments, while adapters are uploaded,
//! merged, published and collected. An oracle outside the state directory knows what clients were
//! told; after each kill a new run must keep all of it, and a stopped one must leave nothing else
//! on disk.

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]
#![expect(
    clippy::disallowed_methods,
    reason = "the oracle looks at the state from outside"
)]

#[path = "kill/campaign.rs"]
mod campaign;
#[path = "kill/faults.rs"]
mod faults;
#[path = "kill/oracle.rs"]
mod oracle;
#[path = "kill/random.rs"]
mod random;
mod support;
#[path = "kill/work.rs"]
mod work;

use std::collections::BTreeSet;
use std::time::Duration;

use campaign::Campaign;
use kmerge_storage::failpoint;
use work::Work;

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
    ("tensor.read", &[1, 3]),
    ("tensor.renamed", &[1, 3]),
];

/// The job ids are counted in blocks, so the second block's point needs a state of its own.
const COUNTER: &[(&str, &[u32])] = &[("counter.reserved", &[2])];

const ALL: [&[(&str, &[u32])]; 4] = [FILES, UPLOADS, MERGES, COUNTER];

/// Not met here: in a database of several MiB, which no short run makes and where storage's own tests
/// kill; when slots are emptied or settings changed, where the tests of upkeep do; and in backups,
/// restores and what follows damage, where theirs do. Storage's tests go through the database's own steps, and those that only move room
/// about, too.
const ELSEWHERE: [&str; 9] = [
    "backup.",
    "compact.",
    "commit.remains_removed",
    "commit.settings_durable",
    "database.",
    "distrust.",
    "durable.allocate",
    "durable.truncate",
    "restore.",
];

/// Kills at each of the points, each as often as it says.
async fn kill_at(points: &[(&str, &[u32])]) {
    for (point, hits) in points {
        let mut campaign = Campaign::new(Work::Arrivals);
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
    let mut campaign = Campaign::new(Work::Arrivals);
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
        let mut campaign = Campaign::new(Work::Arrivals);
        campaign.end_at(first).await;
        let served = campaign.end_at(second).await;
        assert!(!served, "recovery from {first} did not come to {second}");
        campaign.keep_promises().await;
    }
}
