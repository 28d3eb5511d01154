//! `rank_pattern` and `alpha_pattern`: values for the modules whose path a key matches.
//!
//! PEFT matches `^(.*\.)?(KEY)$` from the start of the path, and the first matching key in file
//! order wins. Keys are uploaded text. Most are plain names, which are compared directly; the rest
//! are compiled by a regex engine that does not backtrack, with limits on size and number.

use regex::{Regex, RegexBuilder};

use crate::AdapterError;
use crate::json::printable;

/// Most keys of one pattern: several for each module of the deepest models.
const MAX_KEYS: usize = 4096;
/// Most keys that are compiled.
const MAX_EXPRESSIONS: usize = 64;
/// Longest key that is compiled, in bytes.
const MAX_EXPRESSION_BYTES: usize = 1024;
/// Largest compiled key, in bytes.
const MAX_COMPILED_BYTES: usize = 256 << 10;

/// An ordered list of keys with their values.
#[derive(Debug)]
pub(super) struct Pattern<T> {
    entries: Vec<(Matcher, T)>,
}

#[derive(Debug)]
enum Matcher {
    /// Letters, digits, `_`, `-` and `.`, where the dot is a regex's: any character.
    Plain(String),
    Expression(Regex),
}

impl<T: Copy> Pattern<T> {
    /// Takes keys in file order; `field` is named in errors.
    pub(super) fn new(
        field: &'static str,
        entries: impl ExactSizeIterator<Item = (String, T)>,
    ) -> Result<Self, AdapterError> {
        if entries.len() > MAX_KEYS {
            let got = entries.len();
            return Err(AdapterError::TooManyPatterns {
                field,
                got,
                limit: MAX_KEYS,
            });
        }
        let mut expressions = 0;
        let mut compiled = Vec::with_capacity(entries.len());
        for (key, value) in entries {
            let matcher = if key.bytes().all(is_plain) {
                Matcher::Plain(key)
            } else {
                expressions += 1;
                if expressions > MAX_EXPRESSIONS {
                    return Err(unusable(
                        field,
                        &key,
                        format!("more than {MAX_EXPRESSIONS} keys are regular expressions"),
                    ));
                }
                Matcher::Expression(compile(field, &key)?)
            };
            compiled.push((matcher, value));
        }
        Ok(Self { entries: compiled })
    }

    /// The value of the first key that matches `path`.
    pub(super) fn get(&self, path: &str) -> Option<T> {
        self.entries
            .iter()
            .find(|(matcher, _)| matcher.matches(path))
            .map(|&(_, value)| value)
    }
}

impl Matcher {
    fn matches(&self, path: &str) -> bool {
        match self {
            Self::Expression(expression) => expression.is_match(path),
            Self::Plain(key) => {
                let (key, path) = (key.as_bytes(), path.as_bytes());
                let Some(start) = path.len().checked_sub(key.len()) else {
                    return false;
                };
                (start == 0 || path[start - 1] == b'.')
                    && key
                        .iter()
                        .zip(&path[start..])
                        .all(|(k, p)| *k == b'.' || k == p)
            }
        }
    }
}

fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"_-.".contains(&byte)
}

fn compile(field: &'static str, key: &str) -> Result<Regex, AdapterError> {
    if key.len() > MAX_EXPRESSION_BYTES {
        let detail = format!("it is longer than {MAX_EXPRESSION_BYTES} bytes");
        return Err(unusable(field, key, detail));
    }
    // The outer group anchors every alternative, as Python's match() does.
    RegexBuilder::new(&format!(r"\A(?:^(.*\.)?({key})$)"))
        .size_limit(MAX_COMPILED_BYTES)
        .dfa_size_limit(MAX_COMPILED_BYTES)
        .nest_limit(32)
        .build()
        .map_err(|error| {
            // The last line of the engine's message is the reason; the others draw the pattern.
            let message = error.to_string();
            let reason = message.lines().last().unwrap_or_default();
            unusable(
                field,
                key,
                printable(reason.trim_start_matches("error: "), 120),
            )
        })
}

fn unusable(field: &'static str, key: &str, detail: String) -> AdapterError {
    AdapterError::PatternSyntax {
        field,
        key: printable(key, 64),
        detail,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(keys: &[&str]) -> Result<Pattern<usize>, AdapterError> {
        let entries: Vec<_> = keys.iter().map(|key| (*key).to_owned()).zip(0..).collect();
        Pattern::new("rank_pattern", entries.into_iter())
    }

    const PATH: &str = "model.layers.10.self_attn.q_proj";

    #[test]
    fn plain_names_match_whole_segments_from_the_right() {
        for (key, expected) in [
            ("q_proj", true),
            ("self_attn.q_proj", true),
            ("model.layers.10.self_attn.q_proj", true),
            ("10.self_attn.q_proj", true),
            // A dot is any character, here as in PEFT.
            ("self.attn.q.proj", true),
            ("0.self_attn.q_proj", false),
            ("proj", false),
            ("k_proj", false),
            ("q_proj.x", false),
            ("base.model.layers.10.self_attn.q_proj", false),
            ("", false),
        ] {
            assert_eq!(
                pattern(&[key]).unwrap().get(PATH).is_some(),
                expected,
                "{key}"
            );
        }
    }

    #[test]
    fn plain_matching_equals_the_regex_it_stands_for() {
        for key in [
            "q_proj",
            "l.yers.10.self_attn.q_proj",
            "10.self_attn.q_proj",
            "attn.q_proj",
        ] {
            let compiled = Matcher::Expression(compile("rank_pattern", key).unwrap());
            for path in [
                PATH,
                "model.layers.1.self_attn.q_proj",
                "q_proj",
                "x.q_projx",
                "attn",
            ] {
                let plain = Matcher::Plain(key.to_owned());
                assert_eq!(
                    plain.matches(path),
                    compiled.matches(path),
                    "{key} on {path}"
                );
            }
        }
    }

    #[test]
    fn expressions_match_as_python_would_and_the_first_key_wins() {
        let found = pattern(&[
            r"layers\.(1|2)\..*",
            r"layers\.\d+\.self_attn\.[qk]_proj",
            "q_proj",
        ]);
        assert_eq!(found.unwrap().get(PATH), Some(1));
        // An alternative outside the group is still anchored at the start.
        assert_eq!(pattern(&["x)|(q_proj"]).unwrap().get(PATH), None);
        assert_eq!(pattern(&["x)|(model.*q_proj"]).unwrap().get(PATH), Some(0));
    }

    #[test]
    fn unusable_keys_are_refused_by_name() {
        let long = "a|".repeat(600);
        for key in [
            "(",
            "q_proj(?=x)",
            r"(a)\1",
            "(a{1000}){1000}",
            long.as_str(),
        ] {
            let error = pattern(&[key]).unwrap_err();
            assert_eq!(error.reason(), "PATTERN_SYNTAX", "{key}: {error}");
        }
        let many: Vec<String> = (0..65).map(|i| format!("[q]_{i}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert_eq!(pattern(&many).unwrap_err().reason(), "PATTERN_SYNTAX");
        assert_eq!(
            pattern(&["a"; 4097]).unwrap_err().reason(),
            "TOO_MANY_PATTERNS"
        );
    }
}
