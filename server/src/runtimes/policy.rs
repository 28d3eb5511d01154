//! The order in which a runtime is brought to what it should have: which adapter is loaded, when an
//! alias moves, when an old adapter goes, when to try again. Plain code: no locks, no I/O, no clock
//! and no randomness of its own. One [`Known`] per runtime, owned by its reconciler.
//!
//! ```text
//! new name → load → verify → switch the alias → drain → unload → files released
//! ```
//!
//! What always holds, whatever fails in between:
//! - an alias never leads to a name that the runtime is not known to have;
//! - nothing is unloaded that is wanted, or that an alias leads to, or that one led to less than the
//!   drain time ago;
//! - nothing is unloaded that was not put there by this daemon;
//! - the files of an adapter stay until the runtime no longer has it;
//! - there are no more of them than the limit, but for those that are wanted or led to.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use kmerge_storage::UnixMillis;

use super::desired::Desired;

/// The ceiling of the first wait after a failure, and that of every later one.
const FIRST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// No wait is shorter: two attempts in the same moment meet the same failure.
const SHORTEST_WAIT: Duration = Duration::from_millis(50);

/// What a runtime names as its wait is believed up to this.
const LONGEST_HINT: Duration = Duration::from_secs(600);

/// One thing to do.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// Give the runtime the adapter of that name.
    Load(String),
    /// Let the alias lead to the name.
    Switch {
        /// The alias.
        alias: String,
        /// A name that is loaded.
        name: String,
    },
    /// Take the alias away: nothing answers for it any more.
    Unroute(String),
    /// Let the runtime forget the adapter, and release its files.
    Unload(String),
    /// Release files that the runtime does not have.
    Release(String),
}

impl Step {
    /// The name or the alias that it is about.
    pub fn subject(&self) -> &str {
        match self {
            Self::Load(name) | Self::Unload(name) | Self::Release(name) => name,
            Self::Switch { alias, .. } | Self::Unroute(alias) => alias,
        }
    }
}

/// A failure that will be tried again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// Failures in a row.
    pub failures: u32,
    /// The last one, for people.
    pub what: String,
    /// When it happened.
    pub at: UnixMillis,
    /// Not before this.
    pub until: UnixMillis,
}

impl Trouble {
    /// One failure more. `hint` is the wait that the runtime asked for, `chance` a random number in
    /// [0, 1).
    fn after(
        before: Option<&Self>,
        what: String,
        hint: Option<Duration>,
        now: UnixMillis,
        chance: f64,
    ) -> Self {
        let failures = before.map_or(0, |before| before.failures).saturating_add(1);
        Self {
            failures,
            what,
            at: now,
            until: now.saturating_add(wait(failures, hint, chance)),
        }
    }
}

/// How long to wait after so many failures in a row: exponential with full jitter, so that what
/// failed together does not come back together; never shorter than what the runtime asked for.
pub fn wait(failures: u32, hint: Option<Duration>, chance: f64) -> Duration {
    let doublings = failures.saturating_sub(1).min(16);
    let ceiling = FIRST_WAIT.saturating_mul(1 << doublings).min(LONGEST_WAIT);
    let jittered = ceiling.mul_f64(chance.clamp(0.0, 1.0)).max(SHORTEST_WAIT);
    hint.map_or(jittered, |hint| {
        hint.min(LONGEST_HINT).saturating_add(jittered)
    })
}

/// What a runtime says that it has: names and aliases alike, each with a mark of its content where
/// the runtime has one.
pub type Listing = BTreeMap<String, Option<String>>;

/// What a runtime is known to have.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Known {
    /// Names that the runtime has: as it told, or as was done where it does not tell.
    pub loaded: BTreeSet<String>,
    /// Where each alias leads.
    pub routes: BTreeMap<String, String>,
    /// Names whose files are held for it: all that it was ever given and has not been relieved of.
    pub held: BTreeSet<String>,
    /// Failures by name or alias.
    pub trouble: BTreeMap<String, Trouble>,
    /// There while the runtime itself cannot be reached.
    pub down: Option<Trouble>,
    /// Since when a held name is neither wanted nor led to.
    idle_since: BTreeMap<String, UnixMillis>,
    /// Whether the runtime tells what it has. One that does not is told again after a start.
    tells: bool,
}

/// How much an old adapter may linger.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// How long a name stays after the last alias has left it.
    pub drain: Duration,
    /// So many names may be held, those that drain included, before a new one waits for a place.
    pub most_held: usize,
}

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Next {
    /// The step, if there is one that can be taken now.
    pub step: Option<Step>,
    /// When to look again at the latest, if time alone changes something.
    pub wake: Option<UnixMillis>,
}

impl Known {
    /// At the start: files are held for these names, and nothing else is known.
    pub fn holding(names: impl IntoIterator<Item = String>, tells: bool) -> Self {
        Self {
            held: names.into_iter().collect(),
            tells,
            ..Self::default()
        }
    }

    /// Takes note of what is wanted now.
    pub fn aim(&mut self, desired: &Desired, now: UnixMillis) {
        let Self {
            held,
            loaded,
            routes,
            idle_since,
            trouble,
            ..
        } = self;
        for name in held.iter() {
            let in_use =
                desired.adapters.contains_key(name) || routes.values().any(|led| led == name);
            if in_use {
                idle_since.remove(name);
            } else {
                idle_since.entry(name.clone()).or_insert(now);
            }
        }
        idle_since.retain(|name, _| held.contains(name));
        loaded.retain(|name| held.contains(name));
        trouble.retain(|subject, _| {
            desired.adapters.contains_key(subject)
                || desired.routes.contains_key(subject)
                || routes.contains_key(subject)
                || held.contains(subject)
        });
    }

    /// Takes note of what the runtime has. `aliases`: whether it keeps the aliases itself.
    pub fn told(&mut self, listing: &Listing, aliases: bool) {
        self.loaded = self
            .held
            .iter()
            .filter(|name| listing.contains_key(*name))
            .cloned()
            .collect();
        if aliases {
            // An alias leads where its content is; one whose content is nobody's leads nowhere.
            let loaded = &self.loaded;
            self.routes.retain(|alias, name| {
                let mark = listing.get(alias).and_then(Option::as_ref);
                mark.is_some()
                    && loaded.contains(name)
                    && listing.get(name).and_then(Option::as_ref) == mark
            });
        } else {
            let loaded = &self.loaded;
            self.routes.retain(|_, name| loaded.contains(name));
        }
        self.answered();
    }

    /// Finds the aliases that a runtime already has, after a start: those of `desired` whose content
    /// is that of a name which is there.
    pub fn adopt(&mut self, listing: &Listing, desired: &Desired) {
        for alias in desired.routes.keys() {
            let Some(Some(mark)) = listing.get(alias) else {
                continue;
            };
            if self.routes.contains_key(alias) {
                continue;
            }
            let same = |name: &&String| listing.get(*name).and_then(Option::as_ref) == Some(mark);
            let wanted = desired.routes.get(alias).filter(|name| same(name));
            let found = wanted.or_else(|| self.loaded.iter().find(same));
            if let Some(name) = found.filter(|name| self.loaded.contains(*name)) {
                self.routes.insert(alias.clone(), name.clone());
            }
        }
    }

    /// The runtime answered, whatever it said.
    pub fn answered(&mut self) {
        self.down = None;
    }

    /// The runtime did not answer.
    pub fn unreachable(
        &mut self,
        what: String,
        hint: Option<Duration>,
        now: UnixMillis,
        chance: f64,
    ) {
        self.down = Some(Trouble::after(self.down.as_ref(), what, hint, now, chance));
    }

    /// Files are held under that name from now on.
    pub fn holds(&mut self, name: &str) {
        self.held.insert(name.to_owned());
    }

    /// A step was taken, and where the runtime tells, it was seen to be so.
    pub fn done(&mut self, step: &Step, now: UnixMillis) {
        self.trouble.remove(step.subject());
        match step {
            Step::Load(name) => {
                self.loaded.insert(name.clone());
            }
            Step::Switch { alias, name } => {
                let before = self.routes.insert(alias.clone(), name.clone());
                self.left(before, now);
            }
            Step::Unroute(alias) => {
                let before = self.routes.remove(alias);
                self.left(before, now);
            }
            Step::Unload(name) | Step::Release(name) => {
                self.loaded.remove(name);
                self.held.remove(name);
                self.idle_since.remove(name);
            }
        }
    }

    /// An alias has left `name`: unless another leads there, it drains from now on.
    fn left(&mut self, name: Option<String>, now: UnixMillis) {
        if let Some(name) = name
            && !self.routes.values().any(|led| *led == name)
        {
            self.idle_since.insert(name, now);
        }
    }

    /// A step failed.
    pub fn failed(
        &mut self,
        step: &Step,
        what: String,
        hint: Option<Duration>,
        now: UnixMillis,
        chance: f64,
    ) {
        let subject = step.subject();
        let before = self.trouble.get(subject);
        let trouble = Trouble::after(before, what, hint, now, chance);
        self.trouble.insert(subject.to_owned(), trouble);
    }

    /// Names that are on their way out: not wanted, and still there.
    pub fn draining(&self) -> impl Iterator<Item = (&str, UnixMillis)> {
        self.idle_since
            .iter()
            .map(|(name, since)| (name.as_str(), *since))
    }

    /// What to do next towards `desired`.
    ///
    /// What serves newer answers comes first: aliases move as soon as they can. What has drained goes
    /// before anything is loaded, so that its place is free. Where generations come faster than old
    /// ones drain, the newest waits for a place, and those in between are never loaded.
    pub fn next(&self, desired: &Desired, limits: Limits, now: UnixMillis) -> Next {
        let mut wake: Option<UnixMillis> = None;
        let mut later = |then: UnixMillis| wake = Some(wake.map_or(then, |wake| wake.min(then)));
        let mut steps = Vec::new();
        for (alias, name) in &desired.routes {
            if self.loaded.contains(name) && self.routes.get(alias) != Some(name) {
                steps.push(Step::Switch {
                    alias: alias.clone(),
                    name: name.clone(),
                });
            }
        }
        for alias in self.routes.keys() {
            if !desired.routes.contains_key(alias) {
                steps.push(Step::Unroute(alias.clone()));
            }
        }
        for (name, since) in &self.idle_since {
            let end = since.saturating_add(limits.drain);
            if end > now {
                later(end);
            } else if self.loaded.contains(name) || !self.tells {
                steps.push(Step::Unload(name.clone()));
            } else {
                steps.push(Step::Release(name.clone()));
            }
        }
        let full = self.held.len() >= limits.most_held && !self.idle_since.is_empty();
        for name in desired.adapters.keys() {
            let has_place = !full || self.held.contains(name);
            if !self.loaded.contains(name) && has_place {
                steps.push(Step::Load(name.clone()));
            }
        }
        let step = steps.into_iter().find(|step| {
            let until = self.trouble.get(step.subject()).map(|found| found.until);
            match until {
                Some(until) if until > now => {
                    later(until);
                    false
                }
                Some(_) | None => true,
            }
        });
        Next { step, wake }
    }
}

#[cfg(test)]
mod tests;
