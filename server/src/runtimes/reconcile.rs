//! Brings one runtime to what it should have, and keeps it there: one task per runtime, so that one
//! that hangs holds up neither the others nor anything else.
//!
//! Level-triggered: a change of the catalog only says "look again"; what to do follows from what is
//! wanted and what the runtime has, so that a restart on either side and the steady state are one
//! path. One step at a time, each bounded in time.
//!
//! | woken by | does |
//! |---|---|
//! | a change of the catalog, the end of a wait or of a drain | the next step |
//! | the time to ask | asks what the runtime has, and so finds out what it has lost |

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use kmerge_storage::{Catalog, ExportError, Holdings, Revision, UnixMillis};
use tokio::sync::watch;

use super::board::{Board, RuntimeState};
use super::desired::{Desired, Wanted};
use super::policy::{Known, Limits, Listing, Step};
use super::runtime::{CallError, Given, Runtime, Tells};
use super::source::{Source, SourceError};
use crate::clock;
use crate::config::RuntimeConfig;
use crate::liveness::Pulse;

/// The clock may be set meanwhile: no sleep is longer.
const LONGEST_SLEEP: Duration = Duration::from_secs(60);

/// What a reconciler is made of.
#[derive(Debug)]
pub struct Parts {
    /// As configured.
    pub config: Arc<RuntimeConfig>,
    /// Whom to call.
    pub runtime: Box<dyn Runtime>,
    /// The files that are held for it.
    pub holdings: Arc<Holdings>,
    /// The names of those, at the start.
    pub held: Vec<String>,
    /// Where adapters come from.
    pub source: Source,
    /// Changes of the catalog.
    pub view: watch::Receiver<Arc<Catalog>>,
    /// Where the state is shown.
    pub board: Board,
}

/// One runtime's keeper.
#[derive(Debug)]
pub struct Reconciler {
    parts: Parts,
    known: Known,
    desired: Desired,
    /// The catalog that `desired` is of.
    revision: Option<Revision>,
    /// When to ask the runtime again; none before it was asked first.
    next_ask: Option<UnixMillis>,
    answered: Option<UnixMillis>,
}

impl Reconciler {
    /// Knows nothing of the runtime yet.
    pub fn new(mut parts: Parts) -> Self {
        let held = std::mem::take(&mut parts.held);
        let tells = parts.runtime.tells() == Tells::Contents;
        Self {
            known: Known::holding(held, tells),
            parts,
            desired: Desired::default(),
            revision: None,
            next_ask: None,
            answered: None,
        }
    }

    /// The runtime's name.
    pub fn name(&self) -> &str {
        &self.parts.config.name
    }

    /// Keeps the runtime as it should be, until the catalog's owner has ended. Dropped at any
    /// moment, it leaves nothing that the next start does not find out.
    pub async fn keep(mut self, pulse: Pulse) {
        loop {
            let now = clock::now();
            self.look(now);
            let wake = match self.next(now) {
                Ok(action) => {
                    pulse.beat();
                    match action {
                        Action::Ask => self.ask().await,
                        Action::Take(step) => self.take(step).await,
                    }
                    self.show();
                    continue;
                }
                Err(wake) => wake,
            };
            pulse.rest();
            let sleep = wake.map_or(LONGEST_SLEEP, clock::until).min(LONGEST_SLEEP);
            tokio::select! {
                changed = self.parts.view.changed() => if changed.is_err() {
                    return;
                },
                () = tokio::time::sleep(sleep) => {}
            }
        }
    }

    /// Takes in what is wanted now.
    fn look(&mut self, now: UnixMillis) {
        let catalog = Arc::clone(&self.parts.view.borrow_and_update());
        if self.revision != Some(catalog.revision) {
            self.desired = Desired::of(&catalog, &self.parts.config.selection);
            self.revision = Some(catalog.revision);
        }
        self.known.aim(&self.desired, now);
        self.show();
    }

    /// What to do now, or until when to wait for something to do.
    fn next(&self, now: UnixMillis) -> Result<Action, Option<UnixMillis>> {
        if let Some(down) = &self.known.down
            && down.until > now
        {
            return Err(Some(down.until));
        }
        let mut wake = None;
        if self.parts.runtime.tells() != Tells::Nothing {
            match self.next_ask {
                Some(then) if then > now && self.known.down.is_none() => wake = Some(then),
                Some(_) | None => return Ok(Action::Ask),
            }
        }
        let limits = Limits {
            drain: self.parts.config.drain,
            // Each wanted adapter and the one before it.
            most_held: self.parts.config.selection.most.saturating_mul(2),
        };
        let next = self.known.next(&self.desired, limits, now);
        match next.step {
            Some(step) => Ok(Action::Take(step)),
            None => Err([wake, next.wake].into_iter().flatten().min()),
        }
    }

    fn show(&self) {
        let asked = self.next_ask.is_some() || self.parts.runtime.tells() == Tells::Nothing;
        let state = RuntimeState::of(
            Arc::clone(&self.parts.config),
            self.parts.holdings.directory().to_owned(),
            &self.known,
            &self.desired,
            asked,
            self.answered,
        );
        self.parts.board.show(state);
    }

    /// Asks what the runtime has.
    async fn ask(&mut self) {
        if let Err(error) = self.listing().await {
            self.unreachable(&error);
        }
    }

    async fn listing(&mut self) -> Result<Listing, CallError> {
        let runtime = &self.parts.runtime;
        let (tells, keeps_aliases) = (runtime.tells(), runtime.keeps_aliases());
        let listing = runtime.listing().await?;
        let now = clock::now();
        self.came_back(now);
        if tells == Tells::Contents {
            let before = self.known.loaded.len();
            self.known.told(&listing, keeps_aliases);
            if keeps_aliases {
                self.known.adopt(&listing, &self.desired);
            }
            let lost = before.saturating_sub(self.known.loaded.len());
            if lost > 0 {
                tracing::info!(
                    runtime = self.parts.config.name,
                    lost,
                    "the runtime no longer has adapters that it had; they are loaded again"
                );
            }
        }
        self.next_ask = Some(now.saturating_add(self.parts.config.probe));
        Ok(listing)
    }

    fn came_back(&mut self, now: UnixMillis) {
        if self.known.down.is_some() {
            tracing::info!(
                runtime = self.parts.config.name,
                "the runtime answers again"
            );
        }
        self.known.answered();
        self.answered = Some(now);
    }

    fn unreachable(&mut self, error: &CallError) {
        // Said once, not at every attempt.
        if self.known.down.is_none() {
            tracing::warn!(
                runtime = self.parts.config.name,
                %error,
                "the runtime does not answer; it is tried again, and nothing waits for it"
            );
        }
        self.known
            .unreachable(error.to_string(), error.hint(), clock::now(), chance());
    }

    async fn take(&mut self, step: Step) {
        let outcome = match &step {
            Step::Load(name) => self.load(name).await,
            Step::Switch { alias, name } => self.switch(alias, name).await,
            Step::Unroute(alias) => self.parts.runtime.unroute(alias).await,
            Step::Unload(name) => self.unload(name).await,
            Step::Release(name) => self.release(name).await,
        };
        let now = clock::now();
        let runtime = &self.parts.config.name;
        match outcome {
            Ok(()) => {
                if self.parts.runtime.tells() == Tells::Nothing {
                    self.came_back(now);
                }
                tracing::debug!(runtime = self.parts.config.name, ?step, "done");
                self.known.done(&step, now);
            }
            Err(error) => {
                if error.is_of_runtime() {
                    self.unreachable(&error);
                } else if !matches!(error, CallError::Outdated(_)) {
                    // Once for each failure of its kind, not at every attempt.
                    let known = self.known.trouble.get(step.subject());
                    if known.is_none_or(|trouble| trouble.what != error.to_string()) {
                        tracing::warn!(runtime, ?step, %error, "the runtime refused; it is tried again");
                    }
                }
                let (what, hint) = (error.to_string(), error.hint());
                self.known.failed(&step, what, hint, now, chance());
            }
        }
    }

    async fn load(&mut self, name: &str) -> Result<(), CallError> {
        if self.parts.runtime.reads_directory() {
            let others: Vec<_> = self.desired.adapters.keys().cloned().collect();
            for other in others.iter().filter(|other| *other != name) {
                // What cannot be had is reported when its own turn comes.
                drop(self.hold(other).await);
            }
        }
        let (wanted, path) = self.hold(name).await?;
        let given = Given {
            name,
            path: &path,
            wanted: &wanted,
            holdings: &self.parts.holdings,
        };
        let loaded = self.parts.runtime.load(&given).await;
        if self.parts.runtime.tells() != Tells::Contents {
            return loaded;
        }
        if loaded.as_ref().is_err_and(CallError::is_of_runtime) {
            return loaded;
        }
        // What it has counts, and not what it said: a load that was refused may have been done before,
        // and one that was confirmed may have done nothing.
        let listing = self.listing().await?;
        match loaded {
            _ if listing.contains_key(name) => Ok(()),
            Err(error) => Err(error),
            Ok(()) => Err(CallError::Unclear(format!(
                "it confirmed the load of {name} and does not list it"
            ))),
        }
    }

    async fn switch(&mut self, alias: &str, name: &str) -> Result<(), CallError> {
        let (wanted, path) = self.hold(name).await?;
        let given = Given {
            name,
            path: &path,
            wanted: &wanted,
            holdings: &self.parts.holdings,
        };
        let switched = self.parts.runtime.switch(alias, &given).await;
        if !self.parts.runtime.keeps_aliases()
            || switched.as_ref().is_err_and(CallError::is_of_runtime)
        {
            return switched;
        }
        let listing = self.listing().await?;
        let mark = |key: &str| listing.get(key).and_then(Option::as_ref);
        let leads_there = mark(alias).is_some() && mark(alias) == mark(name);
        match switched {
            _ if leads_there => Ok(()),
            Err(error) => Err(error),
            Ok(()) => Err(CallError::Unclear(format!(
                "it confirmed that {alias} leads to {name} and says otherwise when asked"
            ))),
        }
    }

    async fn unload(&mut self, name: &str) -> Result<(), CallError> {
        let unloaded = self.parts.runtime.unload(name).await;
        if self.parts.runtime.tells() == Tells::Contents
            && !unloaded.as_ref().is_err_and(CallError::is_of_runtime)
            && self.parts.runtime.unloads()
        {
            let listing = self.listing().await?;
            if listing.contains_key(name) {
                let silent = CallError::Unclear(format!(
                    "it confirmed that it forgot {name} and still lists it"
                ));
                return Err(unloaded.err().unwrap_or(silent));
            }
        } else {
            unloaded?;
        }
        self.release(name).await
    }

    async fn release(&self, name: &str) -> Result<(), CallError> {
        let (holdings, name) = (Arc::clone(&self.parts.holdings), name.to_owned());
        let unable = |error: ExportError| CallError::Unable(in_full(&error));
        blocking(move || holdings.release(&name).map_err(unable)).await
    }

    /// Holds the files of a wanted adapter. Gives what it is, and its directory as the runtime sees
    /// it.
    async fn hold(&mut self, name: &str) -> Result<(Wanted, PathBuf), CallError> {
        let wanted = self.desired.adapters.get(name).cloned();
        let wanted = wanted.ok_or_else(|| CallError::Unable(format!("{name} is not wanted")))?;
        // From the first moment that files may be there.
        self.known.holds(name);
        let source = self.parts.source.clone();
        let holdings = Arc::clone(&self.parts.holdings);
        let format = self.parts.config.format;
        let (key, what) = (name.to_owned(), wanted.clone());
        let path = blocking(move || {
            source
                .hold(&holdings, &key, &what, format)
                .map_err(|error| {
                    let words = in_full(&error);
                    match error {
                        SourceError::Gone(_) => CallError::Outdated(words),
                        SourceError::Make(_) | SourceError::Hold(_) => CallError::Unable(words),
                    }
                })
        })
        .await?;
        let seen = self.parts.config.seen_as.as_ref();
        Ok((wanted, seen.map_or(path, |seen| seen.join(name))))
    }
}

enum Action {
    Ask,
    Take(Step),
}

/// Runs what blocks where it may.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, CallError> + Send + 'static,
) -> Result<T, CallError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(_) => Err(CallError::Unable(
            "a bug stopped kmerged from preparing the adapter; the log has the details".to_owned(),
        )),
    }
}

fn in_full(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

/// A random number in [0, 1).
fn chance() -> f64 {
    let (_, low) = uuid::Uuid::new_v4().as_u64_pair();
    // The first two bits of that half are fixed; the last 32 are all random.
    let [.., a, b, c, d] = low.to_be_bytes();
    f64::from(u32::from_be_bytes([a, b, c, d])) / (f64::from(u32::MAX) + 1.0)
}
