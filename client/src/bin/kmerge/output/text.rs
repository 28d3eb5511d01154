//! Numbers and times as people read them. Plain functions; the clock is an argument.

use std::time::{SystemTime, UNIX_EPOCH};

use prost_types::Timestamp;

const UNITS: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];

/// A size: `480.1 KiB`.
pub(crate) fn bytes(count: u64) -> String {
    let mut unit = 0;
    let mut size: u128 = 1;
    while u128::from(count) >= size * 1024 && unit + 1 < UNITS.len() {
        size *= 1024;
        unit += 1;
    }
    if unit == 0 {
        return format!("{count} B");
    }
    // In tenths, rounded to the nearest; 1023.96 KiB is 1024.0 KiB, as `ls -h` has it.
    let tenths = (u128::from(count) * 10 + size / 2) / size;
    format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[unit])
}

/// A limit in bytes, where 0 is none.
pub(crate) fn limit(count: u64) -> String {
    if count == 0 {
        "none".to_owned()
    } else {
        bytes(count)
    }
}

/// What has been used of a limit in bytes, where 0 is none.
pub(crate) fn of_limit(used: u64, limit: u64) -> String {
    if limit == 0 {
        format!("{}, no limit", bytes(used))
    } else {
        format!("{} of {}", bytes(used), bytes(limit))
    }
}

/// The first twelve digits of a digest.
pub(crate) fn digest(sha256: &str) -> &str {
    sha256.get(..12).unwrap_or(sha256)
}

/// How long ago: `3 min ago`.
pub(crate) fn ago(time: Option<&Timestamp>, now: SystemTime) -> String {
    let Some(time) = time else {
        return "-".to_owned();
    };
    let now = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let then = u64::try_from(time.seconds).unwrap_or(0);
    match now.checked_sub(then) {
        // Clocks differ a little.
        None | Some(0..5) => "just now".to_owned(),
        Some(seconds @ 5..60) => format!("{seconds} s ago"),
        Some(seconds @ 60..3_600) => format!("{} min ago", seconds / 60),
        Some(seconds @ 3_600..86_400) => format!("{} h ago", seconds / 3_600),
        Some(seconds) => format!("{} d ago", seconds / 86_400),
    }
}

/// A number with its noun: `1 slot`, `3 slots`.
pub(crate) fn count(number: u64, noun: &str) -> String {
    if number == 1 {
        format!("1 {noun}")
    } else {
        format!("{number} {noun}s")
    }
}

/// A similarity: four digits after the point.
pub(crate) fn similarity(value: f64) -> String {
    format!("{value:.4}")
}

/// A figure such as a retention or a loss: three digits after the point.
pub(crate) fn figure(value: f64) -> String {
    format!("{value:.3}")
}

/// A share: `61 %`.
pub(crate) fn percent(share: f64) -> String {
    format!("{:.0} %", share * 100.0)
}

/// At most `width` characters, the last being `…` where something was left out.
pub(crate) fn shorten(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    let kept: String = text.chars().take(width.saturating_sub(1)).collect();
    format!("{}…", kept.trim_end())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn sizes() {
        let cases = [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (491_608, "480.1 KiB"),
            (14 << 20, "14.0 MiB"),
            ((1 << 20) - 1, "1024.0 KiB"),
            (u64::MAX, "16.0 EiB"),
        ];
        for (count, expected) in cases {
            assert_eq!(bytes(count), expected);
        }
        assert_eq!(limit(0), "none");
        assert_eq!(of_limit(1024, 0), "1.0 KiB, no limit");
        assert_eq!(of_limit(1024, 2048), "1.0 KiB of 2.0 KiB");
    }

    #[test]
    fn times() {
        let now = UNIX_EPOCH + Duration::from_secs(1_000_000);
        let at = |seconds| Some(Timestamp { seconds, nanos: 0 });
        let cases = [
            (1_000_000, "just now"),
            (1_000_009, "just now"),
            (999_995, "5 s ago"),
            (999_941, "59 s ago"),
            (999_940, "1 min ago"),
            (996_400, "1 h ago"),
            (913_600, "1 d ago"),
            (-5, "11 d ago"),
        ];
        for (seconds, expected) in cases {
            assert_eq!(ago(at(seconds).as_ref(), now), expected, "{seconds}");
        }
        assert_eq!(ago(None, now), "-");
    }

    #[test]
    fn shortening_keeps_the_width() {
        assert_eq!(shorten("slot 1 is nearest", 17), "slot 1 is nearest");
        assert_eq!(shorten("slot 1 is nearest", 8), "slot 1…");
        assert_eq!(shorten("größte", 4), "grö…");
    }

    #[test]
    fn nouns() {
        assert_eq!(count(1, "slot"), "1 slot");
        assert_eq!(count(0, "slot"), "0 slots");
    }
}
