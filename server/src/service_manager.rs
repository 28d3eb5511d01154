//! What kmerged tells the service manager: ready, stopping, alive, stuck. Without one, nothing.

use std::time::Duration;

use sd_notify::NotifyState;

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

/// How often the service manager wants to hear that all is well; none if it does not.
pub fn watchdog_period() -> Option<Duration> {
    sd_notify::watchdog_enabled()
}

/// All is well; again, if it was not.
pub fn alive(again: bool) {
    notify(&[NotifyState::Watchdog]);
    if again {
        notify(&[NotifyState::Status("ready")]);
    }
}

/// Something is stuck. The watchdog is told nothing.
pub fn stuck(what: &str) {
    notify(&[NotifyState::Status(&format!("stuck: {what}"))]);
}
