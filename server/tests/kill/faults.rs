//! A disk that fails while the daemon works: at operations drawn at random from all, full for a while,
//! with an I/O error, with a write that is cut or torn.
//!
//! `KMERGE_DISK_FAULTS` says how many (40), `KMERGE_KILL_SEED` which. Storage's own tests go through
//! every single operation; here the whole daemon meets some of them, and has to end by itself where the
//! state is no longer safe, to go on where it is, and to keep every promise in the next run.

use std::collections::BTreeMap;

use crate::campaign::{Campaign, Fate};
use crate::random::{Random, from_environment};
use crate::work::Work;

/// Faults on one state directory before a new one is begun.
const FAULTS_EACH: u64 = 8;

/// Beyond what a run does to the disk, some find nothing to fail.
const OPERATIONS: u64 = 500;

fn plan(random: &mut Random) -> String {
    let at = 1 + random.below(OPERATIONS);
    match random.below(6) {
        0 => format!("*=error@{at}"),
        1 => format!("durable.sync=error@{}", random.hit(60)),
        2 => format!("durable.sync_dir=error@{}", random.hit(80)),
        3 => format!("*=full@{at}:{}", random.hit(20)),
        4 => format!("durable.write=short@{}", random.hit(60)),
        _ => format!("durable.write=torn@{}", random.hit(60)),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_failing_disk_breaks_no_promise() {
    let faults = from_environment("KMERGE_DISK_FAULTS").unwrap_or(40);
    let seed = from_environment("KMERGE_KILL_SEED").unwrap_or(0x5eed);
    let mut random = Random::new(seed);
    let mut fates: BTreeMap<Fate, u32> = BTreeMap::new();
    for number in 0..faults.div_ceil(FAULTS_EACH) {
        let mut campaign = Campaign::new(Work::Everything);
        for _ in 0..FAULTS_EACH.min(faults - number * FAULTS_EACH) {
            let plan = plan(&mut random);
            let fate = campaign.on_a_failing_disk(&plan).await;
            *fates.entry(fate).or_default() += 1;
            campaign.keep_promises().await;
        }
    }
    eprintln!("{faults} faults of the disk (seed {seed}): {fates:?}; no invariant violated");
}
