//! Names never become paths: thousands of hostile ones, as base model, task, request id, runtime and
//! page token, and no file anywhere that should not be there.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use kmerge_client::v1;
use tonic::transport::Channel;
use v1::adapter_service_client::AdapterServiceClient;
use v1::base_model_service_client::BaseModelServiceClient;
use v1::runtime_service_client::RuntimeServiceClient;
use v1::slot_service_client::SlotServiceClient;

use crate::support::adapters::small;
use crate::support::calls::{header, messages, policy, register, send};
use crate::support::{BASE, Setup, goldens};

/// In every hostile name, and in no other.
const MARK: &str = "kmx7q";

/// How many names there are, but for long runs.
const NAMES: usize = 5_000;

/// What hostile names are made of.
const PIECES: &[&str] = &[
    "..",
    ".",
    "/",
    "\\",
    "//",
    "../",
    "..\\",
    "/etc/",
    "/tmp/",
    "~",
    "~root",
    "$HOME",
    "${IFS}",
    "%2e",
    "%2e%2e%2f",
    "%00",
    "\0",
    "\n",
    "\r\n",
    "\t",
    " ",
    "\u{7f}",
    "\u{1b}[2J",
    "\u{202e}",
    "\u{feff}",
    "\u{2215}",
    "\u{ff0f}",
    "\u{2024}\u{2024}",
    "é",
    "e\u{301}",
    "A",
    "a",
    "0",
    "-",
    "--",
    "-rf",
    "_",
    "con",
    "nul",
    ".lock",
    ".tmp",
    "LOCK",
    "catalog",
    "token",
    "current",
    "staging",
    "manifests",
    "tensors",
    "'",
    "\"",
    "`",
    ";",
    "|",
    "&",
    "*",
    "?",
    "[",
    "]",
    "{}",
    "<",
    ">",
    "#",
    ":",
    "c:",
    "@",
    "=",
    "file://",
    "proc/self/environ",
    ".ssh/authorized_keys",
];

struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % limit
    }
}

fn names() -> Vec<String> {
    let count = NAMES * crate::factor();
    let mut random = Random(7);
    let mut names = BTreeSet::new();
    while names.len() < count {
        let mut name = String::new();
        let mark = random.below(4);
        for place in 0..4 {
            if place == mark {
                name.push_str(MARK);
            }
            for _ in 0..random.below(3) {
                name.push_str(PIECES[random.below(PIECES.len())]);
            }
        }
        // Also at, and above, the longest that is allowed.
        if random.below(50) == 0 {
            name.push_str(&"a".repeat(128 - name.len().min(128) + random.below(2)));
        }
        names.insert(name);
    }
    names.into_iter().collect()
}

/// Every file and directory below `directory`, itself left out.
fn tree(directory: &Path) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    let mut open = vec![directory.to_owned()];
    while let Some(next) = open.pop() {
        for entry in std::fs::read_dir(next).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                open.push(entry.path());
            }
            found.insert(entry.path());
        }
    }
    found
}

/// Directories into which a name that became a path would lead most easily.
fn neighbours() -> BTreeSet<PathBuf> {
    let here = std::env::current_dir().unwrap();
    let elsewhere = [
        "/",
        "/tmp",
        "/etc",
        "/var",
        "/root",
        "/home",
        "/proc/self/cwd",
    ];
    let directories = elsewhere.iter().map(PathBuf::from).chain([here]);
    let mut found = BTreeSet::new();
    for directory in directories {
        for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().contains(MARK) {
                found.insert(entry.path());
            }
        }
    }
    found
}

/// Uses a name in every place that takes one. How many calls were let through.
async fn use_everywhere(channel: &Channel, name: &str, config: &[u8]) -> usize {
    let mut adapters = AdapterServiceClient::new(channel.clone());
    let mut bases = BaseModelServiceClient::new(channel.clone());
    let mut slots = SlotServiceClient::new(channel.clone());
    let mut runtimes = RuntimeServiceClient::new(channel.clone());
    let name = || name.to_owned();
    let base = bases.register_base_model(v1::RegisterBaseModelRequest {
        name: name(),
        config: config.to_vec(),
        served_as: name(),
        ..v1::RegisterBaseModelRequest::default()
    });
    let task = slots.resolve_task(v1::ResolveTaskRequest {
        base_model: BASE.into(),
        task: name(),
    });
    let fetched = async {
        let mut slots = SlotServiceClient::new(channel.clone());
        let request = v1::FetchSlotRequest {
            base_model: BASE.into(),
            task: name(),
            ..v1::FetchSlotRequest::default()
        };
        let mut parts = slots.fetch_slot(request).await?.into_inner();
        parts.message().await
    };
    let forgotten = adapters.forget_task(v1::ForgetTaskRequest {
        base_model: BASE.into(),
        task: name(),
        request_id: name(),
        ..v1::ForgetTaskRequest::default()
    });
    let watched = runtimes.list_runtimes(v1::ListRuntimesRequest {
        page_token: name(),
        ..v1::ListRuntimesRequest::default()
    });
    let files = small(2, 1);
    let mut sent = header("valid", &files.config, &files.tensors);
    sent.task = name();
    sent.request_id = name();
    let upload = send(channel, messages(sent, &files.tensors));
    let (base, task, fetched, forgotten, watched, upload) =
        tokio::join!(base, task, fetched, forgotten, watched, upload);
    [
        base.is_ok(),
        task.is_ok(),
        fetched.is_ok(),
        forgotten.is_ok(),
        watched.is_ok(),
        upload.is_ok(),
    ]
    .iter()
    .filter(|is_ok| **is_ok)
    .count()
}

/// Whether a path may be there: below the directories that have names in them, under a valid name.
fn is_allowed(state: &Path, path: &Path) -> bool {
    let Ok(inner) = path.strip_prefix(state) else {
        return false;
    };
    let text = inner.to_string_lossy();
    if !text.contains(MARK) {
        return true;
    }
    let mut parts = inner.iter().map(|part| part.to_string_lossy().into_owned());
    let first = parts.next().unwrap_or_default();
    let is_plain = |part: &String| {
        part.bytes().all(|byte| {
            byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._-@".contains(&byte)
        })
    };
    ["base-models", "manifests", "exports"].contains(&first.as_str())
        && parts.all(|part| is_plain(&part))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_of_hostile_names_make_no_file_outside() {
    let mut daemon = Setup::default().start().await;
    let client = daemon.client().await;
    register(&client, BASE, policy(2)).await;
    let config = std::fs::read(goldens().join("base/config.json")).unwrap();
    let channel = daemon.channel().await;
    let top = |path: &Path| -> BTreeSet<PathBuf> {
        let entries = std::fs::read_dir(path).unwrap();
        entries.map(|entry| entry.unwrap().path()).collect()
    };
    let (room, state) = (daemon.room().to_owned(), daemon.state());
    let before = (top(&room), neighbours());
    let names = names();
    let mut let_through = 0;
    for name in &names {
        let_through += use_everywhere(&channel, name, &config).await;
    }
    println!(
        "{} names, {let_through} calls were let through",
        names.len()
    );
    // Request ids are free text, and some names are plain: else nothing would have been tried.
    assert!(let_through > 0);
    assert_eq!((top(&room), neighbours()), before);
    daemon.stop().await;
    let odd: Vec<_> = tree(&room)
        .into_iter()
        .filter(|path| path.starts_with(&state) && !is_allowed(&state, path))
        .collect();
    assert!(odd.is_empty(), "{odd:#?}");
    let known = top(&state);
    for path in known {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        assert!(!name.contains(MARK), "{name}");
    }
    // What was let through is still there after a restart, under its own name.
    daemon.launch();
    daemon.ready().await;
    daemon.client().await.list_base_models().await.unwrap();
    daemon.assert_quiet(&[]);
}
