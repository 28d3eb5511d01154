//! The configuration: from a file, the environment and the arguments to one checked value.
//!
//! Owned by `main`, which reads it before anything is opened. A [`Config`] that exists is valid;
//! a bad one is answered with *all* its problems. The shipped `deploy/config.toml` is the
//! compiled-in default, so the file users read and the values in force cannot differ.

mod keys;
mod listen;
mod runtimes;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use kmerge_merge::{AssignmentRule, Format, Operator, Policy, SlotDtype, Weighting};

use crate::args::Args;
use crate::converted::Foreign;
use crate::pace::Pace;
use crate::paths::Surroundings;
use crate::served::Room;
use keys::Keys;

pub use listen::{Limits, Listen, Proof, Tcp, TlsFiles};
pub use runtimes::{RuntimeConfig, RuntimeKind};

/// The shipped configuration file, which is also the default.
pub const DEFAULT_CONFIG: &str = include_str!("../../deploy/config.toml");

/// The most slots that a base model may have: a decision, one similarity for each slot included,
/// must fit a catalog record.
pub const MAX_SLOTS: u64 = 128;

/// The largest upload that can be configured, in bytes.
const MAX_UPLOAD_BYTES: u64 = 64 << 30;

/// When everything that is kept is read again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scrub {
    /// The time between two scrubs; none: only when asked.
    pub every: Option<Duration>,
    /// How fast, at most.
    pub bytes_per_second: u64,
}

/// What kmerged runs with.
#[derive(Debug, Clone)]
pub struct Config {
    /// `[state]`
    pub state: State,
    /// `[listen]`
    pub listen: Listen,
    /// `[uploads]`
    pub uploads: Uploads,
    /// `[workers]`
    pub workers: Workers,
    /// `[merge]`: the policy of a base model that is registered without its own.
    pub merge: Policy,
    /// `[merge] threshold`: for a base model that asks for kmerge++ without naming one; none: found
    /// from similarities.
    pub threshold: Option<f64>,
    /// `[exports]`: the formats in which slots are published beside PEFT.
    pub exports: Vec<Foreign>,
    /// How long an older generation stays after a newer one.
    pub grace: Duration,
    /// `[serving]`: room for adapters that are made on demand.
    pub served: Room,
    /// `[scrub]`
    pub scrub: Scrub,
    /// `[[runtime]]`: who is told of new generations.
    pub runtimes: Vec<RuntimeConfig>,
    /// `[log]`
    pub log: Log,
    /// `[shutdown]`
    pub shutdown: Shutdown,
}

/// Where the state is and how much room it may take.
#[derive(Debug, Clone)]
pub struct State {
    /// The state directory.
    pub directory: PathBuf,
    /// The catalog's cache, in bytes.
    pub cache_bytes: u64,
    /// What must stay free on the filesystem, in bytes.
    pub min_free_bytes: u64,
    /// What is kept back for what must work on a full disk, in bytes.
    pub reserve_bytes: u64,
    /// Finished jobs that are remembered.
    pub finished_jobs: usize,
}

/// What is let in.
#[derive(Debug, Clone, Copy)]
pub struct Uploads {
    /// The largest tensor file, in bytes.
    pub max_bytes: u64,
    /// Uploads under way at once.
    pub parallel: usize,
    /// Uploads under way at once of one user, or one address.
    pub parallel_per_user: usize,
    /// How fast and how long.
    pub pace: Pace,
    /// Jobs that may wait or run at once.
    pub queue: usize,
}

/// How much of the machine merges may use.
#[derive(Debug, Clone, Copy)]
pub struct Workers {
    /// Threads of the mathematics.
    pub threads: usize,
    /// Jobs at once, each of another base model.
    pub jobs: usize,
}

/// What is logged, and how.
#[derive(Debug, Clone)]
pub struct Log {
    /// A filter as `tracing_subscriber::EnvFilter` reads it.
    pub level: String,
    /// The form of a line.
    pub format: LogFormat,
}

/// The form of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// Journald where systemd has connected stderr to it, else human.
    Auto,
    /// Lines for people.
    Human,
    /// One JSON object a line.
    Json,
    /// Structured records for systemd's journal.
    Journald,
}

/// How long a stop may take.
#[derive(Debug, Clone, Copy)]
pub struct Shutdown {
    /// For open calls to end.
    pub drain: Duration,
    /// For running merges to end.
    pub jobs: Duration,
    /// How long the catalog may be stuck before the process ends itself; zero: for ever.
    pub stuck: Duration,
}

/// Everything that is wrong with a configuration.
#[derive(Debug, thiserror::Error)]
#[error("the configuration has {} problem(s):{}", .problems.len(), list(.problems))]
pub struct ConfigError {
    /// One line each: the key, what is wrong, what is allowed.
    pub problems: Vec<String>,
}

fn list(problems: &[String]) -> String {
    problems
        .iter()
        .map(|problem| format!("\n  - {problem}"))
        .collect()
}

impl Config {
    /// Reads the configuration that `args` and the environment ask for.
    ///
    /// # Errors
    /// [`ConfigError`] with every problem: an unreadable file, a syntax error, unknown keys,
    /// values of the wrong kind or out of range.
    pub fn load(args: &Args) -> Result<Self, ConfigError> {
        let environment = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect();
        Self::from_sources(args, environment, &Surroundings::of_this_process())
    }

    /// [`Config::load`] with the environment given.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn from_sources(
        args: &Args,
        environment: BTreeMap<String, String>,
        surroundings: &Surroundings,
    ) -> Result<Self, ConfigError> {
        let mut keys = Keys::collect(DEFAULT_CONFIG, args.config.as_deref(), environment).map_err(
            |problem| ConfigError {
                problems: vec![problem],
            },
        )?;
        let threshold = keys.limit("merge.threshold");
        let state = state(&mut keys, args.state_dir.as_deref(), surroundings);
        let socket = args.socket.as_deref();
        let listen = listen::listen(&mut keys, socket, surroundings, &state.directory);
        let config = Self {
            uploads: uploads(&mut keys, &listen),
            listen,
            state,
            workers: workers(&mut keys),
            merge: merge(&mut keys, threshold),
            threshold,
            exports: exports(&mut keys),
            grace: keys.seconds("serving.grace_seconds", 0..=7 * 24 * 3600),
            served: Room {
                bytes: keys.bytes("serving.cache_bytes", 0..=1 << 50),
                grace: keys.seconds("serving.cache_seconds", 0..=7 * 24 * 3600),
            },
            scrub: scrub(&mut keys),
            runtimes: runtimes::runtimes(&mut keys),
            log: Log {
                level: keys.text("log.level"),
                format: keys.word(
                    "log.format",
                    &[
                        ("auto", LogFormat::Auto),
                        ("human", LogFormat::Human),
                        ("json", LogFormat::Json),
                        ("journald", LogFormat::Journald),
                    ],
                ),
            },
            shutdown: Shutdown {
                drain: keys.seconds("shutdown.drain_seconds", 0..=3600),
                jobs: keys.seconds("shutdown.jobs_seconds", 0..=3600),
                stuck: keys.seconds("shutdown.stuck_seconds", 0..=86_400),
            },
        };
        if let Err(error) = tracing_subscriber::EnvFilter::try_new(&config.log.level) {
            keys.problem("log.level", &format!("is not a log filter: {error}"));
        }
        let problems = keys.finish();
        if problems.is_empty() {
            Ok(config)
        } else {
            Err(ConfigError { problems })
        }
    }
}

fn state(keys: &mut Keys, flag: Option<&Path>, surroundings: &Surroundings) -> State {
    let configured = keys.path("state.directory");
    let directory = flag
        .map(Path::to_owned)
        .or(configured)
        .or_else(|| surroundings.default_state());
    if directory.is_none() {
        keys.problem(
            "state.directory",
            "is not set, and neither HOME nor XDG_STATE_HOME says where it could be: pass --state-dir",
        );
    }
    State {
        directory: directory.unwrap_or_default(),
        cache_bytes: keys.bytes("state.cache_bytes", 1 << 20..=1 << 30),
        min_free_bytes: keys.bytes("state.min_free_bytes", 0..=1 << 50),
        reserve_bytes: keys.bytes("state.reserve_bytes", 0..=1 << 40),
        finished_jobs: keys.count("state.finished_jobs", 0..=1_000_000),
    }
}

/// PEFT is always published, so it is taken and left out.
fn exports(keys: &mut Keys) -> Vec<Foreign> {
    let words = Format::ALL.map(|format| (format.name(), format));
    let mut formats: Vec<Foreign> = keys
        .words("exports.formats", &words)
        .into_iter()
        .filter_map(Foreign::of)
        .collect();
    formats.sort_unstable();
    formats.dedup();
    formats
}

fn uploads(keys: &mut Keys, listen: &Listen) -> Uploads {
    let parallel = keys.count("uploads.parallel", 1..=256);
    let parallel_per_user = match keys.count("uploads.parallel_per_user", 0..=256) {
        // One is kept for somebody else, where there can be somebody else.
        0 if listen.has_others() => parallel.saturating_sub(1).max(1),
        0 => parallel,
        limit => limit,
    };
    Uploads {
        max_bytes: keys.bytes("uploads.max_bytes", 1..=MAX_UPLOAD_BYTES),
        parallel,
        parallel_per_user,
        pace: Pace {
            bytes_per_second: keys.bytes("uploads.min_bytes_per_second", 0..=1 << 40),
            grace: keys.seconds("uploads.grace_seconds", 0..=3600),
            longest: keys.seconds("uploads.max_seconds", 1..=7 * 24 * 3600),
        },
        queue: keys.count("uploads.queue", 1..=100_000),
    }
}

fn workers(keys: &mut Keys) -> Workers {
    let threads = keys.count("workers.threads", 0..=1024);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    Workers {
        threads: if threads == 0 {
            cores.saturating_sub(1).max(1)
        } else {
            threads
        },
        jobs: keys.count("workers.jobs", 1..=64),
    }
}

fn scrub(keys: &mut Keys) -> Scrub {
    let hours = keys.count("scrub.every_hours", 0..=24 * 365);
    let seconds = u64::try_from(hours)
        .unwrap_or(u64::MAX)
        .saturating_mul(3600);
    Scrub {
        every: (hours > 0).then(|| Duration::from_secs(seconds)),
        bytes_per_second: keys.bytes("scrub.bytes_per_second", 1 << 16..=1 << 40),
    }
}

fn merge(keys: &mut Keys, threshold: Option<f64>) -> Policy {
    let max_bytes = keys.bytes("merge.max_bytes", 0..=1 << 50);
    Policy {
        slots: u32::try_from(keys.count("merge.slots", 1..=MAX_SLOTS)).unwrap_or(u32::MAX),
        max_bytes: (max_bytes > 0).then_some(max_bytes),
        assignment: keys.word(
            "merge.assignment",
            &[
                ("kmerge", AssignmentRule::KMerge),
                ("kmerge++", AssignmentRule::KMergePlusPlus { threshold }),
                ("roomiest", AssignmentRule::Roomiest),
                ("best-pair", AssignmentRule::BestPair),
            ],
        ),
        operator: keys.word(
            "merge.operator",
            &[
                ("kmerge-linear", Operator::KMergeLinear),
                ("linear", Operator::Linear),
                ("exact", Operator::Exact),
                ("progressive", Operator::Progressive),
                ("ties", Operator::Ties),
                ("dare-linear", Operator::DareLinear),
                ("dare-ties", Operator::DareTies),
                ("opcm", Operator::Opcm),
                ("svd", Operator::Svd),
            ],
        ),
        weighting: keys.word(
            "merge.weighting",
            &[
                ("running", Weighting::Running),
                ("released", Weighting::Released),
            ],
        ),
        density: keys.fraction("merge.density"),
        dtype: keys.word(
            "merge.dtype",
            &[
                ("widest", SlotDtype::Widest),
                ("f32", SlotDtype::F32),
                ("f16", SlotDtype::F16),
                ("bf16", SlotDtype::Bf16),
            ],
        ),
        slot_bytes: {
            let bytes = keys.bytes("merge.slot_bytes", 0..=1 << 50);
            (bytes > 0).then_some(bytes)
        },
        floor: keys.share("merge.floor"),
        ..Policy::default()
    }
}

#[cfg(test)]
mod tests;
