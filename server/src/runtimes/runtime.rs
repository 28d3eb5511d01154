//! What every kind of runtime can be asked to do, and how such a call fails. One small file per kind
//! implements [`Runtime`]; when it is called, and in which order, is `policy` and `reconcile`.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use kmerge_storage::Holdings;

use super::desired::Wanted;
use super::policy::Listing;

/// An adapter whose files are held for the runtime.
#[derive(Debug, Clone, Copy)]
pub struct Given<'a> {
    /// Its name, never used for anything else.
    pub name: &'a str,
    /// Its directory as the runtime sees it.
    pub path: &'a Path,
    /// What it is.
    pub wanted: &'a Wanted,
    /// Its files, as kmerged sees them.
    pub holdings: &'a Arc<Holdings>,
}

/// Why a call did not do what it should.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// Nobody answers there.
    #[error("cannot be reached: {0}")]
    Unreachable(String),
    /// No answer in time. What was asked may still happen.
    #[error("did not answer within {} seconds", .0.as_secs())]
    TimedOut(Duration),
    /// It wants to be left alone for a while.
    #[error("is busy: {what}")]
    Busy {
        /// In its own words.
        what: String,
        /// For how long, if it said.
        after: Option<Duration>,
    },
    /// It said no.
    #[error("answered {status}: {what}")]
    Refused {
        /// The HTTP status, or the exit code of a command.
        status: u16,
        /// In its own words.
        what: String,
    },
    /// Its answer is not one that its interface has.
    #[error("gave an answer that cannot be used: {0}")]
    Unclear(String),
    /// What was to be handed over has been replaced meanwhile.
    #[error("no longer has to be told: {0}")]
    Outdated(String),
    /// It cannot do this at all as it is set up.
    #[error("{0}")]
    Unable(String),
}

impl CallError {
    /// Whether the runtime as a whole is at fault, so that nothing else need be tried now.
    pub fn is_of_runtime(&self) -> bool {
        match self {
            Self::Unreachable(_) | Self::TimedOut(_) => true,
            Self::Busy { .. }
            | Self::Refused { .. }
            | Self::Unclear(_)
            | Self::Outdated(_)
            | Self::Unable(_) => false,
        }
    }

    /// The wait that the runtime asked for.
    pub fn hint(&self) -> Option<Duration> {
        match self {
            Self::Busy { after, .. } => *after,
            Self::Unreachable(_)
            | Self::TimedOut(_)
            | Self::Refused { .. }
            | Self::Unclear(_)
            | Self::Outdated(_)
            | Self::Unable(_) => None,
        }
    }

    /// Whether it refused with that status.
    pub fn has_status(&self, wanted: u16) -> bool {
        matches!(self, Self::Refused { status, .. } if *status == wanted)
    }
}

/// How much a runtime tells of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tells {
    /// What is loaded.
    Contents,
    /// That it is there. What was done is taken for what is so.
    Presence,
    /// Nothing: it is not asked.
    Nothing,
}

/// A runtime. Every call is bounded in time and may be repeated: each says what should be so.
#[async_trait]
pub trait Runtime: fmt::Debug + Send + Sync {
    /// What [`Runtime::listing`] is good for.
    fn tells(&self) -> Tells;

    /// Whether the runtime keeps aliases itself. If not, apps ask kmerged which name an alias leads
    /// to.
    fn keeps_aliases(&self) -> bool {
        false
    }

    /// Whether it can forget one adapter. If not, it has it until it is started again.
    fn unloads(&self) -> bool {
        true
    }

    /// Whether it takes all adapters at once, by reading the directory of what is held: then all
    /// files are put there before the first load.
    fn reads_directory(&self) -> bool {
        false
    }

    /// What the runtime has now; nothing, where it only tells that it is there.
    async fn listing(&self) -> Result<Listing, CallError> {
        Ok(Listing::new())
    }

    /// Loads an adapter under its name.
    async fn load(&self, given: &Given<'_>) -> Result<(), CallError>;

    /// Lets an alias lead to a name that is loaded.
    async fn switch(&self, alias: &str, given: &Given<'_>) -> Result<(), CallError> {
        let _ = (alias, given);
        Ok(())
    }

    /// Takes an alias away.
    async fn unroute(&self, alias: &str) -> Result<(), CallError> {
        let _ = alias;
        Ok(())
    }

    /// Lets the runtime forget a name. It is no failure if it has none such.
    async fn unload(&self, name: &str) -> Result<(), CallError>;
}
