//! Kills without end: half of them at named points, half at moments drawn at random, some again while
//! the daemon recovers from the one before.
//!
//! `KMERGE_KILLS` says how many (100), `KMERGE_KILL_SEED` which (a number; the run prints it). After
//! each kill the daemon has to serve again and to keep the eight invariants of storage's DESIGN.md,
//! by what clients were told before: see the oracle.

use std::collections::BTreeSet;
use std::time::Duration;

use kmerge_storage::failpoint;

use crate::campaign::{Campaign, Ended};
use crate::work::Work;

/// Kills on one state directory before a new one is begun: all that was ever sent is sent again after
/// each of them.
const KILLS_EACH: u32 = 12;

/// Campaigns that run beside each other, each with its own daemon.
const LANES: u64 = 3;

/// Points that this work does not come to: it takes a database of several MiB, or another errand, and
/// the tests of those kill there.
const UNREACHED: [&str; 4] = ["compact.", "backup.", "distrust.", "restore."];

/// How the points begin that are file operations.
const FILES: &str = "durable.";

/// Numbers that are the same for the same seed (the 64-bit congruential generator of Knuth).
pub(crate) struct Random {
    state: u64,
    turn: u64,
}

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            state: seed,
            turn: seed >> 32,
        }
    }

    /// How often this was asked before, from a start that depends on the seed.
    fn turn(&mut self) -> u64 {
        self.turn += 1;
        self.turn
    }

    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.state = self
            .state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.state >> 33) % limit
    }

    /// A number from 1, small ones more often.
    pub(crate) fn hit(&mut self, limit: u64) -> u64 {
        let limit = 1 + self.below(limit);
        1 + self.below(limit)
    }
}

/// What has been done so far.
#[derive(Debug, Default)]
struct Tally {
    at_points: u32,
    at_moments: u32,
    recovering: u32,
    points: BTreeSet<&'static str>,
}

impl Tally {
    fn kills(&self) -> u32 {
        self.at_points + self.at_moments + self.recovering
    }

    fn and(mut self, other: Self) -> Self {
        self.at_points += other.at_points;
        self.at_moments += other.at_moments;
        self.recovering += other.recovering;
        self.points.extend(other.points);
        self
    }
}

pub(crate) fn from_environment(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{name}={text:?} is no number")),
    )
}

fn points() -> Vec<&'static str> {
    let all = failpoint::NAMES.iter().copied();
    all.filter(|name| !UNREACHED.iter().any(|start| name.starts_with(start)))
        .collect()
}

/// One kill, or two when the second comes during the recovery from the first.
async fn kill(campaign: &mut Campaign, random: &mut Random, tally: &mut Tally) {
    let points = points();
    if random.below(2) == 0 {
        // All in turn, so that none is left to luck.
        let name = points[usize::try_from(random.turn()).unwrap() % points.len()];
        // File operations come by the hundred, the others a few times each.
        let limit = if name.starts_with(FILES) { 80 } else { 6 };
        let plan = format!("{name}=kill@{}", random.hit(limit));
        if campaign.end_near(&plan).await == Ended::Afterwards {
            tally.at_moments += 1;
        } else {
            tally.at_points += 1;
            tally.points.insert(name);
        }
    } else {
        let moment = Duration::from_micros(random.below(250_000));
        campaign.end_after(moment).await;
        tally.at_moments += 1;
    }
    if random.below(3) == 0 {
        let files: Vec<_> = points
            .iter()
            .filter(|name| name.starts_with(FILES))
            .collect();
        let name = files[usize::try_from(random.below(files.len() as u64)).unwrap()];
        let plan = format!("{name}=kill@{}", random.hit(12));
        match campaign.end_near(&plan).await {
            Ended::OnTheWay => tally.recovering += 1,
            Ended::AtPoint => tally.at_points += 1,
            Ended::Afterwards => tally.at_moments += 1,
        }
    }
    campaign.keep_promises().await;
}

async fn lane(seed: u64, kills: u32) -> Tally {
    let mut random = Random::new(seed);
    let mut tally = Tally::default();
    while tally.kills() < kills {
        let mut campaign = Campaign::new(Work::Everything);
        let end = kills.min(tally.kills() + KILLS_EACH);
        while tally.kills() < end {
            kill(&mut campaign, &mut random, &mut tally).await;
        }
    }
    tally
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn kills_without_end_break_no_promise() {
    let kills = from_environment("KMERGE_KILLS").unwrap_or(100);
    let seed = from_environment("KMERGE_KILL_SEED").unwrap_or(0x5eed);
    let each = u32::try_from(kills.div_ceil(LANES)).unwrap();
    let lanes = (0..LANES).map(|number| tokio::spawn(lane(seed ^ ((number * 12) << 32), each)));
    let mut tally = Tally::default();
    for lane in lanes.collect::<Vec<_>>() {
        let done = lane.await;
        tally = tally.and(done.unwrap_or_else(|error| panic!("seed {seed}: {error}")));
    }
    eprintln!(
        "{} kills (seed {seed}): {} at {} named points, {} at random moments, {} in recovery; no \
         invariant violated",
        tally.kills(),
        tally.at_points,
        tally.points.len(),
        tally.at_moments,
        tally.recovering
    );
    assert!(u64::from(tally.kills()) >= kills, "{tally:?}");
    assert!(tally.at_points > 0 && tally.at_moments > 0, "{tally:?}");
}
