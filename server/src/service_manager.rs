//! What kmerged tells the service manager: ready, stopping, alive. Without one, nothing.

use std::time::Duration;

use sd_notify::NotifyState;

use crate::owner::Owner;
use crate::shutdown::Stop;

/// Recovery is done and the socket answers.
pub fn ready(status: &str) {
    notify(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// The stop has begun.
pub fn stopping() {
    notify(&[NotifyState::Stopping, NotifyState::Status("stopping")]);
}

fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "the service manager cannot be told");
    }
}

/// Pets the watchdog while the catalog's owner answers. Ends at once where there is no watchdog.
pub async fn watchdog(owner: Owner, stop: Stop) {
    let Some(period) = sd_notify::watchdog_enabled() else {
        return;
    };
    // Twice in each period, as systemd advises, but never more often than once a second.
    let pause = (period / 2).max(Duration::from_secs(1));
    loop {
        if owner.answers(pause).await {
            notify(&[NotifyState::Watchdog]);
        } else {
            tracing::error!("the catalog does not answer; leaving the watchdog to act");
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = stop.requested() => return,
        }
    }
}
