//! What `KMERGE_FAILPOINT` asks for, read.

use std::time::Duration;

/// What happens at a point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    Kill,
    Error,
    /// How many operations are refused until there is room again; none says for ever.
    Full(Option<u64>),
    Short,
    Torn,
    Panic,
    Sleep(Duration),
    List,
}

/// A fault and the hit at which it happens.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Plan {
    /// The point, or `*`.
    pub(super) name: String,
    pub(super) fault: Fault,
    pub(super) at: u64,
}

impl Plan {
    /// Reads a plan; nothing if the text is none.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (name, action) = text.split_once('=')?;
        let (verb, rest) = action.split_once('@')?;
        let (at, number) = match rest.split_once(':') {
            Some((at, number)) => (at, Some(number.parse().ok()?)),
            None => (rest, None),
        };
        let fault = match (verb, number) {
            ("kill", None) => Fault::Kill,
            ("error", None) => Fault::Error,
            ("full", count) => Fault::Full(count),
            ("short", None) => Fault::Short,
            ("torn", None) => Fault::Torn,
            ("panic", None) => Fault::Panic,
            ("sleep", Some(millis)) => Fault::Sleep(Duration::from_millis(millis)),
            ("list", None) => Fault::List,
            _ => return None,
        };
        Some(Self {
            name: name.to_owned(),
            fault,
            at: at.parse().ok()?,
        })
    }

    /// Whether the plan counts the hits of that point. `*` counts file operations alone.
    pub(super) fn counts(&self, name: &str, is_operation: bool) -> bool {
        self.name == name || (is_operation && self.name == "*")
    }
}
