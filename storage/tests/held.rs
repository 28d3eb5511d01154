//! What a program outside holds by path: whole, unchanged, and there until it is released, whatever
//! becomes of where it came from.

#![expect(clippy::unwrap_used, reason = "a test that fails may panic")]

mod common;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use common::{SLOT, World, base_name, read_file, scratch, write_file};
use kmerge_storage::{Digest, ExportError, Generation, GenerationRecord};

const TENSORS: &str = "adapter_model.safetensors";

/// An exported generation and its directory.
fn exported(world: &mut World, bytes: &[u8]) -> (Arc<GenerationRecord>, PathBuf) {
    world.push("a", SLOT, bytes);
    let catalog = world.catalog();
    let record = catalog.generation(&base_name(), SLOT, Generation(1));
    let record = Arc::clone(record.unwrap());
    let reader = &world.open().reader;
    let files: [(&str, &[u8]); 1] = [("adapter_config.json", b"{}")];
    let path = reader.publish_export(&record, "peft", TENSORS, &files);
    (record, path.unwrap())
}

#[test]
fn it_outlives_its_generation_and_a_restart_without_taking_room_beside_it() {
    let mut world = World::new();
    let (_, export) = exported(&mut world, &vec![7; 100_000]);
    let reader = world.open().reader.clone();
    let before = reader.disk_usage(&world.catalog()).unwrap();
    let holdings = world.open().reader.holdings("vllm", None).unwrap();
    let held = holdings.hold("tiny-a.g1.0011", &export).unwrap();
    assert_eq!(held, world.path().join("runtimes/vllm/tiny-a.g1.0011"));
    assert_eq!(read_file(&held.join(TENSORS)), vec![7; 100_000]);
    let after = reader.disk_usage(&world.catalog()).unwrap();
    // Directories are all that was added.
    assert!(after.total - before.total < 50_000, "{before:?} {after:?}");

    world.push("b", SLOT, b"second");
    world.collect(Duration::ZERO);
    assert!(!export.exists());
    drop((holdings, reader));
    world.reopen();
    let holdings = world.open().reader.holdings("vllm", None).unwrap();
    assert_eq!(holdings.names().unwrap(), ["tiny-a.g1.0011"]);
    let files = holdings.open("tiny-a.g1.0011").unwrap();
    let names: Vec<_> = files.iter().map(|file| file.name.as_str()).collect();
    assert_eq!(names, ["adapter_config.json", TENSORS]);
    assert_eq!(files[1].digest, Digest::of(&[7; 100_000]));

    holdings.release("tiny-a.g1.0011").unwrap();
    holdings.release("tiny-a.g1.0011").unwrap();
    assert_eq!(holdings.names().unwrap(), [""; 0]);
    assert!(!held.exists());
}

#[test]
fn a_name_that_is_held_never_changes() {
    let mut world = World::new();
    let (_, export) = exported(&mut world, b"first");
    let holdings = world.open().reader.holdings("vllm", None).unwrap();
    let held = holdings.hold("name", &export).unwrap();
    let other = scratch();
    write_file(&other.path().join(TENSORS), b"other");
    assert_eq!(holdings.hold("name", other.path()).unwrap(), held);
    assert_eq!(read_file(&held.join(TENSORS)), b"first");
}

#[test]
fn what_is_not_whole_is_no_adapter() {
    let mut world = World::new();
    let (_, export) = exported(&mut world, b"first");
    let holdings = world.open().reader.holdings("vllm", None).unwrap();
    let gone = world.path().join("exports/peft/tiny/slot-0/99");
    let refused = holdings.hold("name", &gone).unwrap_err();
    assert!(matches!(refused, ExportError::File(_)), "{refused}");
    let left = world.path().join("runtimes/vllm/.unfinished-other");
    common::make_directories(&left);
    assert_eq!(holdings.names().unwrap(), [""; 0]);
    world.open().reader.holdings("vllm", None).unwrap();
    assert!(!left.exists());
    assert!(!world.path().join("runtimes/vllm/.unfinished-name").exists());
    for name in [
        "",
        ".",
        "..",
        "../up",
        ".hidden",
        "a/b",
        "a b",
        &"x".repeat(300),
    ] {
        let refused = holdings.hold(name, &export).unwrap_err();
        assert!(matches!(refused, ExportError::FileName { .. }), "{name}");
        assert!(holdings.release(name).is_err(), "{name}");
    }
    assert!(world.open().reader.holdings("../up", None).is_err());
}

#[test]
fn it_can_be_elsewhere_and_holders_that_nobody_names_are_released() {
    let mut world = World::new();
    let (_, export) = exported(&mut world, b"first");
    let elsewhere = scratch();
    let directory = elsewhere.path().join("deep/adapters");
    let reader = world.open().reader.clone();
    let outside = reader.holdings("outside", Some(&directory)).unwrap();
    outside.hold("name", &export).unwrap();
    assert_eq!(read_file(&directory.join("name").join(TENSORS)), b"first");
    for holder in ["kept", "left"] {
        let holdings = reader.holdings(holder, None).unwrap();
        holdings.hold("name", &export).unwrap();
    }
    let gone = reader.release_other_holders(&["kept", "outside"]).unwrap();
    assert_eq!(gone, ["left"]);
    let kept = reader.holdings("kept", None).unwrap();
    assert_eq!(kept.names().unwrap(), ["name"]);
    assert!(directory.join("name").is_dir());
}
