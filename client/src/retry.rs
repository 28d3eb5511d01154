//! When to try again, and how long to wait first. Plain code: no clock, no randomness of its own.
//!
//! The waits grow twofold from [`Policy::initial`] to [`Policy::longest`], each shortened by up to
//! half at random so that clients which failed together do not come back together. A wait that
//! the daemon names is kept at the least. After [`Policy::attempts`] failures in a row, or when
//! the waits together would exceed [`Policy::patience`], it is over.

use std::time::Duration;

/// How persistent a call is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// The wait after the first failure.
    pub initial: Duration,
    /// The longest wait that is chosen without the daemon naming one.
    pub longest: Duration,
    /// Failures in a row after which the last one is final.
    pub attempts: u32,
    /// The longest time to spend waiting, all waits together.
    pub patience: Duration,
}

impl Policy {
    /// For uploads: a full queue is worth a wait of minutes, not of hours.
    pub const UPLOAD: Self = Self {
        initial: Duration::from_millis(250),
        longest: Duration::from_secs(10),
        attempts: 8,
        patience: Duration::from_secs(120),
    };

    /// For watching: long enough for a daemon to be restarted or upgraded.
    pub const WATCH: Self = Self {
        initial: Duration::from_millis(100),
        longest: Duration::from_secs(5),
        attempts: 12,
        patience: Duration::from_secs(60),
    };

    /// Never tries again.
    pub const NEVER: Self = Self {
        initial: Duration::ZERO,
        longest: Duration::ZERO,
        attempts: 1,
        patience: Duration::ZERO,
    };
}

/// Counts the failures of one call under a policy.
#[derive(Debug, Clone)]
pub struct Retry {
    policy: Policy,
    failures: u32,
    waited: Duration,
}

impl Retry {
    /// A call that has not failed yet.
    #[must_use]
    pub fn new(policy: Policy) -> Self {
        Self {
            policy,
            failures: 0,
            waited: Duration::ZERO,
        }
    }

    /// Counts a failure. Gives the time to wait before the next attempt, or `None` if there is to
    /// be none. `hint` is the wait that the daemon asked for; `chance` is a random number in
    /// [0, 1).
    pub fn failed(&mut self, hint: Option<Duration>, chance: f64) -> Option<Duration> {
        self.failures = self.failures.saturating_add(1);
        if self.failures >= self.policy.attempts {
            return None;
        }
        let doublings = self.failures.saturating_sub(1).min(20);
        let backoff = self
            .policy
            .initial
            .saturating_mul(1 << doublings)
            .min(self.policy.longest);
        let backoff = backoff.mul_f64(0.5 + 0.5 * chance.clamp(0.0, 1.0));
        // The spread is added to a named wait, never taken off it.
        let wait = match hint {
            Some(hint) => hint.saturating_add(backoff),
            None => backoff,
        };
        self.waited = self.waited.saturating_add(wait);
        (self.waited <= self.policy.patience).then_some(wait)
    }

    /// Forgets the failures: something went well.
    pub fn succeeded(&mut self) {
        self.failures = 0;
        self.waited = Duration::ZERO;
    }
}

/// A random number in [0, 1).
pub(crate) fn chance() -> f64 {
    let (_, low) = uuid::Uuid::new_v4().as_u64_pair();
    // The low half holds the variant in its first two bits; the last 32 are all random.
    let [.., a, b, c, d] = low.to_be_bytes();
    f64::from(u32::from_be_bytes([a, b, c, d])) / (f64::from(u32::MAX) + 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: Policy = Policy {
        initial: Duration::from_millis(100),
        longest: Duration::from_secs(1),
        attempts: 6,
        patience: Duration::from_secs(10),
    };

    fn waits(mut retry: Retry, hint: Option<Duration>, chance: f64) -> Vec<u128> {
        std::iter::from_fn(|| retry.failed(hint, chance))
            .map(|wait| wait.as_millis())
            .collect()
    }

    #[test]
    fn waits_double_up_to_the_longest_and_end_with_the_attempts() {
        assert_eq!(
            waits(Retry::new(POLICY), None, 1.0),
            [100, 200, 400, 800, 1000]
        );
    }

    #[test]
    fn chance_takes_off_half_at_most() {
        assert_eq!(
            waits(Retry::new(POLICY), None, 0.0),
            [50, 100, 200, 400, 500]
        );
    }

    #[test]
    fn a_hint_is_waited_out_in_full() {
        let hint = Some(Duration::from_secs(2));
        let mut retry = Retry::new(POLICY);
        let wait = retry
            .failed(hint, 0.0)
            .expect("a second attempt is allowed");
        assert!(wait >= Duration::from_secs(2), "{wait:?}");
    }

    #[test]
    fn patience_bounds_the_waits_together() {
        let hint = Some(Duration::from_secs(4));
        assert_eq!(waits(Retry::new(POLICY), hint, 0.0).len(), 2);
        let hint = Some(Duration::from_secs(11));
        assert_eq!(waits(Retry::new(POLICY), hint, 0.0), [0_u128; 0]);
    }

    #[test]
    fn success_starts_the_count_again() {
        let mut retry = Retry::new(POLICY);
        for _ in 0..50 {
            assert_eq!(retry.failed(None, 1.0), Some(POLICY.initial));
            retry.succeeded();
        }
    }

    #[test]
    fn never_means_never() {
        assert_eq!(Retry::new(Policy::NEVER).failed(None, 1.0), None);
    }

    #[test]
    fn an_enormous_count_does_not_overflow() {
        let endless = Policy {
            attempts: u32::MAX,
            patience: Duration::MAX,
            ..POLICY
        };
        let mut retry = Retry::new(endless);
        for _ in 0..200 {
            assert!(
                retry
                    .failed(None, 1.0)
                    .is_some_and(|wait| wait <= POLICY.longest)
            );
        }
    }

    #[test]
    fn chance_is_in_range_and_differs() {
        let draws: Vec<f64> = (0..32).map(|_| chance()).collect();
        assert!(
            draws.iter().all(|draw| (0.0..1.0).contains(draw)),
            "{draws:?}"
        );
        assert!(draws.windows(2).any(|pair| pair[0] != pair[1]), "{draws:?}");
    }
}
