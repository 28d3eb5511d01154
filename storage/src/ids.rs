//! Identifiers: names that people choose and numbers that storage hands out.
//!
//! Owned by no one: plain values, used everywhere. A value of one of these types is always valid,
//! so nothing behind the door checks a name again. A valid name is also a safe file name: it never
//! starts with a dot and never holds a separator.

use std::fmt;
use std::num::ParseIntError;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The longest name, in bytes.
pub const NAME_LIMIT: usize = 128;

/// Why a text is not a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// There is nothing in it.
    #[error("a name must not be empty")]
    Empty,
    /// It has more than [`NAME_LIMIT`] bytes.
    #[error("a name must have at most {NAME_LIMIT} characters; this one has {length} bytes")]
    TooLong {
        /// Its length in bytes.
        length: usize,
    },
    /// It starts with something other than a letter or a digit.
    #[error("a name must start with one of a-z and 0-9, not with {found:?}")]
    Start {
        /// The first character.
        found: char,
    },
    /// It holds a character that names do not have.
    #[error("a name may hold a-z, 0-9, '.', '_' and '-', but not {found:?} (at byte {at})")]
    Character {
        /// The first such character.
        found: char,
        /// Where it stands.
        at: usize,
    },
}

/// Checks that `text` matches `[a-z0-9][a-z0-9._-]{0,127}`.
pub(crate) fn check_name(text: &str) -> Result<(), NameError> {
    let Some(first) = text.chars().next() else {
        return Err(NameError::Empty);
    };
    if text.len() > NAME_LIMIT {
        return Err(NameError::TooLong { length: text.len() });
    }
    if !matches!(first, 'a'..='z' | '0'..='9') {
        return Err(NameError::Start { found: first });
    }
    let stranger = text
        .char_indices()
        .find(|(_, c)| !matches!(c, 'a'..='z' | '0'..='9' | '.' | '_' | '-'));
    match stranger {
        Some((at, found)) => Err(NameError::Character { found, at }),
        None => Ok(()),
    }
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Arc<str>);

        impl $name {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = NameError;

            fn from_str(text: &str) -> Result<Self, NameError> {
                check_name(text)?;
                Ok(Self(text.into()))
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;

            fn try_from(text: String) -> Result<Self, NameError> {
                text.parse()
            }
        }

        impl TryFrom<&str> for $name {
            type Error = NameError;

            fn try_from(text: &str) -> Result<Self, NameError> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0.as_ref().to_owned()
            }
        }
    };
}

name! {
    /// The name of a base model: `[a-z0-9][a-z0-9._-]{0,127}`.
    BaseModelName
}

name! {
    /// The name of a task: `[a-z0-9][a-z0-9._-]{0,127}`.
    TaskName
}

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($of:ty)) => {
        $(#[$doc])*
        #[derive(
            Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
        )]
        #[serde(transparent)]
        pub struct $name(pub $of);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl FromStr for $name {
            type Err = ParseIntError;

            fn from_str(text: &str) -> Result<Self, ParseIntError> {
                text.parse().map(Self)
            }
        }
    };
}

number! {
    /// A slot of a base model, numbered from 0.
    SlotIndex(u32)
}

number! {
    /// A slot's version, numbered from 1. It only rises.
    Generation(u64)
}

number! {
    /// A job, numbered from 1 in arrival order. Never used again, not even after a rebuild.
    JobId(u64)
}

number! {
    /// A state of the whole catalog. Each durable change raises it by one.
    Revision(u64)
}

number! {
    /// A time: milliseconds since the beginning of 1970, UTC.
    UnixMillis(u64)
}

impl Generation {
    /// The first generation of a slot.
    pub const FIRST: Self = Self(1);

    /// The generation after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl JobId {
    /// The job that arrives after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl Revision {
    /// The revision after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl UnixMillis {
    /// This time plus `duration`; the last representable time if that is beyond it.
    #[must_use]
    pub fn saturating_add(self, duration: Duration) -> Self {
        let millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        Self(self.0.saturating_add(millis))
    }

    /// This time as people write it, for example `2026-11-24T06:28:58.000Z` (RFC 3339).
    pub fn to_rfc3339(self) -> String {
        let (days, millis) = (self.0 / 86_400_000, self.0 % 86_400_000);
        let (year, month, day) = civil_from_days(days);
        let (hour, minute) = (millis / 3_600_000, millis / 60_000 % 60);
        let (second, millis) = (millis / 1000 % 60, millis % 1000);
        format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z")
    }
}

/// The Gregorian date `days` after 1970-01-01.
fn civil_from_days(days: u64) -> (u64, u64, u64) {
    // Counted from 0000-03-01, so that the leap day is the last day of a year, and every cycle of
    // 400 years has the same 146,097 days.
    let days = days + 719_468;
    let (cycle, day_of_cycle) = (days / 146_097, days % 146_097);
    let year_of_cycle =
        (day_of_cycle - day_of_cycle / 1460 + day_of_cycle / 36_524 - day_of_cycle / 146_096) / 365;
    let day_of_year =
        day_of_cycle - (365 * year_of_cycle + year_of_cycle / 4 - year_of_cycle / 100);
    // Months from March on follow a straight line of 153 days in five months.
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    };
    let year = cycle * 400 + year_of_cycle + u64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked_where_they_enter() {
        for good in ["a", "0", "llama-3.2-1b", "a_b", &"x".repeat(NAME_LIMIT)] {
            assert_eq!(good.parse::<TaskName>().unwrap().as_str(), good);
            assert_eq!(good.parse::<BaseModelName>().unwrap().to_string(), good);
        }
        let long = "x".repeat(NAME_LIMIT + 1);
        let bad = [
            ("", NameError::Empty),
            (
                long.as_str(),
                NameError::TooLong {
                    length: NAME_LIMIT + 1,
                },
            ),
            (".hidden", NameError::Start { found: '.' }),
            ("-x", NameError::Start { found: '-' }),
            ("Xy", NameError::Start { found: 'X' }),
            ("a/b", NameError::Character { found: '/', at: 1 }),
            ("a\0", NameError::Character { found: '\0', at: 1 }),
            ("aé", NameError::Character { found: 'é', at: 1 }),
        ];
        for (text, error) in bad {
            assert_eq!(text.parse::<TaskName>(), Err(error.clone()));
            assert_eq!(BaseModelName::try_from(text), Err(error));
            let json = serde_json::to_string(text).unwrap();
            assert!(serde_json::from_str::<TaskName>(&json).is_err());
        }
    }

    #[test]
    fn numbers_are_plain_in_json_and_in_text() {
        assert_eq!(serde_json::to_string(&JobId(7)).unwrap(), "7");
        assert_eq!("7".parse::<JobId>().unwrap(), JobId(7));
        assert_eq!(format!("{:>3}", SlotIndex(7)), "  7");
        assert_eq!(Generation::FIRST.next(), Generation(2));
    }

    #[test]
    fn times_read_as_dates() {
        let cases = [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_399_999, "2000-02-28T23:59:59.999Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
            (1_795_501_738_000, "2026-11-24T06:28:58.000Z"),
        ];
        for (millis, text) in cases {
            assert_eq!(UnixMillis(millis).to_rfc3339(), text);
        }
        assert_eq!(
            UnixMillis(5).saturating_add(Duration::from_secs(1)),
            UnixMillis(1005)
        );
        assert_eq!(
            UnixMillis(5).saturating_add(Duration::MAX),
            UnixMillis(u64::MAX)
        );
    }
}
