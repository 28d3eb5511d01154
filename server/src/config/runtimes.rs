//! The `[[runtime]]` entries: each becomes a checked [`RuntimeConfig`], or a problem with its key.
//!
//! An entry has no default in the shipped file, so its defaults are here. Which keys a kind needs and
//! which it has no use for is the table in [`needs`]; a key that would be ignored is a mistake.

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use kmerge_merge::Format;

use super::keys::{Default, Keys};
use crate::runtimes::desired::{Pattern, Selection};
use crate::runtimes::http::{Address, Secret};

/// The most runtimes, and the most adapters of one.
const MOST_RUNTIMES: usize = 32;
const MOST_ADAPTERS: u64 = 4096;

/// The longest secret, in bytes.
const MOST_SECRET_BYTES: usize = 4096;

/// The name pattern where none is given.
const PATTERN: &str = "{base_model}-{task}";

/// A runtime that is told of new generations.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuntimeConfig {
    /// Its name.
    pub name: String,
    /// What it is.
    pub kind: RuntimeKind,
    /// Where it listens, if it is called.
    pub address: Option<Address>,
    /// Which adapters it is given, and how they are called.
    pub selection: Selection,
    /// The format of their files.
    pub format: Format,
    /// A bearer token, or the key of signatures.
    pub secret: Option<Secret>,
    /// A command: of the kind exec, or what starts a runtime again.
    pub command: Vec<String>,
    /// Where its files are put, if not in the state directory.
    pub directory: Option<PathBuf>,
    /// The runtime's own name of the base model.
    pub model: String,
    /// That directory as the runtime sees it, if it sees it elsewhere.
    pub seen_as: Option<PathBuf>,
    /// How long a call may take.
    pub timeout: Duration,
    /// How long a call that loads, or a command, may take.
    pub load_timeout: Duration,
    /// How often it is asked what it has.
    pub probe: Duration,
    /// How long an old adapter stays after the new one has taken its place.
    pub drain: Duration,
}

/// What a runtime is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RuntimeKind {
    /// A directory that something looks into.
    Directory,
    /// A command for each step.
    Exec,
    /// llama.cpp's server.
    LlamaServer,
    /// LoRAX.
    Lorax,
    /// mistral.rs's server.
    MistralRs,
    /// Ollama.
    Ollama,
    /// SGLang's server.
    Sglang,
    /// vLLM's OpenAI-compatible server.
    Vllm,
    /// A receiver of signed events.
    Webhook,
}

impl RuntimeKind {
    const ALL: [Self; 9] = [
        Self::Directory,
        Self::Exec,
        Self::LlamaServer,
        Self::Lorax,
        Self::MistralRs,
        Self::Ollama,
        Self::Sglang,
        Self::Vllm,
        Self::Webhook,
    ];

    /// Its word in the configuration.
    pub fn word(self) -> &'static str {
        match self {
            Self::Directory => "directory",
            Self::Exec => "exec",
            Self::LlamaServer => "llama-server",
            Self::Lorax => "lorax",
            Self::MistralRs => "mistralrs",
            Self::Ollama => "ollama",
            Self::Sglang => "sglang",
            Self::Vllm => "vllm",
            Self::Webhook => "webhook",
        }
    }
}

impl fmt::Display for RuntimeKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// Whether a kind has a use for a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Need {
    Required,
    Optional,
    Useless,
}

/// What a kind needs.
#[derive(Debug, Clone, Copy)]
struct Needs {
    address: Need,
    command: Need,
    secret: Need,
    model: Need,
    /// The formats that it reads; the first is the default.
    formats: &'static [Format],
}

fn needs(kind: RuntimeKind) -> Needs {
    use Need::{Optional, Required, Useless};
    let any: &[Format] = &Format::ALL;
    let (peft, gguf): (&[Format], &[Format]) = (&[Format::Peft], &[Format::Gguf]);
    let (address, command, secret, model, formats) = match kind {
        RuntimeKind::Directory => (Useless, Useless, Useless, Useless, any),
        RuntimeKind::Exec => (Useless, Required, Useless, Useless, any),
        RuntimeKind::LlamaServer => (Required, Optional, Optional, Useless, gguf),
        RuntimeKind::Ollama => (Required, Useless, Optional, Required, gguf),
        RuntimeKind::Lorax | RuntimeKind::MistralRs | RuntimeKind::Sglang | RuntimeKind::Vllm => {
            (Required, Useless, Optional, Useless, peft)
        }
        RuntimeKind::Webhook => (Required, Useless, Required, Useless, any),
    };
    Needs {
        address,
        command,
        secret,
        model,
        formats,
    }
}

/// The keys of an entry with what they are if they are not given.
const DEFAULTS: &[(&str, Default)] = &[
    ("name", Default::Text("")),
    ("kind", Default::Text("")),
    ("address", Default::Text("")),
    ("base_model", Default::Text("")),
    ("tasks", Default::List),
    ("slots", Default::List),
    ("pattern", Default::Text(PATTERN)),
    ("format", Default::Text("")),
    ("max_adapters", Default::Number(64)),
    ("secret_file", Default::Text("")),
    ("command", Default::List),
    ("model", Default::Text("")),
    ("directory", Default::Text("")),
    ("seen_as", Default::Text("")),
    ("timeout_seconds", Default::Number(10)),
    ("load_seconds", Default::Number(120)),
    ("probe_seconds", Default::Number(30)),
    ("drain_seconds", Default::Number(60)),
];

/// Reads all entries. What is wrong becomes a problem of its key; entries with problems are left out.
pub(super) fn runtimes(keys: &mut Keys) -> Vec<RuntimeConfig> {
    let entries = keys.entries("runtime", DEFAULTS);
    if entries.len() > MOST_RUNTIMES {
        keys.problem(
            "runtime",
            &format!(
                "has {} entries; there may be {MOST_RUNTIMES}",
                entries.len()
            ),
        );
    }
    let mut names = BTreeSet::new();
    let mut directories = BTreeSet::new();
    let mut names_at = BTreeSet::new();
    let mut found = Vec::new();
    for entry in entries.iter().take(MOST_RUNTIMES) {
        let Some(runtime) = runtime(keys, entry) else {
            continue;
        };
        if !names.insert(runtime.name.clone()) {
            let what = format!("is \"{}\", which another entry has", runtime.name);
            keys.problem(&format!("{entry}.name"), &what);
        }
        if let Some(directory) = &runtime.directory
            && !directories.insert(directory.clone())
        {
            keys.problem(
                &format!("{entry}.directory"),
                "is another entry's too; each needs one of its own",
            );
        }
        // Under one name, each of two would unload what the other has loaded.
        if let Some(address) = &runtime.address
            && runtime.kind != RuntimeKind::Webhook
            && !names_at.insert((address.to_string(), runtime.selection.stems()))
        {
            keys.problem(
                &format!("{entry}.pattern"),
                "makes the same names at the same address as another entry; put {base_model} or a \
                 word of its own into one of them",
            );
        }
        found.push(runtime);
    }
    found
}

fn runtime(keys: &mut Keys, entry: &str) -> Option<RuntimeConfig> {
    let key = |name: &str| format!("{entry}.{name}");
    let name = name(keys, &key("name"));
    let words: Vec<_> = RuntimeKind::ALL
        .iter()
        .map(|kind| (kind.word(), Some(*kind)))
        .collect();
    let kind = keys.word_or(&key("kind"), &words, None);
    let base_model = keys.parsed(&key("base_model"), "the name of a base model");
    let tasks = keys.all_parsed(&key("tasks"), "names of tasks");
    let slots = keys
        .all_parsed::<u32>(&key("slots"), "numbers of slots")
        .into_iter()
        .map(kmerge_storage::SlotIndex)
        .collect();
    let pattern = keys.text(&key("pattern"));
    let pattern = Pattern::parse(&pattern)
        .map_err(|error| keys.problem(&key("pattern"), &format!("is \"{pattern}\"; it {error}")));
    let most = keys.count(&key("max_adapters"), 1..=MOST_ADAPTERS);
    let given = Given {
        address: keys.text(&key("address")),
        command: keys.texts(&key("command")),
        secret_file: keys.path(&key("secret_file")),
        format: keys.text(&key("format")),
        model: keys.text(&key("model")),
    };
    let directory = keys.path(&key("directory"));
    let seen_as = keys.path(&key("seen_as"));
    let timeout = keys.seconds(&key("timeout_seconds"), 1..=600);
    let load_timeout = keys.seconds(&key("load_seconds"), 1..=3600);
    let probe = keys.seconds(&key("probe_seconds"), 1..=3600);
    let drain = keys.seconds(&key("drain_seconds"), 0..=7 * 24 * 3600);
    // Without a kind, nothing can be said of what depends on it.
    let kind = kind?;
    let Kept {
        address,
        command,
        secret,
        format,
        model,
    } = given.check(keys, entry, kind);
    Some(RuntimeConfig {
        name: name?,
        kind,
        address,
        selection: Selection {
            base_model: base_model?,
            tasks,
            slots,
            pattern: pattern.ok()?,
            most,
        },
        format,
        secret,
        command,
        directory,
        model,
        seen_as,
        timeout,
        load_timeout,
        probe,
        drain,
    })
}

fn name(keys: &mut Keys, key: &str) -> Option<String> {
    let text = keys.text(key);
    let plain = !text.is_empty()
        && text.len() <= 64
        && text.bytes().all(|byte| {
            byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_-".contains(&byte)
        });
    if plain {
        return Some(text);
    }
    let what = if text.is_empty() {
        "is not set; each runtime needs a name of its own".to_owned()
    } else {
        format!("is \"{text}\"; it must be small letters, digits, '_' and '-', at most 64")
    };
    keys.problem(key, &what);
    None
}

/// What an entry says where it depends on the kind.
struct Given {
    address: String,
    command: Vec<String>,
    secret_file: Option<PathBuf>,
    format: String,
    model: String,
}

/// The same, checked.
struct Kept {
    address: Option<Address>,
    command: Vec<String>,
    secret: Option<Secret>,
    format: Format,
    model: String,
}

impl Given {
    fn check(self, keys: &mut Keys, entry: &str, kind: RuntimeKind) -> Kept {
        let needs = needs(kind);
        let mut fits = |name: &str, given: bool, need: Need| {
            let what = match (need, given) {
                (Need::Required, false) => format!("is not set; the kind {kind} needs it"),
                (Need::Useless, true) => format!("is set, and the kind {kind} has no use for it"),
                (Need::Required, true) | (Need::Useless, false) | (Need::Optional, _) => {
                    return given;
                }
            };
            keys.problem(&format!("{entry}.{name}"), &what);
            false
        };
        let has_address = fits("address", !self.address.is_empty(), needs.address);
        let has_command = fits("command", !self.command.is_empty(), needs.command);
        fits("model", !self.model.is_empty(), needs.model);
        let has_secret = fits("secret_file", self.secret_file.is_some(), needs.secret);
        let address = has_address
            .then(|| Address::parse(&self.address))
            .and_then(|parsed| match parsed {
                Ok(address) => Some(address),
                Err(error) => {
                    let what = format!("is \"{}\"; it {error}", self.address);
                    keys.problem(&format!("{entry}.address"), &what);
                    None
                }
            });
        if has_command && !Path::new(&self.command[0]).is_absolute() {
            let what = format!(
                "begins with \"{}\"; the program must be an absolute path",
                self.command[0]
            );
            keys.problem(&format!("{entry}.command"), &what);
        }
        let secret = self.secret_file.filter(|_| has_secret).and_then(|path| {
            read_secret(&path)
                .map_err(|what| keys.problem(&format!("{entry}.secret_file"), &what))
                .ok()
        });
        // A signature does not give its key away; a token is what it is.
        let sends_token = secret.is_some() && kind != RuntimeKind::Webhook;
        if sends_token && address.as_ref().is_some_and(|address| !address.is_local()) {
            keys.problem(
                &format!("{entry}.secret_file"),
                "would send a token unencrypted to another machine; use a loopback address or a \
                 Unix socket",
            );
        }
        let words: Vec<_> = needs.formats.iter().map(|format| format.name()).collect();
        let format = if self.format.is_empty() {
            Some(&needs.formats[0])
        } else {
            let wanted = |format: &&Format| format.name() == self.format;
            needs.formats.iter().find(wanted)
        };
        let format = format.copied().unwrap_or_else(|| {
            let what = format!(
                "is \"{}\"; the kind {kind} reads {}",
                self.format,
                words.join(", ")
            );
            keys.problem(&format!("{entry}.format"), &what);
            needs.formats[0]
        });
        Kept {
            address,
            command: self.command,
            secret,
            format,
            model: self.model,
        }
    }
}

/// Reads a secret: the file's text without the white space around it.
#[expect(
    clippy::disallowed_methods,
    reason = "a secret is its owner's file, outside the state directory"
)]
fn read_secret(path: &Path) -> Result<Secret, String> {
    use std::os::unix::fs::PermissionsExt as _;

    let shown = path.display();
    let metadata = std::fs::metadata(path).map_err(|error| format!("is {shown}: {error}"))?;
    if metadata.permissions().mode() & 0o007 != 0 {
        return Err(format!(
            "is {shown}, which everyone may read or write: chmod o= it"
        ));
    }
    if metadata.len() > MOST_SECRET_BYTES as u64 {
        return Err(format!("is {shown}, which is too long for a secret"));
    }
    let bytes = std::fs::read(path).map_err(|error| format!("is {shown}: {error}"))?;
    let bytes = bytes.trim_ascii();
    if bytes.is_empty() || !bytes.iter().all(u8::is_ascii_graphic) {
        return Err(format!(
            "is {shown}, which must have one word of plain letters in it"
        ));
    }
    Ok(Secret::new(bytes.to_vec()))
}

#[cfg(test)]
mod tests;
