//! The house rules, checked on the workspace as it is: which crate may depend on which, and what a
//! source file may say where. Each rule is also shown a violation of itself, so that none can pass
//! by finding nothing.
//!
//! ```text
//! client ──> proto <── server ──> merge
//!                        └──────> storage
//! ```

#![expect(
    clippy::disallowed_methods,
    reason = "reading the sources is the test's purpose"
)]

#[path = "tidy/code.rs"]
mod code;
#[path = "tidy/graph.rs"]
mod graph;
#[path = "tidy/sources.rs"]
mod sources;

use std::path::{Path, PathBuf};
use std::process::Command;

use graph::Graph;
use sources::Source;

fn root() -> PathBuf {
    let server = Path::new(env!("CARGO_MANIFEST_DIR"));
    server
        .parent()
        .expect("the server is a directory of the workspace")
        .to_owned()
}

#[test]
fn crates_depend_on_each_other_as_the_house_says() {
    // Without the dependencies themselves: those of other platforms need not have been fetched.
    let output = Command::new(env!("CARGO"))
        .args([
            "metadata",
            "--format-version",
            "1",
            "--offline",
            "--no-deps",
            "--locked",
        ])
        .current_dir(root())
        .output()
        .expect("cargo runs, as it runs this test");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "cargo metadata failed: {said}");
    let metadata = serde_json::from_slice(&output.stdout).expect("cargo metadata prints JSON");
    let lock = std::fs::read_to_string(root().join("Cargo.lock")).expect("Cargo.lock is there");
    let graph = Graph::read(&metadata, &lock.parse().expect("Cargo.lock is TOML"));
    assert!(
        graph.declared.len() >= 5 && graph.locked.contains_key("sled"),
        "{graph:?}"
    );
    report(&graph::violations(&graph));
}

#[test]
fn sources_keep_the_house_rules() {
    let mut sources = Vec::new();
    collect(&root(), &root(), &mut sources);
    for known in [
        "server/src/main.rs",
        "storage/src/lib.rs",
        "proto/build.rs",
        "Cargo.toml",
    ] {
        assert!(
            sources.iter().any(|source| source.path == known),
            "{known} was not read"
        );
    }
    report(&sources::violations(&sources));
}

/// All texts of the workspace below `directory`: code, manifests, scripts, pages.
fn collect(root: &Path, directory: &Path, sources: &mut Vec<Source>) {
    for entry in std::fs::read_dir(directory).expect("a directory of the workspace can be read") {
        let entry = entry.expect("a directory of the workspace can be read");
        let path = entry.path();
        let name = entry.file_name().to_string_lossy().into_owned();
        let kind = entry
            .file_type()
            .expect("a file of the workspace has a type");
        if kind.is_dir() {
            // Hidden directories and build results are not sources.
            if !name.starts_with('.') && name != "target" {
                collect(root, &path, sources);
            }
        } else if kind.is_file() && is_text(&name) {
            let text = std::fs::read_to_string(&path).expect("a text of the workspace is UTF-8");
            let inner = path.strip_prefix(root).expect("the walk began at the root");
            let parts: Vec<_> = inner.iter().map(|part| part.to_string_lossy()).collect();
            sources.push(Source {
                path: parts.join("/"),
                text,
            });
        }
    }
}

fn is_text(name: &str) -> bool {
    let extensions = ["rs", "md", "toml", "proto", "sh", "service", "plist"];
    Path::new(name)
        .extension()
        .and_then(|extension| extension.to_str())
        .is_some_and(|extension| extensions.contains(&extension))
}

fn report(violations: &[String]) {
    assert!(
        violations.is_empty(),
        "the house rules are broken:\n  {}",
        violations.join("\n  ")
    );
}
