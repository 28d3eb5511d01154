//! Whether an upload comes fast enough. Plain arithmetic on times that the caller measures.
//!
//! Only the time that was spent waiting for the client counts against its pace: a slow disk of this
//! side is not its fault. The longest time counts everything.

use std::time::Duration;

/// How fast an upload must come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// The least average, in bytes a second; 0: any.
    pub bytes_per_second: u64,
    /// How long it may be waited for before the average counts.
    pub grace: Duration,
    /// The longest that it may take, whatever its pace.
    pub longest: Duration,
}

/// What is wrong with an upload's pace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lag {
    /// It comes too slowly.
    Slow {
        /// Its average, in bytes a second.
        average: u64,
        /// The least allowed.
        floor: u64,
    },
    /// It takes too long.
    Long {
        /// The longest allowed, in seconds.
        seconds: u64,
    },
}

impl Pace {
    /// Judges an upload by its bytes so far, the time that was spent waiting for them, and the time
    /// since it began.
    ///
    /// # Errors
    /// What is wrong.
    pub fn judge(&self, bytes: u64, waited: Duration, since: Duration) -> Result<(), Lag> {
        if since > self.longest {
            let seconds = self.longest.as_secs();
            return Err(Lag::Long { seconds });
        }
        let millis = u64::try_from(waited.as_millis()).unwrap_or(u64::MAX);
        if waited <= self.grace || millis == 0 {
            return Ok(());
        }
        let average = bytes.saturating_mul(1000) / millis;
        if average < self.bytes_per_second {
            let floor = self.bytes_per_second;
            return Err(Lag::Slow { average, floor });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACE: Pace = Pace {
        bytes_per_second: 1000,
        grace: Duration::from_secs(10),
        longest: Duration::from_secs(100),
    };

    fn judge(bytes: u64, waited: u64, since: u64) -> Result<(), Lag> {
        PACE.judge(
            bytes,
            Duration::from_secs(waited),
            Duration::from_secs(since),
        )
    }

    #[test]
    fn the_average_counts_after_the_grace() {
        assert_eq!(judge(0, 10, 10), Ok(()));
        assert_eq!(judge(20_000, 20, 20), Ok(()));
        let slow = Lag::Slow {
            average: 999,
            floor: 1000,
        };
        assert_eq!(judge(19_999, 20, 20), Err(slow));
    }

    #[test]
    fn time_of_this_side_is_not_counted_against_it_but_for_the_longest() {
        assert_eq!(judge(1, 0, 99), Ok(()));
        assert_eq!(judge(1 << 30, 1, 101), Err(Lag::Long { seconds: 100 }));
    }

    #[test]
    fn without_a_floor_any_pace_will_do() {
        let pace = Pace {
            bytes_per_second: 0,
            ..PACE
        };
        let (waited, since) = (Duration::from_secs(50), Duration::from_secs(50));
        assert_eq!(pace.judge(0, waited, since), Ok(()));
    }
}
