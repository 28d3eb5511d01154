//! Reads configuration values one key at a time and remembers everything that is wrong.
//!
//! All sources are flattened to dotted keys first; each getter takes its key out, so that what is
//! left at the end is what nobody asked for: the unknown keys.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use config::{Environment, File, FileFormat, Value, ValueKind};

/// The prefix of every environment variable that is a configuration key.
const PREFIX: &str = "KMERGE";

/// What a key of an entry is if the entry does not have it.
#[derive(Debug, Clone, Copy)]
pub(super) enum Default {
    /// A text.
    Text(&'static str),
    /// A number.
    Number(u64),
    /// An empty list.
    List,
}

impl Default {
    fn value(self) -> Value {
        let kind = match self {
            Self::Text(text) => ValueKind::from(text),
            Self::Number(number) => ValueKind::from(number),
            Self::List => ValueKind::Array(Vec::new()),
        };
        Value::new(None, kind)
    }
}

/// The values still to be taken, and the problems so far.
#[derive(Debug)]
pub(super) struct Keys {
    values: BTreeMap<String, Value>,
    known: Vec<String>,
    problems: Vec<String>,
}

impl Keys {
    /// Reads the defaults, then the file, then the environment, each over the one before.
    pub(super) fn collect(
        defaults: &str,
        file: Option<&Path>,
        environment: BTreeMap<String, String>,
    ) -> Result<Self, String> {
        // KMERGE_SOCKET and the like are arguments; only KMERGE_SECTION__KEY is configuration.
        let environment = environment
            .into_iter()
            .filter(|(name, _)| name.starts_with(&format!("{PREFIX}_")) && name.contains("__"))
            .collect();
        let mut builder =
            config::Config::builder().add_source(File::from_str(defaults, FileFormat::Toml));
        if let Some(path) = file {
            builder = builder.add_source(File::from(path).format(FileFormat::Toml));
        }
        let source = Environment::with_prefix(PREFIX)
            .prefix_separator("_")
            .separator("__")
            .source(Some(environment));
        let table = builder
            .add_source(source)
            .build()
            .and_then(|config| config.cache.into_table())
            .map_err(|error| error.to_string())?;
        let mut values = BTreeMap::new();
        flatten("", table.into_iter().collect(), &mut values);
        Ok(Self {
            values,
            known: Vec::new(),
            problems: Vec::new(),
        })
    }

    /// Adds a problem with `key`.
    pub(super) fn problem(&mut self, key: &str, what: &str) {
        self.problems.push(format!("{key} {what}"));
    }

    /// All problems, unknown keys included.
    pub(super) fn finish(mut self) -> Vec<String> {
        for (key, value) in std::mem::take(&mut self.values) {
            let origin = value
                .origin()
                .map(|origin| format!(" (from {origin})"))
                .unwrap_or_default();
            let near = self
                .known
                .iter()
                .find(|known| known.rsplit('.').next() == key.rsplit('.').next())
                .or_else(|| self.known.iter().find(|known| is_near(known, &key)))
                .map(|known| format!("; did you mean {known}?"))
                .unwrap_or_default();
            self.problems.push(format!(
                "{key} is not a key that kmerged knows{origin}{near}"
            ));
        }
        self.problems
    }

    /// The entries of an array of tables, which may be absent. Gives what the keys of each begin with;
    /// what an entry does not have is what `defaults` say.
    pub(super) fn entries(&mut self, key: &str, defaults: &[(&str, Default)]) -> Vec<String> {
        self.known.push(key.to_owned());
        let Some(value) = self.values.remove(key) else {
            return Vec::new();
        };
        let ValueKind::Array(items) = &value.kind else {
            self.wrong(key, &value, &format!("[[{key}]] tables"));
            return Vec::new();
        };
        let mut entries = Vec::new();
        for (number, item) in items.iter().enumerate() {
            let entry = format!("{key}[{number}]");
            let ValueKind::Table(table) = item.kind.clone() else {
                self.wrong(&entry, item, "a table");
                continue;
            };
            flatten(&entry, table.into_iter().collect(), &mut self.values);
            for (name, default) in defaults {
                let name = format!("{entry}.{name}");
                self.values.entry(name).or_insert_with(|| default.value());
            }
            entries.push(entry);
        }
        entries
    }

    /// A list of texts.
    pub(super) fn texts(&mut self, key: &str) -> Vec<String> {
        self.all_parsed(key, "texts")
    }

    /// A list of what can be read from texts, or from numbers as they are written.
    pub(super) fn all_parsed<T: std::str::FromStr>(&mut self, key: &str, what: &str) -> Vec<T> {
        let Some(value) = self.take(key) else {
            return Vec::new();
        };
        let ValueKind::Array(items) = &value.kind else {
            self.wrong(key, &value, &format!("a list of {what}"));
            return Vec::new();
        };
        let read = |item: &Value| item.clone().into_string().ok()?.parse().ok();
        if let Some(all) = items.iter().map(read).collect() {
            return all;
        }
        for item in items.iter().filter(|item| read(item).is_none()) {
            self.wrong(key, item, &format!("a list of {what}"));
        }
        Vec::new()
    }

    /// What can be read from a text.
    pub(super) fn parsed<T: std::str::FromStr>(&mut self, key: &str, what: &str) -> Option<T> {
        let text = self.text(key);
        let parsed = text.parse().ok();
        if parsed.is_none() {
            let shown = if text.is_empty() {
                "not set".to_owned()
            } else {
                format!("\"{text}\"")
            };
            self.problem(key, &format!("is {shown}; it must be {what}"));
        }
        parsed
    }

    fn take(&mut self, key: &str) -> Option<Value> {
        self.known.push(key.to_owned());
        let value = self.values.remove(key);
        if value.is_none() {
            self.problem(key, "must be a value, not a table");
        }
        value
    }

    fn wrong(&mut self, key: &str, value: &Value, expected: &str) {
        let origin = value
            .origin()
            .map(|origin| format!(" (from {origin})"))
            .unwrap_or_default();
        self.problem(
            key,
            &format!("is {}{origin}; it must be {expected}", shown(value)),
        );
    }

    /// A text, empty allowed.
    pub(super) fn text(&mut self, key: &str) -> String {
        let Some(value) = self.take(key) else {
            return String::new();
        };
        if let Some(text) = text_of(&value) {
            return text.to_owned();
        }
        self.wrong(key, &value, "a text");
        String::new()
    }

    /// An absolute path; empty is none.
    pub(super) fn path(&mut self, key: &str) -> Option<PathBuf> {
        let text = self.text(key);
        if !text.is_empty() && !Path::new(&text).is_absolute() {
            self.problem(key, &format!("is \"{text}\"; it must be an absolute path"));
        }
        (!text.is_empty()).then(|| PathBuf::from(text))
    }

    fn integer(&mut self, key: &str, range: &RangeInclusive<u64>, unit: &str) -> u64 {
        let Some(value) = self.take(key) else {
            return *range.start();
        };
        let number = match text_of(&value) {
            Some(text) => text.parse().ok(),
            None => value.clone().into_uint().ok(),
        };
        match number {
            Some(number) if range.contains(&number) => number,
            _ => {
                let expected = format!(
                    "a whole number{unit} from {} to {}",
                    range.start(),
                    range.end()
                );
                self.wrong(key, &value, &expected);
                *range.start()
            }
        }
    }

    /// A number of things.
    pub(super) fn count(&mut self, key: &str, range: RangeInclusive<u64>) -> usize {
        usize::try_from(self.integer(key, &range, "")).unwrap_or(usize::MAX)
    }

    /// A time in whole seconds.
    pub(super) fn seconds(&mut self, key: &str, range: RangeInclusive<u64>) -> Duration {
        Duration::from_secs(self.integer(key, &range, " of seconds"))
    }

    /// A size: a number of bytes or a text with a unit.
    pub(super) fn bytes(&mut self, key: &str, range: RangeInclusive<u64>) -> u64 {
        let Some(value) = self.take(key) else {
            return *range.start();
        };
        let number = match text_of(&value) {
            Some(text) => parse_bytes(text),
            None => value.clone().into_uint().ok(),
        };
        match number {
            Some(number) if range.contains(&number) => number,
            _ => {
                let expected = format!(
                    "a size such as 1048576, \"64MiB\" or \"1GB\", from {} to {} bytes",
                    range.start(),
                    range.end()
                );
                self.wrong(key, &value, &expected);
                *range.start()
            }
        }
    }

    /// A number in (0, 1].
    pub(super) fn fraction(&mut self, key: &str) -> f64 {
        let Some(value) = self.take(key) else {
            return 1.0;
        };
        match value.clone().into_float() {
            Ok(number) if number > 0.0 && number <= 1.0 => number,
            _ => {
                self.wrong(key, &value, "a number above 0 and at most 1");
                1.0
            }
        }
    }

    /// A number from 0 to 1, where 0 is none.
    pub(super) fn limit(&mut self, key: &str) -> Option<f64> {
        let value = self.take(key)?;
        match value.clone().into_float() {
            Ok(limit) if (0.0..=1.0).contains(&limit) => (limit > 0.0).then_some(limit),
            _ => {
                self.wrong(key, &value, "a number of at least 0 and at most 1");
                None
            }
        }
    }

    /// A number from 0 to below 1.
    pub(super) fn share(&mut self, key: &str) -> f64 {
        let Some(value) = self.take(key) else {
            return 0.0;
        };
        match value.clone().into_float() {
            Ok(share) if (0.0..1.0).contains(&share) => share,
            _ => {
                self.wrong(key, &value, "a number of at least 0 and below 1");
                0.0
            }
        }
    }

    /// true or false.
    pub(super) fn switch(&mut self, key: &str) -> bool {
        let Some(value) = self.take(key) else {
            return false;
        };
        value.clone().into_bool().unwrap_or_else(|_| {
            self.wrong(key, &value, "true or false");
            false
        })
    }

    /// Permission bits in octal, none outside `allowed`.
    pub(super) fn octal(&mut self, key: &str, allowed: u32) -> u32 {
        let text = self.text(key);
        match u32::from_str_radix(&text, 8) {
            Ok(mode) if mode & !allowed == 0 && mode & 0o600 == 0o600 => mode,
            _ => {
                self.problem(
                    key,
                    &format!("is \"{text}\"; it must be octal permissions from \"0600\" to \"{allowed:04o}\""),
                );
                0o600
            }
        }
    }

    /// A list of user ids; from the environment, separated by commas.
    pub(super) fn uids(&mut self, key: &str) -> Vec<u32> {
        let Some(value) = self.take(key) else {
            return Vec::new();
        };
        let list: Option<Vec<u32>> = match text_of(&value) {
            Some(text) => text
                .split(',')
                .filter(|part| !part.is_empty())
                .map(|part| part.trim().parse().ok())
                .collect(),
            None => value.clone().into_array().ok().and_then(|items| {
                items
                    .into_iter()
                    .map(|item| item.into_uint().ok()?.try_into().ok())
                    .collect()
            }),
        };
        list.unwrap_or_else(|| {
            self.wrong(key, &value, "a list of user ids");
            Vec::new()
        })
    }

    /// Any of the given words: a list, or a text with commas.
    pub(super) fn words<T: Copy>(&mut self, key: &str, words: &[(&str, T)]) -> Vec<T> {
        let Some(value) = self.take(key) else {
            return Vec::new();
        };
        let meaning = |text: &str| {
            let found = words.iter().find(|(word, _)| *word == text);
            found.map(|(_, meaning)| *meaning)
        };
        let list: Option<Vec<T>> = match text_of(&value) {
            Some(text) => text
                .split(',')
                .filter(|part| !part.trim().is_empty())
                .map(|part| meaning(part.trim()))
                .collect(),
            None => value.clone().into_array().ok().and_then(|items| {
                items
                    .into_iter()
                    .map(|item| text_of(&item).and_then(meaning))
                    .collect()
            }),
        };
        list.unwrap_or_else(|| {
            let expected = format!("a list of {}", quoted(words));
            self.wrong(key, &value, &expected);
            Vec::new()
        })
    }

    /// One of the given words.
    pub(super) fn word<T: Copy>(&mut self, key: &str, words: &[(&str, T)]) -> T {
        self.word_or(key, words, words[0].1)
    }

    /// One of the given words; `otherwise` if it is none of them, which is a problem.
    pub(super) fn word_or<T: Copy>(&mut self, key: &str, words: &[(&str, T)], otherwise: T) -> T {
        let text = self.text(key);
        if let Some((_, meaning)) = words.iter().find(|(word, _)| *word == text) {
            return *meaning;
        }
        self.problem(
            key,
            &format!("is \"{text}\"; it must be one of {}", quoted(words)),
        );
        otherwise
    }
}

fn flatten(prefix: &str, table: BTreeMap<String, Value>, out: &mut BTreeMap<String, Value>) {
    for (key, value) in table {
        let key = if prefix.is_empty() {
            key
        } else {
            format!("{prefix}.{key}")
        };
        if let ValueKind::Table(inner) = value.kind {
            flatten(&key, inner.into_iter().collect(), out);
        } else {
            out.insert(key, value);
        }
    }
}

fn text_of(value: &Value) -> Option<&str> {
    if let ValueKind::String(text) = &value.kind {
        Some(text)
    } else {
        None
    }
}

/// The words that are allowed, for people.
fn quoted<T>(words: &[(&str, T)]) -> String {
    let words: Vec<_> = words
        .iter()
        .map(|(word, _)| format!("\"{word}\""))
        .collect();
    words.join(", ")
}

fn shown(value: &Value) -> String {
    text_of(value).map_or_else(|| value.to_string(), |text| format!("\"{text}\""))
}

/// Whether two keys differ by at most two characters at one place: a slip of the finger.
fn is_near(known: &str, key: &str) -> bool {
    let common = known
        .bytes()
        .zip(key.bytes())
        .take_while(|(a, b)| a == b)
        .count();
    let rest = known.len().min(key.len()) - common;
    let tail = known
        .bytes()
        .rev()
        .zip(key.bytes().rev())
        .take(rest)
        .take_while(|(a, b)| a == b)
        .count();
    known.len().max(key.len()) - common - tail <= 2
}

/// A size in bytes: digits and an optional unit (B, kB, MB, GB, TB, KiB, MiB, GiB, TiB).
pub(crate) fn parse_bytes(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = text
        .find(|letter: char| !letter.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor: u64 = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "kb" | "k" => 1_000,
        "mb" | "m" => 1_000_000,
        "gb" | "g" => 1_000_000_000,
        "tb" | "t" => 1_000_000_000_000,
        "kib" => 1 << 10,
        "mib" => 1 << 20,
        "gib" => 1 << 30,
        "tib" => 1 << 40,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(factor)
}
