//! The part that acts. The environment is read once, so one process has one plan.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{LazyLock, Mutex, PoisonError};

use rustix::io::Errno;

use super::plan::{Fault, Plan};

static PLAN: LazyLock<Option<Plan>> = LazyLock::new(|| {
    let text = std::env::var("KMERGE_FAILPOINT").ok()?;
    // A plan that means nothing would let a test pass that tests nothing.
    Some(Plan::parse(&text).unwrap_or_else(|| panic!("KMERGE_FAILPOINT={text:?} is no plan")))
});

static HITS: AtomicU64 = AtomicU64::new(0);
static REFUSED: AtomicU64 = AtomicU64::new(0);
static LIST: Mutex<Vec<&'static str>> = Mutex::new(Vec::new());

/// The points at which a file system may be out of room.
const TAKES_ROOM: &[&str] = &[
    "durable.allocate",
    "durable.create",
    "durable.link",
    "durable.rename",
    "durable.write",
    "database.apply",
    "database.flush",
    "database.open",
];

/// The smaller and the larger unit in which a medium writes: all of one or nothing of it.
const SECTORS: [usize; 2] = [4096, 512];

/// The names of the file operations so far, in their order, if the plan is `*=list@1`.
pub fn operations() -> Vec<&'static str> {
    LIST.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

pub(super) fn hit(name: &'static str) {
    // A point that is not a file operation has nothing to fail.
    let _ = act(name, false);
}

pub(super) fn operation(name: &'static str) -> io::Result<()> {
    match act(name, true)? {
        // Only a write can be cut.
        Some(Fault::Short) => Err(Errno::NOSPC.into()),
        Some(Fault::Torn) => kill(),
        _ => Ok(()),
    }
}

pub(super) fn writing(name: &'static str, length: usize) -> io::Result<usize> {
    let cut = match act(name, true)? {
        Some(Fault::Short) => length / 2,
        Some(Fault::Torn) => {
            let whole = |sector| length.saturating_sub(1) / sector * sector;
            SECTORS
                .into_iter()
                .map(whole)
                .find(|&cut| cut > 0)
                .unwrap_or(0)
        }
        _ => length,
    };
    Ok(cut)
}

pub(super) fn broken_off() -> io::Error {
    if PLAN.as_ref().is_some_and(|plan| plan.fault == Fault::Torn) {
        kill();
    }
    Errno::NOSPC.into()
}

/// Does what the plan asks for here. A fault that only the caller can do is handed back.
fn act(name: &'static str, is_operation: bool) -> io::Result<Option<Fault>> {
    debug_assert!(super::NAMES.contains(&name), "{name} is missing in NAMES");
    let Some(plan) = PLAN.as_ref().filter(|plan| plan.counts(name, is_operation)) else {
        return Ok(None);
    };
    let count = HITS.fetch_add(1, Ordering::SeqCst) + 1;
    match plan.fault {
        Fault::Kill if count == plan.at => kill(),
        Fault::Panic if count == plan.at => panic!("{name} was asked to panic"),
        Fault::Error if count == plan.at => Err(Errno::IO.into()),
        Fault::Full(until) if count >= plan.at && TAKES_ROOM.contains(&name) => {
            let before = REFUSED.fetch_add(1, Ordering::SeqCst);
            if until.is_none_or(|until| before < until) {
                return Err(Errno::NOSPC.into());
            }
            Ok(None)
        }
        Fault::Short | Fault::Torn if count == plan.at => Ok(Some(plan.fault)),
        Fault::Sleep(time) if count >= plan.at => {
            std::thread::sleep(time);
            Ok(None)
        }
        Fault::List => {
            LIST.lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(name);
            Ok(None)
        }
        Fault::Kill
        | Fault::Error
        | Fault::Full(_)
        | Fault::Short
        | Fault::Torn
        | Fault::Panic
        | Fault::Sleep(_) => Ok(None),
    }
}

fn kill() -> ! {
    let this = rustix::process::getpid();
    rustix::process::kill_process(this, rustix::process::Signal::KILL)
        .expect("a process may always end itself");
    // The signal may be delivered to another thread first.
    loop {
        std::thread::park();
    }
}
