//! What is known of each runtime, for whoever asks. Each reconciler writes its own line; readers wait
//! for changes. Nothing is remembered over a restart: it is found out again.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use kmerge_storage::{Generation, SlotIndex, TaskName, UnixMillis};
use tokio::sync::watch;

use super::desired::Desired;
use super::policy::{Known, Trouble};
use crate::config::RuntimeConfig;

/// How a runtime stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Condition {
    /// It was not asked yet.
    Starting,
    /// It has what it should have.
    Ready,
    /// Something is yet to be done, and nothing is in the way.
    Working,
    /// It answers, and something failed that is tried again.
    Troubled,
    /// It does not answer.
    Unreachable,
}

/// One alias: what it should lead to, and where it leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdapterState {
    /// The alias.
    pub alias: String,
    /// The tasks that its adapter answers for.
    pub tasks: Vec<TaskName>,
    /// The slot that it comes from.
    pub slot: SlotIndex,
    /// The generation that it should be at.
    pub generation: Generation,
    /// The name that it should lead to.
    pub name: String,
    /// The name that it leads to; none if no request should be sent there.
    pub serving: Option<String>,
    /// What is in the way.
    pub trouble: Option<Trouble>,
}

/// One runtime.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuntimeState {
    /// What does not change.
    pub config: Arc<RuntimeConfig>,
    /// Where its files are.
    pub directory: PathBuf,
    /// How it stands.
    pub condition: Condition,
    /// Its aliases, in order.
    pub adapters: Vec<AdapterState>,
    /// Names that are still there and on their way out.
    pub draining: Vec<String>,
    /// Tasks, or slots, that are selected and beyond the limit.
    pub left_out: usize,
    /// Why it cannot be reached, or the newest failure of all.
    pub trouble: Option<Trouble>,
    /// When it last answered.
    pub answered: Option<UnixMillis>,
}

impl RuntimeState {
    /// Before anything is known.
    pub fn starting(config: Arc<RuntimeConfig>, directory: PathBuf) -> Self {
        Self {
            config,
            directory,
            condition: Condition::Starting,
            adapters: Vec::new(),
            draining: Vec::new(),
            left_out: 0,
            trouble: None,
            answered: None,
        }
    }

    /// What is known, next to what is wanted.
    pub fn of(
        config: Arc<RuntimeConfig>,
        directory: PathBuf,
        known: &Known,
        desired: &Desired,
        asked: bool,
        answered: Option<UnixMillis>,
    ) -> Self {
        let adapters: Vec<_> = desired
            .routes
            .iter()
            .filter_map(|(alias, name)| {
                let wanted = desired.adapters.get(name)?;
                let trouble = known.trouble.get(name);
                Some(AdapterState {
                    alias: alias.clone(),
                    tasks: wanted.tasks.clone(),
                    slot: wanted.slot,
                    generation: wanted.generation,
                    name: name.clone(),
                    serving: known.routes.get(alias).cloned(),
                    trouble: trouble.or_else(|| known.trouble.get(alias)).cloned(),
                })
            })
            .collect();
        let newest = known.trouble.values().max_by_key(|trouble| trouble.at);
        let settled = adapters
            .iter()
            .all(|adapter| adapter.serving.as_ref() == Some(&adapter.name));
        let condition = if known.down.is_some() {
            Condition::Unreachable
        } else if !asked {
            Condition::Starting
        } else if newest.is_some() {
            Condition::Troubled
        } else if settled {
            Condition::Ready
        } else {
            Condition::Working
        };
        Self {
            config,
            directory,
            condition,
            adapters,
            draining: known.draining().map(|(name, _)| name.to_owned()).collect(),
            left_out: desired.left_out,
            trouble: known.down.as_ref().or(newest).cloned(),
            answered,
        }
    }
}

/// All runtimes, by name.
pub type States = BTreeMap<String, Arc<RuntimeState>>;

/// Where the states are shown.
#[derive(Debug, Clone, Default)]
pub struct Board {
    states: watch::Sender<States>,
}

impl Board {
    /// The states as they are now.
    pub fn states(&self) -> States {
        self.states.borrow().clone()
    }

    /// Wakes its holder at each change.
    pub fn changes(&self) -> watch::Receiver<States> {
        self.states.subscribe()
    }

    /// Shows a state, if it is another one.
    pub fn show(&self, state: RuntimeState) {
        self.states.send_if_modified(|states| {
            let known = states.get(&state.config.name);
            let new = known.is_none_or(|known| **known != state);
            if new {
                states.insert(state.config.name.clone(), Arc::new(state));
            }
            new
        });
    }
}
