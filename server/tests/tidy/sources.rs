//! What a source file may say, and where: sizes, openings, who names files, sled and the clock.

use std::path::{Component, Path};

use crate::code::{Code, NamedPath};

/// A file of the workspace, its path from the workspace's root with `/` between the parts.
#[derive(Debug)]
pub(crate) struct Source {
    pub(crate) path: String,
    pub(crate) text: String,
}

impl Source {
    fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }

    fn is_in(&self, directory: &str) -> bool {
        Path::new(&self.path).starts_with(directory)
    }

    /// Whether the file is for tests, benches or a build: none of it runs in a program.
    fn is_for_tests(&self) -> bool {
        let path = Path::new(&self.path);
        let directories = path.parent().into_iter().flat_map(Path::components);
        let outside = ["tests", "benches", "examples", "fuzz"];
        directories
            .filter_map(|part| match part {
                Component::Normal(name) => name.to_str(),
                Component::Prefix(_)
                | Component::RootDir
                | Component::CurDir
                | Component::ParentDir => None,
            })
            .any(|name| outside.contains(&name))
            || matches!(
                path.file_name().and_then(|name| name.to_str()),
                Some("tests.rs" | "build.rs")
            )
    }

    /// The paths that the file's code names; nothing for a file that is not Rust.
    fn paths(&self) -> Vec<NamedPath> {
        if self.is_rust() {
            Code::of(&self.text).paths()
        } else {
            Vec::new()
        }
    }

    /// The same without what only tests run.
    fn shipped_paths(&self) -> Vec<NamedPath> {
        if self.is_rust() && !self.is_for_tests() {
            Code::of(&self.text).shipped().paths()
        } else {
            Vec::new()
        }
    }
}

/// The most lines that a file may have.
const MAX_LINES: usize = 800;

/// What `server/merge/src` must not name, not even in its unit tests, and why.
const IMPURE: &[(&str, &str)] = &[
    ("std::fs", "no files"),
    ("std::net", "no network"),
    ("std::process", "no processes"),
    ("std::time", "no clock"),
    ("std::env", "no environment"),
    ("tokio", "no async"),
    ("tonic", "no transport"),
    ("prost", "no transport"),
    ("sled", "no catalog"),
    ("tracing", "no logging"),
];

/// How threads begin. Shipped code of `server/merge/src` uses its caller's pool; its unit tests
/// may make pools to run it in. `std::` may be left out where `std::thread` is in scope.
const THREADS: &[&str] = &[
    "thread::spawn",
    "thread::scope",
    "thread::Builder",
    "ThreadPoolBuilder",
    "rayon::spawn",
];

/// Where files may be opened, made, moved or removed by shipped code, and why.
const FILE_ACCESS: &[(&str, &str)] = &[
    (
        "storage/src/durable.rs",
        "every durable step of the state directory, in one file",
    ),
    (
        "client/src",
        "the command line reads and writes its user's files",
    ),
    (
        "server/src/grpc/listener.rs",
        "the socket and its directory are the server's own",
    ),
    (
        "server/src/grpc/listener/secrets.rs",
        "the token and the certificates are whose who runs the daemon",
    ),
    (
        "server/src/config/runtimes.rs",
        "secrets are files of whoever configures a runtime",
    ),
    (
        "server/src/status_report.rs",
        "its own memory, from the system's process table",
    ),
];

/// Types that hold a file or say something of one, without a path in hand.
const FILE_TYPES: &[&str] = &[
    "std::fs::File",
    "std::fs::FileType",
    "std::fs::Metadata",
    "std::fs::Permissions",
    "std::fs::TryLockError",
];

/// What the server's tasks and queues must not be made with.
const UNOWNED: &[(&str, &str)] = &[
    (
        "tokio::spawn",
        "a task belongs to the tracker, so that a stop waits for it",
    ),
    (
        "mpsc::unbounded_channel",
        "a queue has a bound; a full one is an answer",
    ),
    (
        "std::sync::mpsc::channel",
        "a queue has a bound; a full one is an answer",
    ),
];

/// Marks of unfinished work, in halves so that this file passes itself.
const UNFINISHED: &[&str] = &[
    concat!("TO", "DO"),
    concat!("FIX", "ME"),
    concat!("XX", "X"),
    concat!("HA", "CK"),
];

/// Every way in which `sources` break the rules.
pub(crate) fn violations(sources: &[Source]) -> Vec<String> {
    [
        opening(sources),
        length(sources),
        purity(sources),
        one_catalog(sources),
        files(sources),
    ]
    .into_iter()
    .chain([ownership(sources), finished(sources)])
    .flatten()
    .collect()
}

fn opening(sources: &[Source]) -> Vec<String> {
    sources
        .iter()
        .filter(|source| source.is_rust() && !source.text.starts_with("//! "))
        .map(|source| format!("{} does not open with //! and its purpose", source.path))
        .collect()
}

fn length(sources: &[Source]) -> Vec<String> {
    let too_long = |source: &&Source| source.is_rust() && source.text.lines().count() > MAX_LINES;
    sources
        .iter()
        .filter(too_long)
        .map(|source| format!("{} has more than {MAX_LINES} lines; split it", source.path))
        .collect()
}

fn purity(sources: &[Source]) -> Vec<String> {
    let mut found = Vec::new();
    for source in sources
        .iter()
        .filter(|source| source.is_in("server/merge/src"))
    {
        for path in source.paths() {
            if let Some((_, why)) = IMPURE.iter().find(|(pattern, _)| path.is_in(pattern)) {
                found.push(format!(
                    "{} names {}: {why}",
                    place(source, &path),
                    path.text()
                ));
            }
        }
        for path in source.shipped_paths() {
            if THREADS.iter().any(|pattern| path.has(pattern)) {
                let place = place(source, &path);
                found.push(format!(
                    "{place} names {}: the caller's pool is used",
                    path.text()
                ));
            }
        }
    }
    found
}

fn one_catalog(sources: &[Source]) -> Vec<String> {
    let names_sled = |source: &&Source| source.paths().iter().any(|path| path.is_in("sled"));
    let (inside, outside): (Vec<&Source>, Vec<&Source>) = sources
        .iter()
        .filter(names_sled)
        .partition(|source| source.is_in("storage/src"));
    let mut found: Vec<_> = outside
        .iter()
        .map(|source| format!("{} names sled: only storage's catalog may", source.path))
        .collect();
    if inside.len() != 1 {
        let files: Vec<_> = inside.iter().map(|source| source.path.as_str()).collect();
        found.push(format!(
            "sled must be named in exactly one file of storage/src, not {files:?}"
        ));
    }
    found
}

fn files(sources: &[Source]) -> Vec<String> {
    let mut found = Vec::new();
    let mut used = vec![false; FILE_ACCESS.len()];
    for source in sources {
        let paths = source.shipped_paths();
        let Some(path) = paths.iter().find(|path| opens_files(path)) else {
            continue;
        };
        match FILE_ACCESS
            .iter()
            .position(|(place, _)| source.is_in(place))
        {
            Some(entry) => used[entry] = true,
            None => found.push(format!(
                "{} names {}: files belong to storage/src/durable.rs",
                place(source, path),
                path.text()
            )),
        }
    }
    for ((place, _), used) in FILE_ACCESS.iter().zip(used) {
        if !used {
            found.push(format!(
                "{place} opens no file any more; take it from the list"
            ));
        }
    }
    found
}

fn opens_files(path: &NamedPath) -> bool {
    let opens = [
        "File::open",
        "File::create",
        "File::create_new",
        "File::options",
    ];
    let by_module = path.is_in("std::fs") || path.is_in("tokio::fs");
    by_module && !FILE_TYPES.contains(&path.text().as_str())
        || opens.iter().any(|call| path.has(call))
}

fn ownership(sources: &[Source]) -> Vec<String> {
    let mut found = Vec::new();
    for source in sources.iter().filter(|source| source.is_in("server/src")) {
        for path in source.shipped_paths() {
            if let Some((_, why)) = UNOWNED.iter().find(|(pattern, _)| path.has(pattern)) {
                found.push(format!(
                    "{} names {}: {why}",
                    place(source, &path),
                    path.text()
                ));
            }
        }
    }
    found
}

fn finished(sources: &[Source]) -> Vec<String> {
    let mut found = Vec::new();
    for source in sources {
        for (number, line) in source.text.lines().enumerate() {
            let mut words = line.split(|letter: char| !letter.is_alphanumeric() && letter != '_');
            if let Some(word) = words.find(|word| UNFINISHED.contains(word)) {
                found.push(format!(
                    "{}:{} says {word}: finish it, or say what holds instead",
                    source.path,
                    number + 1
                ));
            }
        }
    }
    found
}

fn place(source: &Source, path: &NamedPath) -> String {
    format!("{}:{}", source.path, path.line)
}

/// One file, for the self-tests.
fn source(path: &str, text: &str) -> Vec<Source> {
    vec![Source {
        path: path.to_owned(),
        text: text.to_owned(),
    }]
}

#[test]
fn a_file_without_an_opening_is_found() {
    for text in ["fn f() {}", "// not a module's comment", "//!no blank"] {
        assert_eq!(opening(&source("proto/build.rs", text)).len(), 1, "{text}");
    }
    assert_eq!(
        opening(&source("proto/build.rs", "//! Says what it is for.\n")),
        [""; 0]
    );
    assert_eq!(opening(&source("proto/README.md", "# Not Rust")), [""; 0]);
}

#[test]
fn the_line_above_the_limit_is_found() {
    let lines = |count: usize| "x\n".repeat(count);
    assert_eq!(
        length(&source("client/src/lib.rs", &lines(MAX_LINES))),
        [""; 0]
    );
    assert_eq!(
        length(&source("client/tests/a.rs", &lines(MAX_LINES + 1))).len(),
        1
    );
}

#[test]
fn each_impurity_is_found_in_merge_and_only_there() {
    for (pattern, _) in IMPURE {
        let text = format!("//! x\nuse {pattern};");
        assert_eq!(
            purity(&source("server/merge/src/a.rs", &text)).len(),
            1,
            "{pattern}"
        );
        assert_eq!(purity(&source("server/merge/benches/a.rs", &text)), [""; 0]);
    }
    for text in [
        "use std::{io, time::Instant};",
        "fn f() { std :: env :: var(\"X\"); }",
        "use std::thread;\nfn f() { thread::spawn(|| ()); }",
        "#[cfg(test)] mod tests { use std::fs; }",
    ] {
        assert_eq!(
            purity(&source("server/merge/src/a/b.rs", text)).len(),
            1,
            "{text}"
        );
    }
    for begin in THREADS {
        let text = format!("fn f() {{ {begin}::x(); }}");
        assert_eq!(
            purity(&source("server/merge/src/a.rs", &text)).len(),
            1,
            "{begin}"
        );
        let in_tests = format!("#[cfg(test)]\nmod tests {{ {text} }}");
        assert_eq!(purity(&source("server/merge/src/a.rs", &in_tests)), [""; 0]);
    }
    for text in [
        "//! No tokio, no std::fs.\nuse std::io;",
        "let s = \"std::fs\";",
    ] {
        assert_eq!(
            purity(&source("server/merge/src/a.rs", text)),
            [""; 0],
            "{text}"
        );
    }
}

#[test]
fn sled_has_one_place() {
    let file = |path: &str| Source {
        path: path.to_owned(),
        text: "use sled::Db;".to_owned(),
    };
    assert_eq!(one_catalog(&[file("storage/src/a.rs")]), [""; 0]);
    assert_eq!(
        one_catalog(&[file("storage/src/a.rs"), file("storage/src/b.rs")]).len(),
        1
    );
    assert_eq!(
        one_catalog(&[file("storage/src/a.rs"), file("storage/tests/b.rs")]).len(),
        1
    );
    assert_eq!(one_catalog(&[]).len(), 1);
    for (text, named) in [
        ("fn f() { sled::open(x) }", 1),
        ("extern crate sled;", 1),
        ("fn f() { let sled = open(); drop(sled) }", 0),
        ("use crate::catalog_sled::SledStore;", 0),
    ] {
        let elsewhere = source("client/src/lib.rs", text).remove(0);
        let found = one_catalog(&[file("storage/src/a.rs"), elsewhere]);
        assert_eq!(found.len(), named, "{text}");
    }
}

#[test]
fn files_are_opened_where_the_list_says() {
    let unlisted = |path: &str, text: &str| {
        let of_list = |line: &String| line.contains("any more");
        files(&source(path, text))
            .into_iter()
            .filter(|line| !of_list(line))
            .count()
    };
    for text in [
        "use std::fs;",
        "std::fs::read(x)",
        "use tokio::fs::File;",
        "use std::fs::File; fn f() { File::open(x) }",
        "use std::fs::{File, OpenOptions};",
    ] {
        assert_eq!(unlisted("server/src/app.rs", text), 1, "{text}");
        assert_eq!(unlisted("storage/src/commit.rs", text), 1, "{text}");
        assert_eq!(unlisted("storage/src/durable.rs", text), 0, "{text}");
        assert_eq!(unlisted("storage/src/commit/tests.rs", text), 0, "{text}");
        assert_eq!(unlisted("server/tests/upload.rs", text), 0, "{text}");
        let in_tests = format!("#[cfg(test)]\nmod tests {{ {text} }}");
        assert_eq!(unlisted("server/src/app.rs", &in_tests), 0, "{text}");
    }
    assert_eq!(
        unlisted("storage/src/lock.rs", "use std::fs::{File, TryLockError};"),
        0
    );
}

#[test]
fn an_exception_that_nobody_needs_is_found() {
    assert_eq!(files(&[]).len(), FILE_ACCESS.len());
}

#[test]
fn tasks_and_queues_without_an_owner_are_found() {
    for (pattern, _) in UNOWNED {
        let text = format!("fn f() {{ {pattern}() }}");
        assert_eq!(
            ownership(&source("server/src/a.rs", &text)).len(),
            1,
            "{pattern}"
        );
        assert_eq!(ownership(&source("server/tests/a.rs", &text)), [""; 0]);
    }
    let text = "tracker.spawn(task); tokio::sync::mpsc::channel(4); tokio::task::spawn_blocking(f)";
    assert_eq!(ownership(&source("server/src/a.rs", text)), [""; 0]);
}

#[test]
fn unfinished_work_is_found_in_every_kind_of_file() {
    for word in UNFINISHED {
        for path in ["a.rs", "README.md", "deploy/install.sh"] {
            let text = format!("first\nsecond ({word}: later)");
            assert_eq!(finished(&source(path, &text)).len(), 1, "{path} {word}");
        }
        let text = format!("pre{word}post {}", word.to_lowercase());
        assert_eq!(finished(&source("a.rs", &text)), [""; 0]);
    }
}
