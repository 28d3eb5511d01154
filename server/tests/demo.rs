//! `kmerge demo` from end to end, in both formats: real adapters through a daemon of its own, of
//! which nothing is left but the export.

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]
#![expect(clippy::disallowed_methods, reason = "the tests read their own files")]

mod support;

use std::path::{Path, PathBuf};
use std::process::Command;

use kmerge_storage::Digest;
use serde_json::Value;
use support::adapters::{Files, demo_directory};
use support::command::{Ran, kmerge, run};
use support::files_below;

/// The demo's tasks, by their directories.
fn tasks() -> Vec<String> {
    let entries = std::fs::read_dir(demo_directory()).unwrap();
    let directories = entries
        .map(Result::unwrap)
        .filter(|entry| entry.path().is_dir());
    let mut tasks: Vec<String> = directories
        .map(|entry| entry.file_name().into_string().unwrap())
        .collect();
    tasks.sort();
    tasks
}

/// A place of its own for everything that the demo makes outside its export.
struct Room {
    directory: tempfile::TempDir,
}

impl Room {
    fn new() -> Self {
        let directory = tempfile::Builder::new().prefix("kmd-").tempdir().unwrap();
        std::fs::create_dir(directory.path().join("tmp")).unwrap();
        Self { directory }
    }

    fn temporary(&self) -> PathBuf {
        self.directory.path().join("tmp")
    }

    fn out(&self) -> PathBuf {
        self.directory.path().join("out")
    }

    /// The demo's command. Its daemon's arguments name this room, and nothing else does.
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = kmerge();
        command
            .env("TMPDIR", self.temporary())
            .arg("demo")
            .args(arguments);
        command
    }

    /// Runs it to its end, with the export at [`Room::out`].
    fn run(&self, arguments: &[&str]) -> Ran {
        run(self.command(arguments).arg("--out").arg(self.out()))
    }

    /// The processes whose command line names this room.
    fn processes(&self) -> Vec<String> {
        let output = Command::new("ps")
            .args(["-A", "-o", "args="])
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(!text.is_empty(), "ps lists processes");
        let room = self.directory.path().to_str().unwrap();
        let lines = text.lines().filter(|line| line.contains(room));
        lines.map(str::to_owned).collect()
    }

    /// Nothing runs, and nothing lies in the temporary directory: no socket, no state.
    fn assert_swept(&self) {
        assert_eq!(self.processes(), Vec::<String>::new());
        let left: Vec<_> = std::fs::read_dir(self.temporary()).unwrap().collect();
        assert!(
            left.is_empty(),
            "{left:?}, {:?}",
            files_below(&self.temporary())
        );
    }
}

/// The export is a PEFT directory with these digests.
fn check_export(out: &Path, files: &Value) {
    let export = Files::read(out);
    let digest = |name: &str| {
        let files = files.as_array().unwrap().iter();
        let mut named = files.filter(|file| file["name"] == name);
        named.next().unwrap()["sha256"].clone()
    };
    assert_eq!(
        digest("adapter_model.safetensors"),
        Digest::of(&export.tensors).to_string()
    );
    assert_eq!(
        digest("adapter_config.json"),
        Digest::of(&export.config).to_string()
    );
    safetensors::SafeTensors::deserialize(&export.tensors).unwrap();
    let config: Value = serde_json::from_slice(&export.config).unwrap();
    assert_eq!(config["peft_type"], "LORA");
    assert_eq!(config["lora_alpha"], config["r"]);
}

#[test]
fn for_people() {
    let room = Room::new();
    let ran = room.run(&[]);
    assert_eq!(ran.code, 0, "{ran:?}");
    for task in tasks() {
        assert!(ran.stdout.contains(&task), "{task}: {}", ran.stdout);
    }
    for words in [
        "opened slot 0",
        "opened slot 2",
        "merged slot",
        "Which slot serves a task",
        "What to type next",
        room.out().to_str().unwrap(),
    ] {
        assert!(ran.stdout.contains(words), "{words}: {}", ran.stdout);
    }
    assert!(!ran.stdout.contains('\u{1b}'), "stdout is no terminal");
    Files::read(&room.out());
    room.assert_swept();
}

#[test]
fn for_programs() {
    let room = Room::new();
    let ran = room.run(&[
        "--slots",
        "2",
        "--operator",
        "kmerge-linear",
        "--format",
        "json",
    ]);
    assert_eq!((ran.code, ran.stderr.as_str()), (0, ""), "{ran:?}");
    let story = ran.json();
    assert_eq!(story["base_model"]["policy"]["slots"], 2);
    assert_eq!(story["base_model"]["policy"]["operator"], "kmerge-linear");
    let jobs = story["jobs"].as_array().unwrap();
    let mut pushed: Vec<&str> = jobs
        .iter()
        .map(|job| job["task"].as_str().unwrap())
        .collect();
    pushed.sort_unstable();
    assert_eq!(pushed, tasks());
    assert!(jobs.iter().all(|job| job["state"] == "done"), "{jobs:?}");
    // With two slots the first two open them and everyone else is merged.
    let assignments: Vec<&Value> = jobs
        .iter()
        .map(|job| &job["decision"]["assignment"])
        .collect();
    assert_eq!(
        assignments.iter().filter(|word| **word == "opened").count(),
        2
    );
    assert_eq!(
        assignments.iter().filter(|word| **word == "merged").count(),
        jobs.len() - 2
    );
    let members: usize = story["slots"]
        .as_array()
        .unwrap()
        .iter()
        .map(|slot| slot["members"].as_array().unwrap().len())
        .sum();
    assert_eq!(members, jobs.len(), "each task is in one slot");
    assert_eq!(story["resolved"].as_array().unwrap().len(), 2);
    assert_eq!(story["export"]["out"], room.out().to_str().unwrap());
    check_export(&room.out(), &story["export"]["files"]);
    room.assert_swept();
}

#[test]
fn without_a_place_named_the_export_is_all_that_stays() {
    let room = Room::new();
    let ran = run(&mut room.command(&["--json"]));
    assert_eq!(ran.code, 0, "{ran:?}");
    let story = ran.json();
    let out = PathBuf::from(story["export"]["out"].as_str().unwrap());
    assert!(out.starts_with(room.temporary()), "{}", out.display());
    check_export(&out, &story["export"]["files"]);
    let factors = std::fs::read(out.join("adapter_model.safetensors")).unwrap();
    assert!(
        !safetensors::SafeTensors::deserialize(&factors)
            .unwrap()
            .is_empty()
    );
    let left = files_below(&room.temporary());
    assert!(
        left.iter()
            .all(|file| room.temporary().join(file).starts_with(&out)),
        "{left:?}"
    );
    assert_eq!(room.processes(), Vec::<String>::new());
}

#[test]
fn a_daemon_that_cannot_start_is_told_with_its_log() {
    let room = Room::new();
    let ran = room.run(&["--kmerged", "/bin/false"]);
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.stderr.contains("kmerged ended by itself"), "{ran:?}");
    assert!(!room.out().exists());
    assert_eq!(room.processes(), Vec::<String>::new());
}
