//! Exports: whole directories that share the slot's tensors, and a link that never goes back.

#![expect(clippy::unwrap_used, reason = "a test that fails may panic")]

mod common;

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use common::{SLOT, World, base_name, read_file, remove};
use kmerge_storage::{Digest, ExportError, Generation, GenerationRecord, ReadError};

const FILES: &[(&str, &[u8])] = &[
    ("adapter_config.json", b"{\"r\":8}"),
    ("README.md", b"hello"),
];
const TENSORS: &str = "adapter_model.safetensors";

fn generation(world: &World, number: u64) -> Arc<GenerationRecord> {
    let catalog = world.catalog();
    Arc::clone(
        catalog
            .generation(&base_name(), SLOT, Generation(number))
            .unwrap(),
    )
}

fn publish(world: &mut World, number: u64) -> Result<std::path::PathBuf, ExportError> {
    let record = generation(world, number);
    world
        .open()
        .reader
        .publish_export(&record, "peft", TENSORS, FILES)
}

fn current(world: &World) -> String {
    let link = world.path().join("exports/peft/tiny/slot-0/current");
    std::fs::read_link(link)
        .unwrap()
        .to_str()
        .unwrap()
        .to_owned()
}

fn inode(path: &Path) -> u64 {
    std::fs::metadata(path).unwrap().ino()
}

#[test]
fn an_export_may_have_tensors_of_its_own() {
    let mut world = World::new();
    world.push("a", SLOT, b"tensors");
    let record = generation(&world, 1);
    let reader = world.open().reader.clone();
    let write = |bytes: &[u8]| {
        let mut writer = reader.new_export("adapter.gguf").unwrap();
        writer.write(bytes).unwrap();
        writer
    };
    let temporary = world.path().join("staging");
    drop(write(b"half"));
    assert_eq!(
        std::fs::read_dir(&temporary).unwrap().count(),
        0,
        "nothing is left"
    );
    let name = write(b"x").finish(&record, "../peft", &[]).unwrap_err();
    assert!(matches!(name, ExportError::Format { .. }), "{name}");
    let twice = write(b"x").finish(&record, "gguf", &[("adapter.gguf", b"")]);
    assert!(
        matches!(twice, Err(ExportError::FileName { .. })),
        "{twice:?}"
    );
    let path = write(b"other bytes")
        .finish(&record, "gguf", FILES)
        .unwrap();
    assert_eq!(path, world.path().join("exports/gguf/tiny/slot-0/1"));
    // It is there already: the first one stays.
    assert_eq!(
        write(b"later").finish(&record, "gguf", FILES).unwrap(),
        path
    );
    let files = reader.open_export(&record, "gguf").unwrap();
    let file = files
        .iter()
        .find(|file| file.name == "adapter.gguf")
        .unwrap();
    assert_eq!(file.digest, Digest::of(b"other bytes"));
    assert_eq!(files.len(), 1 + FILES.len());
    let link = path.parent().unwrap().join("current");
    assert_eq!(std::fs::read_link(link).unwrap(), Path::new("1"));
    assert_eq!(
        std::fs::read_dir(&temporary).unwrap().count(),
        0,
        "nothing is left"
    );
    // A restart keeps it, and it goes with its generation.
    drop(reader);
    world.reopen();
    assert!(path.join("adapter.gguf").is_file());
    world.push("b", SLOT, b"newer tensors");
    world.collect(Duration::ZERO);
    assert!(!path.exists());
}

#[test]
fn an_export_is_whole_and_shares_the_tensors() {
    let mut world = World::new();
    world.push("a", SLOT, b"tensors");
    let record = generation(&world, 1);
    let reader = world.open().reader.clone();
    assert!(!reader.has_export(&record, "peft"));
    let error = reader.open_export(&record, "peft").unwrap_err();
    assert!(matches!(error, ReadError::ExportMissing { .. }), "{error}");

    let path = publish(&mut world, 1).unwrap();
    assert_eq!(path, reader.export_path(&record, "peft"));
    assert_eq!(path, world.path().join("exports/peft/tiny/slot-0/1"));
    assert!(reader.has_export(&record, "peft"));
    assert_eq!(read_file(&path.join(TENSORS)), b"tensors");
    let hex = record.digest.to_string();
    let tensor = world.path().join("tensors").join(&hex[..2]).join(&hex);
    assert_eq!(inode(&path.join(TENSORS)), inode(&tensor));
    assert_eq!(current(&world), "1");
    // Read through the link, as a runtime does.
    let through = world
        .path()
        .join("exports/peft/tiny/slot-0/current/adapter_config.json");
    assert_eq!(read_file(&through), b"{\"r\":8}");

    let files = reader.open_export(&record, "peft").unwrap();
    let names: Vec<&str> = files.iter().map(|file| file.name.as_str()).collect();
    assert_eq!(names, ["README.md", "adapter_config.json", TENSORS]);
    for file in &files {
        let mut bytes = vec![0; usize::try_from(file.size_bytes).unwrap()];
        file.file.read_exact_at(&mut bytes, 0).unwrap();
        assert_eq!(Digest::of(&bytes), file.digest, "{}", file.name);
        assert_eq!(bytes, read_file(&path.join(&file.name)));
    }
}

#[test]
fn publishing_again_changes_nothing() {
    let mut world = World::new();
    world.push("a", SLOT, b"tensors");
    publish(&mut world, 1).unwrap();
    let files = world.files();
    let before = inode(&world.path().join("exports/peft/tiny/slot-0/1"));
    publish(&mut world, 1).unwrap();
    assert_eq!(world.files(), files);
    assert_eq!(
        inode(&world.path().join("exports/peft/tiny/slot-0/1")),
        before
    );
}

#[test]
fn current_moves_on_and_never_back() {
    let mut world = World::new();
    world.push("a", SLOT, b"one");
    world.push("b", SLOT, b"two");
    world.push("c", SLOT, b"three");
    publish(&mut world, 2).unwrap();
    assert_eq!(current(&world), "2");
    publish(&mut world, 1).unwrap();
    assert_eq!(current(&world), "2");
    publish(&mut world, 3).unwrap();
    assert_eq!(current(&world), "3");
    publish(&mut world, 2).unwrap();
    assert_eq!(current(&world), "3");
}

#[test]
fn exports_go_with_their_generation_and_open_files_stay_readable() {
    let mut world = World::new();
    world.push("a", SLOT, b"one");
    publish(&mut world, 1).unwrap();
    let old = generation(&world, 1);
    let reader = world.open().reader.clone();
    let open = reader.open_export(&old, "peft").unwrap();
    world.push("b", SLOT, b"two");
    publish(&mut world, 2).unwrap();
    let collected = world.collect(Duration::ZERO);
    assert_eq!(collected.removed, [(base_name(), SLOT, Generation(1))]);
    assert_eq!(collected.left_behind, 0);

    assert!(!reader.has_export(&old, "peft"));
    let mut bytes = [0; 3];
    open.last()
        .unwrap()
        .file
        .read_exact_at(&mut bytes, 0)
        .unwrap();
    assert_eq!(&bytes, b"one");
    assert_eq!(current(&world), "2");
    // A publisher that comes too late is told so and leaves nothing.
    let files = world.files();
    let error = reader
        .publish_export(&old, "peft", TENSORS, FILES)
        .unwrap_err();
    assert_eq!(error.reason(), "GENERATION_REMOVED");
    assert_eq!(world.files(), files);
}

#[test]
fn a_late_publisher_is_told_even_when_the_bytes_live_on() {
    let mut world = World::new();
    world.push("a", SLOT, b"same");
    let old = generation(&world, 1);
    world.push("b", SLOT, b"same");
    world.collect(Duration::ZERO);
    let reader = world.open().reader.clone();
    assert_eq!(reader.tensor(&generation(&world, 2)).unwrap().len(), 4);
    let files = world.files();
    let error = reader
        .publish_export(&old, "peft", TENSORS, FILES)
        .unwrap_err();
    assert_eq!(error.reason(), "GENERATION_REMOVED");
    assert_eq!(world.files(), files);
}

#[test]
fn a_link_to_a_removed_export_goes_with_it() {
    let mut world = World::new();
    world.push("a", SLOT, b"one");
    publish(&mut world, 1).unwrap();
    world.push("b", SLOT, b"two");
    world.collect(Duration::ZERO);
    assert!(std::fs::read_link(world.path().join("exports/peft/tiny/slot-0/current")).is_err());
    publish(&mut world, 2).unwrap();
    assert_eq!(current(&world), "2");
}

#[test]
fn a_link_that_leads_nowhere_is_mended() {
    let mut world = World::new();
    world.push("a", SLOT, b"one");
    let path = publish(&mut world, 1).unwrap();
    let link = path.parent().unwrap().join("current");
    remove(&link);
    std::os::unix::fs::symlink("99", &link).unwrap();
    publish(&mut world, 1).unwrap();
    assert_eq!(current(&world), "1");

    remove(&link);
    std::os::unix::fs::symlink("99", &link).unwrap();
    assert_eq!(world.reopen().orphans_removed, 1);
    assert!(std::fs::symlink_metadata(&link).is_err());
}

#[test]
fn names_that_lead_elsewhere_are_refused() {
    let mut world = World::new();
    world.push("a", SLOT, b"one");
    let record = generation(&world, 1);
    let files = world.files();
    let reader = world.open().reader.clone();
    for name in ["", ".", "..", ".hidden", "a/b", "a\0b", "ä", TENSORS] {
        let error = reader
            .publish_export(&record, "peft", TENSORS, &[(name, b"x")])
            .unwrap_err();
        assert!(
            matches!(error, ExportError::FileName { .. }),
            "{name:?}: {error}"
        );
    }
    for format in ["", "..", "a/b", "PEFT"] {
        let error = reader
            .publish_export(&record, format, TENSORS, FILES)
            .unwrap_err();
        assert!(
            matches!(error, ExportError::Format { .. }),
            "{format:?}: {error}"
        );
        assert!(!reader.has_export(&record, format));
    }
    assert_eq!(world.files(), files);
}

#[test]
fn an_export_takes_no_second_copy_on_the_disk() {
    let mut world = World::new();
    let bytes = vec![7; 3_000_000];
    world.push("a", SLOT, &bytes);
    let catalog = world.catalog();
    let before = world.open().reader.disk_usage(&catalog).unwrap();
    assert!(before.tensors_live >= bytes.len() as u64, "{before:?}");
    publish(&mut world, 1).unwrap();
    let after = world.open().reader.disk_usage(&catalog).unwrap();
    assert_eq!(after.tensors_live, before.tensors_live);
    assert!(after.exports - before.exports < 100_000, "{after:?}");
    assert_eq!(
        after.total,
        after.tensors_live
            + after.tensors_grace
            + after.staging
            + after.catalog
            + after.manifests
            + after.exports
            + after.quarantine
    );
    assert!(after.free > 0);
}
