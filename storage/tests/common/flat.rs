//! Whether a process stays as it is while it works: memory, descriptors, threads and disk, looked at
//! a hundred times over a run. Used by the tests of storage and of the daemon.

#![allow(dead_code, unreachable_pub, reason = "each test uses its own part")]

use std::fmt::Write as _;

/// How many samples a run takes.
pub const SAMPLES: u64 = 100;

/// A process at one moment.
#[derive(Debug, Clone, Copy, Default)]
pub struct Sample {
    /// Resident memory in bytes.
    pub memory: u64,
    /// Open descriptors.
    pub descriptors: u64,
    /// Threads.
    pub threads: u64,
    /// Bytes on disk.
    pub disk: u64,
}

impl Sample {
    /// Looks at a process, by its id or "self". Nothing where the system has no procfs.
    pub fn of(process: &str, disk: u64) -> Option<Self> {
        let proc = std::path::Path::new("/proc").join(process);
        let count = |name| Some(std::fs::read_dir(proc.join(name)).ok()?.count() as u64);
        let status = std::fs::read_to_string(proc.join("status")).ok()?;
        let line = status.lines().find(|line| line.starts_with("VmRSS"))?;
        let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
        Some(Self {
            memory: kib * 1024,
            descriptors: count("fd")?,
            threads: count("task")?,
            disk,
        })
    }
}

/// A figure that must stay flat, with what is left to chance.
struct Figure {
    name: &'static str,
    of: fn(&Sample) -> u64,
    /// How much more it may be, beside a twentieth.
    slack: u64,
}

const FIGURES: [Figure; 4] = [
    Figure {
        name: "memory",
        of: |sample| sample.memory,
        slack: 2 << 20,
    },
    Figure {
        name: "descriptors",
        of: |sample| sample.descriptors,
        slack: 1,
    },
    Figure {
        name: "threads",
        of: |sample| sample.threads,
        slack: 2,
    },
    Figure {
        name: "disk",
        of: |sample| sample.disk,
        slack: 2 << 20,
    },
];

/// The samples of a run.
#[derive(Debug, Default)]
pub struct Run {
    samples: Vec<Sample>,
}

impl Run {
    /// Adds a sample, if there is one.
    pub fn add(&mut self, sample: Option<Sample>) {
        self.samples.extend(sample);
    }

    /// The median of a figure in the quarter of that number, from 0.
    fn median(&self, quarter: usize, of: fn(&Sample) -> u64) -> u64 {
        let length = self.samples.len() / 4;
        let part = &self.samples[quarter * length..(quarter + 1) * length];
        let mut values: Vec<u64> = part.iter().map(of).collect();
        values.sort_unstable();
        values[values.len() / 2]
    }

    /// What grew: the first quarter is there to warm up, and the last must be as the second was.
    pub fn report(&self) -> Result<String, String> {
        if self.samples.len() < 8 {
            return Ok("too few samples, or no procfs".to_owned());
        }
        let (mut text, mut has_grown) = (String::new(), false);
        for Figure { name, of, slack } in FIGURES {
            let quarters = [0, 1, 2, 3].map(|quarter| self.median(quarter, of));
            let limit = quarters[1] + quarters[1] / 20 + slack;
            let grown = quarters[3] > limit;
            has_grown |= grown;
            let verdict = if grown { "GROWS" } else { "flat" };
            writeln!(
                text,
                "  {name:12} medians by quarter {quarters:?}: {verdict}"
            )
            .unwrap();
        }
        if has_grown { Err(text) } else { Ok(text) }
    }
}

#[test]
fn what_grows_is_told_from_what_varies() {
    let run = |growth: u64| Run {
        samples: (0..SAMPLES)
            .map(|number| Sample {
                memory: (20 << 20) + number * growth + number % 7 * 4096,
                ..Sample::default()
            })
            .collect(),
    };
    assert!(run(0).report().is_ok());
    assert!(run(16 << 10).report().is_ok());
    assert!(run(100 << 10).report().is_err());
}
