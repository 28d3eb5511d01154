//! How kmerged is asked to stop, and why.
//!
//! One [`Stop`] per process, cloned into everything that waits. Whoever stops first gives the
//! reason; the order of the stop itself is in `app.rs`.

use std::sync::{Arc, OnceLock};

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Why kmerged stops.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StopReason {
    /// SIGTERM, SIGINT or the service manager: an orderly end.
    Asked,
    /// The state can no longer be written safely; a restart recovers it.
    StateUnsafe(String),
}

/// The one switch that everything watches.
#[derive(Debug, Clone, Default)]
pub struct Stop {
    token: CancellationToken,
    reason: Arc<OnceLock<StopReason>>,
}

impl Stop {
    /// Asks everything to stop. The first reason given is the one that counts.
    pub fn request(&self, reason: StopReason) {
        // A second request changes nothing: the stop is already under way.
        let _ = self.reason.set(reason);
        self.token.cancel();
    }

    /// Resolves once a stop was asked for.
    pub async fn requested(&self) {
        self.token.cancelled().await;
    }

    /// Whether a stop was asked for.
    pub fn is_requested(&self) -> bool {
        self.token.is_cancelled()
    }

    /// Why, once asked.
    pub fn reason(&self) -> Option<&StopReason> {
        self.reason.get()
    }
}

/// Turns SIGTERM and SIGINT into a request to stop. Runs until one arrives or `stop` is requested.
///
/// # Errors
/// If the handlers cannot be installed.
pub async fn watch_signals(stop: Stop) -> std::io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let name = tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
        () = stop.requested() => return Ok(()),
    };
    tracing::info!(signal = name, "asked to stop");
    stop.request(StopReason::Asked);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_first_reason_counts() {
        let stop = Stop::default();
        assert!(!stop.is_requested());
        stop.request(StopReason::StateUnsafe("fsync failed".into()));
        stop.request(StopReason::Asked);
        stop.requested().await;
        assert_eq!(
            stop.reason(),
            Some(&StopReason::StateUnsafe("fsync failed".into()))
        );
    }
}
