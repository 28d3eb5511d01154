//! The only clock. Storage and the mathematics are told the time; they never ask.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use kmerge_storage::UnixMillis;

/// Now.
pub fn now() -> UnixMillis {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or(Duration::ZERO);
    UnixMillis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// How long until `then`; zero if it has passed.
pub fn until(then: UnixMillis) -> Duration {
    Duration::from_millis(then.0.saturating_sub(now().0))
}

/// A time as the contract has it.
pub fn timestamp(time: UnixMillis) -> prost_types::Timestamp {
    prost_types::Timestamp {
        seconds: i64::try_from(time.0 / 1000).unwrap_or(i64::MAX),
        nanos: i32::try_from(time.0 % 1000).unwrap_or(0) * 1_000_000,
    }
}
